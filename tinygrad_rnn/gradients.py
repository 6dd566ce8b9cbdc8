"""The backward walk, once, and every transform that is built on it.

Knows how cotangents travel from outputs to inputs over the graph of nodes, and the functional transforms
(vjp, jvp, grad, …) over trees of arrays. Refuses to know any op's derivative: rules live with their ops.
Below it: ops (identity, stack), primitive, tensor, trees.

One walk serves all orders. *Fast*: rules are fed plain arrays and return plain arrays. *Graph*: rules are fed
Tensors, so what they compute is itself differentiable; it is taken whenever something that the walk can reach,
beyond the inputs it was asked about, is itself tracked (by an outer transform, or as a leaf).
"""

import functools
import math
from operator import attrgetter

import numpy as np

from . import trees
from .errors import ArgumentError, DtypeError, GradientError, RuleError, TraceError, message
from .ops.shape import identity, stack, stop_gradient
from .primitive import PICK, outputs
from .tensor import Leaf, Node, Tensor, mode, switched

# ---- the walk -----------------------------------------------------------------------------------------------


def walk(seeds, targets=None, *, reach=None, graph=None, free=False, visit=None):
    """Carry cotangents back from `seeds`, pairs of node and cotangent, and return {node: cotangent}.

    The result is for `targets`, or without them for every leaf that is reached. `graph=None` decides by itself
    whether rules must be fed Tensors. `free=True` drops what each node saved once it has been used.
    `visit(node, g)` is called with every completed cotangent, in backward order. `reach` is what `reachable` says,
    if the caller has asked before.
    """
    targets = None if targets is None else set(targets)
    order, foreign, mixed = reach or reachable([node for node, _ in seeds], targets or ())
    if graph is None:
        graph = mode.get().tracing or any(is_tracked(g) for _, g in seeds) or (foreign and targets is not None)
    if mixed and targets is not None:
        order = _depending(order, targets)
    if not graph:
        return _carry(seeds, order, targets, False, free, visit)
    with switched(grad=True):
        seeds = [(node, g if isinstance(g, Tensor) else Tensor(np.asarray(g))) for node, g in seeds]
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
            if parent is not None and parent not in seen:
                seen.add(parent)
                pending.append(parent)
    return sorted(seen, key=attrgetter("order"), reverse=True), foreign, mixed


def _depending(order, targets):
    """Those of `order` that were computed from `targets`: nothing else needs a cotangent."""
    depends = set()
    for node in reversed(order):
        if node in targets or any(parent in depends for parent in node.parents):
            depends.add(node)
    return [node for node in order if node in depends]


def _carry(seeds, order, targets, graph, free, visit):
    cotangents, owned, found = dict.fromkeys(order), set(), {}  # owned: arrays made here, which may be added to in place
    for node, g in seeds:
        if node in cotangents:
            _accumulate(cotangents, owned, node, _fit(g, node, graph, "seed"))
    for node in order:
        g = cotangents.pop(node)
        if g is None:
            continue
        if visit is not None:
            visit(node, g)
        if type(node) is Leaf or targets is not None and node in targets:
            found[node] = g if graph or node in owned else np.array(g)
            continue
        plan, parents, saved = node.plan, node.parents, node.saved
        if plan is PICK:
            if parents[0] in cotangents:
                if cotangents[parents[0]] is None:
                    cotangents[parents[0]] = [None] * len(parents[0].shape)
                cotangents[parents[0]][saved] = g
            continue
        if saved is None:
            raise GradientError(message("backward()", "this part of the graph was freed by an earlier backward", {"at": plan},
                                        "Call the earlier one with backward(retain_graph=True)."))
        into = None
        if graph:
            saved = _as_tensors(node)
        elif plan.adds_into and parents[plan.targets[0]] in owned:
            into = cotangents[parents[plan.targets[0]]]
        results = plan.pull(tuple(g) if type(g) is list else g, saved, into)
        for i, result in zip(plan.targets, results):
            if i < len(plan.op.arrays):
                pairs = ((parents[i], result),)
            else:
                pairs = zip(parents[i:], result)
            for parent, part in pairs:
                if part is None or part is into or parent not in cotangents:
                    continue
                _accumulate(cotangents, owned, parent, _fit(part, parent, graph, plan))
                if plan.adds_into and not graph:
                    owned.add(parent)
        if free:
            node.saved, node.parents = None, ()
    return found


