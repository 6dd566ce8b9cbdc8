"""check_rule against planted mistakes, at the inputs one tries first; and never a word against a right rule."""

import numpy as np
import pytest
from planted_rules import RIGHT, RIGHT_BUT_NOT_STRICTLY, WRONG

import tinygrad_rnn as tg
from tinygrad_rnn.check import check_rule
from tinygrad_rnn.check.inputs import Kind, accepts, free_axes, other_sizes

ONLY_STRICTLY = {"double precision for single", "softmax: axis 1 for the last", "add: axes of size 1 forgotten", "mean: of two axes", "sum: empty forgotten"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRONG)
def test_a_planted_mistake_is_found(name):
    report = check_rule(*WRONG[name], strict=name in ONLY_STRICTLY)
    assert not report.ok and not report, str(report)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(ONLY_STRICTLY))
def test_what_a_right_rule_may_be_excused_for_is_left_to_strict_mode(name):
    assert check_rule(*WRONG[name]).ok


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rule_is_not_accused(name):
    report = check_rule(*RIGHT[name], strict=True)
    assert report.ok and report.checked > 100, str(report)


@pytest.mark.parametrize("name", RIGHT_BUT_NOT_STRICTLY)
def test_what_only_strict_mode_objects_to(name):
    assert check_rule(*RIGHT_BUT_NOT_STRICTLY[name]).ok
    assert not check_rule(*RIGHT_BUT_NOT_STRICTLY[name], strict=True).ok


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("name", ["multiply", "matmul", "sort", "max: shared ties", "embedding", "layernorm", "power", "sinc"])
def test_the_seed_does_not_decide(name, seed):
    assert check_rule(*RIGHT[name], seed=seed).ok


# what each kind of mistake is called
CALLED = {
    "sin: the rule of cos": "the gradient of x is wrong",
    "bias: keepdims left on": "the gradient of b has the wrong shape",
    "nan made 0": "the gradient of x is not linear in g",
    "abs: nan at 0": "the gradient of x is not finite",
    "a list": "the gradient of x is no array",
    "draws from Python's generator": "the rule changes global state",
    "another epsilon in single precision": "the gradient of x is wrong",
    "an input for g = 1": "the gradient of a shares memory with the input b",
    "a single precision result": "the gradient of x has the wrong dtype",
    "sigmoid: overflow": "the gradient of x is not finite",
    "g clipped at ±5": "the gradient of x is not linear in g",
    "cache by identity": "the rule remembers an earlier call",
    "one buffer for all calls": "a later call changes the gradients of an earlier one",
    "one array for two gradients": "the gradients of a and b share memory",
    "writes to x": "the rule writes to its input x",
    "writes to g": "the rule writes to its cotangent",
    "every fiftieth call": "equal calls give different gradients",
    "single precision inside": "the rule loses precision inside",
    "reads memory in order": "the gradient depends on how the arrays lie in memory",
    "reseeds NumPy": "the rule changes global state",
    "one gradient missing": "the rule returns another number of gradients than inputs",
    "crashes at other sizes": "the rule raises ValueError",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLED)
def test_the_finding_names_the_mistake(name):
    forward, vjp, inputs = WRONG[name]
    report = check_rule(forward, vjp, inputs)
    assert CALLED[name] in {finding.what for finding in report.findings}, str(report)


def test_a_report_reads_like_this():
    def scale(x):
        return 2 * x

    report = check_rule(scale, lambda g, x: (3 * g,), (np.array([1.0]),))
    text = str(report)
    assert text.startswith("check_rule(scale): 1 thing wrong, ")
    assert "- the inputs as given: the gradient of x is wrong (and in" in text
    assert text.endswith("Fix the rule and run the check again, seed=0.")
    assert str(check_rule(scale, lambda g, x: (2 * g,), (np.array([1.0]),))).startswith("check_rule(scale): nothing wrong in ")


