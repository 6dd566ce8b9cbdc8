"""Every figure that the sources print, their data and their recipes."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.sources import classifier, counting, elman, sine_wave, step_by_step

COSTS = (
    5.847872199212813, 0.9951704943204343, 0.1419578070514743, 0.11273245295695294, 0.10307442764032371,
    0.09869720852304842, 0.09670312471301536, 0.09579497336489533, 0.09538147825666778, 0.09519323778665428,
    0.09510755212566056, 0.0950685515584827, 0.09505080101461244, 0.09504272238954642, 0.09503904573259021,
)  # fmt: skip


def trajectory(train, epochs, **options):
    return list(islice(train(**options), epochs + 1))


def assert_same_training(train, by_hand, epochs, rtol=1e-9):
    """Training with the engine's gradients follows training with those derived by hand."""
    automatic, hand = (trajectory(train, epochs, **options) for options in ({}, {"gradient": by_hand}))
    for found, expected in zip(automatic, hand, strict=True):
        assert found.epoch == expected.epoch and found.loss == pytest.approx(expected.loss, rel=rtol)
        assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-6)
        for name, value in expected.params.items():
            np.testing.assert_allclose(found.params[name], value, rtol=rtol, atol=1e-10)


def assert_gradients(found, expected):
    for name in expected:
        assert np.linalg.norm(np.subtract(found[name], expected[name])) <= 1e-10 * max(
            1e-3, np.linalg.norm(expected[name])
        ), name


# ---- sine_wave -----------------------------------------------------------------------------------------------


def test_sine_wave_printed_losses():
    params = sine_wave.init()
    for part, printed in (("training", 132219.50990086797), ("validation", 66107.73179592531)):
        assert float(sine_wave.loss(params, *sine_wave.data(part))) == pytest.approx(printed, rel=1e-12)
        assert float(sine_wave.bptt(params, *sine_wave.data(part))[0]) == pytest.approx(printed, rel=1e-12)


def test_sine_wave_data():
    (X, Y), (Xv, Yv) = sine_wave.data(), sine_wave.data("validation")
    assert X.shape == (100, 50, 1) and Y.shape == (100, 1) and Xv.shape == (50, 50, 1) and Yv.shape == (50, 1)
    assert X[3, 4, 0] == np.sin(7.0) and Y[99, 0] == np.sin(149.0) and Xv[0, 0, 0] == np.sin(100.0)
    assert Yv[-1, 0] == np.sin(199.0)


def test_sine_wave_corrected_system_learns():
    records = list(sine_wave.train(gradient=lambda p, x, y: sine_wave.bptt(p, x, y, 5)))
    assert [record.epoch for record in records] == list(range(26))
    assert records[0].figures["rmse"] > 0.5 and records[-1].figures["rmse"] < 0.02
    assert records[-1].figures["rmse"] == pytest.approx(0.0064, abs=5e-5)
    X, Y = sine_wave.data("validation")
    rmse = np.sqrt(np.mean((sine_wave.predict(records[-1].params, X).T - Y) ** 2))
    assert rmse == pytest.approx(records[-1].figures["rmse"], rel=1e-12)


def test_sine_wave_as_written_does_not_learn():
    first, *_, last = sine_wave.train(sine_wave.init(), epochs=3, rate=1e-4, gradient=sine_wave.bptt_as_written)
    assert first.loss == pytest.approx(132219.50990086797, rel=1e-12)
    assert not first.grad_norms["U"] and not first.grad_norms["W"]
    assert last.figures["rmse"] > 10


def test_sine_wave_trains_alike():
    assert_same_training(sine_wave.train, lambda p, x, y: sine_wave.bptt(p, x, y, 5), 1)


# ---- counting ------------------------------------------------------------------------------------------------


def predictions(record):
    return counting.predict_linear(record.params, counting.data()[0])


LINEAR = {
    0: (0.45, 0.75, 0.95),
    1000: (1.24937979, 2.14122399, 2.77784872),
    10000: (1.00718835, 2.00515631, 2.99398827),
}


def test_counting_linear_figures():
    for record in counting.train_linear(gradient=counting.bptt_linear):
        if record.epoch in LINEAR:
            np.testing.assert_allclose(predictions(record), LINEAR[record.epoch], atol=5e-9)
    assert record.epoch == 50_000
    assert all(abs(record.params[name] - 1) < 5e-11 for name in ("wx", "wrec"))


def test_counting_linear_figures_by_the_engine():
    for record in counting.train_linear(epochs=1000):
        if record.epoch in LINEAR:
            np.testing.assert_allclose(predictions(record), LINEAR[record.epoch], atol=5e-9)
    assert record.epoch == 1000


def test_counting_logistic_figures():
    assert counting.init() == pytest.approx(dict(zip(("wx", "wrec"), np.random.RandomState(1234).randn(2))), rel=0)
    costs = []
    for record in counting.train_logistic(gradient=counting.bptt_logistic):
        if record.epoch % 1000 == 0:
            costs.append(record.loss)
    np.testing.assert_allclose(costs[:15], COSTS, rtol=1e-12)
    outputs = counting.predict_logistic(record.params, counting.data()[0])
    np.testing.assert_allclose(outputs, [1.36735465, 1.61291427, 3.01809184], atol=5e-9)
    assert np.array_equal(np.round(outputs), [1, 2, 3])


