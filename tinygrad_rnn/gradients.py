"""Tensor.backward and every transform that is built on the backward walk: vjp, jvp, grad, hessian, checkpoint, …

Knows trees of arrays, which inputs a transform is about, and what its results look like from outside: plain, unless
an outer transform is watching. Refuses to know how a cotangent travels: `walk` does. Below it: walk, ops (identity,
stack, stop_gradient), tensor, trees.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import trees
from .errors import ArgumentError, DtypeError, GradientError, TraceError, message
from .ops.shape import identity, stack, stop_gradient
from .primitive import UNTRACKED, outputs
from .tensor import Leaf, Node, Tensor, mode, switched
from .walk import is_tracked, reachable, tracked_beyond, walk

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
    if (now := mode.get()).tracing and now.recorder.holds(self._array):
        raise TraceError(message("backward()", "called on a traced value", {"traced in": now.recorder.name},
                                 "Use grad or vjp inside a cell: they become part of the trace."))
    if self._node is None:
        raise GradientError(message("backward()", "this Tensor has no graph", {"shape": self.shape},
                                    "Make an input with requires_grad=True, and compute outside no_grad()."))
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
        leaf.grad = g if leaf.grad is None else np.asarray(leaf.grad + g)


def detach(self):
    """The same values without a graph: no gradient flows back through the result."""
    return stop_gradient(self)


Tensor.backward, Tensor.detach = backward, detach


# ---- transforms ---------------------------------------------------------------------------------------------


def _fresh(leaf) -> Any:
    """A new start of a graph with the leaf's values, linked to the leaf's own graph if it has one."""
    if isinstance(leaf, Tensor):
        now = mode.get()
        if leaf._node is not None and now.grad:
            return now.recorder.record(identity, (leaf,), {}) if now.tracing else identity.apply((leaf,), {}, True)
        if now.tracing:
            now.recorder.meet(leaf)  # what is made of it is made of the leaf
        array = leaf._array
    else:
        array = np.array(leaf)
    return Tensor(array, Leaf(array.shape, array.dtype)) if array.dtype.kind == "f" else leaf


def _place(value):
    """Where a value stands in the graph; None for what is not tracked."""
    return value._node if isinstance(value, Tensor) else None


def _retire(nodes):
    """The function of a transform has returned: its inputs are no longer somebody's to differentiate by."""
    for node in nodes:
        if type(node) is Leaf:
            node.live = False


class _Inputs:
    """What a transform differentiates by: the leaves of some trees (as `trees.flatten` gives them), each a fresh start;
    `nodes` are their places in the graph."""

    def __init__(self, flat):
        self.structures = [structure for _, structure in flat]
        self.fresh = [[_fresh(leaf) for leaf in leaves] for leaves, _ in flat]
        self.places = [[_place(leaf) for leaf in leaves] for leaves in self.fresh]
        self.nodes = {node for nodes in self.places for node in nodes if node is not None}

    def into(self, f):
        """What f makes of them."""
        with switched(grad=True):
            y = f(*[trees.unflatten(structure, leaves) for structure, leaves in zip(self.structures, self.fresh)])
        _retire(self.nodes)
        return y

    def cotangents(self, found):
        """What a walk found, as trees: zeros where nothing arrived, None for a leaf that has no gradient."""
        if not {np.ndarray}.issuperset([type(g) for g in found.values()]):
            found = dict(zip(found, self.released(list(found.values()))))
        for node in self.nodes.difference(found):
            found[node] = np.zeros(node.shape, node.dtype)
        found[None] = None
        return [trees.unflatten(structure, [found[node] for node in nodes]) for structure, nodes in zip(self.structures, self.places)]

    def released(self, values, foreign=True):
        """`values` as the outside sees them: plain arrays of their own, but Tensors where something else tracks them.
        `foreign` is what `reachable` says of them, if the caller has asked."""
        now = mode.get()
        if now.tracing:
            return values
        nodes = [value._node for value in values if is_tracked(value)] if foreign and now.grad else []
        beyond = tracked_beyond(nodes, self.nodes) if nodes else ()
        return [value if not isinstance(value, Tensor) or value._node in beyond else np.array(value._array) for value in values]


