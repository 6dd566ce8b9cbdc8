"""gradcheck: it finds what is wrong, never accuses what is right, and says when it cannot tell."""

import os

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.check import gradcheck
from tinygrad_rnn.check.differences import complex_step, derivative, taylor

RIGHT_CASES = int(os.environ.get("GRADCHECK_CASES", "150"))


def op_with(rule, forward=np.sin, **options):
    """An op with the given forward and rule, of which the rule is what a test plants."""
    @tg.primitive(domain=tg.domains.REALS, **options)
    def planted(x, /, *, out=None):
        """An op with a planted rule."""
        return forward(x)

    return planted.vjp(x=rule)


AT = np.linspace(-2, 2, 5)


# ---- it finds what is wrong ---------------------------------------------------------------------------------

WRONG_RULES = {
    "a factor": lambda g, x: g * np.cos(x) * 1.01,
    "a small factor": lambda g, x: g * np.cos(x) * (1 + 1e-5),
    "the sign": lambda g, x: -g * np.cos(x),
    "another function": lambda g, x: g * np.sin(x),
    "one entry lost": lambda g, x: g * np.cos(x) * np.not_equal(x, 2.0),
    "a constant added": lambda g, x: g * np.cos(x) + 1e-4,
    "not a number": lambda g, x: g * np.nan,
    "infinite": lambda g, x: g * np.inf,
    "zero": lambda g, x: g * 0,
    "rolled by one": lambda g, x: np.roll(g * np.cos(x), 1),
}


@pytest.mark.parametrize("rule", WRONG_RULES.values(), ids=WRONG_RULES)
@pytest.mark.parametrize("analytic", [False, True])
def test_a_wrong_rule_is_found(rule, analytic):
    report = gradcheck(lambda x: tg.sum(op_with(rule, analytic=analytic)(x) * np.arange(1.0, 6.0)), AT)
    assert not report.ok and report.verdict == "wrong", str(report)
    assert report.rows[0].verdict == "wrong"


POLYNOMIALS = {
    "x²": (lambda x: x * x, lambda g, x: 3 * g * x),
    "x": (lambda x: 1 * x, lambda g, x: 1.01 * g),
    "½x² + x": (lambda x: x * x / 2 + x, lambda g, x: g * x),
    "x³": (lambda x: x * x * x, lambda g, x: 4 * g * x * x),
    "x⁴": (lambda x: x * x * x * x, lambda g, x: 4 * g * x * x),
}


@pytest.mark.parametrize("name", POLYNOMIALS)
@pytest.mark.parametrize("analytic", [False, True])
@pytest.mark.parametrize("at", [[0.3, -0.7], [1.5, 2.0], [40.0, -300.0]])
def test_a_wrong_rule_is_found_where_the_largest_step_is_exact(name, analytic, at):
    forward, rule = POLYNOMIALS[name]
    report = gradcheck(lambda x: tg.sum(op_with(rule, forward, analytic=analytic)(x)), np.array(at), order=1)
    assert report.verdict == "wrong", str(report)


@pytest.mark.parametrize("rule", WRONG_RULES.values(), ids=WRONG_RULES)
def test_a_wrong_rule_is_found_along_directions(rule):
    report = gradcheck(lambda x: tg.sum(op_with(rule)(x)), np.tile(AT, 100), order=1)
    assert not report.ok, str(report)


def test_a_wrong_second_derivative_is_found():
    first_order_only = op_with(lambda g, x: g * tg.stop_gradient(np.cos(x)))
    report = gradcheck(lambda x: tg.sum(first_order_only(x)), AT)
    assert [row.verdict for row in report.rows] == ["right", "wrong"], str(report)
    assert gradcheck(lambda x: tg.sum(first_order_only(x)), AT, order=1)


def test_a_wrong_third_derivative_is_found():
    cosine = op_with(lambda g, x: g * tg.stop_gradient(-np.sin(x)), np.cos)
    twice = op_with(lambda g, x: g * cosine(x))
    assert gradcheck(lambda x: tg.sum(twice(x)), AT, order=2)
    report = gradcheck(lambda x: tg.sum(twice(x)), AT, order=3)
    assert [row.verdict for row in report.rows] == ["right", "right", "wrong"], str(report)


