"""ledger: which time step a gradient came from, and how much of each loss arrives at each state.

Two exact accounts of backpropagation through time:

    ∂L/∂W = Σ_t dW_t + rest         dW_t: through the uses of W at step t; rest: through those outside the loop
    ‖∂L_s/∂h_t‖                     the loss at step s, the state that leaves step t: vanishing and exploding at a glance

Knows how to part the uses of a weight without changing the computation: at each step the weight enters by an
identity of its own, whose cotangent is that step's share. Refuses to derive anything by hand: every number is a
cotangent of the one backward walk. Below it: watch, walk.
"""

import inspect

import numpy as np

from .. import trees
from ..errors import ArgumentError, ShapeError, message
from ..ops.shape import identity
from ..scan import _with_lengths, step
from ..tensor import Leaf, Tensor, mode, switched, tensor
from ..walk import walk
from .watch import Watcher, arguments, inputs, refuse_untracked

_WHO = "ledger(loss, params, data)"


class Flow:
    """How the losses reach the states of one scan. `matrix[s, t]` is ‖∂L_s/∂h_t‖ over all leaves of the state.

    Shapes: matrix (S, T); `leaves` has such a matrix for every leaf of the state, by name.
    """

    def __init__(self, cell, leaves):
        self.cell, self.leaves = cell, leaves
        self.matrix = np.sqrt(sum(m**2 for m in leaves.values()))


class Ledger:
    """What `ledger` returns.

    `value`, the loss; `gradient`, by name, the sum of `weights[name]` (T, …) over time plus `rest[name]`;
    `flows`, one for each scan in the order of the calls, and `flow`, the matrix of the last one.
    """

    def __init__(self, value, weights, rest, flows):
        self.value, self.weights, self.rest, self.flows = value, weights, rest, flows
        self.gradient = {name: dW.sum(axis=0) + rest[name] for name, dW in weights.items()}

    @property
    def flow(self):
        """‖∂L_s/∂h_t‖ of the last scan, (S, T)."""
        if not self.flows:
            raise ArgumentError(message("ledger.flow", "the loss runs no scan", {},
                                        "Write the recurrence with scan(cell, state, xs)."))
        return self.flows[-1].matrix

    def norms(self, name):
        """‖dW_t‖ for every step.

        Shapes: (T,).
        """
        dW = self.weights[name]
        return np.sqrt((dW.reshape(len(dW), -1) ** 2).sum(axis=1))

    def __str__(self):
        head = ("weight", "shape", "|gradient|", "|rest|", "|dW_0|", "|dW_T-1|", "largest at")
        rows: list[tuple] = [head]
        for name, dW in self.weights.items():
            n = self.norms(name)
            ends = (f"{n[0]:.4g}", f"{n[-1]:.4g}", f"step {n.argmax()}" if n.any() else "-") if len(n) else ("-", "-", "-")
            totals = (f"{_norm(self.gradient[name]):.4g}", f"{_norm(self.rest[name]):.4g}")
            rows.append((name, str(dW.shape[1:]), *totals, *ends))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
                         for row in rows)


def _norm(array):
    return float(np.sqrt(np.sum(np.square(array))))


class _Run:
    """One scan: the nodes of its states and of its outputs, by step, and the step that was run last."""

    def __init__(self, cell):
        self.cell, self.states, self.exits, self.outputs, self.names, self.last = cell, {}, {}, {}, [], None


class _Parting(Watcher):
    """Gives every step its own way in to what was made outside of the loop.

    `pure` are the nodes made of parameters alone, outside of any scan; `pieces` the identities through which a step
    (or None: the code outside) uses them.
    """

    def __init__(self, leaves):
        self.pure, self.pieces, self.runs = {leaf._node for leaf in leaves}, {}, []

    def record(self, op, args, statics):
        t, grad = step.get(), mode.get().grad
        nodes = [a._node for a in args if isinstance(a, Tensor) and a._node is not None]
        stays = t is None and all(node in self.pure for node in nodes)
        if grad and not stays:
            args = [self.piece(a, t) if isinstance(a, Tensor) and a._node in self.pure else a for a in args]
        y = self.run(op, args, statics)
        if stays:
            self.pure.update(node for node in _nodes(y) if node is not None)
        return y

    def piece(self, value, t):
        """`value` as step t sees it."""
        node = value._node
        if (node, t) not in self.pieces:
            self.pieces[node, t] = identity.apply((value,), {}, True)
        return self.pieces[node, t]

    def enter(self, cell):
        written, masked = _written(cell)
        run = _Run(getattr(written, "__qualname__", type(written).__qualname__).rpartition("<locals>.")[2])
        self.runs.append(run)
        inner = super().enter(cell)

        def parted(state, x):
            start = Leaf((), float).order
            result, t = inner(state, x), step.get()
            if t is None or not isinstance(result, tuple) or len(result) != 2:
                return result
            new, y = result
            made, new, y = _nodes(new), trees.map(_followed, new), trees.map(_own, y)
            if masked:  # what the cell made feeds its output, and what becomes of it when rows have ended does not
                made = [next((p for p in node.parents if p.order >= start), node) if node is not None else None for node in made]
            run.names, run.exits[t], run.last = trees.paths(new, "state"), _nodes(new), t
            run.outputs.setdefault(t, []).extend(_nodes(y))
            # what was made in this step also feeds its output; what only passes through counts from where it leaves
            run.states.setdefault(t, []).append([out if node is None or node.order < start else node
                                                 for node, out in zip(made, run.exits[t])])
            return new, y

        return parted


