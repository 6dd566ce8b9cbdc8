"""A function that was traced before is run again on stand-ins: whatever changes from call to call is noticed."""

import gc
import weakref

import numpy as np
import pytest
from random_cells import assert_same

import tinygrad_rnn as tg
from tinygrad_rnn import following, program
from tinygrad_rnn.errors import TraceError

rng = np.random.default_rng(0)
T, B, H = 4, 2, 3
U, V = rng.normal(size=(2, H, H)) * 0.7
xs, h0 = rng.normal(size=(T, B, H)), rng.normal(size=(B, H))


def arguments():
    return {"U": U.copy(), "h": h0.copy(), "x": xs.copy()}


looping = [False]  # whether every scan is a plain loop


def scan(*args, **options):
    return tg.scan(*args, **options | {"compiled": False} if looping[0] else options)


def looped(f, *args):
    """What f gives without any following."""
    looping[0] = True
    try:
        return f(*args)
    finally:
        looping[0] = False


def total(cell, p, **options):
    state, ys = scan(cell, p["h"], p["x"], **options)
    return sum(tg.sum(tg.sin(leaf)) for leaf in tg.trees.flatten((state, ys))[0])


class Sub(np.ndarray):
    """Not quite an array."""


def elman(p, w, scale=1.0):
    return lambda h, x: ((lambda h: (h, h))(tg.tanh(x @ p["U"] * scale + h @ w)))


def of_two(p, box):
    return lambda h, x: (tg.tanh(x @ p["U"] @ box["a"] * box["k"] + h @ box["b"] * box["j"]), h)


def returning(p, what):
    def cell(h, x):
        n = tg.tanh(x @ p["U"] + h)
        return {"both": (n, n), "before": (n, h), "kept": (h, n), "x": (n, x), "tree": (n, (n, h)), "list": (n, [n, h]), "none": (n, None)}[what]

    return cell


def of_trees(p, kind):
    if kind == "dict":
        state, cell = {"a": p["h"], "b": p["h"] * 2.0}, lambda s, x: ({"b": tg.tanh(s["b"]), "a": s["a"] + x @ p["U"]}, s["a"])
    else:
        state, cell = (p["h"], p["h"] * 2.0), lambda s, x: ((s[0] + x @ p["U"], tg.tanh(s[1])), s[kind])
    return total(cell, p | {"h": state})


def of_outer(p, box):
    y, z = tg.sin(p["h"]), tg.cos(p["h"])
    y, z = (z, y) if box["swap"] else (y, z)
    return total(lambda h, x: (tg.tanh(x @ p["U"] + h * (y if box["inner"] else z)), h + z), p) + tg.sum(y)


def of_scans(p, box):
    def cell(h, x):
        inner = lambda s, v: (tg.tanh(s + v * h[0] + box["k"]), s)
        return tg.tanh(x @ p["U"] + h * scan(inner, h[0], p["U"][:box["n"]])[0]), h

    return sum(total(cell, p) for _ in range(box["times"]))