def test_the_worst_entry_is_named_with_its_path_and_its_time_step():
    broken = op_with(lambda g, x: g * np.cos(x) * np.where(np.greater(np.abs(x - 0.7), 1e-9), 1.0, 2.0))

    def loss(params, xs):
        state, ys = tg.scan(lambda s, x: (np.tanh(x @ params["W"] + s),) * 2, np.zeros((2, 3)), broken(xs) * 1.0)
        return tg.sum(ys)

    rng = np.random.default_rng(0)
    xs = rng.normal(size=(5, 2, 4))
    xs[3, 1, 2] = 0.7

    def outer(params, xs):
        return loss(params, xs)

    report = gradcheck(outer, ({"W": rng.normal(size=(4, 3))}, xs), order=1)
    assert (report.worst.name, report.worst.index) == ("xs", (3, 1, 2)), str(report)
    direct = gradcheck(lambda params, xs: tg.sum(tg.scan(lambda s, x: (np.tanh(broken(x) @ params["W"] + s),) * 2, np.zeros((2, 3)), xs)[1]),
                       ({"W": rng.normal(size=(4, 3))}, xs), order=1)
    assert direct.worst.step == 3, str(direct)
    assert "xs (5, 2, 4), order 1" in str(direct) and "time step       3" in str(direct)


def test_a_reversed_scan_keeps_its_time_axis():
    report = gradcheck(lambda xs: tg.sum(tg.scan(lambda s, x: (s * 0.5 + x, s), np.zeros(2), xs, reverse=True)[0]), np.ones((4, 2)), order=1)
    assert report.worst.step is not None


def test_own_gradients_can_be_checked():
    def f(w, x):
        return tg.sum(np.tanh(x @ w))

    def right(w, x):
        d = 1 - np.tanh(x @ w) ** 2
        return x.T @ d, d @ w.T

    def transposed(w, x):
        d = 1 - np.tanh(x @ w) ** 2
        return x.T @ d, d @ w

    rng = np.random.default_rng(1)
    at = rng.normal(size=(3, 3)), rng.normal(size=(4, 3))
    assert gradcheck(f, at, gradient=right)
    report = gradcheck(f, at, gradient=transposed)
    assert [row.name for row in report.rows if row.verdict == "wrong"] == ["x"], str(report)
    report = gradcheck(f, at, gradient=lambda w, x: (right(w, x)[0].astype(np.float32), right(w, x)[1].sum(0)))
    assert "the gradient of w is float32 (3, 3), the input float64 (3, 3)" in str(report)
    assert "the gradient of x is float64 (3,), the input float64 (4, 3)" in str(report)


def test_impure_functions_are_found():
    rng = np.random.default_rng(0)
    report = gradcheck(lambda x: tg.sum(x * rng.normal(size=5)), AT)
    assert not report and "not deterministic" in str(report)

    @tg.primitive(domain=tg.domains.REALS)
    def greedy(x, /, *, out=None):
        """Doubles its input in place."""
        x *= 2
        return x.copy()

    greedy.vjp(x=lambda g: 2 * g)
    report = gradcheck(lambda x: tg.sum(greedy(x)), AT)
    assert not report and "writes to its inputs" in str(report)


def test_a_rule_that_writes_to_its_cotangent_is_found():
    def rule(g):
        g *= 2
        return g

    report = gradcheck(op_with(rule, lambda x: 2 * x), np.array(1.0), order=1)
    assert not report and "writes to its cotangent" in str(report)


def test_a_cotangent_of_the_wrong_shape_is_found():
    report = gradcheck(lambda x: tg.sum(op_with(lambda g, x: np.concatenate([g, g]))(x)), AT)
    assert not report and "wrong shape" in str(report)


# ---- it says when it cannot tell ----------------------------------------------------------------------------

