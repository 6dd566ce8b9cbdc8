"""The backward walk, once: how cotangents travel from outputs to inputs over the graph of nodes.

Knows the order, how cotangents of one value are put together, and how each is brought to its input's shape and
dtype. Refuses to know any op's derivative (rules live with their ops) and any transform (`gradients` has them).
Below it: primitive, tensor.

One walk serves all orders. *Fast*: rules are fed plain arrays and return plain arrays. *Graph*: rules are fed
Tensors, so what they compute is itself differentiable; it is taken whenever something that the walk can reach,
beyond the inputs it was asked about, is itself tracked (by an outer transform, or as a leaf).
"""

import math
from operator import attrgetter
from typing import Any

import numpy as np

from .errors import GradientError, RuleError, message
from .primitive import PICK, UNTRACKED, outputs
from .tensor import Leaf, Node, Tensor, mode, switched

_ELSEWHERE = object()  # stands for the cotangent of a node that the walk does not visit


def is_tracked(value):
    """Whether `value` is a Tensor that a gradient flows through."""
    return isinstance(value, Tensor) and value._node is not None


def walk(seeds, targets=None, *, reach=None, graph=None, free=False, visit=None):
    """Carry cotangents back from `seeds`, pairs of node and cotangent, and return {node: cotangent}.

    The result is for `targets`, or without them for every leaf that is reached; its arrays are new. `graph=None`
    decides by itself whether rules must be fed Tensors. `free=True` drops what each node saved once it has been
    used (never in graph mode). `visit(node, g)` is called with every completed cotangent, in backward order.
    `reach` is what `reachable` says, if the caller has asked before.
    """
    targets = set(targets) if targets is not None and type(targets) is not set else targets
    order, foreign, mixed = reach or reachable([node for node, _ in seeds], targets or ())
    again = graph  # whether what the rules compute will be differentiated in its turn
    if graph is None:
        again = any(is_tracked(g) for _, g in seeds) or foreign and targets is not None and mode.get().grad
        graph = again or mode.get().tracing
    if mixed and targets is not None:
        order = _depending(order, targets)
    if not graph:
        return _carry(seeds, order, targets, False, free, visit)
    with switched(grad=again):
        seeds = [(node, g if isinstance(g, Tensor) else Tensor(np.array(g))) for node, g in seeds]
        return _carry(seeds, order, targets, True, False, visit)


def reachable(roots, targets):
    """What `roots` were computed from: the nodes, newest first, none beyond `targets`; whether anything else tracks
    them; and whether other starting points than `targets` are among them at all."""
    seen, pending, foreign, mixed = set(roots), list(roots), False, False
    while pending:
        node = pending.pop()
        if node in targets:
            foreign = foreign or bool(node.parents)
            continue
        if type(node) is Leaf:
            foreign, mixed = foreign or node.live, True
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return sorted(seen, key=attrgetter("order"), reverse=True), foreign, mixed


def tracked_beyond(roots, targets):
    """Those nodes among what `roots` were computed from that something else than `targets` tracks."""
    order, foreign, _ = reachable(roots, targets)
    beyond = set()
    for node in reversed(order) if foreign else ():
        if node in targets:
            tracked = bool(node.parents)
        elif type(node) is Leaf:
            tracked = node.live
        else:
            tracked = not beyond.isdisjoint(node.parents)
        if tracked:
            beyond.add(node)
    return beyond


def _depending(order, targets):
    """Those of `order` that were computed from `targets`: nothing else needs a cotangent."""
    depends = set()
    for node in reversed(order):
        if node.saved is None and type(node) is not Leaf:
            raise _freed(node)
        if node in targets or not depends.isdisjoint(node.parents):
            depends.add(node)
    return [node for node in order if node in depends]


