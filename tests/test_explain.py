"""Looking inside: trace, anomaly, ledger, pictures and graphs."""

import doctest
import re
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import explain
from tinygrad_rnn.errors import ArgumentError, GradientError, MissingExtraError, NonFiniteError, ShapeError, TraceError

SOURCES = [
    (tg.sources.elman.loss, *tg.sources.elman.example()),
    (tg.sources.step_by_step.loss, *tg.sources.step_by_step.example()),
    (tg.sources.sine_wave.loss, *tg.sources.sine_wave.example()),
    (tg.sources.classifier.loss, *tg.sources.classifier.example()),
    (tg.sources.counting.loss_linear, {"wx": 0.2, "wrec": 1.5}, (np.tril(np.ones((3, 3))), np.array([1.0, 2, 3]))),
]
NAMES = ["elman", "step_by_step", "sine_wave", "classifier", "counting"]


def gated(p, xs, **options):
    """A minimal gated unit with a loss at every step."""
    def cell(h, x):
        f = tg.sigmoid(x @ p["Wf"] + h @ p["Uf"] + p["b"])
        c = tg.tanh(x @ p["Wc"] + (f * h) @ p["Uc"])
        h = h + f * (c - h)
        return h, h

    _, ys = tg.scan(cell, p["h0"], xs, **options)
    return tg.sum(ys * ys, axis=tuple(range(1, ys.ndim)))


def gated_case(T=6, B=2, I=3, H=4, seed=0):
    r = np.random.default_rng(seed).normal
    shapes = dict(Wf=(I, H), Uf=(H, H), b=(H,), Wc=(I, H), Uc=(H, H), h0=(B, H))
    return {name: r(size=shape) for name, shape in shapes.items()}, r(size=(T, B, I))


def scalar(*args, **options):
    return tg.sum(gated(*args, **options))


# ---- trace --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss, params, data", SOURCES, ids=NAMES)
def test_trace_of_every_source_has_the_gradients_and_the_loss(loss, params, data):
    found = explain.trace(loss, params, data)
    grads = tg.grad(loss)(params, *data)
    for name in params:
        np.testing.assert_allclose(found[name][0].cotangent, grads[name], rtol=1e-12, atol=1e-14, err_msg=name)
    np.testing.assert_allclose(found.rows[-1].value, loss(params, *data), rtol=1e-14)
    assert [row.order for row in found] == list(range(len(found)))


def test_trace_names_values_as_the_cell_does_and_counts_steps():
    params, xs = gated_case()
    found = explain.trace(scalar, params, (xs,))
    for name in ("f", "c", "h", "x"):
        assert [row.step for row in found[name]] == list(range(6)), name
    assert found["ys"][0].step is None and found["ys"][0].op == "stack"
    assert found["f", 2].op == "sigmoid" and found["f", 2].function == "cell" and found["f", 2].line.startswith("test_explain.py:")
    h, f, c = (found.over_time(name) for name in "hfc")
    before = np.concatenate([params["h0"][None], h[:-1]])
    np.testing.assert_allclose(h, before + f * (c - before), rtol=1e-14)
    np.testing.assert_allclose(found["f", 0].value_norm, np.linalg.norm(f[0]))