def test_it_says_what_it_cannot_check():
    with pytest.raises(tg.errors.DtypeError, match="no input is floating point"):
        check_rule(np.negative, lambda g, x: (-g,), (np.arange(3),))
    with pytest.raises(tg.errors.ArgumentError, match="forward does not give one array of finite floats"):
        check_rule(np.linalg.inv, lambda g, x: (g,), (np.ones((2, 3)),))
    with pytest.raises(tg.errors.ArgumentError, match="a tuple of 2"):
        check_rule(lambda x: (x, x), lambda g, x: (g,), (np.ones(3),))
    with pytest.raises(tg.errors.ArgumentError, match="vjp is no function"):
        check_rule(np.sin, None, (np.ones(3),))
    with pytest.raises(tg.errors.DtypeError, match="half precision"):
        check_rule(np.sin, lambda g, x: (g * np.cos(x),), (np.ones(3, np.float16),))


def test_a_forward_that_is_no_function_of_its_inputs_is_found():
    random = np.random.default_rng(0)
    for forward, what in ((lambda x: np.sin(x, out=x), "forward writes to its inputs"),
                          (lambda x: x + random.normal(), "forward gives different values in equal calls")):
        report = check_rule(forward, lambda g, x: (g,), (np.ones(3),))
        assert [finding.what for finding in report.findings] == [what]


def test_what_is_worth_a_remark_at_infinity():
    report = check_rule(lambda x: np.exp(-x * x), lambda g, x: (-2 * g * x * np.exp(-x * x),), (np.ones(3),))
    assert report.ok and "for an infinite entry of x forward is finite, and a gradient is nan" in report.notes


def test_inputs_are_left_alone():
    x = np.arange(3.0)
    check_rule(np.square, lambda g, x: (2 * g * x,), (x,))
    np.testing.assert_array_equal(x, np.arange(3.0))


# ---- the inputs that it makes -------------------------------------------------------------------------------

def groups(forward, *shapes):
    rng = np.random.default_rng(0)
    return {frozenset(group) for group in free_axes(forward, [rng.normal(size=s) for s in shapes], rng)}


def test_axes_that_change_together_are_found_by_asking_the_function():
    assert groups(np.sin, (3, 3)) == {frozenset({(0, 0)}), frozenset({(0, 1)})}
    assert groups(np.matmul, (3, 3), (3, 3)) == {frozenset({(0, 0)}), frozenset({(0, 1), (1, 0)}), frozenset({(1, 1)})}
    assert groups(np.multiply, (3, 3), (3, 3)) == {frozenset({(0, 0), (1, 0)}), frozenset({(0, 1), (1, 1)})}
    assert groups(np.linalg.inv, (3, 3)) == {frozenset({(0, 0), (0, 1)})}
    assert groups(lambda x: x * np.ones((3, 4)), (3, 4)) == set()
    assert groups(np.add, (1, 4), (4,)) == {frozenset({(0, 0)}), frozenset({(0, 1), (1, 0)})}


def test_sizes_do_not_make_equal_shapes_broadcast():
    rng = np.random.default_rng(0)
    for case in other_sizes(np.multiply, (rng.normal(size=(3, 4)), rng.normal(size=(3, 4))), rng):
        assert case.arrays[0].shape == case.arrays[1].shape


@pytest.mark.parametrize("array, kind", [(np.array([0, 2]), "indices"), (np.array([True]), "mask"), (np.eye(3), "one-hot rows"),
                                         (np.full((2, 4), 0.25), "probabilities"), (np.array([0.0, 1.0, 1.0]), "zeros and ones"),
                                         (np.ones(3), ""), (np.array([0.5, -1.0]), "")])
def test_what_an_array_looks_like_is_kept(array, kind):
    found = Kind(array)
    assert found.special == kind
    drawn = found.like(np.random.default_rng(0), (5, 4))
    assert drawn.shape == (5, 4) and drawn.dtype == array.dtype
    if kind in ("one-hot rows", "probabilities"):
        np.testing.assert_allclose(drawn.sum(-1), 1)


def test_positive_inputs_stay_positive():
    x = np.array([0.1, 5.0, 2.0])
    assert (Kind(x).like(np.random.default_rng(0), (1000,)) > 0).all()
    assert accepts(np.log, (-x,)) is None
