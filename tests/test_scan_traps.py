"""What a traced and compiled scan could get wrong in silence: frozen steps, stale values, shared buffers, lost threads."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest
from random_cells import assert_same

import tinygrad_rnn as tg
from tinygrad_rnn import following
from tinygrad_rnn.errors import TraceError

rng = np.random.default_rng(1)
T, B, H = 5, 3, 4
U, V = rng.normal(size=(2, H, H)) * 0.7
h0, c0 = rng.normal(size=(2, B, H))
xs = rng.normal(size=(T, B, H))
BOTH = pytest.mark.parametrize("compiled", [True, False])


def total(tree):
    return sum(tg.sum(tg.sin(leaf) * (k + 1)) for k, leaf in enumerate(tg.trees.flatten(tree)[0]))


# ---- step 0 must not be frozen ------------------------------------------------------------------------------

LOOKS = {
    "if tensor:": lambda x: x if tg.sum(x) > 0 else -x,
    "float(tensor)": lambda x: x * float(tg.sum(x)),
    "int(tensor)": lambda x: x * int(tg.sum(x)),
    "tensor as an index": lambda x: x * [1, 2, 3][tg.astype(tg.sum(x) > 0, np.int64)],
    ".item()": lambda x: x * tg.sum(x).item(),
    ".tolist()": lambda x: x * x.tolist()[0][0],
    ".numpy()": lambda x: x * x.numpy(),
    "np.asarray(tensor)": lambda x: x * np.asarray(x),
    ".argmax()": lambda x: x * x.argmax(),
    ".any()": lambda x: x * (x > 0).any(),
    "value in tensor": lambda x: x * (3.0 in x),
    "pickle": lambda x: __import__("copy").copy(x),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_at_a_traced_value_is_refused(look):
    def cell(h, x):
        h = tg.tanh(h + LOOKS[look](x))
        return h, h

    with pytest.raises(TraceError) as caught:
        tg.scan(cell, h0, xs)
    shape = "()" if "sum" in LOOKS[look].__code__.co_names else "(3, 4)"
    assert str(caught.value) == (
        f"{look}: a traced value was turned into a plain one\n"
        f"  shape      {shape}\n"
        "  traced in  test_a_look_at_a_traced_value_is_refused.<locals>.cell\n"
        "What it decides would be frozen to the first step: use where(condition, a, b), or scan(..., compiled=False).")
    if look not in ("tensor as an index", ".numpy()"):  # (in a plain loop over arrays x is an array)
        tg.scan(cell, h0, xs, compiled=False)


def test_data_of_a_traced_value_is_refused():
    with pytest.raises(TraceError, match=r"^\.numpy\(\): a traced value was turned into a plain one\n  shape      \(3, 4\)"):
        tg.scan(lambda h, x: (h * x.data, h), h0, xs)


def test_a_numpy_function_without_a_rule_is_refused():
    with pytest.raises(TypeError, match=r"^np\.fft"):
        tg.scan(lambda h, x: (h * np.abs(np.fft.fft(x)), h), h0, xs)


def test_a_random_draw_would_be_frozen():
    draws = np.random.default_rng(0)
    with pytest.raises(TraceError) as caught:
        tg.scan(lambda h, x: (h * draws.normal(size=H), h), h0, xs)
    assert str(caught.value) == (
        "scan(cell, state, xs): the cell closes over a value that changes from step 0 to step 1\n"
        "  cell  test_a_random_draw_would_be_frozen.<locals>.<lambda>\n"
        "Pass what changes (counters, noise, masks) in state or xs, or use compiled=False.")


def test_a_draw_that_begins_later_would_be_frozen_too():
    """What a repeated call closes over is looked at again where the cell may have made it itself."""
    draws = np.random.default_rng(0)

    def cell(h, x):
        return h * (draws.normal(size=H) if noise else np.ones(H)), h

    def scaled(h, x):
        return h * (draws.normal() if noise else 0.5), h

    def returned(h, x):
        return h, draws.normal(size=H) if noise else np.ones(H)

    for one in (cell, scaled, returned):
        noise = False
        for _ in range(2):
            tg.scan(one, h0, xs)
        noise = True
        with pytest.raises(TraceError, match="closes over a value that changes from step 0 to step 1"):
            tg.scan(one, h0, xs)
    tg.scan(cell, h0[:2], xs[:1, :2])  # a single step cannot be compared with another
    with pytest.raises(TraceError, match="closes over a value that changes from step 0 to step 1"):
        tg.scan(cell, h0[:2], xs[:, :2])


def test_an_array_that_the_cell_writes_into_would_be_frozen():
    count = np.zeros(H)

    def cell(h, x):
        count[...] += 1
        return h * count, h

    for _ in range(2):
        with pytest.raises(TraceError, match="closes over a value that changes from step 0 to step 1"):
            tg.scan(cell, h0, xs)


@pytest.mark.parametrize("kind", ["number", "array", "branch"])
def test_a_step_counter_would_be_frozen(kind):
    def cell(h, x):
        cell.t += 1
        if kind == "branch":
            return (h + x if cell.t % 2 else h - x), h
        return h * (float(cell.t) if kind == "number" else np.full(H, cell.t)), h

    cell.t = 4
    what = "makes other calls" if kind == "branch" else "closes over a value that changes"
    with pytest.raises(TraceError) as caught:
        tg.scan(cell, h0, xs, reverse=True)
    assert str(caught.value).splitlines()[0] == f"scan(cell, state, xs): the cell {what} from step 4 to step 3"
    cell.t = 0
    state, _ = tg.scan(cell, h0, xs, compiled=False)
    assert cell.t == T


def test_a_counter_that_is_a_small_integer_is_found_too():
    count = iter(range(1, 100))
    with pytest.raises(TraceError, match="^scan.*: the cell (makes other calls|closes over a value that changes)"):
        tg.scan(lambda h, x: (h * next(count), h), h0, xs)


def test_backward_inside_a_cell_is_refused():
    def cell(h, x):
        w = tg.tensor(np.ones(H), requires_grad=True)
        tg.sum(w * h).backward()
        return h, h

    with pytest.raises(TraceError, match=r"^backward\(\): called on a traced value\n"):
        tg.scan(cell, h0, xs)


def test_a_tensor_kept_from_an_earlier_trace_is_refused():
    kept = []

    def keeps(h, x):
        kept.append(x)
        return h + x, h

    tg.scan(keeps, h0, xs)
    kept = kept[:1]
    with pytest.raises(TraceError) as caught:
        tg.scan(lambda h, x: (h + kept[0], x), h0, xs)
    assert str(caught.value) == (
        "test_a_tensor_kept_from_an_earlier_trace_is_refused.<locals>.<lambda>(…): uses a Tensor that an earlier trace made\n"
        "  made in  test_a_tensor_kept_from_an_earlier_trace_is_refused.<locals>.keeps\n"
        "  shape    (3, 4)\n"
        "Return what a later call needs: a traced value stands for one run of the function only.")
    grown = []

    def remembers(h, x):
        grown.append(tg.tanh(h))
        return grown[0] + x, h

    with pytest.raises(TraceError, match="an earlier trace made"):
        tg.scan(remembers, h0, xs)


# ---- nothing goes stale -------------------------------------------------------------------------------------


def test_closed_over_values_are_read_at_every_call():
    box = dict(number=1.5, array=np.ones(H), tensor=tg.tensor(np.ones(H), requires_grad=True))

    def cell(h, x):
        h = tg.tanh(h * box["number"] + x * box["array"]) * box["tensor"]
        return h, h

    def compare():
        with tg.no_grad():
            assert_same(*[tg.trees.map(lambda t: t.numpy(), tg.scan(cell, h0, xs, compiled=compiled)) for compiled in (True, False)])
        grads = []
        for compiled in (True, False):
            box["tensor"].grad = None
            total(tg.scan(cell, h0, xs, compiled=compiled)).backward()
            grads.append(box["tensor"].grad)
        assert_same(*grads)

    compare()
    box["number"] = -0.7
    compare()
    box["array"][1] = 3.0  # in place
    compare()
    box["array"] = rng.normal(size=H)
    compare()
    box["tensor"].data = rng.normal(size=H)
    compare()
    box["tensor"] = tg.tensor(rng.normal(size=H), requires_grad=True)
    compare()
    box["array"] = 2.0  # another kind of thing altogether
    compare()
    box["tensor"] = np.float64(0.25)
    assert_same(tg.scan(cell, h0, xs), tg.scan(cell, h0, xs, compiled=False))


def test_an_array_changed_between_forward_and_backward_does_not_change_the_gradient():
    weights, states, steps = U.copy(), h0.copy(), xs.copy()
    cell = lambda h, x: (tg.tanh(h @ weights + x) * scale,) * 2
    scale = tg.tensor(np.ones(H), requires_grad=True)
    value = total(tg.scan(cell, states, steps))
    weights[:], states[:], steps[:] = 0.0, 0.0, 0.0
    value.backward()
    expected = tg.grad(lambda s: total(tg.scan(lambda h, x: (tg.tanh(h @ U + x) * s,) * 2, h0, xs, compiled=False)))(np.ones(H))
    assert_same(scale.grad, expected)


def test_a_changed_function_of_the_same_name_is_another_program():
    for sign in (1, -1):
        source = f"def cell(h, x):\n    h = tg.tanh(h {'+' if sign > 0 else '-'} x)\n    return h, h"
        scope = dict(tg=tg)
        exec(source, scope)
        assert_same(tg.scan(scope["cell"], h0, xs), tg.scan(scope["cell"], h0, xs, compiled=False))


def test_a_nonlinearity_passed_in_is_part_of_the_program():
    for phi in (tg.tanh, tg.sigmoid, tg.relu, lambda z: z * 0.1):
        cell = lambda h, x, phi=phi: (phi(h + x),) * 2
        assert_same(tg.scan(cell, h0, xs), tg.scan(cell, h0, xs, compiled=False))


def test_a_kernel_that_reads_its_input_after_it_has_begun_to_write():
    @tg.primitive(elementwise=True)
    def swish(x, /, *, out=None):
        y = np.tanh(x, out=out)
        return np.multiply(y, x, out=out)

    swish.vjp(x=lambda g, x: g * (np.tanh(x) + x * (1 - np.tanh(x) ** 2)))
    f = lambda h, compiled: tg.scan(lambda h, x: (tg.tanh(0.9 * swish(tg.tanh(h + x) * h)), h), h, xs, compiled=compiled)
    assert_same(f(h0, True), f(h0, False))  # without a gradient nothing else keeps the input
    assert_same(tg.value_and_grad(lambda h: total(f(h, True)))(h0), tg.value_and_grad(lambda h: total(f(h, False)))(h0))


def test_an_op_without_a_name_of_its_own():
    op = tg.primitive(lambda x, /: np.tanh(x)).vjp(x=lambda g, y: g * (1 - y * y))
    U = np.random.default_rng(0).normal(size=(3, 3))
    compiled, plain = (tg.grad(lambda U, c=c: tg.sum(tg.scan(lambda h, x: (op(h @ U + x), None), np.zeros((2, 3)), np.ones((4, 2, 3)), compiled=c)[0]))(U)
                       for c in (True, False))
    np.testing.assert_allclose(compiled, plain, rtol=1e-12)


def test_two_ops_of_one_name_are_two_ops():
    @tg.primitive(elementwise=True)
    def tanh(x, /):
        return np.tanh(x) * 2

    tanh.vjp(x=lambda g, y: g * (2 - y * y * 0.5))
    f = lambda h, compiled: total(tg.scan(lambda h, x: (tanh(tg.tanh(h + x)),) * 2, h, xs, compiled=compiled))
    assert_same(tg.value_and_grad(lambda h: f(h, True))(h0), tg.value_and_grad(lambda h: f(h, False))(h0))


# ---- what a step returns may be anything it has seen ------------------------------------------------------------

WIRINGS = {
    "swapped": lambda s, x: ((s[1], s[0]), x),
    "swapped and changed": lambda s, x: ((tg.tanh(s[1] + x), s[0]), (s[0], s[1])),
    "swapped, outputs are states": lambda s, x: ((s[1], s[0]), (s[1], s[0], s[0])),
    "rotated by products": lambda s, x: ((s[1] @ U, s[0] @ V + x), s[0] * s[1]),
    "delayed": lambda s, x: ((tg.tanh(s[0] + x @ U), s[0]), s[1]),
    "delayed, both ways": lambda s, x: ((s[1], tg.tanh(s[0] * s[1])), (s[0], s[1])),
    "one tensor for both states": lambda s, x: ((lambda h: ((h, h), (h, h)))(tg.tanh(s[0] + s[1] @ U + x))),
    "y is the state": lambda s, x: ((lambda h: ((h, s[1]), h))(tg.sin(s[0] + x))),
    "y is x": lambda s, x: ((tg.sin(s[0]), s[1] * 0.5), (x, x)),
    "y is the state before": lambda s, x: ((tg.sin(s[0]) + x, s[1]), s),
    "y is a constant": lambda s, x: (s, (U, 3.0, np.arange(2))),
    "the state is x": lambda s, x: ((x, s[0]), s[1] * x),
    "the state is a constant": lambda s, x: ((c0, tg.tanh(s[0] * s[1])), s[0] * x),
    "passed through": lambda s, x: (s, s[0] * x),
    "views of the state": lambda s, x: ((s[0].T.T, tg.flip(s[1], -1)), (s[0].T, s[0][1:], s[1].reshape(-1))),
    "views of x": lambda s, x: ((s[0] + x.T.T, s[1]), (x.T, x[..., ::-1], x[0])),
    "views of what is stored": lambda s, x: ((lambda h: ((h, s[1] + h.T.T), (h.T, h[:, 1:], h.reshape(2, -1), h)))(tg.tanh(s[0] @ U + x))),
    "splits that return": lambda s, x: ((lambda p: ((p[0], tg.tanh(p[1])), (p[1], p[0])))(tg.split(tg.concatenate([s[1], tg.tanh(s[0] + x)], -1), 2, -1))),
}


@pytest.mark.parametrize("options", [{}, dict(reverse=True), dict(checkpoint=2), dict(truncate=(2, 3))], ids=str)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_every_wiring(wiring, options):
    cell = WIRINGS[wiring]
    assert_same(tg.scan(cell, (h0, c0), xs, **options), tg.scan(cell, (h0, c0), xs, compiled=False, **options))
    at = dict(h=h0, c=c0, xs=xs)
    f = lambda p, compiled: total(tg.scan(cell, (p["h"], p["c"]), p["xs"], compiled=compiled, **options))
    assert_same(tg.grad(lambda p: f(p, True))(at), tg.grad(lambda p: f(p, False))(at))
    v = dict(h=c0, c=h0, xs=xs[::-1])
    assert_same(tg.hvp(lambda p: f(p, True), (at,), (v,)), tg.hvp(lambda p: f(p, False), (at,), (v,)))


@pytest.mark.parametrize("wiring", WIRINGS)
def test_no_result_shares_memory_with_anything(wiring):
    """Results are the caller's own: writing into one changes no other, no input, and no later call."""
    start, steps = (h0.copy(), c0.copy()), xs.copy()
    first = tg.scan(WIRINGS[wiring], start, steps)
    expected = tg.trees.map(np.array, first)
    leaves = tg.trees.flatten(first)[0]
    for i, leaf in enumerate(leaves):
        before = [np.array(other) for other in leaves]
        leaf[...] = 77
        for j, other in enumerate(leaves):
            assert i == j or np.array_equal(other, before[j]), f"result {i} and result {j} share memory"
    np.testing.assert_array_equal(np.stack(start), np.stack((h0, c0)))
    np.testing.assert_array_equal(steps, xs)
    assert_same(tg.scan(WIRINGS[wiring], start, steps), expected)


