"""Every mistake of the sources: which gradients it spoils, by how much, and that the corrected derivation is right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.sources import classifier, counting, elman, sine_wave, step_by_step
from tinygrad_rnn.sources.record import relative_error

LOSSES = {
    counting.bptt_linear: counting.loss_linear,
    elman.bptt: elman.loss,
    classifier.bptt: classifier.loss,
    sine_wave.bptt: sine_wave.loss,
    step_by_step.bptt: step_by_step.loss,
}
SOURCES = (sine_wave, counting, elman, classifier, step_by_step)
MEASURED = [
    pytest.param(erratum, id=f"{source.__name__.split('.')[-1]}-{i}")
    for source in SOURCES
    for i, erratum in enumerate(source.ERRATA, 1)
    if erratum.point
]
seeds = st.integers(0, 2**32 - 5)


# ---- the tables say what is so -------------------------------------------------------------------------------


@pytest.mark.parametrize("erratum", MEASURED)
def test_an_erratum_is_as_wrong_as_its_table_says(erratum):
    found = erratum.measure()
    assert set(found) == {*erratum.wrong, *erratum.right} and not {*erratum.wrong} & {*erratum.right}
    assert all(error > 0.1 for error in erratum.wrong.values()) and erratum.at
    for name, error in erratum.wrong.items():
        assert found[name] == pytest.approx(error, abs=6e-5), name
    assert all(found[name] < 1e-12 for name in erratum.right)


@pytest.mark.parametrize("erratum", MEASURED)
def test_the_corrected_derivation_is_the_automatic_one(erratum):
    params, data = erratum.point()
    _, (grads, dx) = tg.value_and_grad(lambda p, x: LOSSES[erratum.corrected](p, x, *data[1:]), argnums=(0, 1))(
        params, data[0]
    )
    _, expected = erratum.corrected(params, *data)
    for name, g in (grads | {"x": dx}).items():
        assert relative_error(g, expected[name]) < 1e-10, name


@pytest.mark.parametrize("source", SOURCES)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_as_written_is_wrong_and_right_at_every_point(source, seed):
    for erratum in source.ERRATA:
        if erratum.as_written is None:
            continue
        classes = {"classes": 4} if erratum.as_written is classifier.bptt_without_output_layer else {}
        outputs = {"outputs": 1} if erratum is sine_wave.ERRATA[0] else {}
        params, data = source.example(seed, **classes, **outputs)
        found, expected = erratum.as_written(params, *data)[1], erratum.corrected(params, *data)[1]
        for name in erratum.wrong:
            assert relative_error(found[name], expected[name]) > 1e-6, name
        for name in erratum.right:
            assert relative_error(found[name], expected[name]) < 1e-10, name


@pytest.mark.parametrize("source", SOURCES)
def test_a_table_has_words_for_every_mistake(source):
    counts = {sine_wave: 7, counting: 3, elman: 2, classifier: 8, step_by_step: 5}
    assert len(source.ERRATA) == counts[source]
    assert all(erratum.what.endswith(".") for erratum in source.ERRATA)


# ---- sine_wave -----------------------------------------------------------------------------------------------


def test_sine_wave_layer_multiplies_the_state_by_v():
    params, data = sine_wave.example(outputs=1)
    value, grads = tg.value_and_grad(sine_wave.loss_as_written)(params, *data)
    assert np.array_equal(grads["W"], np.zeros((4, 4))) and np.all(grads["U"]) and np.all(grads["V"])
    s = params["s0"]
    for t in range(6):
        s = 1 / (1 + np.exp(-(params["U"][:, t : t + 1] * data[0][:, t, 0] + params["V"] @ s)))
    assert float(value) == pytest.approx(0.5 * np.sum((params["V"] @ s - data[1].T) ** 2), rel=1e-14)
    assert np.linalg.norm(tg.grad(sine_wave.loss)(params, *data)["W"]) > 0.01


def test_sine_wave_prints_with_float():
    with pytest.raises(TypeError):
        float(np.ones((1, 1)))


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_sine_wave_cost_broadcasts_unless_there_is_one_output(seed):
    params, (X, Y) = sine_wave.example(seed)
    e = Y[0] - params["V"] @ np.ones((4, 1))
    assert e.shape == (2, 2)
    value, grads = sine_wave.bptt_cost_as_written(params, X, Y)
    pairs = lambda p: 0.5 * tg.sum(tg.square(sine_wave.predict(p, X).T[:, :, None] - Y[:, None, :]))
    automatic, expected = tg.value_and_grad(pairs)(params)
    assert float(value) == pytest.approx(float(automatic), rel=1e-12)
    assert all(relative_error(grads[name], expected[name]) < 1e-10 for name in params)

    params, data = sine_wave.example(seed, outputs=1)
    found, right = sine_wave.bptt_cost_as_written(params, *data), sine_wave.bptt(params, *data)
    assert found[0] == right[0] and all(np.array_equal(found[1][name], right[1][name]) for name in right[1])


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_sine_wave_backward_does_not_depend_on_the_error(seed):
    params, (X, Y) = sine_wave.example(seed)
    e = sine_wave.predict(params, X).T - Y
    reversed_error = Y + 4 * e  # ŷ − (y + 4e) = −3e
    before, after = (sine_wave.bptt_as_written(params, X, y)[1] for y in (Y, reversed_error))
    assert np.array_equal(before["U"], after["U"]) and np.array_equal(before["W"], after["W"])
    right, turned = (sine_wave.bptt(params, X, y)[1] for y in (Y, reversed_error))
    assert all(relative_error(turned[name], -3 * right[name]) < 1e-10 for name in ("U", "V", "W"))


def test_sine_wave_backward_record_by_record():
    """The loops of the source, one record and one step at a time, against the form that does all records at once."""
    params, (X, Y) = sine_wave.example(outputs=2)
    params = {name: 3 * value for name, value in params.items()}  # so that the clip is reached
    U, V, W = params["U"], params["V"], params["W"]
    total = {name: np.zeros_like(params[name]) for name in "UVW"}
    for x, y in zip(X, Y):
        states = [params["s0"]]
        for t in range(6):
            states.append(1 / (1 + np.exp(-(U[:, [t]] * x[t] + W @ states[t]))))
        e = V @ states[-1] - y[:, None]
        dU, dV, dW = np.zeros_like(U), np.zeros_like(V), np.zeros_like(W)
        dU_t, dW_t = np.zeros_like(U), np.zeros_like(W)
        for t in range(6):
            for _ in range(t - 1, max(-1, t - 6), -1):
                dU_t += U[:, [t]] * x[t]
                dW_t += W @ states[t]
            dU, dW = np.clip(dU + dU_t, -10, 10), np.clip(dW + dW_t, -10, 10)
            dV = np.clip(dV + e @ states[t + 1].T, -10, 10)
        total = {name: total[name] + d for name, d in zip("UVW", (dU, dV, dW))}
    assert max(np.abs(total["U"]).max(), np.abs(total["W"]).max()) >= 10
    found = sine_wave.bptt_as_written(params, X, Y)[1]
    assert all(relative_error(found[name], total[name]) < 1e-13 for name in "UVW")


def test_sine_wave_own_start_is_saturated():
    params, (X, Y) = sine_wave.init(), sine_wave.data()
    for s in sine_wave._states(params, X)[3:]:
        assert np.all(s == 1.0)
    _, by_hand = sine_wave.bptt(params, X, Y)
    grads = tg.grad(sine_wave.loss)(params, X, Y)
    for found in (by_hand, grads):
        assert not np.any(found["U"]) and not np.any(found["W"]) and np.all(found["V"])


# ---- counting ------------------------------------------------------------------------------------------------


def test_counting_cost_as_written():
    start, solution, data = counting.START, {"wx": 1.0, "wrec": 1.0}, counting.data()
    assert float(counting.loss_linear(start, *data)) == pytest.approx(2.0225, rel=1e-12)
    assert float(counting.loss_as_written(start, *data)) == pytest.approx(7.0675, rel=1e-12)
    assert float(counting.loss_linear(solution, *data)) == 0.0
    assert float(counting.loss_as_written(solution, *data)) == pytest.approx(4.0, rel=1e-12)
    for loss, bptt, expected in (
        (counting.loss_linear, counting.bptt_linear, (-10.441666666666666, -1.98)),
        (counting.loss_as_written, counting.bptt_as_written, (-26.325, -5.54)),
    ):
        value, grads = bptt(start, *data)
        assert (grads["wx"], grads["wrec"]) == pytest.approx(expected, rel=1e-12)
        automatic, grads = tg.value_and_grad(loss)(start, *data)
        assert (float(grads["wx"]), float(grads["wrec"])) == pytest.approx(expected, rel=1e-12)
        assert float(automatic) == pytest.approx(value, rel=1e-12)


def test_counting_cost_as_written_trains_to_the_wrong_optimum():
    """It is better there than at the solution, where it costs 4: each output is drawn to 2, the mean of the counts."""
    rates = {"wx": 0.004, "wrec": 0.0006}
    *_, last = counting.train_linear(epochs=5000, rates=rates, gradient=counting.bptt_as_written)
    assert last.loss < 2.5 and counting.bptt_linear(last.params, *counting.data())[0] > 0.2
    assert np.ptp(counting.predict_linear(last.params, counting.data()[0])) < 1
    *_, right = counting.train_linear(epochs=5000, gradient=counting.bptt_linear)
    assert right.loss < 0.02


# ---- elman ---------------------------------------------------------------------------------------------------


def test_elman_figures():
    params, data = elman.stated_point()
    value, found = elman.bptt_as_written(params, *data)
    assert value == pytest.approx(22.512532305122658, rel=1e-13)
    _, right = elman.bptt(params, *data)
    errors = {name: relative_error(found[name], right[name]) for name in params}
    assert errors == pytest.approx({"Whx": 0.88, "Whh": 1.29, "Wyh": 0.85, "bh": 1.12, "by": 0}, abs=6e-3)


def test_elman_whh_wraps_to_the_last_state():
    params, (x, y) = elman.example()
    x, y = x[:1], y[:1]
    _, found = elman.bptt_as_written(params, x, y)
    h0, h1 = elman._states(params, x)
    delta = (1 - h0**2) * (params["Wyh"].T @ (params["Wyh"] @ h1 + params["by"] - y[0].T))
    assert relative_error(found["Whh"], delta @ h1.T) < 1e-14


# ---- classifier ----------------------------------------------------------------------------------------------


def test_classifier_transpose_hides_where_w_h_is_nearly_symmetric():
    params, x = classifier.printed_point()
    wrong, right = (classifier._back(params, x, np.ones((1, 4)), w) for w in (params["w_h"], params["w_h"].T))
    errors = {name: relative_error(wrong[name], right[name]) for name in ("w_x", "w_h", "b")}
    assert errors == pytest.approx({"w_x": 0.0101, "w_h": 0.0122, "b": 0.0141}, abs=6e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_classifier_transpose_hides_behind_symmetry_and_behind_a_single_step(seed):
    params, (x, labels) = classifier.example(seed)
    found, right = classifier.bptt_as_written(params, x[:, :1], labels)[1], classifier.bptt(params, x[:, :1], labels)[1]
    assert {name for name in right if relative_error(found[name], right[name]) > 1e-10} == {"h0"}
    params["w_h"] = params["w_h"] + params["w_h"].T
    found, right = classifier.bptt_as_written(params, x, labels)[1], classifier.bptt(params, x, labels)[1]
    assert all(relative_error(found[name], right[name]) < 1e-10 for name in right)


def test_classifier_without_output_layer_needs_a_class_for_every_unit():
    params, data = classifier.example()
    with pytest.raises(ValueError, match="3 classes, 4 units"):
        classifier.bptt_without_output_layer(params, *data)


# ---- step_by_step --------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=seeds, T=st.integers(1, 6))
def test_step_by_step_returns_the_weights_in_place_of_their_gradient(seed, T):
    params, _ = step_by_step.example(seed)
    rng = np.random.default_rng(seed)
    x, da = rng.normal(size=(2, 3, T)), rng.normal(size=(4, 3, T))
    found, right = step_by_step.backward_as_written(params, x, da), step_by_step.backward(params, x, da)
    assert np.array_equal(found["W_aa"], T * params["W_aa"])
    assert relative_error(found["W_aa"], right["W_aa"]) > 1e-3
    assert all(np.array_equal(found[name], right[name]) for name in ("W_ax", "b_a", "x", "a0"))


def test_step_by_step_softmax():
    q = np.array([[0.0, 1000.0], [1.0, 1000.0]])
    as_written, right = step_by_step.softmax_as_written(q), step_by_step.softmax(q)
    assert np.isnan(as_written[:, 0]).all() and np.array_equal(as_written[:, 1], [0.5, 0.5])
    np.testing.assert_allclose(right[:, 0], [0.2689414214, 0.7310585786], atol=5e-11)
    np.testing.assert_allclose(tg.softmax(q, axis=0), right, rtol=1e-14)
