"""power: what a check would not have seen, and what to change so that it would."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.check import power
from tinygrad_rnn.check.breakage import broken
from tinygrad_rnn.check.bugs import catalogue
from tinygrad_rnn.check.diagnose_graph import Unrolled
from tinygrad_rnn.sources import classifier, elman


def bugs(mistakes):
    return {mistake.bug for mistake in mistakes}


def test_small_weights_blind_a_check():
    params, data = classifier.example()
    tiny = {name: 0.01 * value for name, value in params.items()}
    strong, weak = (power(classifier.loss, p, data) for p in (params, tiny))
    assert len(weak.blind) > 10 * max(len(strong.blind), 1) / 10 and len(weak.blind) > len(strong.blind)
    assert {"carry cut after k steps", "activation derivative taken of the pre-activation"} <= bugs(weak.blind)
    assert any("larger weights" in advice for advice in weak.advice) and not weak.ok and not weak


def test_a_strong_point_sees_everything():
    params, data = elman.example()
    report = power(elman.loss, params, data)
    assert report.ok and report and len(report.seen) > 100, str(report)
    assert str(report).startswith("power: 0 of ")


def test_a_loss_at_the_last_step_cannot_show_what_needs_every_step():
    params, data = classifier.example()
    report = power(classifier.loss, params, data)
    assert {"carry replaced instead of added", "error of the last step only"} & bugs(report.blind) and "a loss at every step" in report.advice


def test_one_step_carries_nothing():
    params, (x, y) = elman.example()
    report = power(elman.loss, params, (x[:1], y[:1]))
    assert {"carry not propagated", "carry cut after k steps", "wrap-around at t = 0"} <= bugs(report.blind)
    assert "a sequence of at least 4 steps" in report.advice


def test_an_initial_state_of_zero_hides_that_it_is_ignored():
    params, data = elman.stated_point()
    report = power(elman.loss, params, data)
    assert "initial state taken for zero" in bugs(report.blind) and "a random initial state" in report.advice


def test_a_symmetric_weight_hides_a_transpose():
    params, data = elman.example()
    report = power(elman.loss, params | {"Whh": params["Whh"] + params["Whh"].T}, data)
    assert "transpose missing" in bugs(report.blind) and any("asymmetric weights" in advice for advice in report.advice)


def test_a_batch_of_one_hides_a_sum():
    params, (x, y) = elman.example()
    report = power(elman.loss, params | {"h0": params["h0"][:, :1]}, (x[:, :1], y[:, :1]))
    assert "bias not summed over the batch" in bugs(report.blind)


def test_a_finer_tolerance_sees_more():
    params, data = classifier.example()
    tiny = {name: 0.01 * value for name, value in params.items()}
    blind = [len(power(classifier.loss, tiny, data, tolerance=(t, t)).blind) for t in (1e-3, 1e-6, 1e-9)]
    assert blind[0] > blind[1] > blind[2]


def test_what_is_blind_is_what_a_comparison_lets_pass():
    """Every prediction, made again by comparing the broken gradients with the right ones."""
    params, data = classifier.example()
    params = {name: 0.05 * value for name, value in params.items()}
    report = power(classifier.loss, params, data)
    graph = Unrolled(classifier.loss, params, data)
    right = graph.backward()
    blind = {mistake.what for mistake in report.blind}
    seen = 0
    for b in catalogue(graph):
        wrong = broken(graph, [b])
        if b.scope != "all" or wrong is None or b.what not in blind | {m.what for m in report.seen}:
            continue
        passes = all(np.allclose(right[name], wrong[name], atol=1e-5, rtol=1e-3) or
                     np.all(np.abs(wrong[name] - right[name]) <= 1e-5 + 1e-3 * np.abs(right[name])) for name in right)
        assert passes == (b.what in blind), b.what
        seen += not passes
    assert seen > 10


def test_a_tolerance_must_have_a_name():
    params, data = elman.example()
    with pytest.raises(tg.errors.DomainError, match="no checker has this name"):
        power(elman.loss, params, data, tolerance="eyes")


def test_gradcheck_appends_it():
    params, data = elman.example()
    report = tg.check.gradcheck(elman.loss, (params, *data), power=True)
    assert "mistakes would pass unnoticed here" in str(report)