def _carry(seeds, order, targets, graph, free, visit):
    cotangents: dict[Node, Any] = dict.fromkeys(order)
    owned, found = set(), {}  # owned: nodes whose sum was made here and may be added to
    kind, into = Tensor if graph else np.ndarray, None
    for node, g in seeds:
        if node in cotangents:
            g, old = _fit(g, node, graph, "seed"), cotangents[node]
            cotangents[node] = g if old is None else _fit(old + g, node, graph, "seed")
    for node in order:
        g = cotangents.pop(node)
        if g is None:
            continue
        if type(g) is Sum:
            g = g.settled()
        if visit is not None:
            visit(node, g)
        plan, parents = node.plan, node.parents
        if plan is None or targets is not None and node in targets:
            found[node] = g if graph or node in owned else np.array(g)
            continue
        if plan is PICK:
            whole = parents[0]
            if cotangents.get(whole, _ELSEWHERE) is None:
                cotangents[whole] = [None] * len(whole.shape)
            if whole in cotangents:  # an output may be picked more than once: the rules of a graph walk pick their own
                other = cotangents[whole][node.saved]
                cotangents[whole][node.saved] = g if other is None else other + g
            continue
        saved = node.saved
        if saved is None:
            raise _freed(node)
        if graph:
            saved = _as_tensors(node)
        elif plan.adds_into is not None:
            parent = parents[plan.adds_into]
            into = cotangents.get(parent)
            if type(into) is np.ndarray:
                into = cotangents[parent] = Sum(into if parent in owned else np.array(into))
                owned.add(parent)
        part: Any
        for i, part in zip(plan.targets, plan.pull(tuple(g) if type(g) is list else g, saved, into)):
            parent = parents[i]
            old = cotangents.get(parent, _ELSEWHERE)
            if part is None or old is _ELSEWHERE or part is into:
                continue
            if type(part) is not kind or part.shape != parent.shape or part.dtype is not parent.dtype:
                part = _fit(part, parent, graph, plan)
            if old is None:
                cotangents[parent] = part
                if type(part) is np.ndarray and (plan.fresh or i == plan.adds_into and part is not g and part.base is None):
                    owned.add(parent)
            elif parent in owned:
                old += part
            else:
                cotangents[parent] = total = old + part
                if type(total) is np.ndarray:
                    owned.add(parent)
                elif not graph:
                    cotangents[parent] = np.asarray(total)  # the sum of two arrays of rank 0 is a NumPy scalar
        if free:
            node.saved, node.parents = None, ()
    return found


class Sum:
    """Where the cotangents of one value are added up: an array, and products that will be taken together, as one product."""

    __slots__ = ("total", "left", "right")

    def __init__(self, total):
        self.total, self.left, self.right = total, [], []

    def __iadd__(self, part):
        self.total += part
        return self

    def add_product(self, a, b):
        """Add a @ b, for two matrices, when it is settled: Σ aᵢ bᵢ is (a₁ a₂ …) times b₁, b₂, … one below the other."""
        self.left.append(a.T)
        self.right.append(b)
        if len(self.left) == 64:  # what waits takes memory
            self.settled()
        return self

    def settled(self):
        """The sum as an array."""
        if self.left:
            self.total += np.dot(np.concatenate(self.left).T, np.concatenate(self.right))
            self.left, self.right = [], []
        return self.total


def _freed(node):
    return GradientError(message("backward()", "this part of the graph was freed by an earlier backward", {"at": node.plan},
                                 "Call the earlier one with backward(retain_graph=True)."))


def _fit(g, node, graph, plan):
    """The one place where a cotangent is brought to its input's shape and dtype, or refused."""
    if graph and type(g) is not Tensor:
        if np.any(g):
            raise RuleError(message(f"{plan}", "a rule returned a plain array for a cotangent that is tracked",
                                    {"shape": np.shape(g)}, "Write the rule with ops and operators, so that it can be differentiated again."))
        g = Tensor(np.asarray(g))
    elif not graph and type(g) is not np.ndarray:
        g = g._array if type(g) is Tensor else np.asarray(g)
    if g.shape != node.shape:
        g = _unbroadcast(g, node.shape, plan)
    if g.dtype != node.dtype:
        if g.dtype.kind not in "fiub":
            raise RuleError(message(f"{plan}", "a rule returned a cotangent of another kind than its input",
                                    {"cotangent": g.dtype, "input": node.dtype}, "Return a real floating point array."))
        g = g.astype(node.dtype)
    return g


def _unbroadcast(g, shape, plan):
    """Sum `g` over the axes along which an input of `shape` was repeated."""
    extra = g.ndim - len(shape)
    if g.shape[extra:] != shape and (extra < 0 or any(n != m and n != 1 for n, m in zip(shape, g.shape[extra:]))):
        raise RuleError(message(f"{plan}", "a rule returned a cotangent of the wrong shape", {"cotangent": g.shape, "input": shape},
                                "Return an array of the input's shape, or of a shape that the input broadcasts to."))
    if g.size != math.prod(shape):
        repeated = (i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
        g = g.sum(axis=(*range(extra), *repeated))
    return g if g.shape == shape else g.reshape(shape)


def _as_tensors(node):
    """What a node saved, with its places in the graph: what rules need to grow a graph of their own."""
    parents, wrapped = node.parents, []
    for value, source in zip(node.saved, node.plan.sources):
        if source is None:
            wrapped.append(value)
        elif source == "y":
            wrapped.append(outputs(node, value) if type(value) is tuple else Tensor(value, node))
        elif type(source) is list:
            wrapped.append([_again(v, parents, at) for v, at in zip(value, source)])
        else:
            wrapped.append(_again(value, parents, source))
    return wrapped


def _again(value, parents, at):
    if at != UNTRACKED:
        return Tensor(value, parents[at])
    return Tensor(value) if mode.get().tracing and type(value) is np.ndarray else value