def _written(cell):
    """The cell as somebody wrote it, and whether scan has put the masks of `lengths` around it."""
    code = getattr(cell, "__code__", None)
    if code is not None and code in _with_lengths.__code__.co_consts:
        return inspect.getclosurevars(cell).nonlocals["cell"], True
    return cell, False


def _nodes(tree):
    return [leaf._node if isinstance(leaf, Tensor) else None for leaf in trees.flatten(tree)[0]]


def _own(leaf):
    return identity.apply((leaf,), {}, True) if isinstance(leaf, Tensor) and leaf._node is not None else leaf


def _followed(leaf):
    """A state that no parameter has reached yet has cotangents all the same."""
    if getattr(leaf, "dtype", np.dtype(int)).kind == "f" and not getattr(leaf, "requires_grad", False) and mode.get().grad:
        return tensor(leaf, requires_grad=True)
    return _own(leaf)


def ledger(loss, params, data=()):
    """Where in time the gradients of `loss(params, *data)` come from.

    ∂L/∂W = Σ_t dW_t + rest, and the matrix ‖∂L_s/∂h_t‖ for every scan that the loss runs.

    Shapes: the loss is a scalar, or a vector (S,) of losses, one for each step, whose sum is L. Of a scalar, L_s is
    what enters the recurrence at the output of step s (the last state counts as the last step's): for a sum over
    steps that is the loss of step s. A row of a batch that has ended makes no state, and counts 0 there. A weight
    that is used by nested or by several scans has its uses at step t added.

    Raises: GradientError when the loss does not depend on params; ShapeError when it is neither scalar nor vector.

    Gradient: exact to rounding, through any cell and any option of scan: the shares add up to the gradient.

    Example:
        >>> def loss(p):  # h' = w h, and a loss at the last step alone
        ...     return tg.sum(tg.scan(lambda h, x: (p["w"] * h, None), 1.0, np.zeros(3))[0])
        >>> account = tg.explain.ledger(loss, {"w": 0.5})
        >>> account.weights["w"], account.gradient["w"]
        (array([0.25, 0.25, 0.25]), np.float64(0.75))
        >>> account.flow[2]
        array([0.25, 0.5 , 1.  ])
    """
    tracked, params = inputs(params)
    parting = _Parting(tracked.values())
    with parting.watching(_WHO), switched(grad=True):
        value = loss(params, *arguments(data))
    refuse_untracked(_WHO, value)
    if value.ndim > 1:
        raise ShapeError(message(_WHO, "the loss is neither a scalar nor a vector over steps", {"shape": value.shape},
                                 "Return one number, or one number per step."))
    return Ledger(value.numpy(), *_shares(value, tracked, parting), _flows(value, parting))


def _shares(value, tracked, parting):
    """What each step contributes to each parameter: the cotangents of the pieces, carried to the parameters."""
    by_node = {piece._node: key for key, piece in parting.pieces.items()}
    found = walk([(value._node, np.ones(value.shape, value.dtype))], {*by_node, *parting.pure}, graph=False)
    seeds = {}
    for node, g in found.items():
        source, t = by_node.get(node, (node, None))
        seeds.setdefault(t, []).append((source, g))
    T = max((t for t in seeds if t is not None), default=-1) + 1
    targets = {leaf._node: name for name, leaf in tracked.items()}
    weights = {name: np.zeros((T, *leaf.shape), leaf.dtype) for name, leaf in tracked.items()}
    rest = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in tracked.items()}
    for t, pairs in seeds.items():
        for node, g in walk(pairs, targets, graph=False).items():
            if t is None:
                rest[targets[node]] = g
            else:
                weights[targets[node]][t] = g
    return weights, rest


def _flows(value, parting):
    runs = [run for run in parting.runs if any(any(nodes) for visits in run.states.values() for nodes in visits)]
    if value.ndim:
        eye = np.eye(value.size, dtype=value.dtype)
        rows = [[(value._node, e)] for e in eye]
        return [_flow(run, rows, parting) for run in runs]
    cotangents = {}
    wanted = {node for run in runs for nodes in [*run.outputs.values(), *run.exits.values()] for node in nodes}

    def visit(node, g):
        if node in wanted:
            cotangents[node] = g

    walk([(value._node, np.ones((), value.dtype))], _ends(parting), graph=False, visit=visit)
    flows = []
    for run in runs:
        ways = {t: run.outputs.get(t, []) + (run.exits[t] if t == run.last else []) for t in run.states}
        rows = [[(node, cotangents[node]) for node in ways.get(s, ()) if node in cotangents]
                for s in range(max(run.states) + 1)]
        flows.append(_flow(run, rows, parting))
    return flows


def _ends(parting):
    """Where a walk may stop: at the parameters, and at states that start anew."""
    starts = {node for run in parting.runs for nodes in run.exits.values() for node in nodes if type(node) is Leaf}
    return starts | parting.pure


def _flow(run, rows, parting):
    """One walk for each loss; each visits the states on its way back."""
    places, ends = {}, _ends(parting)
    for t, visits in run.states.items():
        for nodes in visits:
            for name, node in zip(run.names, nodes):
                if node is not None:
                    places.setdefault(node, (name, t))  # one Tensor returned as two leaves counts once
    leaves = {name: np.zeros((len(rows), max(run.states) + 1)) for name in run.names}
    for s, seeds in enumerate(rows):
        def visit(node, g, s=s):
            if node in places:
                name, t = places[node]
                leaves[name][s, t] = np.hypot(leaves[name][s, t], _norm(g))

        walk(seeds, ends, graph=False, visit=visit)
    return Flow(run.cell, leaves)
