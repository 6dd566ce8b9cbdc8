"""diagnose: every mistake is named, gradient by gradient; a right derivation is cleared; what is unknown stays unnamed."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.check import diagnose, diagnose_search
from tinygrad_rnn.check.breakage import broken
from tinygrad_rnn.check.bugs import catalogue
from tinygrad_rnn.check.diagnose_delta import Base
from tinygrad_rnn.check.diagnose_graph import Unrolled
from tinygrad_rnn.sources import classifier, counting, elman, sine_wave, step_by_step

spec = importlib.util.spec_from_file_location("planted", Path(__file__).parents[1] / "benchmarks" / "planted.py")
planted = importlib.util.module_from_spec(spec)
spec.loader.exec_module(planted)

LOSSES = {counting.bptt_linear: counting.loss_linear, elman.bptt: elman.loss, classifier.bptt: classifier.loss,
          sine_wave.bptt: sine_wave.loss, step_by_step.bptt: step_by_step.loss}
# what each erratum must be called, gradient by gradient, in the order of the sources' tables
ERRATA = {
    sine_wave: [dict.fromkeys("UVW", {"another weight in the forward pass"}), dict.fromkeys("UVW", {"broadcasting in the loss"}),
                {"U": {"does not depend on the error"}, "W": {"does not depend on the error"}, "V": {"summed over all steps where only the last one counts"}}],
    counting: [dict.fromkeys(("wx", "wrec"), {"broadcasting in the loss"})],
    elman: [{"Whx": {"activation derivative taken of the previous step (t−1)"}, "bh": {"activation derivative taken of the previous step (t−1)"},
             "Whh": {"activation derivative taken of the previous step (t−1)", "time index of the state off by one"},
             "Wyh": {"time index of the state off by one"}}],
    classifier: [dict.fromkeys(("w_x", "w_h", "b"), {"transpose missing"}),
                 {"w_y": {"gradient is zero"}, "b_y": {"gradient is zero"}} | dict.fromkeys(("w_x", "w_h", "b"), {"a layer's weights missing from the chain"})],
    step_by_step: [{"W_aa": {"weights returned in place of their gradient"}}],
}
MEASURED = [pytest.param(erratum, names, id=f"{source.__name__.split('.')[-1]}-{i}") for source, rows in ERRATA.items()
            for i, (erratum, names) in enumerate(zip([e for e in source.ERRATA if e.as_written], rows))]


def named(report):
    """{tensor: the bugs that were found in it}."""
    found = {}
    for finding in report.findings:
        found.setdefault(finding.tensor, set()).add(finding.bug)
    return found


# ---- the sources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("erratum, names", MEASURED)
def test_an_erratum_is_named_from_its_code_alone(erratum, names):
    params, data = erratum.point()
    report = diagnose(LOSSES[erratum.corrected], params, data, lambda p, *d: erratum.as_written(p, *d))
    assert not report.ok and not report.unnamed, str(report)
    assert {tensor: bugs for tensor, bugs in named(report).items() if tensor in names} == names, str(report)
    assert not set(erratum.right) & set(named(report))
    assert diagnose(LOSSES[erratum.corrected], params, data, erratum.corrected).ok


def test_every_erratum_that_returns_gradients_is_in_the_table():
    assert all(len([e for e in source.ERRATA if e.as_written]) == len(rows) for source, rows in ERRATA.items())


def test_elman_holds_three_mistakes_and_tells_where_they_begin():
    params, data = elman.example()
    report = diagnose(elman.loss, params, data, elman.bptt_as_written)
    steps = {(f.tensor, f.bug): f.step for f in report.findings}
    assert steps["Wyh", "time index of the state off by one"] == steps["Whx", "activation derivative taken of the previous step (t−1)"] == 4
    assert report.right == ("by",) and report.parted_at.step == 4 and "wrapping at t = 0" in str(report)


# ---- planted by hand ----------------------------------------------------------------------------------------


def is_named(report, bug):
    text = " ".join(f"{finding.bug} {finding.explanation}" for finding in report.findings)
    return not report.ok and not report.unnamed and any(words in text for words in planted.BUGS[bug])


@pytest.mark.parametrize("bug", [bug for bug in planted.BUGS if planted.applies(bug, "elman", "every")])
def test_a_planted_mistake_is_named_elman(bug):
    params, data = planted.point("elman", "every")
    report = diagnose(planted.in_ops("elman", "every"), params, data, planted.bptt("elman", "every", bug))
    assert is_named(report, bug), f"{bug}\n{report}"


@pytest.mark.parametrize("cell, loss, bug", [
    ("lstm", "last", "derivative of the pre-activation"), ("lstm", "every", "gates swapped"), ("lstm", "entropy", "transpose missing"),
    ("lstm", "every", "carry clipped"), ("gru", "every", "transpose missing"), ("gru", "mean", "state wraps at 0"), ("gru", "entropy", "softmax twice"),
    ("gru", "every", "carry replaces"), ("custom", "every", "gates swapped"), ("custom", "last", "carry in chunks of 3"),
    ("custom", "mean", "input one step early"), ("custom", "entropy", "target not subtracted"),
])
def test_a_planted_mistake_is_named_in_gated_cells(cell, loss, bug):
    params, data = planted.point(cell, loss)
    report = diagnose(planted.in_ops(cell, loss), params, data, planted.bptt(cell, loss, bug))
    assert is_named(report, bug), f"{bug}\n{report}"


@pytest.mark.parametrize("bug", ["derivative twice", "state one step late", "carry cut after 2", "running sum", "weights returned", "half"])
def test_gradients_at_one_point_are_enough(bug):
    params, data = planted.point("elman", "every")
    _, grads = planted.bptt("elman", "every", bug)(params, *data)
    report = diagnose(planted.in_ops("elman", "every"), params, data, grads)
    assert is_named(report, bug), str(report)
    assert all(finding.confidence <= 0.9 for finding in report.findings)


@pytest.mark.parametrize("bug, step", [
    ("carry cut after 2", 2), ("carry lost", 4), ("derivative missing", 5), ("transpose missing", 4), ("state wraps at 0", 0), ("first step left out", 0),
])
def test_the_step_at_which_a_mistake_begins(bug, step):
    params, data = planted.point("elman", "every")
    report = diagnose(planted.in_ops("elman", "every"), params, data, planted.bptt("elman", "every", bug))
    assert {finding.step for finding in report.findings} == {step}, str(report)


def test_a_mistake_in_every_gate_is_one_mistake():
    params, data = planted.point("gru", "every")
    report = diagnose(planted.in_ops("gru", "every"), params, data, planted.bptt("gru", "every", "bias not summed"))
    assert named(report) == {"b": {"bias not summed over the batch"}}


# ---- pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first, second, words", [
    ("transpose missing", lambda g: {n: 0.5 * v for n, v in g.items()}, {"transpose missing", "loss factor"}),
    ("derivative missing", lambda g: {n: -v for n, v in g.items()}, {"activation derivative missing", "sign"}),
    ("state one step early", lambda g: g | {"b": 0 * g["b"]}, {"time index of the state off by one", "gradient is zero"}),
])
def test_two_mistakes_at_once(first, second, words):
    params, data = planted.point("elman", "every")
    right = planted.bptt("elman", "every", first)

    def by_hand(p, *d):
        value, grads = right(p, *d)
        return value, second(grads)

    report = diagnose(planted.in_ops("elman", "every"), params, data, by_hand)
    assert not report.unnamed and set().union(*named(report).values()) == words, str(report)


# ---- right derivations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", planted.CELLS)
@pytest.mark.parametrize("start", planted.STARTS)
def test_a_right_derivation_is_cleared(cell, start):
    for loss in planted.LOSSES:
        params, data = planted.point(cell, loss, start, seed=3)
        report = diagnose(planted.in_ops(cell, loss), params, data, planted.bptt(cell, loss))
        assert report.ok and report and not report.findings and set(report.right) == set(params), str(report)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 3), st.sampled_from([1e-6, 1e-2, 1.0, 5.0]))
def test_random_right_derivations_are_cleared(seed, T, B, scale):
    rng = np.random.default_rng(seed)
    shapes = {"Whx": (3, 2), "Whh": (3, 3), "Wyh": (2, 3), "bh": (3, 1), "by": (2, 1), "h0": (3, B)}
    params = {name: scale * rng.normal(size=shape) for name, shape in shapes.items()}
    report = diagnose(elman.loss, params, (rng.normal(size=(T, B, 2)), rng.normal(size=(T, B, 2))), elman.bptt)
    assert report.ok, str(report)


def test_a_right_derivation_in_float32_is_cleared():
    params, data = elman.example()
    single = {name: value.astype(np.float32) for name, value in params.items()}
    data = tuple(d.astype(np.float32) for d in data)
    assert diagnose(elman.loss, single, data, elman.bptt).ok
    assert not diagnose(elman.loss, single, data, elman.bptt_as_written).ok


def test_a_saturated_point_is_cleared():
    params, (X, Y) = sine_wave.init(hidden=6, steps=8), (np.ones((2, 8, 1)), np.ones((2, 1)))
    assert diagnose(sine_wave.loss, {n: 40 * v for n, v in params.items()}, (X, Y), sine_wave.bptt).ok


def test_a_mistake_that_hides_at_the_given_point_is_found_at_others():
    params, data = planted.point("elman", "every")
    params = params | {"U": params["U"] + params["U"].T}
    report = diagnose(planted.in_ops("elman", "every"), params, data, planted.bptt("elman", "every", "transpose missing"))
    assert is_named(report, "transpose missing") and "at the given point the gradients are right" in str(report)


# ---- abstaining ---------------------------------------------------------------------------------------------


def test_noise_is_not_named():
    params, data = planted.point("elman", "every")
    rng = np.random.default_rng(0)
    _, grads = planted.bptt("elman", "every")(params, *data)
    report = diagnose(planted.in_ops("elman", "every"), params, data, grads | {"U": rng.normal(size=grads["U"].shape)})
    assert not report.ok and not report.findings and report.unnamed == ("U",) and report.parted_at.tensor == "U"
    assert "nothing in the library reproduces U" in str(report)


def test_an_unknown_mistake_is_not_named_and_its_step_is_found():
    params, data = elman.example()

    def by_hand(p, x, y):
        value, grads = elman.bptt(p, x, y)
        if len(x) > 2:  # wrong from the third step of a sequence on: two steps before the last
            grads["Whh"] = grads["Whh"] * (1 + 0.01 * np.sin(np.arange(16.0)).reshape(4, 4))
        return value, grads

    report = diagnose(elman.loss, params, data, by_hand)
    assert report.unnamed == ("Whh",) and str(report.parted_at) == "tensor Whh, step 2", str(report)


def test_a_gradient_with_a_time_axis_shows_its_step():
    params, data = elman.example()
    _, grads = elman.bptt(params, *data)
    grads["x"][3] *= np.linspace(0.9, 1.1, 6).reshape(3, 2)
    report = diagnose(elman.loss, params, data, grads)
    assert report.unnamed == ("x",) and (report.parted_at.step, report.parted_at.tensor) == (3, "x")


def test_without_its_library_nothing_is_named(monkeypatch):
    monkeypatch.setattr(sys.modules["tinygrad_rnn.check.diagnose_point"], "catalogue", lambda graph, rare: [])
    monkeypatch.setattr(diagnose_search, "alterations", lambda *args: [])
    params, data = elman.example()
    report = diagnose(elman.loss, params, data, elman.bptt_as_written)
    assert not report.findings and set(report.unnamed) == {"Whx", "Whh", "Wyh", "bh", "x", "h0"}


# ---- what a derivation does ---------------------------------------------------------------------------------


def wrapped(change):
    def by_hand(p, *d):
        value, grads = elman.bptt(p, *d)
        return value, change(grads)

    return by_hand


def test_a_derivation_that_raises():
    params, data = elman.example()
    report = diagnose(elman.loss, params, data, lambda p, x, y: 1 / 0)
    assert str(report) == ("diagnose: wrong\n- the derivation raises an exception\n    ZeroDivisionError: division by zero\n"
                           "    spoils all (confidence 1.00)")


def test_accumulators_that_are_not_reset_between_calls():
    params, data = elman.example()
    kept = {}

    def grow(grads):
        for name, g in grads.items():
            kept[name] = kept.get(name, 0) + g
        return {name: g.copy() for name, g in kept.items() if g.shape == grads[name].shape}

    report = diagnose(elman.loss, params, data, wrapped(grow))
    assert "accumulators not reset" in set().union(*named(report).values())


def test_a_derivation_that_writes_into_its_arguments():
    params, data = elman.example()

    def by_hand(p, x, y):
        value, grads = elman.bptt(p, x, y)
        np.clip(x, -0.5, 0.5, out=x)
        return value, grads

    before = data[0].copy()
    report = diagnose(elman.loss, params, data, by_hand)
    assert "arguments are written to" in {f.bug for f in report.findings} and np.array_equal(before, data[0])


@pytest.mark.parametrize("change, tensor, bug", [
    (lambda g: g | {"bh": g["bh"] * np.nan}, "bh", "gradient is not finite"),
    (lambda g: g | {"Whx": g["Whx"].T}, "Whx", "gradient transposed"),
    (lambda g: g | {"by": g["bh"][:2] * 0}, "by", "gradient is zero"),
    (lambda g: g | {"h0": np.zeros((4, 3))}, "h0", "initial state's gradient lost"),
])
def test_other_ends_of_a_gradient(change, tensor, bug):
    params, data = elman.example()
    report = diagnose(elman.loss, params, data, wrapped(change))
    assert named(report) == {tensor: {bug}}, str(report)


def test_a_bias_gradient_with_its_batch():
    params, data = elman.example()
    h = [params["h0"]]
    _, grads = elman.bptt(params, *data)
    for x in data[0]:
        h.append(np.tanh(params["Whh"] @ h[-1] + params["Whx"] @ x.T + params["bh"]))
    rows = sum(params["Wyh"] @ h[t + 1] + params["by"] - data[1][t].T for t in range(5))
    report = diagnose(elman.loss, params, data, grads | {"by": rows})
    assert named(report) == {"by": {"bias not summed over the batch"}}


def test_gradients_that_are_not_given_are_a_note():
    params, data = elman.example()
    report = diagnose(elman.loss, params, data, wrapped(lambda g: {"Whh": g["Whh"], "nonsense": 1.0}))
    assert report.ok and "no gradient is given for Whx, Wyh, bh, by, h0" in str(report) and "nonsense" in str(report)


def test_without_names_it_only_judges():
    params, data = elman.example()
    report = diagnose(elman.loss, params, data, elman.bptt_as_written, name=False)
    assert not report.ok and not report.findings and report.right == ("by",)


def test_a_loss_without_scan():
    rng = np.random.default_rng(0)
    params, data = {"W": rng.normal(size=(3, 3)), "b": rng.normal(size=3)}, (rng.normal(size=(5, 3)),)

    def by_hand(p, x):
        y = np.tanh(x @ p["W"] + p["b"])
        return np.sum(y**2), {"W": x.T @ (2 * y), "b": (2 * y * (1 - y * y)).sum(0)}

    report = diagnose(lambda p, x: tg.sum(tg.square(tg.tanh(x @ p["W"] + p["b"]))), params, data, by_hand)
    assert named(report) == {"W": {"activation derivative missing"}} and report.findings[0].step is None


@pytest.mark.parametrize("cell", planted.CELLS)
def test_carrying_back_the_difference_is_the_whole_walk(cell):
    params, data = planted.point(cell, "every")
    graph = Unrolled(planted.in_ops(cell, "every"), params, data)
    library = list(catalogue(graph, rare=True))
    for common in ([], [b for b in library if b.kind == "transpose missing"][:1]):
        base, compared = Base(graph, common), 0
        for b in library:
            change, whole = base.under(b), broken(graph, [*common, b])
            assert (change is None) == (whole is None), b.what
            for name, g in (whole or {}).items():
                np.testing.assert_allclose(change[name], g, rtol=1e-9, atol=1e-11, err_msg=b.what)
                compared += 1
        assert compared > 500


def test_a_long_sequence_is_asked_about_its_first_steps(monkeypatch):
    """What is found there is looked for in the whole; what shows in long sequences alone is found as well."""
    def loss(p, x):
        return tg.sum(tg.square(tg.scan(lambda h, x: (tg.tanh(x @ p["W"] + h @ p["U"]),) * 2, np.zeros((2, 3)), x)[1]))

    def derivation(wrong, last):
        def by_hand(p, x):
            h = [np.zeros((2, 3))]
            for t in range(len(x)):
                h.append(np.tanh(x[t] @ p["W"] + h[t] @ p["U"]))
            grads, dh = {name: np.zeros_like(v) for name, v in p.items()}, 0
            for t in reversed(range(len(x))):
                dz = (1 - h[t + 1] ** 2) * (2 * h[t + 1] + (dh if t != len(x) - 1 - last else 0))
                grads["W"] += x[t].T @ dz
                grads["U"] += h[t].T @ dz
                dh = dz @ (p["U"] if wrong else p["U"].T)
            return np.sum(np.square(h[1:])), grads

        return by_hand

    rng = np.random.default_rng(0)
    params, data = {"W": rng.normal(size=(4, 3)), "U": rng.normal(size=(3, 3))}, (rng.normal(size=(30, 2, 4)),)
    walks, under = [], Base.under
    monkeypatch.setattr(Base, "under", lambda self, b: walks.append(self.graph.T) or under(self, b))
    report = diagnose(loss, params, data, derivation(True, 30))
    assert named(report) == {"W": {"transpose missing"}, "U": {"transpose missing"}} and {f.step for f in report.findings} == {28}
    assert walks.count(30) < 20 < walks.count(6)
    report = diagnose(loss, params, data, derivation(False, 9))
    assert "(k = 8)" in str(report) and named(report) == {"W": {"carry cut after k steps"}, "U": {"carry cut after k steps"}}, str(report)


@pytest.mark.parametrize("bh, bug", [
    ("nonsense", "gradient is not an array of numbers"), ([[1.0], [2.0, 3.0], [4.0], [5.0]], "gradient is not an array of numbers"),
    (np.ones((4, 1), bool), "gradient is not an array of numbers"), (1j * np.ones((4, 1)), "gradient is not an array of numbers"),
    (3.0, "shape of a gradient"), (np.ones((2, 7)), "shape of a gradient"), (np.zeros((4, 1), int), "gradient is zero"),
])
def test_what_is_no_gradient_spoils_no_other(bh, bug):
    params, data = elman.example()
    report = diagnose(elman.loss, params, data, wrapped(lambda g: g | {"bh": bh}))
    assert named(report) == {"bh": {bug}} and set(report.right) == {"Whx", "Whh", "Wyh", "by", "h0", "x"}, str(report)


def test_lists_are_gradients():
    params, data = elman.example()
    assert diagnose(elman.loss, params, data, wrapped(lambda g: {name: v.tolist() for name, v in g.items()})).ok
    assert not diagnose(elman.loss, params, data, wrapped(lambda g: g | {"by": (2 * g["by"]).tolist()})).ok


def test_a_derivation_that_depends_on_chance():
    params, data = elman.example()
    noise = np.random.default_rng(0)
    report = diagnose(elman.loss, params, data, wrapped(lambda g: g | {"bh": g["bh"] + noise.normal()}))
    assert named(report)["bh"] == {"another answer when asked again"} and report.unnamed == ("bh",), str(report)


def test_a_second_call_that_raises():
    params, data = elman.example()
    calls = []

    def once(p, x, y):
        calls.append(1)
        return elman.bptt(p, x, y) if len(calls) == 1 else 1 / 0

    report = diagnose(elman.loss, params, data, once)
    assert named(report) == {"all": {"another answer when asked again"}} and "ZeroDivisionError" in str(report)


def test_a_loss_without_a_finite_gradient_judges_nothing():
    params, (x, y) = elman.example()
    report = diagnose(elman.loss, params, (x, y * np.nan), elman.bptt)
    assert not report.ok and not report.right and not report.unnamed
    assert set().union(*named(report).values()) == {"the right gradient is not finite"}, str(report)


@pytest.mark.parametrize("options", [{"truncate": (1, 2)}, {"checkpoint": 2}, {"lengths": np.array([5, 3])}, {"reverse": True}, {"compiled": False}])
def test_every_option_of_scan(options):
    rng = np.random.default_rng(0)
    params, x = {"W": rng.normal(size=(3, 4)), "U": rng.normal(size=(4, 4))}, rng.normal(size=(5, 2, 3))

    def loss(p, x):
        return tg.sum(tg.square(tg.scan(lambda h, x: (tg.tanh(x @ p["W"] + h @ p["U"]),) * 2, np.zeros((2, 4)), x, **options)[1]))

    value, grads = tg.value_and_grad(loss)(params, x)
    assert diagnose(loss, params, (x,), grads).ok
    assert named(diagnose(loss, params, (x,), grads | {"U": -grads["U"]})) == {"U": {"sign"}}
    assert diagnose(loss, params, (x,), grads | {"U": rng.normal(size=(4, 4))}).unnamed == ("U",)


def test_a_scan_in_a_scan():
    rng = np.random.default_rng(0)
    params, x = {"W": rng.normal(size=(3, 4)), "U": rng.normal(size=(4, 4))}, rng.normal(size=(5, 3, 2, 3))

    def loss(p, x):
        inner = lambda h, x: (tg.tanh(x @ p["W"] + h @ p["U"]),) * 2
        return tg.sum(tg.square(tg.scan(lambda h, xs: tg.scan(inner, h, xs), np.zeros((2, 4)), x)[1]))

    grads = tg.grad(loss)(params, x)
    assert diagnose(loss, params, (x,), grads).ok
    assert diagnose(loss, params, (x,), grads | {"U": rng.normal(size=(4, 4))}).unnamed == ("U",)


# ---- messages -----------------------------------------------------------------------------------------------


def test_the_text_of_a_diagnosis():
    params, data = classifier.ERRATA[0].point()
    _, grads = classifier.bptt_as_written(params, *data)
    text = str(diagnose(classifier.loss, params, data, {name: grads[name] for name in params}))
    assert text == (
        "diagnose: 4 of 6 gradients wrong\n"
        "  w_x  relative error 3.7e-01\n"
        "  w_h  relative error 3.8e-01\n"
        "  b    relative error 2.6e-01\n"
        "  h0   relative error 9.4e-01\n"
        "- transpose missing\n"
        "    a transpose is missing: matmul no. 2 (w_h) hands back the product with the matrix as it is\n"
        "    spoils w_x, w_h, b, h0 from step 3 on back (confidence 0.90)\n"
        "The gradients part first at tensor w_x, step 3.\n"
        "Right: w_y, b_y.")


def test_a_right_diagnosis_in_words():
    params, data = classifier.example()
    assert str(diagnose(classifier.loss, params, data, classifier.bptt)) == "diagnose: every gradient is right (w_y, b_y, w_x, w_h, b, x, h0)"


@pytest.mark.parametrize("data, by_hand, text", [
    (np.ones(3), {}, "data is not a tuple"),
    ((), {"a": {"w": np.ones(3)}}, "no gradient has the name of a parameter"), ((), {"q": 1.0}, "no gradient has the name of a parameter"),
    ((), lambda p: (0.0, 3.0), "the gradients are not a dict, nor a tree like params"),
])
def test_bad_questions(data, by_hand, text):
    with pytest.raises(tg.errors.ArgumentError, match=text):
        diagnose(lambda p: tg.sum(p["w"]), {"w": np.ones(3)}, data, by_hand)