def vjp(f, *primals) -> tuple[Any, Callable[..., Any]]:
    """Value of `f` and its pullback: `(y, pullback)`, where `pullback(g)` is a tuple of gᵀ ∂y/∂x, one for each primal x.

    Shapes: primals and y are trees of arrays; g is a tree like y, the results are trees like the primals.
    Leaves that are not floating point are constants and get None. The pullback can be called again.

    Raises: ArgumentError when g does not have the structure and shapes of y.

    Example:
        >>> y, pullback = tg.vjp(lambda x: x * x, np.array([1.0, 2.0]))
        >>> pullback(np.ones(2))[0]
        array([2., 4.])
    """
    inputs = _Inputs([trees.flatten(primal) for primal in primals])
    y = inputs.into(f)
    ys, structure = trees.flatten(y)
    nodes = [_place(leaf) for leaf in ys]
    shapes = [np.shape(leaf) for leaf in ys]
    reach = reachable([node for node in nodes if node is not None], inputs.nodes)

    def pullback(g):
        given = trees.flatten_like(g, structure)
        if given is None or [np.shape(one) for one in given] != shapes:
            facts = {"y": structure, "shapes of y": shapes, "shapes of g": [np.shape(one) for one in trees.flatten(g)[0]]}
            raise ArgumentError(message("pullback(g)", "g does not have the structure and shapes of y", facts, "Pass a tree like y."))
        found = walk([(node, one) for node, one in zip(nodes, given) if node is not None], inputs.nodes, reach=reach)
        return tuple(inputs.cotangents(found))

    return trees.unflatten(structure, inputs.released(ys, foreign=reach[1])), pullback


def value_and_grad(f, argnums: int | tuple[int, ...] = 0, has_aux=False) -> Callable[..., Any]:
    """A function that returns `(f(*args), gradient)` for a scalar f; with `has_aux`, f returns `(scalar, aux)`.

    Shapes: the gradient is a tree like the argument; for a tuple of `argnums` a tuple of such trees.

    Raises: GradientError when f does not return a scalar; DtypeError when an argument has no floating point leaf.

    Example:
        >>> tg.value_and_grad(lambda p: (p["w"] * p["w"]).sum())({"w": np.array([3.0])})
        (array(9.), {'w': array([6.])})
    """
    def transformed(*args, **options):
        of_chosen, chosen = _chosen("grad", f, argnums, args, options)
        inputs = _Inputs(chosen)
        y = inputs.into(of_chosen)
        y, aux = y if has_aux else (y, None)
        seed, found, foreign = _one(f, y), {}, False
        if is_tracked(y):
            reach = reachable([y._node], inputs.nodes)
            found, foreign = walk([(y._node, seed)], inputs.nodes, reach=reach), reach[1]
        grads = inputs.cotangents(found)
        grads = tuple(grads) if isinstance(argnums, tuple) else grads[0]
        (y,) = inputs.released([y], foreign)
        if not has_aux:
            return y, grads
        leaves, structure = trees.flatten(aux)
        return (y, trees.unflatten(structure, inputs.released(leaves))), grads

    return _about(transformed, f, argnums, lambda of: value_and_grad(of, argnums, has_aux))


def _about(transformed: Any, f, argnums, again) -> Any:
    """A transformed function that tells what it was made of, and how to make it of another."""
    transformed.__doc__ = f.__doc__
    transformed._of, transformed._again = f, again
    transformed._chosen = argnums if isinstance(argnums, tuple) else (argnums,)
    return transformed


def _one(f, y):
    """The cotangent 1 of a scalar result."""
    if not isinstance(y, (Tensor, np.ndarray, np.generic, float, int)) or getattr(y, "size", 1) != 1:
        raise GradientError(message(_who("grad", f), "the function does not return a scalar", {"returned": _described(y)},
                                    "Reduce it, for example with sum(), or use jacobian."))
    dtype = getattr(y, "dtype", np.dtype(float))
    if dtype.kind == "c":
        raise DtypeError(message(_who("grad", f), "the function returns a complex number", {"dtype": dtype}, "Return a real one."))
    return np.array(1, dtype, ndmin=getattr(y, "ndim", 0))