# name: (loss of the arguments and a box, what the box holds at first, and what is put into it before later calls)
LOSSES = {
    "an array": (lambda p, box: total(elman(p, box["w"]), p), dict(w=V), [
        dict(w=V * 2), dict(w=V.copy()), dict(w=V.astype(np.float32)), dict(w=tg.tensor(V)), dict(w=V[:, :1]), dict(w=V.view(Sub)), dict(w=U)]),
    "a number": (lambda p, box: total(elman(p, V, box["k"]), p), dict(k=0.37), [
        dict(k=k) for k in (0.7, 2.0, 2, np.float64(0.9), np.float32(0.9), np.array(0.3), True, -0.0, 0.0, float("nan"))]),
    "two that were the same": (lambda p, box: total(of_two(p, box), p), dict(a=V, b=V, k=0.3, j=0.3), [
        dict(a=V * 2), dict(b=V * 3), dict(b=U, a=U), dict(k=0.7), dict(j=0.7), dict(j=0.2), dict(k=1.0)]),
    "what is returned": (lambda p, box: total(returning(p, box["y"]), p), dict(y="both"), [
        dict(y=y) for y in ("before", "kept", "x", "tree", "list", "none")]),
    "the tree of the state": (lambda p, box: of_trees(p, box["kind"]), dict(kind=0), [dict(kind=1), dict(kind="dict")]),
    "options": (lambda p, box: total(elman(p, V), p, **box["o"]), dict(o={}), [
        dict(o=o) for o in (dict(reverse=True), dict(checkpoint=2), dict(truncate=(2, 3)), dict(lengths=np.array([4, 2])),
                            dict(lengths=np.array([1, 3])), dict(compiled=False))]),
    "the number of steps": (lambda p, box: total(elman(p, V), p | {"x": p["x"][:box["n"]]}), dict(n=T), [dict(n=n) for n in (2, 1, 0, 3)]),
    "the sequence": (lambda p, box: total(elman(p, V), p | box), dict(x=xs), [
        dict(x=xs * 2), dict(x=xs[:2]), dict(x=tg.tensor(xs)), dict(h=h0 * 2), dict(h=h0[:1], x=xs[:, :1]), dict(x=xs[:0, :1])]),
    "an outer value": (of_outer, dict(swap=False, inner=True), [dict(swap=True), dict(inner=False), dict(swap=False)]),
    "a scan in a scan": (of_scans, dict(k=0.3, n=2, times=1), [dict(k=0.9), dict(n=3), dict(times=2), dict(k=2.0)]),
    "a closed array becomes a value": (lambda p, box: tg.sum((y := p["h"] * 2.0) * (y if box["own"] else h0)), dict(own=False), [dict(own=True)]),
    "a closed array becomes a value of the cell": (
        lambda p, box: total(lambda h, x: (lambda y: (tg.tanh(y * (y if box["own"] else h0) + x @ p["U"]), h))(h * 2.0), p), dict(own=False), [dict(own=True)]),
    "a length": (lambda p, box: tg.sum(scan(lambda h, _: (tg.tanh(h @ p["U"]), None), p["h"], None, length=box["n"])[0]), dict(n=3), [dict(n=2), dict(n=5)]),
    "a static": (lambda p, box: tg.sum(tg.sin(tg.sum(p["x"][box["i"]], axis=box["a"]))), dict(i=slice(0, 2), a=0), [
        dict(i=slice(1, 3)), dict(a=1), dict(a=(1,)), dict(a=(0, 1)), dict(i=[0, 2]), dict(i=np.array([1, 1])), dict(i=1), dict(i=np.int64(2), a=0)]),
    "how many": (lambda p, box: tg.sum(tg.sin(tg.concatenate([p["h"]] * box["n"], axis=box["a"]) * 2.0)), dict(n=2, a=0), [
        dict(n=3), dict(n=1), dict(a=1), dict(n=2)]),
    "a list": (lambda p, box: tg.sum(p["h"] * box["l"]), dict(l=[1.0, 2.0, 3.0]), [dict(l=[1.0, 2.0, 4.0]), dict(l=(5.0, 1.0, 1.0))]),
    "a gradient inside": (lambda p, box: total(lambda h, x: (tg.grad(lambda z: tg.sum(tg.tanh(z * box["k"]) @ p["U"]))(h) + x, h), p), dict(k=0.5), [
        dict(k=0.8)]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_changes_is_noticed(name):
    loss, first, changes = LOSSES[name]
    box = dict(first)
    plain = tg.value_and_grad(lambda p: loss(p, box))
    step = tg.compiled(plain)
    for change in [first, *changes, *changes[::-1], first]:
        box.update(change)
        for _ in range(3):
            assert_same(step(arguments()), looped(plain, arguments()), 1e-6 if change.get("w", h0).dtype == np.float32 else 1e-11)


def test_another_dtype_gives_another_dtype():
    box, x = [], np.ones((T, 3), np.float32)
    step = tg.compiled(lambda x: tg.scan(lambda h, x: (h, tg.tanh(x * box[-1]) * x), np.zeros(3, np.float32), x)[1])
    for dtype in ("float32", "float32", "float64", "float64", "float32", "int64"):
        box.append(np.full(3, 2, dtype))
        assert step(x).dtype == (x * box[-1]).dtype


def test_a_static_that_is_written_in_place():
    widths = [[0, 0], [1, 1]]
    plain = tg.value_and_grad(lambda x: (lambda y: tg.sum(y * np.arange(y.shape[-1])))(tg.pad(x, widths)))
    step = tg.compiled(plain)
    for widths[1][0] in (1, 1, 2, 0):
        for _ in range(2):
            assert_same(step(h0), looped(plain, h0))


def test_draws_are_those_of_the_function():
    def drawing(generator):
        def loss(p):
            mask, k = generator.random((B, H)), generator.random()
            return total(lambda h, x: (tg.tanh(x @ p["U"] + h * mask) * k, h), p)

        return tg.value_and_grad(loss)

    step, plain = tg.compiled(drawing(np.random.default_rng(1))), drawing(np.random.default_rng(1))
    for _ in range(4):
        assert_same(step(arguments()), looped(plain, arguments()))


def test_a_tensor_whose_values_are_replaced_meanwhile():
    w = tg.tensor(np.ones(2))

    def loss(x):
        y = x * w
        w.data = w.numpy() * 2
        return tg.sum(y + x * w)

    step = tg.compiled(loss)
    for _ in range(3):
        w.data = np.ones(2)
        with tg.no_grad():
            assert step(np.ones(2)) == 6.0


REPEATED = {
    "arguments": lambda p: total(elman(p, p["U"]), p),
    "arrays": lambda p: total(elman(p, V), p) + tg.sum(p["h"] @ V),
    "numbers": lambda p: total(elman(p, V, np.float64(0.37)), p) * 0.77,
    "trees": lambda p: of_trees(p, "dict") + of_trees(p, 0),
    "splits": lambda p: total(lambda h, x: (tg.concatenate(tg.split(h * x, 3, axis=-1)[::-1], axis=1), tg.mean(h, axis=0, keepdims=True)), p),
    "scans": lambda p: of_scans(p, dict(k=0.3, n=2, times=2)),
    "tuples of one": lambda p: tg.sum(scan(lambda h, x: (tg.tanh(tg.split(h, 1)[0] @ p["U"]) * x, None), p["h"], p["x"])[0]),
    "reversed": lambda p: total(elman(p, V), p, reverse=True),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_repeated_call_traces_nothing(name, monkeypatch):
    step, traces, init = tg.compiled(tg.value_and_grad(REPEATED[name])), [], program.Tracer.__init__
    expected = looped(tg.value_and_grad(REPEATED[name]), arguments())
    for _ in range(2):
        step(arguments())
    monkeypatch.setattr(program.Tracer, "__init__", lambda self, *args: traces.append(args) or init(self, *args))
    assert_same(step(arguments()), expected)
    assert not traces


@pytest.mark.parametrize("look", [
    lambda p, h: float(tg.sum(p["h"])), lambda p, h: float(p["U"][0, 0]) * 7.3, lambda p, h: p["h"].numpy(), lambda p, h: np.asarray(h)])
@pytest.mark.parametrize("before", [0, 2])
def test_a_look_at_a_value_of_any_trace_is_refused(look, before):
    looking = [False]
    step = tg.compiled(tg.value_and_grad(lambda p: total(lambda h, x: (tg.tanh(x @ p["U"] + h) * (look(p, h) if looking[0] else 0.7), h), p)))
    for _ in range(before):
        step(arguments())
    looking[0] = True
    for _ in range(2):
        with pytest.raises(TraceError, match="a traced value was turned into a plain one"):
            step(arguments())


def test_a_loss_within_a_cell_does_not_look_at_an_outer_value():
    labels = np.array([0, 2])

    def loss(p, labels):
        return total(lambda h, x: (tg.tanh(x @ p["U"] + h), tg.nn.functional.cross_entropy(h, labels)), p)

    step = tg.compiled(tg.value_and_grad(loss))
    for _ in range(3):
        assert_same(step(arguments(), labels), tg.value_and_grad(loss)(arguments(), labels))


@pytest.mark.parametrize("where", ["cell", "loss"])
def test_a_value_of_another_trace_is_refused(where):
    """Of a trace that is over: of the cell in its loss, of another scan."""
    leak, box = [], {"cell": h0, "loss": h0 + 1.0}

    def loss(p):
        def cell(h, x):
            leak.append(tg.tanh(x @ p["U"] + h))
            return leak[-1] * box["cell"], h

        value = total(cell, p)
        return value + tg.sum(box["loss"] if box["loss"] is not None else leak[-1])

    others = []
    tg.scan(lambda h, x: (others.append(h) or h + x, h), h0, xs)
    step = tg.compiled(tg.value_and_grad(loss))
    for _ in range(3):
        step(arguments())
    for value in (others[0], None) if where == "loss" else (others[0],):
        box[where] = value
        for _ in range(2):
            with pytest.raises(TraceError, match="an earlier trace"):
                step(arguments())


def test_a_kept_value_of_a_cell_is_not_handed_out_again():
    """The last run takes the value that one before it kept in the place of its own."""
    kept, phase = [], [0]

    def loss(p):
        def cell(h, x):
            y = h * 2.0
            if phase[0] == 1:
                kept.append(y)
            new = (kept[0] if phase[0] == 2 else y) + x @ p["U"]
            return new, new

        return total(cell, p)

    step = tg.compiled(tg.value_and_grad(loss))
    for phase[0] in (0, 0, 0, 1):
        step(arguments())
    phase[0] = 2
    with pytest.raises(TraceError, match="an earlier trace"):
        step(arguments())


def test_another_cell_that_begins_alike_is_compared_with_itself():
    numbers, box = [], ["fixed"]

    def fixed(h, x):
        return tg.tanh(h * numbers[0] + x), h

    def drawn(h, x):
        return tg.tanh(h * numbers.pop(0) + x), h

    step = tg.compiled(tg.value_and_grad(lambda p: total(fixed if box[0] == "fixed" else drawn, p)))
    for box[0] in ("fixed", "fixed", "fixed", "drawn"):
        numbers[:] = [0.37, 0.38, 0.39, 0.41]
        if box[0] == "fixed":
            step(arguments())
    for first in (0.37, 0.37, 0.38):
        numbers[:] = [first] + [0.1 * k + 0.011 for k in range(9)]
        with pytest.raises(TraceError, match="closes over a value that changes"):
            step(arguments())


@pytest.mark.parametrize("phase", ["cell", "loss"])
def test_an_error_on_the_way_leaves_nothing_behind(phase):
    fail = [None]

    def loss(p):
        def cell(h, x):
            n = tg.tanh(x @ p["U"] + h @ V)
            if fail[0] == "cell":
                raise KeyError("mine")
            return n * 0.77, h

        value = total(cell, p)
        if fail[0] == "loss":
            raise KeyError("mine")
        return value

    step, caught = tg.compiled(tg.value_and_grad(loss)), []
    expected = step(arguments())
    for fail[0] in (None, None, phase, phase, None, phase, None, None):
        if fail[0]:
            with pytest.raises(KeyError) as error:
                step(arguments())
            caught.append(error)  # the traceback holds what the cell was given
        else:
            assert_same(step(arguments()), expected)


def test_nothing_of_the_users_is_held_and_no_cycles_are_left():
    box = [V.copy()]
    step = tg.compiled(tg.value_and_grad(lambda p: total(elman(p, box[0], 0.37), p) + tg.sum(p["h"] @ box[0])))
    p = arguments()
    refs = [weakref.ref(array) for array in (*p.values(), box[0])]
    for _ in range(3):
        step(p)
    while gc.collect():  # what other tests have left may take more than one round
        pass
    gc.disable()
    try:
        for _ in range(5):
            step(p)
        assert gc.collect() == 0
        del p
        box[0] = None
        assert [ref() for ref in refs] == [None] * 4
    finally:
        gc.enable()


def test_a_function_that_closes_over_something_tracked_runs_once():
    runs, w, box = [0], tg.tensor(V, requires_grad=True), []

    def loss(p):
        runs[0] += 1
        return tg.sum(p["h"] @ box[-1])

    step, counts = tg.compiled(tg.value_and_grad(loss)), []
    for array in (w, w, w, V, V, V, w * 2.0, w * 3.0):
        box.append(array)
        runs[0] = 0
        value, _ = step(arguments())
        counts.append(runs[0])
        assert isinstance(value, tg.Tensor) == isinstance(array, tg.Tensor)
        assert np.isclose(np.asarray(tg.stop_gradient(value)), np.sum(h0 @ np.asarray(tg.stop_gradient(array))))
    assert counts == [2, 1, 1, 1, 1, 1, 2, 1]  # where it was not yet known, it had to be followed first


# ---- a trap that is not sprung proves nothing ---------------------------------------------------------------


meets, fits = following.Closed.meet, following.Step.fits


@pytest.mark.parametrize("place, method, careless, name", [
    (following.Same, "meet", lambda self, arg: None, "an outer value"),
    (following.Same, "meet", lambda self, arg: None, "a number"),
    (following.Closed, "meet", lambda self, arg: meets(self, arg) if self.value is None else None, "two that were the same"),
    (following.Closed, "meet", lambda self, arg: setattr(self, "own", ()) or meets(self, arg), "a closed array becomes a value"),
    (following.Step, "fits", lambda self, args, statics: True, "a static"),
    (following.Step, "fits", lambda self, args, statics: fits(self, self.args, statics), "how many"),
], ids=["another value", "another number", "another array", "a value as an array", "another static", "fewer"])
def test_a_planted_carelessness_is_found(place, method, careless, name, monkeypatch):
    monkeypatch.setattr(place, method, careless)
    with pytest.raises((AssertionError, ValueError)):
        test_what_changes_is_noticed(name)