def test_cotangents_are_those_of_differences():
    params, xs = gated_case()
    found = explain.trace(scalar, params, (xs,))
    h, step = found["h", 3].value, 1e-5

    def rest(h):
        return scalar({**params, "h0": h}, xs[4:]) + np.sum(h * h)

    for at in np.ndindex(h.shape):
        e = np.zeros(h.shape)
        e[at] = step
        slope = (rest(h + e) - rest(h - e)) / (2 * step)
        np.testing.assert_allclose(found["h", 3].cotangent[at], slope, rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(found.over_time("h", cotangents=True)[3], found["h", 3].cotangent)


def test_trace_names_follow_rebinding_in_a_plain_loop():
    def loss(p, xs):
        h = p["h0"]
        for x in xs:
            z = x @ p["W"]
            h = tg.tanh(z + h)
        return tg.sum(h)

    found = explain.trace(loss, {"W": np.eye(2), "h0": np.zeros(2)}, np.ones((3, 2)))
    assert len(found["z"]) == len(found["h"]) == 3


def test_a_value_keeps_its_callers_name():
    def double(inner):
        result = inner * 2
        return result

    def loss(p):
        outer = p * 3
        twice = double(outer)
        return tg.sum(twice)

    assert explain.trace(loss, np.ones(2)).names == ["params", "outer", "twice", "sum"]


def test_values_that_do_not_reach_the_loss_have_no_cotangent():
    def loss(p):
        unused = p * 2
        seen = unused.detach() * p
        return tg.sum(seen)

    found = explain.trace(loss, np.ones(2))
    assert found["unused"][0].cotangent is None and found["unused"][0].cotangent_norm is None
    np.testing.assert_array_equal(found["seen"][0].cotangent, [1, 1])


def test_the_table_is_pinned():
    def loss(p, x):
        z = x * p["w"]
        return tg.sum(z * z)

    assert str(explain.trace(loss, {"w": 3.0}, np.array([1.0, 2.0]))) == """\
#  step  name      op        in    shape  |value|  |cotangent|
0        w         input           ()           3           30
1        z         multiply  loss  (2,)     6.708        13.42
2        multiply  multiply  loss  (2,)     37.11        1.414
3        sum       sum       loss  ()          45            1"""


def test_long_tables_are_shortened_and_nothing_is_lost():
    params, xs = gated_case(T=30)
    found = explain.trace(scalar, params, (xs,))
    assert len(str(found).splitlines()) == 62 and f"{len(found) - 60} more rows" in str(found)
    assert len(found.table(limit=None).splitlines()) == len(found) + 1
    assert repr(found).startswith(f"Trace({len(found)} rows, loss ")


def test_trace_sees_through_checkpoint_and_restores_what_it_touched():
    params, xs = gated_case()
    before = sys.getprofile()
    found = explain.trace(lambda p, xs: scalar(p, xs, checkpoint=2), params, (xs,))
    assert sys.getprofile() is before and tg.tensor(1.0).requires_grad is False
    plain = explain.trace(scalar, params, (xs,))
    np.testing.assert_allclose(found["h", 0].cotangent, plain["h", 0].cotangent, rtol=1e-12)
    with pytest.raises(ZeroDivisionError):
        explain.trace(lambda p: 1 / 0, params)
    assert sys.getprofile() is before
    assert isinstance(tg.add(1.0, 2.0), float | np.floating)


def test_trace_says_what_it_cannot_do():
    with pytest.raises(GradientError, match=r"the loss is not a scalar\n  shape  \(2,\)\nReduce it"):
        explain.trace(lambda p: p * 2, np.ones(2))
    with pytest.raises(GradientError, match="the loss does not depend on params"):
        explain.trace(lambda p: tg.sum(p.detach()), np.ones(2))
    found = explain.trace(lambda p: tg.sum(p), np.ones(2))
    with pytest.raises(ArgumentError, match=r"trace\['h'\]: there is no such intermediate\n  names  params, sum\nPick one"):
        found["h"]
    with pytest.raises(ArgumentError, match="not computed inside a scan"):
        found.over_time("sum")


# ---- anomaly ------------------------------------------------------------------------------------------------


def caught(f, *args):
    with pytest.raises(NonFiniteError) as error, explain.anomaly():
        f(*args)
    return str(error.value)


def test_double_where_names_log():
    text = caught(tg.grad(lambda x: tg.sum(tg.where(x > 0, tg.log(x), 0.0))), np.array([1.0, 0.0]))
    assert re.sub(r"test_explain.py:\d+", "LINE", text) == """\
log(x): an infinity is born in the forward pass
  function  <lambda>
  line      LINE
  x         (2,), finite, 0 to 1
  result    1 of 2 elements not finite, the first at [1] is -inf
Keep the inputs where log is finite, also in a branch that where() does not take: log(where(x > 0, x, 1))."""


def test_a_nan_of_the_backward_is_laid_at_the_op_that_bore_it():
    text = caught(tg.grad(lambda x: tg.sum(tg.where(x > 0, tg.sqrt(x), 0.0))), np.array([1.0, 0.0]))
    assert text.startswith("sqrt(x): a nan is born in the backward pass, in the cotangent of x\n")
    assert "cotangent of x  1 of 2 elements not finite, the first at [1] is nan" in text
    assert "infinity is born in the backward" in caught(tg.grad(tg.sqrt), 0.0)


def test_exploding_network_names_op_function_and_step():
    def loss(p, xs):
        def cell(h, x):
            z = h @ p["W"]
            h = z * z + x
            return h, h

        return tg.sum(tg.scan(cell, np.ones(3), xs)[0])

    text = caught(tg.grad(loss), {"W": 10 * np.ones((3, 3))}, np.ones((20, 3)))
    assert text.startswith("multiply(a, b): an infinity is born in the forward pass, at step 6\n")
    assert re.search(r"\n  step      6\n  function  cell\n  line      test_explain.py:\d+\n  z         \(3,\), finite, ", text)
    assert text.endswith("\nLook at the sizes of the inputs: a smaller step, clipped gradients or another scale keep them finite.")


def test_a_backward_that_explodes_names_the_step():
    def loss(w):
        def cell(h, x):
            return tg.tanh(1e30 * (w * h) * 1e-30), h

        return tg.sum(tg.scan(cell, np.zeros(2), np.zeros(15))[0]) * 1e300

    text = caught(tg.grad(loss), 1e30)
    assert "an infinity is born in the backward pass" in text and re.search("at step 1[0-4]\n", text)


def test_a_parameter_that_is_not_finite_is_named():
    params, xs = gated_case()
    params["Uf"][1, 2] = np.nan
    text = caught(tg.grad(scalar), params, xs)
    assert text.startswith("matmul(a, b): p.Uf comes in with a nan, at step 0\n")
    assert "  p.Uf      (4, 4), 1 of 16 elements not finite" in text
    assert text.endswith("Look at what made p.Uf: a step that was too large, or data that holds it already.")


def test_parameters_of_an_object_are_named():
    class Cell:
        def __init__(self):
            self.W = tg.tensor(np.full((2, 2), np.inf), requires_grad=True)

        def __call__(self, h, x):
            h = tg.tanh(h @ self.W)
            return h, h

    text = caught(tg.scan, Cell(), np.ones(2), np.zeros(3))
    assert "self.W comes in with an infinity" in text and "Cell.__call__" in text
    layer = tg.nn.LSTM(3, 5)
    layer.weight_hh_l0.data = np.full((20, 5), np.nan)
    text = caught(layer, np.ones((4, 2, 3)))  # the weight is transposed before it is used
    assert text.startswith("matmul(a, b): self.weight_hh comes in with a nan, at step 0\n") and "\n  function        LSTMCell.__call__\n" in text


def test_what_is_meant_passes():
    mask = np.array([True, False, True])
    with explain.anomaly():
        g = tg.grad(lambda x: tg.softmax(tg.reshape(tg.where(mask, x, -np.inf), (3, 1)), axis=0)[0, 0])(np.arange(3.0))
        assert np.isfinite(g).all()
    assert "a nan is born" in caught(lambda x: tg.where(mask, x, -np.inf) - tg.where(mask, x, -np.inf), tg.tensor(np.ones(3)))


def test_padding_with_nan_is_no_anomaly():
    params, xs = gated_case(T=4)
    xs[2:, 1] = np.nan
    with explain.anomaly():
        grads = tg.grad(scalar)(params, xs, lengths=np.array([4, 2]))
    assert all(np.isfinite(g).all() for g in grads.values())
    assert caught(tg.grad(scalar), params, xs).startswith("matmul(a, b): x comes in with a nan, at step 2\n")


def test_the_watch_ends_with_the_block_and_changes_no_number():
    params, xs = gated_case()
    expected = tg.grad(scalar)(params, xs, compiled=False)
    with explain.anomaly():
        watched = tg.grad(scalar)(params, xs)
        second = tg.hvp(lambda p: scalar(p, xs), (params,), (params,))
    for name in params:
        np.testing.assert_allclose(watched[name], expected[name], rtol=1e-14, atol=1e-14, err_msg=name)  # BLAS may round by alignment
        assert np.isfinite(second[name]).all()
    with np.errstate(divide="ignore"):
        assert tg.log(tg.tensor(0.0)).item() == -np.inf
    x = tg.tensor([0.0], requires_grad=True)
    with explain.anomaly():
        y = tg.sqrt(x)
    with pytest.raises(NonFiniteError, match="born in the backward pass"):
        y.backward()


def test_second_order_blames_the_op_whose_rule_it_is():
    text = caught(tg.grad(tg.grad(lambda x: tg.sqrt(x * x) ** 3)), 0.0)
    assert "sqrt(x)" in text and "backward" in text


def test_a_guard_that_looks_away_is_found(monkeypatch):
    """The tests above can fail: without a look at what the rules return, nothing is raised."""
    from tinygrad_rnn.explain.anomaly import Guard

    monkeypatch.setattr(Guard, "pull", lambda self, g, saved, into: self.plan.pull(g, saved, into))
    with np.errstate(all="ignore"), pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        caught(tg.grad(tg.sqrt), 0.0)


def test_watching_inside_a_traced_cell_is_refused():
    class Tracing:
        tracing, name = True, "a cell"

    with tg.tensor.__globals__["switched"](recorder=Tracing()), pytest.raises(TraceError, match=r"anomaly\(\): called while a cell is traced"):
        with explain.anomaly():
            pass


# ---- ledger -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss, params, data", SOURCES, ids=NAMES)
def test_ledger_sums_to_the_gradient_of_every_source(loss, params, data):
    account, grads = explain.ledger(loss, params, data), tg.grad(loss)(params, *data)
    for name in params:
        np.testing.assert_allclose(account.gradient[name], grads[name], rtol=1e-13, atol=1e-15, err_msg=name)
        np.testing.assert_array_equal(account.gradient[name], account.weights[name].sum(axis=0) + account.rest[name])


OPTIONS = st.sampled_from([{}, {"reverse": True}, {"checkpoint": 2}, {"lengths": np.array([4, 2])}, {"truncate": (2, 3)},
                           {"truncate": (1, 1)}, {"truncate": (2, 4), "reverse": True}])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), T=st.integers(4, 7), options=OPTIONS)