def test_a_vacuous_check_says_so():
    report = gradcheck(lambda x: tg.sum(x * 0.0), AT)
    assert report.verdict == "cannot tell" and report.vacuous and "vacuous" in str(report) and report.ok
    assert not gradcheck(lambda x: tg.sum(x * 0.0), AT, strict=True)


def test_an_input_that_has_no_effect_is_named():
    report = gradcheck(lambda a, b: tg.sum(a * a), (AT, AT), order=1)
    assert [(row.name, row.verdict) for row in report.rows] == [("a", "right"), ("b", "cannot tell")]
    assert "does not depend on it" in str(report)


def test_an_effect_below_rounding_is_not_called_right():
    report = gradcheck(lambda a, b: tg.sum(a) + 1e-30 * tg.sum(np.abs(b)), (AT, AT + 0.3), order=1)
    assert [row.verdict for row in report.rows] == ["right", "cannot tell"] and "below rounding" in str(report)


@pytest.mark.parametrize("f", [tg.relu, tg.abs, lambda x: tg.maximum(x, 0.0), lambda x: tg.clip(x, 0.0, 1.0)])
def test_a_kink_is_no_mistake(f):
    report = gradcheck(lambda x: tg.sum(f(x)), AT)  # 0 is among the points
    assert report.ok and report.rows[0].verdict == "cannot tell" and "kink" in str(report)
    off = gradcheck(lambda x: tg.sum(f(x)), AT + 0.1)
    assert off.rows[0].verdict == "right"


def test_a_wrong_rule_is_found_at_its_kink():
    crooked = op_with(lambda g, x: g * np.greater(x, 0) * 1.5, lambda x: np.maximum(x, 0), kinks=(0.0,))
    assert not gradcheck(lambda x: tg.sum(crooked(x)), AT, order=1)
    outside = op_with(lambda g, x: g * np.where(np.equal(x, 0), 3.0, np.greater(x, 0)), lambda x: np.maximum(x, 0))
    assert not gradcheck(lambda x: tg.sum(outside(x)), AT, order=1)


def test_smooth_zero_at_a_kink_of_its_parts_is_no_accusation():
    assert gradcheck(lambda x: tg.sum(tg.relu(x) - tg.relu(-x)), AT, order=1).ok  # x itself; the rules give 0 at 0


def test_a_jump_cannot_be_told():
    report = gradcheck(lambda x: tg.sum(tg.where(tg.equal(x, 1.0), 5.0, x)), np.array([1.0, 2.0]), order=1)
    assert report.verdict == "cannot tell" and report.ok
    assert derivative(lambda t: 5.0 if t == 0 else t).jump and not derivative(abs).jump


def test_a_value_that_is_not_finite_cannot_be_told():
    with np.errstate(all="ignore"):
        report = gradcheck(lambda x: tg.sum(tg.log(x)), np.array([0.0, 1.0]), order=1)
    assert report.verdict == "cannot tell" and "not finite" in str(report)


def test_the_method_says_what_the_complex_step_does_not_see_through():
    assert "complex step (every op is analytic)" in str(gradcheck(lambda x: tg.sum(np.tanh(x)), AT))
    assert "not valid through absolute" in str(gradcheck(lambda x: tg.sum(np.abs(x)), AT + 0.1))
    assert "maximum" in gradcheck(lambda x: tg.sum(np.maximum(x, 0.5)), AT).method
    assert "greater" in gradcheck(lambda x: tg.sum(np.where(x > 0.1, x * x, 0)), AT).method


def test_an_op_that_lies_about_being_analytic_is_not_trusted():
    liar = op_with(lambda g, x: g * np.sign(x), np.abs, analytic=True)
    report = gradcheck(lambda x: tg.sum(liar(x)), AT + 0.1, order=1)
    assert report.verdict == "right" and "disagrees with differences" in report.method, str(report)


# ---- it never accuses what is right -------------------------------------------------------------------------

