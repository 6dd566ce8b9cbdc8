"""A compiled step as one piece of source: loops written out where they are called, and what they may overwrite."""

import numpy as np
import pytest
import random_cells
from hypothesis import HealthCheck, given, settings

import tinygrad_rnn as tg
from tinygrad_rnn import emit, lending, straight


def cell(p, state, x):
    h, c = state
    i, f, g, o = tg.split(x @ p["W"] + h @ p["U"], 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    h = tg.sigmoid(o) * tg.tanh(c)
    return (h, c), h


def gates(p, h, x):
    """A cell that shows its gates: what its derivative keeps of them is what it returns."""
    z = tg.tanh(x @ p["W"] + h @ p["U"])
    return z[:, :3] * z[:, 3:6] + z[:, 6:9] * z[:, 9:], z


def lstm(T=6, B=2, H=3, dtype="float64"):
    """(a step that gives the loss and its gradients, its arguments)."""
    rng = np.random.default_rng(0)
    p = {"W": rng.normal(size=(2, 4 * H)), "U": rng.normal(size=(H, 4 * H)) / H, "h0": rng.normal(size=(B, H)), "c0": rng.normal(size=(B, H))}

    def loss(p, xs):
        (h, c), ys = tg.scan(lambda state, x: cell(p, state, x), (p["h0"], p["c0"]), xs)
        return tg.sum(ys) + tg.sum(h * c)

    arguments = ({k: v.astype(dtype) for k, v in p.items()}, rng.normal(size=(T, B, 2)).astype(dtype))
    return tg.value_and_grad(loss), arguments


@pytest.fixture
def overwriting(monkeypatch):
    """Buffers of any size are overwritten, and blocks hold one step or a few."""
    monkeypatch.setattr(straight, "LEAST_BYTES", 0)

    def blocks_of(size, rows=1):
        monkeypatch.setattr(emit, "BLOCK_BYTES", size)
        monkeypatch.setattr(emit, "MOST_BLOCK_BYTES", size)
        monkeypatch.setattr(emit, "LEAST_ROWS", rows)

    return blocks_of


@pytest.mark.parametrize("size, rows", [(1, 1), (1, 10**6), (300, 1), (1 << 19, 256)])
@given(drawn=random_cells.with_options())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_cells_that_overwrite_whatever_they_can(overwriting, size, rows, drawn):
    overwriting(size, rows)
    recipe, options = drawn
    arrays, gradient = recipe.arrays(), tg.grad(random_cells.loss(recipe, **options))
    random_cells.assert_same(tg.compiled(gradient)(arrays), gradient(arrays))


@pytest.mark.parametrize("fault", ["positions", "copies"])
def test_a_wrong_claim_that_a_step_reads_nothing_later_would_be_seen(overwriting, monkeypatch, fault):
    overwriting(1, 10**6)
    gradient, arguments = lstm()
    random_cells.assert_same(tg.compiled(gradient)(*arguments), gradient(*arguments))
    if fault == "copies":
        monkeypatch.setattr(emit.Source, "_copied", lambda self, x: None)
    else:
        monkeypatch.setattr(lending, "_stacks", lambda *given, real=lending._stacks: [(v, size, 10**6) for v, size, _ in real(*given)])
    with pytest.raises(AssertionError):
        random_cells.assert_same(tg.compiled(gradient)(*arguments), gradient(*arguments))


def test_a_wrong_claim_that_nobody_reads_after_a_loop_would_be_seen(overwriting, monkeypatch):
    overwriting(1, 10**6)
    _, (p, xs) = lstm()

    def loss(p, xs):
        ys = tg.scan(lambda h, x: gates(p, h, x), p["h0"], xs)[1]
        return tg.sum(ys * ys), ys

    gradient = tg.value_and_grad(loss, has_aux=True)
    expected = gradient(p, xs)
    random_cells.assert_same(tg.compiled(gradient)(p, xs), expected)
    monkeypatch.setattr(straight.Straight, "_owned", lambda self, pairs, xs, k, room, T, real=straight.Straight._owned: real(
        self, pairs, xs, len(room.calls), room, T))
    with pytest.raises(AssertionError):
        random_cells.assert_same(tg.compiled(gradient)(p, xs), expected)


def test_the_gates_of_an_lstm_are_overwritten_by_their_cotangents(overwriting):
    overwriting(1, 10**6)
    gradient, arguments = lstm()
    text = tg.compiled(gradient).source(*arguments)
    assert text.count("np.empty((T, 2, 12), np.float64)") == 1 and text.count(".reshape(T, 2, 12)\n") == 1


def test_a_constant_cotangent_is_a_number():
    gradient, arguments = lstm()
    text = tg.compiled(gradient).source(*arguments)
    assert text.count("zip(") == 2 and "loop_" not in text
    assert not [line for line in text.splitlines() if "zip(" in line and "constant" in line]


def test_a_step_leaves_no_blocks_where_all_steps_fit_one():
    gradient, arguments = lstm()
    assert "start" not in tg.compiled(gradient).source(*arguments)


def test_a_loop_that_is_called_often_is_written_once():
    _, (p, xs) = lstm()

    def loss(p, xs):
        state, ys = tg.scan(lambda h, x: ((new := tg.tanh(x @ p["W"][:, :3] + h)), new), p["h0"], xs, checkpoint=2)
        return tg.sum(ys) + tg.sum(state)

    step = tg.compiled(tg.grad(loss))
    text = step.source(p, xs)
    assert text.count("loop_") == 6 and "zip(" not in text  # three segments, there and back
    random_cells.assert_same(step(p, xs), tg.grad(loss)(p, xs))


def test_a_loop_that_nothing_goes_into_is_run_once():
    def loss(p):
        return tg.sum(tg.scan(lambda h, x: (h * 2.0 + x, h), p, np.ones((3, 2)))[0])

    np.testing.assert_array_equal(tg.compiled(tg.grad(loss))(np.ones(2)), [8.0, 8.0])


def test_a_view_that_an_earlier_loop_has_made_has_its_name(overwriting):
    overwriting(300)
    recipe = random_cells.Recipe(T=1, B=1, H=3, script=(("tanh", 0, 0), ("softplus", 0, 0), ("columns", 0, 0), ("logsumexp", 1, 0), ("sum", 0, 0)),
                                 second_state="delayed", output="state", seed=0)
    arrays, gradient = recipe.arrays(), tg.grad(random_cells.loss(recipe, reverse=True, lengths=(0,)))
    random_cells.assert_same(tg.compiled(gradient)(arrays), gradient(arrays))


@pytest.mark.parametrize("state, xs", [(np.array(0.5), (3, 3, 3)), (np.array(0.5), (4, 3, 3)), (np.ones(3) / 2, (3, 1, 3)), (np.ones(3) / 2, (4, 2, 3))])
def test_a_constant_cotangent_beside_a_state_of_lower_rank(state, xs):
    xs = np.random.default_rng(0).normal(size=xs)
    loss = lambda s, xs: tg.sum(tg.scan(lambda s, x: (tg.tanh(s * 1.1), s * x), s, xs)[1])
    plain = lambda s, xs: tg.sum(tg.scan(lambda s, x: (tg.tanh(s * 1.1), s * x), s, xs, compiled=False)[1])
    random_cells.assert_same(tg.compiled(tg.grad(loss, (0, 1)))(state, xs), tg.grad(plain, (0, 1))(state, xs))


def _gated(G, h, k, xs):
    def cell(state, x):
        h = state[0]
        a, b = tg.split(x @ G, 3, -1), tg.split(h @ G + 0.5, 3, -1)
        z, r = tg.sigmoid(a[0] + b[0]), tg.sigmoid(a[1] + b[1])
        new = z * h + (1 - z) * tg.tanh(a[2] + r * b[2])
        return (new, h), (new, state[1])

    return tg.sum(tg.scan(cell, (h, k), xs)[0][1])


def _biased(b, h, xs):
    return tg.sum(tg.scan(lambda h, x: (tg.tanh(h + x), tg.tanh(h) + b), h, xs)[1])


def _shown_twice(W, h, xs):
    def cell(h, x):
        h = tg.tanh(h @ W + x)
        return h, (h[..., 1:], h)

    _, (a, b) = tg.scan(cell, h, xs)
    return tg.sum(a) + tg.sum(b)


@pytest.mark.parametrize("loss, shapes", [(_gated, [(3, 9), (2, 3), (2, 3), (4, 2, 3)]), (_biased, [(3,), (2, 3), (4, 2, 3)]),
                                          (_shown_twice, [(3, 3), (2, 3), (4, 2, 3)])])
def test_constant_cotangents_of_every_kind(loss, shapes):
    rng = np.random.default_rng(0)
    gradient, args = tg.grad(loss, tuple(range(len(shapes)))), [rng.normal(size=shape) for shape in shapes]
    random_cells.assert_same(tg.compiled(gradient)(*args), gradient(*args))


def test_the_sign_of_a_zero_makes_another_call():
    one, other = tg.compiled(lambda x: (x * 0.0, x * -0.0))(np.ones(2))
    assert not np.signbit(one).any() and np.signbit(other).all()


H, XS, GATES = (np.random.default_rng(1).normal(size=shape) for shape in ((2, 3), (4, 2, 3), (3, 9)))


def _a_part_unused(h, x, G):
    return tg.tanh(h + tg.split(tg.tanh(x @ G), 3, -1)[0]), h


def _a_part_of_the_state_unused(h, x, G):
    first, second, _ = tg.split(tg.tanh(h) @ G, 3, -1)
    return tg.tanh(first * second + x), h


def _a_trace(h, x, G):
    return tg.tanh(h + x + tg.sum(G)), tg.trace(h.T @ x)


def _a_sum_of_all(h, x, G):
    return tg.tanh(h + tg.sum(x) * tg.sum(G)), h


def _rows_of_a_number(h, x, G):
    spread = tg.broadcast_to(tg.reshape(tg.sum(h), (1, 1)), (3, 3))
    return tg.tanh(h + tg.sum(spread * x[:, :1].sum(0, keepdims=True)) + tg.sum(spread * G[:, :1])), h


def _a_view_of_a_repetition(h, x, G):
    repeated = tg.broadcast_to(tg.reshape(h * 2.0, (1, 2, 3)), (1, 2, 3))
    return tg.tanh(tg.reshape(repeated, (2, 3)) + x + tg.sum(G)), h


@pytest.mark.parametrize("step", [_a_part_unused, _a_part_of_the_state_unused, _a_trace, _a_sum_of_all, _rows_of_a_number, _a_view_of_a_repetition])
@pytest.mark.parametrize("wrap", [tg.compiled, lambda f: f], ids=["compiled", "plain"])
def test_cells_whose_cotangents_are_arrays_or_views_that_repeat(step, wrap):
    def loss(h, xs, G, compiled=True):
        """Two scans of one sequence, so that cotangents are added up."""
        runs = [tg.scan(lambda h, x: step(h, x, G), h * k, xs, compiled=compiled) for k in (1.0, 2.0)]
        return sum(tg.sum(ys * ys) + tg.sum(last) for last, ys in runs)

    found = wrap(tg.grad(loss, (0, 1, 2)))(H, XS, GATES)
    random_cells.assert_same(found, tg.grad(lambda *args: loss(*args, compiled=False), (0, 1, 2))(H, XS, GATES))
    assert all(array.flags.writeable for array in found)


def test_a_result_that_is_a_view_of_what_went_in_is_not_overwritten(overwriting):
    """The second loop hands on what the first has kept, which the derivative of the first may overwrite."""
    overwriting(1, 10**6)
    _, (p, xs) = lstm()

    def loss(p, xs):
        zs = tg.scan(lambda h, x: gates(p, h, x), p["h0"], xs)[1]
        last, views = tg.scan(lambda h, z: (tg.tanh(h + z[:, :3]), tg.reshape(z, (2, 3, 4))), p["c0"], zs)
        return tg.sum(last * last) + tg.sum(zs), views

    gradient = tg.value_and_grad(loss, has_aux=True)
    random_cells.assert_same(tg.compiled(gradient)(p, xs), gradient(p, xs))


@pytest.mark.parametrize("size", [1, 400])
def test_a_part_of_a_sequence_that_a_step_reads_late_is_not_overwritten(overwriting, size):
    overwriting(size, 10**6)
    _, (p, xs) = lstm()

    def later(h, z):
        _, second, _, _ = tg.split(z, 4, axis=-1)
        w = tg.tanh(h @ p["U"])
        return tg.tanh(w[:, :3] + second), w

    def outputs(h):
        zs = tg.scan(lambda h, x: gates(p, h, x), h, xs)[1]
        return tg.scan(later, h, zs)[1]

    step = tg.compiled(outputs)
    random_cells.assert_same(step(p["h0"]), outputs(p["h0"]))
    assert step.source(p["h0"]).count(".reshape(T, 2, 12)\n") == 1  # the second stack lies where the first did