def _accumulate(cotangents, owned, node, g):
    old = cotangents[node]
    if old is None:
        cotangents[node] = g
    elif node in owned:
        old += g
    else:
        cotangents[node] = total = old + g
        if type(total) is np.ndarray and total.ndim:
            owned.add(node)
        elif type(total) is not Tensor:
            cotangents[node] = np.asarray(total)


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
        g = _unbroadcast(g, node, plan)
    if g.dtype != node.dtype:
        if g.dtype.kind != "f" and g.dtype.kind not in "iub":
            raise RuleError(message(f"{plan}", "a rule returned a cotangent of another kind than its input",
                                    {"cotangent": g.dtype, "input": node.dtype}, "Return a real floating point array."))
        g = g.astype(node.dtype)
    return g


def _unbroadcast(g, node, plan):
    """Sum `g` over the axes along which its input was repeated."""
    extra = g.ndim - len(node.shape)
    if extra < 0 or any(n != m and n != 1 for n, m in zip(node.shape, g.shape[extra:])):
        raise RuleError(message(f"{plan}", "a rule returned a cotangent of the wrong shape", {"cotangent": g.shape, "input": node.shape},
                                "Return an array of the input's shape, or of a shape that the input broadcasts to."))
    if g.size != math.prod(node.shape):
        repeated = (i + extra for i, n in enumerate(node.shape) if n == 1 and g.shape[i + extra] != 1)
        g = g.sum(axis=(*range(extra), *repeated))
    return g if g.shape == node.shape else g.reshape(node.shape)


def _as_tensors(node):
    """What a node saved, with its places in the graph: what rules need to grow a graph of their own."""
    parents, wrapped = node.parents, []
    for value, source in zip(node.saved, node.plan.sources):
        if source is None:
            wrapped.append(value)
        elif source == "y":
            wrapped.append(outputs(node, value) if type(value) is tuple else Tensor(value, node))
        elif type(source) is list:
            wrapped.append([_again(v, parents[i]) for v, i in zip(value, source)])
        else:
            wrapped.append(_again(value, parents[source]))
    return wrapped


def _again(value, node):
    return Tensor(value, node) if node is not None or mode.get().tracing and type(value) is np.ndarray else value


# ---- Tensor.backward ----------------------------------------------------------------------------------------


def backward(self, gradient=None, *, retain_graph=False):
    """Accumulate the gradient of this Tensor into the `.grad` of every leaf that it was computed from.

    Shapes: `gradient`, the cotangent, has the Tensor's shape; a Tensor of one element needs none.

    Raises: GradientError when nothing is tracked, when a cotangent is needed, or when the graph was freed by an
    earlier backward without `retain_graph=True`.

    Example:
        >>> x = tg.tensor([3.0], requires_grad=True)
        >>> (x * x).backward()
        >>> x.grad
        array([6.])
    """
    if self._node is None:
        raise GradientError(message("backward()", "this Tensor has no graph", {"shape": self.shape},
                                    "Make an input with requires_grad=True, and compute outside no_grad()."))
    if (now := mode.get()).tracing and now.recorder.holds(self._array):
        raise TraceError(message("backward()", "called on a traced value", {"traced in": now.recorder.name},
                                 "Use grad or vjp inside a cell: they become part of the trace."))
    if gradient is None:
        if self.size != 1:
            raise GradientError(message("backward()", "a Tensor with more than one element needs a cotangent", {"shape": self.shape},
                                        "Reduce it to a scalar, for example with .sum(), or pass gradient=."))
        gradient = np.ones(self.shape, self.dtype)
    gradient = np.array(gradient._array if isinstance(gradient, Tensor) else gradient, dtype=self.dtype)
    if gradient.shape != self.shape:
        raise ArgumentError(message("backward(gradient)", "the cotangent has another shape than the Tensor",
                                    {"gradient": gradient.shape, "tensor": self.shape}, "Pass an array of the Tensor's shape."))
    found = walk([(self._node, gradient)], graph=False, free=not retain_graph)
    for leaf, g in found.items():
        leaf.grad = g if leaf.grad is None else leaf.grad + g


def detach(self):
    """The same values without a graph: no gradient flows back through the result."""
    return stop_gradient(self)


Tensor.backward, Tensor.detach = backward, detach


# ---- transforms ---------------------------------------------------------------------------------------------


def is_tracked(value):
    """Whether `value` is a Tensor that a gradient flows through."""
    return isinstance(value, Tensor) and value._node is not None


def _fresh(leaf):
    """A new start of a graph with the leaf's values, linked to the leaf's own graph if it has one."""
    if is_tracked(leaf) and mode.get().grad:
        return identity.apply((leaf,), {}, True)
    array = leaf._array if isinstance(leaf, Tensor) else np.array(leaf)
    return Tensor(array, Leaf(array.shape, array.dtype)) if array.dtype.kind == "f" else leaf