UNARY = [tg.tanh, tg.sigmoid, tg.softplus, tg.relu, tg.gelu, tg.exp, tg.expm1, tg.sin, tg.cos, tg.arctan, tg.square, tg.abs,
         tg.softmax, tg.log_softmax, tg.cumsum, lambda x: tg.log1p(tg.square(x)), lambda x: tg.sqrt(tg.square(x) + 0.1), tg.sinc,
         lambda x: tg.clip(x, -0.5, 0.5), lambda x: tg.flip(x), lambda x: x - tg.mean(x), lambda x: x / (1 + tg.norm(x)),
         lambda x: x / (0.1 + tg.std(x)), lambda x: x * tg.prod(x), lambda x: x - tg.max(x), lambda x: tg.logsumexp(x) * x,
         lambda x: tg.roll(x, 1) if x.ndim else x, lambda x: tg.flip(x, 0 if x.ndim else None) * x, lambda x: tg.where(x > 0, x, 0.01 * x),
         lambda x: x**3, lambda x: -x]
BINARY = [tg.add, tg.subtract, tg.multiply, lambda a, b: a / (1 + b * b), tg.maximum, tg.minimum, tg.logaddexp,
          lambda a, b: a @ np.swapaxes(b, -1, -2) @ a, lambda a, b: tg.power(tg.square(a) + 0.5, b), lambda a, b: 1e6 * a - 1e6 * b]


def right_case(seed):
    """A random function with right gradients and a random point: its inputs, and whether they are single precision."""
    rng = np.random.default_rng(seed)
    shape = [(), (1,), (3,), (2, 3), (1, 4), (2, 1, 2), (4, 4)][rng.integers(7)]
    single = rng.random() < 0.25
    magnitude = 10.0 ** rng.uniform(-3, 2) if rng.random() < 0.6 else 10.0 ** rng.uniform(*((-12, 12) if single else (-120, 120)))
    unary = [UNARY[i] for i in rng.integers(len(UNARY), size=rng.integers(1, 4))]
    binary = BINARY[rng.integers(len(BINARY))]
    matrix = len(shape) == 2
    if not matrix and binary is BINARY[7]:
        binary = tg.multiply
    output = rng.integers(3)
    factor = 10.0 ** rng.integers(-200, 200) if rng.random() < 0.1 and not single else 1.0

    def f(a, b):
        x = a
        for op in unary:
            x = op(x)
        y = binary(x, b) * factor
        return y if output == 0 else tg.sum(y) if output == 1 else (tg.mean(y), x)

    def draw():
        x = rng.normal(size=shape)
        kind = rng.integers(5)
        if kind == 0:
            x = np.round(x)  # zeros, ties and integers
        elif kind == 1:
            x = x * 10.0 ** rng.uniform(-6, 6, shape)
        return np.asarray(x * magnitude, np.float32 if single else np.float64)

    return f, (draw(), draw()), single


def accusations(seeds, order=2):
    """The seeds of right cases that gradcheck calls wrong, and how many it calls right."""
    accused, right = [], 0
    for seed in seeds:
        f, inputs, single = right_case(seed)
        with np.errstate(all="ignore"):
            report = gradcheck(f, inputs, float32=single, order=order, seed=seed)
        if report.verdict == "wrong":
            accused.append(seed)
        right += report.verdict == "right"
    return accused, right


def test_no_right_gradient_is_called_wrong():
    accused, right = accusations(range(RIGHT_CASES))
    assert not accused
    assert right > 0.5 * RIGHT_CASES  # and it does not save itself by never telling


def test_single_precision_is_refused_unless_asked():
    with pytest.raises(tg.errors.DtypeError) as caught:
        gradcheck(lambda x: tg.sum(x * x), AT.astype(np.float32))
    assert str(caught.value) == ("gradcheck(f): differences in single precision see hardly more than three digits\n"
                                 "  x  float32\n"
                                 "Pass float64 inputs, or float32=True to check against a reference in double precision.")
    assert gradcheck(lambda x: tg.sum(np.tanh(x) ** 2), AT.astype(np.float32), float32=True).verdict == "right"
    assert not gradcheck(lambda x: tg.sum(op_with(WRONG_RULES["a factor"])(x)), AT.astype(np.float32), float32=True)


