"""Trees: nested tuples, lists, dicts and modules whose leaves are arrays, numbers or tensors.

Knows how to take a tree apart into a list of leaves and to build it again, and what a person would call
each leaf ("state.h", "params['W']" is written "W"). Refuses to know what a leaf is: anything that is not a
container is one. `None` is a tree without leaves. Nothing stands below it.

A module, or any class of yours, joins in by defining `tree_children()` (a dict of name to child) and
`tree_replace(children)` (a copy of itself with these children).
"""

from builtins import map as each
from itertools import islice
from typing import Any

from .errors import ArgumentError, message


class Structure:
    """What is left of a tree when its leaves are taken away; hashable, so it can be part of a key."""

    __slots__ = ("kind", "names", "children", "count", "template", "flat", "_hash")

    def __init__(self, kind, names=(), children=(), template=None):
        self.kind, self.names, self.children, self.template = kind, names, children, template
        self.count = 1 if kind is LEAF else sum(child.count for child in children)
        self.flat = kind in (tuple, list, dict) and self.count == len(children) == sum(child.kind is LEAF for child in children)
        self._hash = hash((kind, names, children))

    def __eq__(self, other):
        return self is other or (
            isinstance(other, Structure)
            and (self._hash, self.kind, self.names, self.children) == (other._hash, other.kind, other.names, other.children)
            and (self.template is None) == (other.template is None)
        )

    def __hash__(self):
        return self._hash

    def __repr__(self):
        if self.kind is LEAF:
            return "*"
        if self.kind is type(None):
            return "None"
        inner = (f"{n}={c}" if n else repr(c) for n, c in zip(self.names or [""] * len(self.children), self.children))
        return f"{self.kind.__name__}({', '.join(inner)})"


class LEAF:
    """The kind of a leaf."""


_leaf, _none = Structure(LEAF), Structure(type(None))


_leaf_types = set()  # types that were seen to be leaves


def _children(tree) -> Any:
    """Names and children of a container; None when `tree` is a leaf."""
    kind = type(tree)
    if kind in _leaf_types:
        return None
    if kind is tuple or kind is list:
        return (), tree
    if isinstance(tree, tuple):
        return getattr(tree, "_fields", ()), tree
    if isinstance(tree, dict):
        return tuple(tree), tree.values()
    if hasattr(kind, "tree_children"):
        named = tree.tree_children()
        return tuple(named), named.values()
    _leaf_types.add(kind)
    return None


def flatten(tree):
    """Take a tree apart: `(leaves, structure)`.

    Example:
        >>> tg.trees.flatten({"a": 1.0, "b": (2.0, None)})
        ([1.0, 2.0], dict(a=*, b=tuple(*, None)))
    """
    kind = type(tree)
    if kind in _leaf_types:
        return [tree], _leaf
    leaves, children = [], tree if kind is tuple or kind is list else tree.values() if kind is dict else None
    if children is not None and _leaf_types.issuperset(each(type, children)):  # as most trees are
        leaves += children
        return leaves, _flat.get((kind, tuple(tree) if kind is dict else len(leaves))) or _of_leaves(tree, leaves)
    return leaves, _flatten(tree, leaves)


def _of_leaves(tree, leaves):
    """The structure of a tuple, list or dict that holds leaves only."""
    kind, names = type(tree), tuple(tree) if type(tree) is dict else ()
    structure = Structure(kind, names, (_leaf,) * len(leaves))
    if len(_flat) < 1024:
        _flat[kind, names if kind is dict else len(leaves)] = structure
    return structure


def _flatten(tree, leaves):
    if tree is None:
        return _none
    found = _children(tree)
    if found is None:
        leaves.append(tree)
        return _leaf
    parts = []
    for child in found[1]:
        more, part = flatten(child)
        leaves += more
        parts.append(part)
    kind = type(tree)
    if kind in (tuple, list, dict) and {_leaf}.issuperset(parts):
        return _of_leaves(tree, parts)
    return Structure(kind, found[0], tuple(parts), tree if hasattr(kind, "tree_children") else None)


_flat = {}  # structures of containers that hold leaves only: most are made again and again


def unflatten(structure, leaves) -> Any:
    """Build a tree again from `leaves` in the order in which `flatten` gave them.

    Raises: ArgumentError when there are too few or too many leaves.

    Example:
        >>> leaves, structure = tg.trees.flatten({"a": 1.0, "b": (2.0, None)})
        >>> tg.trees.unflatten(structure, [10, 20])
        {'a': 10, 'b': (20, None)}
    """
    leaves = list(leaves)
    if len(leaves) != structure.count:
        facts = {"structure": structure, "leaves needed": structure.count, "leaves given": len(leaves)}
        raise ArgumentError(message("unflatten(structure, leaves)", "the number of leaves differs", facts,
                                    "Pass one leaf for every * of the structure."))
    if structure is _leaf:
        return leaves[0]
    return _flat_again(structure, leaves) if structure.flat else _unflatten(structure, iter(leaves))


