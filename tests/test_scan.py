"""scan: what it means, its trees and sizes, its options, its errors, and truncation against closed and hand-derived forms."""

import itertools

import numpy as np
import pytest
from random_cells import assert_same, derivative, directions

import tinygrad_rnn as tg
from tinygrad_rnn import workspace
from tinygrad_rnn.errors import ArgumentError, DomainError, DtypeError, ShapeError

rng = np.random.default_rng(0)
T, B, I, H = 6, 3, 2, 4
W, U, b = rng.normal(size=(I, H)), rng.normal(size=(H, H)) * 0.7, rng.normal(size=H)
xs, h0 = rng.normal(size=(T, B, I)), rng.normal(size=(B, H))
lengths = np.array([6, 4, 0])
at = dict(W=W, U=U, b=b, h0=h0, xs=xs)


def elman(p):
    def cell(h, x):
        h = tg.tanh(x @ p["W"] + h @ p["U"] + p["b"])
        return h, h * h

    return cell


def total(tree):
    """A scalar to which every element contributes differently."""
    return sum(tg.sum(tg.sin(leaf) * np.cos(np.arange(leaf.size) + k).reshape(leaf.shape)) for k, leaf in enumerate(tg.trees.flatten(tree)[0]))


def loss(p, **options):
    return total(tg.scan(elman(p), p["h0"], p["xs"], **options))


def both(f, at=at, orders=(1, 2)):
    """The value and derivatives of f(at, compiled=…), compiled and plain, are the same; returns the gradient."""
    vs = [directions(at, k) for k in range(2)]
    assert_same(f(at, compiled=True), f(at, compiled=False), what="value")
    for order in orders:
        found, expected = (derivative(lambda p: f(p, compiled=c), order, *vs[:order - 1])(at) for c in (True, False))
        assert_same(found, expected, what=f"order {order}")
    return tg.grad(lambda p: f(p, compiled=True))(at)


# ---- the meaning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
def test_scan_is_its_nine_lines(compiled):
    h, ys = h0, []
    for x in xs:
        h = np.tanh(x @ W + h @ U + b)
        ys.append(h * h)
    state, outputs = tg.scan(elman(at), h0, xs, compiled=compiled)
    assert type(state) is np.ndarray and type(outputs) is np.ndarray
    np.testing.assert_allclose(state, h, rtol=1e-14)
    np.testing.assert_allclose(outputs, np.stack(ys), rtol=1e-13)


def test_first_to_third_order_of_an_elman_cell():
    both(loss, orders=(1, 2, 3))


@pytest.mark.parametrize("compiled", [True, False])
def test_trees_of_every_kind_go_in_and_come_out(compiled):
    from collections import namedtuple
    Pair = namedtuple("Pair", "slow fast")

    def cell(s, x):
        a = tg.tanh(s["memory"].slow + x[0] @ W)
        return {"memory": Pair(a, s["memory"].fast * 0.5 + x[1]["drive"]), "count": [s["count"][0] + 1]}, (None, {"y": [a, s["count"][0]]})

    start = {"memory": Pair(h0, np.zeros(H)), "count": [np.array(0)]}
    state, (nothing, y) = tg.scan(cell, start, (xs, {"drive": rng.normal(size=(T, H))}), compiled=compiled)
    assert nothing is None and type(state["memory"]) is Pair and state["count"][0] == T
    assert y["y"][0].shape == (T, B, H) and y["y"][1].tolist() == list(range(T)) and y["y"][1].dtype.kind == "i"


@pytest.mark.parametrize("options", [{}, dict(reverse=True), dict(checkpoint="sqrt"), dict(truncate=(2, 3)), dict(lengths=np.array([4, 1, 0])),
                                     dict(lengths=np.array([0, 4, 2]), reverse=True, checkpoint=2, truncate=(1, 2))], ids=str)
def test_no_xs_with_a_length(options):
    f = lambda p, compiled: total(tg.scan(lambda h, x: (tg.tanh(h @ p["U"]), h), p["h0"], None, length=4, compiled=compiled, **options))
    both(f, {k: at[k] for k in ("U", "h0")})
    assert tg.scan(lambda s, x: (s, s), 1.0, None, length=3)[1].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("compiled", [True, False])
