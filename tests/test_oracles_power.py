"""power predicts which mistakes PyTorch's, JAX's and autograd's own gradient checkers let pass, at the same points."""

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
# autograd draws its direction anew for each input, so a prediction holds on average: the share that may differ
EXCEPTIONS = {"torch": 0.0, "torch fast": 0.04, "jax": 0.0, "autograd": 0.04}


@pytest.mark.parametrize("tool", MAKERS)
@pytest.mark.parametrize("loss, start", [("last", "small"), ("last", "normal"), ("every", "small")])
def test_predicted_misses_are_the_measured_ones(tool, loss, start):
    pytest.importorskip(tool.split()[0])
    params, data = planted.point("elman", loss, start)
    graph = Unrolled(planted.in_ops("elman", loss), params, data)
    right_by_hand = planted.bptt("elman", loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sees, wrong_predictions, compared, missed = MAKERS[tool](), [], 0, 0
        for kind, place, what, wrong, right in list(possible(graph))[::2]:
            effect = CHECKERS[tool](graph, {n: wrong[n] - right[n] for n in right}, right)
            if 1 / 3 < effect < 3:
                continue
            value = right_by_hand(params, *data)[0]

            def by_hand(p, *d, wrong=wrong, value=value):
                near = all(np.array_equal(p[n], params[n]) for n in params)
                return (value if near else right_by_hand(p, *d)[0]), wrong

            compared, saw = compared + 1, sees(params, data, by_hand)
            missed += not saw
            if saw != (effect > 1):
                wrong_predictions.append(f"{kind} ({what}) at {place}: effect {effect:.2g}, {'seen' if saw else 'missed'}")
    assert compared > 40 and (start == "normal" or missed > 3)
    assert len(wrong_predictions) <= EXCEPTIONS[tool] * compared, "\n".join(wrong_predictions)
