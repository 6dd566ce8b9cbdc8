"""anomaly: the first nan or infinity, forward or backward, is laid at the op, the function and the step that bore it."""

import re

import numpy as np
import pytest
from explain_cases import gated_case, scalar

import tinygrad_rnn as tg
from tinygrad_rnn import explain
from tinygrad_rnn.errors import NonFiniteError, TraceError


def caught(f, *args):
    with pytest.raises(NonFiniteError) as error, explain.anomaly():
        f(*args)
    return str(error.value)


def test_double_where_names_log():
    text = caught(tg.grad(lambda x: tg.sum(tg.where(x > 0, tg.log(x), 0.0))), np.array([1.0, 0.0]))
    assert re.sub(r"test_explain_anomaly.py:\d+", "LINE", text) == """\
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
    assert re.search(r"\n  step      6\n  function  cell\n  line      test_explain_anomaly.py:\d+\n  z         \(3,\), finite, ", text)
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