def test_no_state_and_no_output(compiled):
    assert tg.scan(lambda s, x: (s, x * 2), (), np.arange(3.0), compiled=compiled)[1].tolist() == [0, 2, 4]
    assert tg.scan(lambda s, x: (None, x * 2), None, np.arange(3.0), compiled=compiled)[0] is None
    state, ys = tg.scan(lambda s, x: (s + x, None), 0.0, np.arange(3.0), compiled=compiled)
    assert state == 3 and ys is None
    grads = tg.grad(lambda x: tg.sum(tg.scan(lambda s, x: (None, x * x), None, x, compiled=compiled)[1]))(np.arange(3.0))
    assert grads.tolist() == [0, 2, 4]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("options", [{}, dict(reverse=True), dict(checkpoint="sqrt"), dict(truncate=(1, 1)), dict(lengths=np.zeros(B, int))])
def test_no_steps(compiled, options):
    state, ys = tg.scan(elman(at), h0, xs[:0], compiled=compiled, **options)
    np.testing.assert_array_equal(state, h0)
    assert ys.shape == (0, B, H)
    grads = tg.grad(lambda p: tg.sum(tg.scan(elman(p), p["h0"], p["xs"], compiled=compiled, **options)[0] ** 2))(at | {"xs": xs[:0]})
    np.testing.assert_allclose(grads["h0"], 2 * h0)
    assert grads["xs"].shape == (0, B, I) and not grads["W"].any()


@pytest.mark.parametrize("options", [{}, dict(checkpoint=2)], ids=str)
def test_what_no_step_computes_warns_of_nothing(options):
    assert tg.scan(lambda s, x: (s, 1.0 / x), h0, xs[:0, :, :1], **options)[1].shape == (0, B, 1)


@pytest.mark.parametrize("compiled", [True, False])
def test_no_rows(compiled):
    grads = tg.grad(lambda p: loss(p, compiled=compiled, lengths=np.zeros(0, int)))(at | {"h0": h0[:0], "xs": xs[:, :0]})
    assert grads["xs"].shape == (T, 0, I) and not grads["U"].any()
    assert tg.scan(elman(at), h0[:0], xs[:, :0], compiled=compiled)[1].shape == (T, 0, H)


def test_one_step():
    both(loss, at | {"xs": xs[:1]})


def test_a_scalar_state_and_scalar_steps():
    f = lambda p, compiled: total(tg.scan(lambda s, x: (tg.tanh(p["w"] * s + x), s * x), p["s"], p["x"], compiled=compiled))
    both(f, dict(w=np.array(0.7), s=np.array(0.3), x=rng.normal(size=4)), orders=(1, 2, 3))


def test_python_numbers_in_the_state_take_the_dtype_of_xs():
    for dtype in (np.float32, np.float64):
        state, ys = tg.scan(lambda s, x: ((s[0] + x, s[1]), s[0]), (0, 1.5), np.ones(3, dtype))
        assert state[0].dtype == state[1].dtype == ys.dtype == dtype and state[0] == 3


@pytest.mark.parametrize("reverse", [False, True])
def test_integer_counters_count_and_have_no_gradient(reverse):
    def f(p, compiled):
        def cell(state, x):
            h, n = state
            h = tg.tanh(h @ p["U"] + x @ p["W"]) / (n + 1.0)
            return (h, n + 1), (h, n)

        (h, n), (ys, counts) = tg.scan(cell, (p["h0"], 0 * np.arange(2)), p["xs"], compiled=compiled, reverse=reverse)
        assert n.tolist() == [T, T] and n.dtype == int
        seen = np.asarray(counts.detach() if isinstance(counts, tg.Tensor) else counts)
        assert seen[:, 0].tolist() == (list(range(T))[::-1] if reverse else list(range(T)))
        return total((h, ys))

    f = lambda p, compiled, f=f: f(p | {"h0": p["h0"][..., :2], "U": p["U"][:2, :2], "W": p["W"][:, :2]}, compiled)
    both(f)


def test_parts_that_need_no_gradient():
    """Every subset of the inputs: what is asked for does not depend on what else is."""
    full = tg.grad(loss)(at)
    for names in itertools.chain.from_iterable(itertools.combinations(at, r) for r in (1, 2, 3)):
        wanted = {name: at[name] for name in names}
        assert_same(tg.grad(lambda p: loss(at | p))(wanted), {name: full[name] for name in names})


