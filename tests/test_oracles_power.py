"""power predicts which mistakes PyTorch's, JAX's and autograd's own gradient checkers let pass, at the same points.

At each point those mistakes are tried whose predicted effect is nearest to what a checker lets pass, outside of a factor of 3 around it.
No exceptions: PyTorch and JAX draw their directions from seeds of their own, which power knows. autograd draws from the user's
generator: with the seed known its verdicts are predicted as well; what power says of it without is an average, and bounded as one.
"""

import functools
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from tinygrad_rnn.check.diagnose_graph import Unrolled
from tinygrad_rnn.check.power import CHECKERS, possible

pytestmark = pytest.mark.oracle


def load(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


detection = load("detection")
planted = detection.planted
MAKERS = {"torch": lambda: detection.torch_checker(False), "torch fast": lambda: detection.torch_checker(True),
          "jax": detection.jax_checker, "autograd": detection.autograd_checker}
TRIED = {"torch": 8, "torch fast": 12, "jax": 8, "autograd": 30}  # on either side
POINTS = [("elman", "last", "small"), ("elman", "every", "small"), ("elman", "last", "normal"), ("lstm", "last", "small"), ("lstm", "mean", "small"),
          ("gru", "mean", "small"), ("gru", "entropy", "normal"), ("custom", "entropy", "small"), ("custom", "every", "large")]


@functools.cache
def at(cell, loss, start):
    params, data = planted.point(cell, loss, start)
    graph = Unrolled(planted.in_ops(cell, loss), params, data)
    return params, data, planted.bptt(cell, loss), graph, list(possible(graph))


def seeded_autograd(graph, off, right):
    """What autograd's check does with NumPy's generator at seed 0: a normal direction for all inputs, a normal number for the loss."""
    rng = np.random.RandomState(0)
    v = {name: rng.randn(*g.shape) for name, g in right.items()}
    c = rng.randn()
    along = lambda grads: c * sum(float(np.sum(v[name] * g)) for name, g in grads.items())
    return abs(along(off)) / (1e-6 * max(1.0, abs(2 * along(right) + along(off))))


def verdicts(tool, effect, cell, loss, start):
    """(predicted effect, whether the tool saw it, its words) of the mistakes nearest to the threshold."""
    params, data, right_by_hand, graph, mistakes = at(cell, loss, start)
    value, sees = right_by_hand(params, *data)[0], MAKERS[tool]()
    rated = [(effect(graph, {n: wrong[n] - right[n] for n in right}, right), f"{kind} ({what}) at {place}", wrong)
             for kind, place, what, wrong, right in mistakes]
    rated.sort(key=lambda r: abs(np.log(max(r[0], 1e-300))))
    above, below = ([r for r in rated if r[0] > 3], [r for r in rated if r[0] < 1 / 3])
    assert len(above) > 50 and len(below) > 10
    for size, words, wrong in above[:TRIED[tool]] + below[:TRIED[tool]]:
        def by_hand(p, *d, wrong=wrong):
            near = all(np.array_equal(p[n], params[n]) for n in params)
            return (value if near else right_by_hand(p, *d)[0]), wrong

        yield size, sees(params, data, by_hand), words


@pytest.mark.parametrize("tool", MAKERS)
@pytest.mark.parametrize("cell, loss, start", POINTS)
def test_predicted_misses_are_the_measured_ones(tool, cell, loss, start):
    pytest.importorskip(tool.split()[0])
    effect = seeded_autograd if tool == "autograd" else CHECKERS[tool]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(verdicts(tool, effect, cell, loss, start))
    wrong = [f"{words}: effect {size:.2g}, {'seen' if saw else 'missed'}" for size, saw, words in found if saw != (size > 1)]
    assert not wrong and {saw for _, saw, _ in found} == {True, False}, "\n".join(wrong)


def test_what_is_said_of_autograd_without_its_seed_holds_on_average():
    """|z| < 1/e for a normal z, about 0.8/e, is the chance that an effect of size e is missed."""
    pytest.importorskip("autograd")
    missed, expected, below = 0, 0.0, []
    for point in POINTS:
        for size, saw, words in verdicts("autograd", CHECKERS["autograd"], *point):
            if size > 1:
                missed, expected = missed + (not saw), expected + 0.8 / size
            elif saw:
                below.append(f"{words}: effect {size:.2g}")
    assert missed < 2 * expected and len(below) <= 2, (missed, expected, below)
