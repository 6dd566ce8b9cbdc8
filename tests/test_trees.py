"""Trees: flatten, unflatten, map, names; what a leaf is, and what a class of yours does to join in."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_rnn import tensor, trees
from tinygrad_rnn.errors import ArgumentError

Pair = namedtuple("Pair", "h c")


class Layer:
    """A module of one's own: two children, and a size that is no child."""

    def __init__(self, weight, bias, size=3):
        self.weight, self.bias, self.size = weight, bias, size

    def tree_children(self):
        return {"weight": self.weight, "bias": self.bias}

    def tree_replace(self, children):
        return Layer(children["weight"], children["bias"], self.size)


nested = st.recursive(
    st.integers() | st.floats(allow_nan=False) | st.none() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    | st.tuples(inner, inner).map(lambda p: Pair(*p)),
    max_leaves=12)


def reversed_names(tree):
    """The same tree with every dict in the other order."""
    if isinstance(tree, dict):
        return {k: reversed_names(v) for k, v in reversed(tree.items())}
    if isinstance(tree, Pair):
        return Pair(*map(reversed_names, tree))
    return type(tree)(map(reversed_names, tree)) if isinstance(tree, (list, tuple)) else tree


@given(nested)
def test_taking_apart_and_building_again(tree):
    leaves, structure = trees.flatten(tree)
    again = trees.unflatten(structure, leaves)
    assert again == tree and type(again) is type(tree)
    assert structure.count == len(leaves) == len(trees.paths(tree)) and None not in leaves
    assert trees.flatten(again)[1] == structure and hash(trees.flatten(again)[1]) == hash(structure)


@given(nested)
def test_leaves_are_matched_by_name(tree):
    leaves, structure = trees.flatten(tree)
    assert trees.flatten_like(reversed_names(tree), structure) == leaves
    assert trees.map(lambda a, b: (a, b), tree, reversed_names(tree)) == trees.map(lambda a: (a, a), tree)


def test_what_is_a_leaf():
    array, t = np.ones(2), tensor([1.0])
    assert [x is y for x, y in zip(trees.flatten([array, (t, "ab")])[0], (array, t, "ab"))] == [True] * 3
    assert trees.flatten(None) == ([], trees.flatten(None)[1]) and trees.flatten([])[0] == [] and trees.flatten({"a": ()})[0] == []


def test_kinds_are_kept():
    tree = {"p": Pair(1, [2, (3,)]), "o": OrderedDict(b=4, a=None)}
    double = trees.map(lambda x: 2 * x, tree)
    assert double == {"p": Pair(2, [4, (6,)]), "o": OrderedDict(b=8, a=None)}
    assert type(double["p"]) is Pair and type(double["o"]) is OrderedDict and list(double["o"]) == ["b", "a"]


def test_a_class_joins_in():
    layer = Layer(np.ones(2), None, size=7)
    leaves, structure = trees.flatten({"layer": layer})
    again = trees.unflatten(structure, [np.zeros(2)])["layer"]
    assert type(again) is Layer and again.size == 7 and again.bias is None and not again.weight.any() and layer.weight.all()
    assert trees.paths({"layer": layer}) == ["layer.weight"]


def test_names():
    tree = {"lstm": [Pair(0.0, 1.0), {"W": 2.0}], "x": (3.0, None)}
    assert trees.paths(tree) == ["lstm[0].h", "lstm[0].c", "lstm[1].W", "x[0]"]
    assert trees.paths(tree, "state")[0] == "state.lstm[0].h" and trees.paths(1.0, "h") == ["h"] and trees.paths(1.0) == [""]
    assert trees.paths([1.0], "state") == ["state[0]"]


def test_structures_compare_and_print():
    one, other = trees.flatten({"a": 1, "b": (2, None)})[1], trees.flatten({"a": 5, "b": (6, None)})[1]
    assert one == other and repr(one) == "dict(a=*, b=tuple(*, None))" and len({one, other}) == 1
    for different in ({"a": 1, "b": [2, None]}, {"a": 1, "c": (2, None)}, {"a": 1, "b": (2, 3)}, {"a": 1}, 1, None):
        assert trees.flatten(different)[1] != one


def test_what_does_not_match(says):
    structure = trees.flatten({"a": 0, "b": [0, 0]})[1]
    for other in ({"a": 1}, {"a": 1, "b": [1]}, {"a": 1, "b": (1, 1)}, {"a": None, "b": [1, 1]}, {"a": [1], "b": [1, 1]}, 5, None):
        assert trees.flatten_like(other, structure) is None
    with says(ArgumentError, "map(function, tree, *others): the trees differ in structure\n  first  dict(a=*)\n  other  list(*)\n"
                             "Pass trees of one structure."):
        trees.map(max, {"a": 1}, [1])
    for leaves in ([1], [1, 2, 3, 4]):
        with says(ArgumentError, "unflatten(structure, leaves): the number of leaves differs\n  structure      dict(a=*, b=list(*, *))\n"
                                 f"  leaves needed  3\n  leaves given   {len(leaves)}\nPass one leaf for every * of the structure."):
            trees.unflatten(structure, leaves)


def test_a_planted_fault_is_found(monkeypatch):
    monkeypatch.setattr(trees, "_flatten_like", lambda tree, structure, leaves: leaves.extend(trees.flatten(tree)[0]) or True)  # by order
    with pytest.raises(AssertionError):
        test_leaves_are_matched_by_name.hypothesis.inner_test({"a": 1, "b": 2})
