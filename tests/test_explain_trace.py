"""trace: every intermediate by name and step, with its value and its cotangent."""

import sys

import numpy as np
import pytest
from explain_cases import NAMES, SOURCES, gated_case, scalar

import tinygrad_rnn as tg
from tinygrad_rnn import explain
from tinygrad_rnn.errors import ArgumentError, GradientError


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
    assert found["f", 2].op == "sigmoid" and found["f", 2].function == "cell" and found["f", 2].line.startswith("explain_cases.py:")
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