def _flat_again(structure, leaves):
    return dict(zip(structure.names, leaves)) if structure.kind is dict else structure.kind(leaves)


def _unflatten(structure, leaves) -> Any:
    if structure.flat:
        return _flat_again(structure, islice(leaves, structure.count))
    kind = structure.kind
    if kind is LEAF:
        return next(leaves)
    if kind is type(None):
        return None
    children = [next(leaves) if child is _leaf else _unflatten(child, leaves) for child in structure.children]
    if structure.template is not None:
        return structure.template.tree_replace(dict(zip(structure.names, children)))
    if issubclass(kind, dict):
        return kind(zip(structure.names, children))
    if structure.names:
        return kind(*children)
    return kind(children)


def modules(structure):
    """The modules of a structure, in order: what stands in it besides containers and leaves.

    Example:
        >>> _, structure = tg.trees.flatten([tg.nn.Linear(3, 2), 1.0])
        >>> [type(module).__name__ for module in tg.trees.modules(structure)]
        ['Linear']
    """
    own = [] if structure.template is None else [structure.template]
    return own + [m for child in structure.children for m in modules(child)]


def with_modules(structure, instead):
    """The structure with other modules: `instead` tells the new one by the identity of the old.

    Raises: KeyError for a module that `instead` does not know.

    Example:
        >>> old, new = tg.nn.Linear(3, 2), tg.nn.Linear(3, 2)
        >>> leaves, structure = tg.trees.flatten(old)
        >>> tg.trees.modules(tg.trees.with_modules(structure, {id(old): new})) == [new]
        True
    """
    if not modules(structure):
        return structure
    children = tuple([with_modules(child, instead) for child in structure.children])
    if structure.template is None:
        return Structure(structure.kind, structure.names, children)
    module = instead[id(structure.template)]
    return Structure(type(module), structure.names, children, module)


def flatten_like(tree, structure):
    """The leaves of `tree` in the order of `structure`, dict keys in any order; None when the two differ.

    Example:
        >>> _, structure = tg.trees.flatten({"a": 0, "b": 0})
        >>> tg.trees.flatten_like({"b": 2, "a": 1}, structure)
        [1, 2]
    """
    kind = type(tree)
    if kind in _leaf_types:
        return [tree] if structure is _leaf else None
    if kind is tuple and structure.flat and structure.kind is tuple and _leaf_types.issuperset(each(type, tree)):
        return [*tree] if len(tree) == structure.count else None
    leaves = []
    return leaves if _flatten_like(tree, structure, leaves) else None


def _flatten_like(tree, structure, leaves):
    if structure.kind is LEAF:
        if tree is None or _children(tree) is not None:
            return False
        leaves.append(tree)
        return True
    if type(tree) is not structure.kind:
        return False
    if tree is None:
        return True
    names, children = _children(tree)
    if set(names) != set(structure.names):
        return False
    by_name = dict(zip(names, children)) if names else None
    ordered = [by_name[name] for name in structure.names] if names else list(children)
    return len(ordered) == len(structure.children) and all(
        [_flatten_like(child, part, leaves) for child, part in zip(ordered, structure.children)])


def map(function, tree, *others):  # (trees.map reads best)
    """Apply `function` to every leaf of `tree` and to the leaves of `others` that lie at the same places.

    Raises: ArgumentError when the trees differ in structure.

    Example:
        >>> tg.trees.map(lambda a, b: a + b, {"w": 1.0}, {"w": 2.0})
        {'w': 3.0}
    """
    leaves, structure = flatten(tree)
    rest = [flatten_like(other, structure) for other in others]
    if None in rest:
        other = others[rest.index(None)]
        raise ArgumentError(message("map(function, tree, *others)", "the trees differ in structure",
                                    {"first": structure, "other": flatten(other)[1]}, "Pass trees of one structure."))
    return unflatten(structure, [function(*row) for row in zip(leaves, *rest)])


def paths(tree, root=""):
    """The name of every leaf, in the order of `flatten`.

    Example:
        >>> tg.trees.paths({"h": 0.0, "stack": [1.0, 2.0]}, "state")
        ['state.h', 'state.stack[0]', 'state.stack[1]']
    """
    found = None if tree is None else _children(tree)
    if found is None:
        return [] if tree is None else [root]
    names, children = found
    out = []
    for i, child in enumerate(children):
        if names:
            out += paths(child, f"{root}.{names[i]}" if root else str(names[i]))
        else:
            out += paths(child, f"{root}[{i}]")
    return out
