"""A backward walk over an unrolled loss that can be broken on purpose.

Knows how to walk back with some calls' rules replaced by others, with cotangents exchanged, cut or sent elsewhere, and how to
run the loss again with some calls computed otherwise. Refuses to know which replacements are likely mistakes: `bugs` does.
Below it: diagnose_sites, diagnose_record, tensor, trees.
"""

from functools import partial

import numpy as np

from .. import trees
from ..errors import ArgumentError
from ..primitive import PICK
from ..tensor import Leaf, Tensor, switched, tensor
from .diagnose_record import redrawn
from .diagnose_sites import Sites


class Misfit(Exception):
    """A broken rule gave an array that no broadcasting makes a cotangent of its input: this breakage cannot be written."""


class Unrolled(Sites):
    """The graph of `loss(params, *data)`, and walks over it."""

    def pull(self, i, g, saved=None):
        """What a node's rules hand to its inputs: pairs of slot and contribution."""
        node = self.nodes[i]
        parts = node.plan.pull(g, node.saved if saved is None else saved, None)
        return [(self.places[i][place], part) for place, part in zip(node.plan.targets, parts)]

    def backward(self, hooks=(), carry_hooks=None, order=None, exchange=None, handed=None, reroute=None, override=None, visit=None):
        """The gradients by name. `hooks` are dicts of node index to `f(pull, g, saved=None) -> pairs`, which stands in for `pull`.

        With `carry_hooks`, what crosses from one step to another is computed under those, and the rest under `hooks`.
        `order` is another order in which all users of a value come before it; `exchange` is a dict of node to partner: when
        either is reached the two cotangents change places. `handed` is a pair of a function, which stands in for the sum that
        a state gets back from the steps after it, and of the edges that sum comes over. `reroute` maps edges to another end.
        `override` gives nodes another cotangent, for what does not cross between steps. `visit(i, slot, contribution)` sees
        what goes over each edge.
        """
        channels = [chained(self, hooks)] + ([] if carry_hooks is None else [chained(self, carry_hooks)])
        cots = [[None] * len(self.nodes) for _ in channels]
        for cot in cots:
            cot[self.index[self.root._node]] = np.ones(self.root.shape, self.root.dtype)
        exchange, waiting = dict(exchange or {}), {}
        with np.errstate(all="ignore"):
            for i in order or range(len(self.nodes) - 1, -1, -1):
                partner = exchange.pop(i, None)
                if partner is not None:
                    exchange.pop(partner, None)
                    for cot in cots:
                        cot[i], cot[partner] = cot[partner], cot[i]
                if i in waiting:
                    back = handed[0](waiting.pop(i))
                    for cot in cots:
                        cot[i] = back if cot[i] is None else cot[i] + back
                if override and i in override:
                    cots[0][i] = override[i]
                node = self.nodes[i]
                if type(node) is Leaf or cots[0][i] is None and cots[-1][i] is None:
                    continue
                if node.plan is PICK:
                    for cot in cots:
                        _pick(cot, self.parents[i][0], node, cot[i])
                    continue
                results = [[] if cot[i] is None else chain.get(i, partial(self.pull, i))(tuple(cot[i]) if type(cot[i]) is list else cot[i])
                           for cot, chain in zip(cots, channels)]
                for number, (cot, pairs) in enumerate(zip(cots, results)):
                    for slot, part in pairs:
                        j = self.parents[i][slot]
                        if j is None or part is None:
                            continue
                        if reroute:
                            j = reroute.get((i, slot), j)
                        crossing = len(cots) == 2 and (i, slot) in self.carries
                        if crossing and number == 0:
                            continue
                        part = fit(part, self.nodes[j])
                        if visit is not None:
                            visit(i, slot, part)
                        if handed and (i, slot) in handed[1]:
                            waiting[j] = waiting[j] + part if j in waiting else part
                            continue
                        for target in cots if crossing else (cot,):
                            target[j] = part if target[j] is None else target[j] + part
        self.cotangents = cots[0]
        return {name: np.zeros(self.nodes[i].shape) if cots[0][i] is None else cots[0][i] for name, i in self.names.items()}

    def forward(self, replaced):
        """The loss and gradients when some calls are computed otherwise: `replaced` maps a call's place in the recording
        to a function of its arguments. Raises what NumPy raises when shapes no longer fit."""
        fresh = {name: tensor(value, requires_grad=True) for name, value in self.values.items()}
        new = {t._node: fresh[name] for name, t in self.inputs.items()}
        with switched(grad=True, recorder=None), np.errstate(all="ignore"):
            for n, call in enumerate(self.calls):
                args = tuple(new.get(a._node, a) if isinstance(a, Tensor) else a for a in call.args)
                if n not in replaced and all(a is b for a, b in zip(args, call.args)):
                    continue
                y = replaced[n](*args, fresh=fresh) if n in replaced else call.op.apply(args, call.statics, True)
                for old, one in zip(*((call.y, y) if isinstance(call.y, tuple) else ((call.y,), (y,)))):
                    if isinstance(old, Tensor) and old._node is not None:
                        new[old._node] = one if isinstance(one, Tensor) else tensor(one)
            y = new[self.root._node]
            if y.size != 1:
                raise ArgumentError("no scalar")
            if y._node is not None:
                y.backward(np.ones(y.shape))
        return float(y._array.reshape(())), {n: np.zeros(t.shape) if t.grad is None else t.grad for n, t in fresh.items()}

    def by_step(self, hooks=(), **options):
        """The gradients, cut up by the step in which they enter what all steps share: `[{name: part} for each step]`, then the
        part that does not come from a step."""
        parts = []
        for keep in [*range(self.T), None]:
            mask = {}
            for i, (run, position) in enumerate(self.where):
                shared = [slot for slot, j in enumerate(self.parents[i]) if j in self.before] if run is not None else []
                if shared and position != keep:
                    mask[i] = partial(without, shared)
            parts.append(self.backward([*hooks, mask], **options))
        outside = parts.pop()
        parts = [{name: part[name] - outside[name] for name in part} for part in parts] + [outside]
        return parts

    def elsewhere(self, seed=0):
        """The same loss and data with other parameters: nothing small, zero or symmetric."""
        rng = np.random.default_rng(seed)
        draw = lambda leaf: redrawn(leaf, rng)
        return Unrolled(self.function, trees.map(draw, self.params), self.data, self.wanted)


def without(slots, pull, g, saved=None):
    return [(slot, part) for slot, part in pull(g, saved) if slot not in slots]


def chained(graph, hooks):
    """For each node with hooks, one function that stands in for its `pull`."""
    chains = {}
    for table in hooks:
        for i, hook in table.items():
            chains[i] = partial(hook, chains.get(i) or partial(graph.pull, i))
    return chains


def _pick(cot, parent, node, g):
    if g is not None:
        if cot[parent] is None:
            cot[parent] = [None] * len(node.parents[0].shape)
        cot[parent][node.saved] = g


def fit(g, node):
    """Bring a contribution to its input's shape by summing what was repeated; Misfit when that cannot be."""
    g, shape = np.asarray(g), node.shape
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    if extra < 0 or any(n != m and n != 1 for n, m in zip(shape, g.shape[extra:])):
        raise Misfit
    axes = (*range(extra), *(k + extra for k, n in enumerate(shape) if n == 1 and g.shape[k + extra] != 1))
    return g.sum(axis=axes).reshape(shape)
