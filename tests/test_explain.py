"""Looking inside: trace, anomaly, ledger, pictures and graphs."""

import doctest
import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import explain
from tinygrad_rnn.errors import ArgumentError, GradientError, NonFiniteError, ShapeError, TraceError

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
    _, later = found["h", 3], xs[4:]
    rest = tg.grad(lambda h: scalar({**params, "h0": h}, later) + tg.sum(h * h))(found["h", 3].value)
    np.testing.assert_allclose(found["h", 3].cotangent, rest, rtol=1e-11)
    np.testing.assert_allclose(found.over_time("h", cotangents=True)[3], rest, rtol=1e-11)


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
        np.testing.assert_array_equal(watched[name], expected[name])
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


# ---- examples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trace", "anomaly", "ledger", "watch"])
def test_the_examples_run(name):
    __import__(f"tinygrad_rnn.explain.{name}")
    module = sys.modules[f"tinygrad_rnn.explain.{name}"]
    failed, _ = doctest.testmod(module, extraglobs={"tg": tg, "np": np}, optionflags=doctest.ELLIPSIS)
    assert not failed