def _retire(fresh):
    """The function of a transform has returned: its inputs are no longer somebody's to differentiate by."""
    for leaf in fresh:
        if is_tracked(leaf) and type(leaf._node) is Leaf:
            leaf._node.live = False


def _release(value, inputs):
    """`value` as the outside sees it: a plain array unless something beyond `inputs` tracks it."""
    if not isinstance(value, Tensor) or mode.get().tracing:
        return value
    if value._node is None:
        return value._array
    return value if reachable([value._node], inputs)[1] else value._array


def vjp(f, *primals):
    """Value of `f` and its pullback: `(y, pullback)`, where `pullback(g)` is a tuple of gᵀ ∂y/∂x, one for each primal x.

    Shapes: primals and y are trees of arrays; g is a tree like y, the results are trees like the primals.
    Leaves that are not floating point are constants and get None. The pullback can be called again.

    Raises: ArgumentError when g does not have the structure and shapes of y.

    Example:
        >>> y, pullback = tg.vjp(lambda x: x * x, np.array([1.0, 2.0]))
        >>> pullback(np.ones(2))[0]
        array([2., 4.])
    """
    flat = [trees.flatten(primal) for primal in primals]
    fresh = [[_fresh(leaf) for leaf in leaves] for leaves, _ in flat]
    inputs = {leaf._node: None for leaves in fresh for leaf in leaves if is_tracked(leaf)}
    with switched(grad=True):
        y = f(*(trees.unflatten(structure, leaves) for leaves, (_, structure) in zip(fresh, flat)))
    for leaves in fresh:
        _retire(leaves)
    ys, structure = trees.flatten(y)
    nodes = [leaf._node if isinstance(leaf, Tensor) else None for leaf in ys]
    shapes = [np.shape(leaf) for leaf in ys]
    reach = reachable([node for node in nodes if node is not None], inputs)

    def pullback(g):
        given = trees.flatten_like(g, structure)
        if given is None or [np.shape(one) for one in given] != shapes:
            facts = {"y": structure, "shapes of y": shapes, "shapes of g": [np.shape(one) for one in trees.flatten(g)[0]]}
            raise ArgumentError(message("pullback(g)", "g does not have the structure and shapes of y", facts, "Pass a tree like y."))
        found = walk([(node, one) for node, one in zip(nodes, given) if node is not None], inputs, reach=reach)
        return tuple(trees.unflatten(structure, [cotangent(leaf, found) for leaf in leaves])
                     for leaves, (_, structure) in zip(fresh, flat))

    def cotangent(leaf, found):
        if not is_tracked(leaf):
            return None
        g = found.get(leaf._node)
        return np.zeros(leaf.shape, leaf.dtype) if g is None else _release(g, inputs)

    return trees.unflatten(structure, [_release(leaf, inputs) for leaf in ys]), pullback


def value_and_grad(f, argnums=0, has_aux=False):
    """A function that returns `(f(*args), gradient)` for a scalar f; with `has_aux`, f returns `(scalar, aux)`.

    Shapes: the gradient is a tree like the argument; for a tuple of `argnums` a tuple of such trees.

    Raises: GradientError when f does not return a scalar; DtypeError when an argument has no floating point leaf.

    Example:
        >>> tg.value_and_grad(lambda p: (p["w"] * p["w"]).sum())({"w": np.array([3.0])})
        (array(9.), {'w': array([6.])})
    """
    several = isinstance(argnums, tuple)
    places = argnums if several else (argnums,)

    @functools.wraps(f, assigned=("__doc__",), updated=())
    def transformed(*args, **options):
        name = getattr(f, "__name__", type(f).__name__)
        if max(places) >= len(args) or min(places) < -len(args):
            raise ArgumentError(message(f"grad({name})", "there is no argument of that number",
                                        {"argnums": argnums, "arguments": len(args)}, "Pass the argument by position, counted from 0."))
        chosen = [args[i] for i in places]
        for i, arg in zip(places, chosen):
            if not any(_is_float(leaf) for leaf in trees.flatten(arg)[0]):
                raise DtypeError(message(f"grad({name})", f"argument {i} has no floating point leaf",
                                         {"argument": repr(arg)[:60]}, "Pass floats (2.0, not 2) or arrays of a float dtype."))

        def of_chosen(*chosen):
            full = list(args)
            for i, arg in zip(places, chosen):
                full[i] = arg
            y = f(*full, **options)
            return y if has_aux else (y, None)

        (y, aux), pullback = vjp(of_chosen, *chosen)
        if np.size(y) != 1 or not isinstance(y, (Tensor, np.ndarray, np.generic, float, int)):
            raise GradientError(message(f"grad({name})", "the function does not return a scalar", {"returned": _described(y)},
                                        "Reduce it, for example with sum(), or use jacobian."))
        grads = pullback((np.ones(np.shape(y), getattr(y, "dtype", np.float64)), trees.map(_zeros, aux)))
        grads = grads if several else grads[0]
        return ((y, aux), grads) if has_aux else (y, grads)

    return transformed