def test_weights_passed_and_closed_over_get_the_same_gradients():
    closed = {name: tg.tensor(value, requires_grad=True) for name, value in at.items()}
    loss(closed).backward()
    assert_same({name: t.grad for name, t in closed.items()}, tg.grad(loss)(at))
    passed = tg.grad(lambda p: total(tg.scan(lambda s, x: ((elman(s[1])(s[0], x)[0], s[1]), elman(s[1])(s[0], x)[1]),
                                             (p["h0"], {k: p[k] for k in "WUb"}), p["xs"])[1]))(at)
    assert_same(passed, tg.grad(lambda p: total(tg.scan(elman(p), p["h0"], p["xs"])[1]))(at))


def test_outputs_that_nobody_uses_cost_no_gradient():
    f = lambda p, compiled: total(tg.scan(elman(p), p["h0"], p["xs"], compiled=compiled)[0])
    g = lambda p, compiled: total(tg.scan(lambda h, x: (elman(p)(h, x)[0], (h @ p["U"], x, h * 2)), p["h0"], p["xs"], compiled=compiled)[1][0])
    both(f)
    both(g)


def test_nested_scans():
    def f(p, compiled):
        def outer(h, x):
            def inner(s, column):
                s = tg.tanh(s @ p["U"] + column[..., None] * p["b"])
                return s, s * column[..., None]

            h, ys = tg.scan(inner, h, x.T, compiled=compiled)
            return h, tg.sum(ys, axis=0)

        return total(tg.scan(outer, p["h0"], p["xs"], compiled=compiled))

    both(f, {k: at[k] for k in ("U", "b", "h0", "xs")})
    mixed = lambda p, compiled: f(p, True) if compiled else f(p, False)
    both(mixed, {k: at[k] for k in ("U", "b", "h0", "xs")}, orders=(1,))


PAIRS = [dict(lengths=np.array([2, 0, 1]), reverse=True), dict(reverse=True), dict(checkpoint=2),
         dict(truncate=(2, 3)), dict(truncate=(1, 2), checkpoint="sqrt", reverse=True)]


@pytest.mark.parametrize("outside", [*PAIRS, dict(lengths=np.array([4, 1, 0]), checkpoint=2)], ids=str)
@pytest.mark.parametrize("inside", PAIRS, ids=str)
def test_nested_scans_have_options_of_their_own(inside, outside):
    def f(p, compiled):
        def outer(h, x):
            def inner(s, column):
                s = tg.tanh(s @ p["U"] + column[..., None] * p["b"])
                return s, (s * column[..., None], tg.sum(s, axis=-1))

            h, (ys, sums) = tg.scan(inner, h, x.T, compiled=compiled, **inside)
            return tg.tanh(h + tg.sum(ys, axis=0)), sums.T

        return total(tg.scan(outer, p["h0"], p["xs"], compiled=compiled, **outside))

    small = {k: at[k] for k in ("U", "b", "h0")} | {"xs": xs[:4]}
    both(f, small)
    v = (directions(small),)
    assert_same(tg.jvp(lambda p: f(p, True), (small,), v), tg.jvp(lambda p: f(p, False), (small,), v))


def test_a_gradient_inside_a_cell_is_part_of_the_trace():
    """A state that follows its own energy downhill: the outer gradient runs through the inner one."""
    def f(p, compiled):
        energy = lambda h, x: tg.sum(tg.cos(h @ p["U"])) + 0.5 * tg.sum((h - x @ p["W"]) ** 2)

        def cell(h, x):
            h = h - 0.1 * tg.grad(energy)(h, x)
            return h, h

        return total(tg.scan(cell, p["h0"], p["xs"], compiled=compiled))

    both(f, {k: at[k] for k in ("U", "W", "h0", "xs")})