def _who(transform, f):
    return f"{transform}({getattr(f, '__name__', type(f).__name__)})"


def _chosen(transform, f, argnums, args, options):
    """`f` as a function of the arguments numbered `argnums` alone, and these arguments as `trees.flatten` gives them."""
    places = argnums if isinstance(argnums, tuple) else (argnums,)
    if not all([-len(args) <= i < len(args) for i in places]):
        raise ArgumentError(message(_who(transform, f), "there is no argument of that number",
                                    {"argnums": argnums, "arguments": len(args)}, "Pass the argument by position, counted from 0."))
    chosen = [trees.flatten(args[i]) for i in places]
    for i, (leaves, _) in zip(places, chosen):
        if not any(_is_float(leaf) for leaf in leaves):
            raise DtypeError(message(_who(transform, f), f"argument {i} has no floating point leaf",
                                     {"argument": repr(args[i])[:60]}, "Pass floats (2.0, not 2) or arrays of a float dtype."))

    def of_chosen(*chosen):
        full = list(args)
        for i, arg in zip(places, chosen):
            full[i] = arg
        return f(*full, **options)

    return of_chosen, chosen


def _zeros(leaf):
    return np.zeros(np.shape(leaf), getattr(leaf, "dtype", np.float64))


def _is_float(leaf):
    return (leaf._array if isinstance(leaf, Tensor) else np.asarray(leaf)).dtype.kind == "f"


def _described(y):
    leaves, structure = trees.flatten(y)
    if structure.kind is trees.LEAF:
        return f"shape {np.shape(y)}" if isinstance(y, (Tensor, np.ndarray)) else type(y).__name__
    return f"{structure} of shapes {[np.shape(leaf) for leaf in leaves]}"