@pytest.mark.parametrize("wiring", WIRINGS)
def test_writing_into_values_before_the_pullback_changes_no_gradient(wiring):
    f = lambda h, c, steps: tg.scan(WIRINGS[wiring], (h, c), steps)
    y, pullback = tg.vjp(f, h0, c0, xs)
    g = tg.trees.map(lambda leaf: np.cos(np.arange(leaf.size, dtype=float)).reshape(leaf.shape), y)
    expected = tg.trees.map(np.array, pullback(g))
    y, pullback = tg.vjp(f, h0, c0, xs)
    for leaf in tg.trees.flatten(y)[0]:
        leaf[...] = 1e9
    first = pullback(g)
    assert_same(first, expected)
    for leaf in tg.trees.flatten(first)[0]:
        leaf[...] = 1e9
    assert_same(pullback(g), expected)


def test_gradients_do_not_share_memory_with_cotangents_or_each_other():
    cell = lambda s, x: ((s[0] + x, s[1]), s[0])
    y, pullback = tg.vjp(lambda h, c, steps: tg.scan(cell, (h, c), steps), h0, c0, xs)
    g = tg.trees.map(lambda leaf: np.ones(leaf.shape), y)
    grads = tg.trees.flatten(pullback(g))[0]
    for i, one in enumerate(grads):
        assert not any(np.shares_memory(one, other) for other in [*grads[:i], *tg.trees.flatten((g, y))[0], h0, c0, xs])