def test_inside_every_transform():
    small = {k: v for k, v in at.items() if k in ("b", "h0")}
    f = lambda p, compiled=True: loss(at | p, compiled=compiled)
    plain = lambda p: f(p, False)
    v = directions(small)
    assert_same(tg.hessian(f)(small), tg.hessian(plain)(small))
    assert_same(tg.hvp(f, (small,), (v,)), tg.hvp(plain, (small,), (v,)))
    assert_same(tg.jvp(f, (small,), (v,)), tg.jvp(plain, (small,), (v,)))
    steps = lambda p, compiled=True: tg.scan(elman(at | p), p["h0"], xs, compiled=compiled)
    assert_same(tg.jacobian(steps)(small), tg.jacobian(lambda p: steps(p, False))(small))
    hessian = tg.hessian(f)(small)
    np.testing.assert_allclose(np.einsum("ij,j->i", hessian["b"]["b"], v["b"]) + np.einsum("ikl,kl->i", hessian["b"]["h0"], v["h0"]),
                               tg.hvp(f, (small,), (v,))["b"], rtol=1e-9)


# ---- the options --------------------------------------------------------------------------------------------

OPTIONS = [dict(reverse=r, lengths=n, truncate=k, checkpoint=c)
           for r in (False, True) for n in (None, lengths) for k in (None, (2, 3), (1, 4), (3, 2)) for c in (None, 2, "sqrt")]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{k}" for k, v in o.items() if v is not None and v is not False) or "none")
def test_every_combination_of_options(options):
    both(lambda p, compiled: loss(p, compiled=compiled, **options))