def test_what_is_asked_must_make_sense():
    with pytest.raises(tg.errors.DomainError, match="no check of this order"):
        gradcheck(np.tanh, AT, order=4)
    with pytest.raises(tg.errors.DtypeError, match="no input is floating point"):
        gradcheck(lambda x: x * 2, np.arange(3))
    with pytest.raises(tg.errors.ArgumentError, match="returns nothing that is floating point"):
        gradcheck(lambda x: x > 0, AT)


def test_what_is_no_function_or_no_gradient_is_refused_in_words():
    for call, text in ((lambda: gradcheck(3, AT), "f is no function"),
                       (lambda: gradcheck(np.tanh, AT, gradient=AT), "gradient is no function"),
                       (lambda: gradcheck(tg.tanh, AT, gradient=lambda x: x), "those of one number"),
                       (lambda: gradcheck(tg.sum, AT, gradient=lambda x: x + 0j), "not real numbers"),
                       (lambda: gradcheck(tg.sum, AT, gradient=lambda x: "text"), "not real numbers")):
        with pytest.raises(tg.errors.ArgumentError, match=text):
            call()


def test_a_function_that_refuses_the_neighbours_of_its_inputs_cannot_be_told():
    def guarded(x):
        if np.max(x.numpy() if isinstance(x, tg.Tensor) else np.real(x)) > 2:
            raise ValueError("too large")
        return tg.sum(x * x)

    assert gradcheck(guarded, AT, order=1).verdict == "cannot tell"
    assert gradcheck(guarded, AT - 0.1, order=1).ok


def test_constants_may_be_anything_but_must_not_be_written_to():
    table = {"relu": tg.relu}
    assert gradcheck(lambda x, options: tg.sum(table[options["op"]](x)), (AT + 0.1, {"op": "relu"}), order=1)
    rows = np.arange(5)
    report = gradcheck(lambda x, rows: tg.sum(x * rows.__iadd__(1)), (AT, rows), order=1)
    assert not report and "writes to its inputs" in str(report)
    np.testing.assert_array_equal(rows, np.arange(5))


def test_a_logarithm_of_a_number_near_one_moves_in_steps():
    """log Σ exp of 0 and −25 is 1e-11, and its rounding error that of 1."""
    x = np.array([-25.33225179, -50.66450358, 0.0, -25.33225179])
    report = gradcheck(lambda x: 1e10 * tg.sum(np.array([0.3, -1.2, 0.5, 0.7]) * x * tg.logsumexp(x)), x, order=1)
    assert report.verdict != "wrong", str(report)


def test_what_saturates_within_rounding_of_a_zero_is_no_mistake():
    """tanh(1e26 x) is ±1 for every x that a difference can try; beside 1e20 nobody sees it."""
    report = gradcheck(lambda x: tg.sum(tg.tanh(1e26 * x)) + 1e20, np.array([0.0, 1.0]), order=1)
    assert report.verdict != "wrong", str(report)


def test_steps_go_further_down_at_zero():
    """1e13 x at x = 0: the second derivative changes within 1e-13; no step of other numbers is as small."""
    report = gradcheck(lambda x: tg.sum(tg.arctan(tg.square(1e13 * x))), np.array([0.0, 1.0]))
    assert report.verdict != "wrong", str(report)


def test_the_same_seed_gives_the_same_report():
    f, inputs, single = right_case(3)
    assert str(gradcheck(f, inputs, seed=7, float32=single)) == str(gradcheck(f, inputs, seed=7, float32=single))
    assert "seed=7" in str(gradcheck(f, inputs, seed=7, float32=single))


def test_integers_are_constants_and_trees_keep_their_names():
    params = {"W": np.eye(3), "rows": np.array([0, 2, 2])}
    report = gradcheck(lambda p, x: tg.sum(np.tanh(tg.take(x, p["rows"], 0) @ p["W"])), (params, np.ones((3, 3))))
    assert report.ok and [row.name for row in report.rows[:2]] == ["W", "x"]