def grad(f, argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The gradient function of a scalar function; see `value_and_grad`.

    Example:
        >>> float(tg.grad(tg.grad(lambda x: x**3))(2.0))
        12.0
    """
    both = value_and_grad(f, argnums)
    return _about(lambda *args, **options: both(*args, **options)[1], f, argnums, lambda of: grad(of, argnums))


def jvp(f, primals, tangents) -> tuple[Any, Any]:
    """Value and directional derivative: `(y, ∂y/∂x · tangent)`, as the pullback of the pullback.

    Shapes: `tangents` are trees like `primals`, both tuples with one entry per argument.

    Raises: ArgumentError when the two differ in structure or shapes.

    Example:
        >>> y, y_dot = tg.jvp(tg.exp, (np.zeros(2),), (np.ones(2),))
        >>> y_dot
        array([1., 1.])
    """
    directions = _directions("jvp(f, primals, tangents)", primals, tangents)
    y, pullback = vjp(f, *primals)
    with np.errstate(all="ignore"):  # the inner cotangent is a placeholder, only its derivative counts
        start = trees.map(lambda leaf: np.ones_like(_zeros(leaf)), y)  # not zeros: these would hide a rule that drops the graph
        _, pullback_again = vjp(lambda g: [part for tree in pullback(g) for part in trees.flatten(tree)[0]], start)
        (y_dot,) = pullback_again([v for row in directions for v in row])
    return y, y_dot


def _directions(who, primals, tangents):
    """The tangents of the floating point leaves of each primal, in the primal's order."""
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise ArgumentError(message(who, "primals and tangents are not tuples", {"primals": _described(primals), "tangents": _described(tangents)},
                                    "Pass tuples with one entry per argument of f: (x,), (v,)."))
    rows: list[Any] = [trees.flatten_like(v, trees.flatten(p)[1]) for p, v in zip(primals, tangents)]
    leaves = [trees.flatten(p)[0] for p in primals]
    fits = len(primals) == len(tangents) and None not in rows and [[np.shape(x) for x in r] for r in leaves] == [[np.shape(v) for v in r] for r in rows]
    if not fits:
        facts = {"primals": [_described(p) for p in primals], "tangents": [_described(v) for v in tangents]}
        raise ArgumentError(message(who, "the tangents are not trees like the primals", facts, "Pass tuples with one tangent per primal."))
    return [[v for x, v in zip(xs, row) if _is_float(x)] for xs, row in zip(leaves, rows)]


def jacobian(f, argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """All partial derivatives ∂y_i/∂x_j, one pullback per element of y.

    Shapes: y.shape + x.shape; a tree of x inside a tree of y where they are trees, a tuple for a tuple of `argnums`.

    Raises: DtypeError when an argument has no floating point leaf.

    Example:
        >>> tg.jacobian(lambda x: x * x)(np.array([1.0, 2.0]))
        array([[2., 0.],
               [0., 4.]])
    """
    def transformed(*args, **options):
        of_chosen, chosen = _chosen("jacobian", f, argnums, args, options)
        primals = [trees.unflatten(structure, leaves) for leaves, structure in chosen]
        y, pullback = vjp(of_chosen, *primals)
        ys, structure = trees.flatten(y)
        zeros, out = [_zeros(leaf) for leaf in ys], []
        for k, leaf in enumerate(zeros):
            rows = []
            for i in range(leaf.size):
                one = leaf.copy()
                one.flat[i] = 1
                rows.append(pullback(trees.unflatten(structure, [*zeros[:k], one, *zeros[k + 1:]])))
            blocks = tuple(_stacked([row[j] for row in rows], leaf.shape, x) for j, x in enumerate(primals))
            out.append(blocks if isinstance(argnums, tuple) else blocks[0])
        return trees.unflatten(structure, out)

    return transformed


def _stacked(rows, shape, like):
    """Rows of trees into a tree of arrays of shape `shape + leaf.shape`; None for a leaf that has no gradient."""
    leaves, structure = trees.flatten(like)
    columns = zip(*[trees.flatten(row)[0] for row in rows])  # a None is no leaf
    return trees.unflatten(structure, [
        None if not _is_float(leaf) else stack(next(columns)).reshape(shape + np.shape(leaf)) if rows else
        np.zeros(shape + np.shape(leaf), leaf.dtype) for leaf in leaves])


def hessian(f, argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The second derivatives of a scalar function: the jacobian of its gradient.

    Shapes: x.shape + x.shape; for a tree a tree of trees.

    Raises: GradientError when f does not return a scalar.

    Example:
        >>> tg.hessian(lambda x: tg.sum(x**3))(np.array([1.0, 2.0]))
        array([[ 6.,  0.],
               [ 0., 12.]])
    """
    return jacobian(grad(f, argnums), argnums)


def hvp(f, primals, tangents) -> Any:
    """Hessian times vector: the gradient of ⟨∇f(x), v⟩.

    Shapes: trees like the primals; a tuple of them when there are several primals. None for what is no float.

    Raises: ArgumentError when primals and tangents differ in structure or shapes.

    Example:
        >>> tg.hvp(lambda x: tg.sum(x**3), (np.array([1.0, 2.0]),), (np.ones(2),))
        array([ 6., 12.])
    """
    directions = _directions("hvp(f, primals, tangents)", primals, tangents)
    chosen = tuple(i for i, row in enumerate(directions) if row)  # labels, say, have no direction

    def along(*primals):
        slopes = [trees.flatten(slope)[0] for slope in grad(f, chosen)(*primals)]
        return sum([(a * b).sum() for i, slope in zip(chosen, slopes) for a, b in zip(slope, directions[i])])

    found = dict(zip(chosen, grad(along, chosen)(*primals)))
    out = tuple(found[i] if i in found else trees.map(lambda leaf: None, primal) for i, primal in enumerate(primals))
    return out if len(primals) > 1 else out[0]


def checkpoint(f):
    """A function with the value and the derivatives of `f` that keeps none of its intermediates.

    The backward runs f once more; derivatives of every order, also with respect to Tensors that f closes over.

    Raises: TypeError for keyword arguments that are Tensors: pass them by position. GradientError, in the backward, when
    the second run gives other values than the first.

    Gradient: that of f. f must be pure: it is called again with the same inputs. A random draw in f, of a dropout mask
    say, would be another one then: draw outside and pass it in.

    Example:
        >>> float(tg.grad(tg.checkpoint(lambda x: tg.sin(x) * x))(0.0))
        0.0
    """
    @functools.wraps(f)
    def checkpointed(*args):
        now = mode.get()
        if now.recorder is not None or not now.grad:  # a recorder wants to see the calls themselves
            return f(*args)
        leaves: list[Any]
        leaves, structure = trees.flatten(args)
        start = Leaf((), np.float64).order
        fresh: list[Any] = [Tensor(leaf._array, Leaf(leaf.shape, leaf.dtype)) if is_tracked(leaf) else _kept(leaf) for leaf in leaves]
        y = f(*trees.unflatten(structure, fresh))  # this graph tells what f closes over, and is dropped at once
        ys, out_structure = trees.flatten(y)
        closed = _older([leaf._node for leaf in ys if is_tracked(leaf)], start)
        parents = [leaf._node for leaf in leaves if is_tracked(leaf)]
        if not closed and not parents:
            return y
        place = iter(range(len(parents)))
        sources = [next(place) if is_tracked(leaf) else UNTRACKED for leaf in leaves]
        again = _Again(f, structure, sources, closed, _marks(ys))
        saved = tuple(leaf._array if is_tracked(leaf) else leaf for leaf in fresh)
        arrays = [leaf._array if isinstance(leaf, Tensor) else np.asarray(leaf) for leaf in ys]
        node = Node(again, [*parents, *closed], saved, [a.shape for a in arrays], None)
        results = [new if is_tracked(old) else old for new, old in zip(outputs(node, arrays), ys)]
        return trees.unflatten(out_structure, results)

    return checkpointed


def _marks(ys):
    """A number for each output, by which another run's outputs are told from these."""
    return [float(np.sum(np.abs(y._array if isinstance(y, Tensor) else y), dtype=float)) for y in ys]


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
        new = list(dict.fromkeys(parent for parent in node.parents if parent not in seen))
        seen.update(new)
        pending += new
    return found


class _Again:
    """The plan of a checkpointed call: its pull computes the call once more. `sources` as in a `Plan`."""

    adds_into, fresh = None, False

    def __init__(self, f, structure, sources, closed, marks):
        self.f, self.structure, self.sources, self.closed, self.marks = f, structure, sources, closed, marks
        self.targets = range(sum(at != UNTRACKED for at in sources) + len(closed))

    def __repr__(self):
        return "checkpoint"

    def pull(self, g, saved, into):
        """The cotangents; where they will be differentiated in their turn, this pass keeps none of its intermediates either."""
        run = checkpoint(self._again) if any(isinstance(one, Tensor) for one in g) else self._again
        return run(list(saved), list(g))

    def _again(self, saved, g):
        with switched(grad=True):
            fresh = [value if at == UNTRACKED else _fresh(value) for value, at in zip(saved, self.sources)]
            ys = trees.flatten(self.f(*trees.unflatten(self.structure, fresh)))[0]
        if not mode.get().tracing and not np.allclose(_marks(ys), self.marks, rtol=1e-6, atol=0, equal_nan=True):
            name = getattr(self.f, "__name__", type(self.f).__name__)
            raise GradientError(message(f"checkpoint({name})", "the second run gave other values than the first",
                                        {"Σ|y|, first": self.marks, "Σ|y|, second": _marks(ys)},
                                        "Make the function pure: draw random masks outside and pass them in."))
        targets = [*(x._node for x, at in zip(fresh, self.sources) if at != UNTRACKED), *self.closed]
        _retire(map(_place, fresh))
        seeds = [(y._node, one) for y, one in zip(ys, g) if one is not None and is_tracked(y)]
        found = walk(seeds, targets, graph=any(isinstance(one, Tensor) for one in g))
        return [found.get(node) for node in targets]