def test_reverse_is_the_flipped_sequence():
    grads = tg.grad(lambda p: loss(p, reverse=True))(at)
    flipped = lambda p: (lambda s, ys: total((s, tg.flip(ys, 0))))(*tg.scan(elman(p), p["h0"], tg.flip(p["xs"], 0)))
    assert_same(grads, tg.grad(flipped)(at))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_are_each_row_by_itself(compiled, reverse):
    state, ys = tg.scan(elman(at), h0, xs, lengths=lengths, compiled=compiled, reverse=reverse)
    for row, n in enumerate(lengths):
        alone_state, alone = tg.scan(elman(at), h0[row], xs[:n, row], compiled=False, reverse=reverse)
        np.testing.assert_allclose(state[row], alone_state, rtol=1e-12)
        np.testing.assert_allclose(ys[:n, row], alone, rtol=1e-12)
        assert not ys[n:, row].any()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("padding", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("options", [{}, dict(reverse=True), dict(checkpoint=2), dict(truncate=(2, 3)), dict(truncate=(2, 3), checkpoint=2, reverse=True)])
def test_nothing_of_the_padding_reaches_a_value_or_a_gradient(compiled, padding, options):
    for n in (lengths, np.zeros(B, int)):
        padded = np.where((np.arange(T)[:, None] < n)[:, :, None], xs, padding)
        f = lambda p, n=n: loss(p, lengths=n, compiled=compiled, **options)
        value, grads = tg.value_and_grad(f)(at | {"xs": padded})
        expected, clean = tg.value_and_grad(f)(at)
        assert_same(value, expected)
        assert_same(grads, clean)
        assert all(not grads["xs"][k:, row].any() for row, k in enumerate(n))
        assert_same(tg.hvp(f, (at | {"xs": padded},), (directions(at),)), tg.hvp(f, (at,), (directions(at),)))


@pytest.mark.parametrize("compiled", [True, False])
def test_checkpoint_keeps_fewer_states(compiled):
    """The most that forward and backward hold at once, in states: it grows with T, or with √T."""
    import tracemalloc

    def held(checkpoint, steps, order=1):
        workspace.clear()
        f = lambda h: tg.sum(tg.scan(lambda h, x: (tg.tanh(h * x), None), h, np.ones(steps), checkpoint=checkpoint, compiled=compiled)[0])
        f = f if order == 1 else lambda h, f=f: tg.sum(tg.grad(f)(h))
        tracemalloc.start()
        tg.grad(f)(np.ones(1000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / 8000

    for checkpoint, low, high in ((None, 3, 5), ("sqrt", 1.2, 2.5)):
        growth = held(checkpoint, 1600) / held(checkpoint, 400)
        assert low < growth < high, (checkpoint, growth)
    assert held("sqrt", 1600) < held(None, 1600) / 8
    assert held("sqrt", 1600, order=2) < 2.5 * held("sqrt", 400, order=2)


# ---- truncation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("k1,k2", list(itertools.product((1, 2, 3, 5, 7), repeat=2)))
def test_truncation_of_a_linear_network_in_closed_form(k1, k2, compiled):
    """h_t = w h_{t−1} + x_t, errors e_t: dL/dw = Σ_blocks Σ_{t in block} e_t Σ_{j=start}^{t} w^{t−j} h_{j−1}."""
    n, w, h = 7, 0.6, 1.3
    x, e = rng.normal(size=n), rng.normal(size=n)
    states = [h]
    for value in x:
        states.append(w * states[-1] + value)
    f = lambda p: tg.sum(tg.scan(lambda s, v: (p["w"] * s + v,) * 2, p["h"], p["x"], truncate=(k1, k2), compiled=compiled)[1] * e)
    value, found = tg.value_and_grad(f)(dict(w=np.array(w), h=np.array(h), x=x))
    dw, dh, dx = 0.0, 0.0, np.zeros(n)
    for block in range(0, n, k1):
        start = max(0, block - (k2 - k1))
        for t in range(block, min(block + k1, n)):
            for j in range(start, t + 1):
                dw += e[t] * w ** (t - j) * states[j]
                dx[j] += e[t] * w ** (t - j)
            if start == 0:
                dh += e[t] * w ** (t + 1)
    np.testing.assert_allclose(value, e @ states[1:], rtol=1e-12)
    for name, expected in dict(w=dw, h=dh, x=dx).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-10, atol=1e-13, err_msg=name)


def by_hand(k1, k2):
    """Truncated BPTT of the tanh network, written out: errors of a block travel to cell b − (k2 − k1)."""
    hs = [h0]
    for x in xs:
        hs.append(np.tanh(x @ W + hs[-1] @ U + b))
    e = [2 * h * np.cos(np.arange(h.size)).reshape(h.shape) for h in hs[1:]]
    d = {name: np.zeros_like(value) for name, value in at.items()}
    for block in range(0, T, k1):
        carried, start = np.zeros_like(h0), max(0, block - (k2 - k1))
        for t in reversed(range(start, min(block + k1, T))):
            delta = (1 - hs[t + 1] ** 2) * (carried + (e[t] if t >= block else 0))
            d["W"] += xs[t].T @ delta
            d["U"] += hs[t].T @ delta
            d["b"] += delta.sum(0)
            d["xs"][t] += delta @ W.T
            carried = delta @ U.T
        d["h0"] += carried * (start == 0)
    return d


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("checkpoint", [None, 2])
@pytest.mark.parametrize("blocks", [(T, 1), (T, 3), (1, 1), (1, 3), (1, T), (2, 2), (3, 3), (4, 4), (2, 3), (4, 6), (T, T)], ids=str)
def test_schemes_a_b_and_c_are_what_the_hand_derives(blocks, checkpoint, compiled):
    """A = (T, k + 1), where only what enters at the last step counts; B = (1, k + 1); C = (c, c)."""
    k1, k2 = blocks
    if k1 == T and k2 < T:  # scheme A: an error at the last step alone
        def f(p):
            _, ys = tg.scan(elman(p), p["h0"], p["xs"], truncate=blocks, checkpoint=checkpoint, compiled=compiled)
            return tg.sum(ys[-1] * np.cos(np.arange(h0.size)).reshape(h0.shape))

        hs = [h0]
        for x in xs:
            hs.append(np.tanh(x @ W + hs[-1] @ U + b))
        expected = {name: np.zeros_like(value) for name, value in at.items()}
        carried = 2 * hs[-1] * np.cos(np.arange(h0.size)).reshape(h0.shape)
        for t in reversed(range(T - k2, T)):
            delta = (1 - hs[t + 1] ** 2) * carried
            expected["W"] += xs[t].T @ delta
            expected["U"] += hs[t].T @ delta
            expected["b"] += delta.sum(0)
            expected["xs"][t] += delta @ W.T
            carried = delta @ U.T
    else:
        weights = np.cos(np.arange(h0.size)).reshape(h0.shape)
        f = lambda p: tg.sum(tg.scan(elman(p), p["h0"], p["xs"], truncate=blocks, checkpoint=checkpoint, compiled=compiled)[1] * weights)
        expected = by_hand(k1, k2)
    assert_same(tg.grad(f)(at), expected, 1e-11)


def test_a_block_too_many_or_too_few_is_seen():
    weights = np.cos(np.arange(h0.size)).reshape(h0.shape)
    f = lambda p: tg.sum(tg.scan(elman(p), p["h0"], p["xs"], truncate=(2, 3))[1] * weights)
    for blocks in ((2, 2), (2, 4), (1, 2), (3, 4)):
        with pytest.raises(AssertionError):
            assert_same(tg.grad(f)(at), by_hand(*blocks), 1e-6)


def test_truncation_changes_no_value_and_the_longest_is_none():
    assert_same(loss(at, truncate=(1, 2)), loss(at))
    assert_same(tg.grad(lambda p: loss(p, truncate=(T, T)))(at), tg.grad(loss)(at))
    assert_same(tg.grad(lambda p: loss(p, truncate=(2, T + 2)))(at), tg.grad(loss)(at))


def test_higher_derivatives_take_the_state_that_enters_a_window_as_a_constant():
    """The gradient of chunked BPTT is a function of the parameters; its directional derivative holds the entry states fixed."""
    def chunked(p, entries):
        parts = [tg.scan(elman(p), p["h0"] if k == 0 else entries[k], p["xs"][k * 2:k * 2 + 2]) for k in range(3)]
        ys = tg.concatenate([ys for _, ys in parts])
        return total((parts[-1][0], ys))

    states = [h0]
    for x in xs:
        states.append(np.tanh(x @ W + states[-1] @ U + b))
    entries, v = [states[0], states[2], states[4]], directions(at)
    assert_same(tg.hvp(lambda p: loss(p, truncate=(2, 2)), (at,), (v,)), tg.hvp(lambda p: chunked(p, entries), (at,), (v,)))


# ---- errors: the first line says what, a line names the leaf, the last says what to do -------------------------------


def text_of(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


BOTH = pytest.mark.parametrize("compiled", [True, False])


@BOTH
def test_a_cell_that_returns_one_thing(compiled):
    assert text_of(ArgumentError, lambda: tg.scan(lambda h, x: tg.tanh(h), h0, xs, compiled=compiled)) == (
        "scan(cell, state, xs): the cell did not return (state, y) at step 0\n"
        "  returned  Tensor\n"
        "End the cell with `return state, y`; y may be the state itself, or None." if compiled else
        "scan(cell, state, xs): the cell did not return (state, y) at step 0\n"
        "  returned  ndarray\n"
        "End the cell with `return state, y`; y may be the state itself, or None.")


@BOTH
def test_a_cell_that_returns_three_things(compiled):
    assert "returned  a tuple of 3" in text_of(ArgumentError, lambda: tg.scan(lambda h, x: (h, h, h), h0, xs, compiled=compiled))


@BOTH
def test_a_state_that_changes_its_shape_names_leaf_and_step(compiled):
    cell = lambda s, x: ({"h": s["h"][0], "c": s["c"]}, x)
    assert text_of(ShapeError, lambda: tg.scan(cell, {"h": h0, "c": h0}, xs, compiled=compiled)) == (
        "scan(cell, state, xs): the cell changed the shape of its state at step 0\n"
        "  state.h  in (3, 4) out (4,)\n"
        "Return a state with the shapes it came in with.")
    assert "at step 5\n" in text_of(ShapeError, lambda: tg.scan(cell, {"h": h0, "c": h0}, xs, compiled=compiled, reverse=True))


@BOTH
def test_a_state_that_changes_its_dtype(compiled):
    assert text_of(DtypeError, lambda: tg.scan(lambda s, x: (s + x, s), h0.astype(np.float32), xs[..., :1], compiled=compiled)) == (
        "scan(cell, state, xs): the cell changed the dtype of its state at step 0\n"
        "  state  in float32 out float64\n"
        "Start from a state of the dtype that the cell computes in.")


@BOTH
def test_a_state_that_changes_its_structure(compiled):
    assert text_of(ArgumentError, lambda: tg.scan(lambda s, x: ([s[0], s[1]], x), (h0, h0), xs, compiled=compiled)) == (
        "scan(cell, state, xs): the cell changed the structure of its state at step 0\n"
        "  in   tuple(*, *)\n"
        "  out  list(*, *)\n"
        "Return a state of the structure it came in with.")


def test_an_output_that_changes_its_structure():
    calls = iter(range(9))
    assert text_of(ArgumentError, lambda: tg.scan(lambda s, x: (s, (x, x) if next(calls) else x), h0, xs, compiled=False)) == (
        "scan(cell, state, xs): the cell's output has another structure at step 1\n"
        "  before  *\n"
        "  now     tuple(*, *)\n"
        "Return outputs of one structure at every step.")


def test_sequences_that_do_not_fit():
    assert text_of(ShapeError, lambda: tg.scan(elman(at), h0, {"a": xs, "b": xs[1:]})) == (
        "scan(cell, state, xs): the sequences have unequal lengths\n"
        "  xs.a  6\n"
        "  xs.b  5\n"
        "Pad them to one length and pass lengths=.")
    assert "length  4" in text_of(ShapeError, lambda: tg.scan(elman(at), h0, xs, length=4))
    assert text_of(ShapeError, lambda: tg.scan(elman(at), h0, (xs, 1.0))) == (
        "scan(cell, state, xs): xs[1] has no time axis\n"
        "  xs[1]  ()\n"
        "Give every leaf of xs a leading axis of T steps.")
    assert text_of(ArgumentError, lambda: tg.scan(elman(at), h0, None)) == (
        "scan(cell, state, xs): neither xs nor length says how many steps\n"
        "Pass length=T when there are no xs.")


@pytest.mark.parametrize("length", [-1, 2.0, "3"])
def test_a_length_that_is_none(length):
    assert text_of(DomainError, lambda: tg.scan(lambda h, x: (h, h), h0, None, length=length)) == (
        "scan(cell, state, xs): length is not a number of steps\n"
        f"  length  {length!r}\n"
        "Pass an int, 0 or more.")


def test_lengths_that_do_not_fit():
    assert text_of(ShapeError, lambda: tg.scan(elman(at), h0, xs, lengths=np.array([1.0, 2.0, 3.0]))).startswith(
        "scan(cell, state, xs): lengths needs one integer per batch row, and the batch first in every leaf of the state\n")
    assert "  state    (3, 4)" in text_of(ShapeError, lambda: tg.scan(elman(at), h0, xs, lengths=np.array([1, 2])))
    assert text_of(DomainError, lambda: tg.scan(elman(at), h0, xs, lengths=np.array([1, 2, 9]))) == (
        "scan(cell, state, xs): a length lies outside the sequence\n"
        "  lengths  1 to 9\n"
        "  T        6\n"
        "Pass lengths between 0 and 6.")
    assert text_of(ShapeError, lambda: tg.scan(elman(at), h0, xs[:, 0], lengths=lengths)).startswith(
        "scan(cell, state, xs): xs has no batch axis of the size of lengths\n")


@BOTH
def test_an_output_without_a_batch_axis_cannot_end_row_by_row(compiled):
    assert text_of(ShapeError, lambda: tg.scan(lambda h, x: (h, {"norm": tg.norm(h)}), h0, xs, lengths=lengths, compiled=compiled)) == (
        "scan(cell, state, xs): y.norm has no batch axis of the size of lengths\n"
        "  y.norm   ()\n"
        "  lengths  (3,)\n"
        "Return outputs of shape (B, …), so that those past a row's end can be zero.")


@pytest.mark.parametrize("option,value", [("checkpoint", 0), ("checkpoint", "all"), ("truncate", 3), ("truncate", (0, 2)), ("truncate", (2, 2.0))])
def test_options_that_have_no_such_value(option, value):
    text = text_of(DomainError, lambda: tg.scan(elman(at), h0, xs, **{option: value}))
    assert text.startswith(f"scan(cell, state, xs): {option} is not ") and f"\n  {option}" in text and repr(value) in text


@pytest.mark.parametrize("exponent", [2, 2.0])
def test_the_square_of_integers_has_numpys_dtype(exponent):
    xs = (np.arange(12).reshape(4, 3) * 300).astype(np.int16)
    ys = [tg.scan(lambda h, x: (h, x ** exponent), np.zeros(3), xs, compiled=compiled)[1] for compiled in (True, False)]
    assert ys[0].dtype == ys[1].dtype == (xs ** exponent).dtype == (tg.tensor(xs) ** exponent).dtype
    np.testing.assert_array_equal(*ys)