def _zeros(leaf):
    return np.zeros(np.shape(leaf), getattr(leaf, "dtype", np.float64))


def _is_float(leaf):
    return np.result_type(leaf._array if isinstance(leaf, Tensor) else leaf).kind == "f"


def _described(y):
    leaves, structure = trees.flatten(y)
    return f"shape {np.shape(y)}" if structure.kind is trees.LEAF else f"{structure} of shapes {[np.shape(leaf) for leaf in leaves]}"


def grad(f, argnums=0):
    """The gradient function of a scalar function; see `value_and_grad`.

    Example:
        >>> float(tg.grad(tg.grad(lambda x: x**3))(2.0))
        12.0
    """
    both = value_and_grad(f, argnums)
    return lambda *args, **options: both(*args, **options)[1]


def jvp(f, primals, tangents):
    """Value and directional derivative: `(y, ∂y/∂x · tangent)`, as the pullback of the pullback.

    Shapes: `tangents` are trees like `primals`, both tuples with one entry per argument.

    Raises: ArgumentError when the two differ in structure or shapes.

    Example:
        >>> y, y_dot = tg.jvp(tg.exp, (np.zeros(2),), (np.ones(2),))
        >>> y_dot
        array([1., 1.])
    """
    _check_tangents("jvp(f, primals, tangents)", primals, tangents)
    y, pullback = vjp(f, *primals)
    with np.errstate(all="ignore"):  # the inner cotangent is a placeholder, only its derivative counts
        start = trees.map(_zeros, y)
        pulled, pullback_again = vjp(lambda g: [part for tree in pullback(g) for part in trees.flatten(tree)[0]], start)
        floats = [[t for x, t in zip(trees.flatten(p)[0], trees.flatten_like(v, trees.flatten(p)[1])) if _is_float(x)]
                  for p, v in zip(primals, tangents)]
        (y_dot,) = pullback_again([t for row in floats for t in row])
    return y, y_dot


def _check_tangents(who, primals, tangents):
    structures = [trees.flatten(p)[1] for p in primals]
    rows = [trees.flatten_like(v, s) for v, s in zip(tangents, structures)]
    fits = len(primals) == len(tangents) and None not in rows and all(
        [np.shape(x) for x in trees.flatten(p)[0]] == [np.shape(v) for v in row] for p, row in zip(primals, rows))
    if not fits:
        facts = {"primals": [_described(p) for p in primals], "tangents": [_described(v) for v in tangents]}
        raise ArgumentError(message(who, "the tangents are not trees like the primals", facts, "Pass tuples with one tangent per primal."))


def jacobian(f, argnums=0):
    """All partial derivatives ∂y_i/∂x_j, one pullback per element of y.

    Shapes: y.shape + x.shape; a tree of x inside a tree of y where they are trees.

    Example:
        >>> tg.jacobian(lambda x: x * x)(np.array([1.0, 2.0]))
        array([[2., 0.],
               [0., 4.]])
    """
    def transformed(*args):
        def of_chosen(x):
            return f(*args[:argnums], x, *args[argnums + 1:])

        y, pullback = vjp(of_chosen, args[argnums])
        ys, structure = trees.flatten(y)
        zeros = [_zeros(leaf) for leaf in ys]
        out = []
        for k, leaf in enumerate(zeros):
            rows = []
            for i in range(leaf.size):
                one = leaf.copy()
                one.flat[i] = 1
                rows.append(pullback(trees.unflatten(structure, [*zeros[:k], one, *zeros[k + 1:]]))[0])
            out.append(_stacked(rows, leaf.shape, args[argnums]))
        return trees.unflatten(structure, out)

    return transformed


def _stacked(rows, shape, like):
    """Rows of trees into a tree of arrays of shape `shape + leaf.shape`."""
    leaves, structure = trees.flatten(like)
    columns = zip(*(trees.flatten(row)[0] for row in rows)) if rows else ((),) * len(leaves)
    return trees.unflatten(structure, [
        stack(column).reshape(shape + np.shape(leaf)) if column else np.zeros(shape + np.shape(leaf))
        for leaf, column in zip(leaves, columns)])


