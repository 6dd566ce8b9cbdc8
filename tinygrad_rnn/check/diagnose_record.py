"""A recording of a loss: every op call in order, with the time step at which it ran.

Knows what one call was, how calls are listed while a loss runs, and the parameters by name. Refuses to know how the calls hang
together: `diagnose_graph` does. Below it: scan (for the time index), tensor, trees.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import trees
from ..ops.linear import einsum_, matmul
from ..scan import step as time_index
from ..tensor import Tensor, mode


@dataclass(eq=False)
class Call:
    """One op call of the loss. `run` counts scans, `position` the steps in the order in which they ran, `time` is t."""

    op: Any
    args: tuple
    statics: dict
    y: Any
    time: int | None
    run: int | None = None
    position: int | None = None
    nth: int = 0

    @property
    def site(self):
        return self.run, self.op.name, self.nth

    @property
    def node(self):
        out = self.y[0] if isinstance(self.y, tuple) else self.y
        node = out._node if isinstance(out, Tensor) else None
        return node.parents[0] if isinstance(self.y, tuple) and node is not None else node


class Watcher:
    """A recorder that computes as usual and keeps a list of the calls."""

    tracing = False

    def __init__(self):
        self.calls = []

    def record(self, op, args, statics):
        if op is einsum_ and _is_product(statics["subscripts"]):
            op, statics = matmul, {}
        y = op.apply(args, statics, mode.get().grad)
        self.calls.append(Call(op, args, statics, y, time_index.get()))
        return y

    def enter(self, cell):
        """A cell whose every step makes the same calls: also of an initial state or input that is a plain array."""
        return lambda state, x: cell(trees.map(_tensor, state), trees.map(_tensor, x))


def _is_product(subscripts):
    """Whether an einsum is a matrix product, "bi,ih->bh", which is what people make mistakes in."""
    terms, _, out = subscripts.partition("->")
    a, _, b = terms.partition(",")
    return len(b) == 2 and len(a) >= 2 and a[-1] == b[0] and out == a[:-1] + b[1] and len({*a, *b}) == len(a) + 1


def _tensor(leaf):
    return Tensor(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" else leaf


def array(value):
    """The plain array in a Tensor, an array or a number."""
    return value._array if isinstance(value, Tensor) else np.asarray(value)


def is_float(leaf):
    return array(leaf).dtype.kind == "f"


def redrawn(leaf, rng):
    """Another value for a parameter: normal, such that products neither vanish nor saturate."""
    if not is_float(leaf):
        return leaf
    value = array(leaf)
    new = rng.normal(size=value.shape) * (0.9 / np.sqrt(max(value.shape[-1], 1)) if value.ndim > 1 else 0.5)
    return float(new) if not isinstance(leaf, (np.ndarray, Tensor)) else new.astype(value.dtype)


def named_leaves(params, root=""):
    """The floating point leaves of a tree of parameters by name."""
    return {name or "params": array(leaf) for name, leaf in zip(trees.paths(params, root), trees.flatten(params)[0]) if is_float(leaf)}
