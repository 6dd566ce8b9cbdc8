"""What a cell is made of and called with: its parameters, what else it closes over, a state and a sequence.

Knows modules, functions and their closures, and how to make a cell anew with other arrays in it. Refuses to judge.
Below it: tensor, trees, errors.
"""

import copy
import types

import numpy as np

from .. import trees
from ..errors import ArgumentError, message
from ..tensor import Tensor


def called_with(cell, state, xs, rng, who):
    """A state and a sequence of arrays to call a cell with: those given, or drawn for its sizes.

    Raises: ArgumentError when it is not known what to call the cell with, and when xs has no time axis.
    """
    if isinstance(cell, type) or not callable(cell):
        raise ArgumentError(message(who, "this is a class" if isinstance(cell, type) else "this cannot be called", {"type": type(cell).__name__},
                                    "Pass a cell: an object or a function that is called as cell(state, x)."))
    if state is None and hasattr(cell, "initial_state"):
        state = trees.map(lambda s: plain(s) + 0.3 * rng.normal(size=np.shape(s)).astype(plain(s).dtype), cell.initial_state((3,)))
    if xs is None and hasattr(cell, "input_size"):
        dtypes = [plain(leaf).dtype for leaf in trees.flatten(state)[0]]
        xs = rng.normal(size=(4, 3, cell.input_size)).astype(dtypes[0] if dtypes else float)
    if state is None or xs is None:
        raise ArgumentError(message(who, "it is not known what to call this cell with",
                                    {"state": "missing" if state is None else "given", "xs": "missing" if xs is None else "given"},
                                    "Pass an initial state, and a sequence with time first."))
    state, xs = trees.map(plain, state), trees.map(plain, xs)
    lengths = {x.shape[:1] for x in trees.flatten(xs)[0]}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ArgumentError(message(who, "xs is no sequence of one length", {name: x.shape for name, x in zip(trees.paths(xs, "xs"), trees.flatten(xs)[0])},
                                    "Pass arrays with time first, T ≥ 2 steps in each."))
    return state, xs


def parameters(cell):
    """Names and Tensors of a cell's parameters, and a function that makes the cell anew from a dict of others."""
    if hasattr(type(cell), "tree_children"):
        leaves, structure = trees.flatten(cell)
        names = trees.paths(cell)
        at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dtype.kind == "f"]

        def rebuilt(params):
            full = list(leaves)
            for i in at:
                full[i] = params[names[i]]
            return trees.unflatten(structure, full)

        return [names[i] for i in at], [leaves[i] for i in at], rebuilt
    found = {name: value for name, value in _seen(cell).items() if isinstance(value, Tensor) and value.dtype.kind == "f"}
    return list(found), list(found.values()), lambda params: _remade(cell, params)


def lowered(cell):
    """The names of the float64 arrays that a cell holds or closes over, and the cell with float32 arrays in their place."""
    found = {name: value.astype(np.float32) for name, value in _seen(cell).items() if isinstance(value, np.ndarray) and value.dtype == np.float64}
    return list(found), _remade(cell, found)


def plain(leaf):
    """A leaf as an array of its own."""
    return np.array(leaf._array) if isinstance(leaf, Tensor) else np.array(leaf)


def _seen(cell):
    """What a function reads beside its arguments, or an object holds, by name."""
    if not isinstance(cell, types.FunctionType):
        return dict(getattr(cell, "__dict__", {}))
    closed = {name: slot.cell_contents for name, slot in zip(cell.__code__.co_freevars, cell.__closure__ or ())}
    return closed | {name: cell.__globals__[name] for name in cell.__code__.co_names if name in cell.__globals__}


def _remade(cell, replaced):
    """The cell with other values for some of what it sees."""
    if not replaced:
        return cell
    if not isinstance(cell, types.FunctionType):
        made = copy.copy(cell)
        vars(made).update(replaced)
        return made
    slots = tuple(types.CellType(replaced[name]) if name in replaced else slot
                  for name, slot in zip(cell.__code__.co_freevars, cell.__closure__ or ()))
    made = types.FunctionType(cell.__code__, {**cell.__globals__, **replaced}, cell.__name__, cell.__defaults__, slots)
    made.__kwdefaults__ = cell.__kwdefaults__
    return made