def test_ledger_sums_to_the_gradient_under_every_option(seed, T, options):
    params, xs = gated_case(T, seed=seed)
    account, grads = explain.ledger(lambda p, xs: gated(p, xs, **options), params, xs), tg.grad(scalar)(params, xs, **options)
    for name in params:
        np.testing.assert_allclose(account.gradient[name], grads[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_shares_are_those_of_weights_that_differ_in_time():
    """Untie the weights: one copy per step, fed through xs; the gradient of copy t is dW_t."""
    params, xs = gated_case()

    def untied(stacked, xs):
        def cell(h, at):
            p, x = at
            f = tg.sigmoid(x @ p["Wf"] + h @ p["Uf"] + p["b"])
            c = tg.tanh(x @ p["Wc"] + (f * h) @ p["Uc"])
            h = h + f * (c - h)
            return h, h

        _, ys = tg.scan(cell, params["h0"], (stacked, xs))
        return tg.sum(ys * ys)

    weights = {name: value for name, value in params.items() if name != "h0"}
    copies = {name: np.stack([value] * len(xs)) for name, value in weights.items()}
    expected, account = tg.grad(untied)(copies, xs), explain.ledger(scalar, params, xs)
    for name in weights:
        np.testing.assert_allclose(account.weights[name], expected[name], rtol=1e-12, atol=1e-14, err_msg=name)
        np.testing.assert_allclose(account.norms(name), np.linalg.norm(expected[name].reshape(len(xs), -1), axis=1))
    assert not account.rest["Uf"].any() and account.weights["h0"][0].any() and not account.weights["h0"][1:].any()


@pytest.mark.parametrize("vector", [True, False])
def test_a_linear_network_matches_the_powers_of_its_matrix(vector):
    rng = np.random.default_rng(3)
    W, V, xs, h0 = rng.normal(size=(4, 4)), rng.normal(size=(4, 2)), rng.normal(size=(7, 4)), rng.normal(size=4)

    def loss(p):
        _, ys = tg.scan(lambda h, x: ((h := h @ p["W"] + x), h @ V), h0, xs)
        return tg.sum(tg.square(ys), axis=1) if vector else tg.sum(tg.square(ys))

    flow = explain.ledger(loss, {"W": W}).flow
    h, states = h0, []
    for x in xs:
        states.append(h := h @ W + x)
    for s in range(7):
        for t in range(7):
            expected = np.linalg.norm(2 * states[s] @ V @ V.T @ np.linalg.matrix_power(W, s - t).T) if s >= t else 0.0
            np.testing.assert_allclose(flow[s, t], expected, rtol=1e-11, atol=1e-300, err_msg=f"{s} {t}")


def test_states_that_pass_through_swap_or_wait_keep_their_step():
    def loss(p):
        def cell(state, x):
            a, b, before = state
            return (b, a * p, a), a  # swapped, scaled, delayed

        _, ys = tg.scan(cell, (np.array(1.0), np.array(2.0), np.array(0.0)), np.zeros(4))
        return ys

    account = explain.ledger(loss, 0.5)
    leaves = account.flows[0].leaves
    # y_s is a_{s-1}: leaf 0 of the state that leaves step s − 1 reaches it whole, what leaves s − 2 in leaf 1 also
    np.testing.assert_allclose(np.diag(leaves["state[0]"], -1), 1.0)
    np.testing.assert_allclose(np.diag(leaves["state[1]"], -2), 1.0)
    np.testing.assert_allclose(np.diag(leaves["state[0]"], -3), 0.5)
    assert not leaves["state[2]"].any()
    np.testing.assert_allclose(account.gradient["params"], tg.grad(lambda p: tg.sum(loss(p)))(0.5))


def test_a_state_that_never_changes():
    account = explain.ledger(lambda p: tg.scan(lambda h, x: (h, h * x), p, np.arange(1.0, 4.0))[1], np.array(2.0))
    np.testing.assert_allclose(account.flow, np.tril(np.ones((3, 3)), -1) * np.arange(1.0, 4.0)[:, None])
    np.testing.assert_allclose(account.gradient["params"], 6.0)


def test_two_layers_have_two_flows():
    def loss(p, xs):
        _, ys = tg.scan(lambda h, x: ((h := tg.tanh(x + h * p["a"])), h), np.zeros(2), xs)
        _, zs = tg.scan(lambda h, x: ((h := tg.tanh(x * p["b"] + h)), h), np.zeros(2), ys)
        return tg.sum(zs * zs, axis=1)

    params, xs = {"a": 0.3, "b": np.array([0.2, 1.1])}, np.random.default_rng(0).normal(size=(5, 2))
    account, grads = explain.ledger(loss, params, xs), tg.grad(lambda p: tg.sum(loss(p, xs)))(params)
    assert len(account.flows) == 2 and all(np.all(np.triu(flow.matrix, 1) == 0) for flow in account.flows)
    for name in params:
        np.testing.assert_allclose(account.gradient[name], grads[name], rtol=1e-13)


def test_a_cell_that_differentiates_inside_loses_no_share():
    def loss(p):
        def cell(h, x):
            return h - 0.1 * tg.grad(lambda h: tg.sum(tg.sin(h * p)))(h) + x, None

        return tg.sum(tg.scan(cell, np.ones(3), np.ones((4, 3)))[0])

    np.testing.assert_allclose(explain.ledger(loss, 0.7).gradient["params"], tg.grad(loss)(0.7), rtol=1e-13)


def test_ledger_text_and_refusals():
    def loss(p):
        return tg.sum(tg.scan(lambda h, x: (p["w"] * h, None), 1.0, np.zeros(3))[0]) + p["bias"]

    account = explain.ledger(loss, {"w": 0.5, "bias": 1.0})
    assert str(account) == """\
weight  shape  |gradient|  |rest|  |dW_0|  |dW_T-1|  largest at
w       ()           0.75       0    0.25      0.25      step 0
bias    ()              1       1       0         0           -"""
    with pytest.raises(ShapeError, match="neither a scalar nor a vector"):
        explain.ledger(lambda p: p, np.ones((2, 2)))
    with pytest.raises(GradientError, match="does not depend on params"):
        explain.ledger(lambda p: 1.0, np.ones(2))
    with pytest.raises(ArgumentError, match="the loss runs no scan"):
        _ = explain.ledger(lambda p: tg.sum(p), np.ones(2)).flow


def test_a_planted_fault_breaks_the_account(monkeypatch):
    """A piece that is counted at two steps must make the sum differ: the tests above can fail."""
    from tinygrad_rnn.explain.ledger import _Parting

    params, xs = gated_case()
    monkeypatch.setattr(_Parting, "piece", lambda self, value, t, piece=_Parting.piece: (piece(self, value, t + 1 if t else t)))
    shifted = explain.ledger(scalar, params, xs)
    right = tg.grad(scalar)(params, xs)
    np.testing.assert_allclose(shifted.gradient["Uf"], right["Uf"], rtol=1e-12)
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(shifted.weights["Uf"], np.resize(explain.ledger(scalar, params, xs).weights["Uf"], shifted.weights["Uf"].shape))


# ---- pictures -----------------------------------------------------------------------------------------------


def rectangles(figure):
    """The visible texts of a figure with the boxes they cover, in pixels."""
    figure.draw_without_rendering()
    renderer, found = figure.canvas.get_renderer(), []
    for ax in figure.axes:
        x0, y0, x1, y1 = ax.bbox.extents + [-1, -1, 1, 1]
        ticks = [t for t in ax.get_xticklabels(which="both") if x0 <= ax.transData.transform((t.get_position()[0], ax.get_ylim()[0]))[0] <= x1]
        ticks += [t for t in ax.get_yticklabels(which="both") if y0 <= ax.transData.transform((ax.get_xlim()[0], t.get_position()[1]))[1] <= y1]
        legend = ax.get_legend()
        for text in [ax.title, ax.xaxis.label, ax.yaxis.label, *ticks, *(legend.get_texts() if legend else [])]:
            if text.get_visible() and text.get_text().strip():
                found.append((text.get_text(), text.get_window_extent(renderer)))
    return found


def legible(figure):
    """Whether every text lies inside the figure and no two overlap."""
    found, whole = rectangles(figure), figure.bbox
    out = [name for name, box in found if box.x0 < -1 or box.y0 < -1 or box.x1 > whole.x1 + 1 or box.y1 > whole.y1 + 1]
    clash = [(a, b) for i, (a, p) in enumerate(found) for b, q in found[i + 1:]
             if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1]
    return not out and not clash and len(found) > 3, (out, clash)


TEXT = "The cat sat on\nthe mat, it costs $5."
r = np.random.default_rng(0).normal
FIGURES = {
    "heat_map": lambda P, path: P.heat_map(explain.ledger(gated, *gated_case(T=30)), path=path),
    "heat_map of two steps": lambda P, path: P.heat_map(np.array([[1.0, 0.0], [1e-9, 1.0]]), path=path),
    "heat_map of one value": lambda P, path: P.heat_map(np.ones((1, 1)), path=path),
    "heat_map of nothing that flows": lambda P, path: P.heat_map(np.zeros((4, 4)), path=path),
    "heat_map that explodes": lambda P, path: P.heat_map(np.tril(10.0 ** np.arange(265, 305)[:, None]), path=path),
    "gradient_norms": lambda P, path: P.gradient_norms(explain.ledger(gated, *gated_case(T=20)), path=path),
    "gradient_norms of many": lambda P, path: P.gradient_norms({f"weight_hh_l{i}": abs(r(size=15)) for i in range(16)}, path=path),
    "activations": lambda P, path: P.activations(TEXT, {"f": abs(r(size=(len(TEXT), 1, 8))) / 9, "h": np.tanh(r(size=(len(TEXT), 8)))}, path=path),
    "activations of four panels": lambda P, path: P.activations("aé漢\x00_^", {n: r(size=(6, 64)) for n in "ifgo"}, path=path),
    "activations over a page": lambda P, path: P.activations(3 * TEXT, {"h": r(size=(3 * len(TEXT), 3))}, path=path),
    "activations over a book": lambda P, path: P.activations(30 * TEXT, {"h": r(size=(30 * len(TEXT), 30))}, path=path),
    "v_curve": lambda P, path: P.v_curve(10.0 ** -np.arange(1, 13), {"right": 10.0 ** -abs(np.arange(12) - 6), "wrong": np.full(12, 0.01)}, path=path),
    "v_curve of one": lambda P, path: P.v_curve([1e-3, 1e-4], [1e-6, 0.0], path=path),
    "loss_curves": lambda P, path: P.loss_curves({"training": 1 / np.arange(1, 60), "validation": 2 / np.arange(1, 60)}, path=path),
    "loss_curves of one": lambda P, path: P.loss_curves([3.0, np.nan, 2.0], path=path),
    "forecast": lambda P, path: P.forecast(np.sin(np.arange(50)), {"engine": np.sin(np.arange(50)) + 0.1, "by hand": np.zeros(50)}, path=path),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_is_written_and_legible(name, tmp_path):
    pytest.importorskip("matplotlib")
    figure = FIGURES[name](explain.pictures, tmp_path / "picture.png")
    fine, why = legible(figure)
    assert fine, why
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_the_legibility_test_can_fail():
    pytest.importorskip("matplotlib")
    figure = explain.pictures.loss_curves({"a": [1.0, 2.0]})
    figure.axes[0].tick_params(labelsize=90)
    assert not legible(figure)[0]


def test_pictures_say_what_does_not_fit(monkeypatch):
    pytest.importorskip("matplotlib")
    P = explain.pictures
    with pytest.raises(ShapeError, match=r"h does not have a row for each character\n  h           \(3, 2\)\n  characters  2\n"):
        P.activations("ab", {"h": np.ones((3, 2))})
    with pytest.raises(ShapeError, match="there is no matrix to draw"):
        P.heat_map(np.ones(3))
    with pytest.raises(ShapeError, match="not one error for each step"):
        P.v_curve([1, 2], [1.0])
    with pytest.raises(ShapeError, match="prediction and truth differ in length"):
        P.forecast(np.ones(3), np.ones(2))
    with pytest.raises(ArgumentError, match="nothing to draw"):
        P.activations("ab", {})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError) as error:
        P.loss_curves([1.0])
    assert str(error.value) == """\
loss_curves(curves): matplotlib is not installed
  needed for  pictures
Install it with: pip install tinygrad-rnn[lab]"""


# ---- graphs -------------------------------------------------------------------------------------------------


def lstm_case():
    p = {name: r(size=(2 if name[0] == "W" else 3, 3)) for name in ("Wf", "Wi", "Wo", "Wg", "Uf", "Ui", "Uo", "Ug")}

    def lstm(state, x):
        h, c = state
        f, i, o = (tg.sigmoid(x @ p["W" + k] + h @ p["U" + k]) for k in "fio")
        g = tg.tanh(x @ p["Wg"] + h @ p["Ug"])
        c = f * c + i * g
        h = o * tg.tanh(c)
        return (h, c), h

    return lstm, (np.zeros(3), np.zeros(3)), np.zeros((4, 2))


def elman_case():
    W, U, b = r(size=(2, 3)), r(size=(3, 3)), r(size=3)

    def elman(h, x):
        h = tg.tanh(x @ W + h @ U + b)
        return h, {"probability <1": 1 - h, "raw": h}

    return elman, np.zeros(3), np.zeros((5, 2))


def swap_case():
    return (lambda state, x: ((state[1], state[0]), None)), (1.0, 2.0), np.zeros(3)


def test_the_mermaid_text_is_pinned():
    W = np.ones((2, 2))

    def cell(h, x):
        z = 2 * x + h @ W
        return z, z

    assert explain.graph(cell, np.zeros(2), np.zeros((3, 2))).mermaid() == """\
flowchart LR
  n0(["hₜ₋₁"]):::state
  n1(["xₜ"]):::input
  n6(["yₜ"]):::output
  n7(["hₜ"]):::state
  subgraph g0["cell: one step, repeated for every t"]
    n2["2 × ·"]:::op
    n3{{"W"}}:::parameter
    n4["@"]:::op
    n5["z = · + ·"]:::op
  end
  n1 --> n2
  n0 --> n4
  n3 --> n4
  n2 --> n5
  n4 --> n5
  n5 --> n6
  n5 --> n7
  n7 -. next step .-> n0
  classDef state fill:#cfe5f5,stroke:#0072b2,color:#000
  classDef input fill:#cdeee2,stroke:#009e73,color:#000
  classDef parameter fill:#fdebc5,stroke:#c98a00,color:#000
  classDef op fill:#ffffff,stroke:#555555,color:#000
  classDef cell fill:#ffffff,stroke:#555555,color:#000
  classDef output fill:#f6dcea,stroke:#b5568c,color:#000
"""


def test_rolled_and_unrolled_hang_together():
    for case in (lstm_case, elman_case, swap_case):
        cell, state, xs = case()
        leaves = len(tg.trees.flatten(state)[0])
        rolled, unrolled = explain.graph(cell, state, xs), explain.graph(cell, state, xs, steps=3)
        assert len(rolled.loops) == leaves and not unrolled.loops
        assert all(rolled.boxes[a].kind == rolled.boxes[b].kind == "state" for a, b in rolled.loops)
        assert len(unrolled.arrows) == 3 * len(rolled.arrows)
        assert len(unrolled.boxes) == 3 * (len(rolled.boxes) - leaves) + leaves
        assert all(graph.boxes[a].rank < graph.boxes[b].rank for graph in (rolled, unrolled) for a, b in graph.arrows)
    names = [box.lines[0] for box in explain.graph(*lstm_case(), steps=2, ops=False).boxes]
    assert names == ["h₋₁", "c₋₁", "x₀", "lstm", "y₀", "h₀", "c₀", "x₁", "lstm", "y₁", "h₁", "c₁"]


def test_parameters_of_a_cell_object_and_the_parts_of_a_split_have_their_names():
    class Cell:
        def __init__(self):
            self.weight = tg.tensor(np.ones((2, 4)), requires_grad=True)

        def __call__(self, h, x):
            keep, new = tg.split(x @ self.weight, 2)
            return h * tg.sigmoid(keep) + new[0:2], None

    picture = explain.graph(Cell(), np.zeros(2), np.zeros((1, 2)))
    assert picture.title.endswith("Cell")
    assert [box.lines[0] for box in picture.boxes] == ["hₜ₋₁", "xₜ", "weight", "@", "keep, new = split", "sigmoid", "×", "[0:2]", "+", "hₜ"]


def test_only_what_reaches_an_output_is_drawn():
    def cell(h, x):
        _unused = tg.exp(x) * 3
        return h + x, None

    assert [box.lines[0] for box in explain.graph(cell, 0.0, np.zeros(3)).boxes] == ["hₜ₋₁", "xₜ", "+", "hₜ"]


def shapes_of(svg):
    """Every box of a picture with its text: (x0, y0, x1, y1, [text])."""
    root, found = xml.etree.ElementTree.fromstring(svg), []
    for element in root:
        tag = element.tag.rpartition("}")[2]
        if tag == "rect" and element.get("rx") not in (None, "10"):
            x, y, w, h = (float(element.get(k)) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h, []))
        elif tag == "path" and element.get("fill") not in (None, "none"):
            x, y, half, w = map(float, re.match(r"M(\S+) (\S+)l8 (\S+)h(\S+)l", element.get("d")).groups())
            found.append((x, y + half, x + w + 16, y - half, []))
        elif tag == "text" and element.get("text-anchor") == "middle" and element.get("font-size") is None:
            found[-1][4].append((float(element.get("x")), element.text))
    return found


@pytest.mark.parametrize("options", [{}, {"ops": False}, {"steps": 1}, {"steps": 3}, {"steps": 4, "ops": False}])
@pytest.mark.parametrize("case", [lstm_case, elman_case, swap_case])
def test_svg_boxes_are_apart_and_hold_their_text(case, options):
    picture = explain.graph(*case(), **options)
    boxes = shapes_of(picture.svg())
    assert len(boxes) == len(picture.boxes) and all(box[4] for box in boxes)
    for i, p in enumerate(boxes):
        for q in boxes[i + 1:]:
            assert min(p[2], q[2]) <= max(p[0], q[0]) or min(p[3], q[3]) <= max(p[1], q[1]), (p, q)
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", size=12)
    for x0, _, x1, _, texts in boxes:
        for x, text in texts:
            half = TextPath((0, 0), text.replace("$", r"\$"), prop=font).get_extents().width / 2
            assert x0 + 2 < x - half and x + half < x1 - 2, (text, matplotlib.__version__)


def test_arrows_do_not_run_through_boxes():
    """The points that an arrow passes keep away from the boxes of their column."""
    boxes, seen = shapes_of(explain.graph(*lstm_case(), steps=2).svg()), 0
    for path in re.findall(r'<path d="(M[^"]*)" fill="none" stroke="#444"', explain.graph(*lstm_case(), steps=2).svg()):
        for x0, y, x1 in re.findall(r"(-?[\d.]+) (-?[\d.]+)H(-?[\d.]+)", path):
            seen += 1
            for left, top, right, bottom, texts in boxes:
                assert not (top < float(y) < bottom and float(x0) < right and left < float(x1)), (path, texts)
    assert seen > 20


def test_dot_and_files(tmp_path):
    picture = explain.graph(*elman_case())
    text = picture.dot()
    assert text.startswith("digraph cell {\n") and text.endswith("}\n") and text.count("{") == text.count("}") == 2
    assert 'label="y.probability <1ₜ"' in text and "y.probability #lt;1ₜ" in picture.mermaid() and "y.probability &lt;1ₜ" in picture.svg()
    for ending, form in ((".svg", picture.svg), (".dot", picture.dot), (".mmd", picture.mermaid)):
        picture.save(tmp_path / f"cell{ending}")
        assert (tmp_path / f"cell{ending}").read_text(encoding="utf-8") == form()
    assert picture._repr_svg_() == picture.svg() and str(picture) == picture.mermaid()
    with pytest.raises(ArgumentError, match="the ending does not say in which form"):
        picture.save("cell.bmp")


def test_graph_refusals():
    cell, state, xs = elman_case()
    with pytest.raises(ArgumentError, match="steps is not a number of steps"):
        explain.graph(cell, state, xs, steps=0)
    with pytest.raises(ShapeError, match=r"the sequences have no first step\n  xs  \(0,\)"):
        explain.graph(cell, state, xs[:0])
    with pytest.raises(ArgumentError, match=r"the cell did not return \(state, y\)"):
        explain.graph(lambda h, x: h, state, xs)


# ---- examples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trace", "anomaly", "ledger", "pictures", "graph", "wiring", "layered", "watch"])
def test_the_examples_run(name):
    __import__(f"tinygrad_rnn.explain.{name}")
    module = sys.modules[f"tinygrad_rnn.explain.{name}"]
    failed, _ = doctest.testmod(module, extraglobs={"tg": tg, "np": np}, optionflags=doctest.ELLIPSIS)
    assert not failed