def test_two_runs_held_at_once_do_not_overwrite_each_other():
    cell = lambda h, x: (tg.tanh(h @ U + x),) * 2
    runs = [tg.vjp(lambda h, s, k=k: tg.scan(cell, h, s * k), h0, xs) for k in range(1, 5)]
    kept = [tg.trees.map(np.array, y) for y, _ in runs]
    g = tg.trees.map(np.ones_like, kept[0])
    backwards = [pullback(g) for _, pullback in reversed(runs)][::-1]
    for k, ((y, _), before, grads) in enumerate(zip(runs, kept, backwards), 1):
        assert_same(y, before, 0.0)
        assert_same(grads, tg.vjp(lambda h, s, k=k: tg.scan(cell, h, s * k, compiled=False), h0, xs)[1](g))


# ---- re-entrancy, caches, memory ----------------------------------------------------------------------------


def test_threads_share_the_compiled_code():
    cell = lambda h, x: (tg.tanh(h @ U + x @ V),) * 2
    f = lambda h, s: total(tg.scan(cell, h, s))
    cases = [(rng.normal(size=(B, H)), rng.normal(size=(30, B, H))) for _ in range(8)]
    expected = [tg.grad(f, (0, 1))(*case) for case in cases]
    found, errors = [None] * 8, []

    def work(i):
        try:
            for _ in range(25):
                found[i] = tg.grad(f, (0, 1))(*cases[i])
                assert_same(found[i], expected[i], 0.0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors, errors[0]


def test_a_scan_that_calls_itself():
    def fold(depth, h, steps, compiled=True):
        def cell(h, x):
            h = tg.tanh(h @ U + (fold(depth - 1, h, xs[:2], compiled) if depth else x))
            return h, h

        return tg.scan(cell, h, steps, compiled=compiled)[0]

    f = lambda h, compiled=True: total(fold(2, h, xs[:3], compiled))
    assert_same(tg.grad(f)(h0), tg.grad(lambda h: f(h, False))(h0))


def test_a_failed_trace_leaves_nothing_behind():
    def broken(h, x):
        tg.tanh(h)
        raise KeyError("mine")

    with pytest.raises(KeyError):
        tg.scan(broken, h0, xs)
    assert float(tg.sum(tg.tensor(np.ones(2)))) == 2.0  # no tracer is left on
    assert_same(tg.scan(lambda h, x: (tg.tanh(h + x), h), h0, xs), tg.scan(lambda h, x: (tg.tanh(h + x), h), h0, xs, compiled=False))


def test_the_cache_is_bounded(monkeypatch):
    import sys
    scan = sys.modules["tinygrad_rnn.scan"]
    monkeypatch.setattr(scan, "_programs", {})
    monkeypatch.setattr(scan, "_MOST_PROGRAMS", 8)
    cell = lambda h, x: (tg.tanh(h + x),) * 2
    for n in range(1, 30):
        tg.scan(cell, np.zeros(n), np.ones((2, n)))
        assert len(scan._programs) <= 8
    for steps in range(1, 30):  # T is no part of a program
        before = list(scan._programs)
        tg.scan(cell, np.zeros(29), np.ones((steps, 29)))
        assert list(scan._programs) == before


def test_a_full_cache_forgets_the_oldest_only(monkeypatch):
    """The two steps that are compared find the same inner loop."""
    import sys
    scan = sys.modules["tinygrad_rnn.scan"]
    monkeypatch.setattr(scan, "_programs", {})
    monkeypatch.setattr(scan, "_MOST_PROGRAMS", 3)
    for n in range(1, 12):
        for inner in range(1, 4):
            def cell(h, x, inner=inner):
                m, _ = tg.scan(lambda q, z: (tg.tanh(q + z), q), h, tg.stack([x] * inner))
                for _ in range(inner):
                    m = tg.sin(m)
                return m, m

            assert_same(tg.scan(cell, np.zeros(n), np.ones((3, n))), tg.scan(cell, np.zeros(n), np.ones((3, n)), compiled=False))


def test_an_empty_index_in_a_cell():
    assert_same(*(tg.scan(lambda h, x: (tg.tanh(h[()] + x), h), np.ones(3), np.ones((2, 3)), compiled=compiled) for compiled in (True, False)))


def test_memory_is_flat_over_a_thousand_chunks():
    """A state carried by stop_gradient keeps no history: with gc off, nothing is left behind."""
    weight = tg.tensor(U, requires_grad=True)
    cell = lambda h, x: (tg.tanh(h @ weight + x),) * 2

    def train(chunks, state):
        for _ in range(chunks):
            state, ys = tg.scan(cell, tg.stop_gradient(state), xs, truncate=(2, 3))
            tg.sum(ys * ys).backward()
            weight.grad = None
        return state

    state = train(20, h0)
    gc.collect()
    gc.disable()
    try:
        tracemalloc.start()
        state = train(10, state)
        before = tracemalloc.get_traced_memory()[0]
        train(1000, state)
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert gc.collect() == 0
    finally:
        gc.enable()
    # CPython keeps up to 2,000 tuples of each length for reuse, 64 bytes each; one chunk of history would be 2 kB a time
    assert after - before < 250_000, after - before


def test_deep_sequences_need_no_recursion():
    grads = tg.grad(lambda h: tg.sum(tg.scan(lambda h, x: (tg.sin(h + x),) * 2, h, np.zeros(20_000))[1]))(np.array(0.3))
    assert np.isfinite(grads)


def test_inputs_are_never_written():
    frozen = [np.array(a) for a in (h0, xs, U)]
    for array in frozen:
        array.flags.writeable = False
    h, steps, weights = frozen
    for options in ({}, dict(reverse=True), dict(lengths=np.array([5, 2, 0])), dict(checkpoint=2), dict(truncate=(1, 2))):
        tg.grad(lambda h, s: total(tg.scan(lambda h, x: (tg.tanh(h @ weights + x),) * 2, h, s, **options)), (0, 1))(h, steps)


@pytest.mark.parametrize("layout", ["fortran", "strided", "transposed", "broadcast", "float32", "readonly"])
def test_any_layout_of_the_inputs(layout):
    change = {"fortran": np.asfortranarray, "strided": lambda a: np.repeat(a, 2, -1)[..., ::2], "transposed": lambda a: np.ascontiguousarray(a.T).T,
              "broadcast": lambda a: np.broadcast_to(a[..., :1], a.shape), "float32": lambda a: a.astype(np.float32),
              "readonly": lambda a: np.broadcast_to(a, a.shape)}[layout]
    at = dict(h=change(h0), xs=change(xs), U=change(U))
    f = lambda p, compiled: total(tg.scan(lambda h, x: (tg.tanh(h @ p["U"] + x),) * 2, p["h"], p["xs"], compiled=compiled))
    assert_same(tg.value_and_grad(lambda p: f(p, True))(at), tg.value_and_grad(lambda p: f(p, False))(at), 1e-5 if layout == "float32" else 1e-9)


# ---- a trap that is not sprung proves nothing ---------------------------------------------------------------


def test_a_shared_buffer_would_be_seen(monkeypatch):
    """Without the copies that a Source makes of shared results, the test of aliasing fails."""
    import sys

    from tinygrad_rnn import loops
    monkeypatch.setattr(sys.modules["tinygrad_rnn.scan"], "_programs", {})
    right = loops.Source._stacked_results
    monkeypatch.setattr(loops.Source, "_stacked_results", lambda self: [text.replace(".copy()", "") for text in right(self)])
    with pytest.raises((AssertionError, ValueError)):
        test_no_result_shares_memory_with_anything("y is x")


@pytest.mark.parametrize("change", [lambda h: setattr(h, "requires_grad", True), lambda h: setattr(h, "data", np.ones(2))])
def test_a_traced_value_cannot_be_changed(change):
    harmless = [True]

    def cell(h, x):
        if not harmless[0]:
            change(h)
        return h + x, h

    for harmless[0] in (True, False, True):
        if harmless[0]:
            assert np.asarray(tg.scan(cell, np.zeros(2), np.ones((3, 2)))[0]).tolist() == [3.0, 3.0]
        else:
            with pytest.raises(TraceError, match="cannot be changed"):
                tg.scan(cell, np.zeros(2), np.ones((3, 2)))


KEEP = {"itself": lambda y: y, "in a tuple": lambda y: (y, 1), "in a closure": lambda y: lambda: y}
TAKE = {"itself": lambda kept: kept, "in a tuple": lambda kept: kept[0], "in a closure": lambda kept: kept()}


def using_a_kept_value(how):
    """The third run takes the value that the second one kept in the place of its own."""
    kept, phase = [], [0]

    def cell(h, x):
        y = h * 2
        if phase[0] == 1:
            kept.append(KEEP[how](y))
        new = (TAKE[how](kept[0]) if phase[0] == 2 else y) + x
        return new, new

    for phase[0] in range(3):
        tg.scan(cell, np.ones(2), np.ones((3, 2)))


@pytest.mark.parametrize("how", KEEP)
def test_a_kept_value_stays_known_as_one_of_an_earlier_trace(how):
    with pytest.raises(TraceError, match="an earlier trace"):
        using_a_kept_value(how)


def test_a_planted_reuse_of_kept_values_is_found(monkeypatch):
    monkeypatch.setattr(following.Follower, "kept", lambda self: False)
    using_a_kept_value("itself")  # in silence


def test_an_error_in_the_cell_does_not_spoil_the_next_call():
    fail = [False]

    def cell(h, x):
        new = h * 2 + x
        if fail[0]:
            raise KeyError("mine")
        return new, new

    expected = np.asarray(tg.scan(cell, np.ones(2), np.ones((3, 2)))[0])
    fail[0], caught = True, []
    for _ in range(3):
        with pytest.raises(KeyError) as error:
            tg.scan(cell, np.ones(2), np.ones((3, 2)))
        caught.append(error)  # the traceback holds what the cell was given
    fail[0] = False
    for _ in range(3):
        assert np.array_equal(np.asarray(tg.scan(cell, np.ones(2), np.ones((3, 2)))[0]), expected)


@pytest.mark.parametrize("divisor", [np.inf, 1e300, 1e-300])
def test_a_dividend_is_not_made_from_its_quotient(divisor):
    """a = (a / b) b holds only where nothing over- or underflows."""
    rng = np.random.default_rng(0)
    c, U = rng.normal(size=4), rng.normal(size=(4, 4)) / 4
    xs, divisors = rng.normal(size=(5, 3, 4)) * 1e-20, np.ones((5, 3, 1))
    divisors[2, 1] = divisor

    def total(compiled):
        def f(c, U):
            def cell(h, x_and_b):
                x, b = x_and_b
                a = tg.tanh(x + h @ U)
                h = tg.tanh(a * c + tg.tanh(a / b))
                return h, h

            state, ys = tg.scan(cell, np.zeros((3, 4)), (xs, divisors), compiled=compiled)
            return tg.sum(ys * ys)

        return tg.grad(f, (0, 1))(c, U)

    for found, expected in zip(total(True), total(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("inner", [
    lambda W: tg.grad(lambda W: tg.sum(tg.tanh(W) ** 3))(W),
    lambda W: W - 0.1 * tg.grad(lambda W: tg.sum(W**4))(W),
    lambda W: tg.vjp(lambda W: W**3, W)[1](np.ones((2, 2)))[0],
], ids=["grad", "a step", "vjp"])
def test_a_transform_by_what_the_cell_closes_over_keeps_the_link(inner):
    W = np.random.default_rng(0).normal(size=(2, 2))

    def total(compiled):
        def f(W):
            def cell(h, x):
                h = tg.tanh(h @ inner(W) + x)
                return h, h

            return tg.sum(tg.scan(cell, np.zeros(2), np.ones((3, 2)), compiled=compiled)[1])

        return tg.grad(f)(W)

    assert np.abs(total(False)).max() > 0.01
    np.testing.assert_allclose(total(True), total(False), rtol=1e-12)


def test_no_grad_within_a_trace_is_an_error():
    def cell(h, x):
        with tg.no_grad():
            gate = tg.tanh(x)
        return h * gate, h

    with pytest.raises(TraceError, match="would be lost in a trace"):
        tg.scan(cell, np.ones(2), np.ones((3, 2)))
    with tg.no_grad():
        tg.scan(lambda h, x: (h * x, h), np.ones(2), np.ones((3, 2)))


@pytest.mark.parametrize("look", [tg.sum, float, np.asarray, lambda t: t.item(), lambda t: t + 1.0])
def test_a_value_of_a_trace_that_is_over_cannot_be_read(look):
    kept = []

    def cell(h, x):
        h = h * 0.5 + x
        kept.append(h)
        return h, h

    for _ in range(2):
        tg.scan(cell, np.zeros(()), np.ones(3))
        for tensor in kept:
            with pytest.raises(TraceError, match="a trace that is over"):
                look(tensor)


def test_the_states_before_and_after_a_step_share_no_memory():
    ys, before = tg.scan(lambda h, x: (h + x, (h + x, h)), np.zeros(2), np.ones((3, 2)))[1]
    assert not np.shares_memory(ys, before)


def test_numbers_that_are_equal_are_not_the_same():
    run = lambda k: tg.scan(lambda s, x: (s, x * k), 0.0, np.arange(3))[1].dtype
    assert [run(k) for k in (2, 2.0, True, 2)] == [np.arange(3).dtype, np.float64, np.arange(3).dtype, np.arange(3).dtype]


def test_an_einsum_of_one_array_is_no_view():
    def cell(h, x):
        y = tg.tanh(h + x)
        z = tg.einsum("ij->ji", y)
        return tg.tanh(tg.sin(tg.exp(y)) * z), z

    f = lambda h, compiled: tg.sum(tg.scan(cell, h, np.ones((3, 2, 2)), compiled=compiled)[0])
    h = np.random.default_rng(0).normal(size=(2, 2))
    np.testing.assert_allclose(tg.grad(f)(h, True), tg.grad(f)(h, False), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", [
    lambda h, x: (tg.log(tg.sigmoid(h * 0 + x)) * 0.1, h),
    lambda h, x: (h * 0.5, tg.sigmoid(x + h)),
    lambda h, x: (lambda a: (a / tg.sum(a), a))(tg.sigmoid(x + h)),
    lambda h, x: (lambda a: (tg.log(a * 2.0), a))(tg.sigmoid(x + h * 0)),
    lambda h, x: (lambda a, b: (tg.log(a) + tg.log(b) * 0.5, h))(*(tg.sigmoid(p) for p in tg.split(tg.concatenate((x, x + h * 0)), 2))),
], ids=["log", "output", "quotient", "product", "gates"])
def test_a_sigmoid_far_out_keeps_its_relative_accuracy_where_it_counts(cell, dtype):
    xs = np.full((3, 2), -40.0 if dtype == "float64" else -20.0).astype(dtype)

    def f(xs, compiled):
        state, ys = tg.scan(cell, np.zeros(2, dtype), xs, compiled=compiled)
        return tg.sum(state) + tg.sum(tg.log(tg.where(np.greater(np.abs(tg.stop_gradient(ys).numpy()), 0), tg.maximum(ys, 1e-30), 1.0)))

    (value, slope), (expected, other) = (tg.value_and_grad(f)(xs, compiled) for compiled in (True, False))
    np.testing.assert_allclose(value, expected, rtol=1e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(slope, other, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-12)


@pytest.mark.parametrize("divisor", [0.0, 1e-320, 1e-310, -1e-320, 1e308])
@pytest.mark.parametrize("literal", [True, False])
def test_a_quotient_is_not_made_from_a_reciprocal_that_may_be_infinite(divisor, literal):
    b = divisor if literal else np.full(2, divisor)
    with np.errstate(all="ignore"):
        found, expected = (tg.scan(lambda h, x: (tg.tanh((h + x) / b), h), np.zeros(2), np.zeros((3, 2)), compiled=compiled)[0]
                           for compiled in (True, False))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