def test_counting_logistic_figures_by_the_engine():
    costs = [record.loss for record in counting.train_logistic(epochs=1000) if record.epoch % 1000 == 0]
    np.testing.assert_allclose(costs, COSTS[:2], rtol=1e-12)


def test_counting_logistic_cannot_count():
    """Newton's method from where training ends."""
    data, at = counting.data(), np.array([1.405, 1.713])
    f = lambda v: counting.loss_logistic({"wx": v[0], "wrec": v[1]}, *data)
    for _ in range(8):
        at = at - np.linalg.solve(tg.hessian(f)(at), tg.grad(f)(at))
    assert np.linalg.norm(tg.grad(f)(at)) < 1e-12 and np.all(np.linalg.eigvalsh(tg.hessian(f)(at)) > 0)
    assert float(f(at)) == pytest.approx(0.0950359750, abs=5e-11)


# ---- elman ---------------------------------------------------------------------------------------------------


def test_elman_loss_at_the_stated_point():
    params, data = elman.stated_point()
    assert float(elman.loss(params, *data)) == pytest.approx(22.512532305122658, rel=1e-13)
    assert float(elman.bptt(params, *data)[0]) == pytest.approx(22.512532305122658, rel=1e-13)


def test_elman_right_gradient_trains_and_the_one_as_written_diverges():
    *_, right = elman.train(gradient=elman.bptt)
    first = next(elman.train(gradient=elman.bptt))
    assert right.loss < 0.03 * first.loss and right.figures["rmse"] < 0.04 < 0.3 < first.figures["rmse"]
    with np.errstate(over="ignore", invalid="ignore"):
        losses = [record.loss for record in elman.train(gradient=elman.bptt_as_written)]
    assert not losses[-1] < 1e10


def test_elman_trains_alike():
    assert_same_training(elman.train, elman.bptt, 30)


# ---- classifier ----------------------------------------------------------------------------------------------


def test_classifier_printed_check():
    printed = [[0.79494228, 0.81839002, 0.83939649, 0.85584174]]
    np.testing.assert_allclose(classifier.forward(*classifier.printed_point()), printed, rtol=0, atol=5e-9)
    np.testing.assert_allclose(classifier._states(*classifier.printed_point())[-1], printed, rtol=0, atol=5e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_classifier_backward_is_the_pullback_of_forward(seed):
    params, (x, _) = classifier.example(seed)
    d_h = np.random.default_rng(seed).normal(size=(3, 4))
    _, pullback = tg.vjp(classifier.forward, params, x)
    grads, dx = pullback(d_h)
    assert_gradients(grads | {"x": dx}, classifier.backward(params, x, d_h))


def test_classifier_learns_its_phrases():
    records = list(classifier.train(gradient=classifier.bptt))
    assert records[0].figures["accuracy"] < 0.7 and records[-1].figures["accuracy"] == 1.0
    assert records[-1].loss < 0.1 * records[0].loss
    params = records[-1].params
    for phrase, label in (("not bad", 1), ("not good", 0)):
        z = classifier.forward(params, classifier.one_hot(phrase)) @ params["w_y"] + params["b_y"]
        assert z.argmax() == label


def test_classifier_phrases():
    phrases = classifier.data()
    assert len(phrases) == len(set(classifier.POSITIVE)) + len(set(classifier.NEGATIVE))
    assert sum(int(label) for _, (label,) in phrases) == len(classifier.POSITIVE)
    assert all(x.shape[0] == 1 and np.array_equal(x.sum(axis=2), np.ones(x.shape[:2])) for x, _ in phrases)
    with pytest.raises(ValueError):
        classifier.one_hot("excellent")


def test_classifier_trains_alike():
    assert_same_training(classifier.train, classifier.bptt, 2)


# ---- step_by_step --------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), T=st.integers(1, 5))
def test_step_by_step_backward_is_the_pullback_of_the_states(seed, T):
    params, _ = step_by_step.example(seed)
    rng = np.random.default_rng(seed)
    x, da = rng.normal(size=(2, 3, T)), rng.normal(size=(4, 3, T))
    inner = {name: params[name] for name in ("W_ax", "W_aa", "b_a", "a0")}

    def states(p, x):
        a, kept = p["a0"], []
        for t in range(T):
            a = tg.tanh(p["W_ax"] @ x[:, :, t] + p["W_aa"] @ a + p["b_a"])
            kept.append(a)
        return tg.stack(kept, axis=2)

    _, pullback = tg.vjp(states, inner, x)
    grads, dx = pullback(da)
    assert_gradients(grads | {"x": dx}, step_by_step.backward(params, x, da))


def test_step_by_step_learns_what_follows_an_l():
    *_, right = step_by_step.train(gradient=step_by_step.bptt)
    assert right.figures["accuracy"] == 1.0 and right.loss < 3
    *_, wrong = step_by_step.train(gradient=step_by_step.bptt_as_written)
    assert wrong.loss > 5 * right.loss


def test_step_by_step_outputs_are_probabilities():
    params, (x, y) = step_by_step.example()
    a, log_p = step_by_step.forward(params, x)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, rtol=1e-13)
    assert log_p.shape == (5, 3, 3) and a.shape == (4, 3)


def test_step_by_step_trains_alike():
    assert_same_training(step_by_step.train, step_by_step.bptt, 30)
