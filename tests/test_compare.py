"""compare: six ways to one gradient agree where all is right, and part where one is wrong."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.check import compare, rtrl
from tinygrad_rnn.sources import classifier, counting, elman, sine_wave, step_by_step

LOSSES = {elman: elman.loss, classifier: classifier.loss, sine_wave: sine_wave.loss, step_by_step: step_by_step.loss, counting: counting.loss_logistic}


@pytest.mark.parametrize("source", LOSSES)
def test_all_ways_agree(source):
    params, data = source.example()
    report = compare(LOSSES[source], params, data, by_hand=getattr(source, "bptt", None) or source.bptt_logistic)
    assert report.ok and report, str(report)
    assert list(report.gradients) == ["engine", "plain loop", "RTRL", "by hand", "differences", "complex step"]


def test_a_wrong_derivation_stands_alone():
    params, data = elman.example()
    report = compare(elman.loss, params, data, by_hand=elman.bptt_as_written)
    assert not report.ok
    parted = {pair for pair, distance in report.distances.items() if distance > report.tolerances[pair]}
    assert parted and all("by hand" in pair for pair in parted) and len(parted) == 5
    assert report.worst("engine", "by hand") in ("Whh", "bh", "h0")
    assert report.sides("h0") == [["engine", "plain loop", "RTRL", "differences", "complex step"], ["by hand"]]
    assert "h0: engine, plain loop, RTRL, differences, complex step against by hand" in str(report)


def test_a_wrong_rule_parts_what_runs_the_rules_from_what_does_not():
    """Planted: the engine's own tanh rule is wrong. RTRL shares it, differences and the complex step do not."""
    @tg.primitive(analytic=True)
    def op(x, /):
        return np.tanh(x)

    op.vjp(x=lambda g, y: g * (1 - y))
    loss = lambda p, x: tg.sum(tg.scan(lambda h, x: (op(h @ p["W"] + x), None), np.zeros((2, 3)), x)[0])
    rng = np.random.default_rng(0)
    report = compare(loss, {"W": rng.normal(size=(3, 3))}, (rng.normal(size=(4, 2, 3)),))
    parted = {pair for pair, distance in report.distances.items() if distance > report.tolerances[pair]}
    assert parted == {(a, b) for a in ("engine", "plain loop", "RTRL") for b in ("differences", "complex step")}, str(report)


def test_ways_that_run_the_same_rules_are_not_called_independent():
    params, data = classifier.example()
    report = compare(classifier.loss, params, data)
    assert ("engine", "differences") in report.independent and ("differences", "complex step") in report.independent
    assert not {("engine", "plain loop"), ("engine", "RTRL"), ("plain loop", "RTRL")} & set(report.independent)
    assert "and one of engine, plain loop, RTRL (these run the same rules)" in str(report)


def test_what_is_not_analytic_is_left_out_and_said():
    rng = np.random.default_rng(0)
    loss = lambda p, x: tg.sum(tg.scan(lambda h, x: (tg.relu(h @ p["W"] + x), None), np.ones((2, 3)), x)[0])
    report = compare(loss, {"W": rng.normal(size=(3, 3))}, (rng.normal(size=(4, 2, 3)),))
    assert report.ok and "complex step" not in report.gradients and "no complex step: not analytic: relu" in str(report)


def test_gradients_at_one_point_can_be_compared():
    params, data = elman.example()
    assert compare(elman.loss, params, data, elman.bptt(params, *data)[1]).ok


def test_what_is_by_hand_must_have_something_to_compare():
    params, data = elman.example()
    for by_hand in (lambda *a: None, {}, {"another": np.ones(3)}):
        with pytest.raises(tg.errors.ArgumentError, match="nothing that is by hand has the name of a parameter"):
            compare(elman.loss, params, data, by_hand)
    grads = dict(elman.bptt(params, *data)[1])
    del grads["Whh"]
    report = compare(elman.loss, params, data, grads)
    assert report.ok and "no gradient by hand of Whh: it was not given" in str(report)
    assert not compare(elman.loss, params, data, grads | {"Whh": np.zeros(3)}).ok


def test_single_precision_is_compared_with_differences_in_double():
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=(4, 2, 3)).astype(np.float32)
    loss = lambda p, x: tg.sum(tg.scan(lambda h, x: (tg.tanh(h @ p["W"] + x), None), np.zeros((2, 3), np.float32), x)[0])
    report = compare(loss, {"W": W}, (x,))  # a state in single precision cannot become double
    assert report.ok and 1e-6 < report.tolerances["engine", "differences"] < 1, str(report)
    report = compare(lambda p, x: tg.sum(tg.tanh(x @ p["W"])), {"W": W}, (x,))
    assert report.ok and report.distances["engine", "differences"] < 1e-6, str(report)


def test_what_cannot_be_compared_is_refused_in_words():
    for loss, data, text in ((lambda p, x: tg.sum(p["W"] * x), np.ones(3), "data is no tuple"),
                             (lambda p, x: tg.sum(tg.log(p["W"] - 5)), (np.ones(3),), "the loss is not finite here")):
        with np.errstate(all="ignore"), pytest.raises(tg.errors.ArgumentError, match=text):
            compare(loss, {"W": np.ones(3)}, data)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"checkpoint": 2}])
def test_rtrl_goes_through_any_scan(options):
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(3, 12)), rng.normal(size=(5, 2, 12))

    def loss(p, x):
        def cell(state, x):
            h, c = state
            i, f, g, o = tg.split(h @ p["W"] + x, 4, axis=-1)
            c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
            h = tg.sigmoid(o) * tg.tanh(c)
            return (h, c), h

        (_, c), ys = tg.scan(cell, (p["h0"], np.zeros((2, 3))), x, **options)
        _, zs = tg.scan(lambda s, y: (tg.tanh(s @ p["V"] + y), s), c, ys)
        return tg.sum(tg.square(zs)) + tg.sum(ys)

    params = {"W": W, "h0": rng.normal(size=(2, 3)), "V": rng.normal(size=(3, 3))}
    found, right = rtrl(loss, params, (x,)), tg.grad(loss)(params, x)
    assert all(np.allclose(found[name], right[name], rtol=1e-10, atol=1e-12) for name in params)


def test_rtrl_sees_a_carry_that_is_cut():
    """It shares no step with the backward walk: truncating that one leaves it alone."""
    params, data = sine_wave.example()
    found, right = rtrl(lambda p, *d: sine_wave.loss(p, *d), params, data), sine_wave.bptt(params, *data, truncate=2)[1]
    assert not np.allclose(found["W"], right["W"], rtol=1e-6)
    assert np.allclose(found["W"], sine_wave.bptt(params, *data)[1]["W"], rtol=1e-10)
