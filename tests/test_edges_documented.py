"""What an op does at an edge is said where its help is read."""

import pytest

import tinygrad_rnn as tg

SAID = {
    "where": "Both sides are computed: an infinite derivative in the side that is not taken gives 0 · inf = nan, so guard the argument",
    "softmax": "A row that is all −inf has no distribution: it gives nan",
    "logsumexp": "0 where every element is −inf",
    "sqrt": "infinite at 0", "norm": "0 at the origin", "std": "0 where all elements are equal",
    "max": "ties share it evenly", "min": "ties share it evenly",
    "maximum": "½ g to each where they are equal", "minimum": "½ g to each where they are equal",
    "abs": "at the kink 0 it is 0", "relu": "at the kink 0 it is 0", "clip": "0 at them and beyond",
    "power": "Where b is 0 the first is 0, also at a = 0", "prod": "exact also where elements are 0", "softplus": "which is 1 at +inf",
}


@pytest.mark.parametrize("name", SAID)
def test_the_edge_is_in_the_docstring(name):
    assert SAID[name] in " ".join(getattr(tg, name).__doc__.split())


def test_what_may_be_written_to_is_in_the_docstring():
    assert "data is copied in" in tg.Tensor.__doc__ and "`t[...] = v` is an error" in tg.Tensor.__doc__