def hessian(f, argnums=0):
    """The second derivatives of a scalar function: the jacobian of its gradient.

    Shapes: x.shape + x.shape; for a tree a tree of trees.

    Example:
        >>> tg.hessian(lambda x: tg.sum(x**3))(np.array([1.0, 2.0]))
        array([[ 6.,  0.],
               [ 0., 12.]])
    """
    return jacobian(grad(f, argnums), argnums)


def hvp(f, primals, tangents):
    """Hessian times vector: the gradient of ⟨∇f(x), v⟩.

    Shapes: trees like the primals; a tuple of them when there are several primals.

    Raises: ArgumentError when primals and tangents differ in structure or shapes.

    Example:
        >>> tg.hvp(lambda x: tg.sum(x**3), (np.array([1.0, 2.0]),), (np.ones(2),))
        array([ 6., 12.])
    """
    _check_tangents("hvp(f, primals, tangents)", primals, tangents)
    every = tuple(range(len(primals)))

    def along(*primals):
        total = 0.0
        for g, v in zip(grad(f, every)(*primals), tangents):
            for a, b in zip(trees.flatten(g)[0], trees.flatten(v)[0]):
                total = (a * b).sum() + total
        return total

    out = grad(along, every)(*primals)
    return out if len(primals) > 1 else out[0]


def checkpoint(f):
    """A function with the value and the derivatives of `f` that keeps none of its intermediates.

    The backward runs f once more; derivatives of every order, also with respect to Tensors that f closes over.

    Raises: TypeError for keyword arguments that are Tensors: pass them by position.

    Gradient: that of f. f must be pure: it is called again with the same inputs.

    Example:
        >>> float(tg.grad(tg.checkpoint(lambda x: tg.sin(x) * x))(0.0))
        0.0
    """
    @functools.wraps(f)
    def checkpointed(*args):
        now = mode.get()
        if now.recorder is not None or not now.grad:  # a recorder wants to see the calls themselves
            return f(*args)
        leaves, structure = trees.flatten(args)
        nodes = [leaf._node if isinstance(leaf, Tensor) else None for leaf in leaves]
        start = Leaf((), np.float64).order
        fresh = [_fresh(leaf) if is_tracked(leaf) else _kept(leaf) for leaf in leaves]
        y = f(*trees.unflatten(structure, fresh))  # this graph tells what f closes over, and is dropped at once
        ys, out_structure = trees.flatten(y)
        closed = _older([leaf._node for leaf in ys if is_tracked(leaf)], start)
        if not closed and not any(nodes):
            return y
        saved = tuple(leaf._array if is_tracked(leaf) else leaf for leaf in fresh)
        arrays = [leaf._array if isinstance(leaf, Tensor) else np.asarray(leaf) for leaf in ys]
        again = _Again(f, structure, nodes, closed)
        node = Node(again, [*nodes, *closed], saved, [a.shape for a in arrays], None)
        return trees.unflatten(out_structure, outputs(node, arrays))

    return checkpointed


def _kept(leaf):
    """An untracked input, safe from being written to before the second run."""
    return np.array(leaf) if isinstance(leaf, np.ndarray) else leaf


def _older(roots, start):
    """The nearest nodes below `roots` that were there before number `start`."""
    seen, pending, found = set(roots), list(roots), []
    while pending:
        node = pending.pop()
        if node.order < start:
            found.append(node)
            continue
        new = [parent for parent in node.parents if parent is not None and parent not in seen]
        seen.update(new)
        pending += new
    return found


class _Again:
    """The plan of a checkpointed call: its pull computes the call once more."""

    adds_into = False

    def __init__(self, f, structure, nodes, closed):
        self.f, self.structure, self.closed = f, structure, closed
        self.op = self
        self.arrays = [*nodes, *closed]
        self.targets = [i for i, node in enumerate(self.arrays) if node is not None]
        self.sources = list(range(len(nodes)))

    def __repr__(self):
        return "checkpoint"

    def pull(self, g, saved, into):
        with switched(grad=True):
            fresh = [_fresh(value) if node is not None else value for value, node in zip(saved, self.arrays)]
            ys = trees.flatten(self.f(*trees.unflatten(self.structure, fresh)))[0]
        targets = [*(x._node if is_tracked(x) else None for x in fresh), *self.closed]
        targets = [targets[i] for i in self.targets]
        _retire(fresh)
        graph = any(isinstance(one, Tensor) for one in g)
        seeds = [(y._node, one) for y, one in zip(ys, g) if one is not None and is_tracked(y)]
        found = walk(seeds, targets, graph=graph)
        return [found.get(node) for node in targets]