def test_an_empty_input_is_no_problem():
    report = gradcheck(lambda x, y: tg.sum(x) + tg.sum(y * y), (np.ones((0, 3)), AT), order=1)
    assert report.ok and report.rows[0].reason == "it has no entries"


# ---- the numerical derivatives ------------------------------------------------------------------------------

SMOOTH = {"exp": (np.exp, lambda x: np.exp(x)), "sin 1000x": (lambda x: np.sin(1000 * x), lambda x: 1000 * np.cos(1000 * x)),
          "1/x": (lambda x: 1 / x, lambda x: -1 / x**2), "x³ + 1e8": (lambda x: x**3 + 1e8, lambda x: 3 * x**2),
          "a narrow bump": (lambda x: np.exp(-((x - 0.7) * 1e4) ** 2), lambda x: -2e8 * (x - 0.7) * np.exp(-((x - 0.7) * 1e4) ** 2)),
          "beside a kink": (lambda x: abs(x - 0.70001), lambda x: np.sign(x - 0.70001)), "a line": (lambda x: 3 * x, lambda x: 3.0)}


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("x", [0.7, 0.70003, 1e-6, 1e6])
def test_the_bound_of_a_difference_holds(name, x):
    f, exact = SMOOTH[name]
    with np.errstate(all="ignore"):
        found = derivative(lambda t: float(f(x + t)), scale=x)
        assert np.isinf(found.error) or abs(found.value - exact(x)) <= 2 * found.error, (found.value, exact(x), found.error)


def test_the_bound_of_a_difference_is_useful():
    for f, exact in (SMOOTH[name] for name in ("exp", "sin 1000x", "1/x", "a line")):
        found = derivative(lambda t: float(f(0.7 + t)), scale=0.7)
        assert found.error < 1e-6 * abs(exact(0.7))


def test_complex_step_and_taylor_series():
    assert complex_step(lambda z: np.sin(0.5 + z)) == pytest.approx(np.cos(0.5), rel=1e-15)
    assert taylor(lambda z: np.sin(0.5 + z), 0.5) == pytest.approx([np.sin(0.5), np.cos(0.5), -np.sin(0.5), -np.cos(0.5)], abs=1e-13)


def test_the_error_against_the_step_is_a_valley():
    curve = tg.check.error_against_step(lambda p: tg.sum(np.exp(p["w"])), {"w": np.array([0.5, 1.0])})
    assert (curve.name, curve.index) == ("w", (1,))
    assert curve.central[0] > 1e-2 and curve.central[-1] > 1e-2 and curve.central.min() < 1e-9
    assert curve.imaginary[-5:].max() < 1e-15
    assert "the central difference is best at a step of" in str(curve)
    assert np.all(np.isnan(tg.check.error_against_step(lambda x: tg.sum(np.abs(x)), AT + 0.1).imaginary))
    with pytest.raises(tg.errors.ArgumentError, match="no floating point input has this name"):
        tg.check.error_against_step(lambda x: tg.sum(x), AT, "y")
    for inputs, options in ((AT, {"index": (7,)}), (AT, {"index": (0, 0)}), (AT[:0], {}), (AT, {"steps": []})):
        with pytest.raises(tg.errors.ArgumentError, match="there is nothing to follow"):
            tg.check.error_against_step(lambda x: tg.sum(x), inputs, **options)


def test_power_can_be_appended():
    rng = np.random.default_rng(0)
    params = {"W": rng.normal(size=(3, 3)), "U": rng.normal(size=(2, 3))}

    def loss(params, xs):
        state, ys = tg.scan(lambda h, x: (np.tanh(h @ params["W"] + x @ params["U"]),) * 2, np.zeros((2, 3)), xs)
        return tg.sum(ys[-1] * ys[-1])

    report = gradcheck(loss, (params, rng.normal(size=(4, 2, 2))), order=1, power=True)
    assert report.ok and report.power is not None and str(report.power) in str(report)
