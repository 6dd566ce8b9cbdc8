"""check_scan and check_cell: right ones pass, and each planted mistake is found."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.check import check_cell, check_scan
from tinygrad_rnn.check.recurrences import RECURRENCES, plain_scan
from tinygrad_rnn.check.scans import _mixed_derivative


def loop(cell, state, xs, reverse=False, *, into=lambda s: s, out=lambda s: s, x_of=lambda x, t: x, order=None):
    """A scan in a few lines, with places to break it at."""
    leaves = xs if isinstance(xs, tuple) else (xs,)
    times, ys = range(len(leaves[0])), {}
    for t in reversed(times) if reverse else times:
        x = tuple(leaf[t] for leaf in leaves) if isinstance(xs, tuple) else xs[t]
        state, ys[t] = cell(into(state), x_of(x, t))
    rows = [ys[t] for t in (order(times) if order else times)]
    ys = tuple(np.stack(column) for column in zip(*rows)) if isinstance(rows[0], tuple) else np.stack(rows)
    return out(state), ys


def through(f):
    return lambda state: tuple(f(s) for s in state) if isinstance(state, tuple) else f(state)


def twice_wrong(x):
    """The identity, whose gradient is right and constant: nothing flows back through it a second time."""
    return first_order_only(x)


@tg.primitive(domain=tg.domains.REALS, elementwise=True, analytic=True)
def first_order_only(x, /):
    """The identity."""
    return np.array(x)


first_order_only.vjp(x=lambda g: g + 0.0 * tg.stop_gradient(g))


@tg.primitive(domain=tg.domains.REALS, elementwise=True, analytic=True)
def squared(x, /):
    """x²."""
    return np.square(x)


squared.vjp(x=lambda g, x: g * 2.0 * tg.stop_gradient(x))


def cut_second_order(x):
    return x + squared(x) - x * x


@pytest.mark.parametrize("compiled", [True, False])
def test_our_scan_passes(compiled):
    report = check_scan(lambda cell, state, xs, **options: tg.scan(cell, state, xs, compiled=compiled, **options))
    assert report.ok and not report.notes, str(report)


def test_a_plain_loop_passes():
    assert check_scan(loop, steps=(3,)).ok


WRONG = {
    "gradient cut between steps": (lambda *a, **k: loop(*a, into=through(tg.stop_gradient), **k), "the derivative of order 1 is wrong"),
    "gradient of the final state lost": (lambda *a, **k: loop(*a, out=through(tg.stop_gradient), **k), "the derivative of order 1 is wrong"),
    "gradient of the sequence lost": (lambda *a, **k: loop(*a, x_of=lambda x, t: through(tg.stop_gradient)(x), **k), "the derivative of order 1 is wrong"),
    "gradient of the first step lost": (lambda *a, **k: loop(*a, x_of=lambda x, t: through(tg.stop_gradient)(x) if t == 0 else x, **k),
                                        "the derivative of order 1 is wrong"),
    "second derivative wrong": (lambda *a, **k: loop(*a, into=through(cut_second_order), **k), "the derivative of order 2 is wrong"),
    "outputs in reverse order": (lambda *a, **k: loop(*a, order=reversed, **k), "the value is wrong"),
    "reverse ignored": (lambda cell, state, xs, reverse=False: loop(cell, state, xs), "the value is wrong"),
    "the first state returned": (lambda cell, state, xs, **k: (state, loop(cell, state, xs, **k)[1]), "the value is wrong"),
    "one step too few": (lambda cell, state, xs, **k: loop(cell, state, through(lambda x: x[:-1])(xs), **k), "the value is wrong"),
    "raises": (lambda cell, state, xs, **k: 1 / 0, "it raises ZeroDivisionError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_scan_is_found(name):
    scan, what = WRONG[name]
    report = check_scan(scan, steps=(3,))
    assert not report.ok
    assert what in {finding.what for finding in report.findings}, str(report)


def test_what_a_scan_refuses_is_noted():
    report = check_scan(lambda cell, state, xs: loop(cell, state, xs), steps=(2,), orders=1)
    assert report.ok and any("reverse was refused" in note for note in report.notes)


def test_a_scan_that_refuses_everything_is_wrong():
    for scan in (lambda cell, state, xs, **k: None, lambda cell, state: state):
        report = check_scan(scan, steps=(2,))
        assert not report.ok and report.findings[0].what == "it refuses every recurrence", str(report)


@pytest.mark.parametrize("options", [{"scan": 3}, {"orders": 4}, {"steps": (0,)}, {"steps": ()}, {"recurrences": ("x",)}, {"recurrences": ()}], ids=str)
def test_what_cannot_be_checked_is_refused_in_words(options):
    with pytest.raises(tg.errors.ArgumentError, match="this cannot be checked"):
        check_scan(**{"scan": tg.scan} | options)


def test_the_reference_agrees_with_closed_forms():
    f = lambda x, y: np.sum(np.sin(x) * y**3)
    point = [np.array([0.3, 0.7]), np.array([1.1, 0.4])]
    rng = np.random.default_rng(0)
    u, v, w = ([rng.normal(size=2), rng.normal(size=2)] for _ in range(3))
    s, c, y = np.sin(point[0]), np.cos(point[0]), point[1]
    assert _mixed_derivative(f, point, [u]) == pytest.approx(np.sum(c * u[0] * y**3 + s * 3 * y**2 * u[1]), rel=1e-9)
    second = -s * u[0] * v[0] * y**3 + c * 3 * y**2 * (u[0] * v[1] + u[1] * v[0]) + s * 6 * y * u[1] * v[1]
    assert _mixed_derivative(f, point, [u, v]) == pytest.approx(np.sum(second), rel=1e-8)
    third = (-c * u[0] * v[0] * w[0] * y**3 - s * 3 * y**2 * (u[0] * v[0] * w[1] + u[0] * v[1] * w[0] + u[1] * v[0] * w[0])
             + c * 6 * y * (u[0] * v[1] * w[1] + u[1] * v[0] * w[1] + u[1] * v[1] * w[0]) + s * 6 * u[1] * v[1] * w[1])
    assert _mixed_derivative(f, point, [u, v, w]) == pytest.approx(np.sum(third), rel=1e-7)


@pytest.mark.parametrize("name", RECURRENCES)
def test_every_recurrence_is_smooth_enough_for_its_reference(name):
    rng = np.random.default_rng(1)
    point = [rng.normal(size=(2, 3)), rng.normal(size=(4, 2, 2)), rng.normal(size=(2, 3)), 0.7 * rng.normal(size=(3, 3))]
    directions = [[rng.normal(size=x.shape) for x in point] for _ in range(3)]
    assert np.isfinite(_mixed_derivative(lambda *a: sum(np.sum(y) for y in RECURRENCES[name](np, plain_scan, *a)), point, directions))


# ---- cells --------------------------------------------------------------------------------------------------

STATE, XS = np.random.default_rng(2).normal(size=(3, 4)), np.random.default_rng(3).normal(size=(4, 3, 4))
W = tg.tensor(0.5 * np.random.default_rng(4).normal(size=(4, 4)), requires_grad=True)


def closing_over(w=W):
    def cell(h, x):
        h = np.tanh(x + h @ w)
        return h, h

    return cell


@pytest.mark.parametrize("cell", [tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.GRUCell], ids=lambda c: c.__name__)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_librarys_cells_pass(cell, dtype):
    report = check_cell(cell(3, 4, rng=0, dtype=dtype))
    assert report.ok, str(report)


def test_a_function_passes_and_its_weights_are_found():
    report = check_cell(closing_over(), STATE, XS)
    assert report.ok and not report.notes, str(report)


def test_a_cell_with_a_tree_for_a_state_passes():
    def cell(state, x):
        h = np.tanh(x @ W + state["h"] * tg.sigmoid(state["c"]))
        return {"h": h, "c": state["c"] * 0.9 + h}, {"both": h * state["c"]}

    report = check_cell(cell, {"h": STATE, "c": STATE}, XS)
    assert report.ok, str(report)


def test_a_cell_that_python_branches_on_is_noted():
    def cell(h, x):
        h = np.tanh(x + h)
        return (h if tg.sum(h).item() > 1e9 else h * 0.5), h

    report = check_cell(cell, STATE, XS)
    assert report.ok and any("cannot be compiled" in note for note in report.notes), str(report)


def test_rows_that_see_each_other_are_noted():
    def cell(h, x):
        h = np.tanh(x + h - np.mean(h, axis=0, keepdims=True))
        return h, h

    report = check_cell(cell, STATE, XS)
    assert report.ok and any("see each other" in note for note in report.notes), str(report)


count = {"calls": 0}
noise = np.random.default_rng(0)


def counting(h, x):
    count["calls"] += 1
    h = np.tanh(x + h) * (1.0 + 0.01 * count["calls"])
    return h, h


def greedy(h, x):
    if isinstance(x, np.ndarray):
        x *= 2.0
    h = np.tanh(x + h)
    return h, h


@tg.primitive(domain=tg.domains.REALS, elementwise=True)
def crooked_tanh(x, /, *, out=None):
    """tanh with a wrong rule."""
    return np.tanh(x, out=out)


crooked_tanh.vjp(x=lambda g, y: g * (1 - y))
kept = []


def hoarding():
    w = W

    def cell(h, x):
        h = np.tanh(x + h @ w)
        kept.append(h)
        return h, h

    return cell


class SelfWriting(tg.nn.RNNCell):
    def __call__(self, h, x):
        self.weight_hh.data = self.weight_hh.data * 0.99
        return super().__call__(h, x)


WRONG_CELLS = {
    "one result": (lambda h, x: np.tanh(x + h), "it does not return (state, y)"),
    "three results": (lambda h, x: (h, x, x), "it does not return (state, y)"),
    "another structure": (lambda h, x: ((h, h), x), "it changes the structure of its state"),
    "another shape": (lambda h, x: (tg.sum(h + x, axis=0), x), "it changes the shape of its state"),
    "another dtype": (lambda h, x: ((h + x).astype(np.float32), x), "it changes the dtype of its state"),
    "an exception": (lambda h, x: h @ x, "it raises ShapeError"),
    "counts its calls": (counting, "equal calls give different results"),
    "draws at random": (lambda h, x: (h + x * noise.normal(), x), "equal calls give different results"),
    "writes to x": (greedy, "it writes to its inputs"),
    "a wrong rule": (lambda h, x: (crooked_tanh(h + x), x), "the derivative of order 1 is wrong"),
    "a wrong second derivative": (lambda h, x: (squared(h + x), x), "the derivative of order 2 is wrong"),
    "double precision inside": (lambda h, x: (h + x, x * np.ones(4)), "float32 does not stay float32"),
    "memory that is kept": (hoarding(), "memory grows with every run"),
    "writes to its parameters": (SelfWriting(4, 4, rng=0), "it writes to its parameters"),
}


@pytest.mark.parametrize("name", WRONG_CELLS)
def test_a_wrong_cell_is_found(name):
    cell, what = WRONG_CELLS[name]
    report = check_cell(cell, STATE, XS)
    assert not report.ok
    assert what in {finding.what for finding in report.findings}, str(report)


class Holding:
    """A cell that is no module: an array as an attribute."""

    def __init__(self):
        self.w = 0.5 * np.eye(4)

    def __call__(self, h, x):
        h = np.tanh(x + h @ self.w)
        return h, h


def test_a_cell_that_closes_over_double_precision_is_noted():
    for cell, name in ((closing_over(0.5 * np.eye(4)), "w"), (Holding(), "w")):
        report = check_cell(cell, STATE, XS)
        assert report.ok and f"it closes over float64 arrays ({name}): single precision becomes double through them" in report.notes, str(report)


def test_the_tensors_of_an_object_are_its_parameters():
    class Crooked(Holding):
        def __init__(self):
            self.w = tg.tensor(0.5 * np.eye(4), requires_grad=True)

        def __call__(self, h, x):
            h = np.tanh(x + h @ crooked_tanh(self.w))
            return h, h

    report = check_cell(Crooked(), STATE, XS)
    assert {finding.facts.get("with respect to") for finding in report.findings if "order 1 is wrong" in finding.what} == {"w"}, str(report)


def test_a_cell_without_a_state_passes():
    report = check_cell(lambda state, x: (state, np.tanh(x)), (), XS)
    assert report.ok and not report.notes, str(report)


def test_what_is_no_cell_or_no_sequence_is_refused_in_words():
    for cell, xs, text in ((3, XS, "cannot be called"), (tg.nn.RNNCell, XS, "this is a class"), (closing_over(), XS[:0], "no sequence of one length"),
                           (closing_over(), np.array(1.0), "no sequence of one length"), (closing_over(), (XS, XS[:2]), "no sequence of one length")):
        with pytest.raises(tg.errors.ArgumentError, match=text):
            check_cell(cell, STATE, xs)
    with pytest.raises(tg.errors.DomainError, match="no check of this order"):
        check_cell(closing_over(), STATE, XS, order=4)


def test_it_must_be_known_what_to_call_a_cell_with():
    with pytest.raises(tg.errors.ArgumentError) as caught:
        check_cell(closing_over())
    assert str(caught.value) == ("check_cell(cell): it is not known what to call this cell with\n  state  missing\n  xs     missing\n"
                                 "Pass an initial state, and a sequence with time first.")
