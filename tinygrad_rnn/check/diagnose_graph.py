"""A loss unrolled: every op call with its time step and its site, and a backward walk that can be broken on purpose.

Knows how to run a loss once under a recorder, which calls of different steps are the same line of the cell (a *site*: the
n-th call of an op in the cell's body), which edges carry state from one step to another, and how to walk back with some
calls' rules replaced by others. Refuses to know which replacements are likely mistakes: `bugs` does. Below it: diagnose_record,
walk, tensor, trees.
"""

import inspect
from collections import defaultdict
from functools import partial
from typing import Any

import numpy as np

from .. import trees
from ..errors import ArgumentError, GradientError, message
from ..primitive import PICK
from ..tensor import Leaf, Tensor, switched, tensor
from ..walk import reachable
from .diagnose_record import Watcher, array, is_float, redrawn


class Misfit(Exception):
    """A broken rule gave an array that no broadcasting makes a cotangent of its input: this breakage cannot be written."""


class Unrolled:
    """The graph of `loss(params, *data)`, with respect to every leaf of params and the data named in `wanted`.

    `names` maps a tensor's name to its node's index; nodes are numbered in the order in which they were made.
    """

    def __init__(self, loss, params, data, wanted=None):
        self.function, self.params, self.data, self.wanted = loss, params, data, wanted or {}
        leaves, structure = trees.flatten(params)
        tracked = [tensor(array(leaf), requires_grad=True) if is_float(leaf) else leaf for leaf in leaves]
        paths = [name or "params" for name in trees.paths(params)]
        arguments = [tensor(array(d), requires_grad=True) if i in self.wanted.values() else d for i, d in enumerate(data)]
        watcher = Watcher()
        with switched(grad=True, recorder=watcher):
            y = loss(trees.unflatten(structure, tracked), *arguments)
        if not isinstance(y, Tensor) or y._node is None or y.size != 1:
            raise GradientError(message("loss(params, *data)", "the loss is not a scalar that depends on the parameters",
                                        {"returned": getattr(y, "shape", type(y).__name__)}, "Return one number made of ops."))
        self.loss, self.calls, self.root = float(y._array.reshape(())), watcher.calls, y
        inputs = dict(zip(paths, tracked)) | {name: arguments[i] for name, i in self.wanted.items()}
        self.inputs = {name: t for name, t in inputs.items() if isinstance(t, Tensor)}
        self._number()
        self._locate()
        self._link()

    # ---- reading the recording ------------------------------------------------------------------------------

    def _number(self):
        found = set(reachable([self.root._node], ())[0]) | {t._node for t in self.inputs.values()}
        self.nodes = sorted(found, key=lambda node: node.order)
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.names = {name: self.index[t._node] for name, t in self.inputs.items()}
        self.values = {name: t._array for name, t in self.inputs.items()}

    def _locate(self):
        """Give every call its run, its position and its place among the calls of the same op in that step."""
        run, last, direction, position, self.times = None, None, 0, 0, []
        counts = defaultdict(int)
        for call in self.calls:
            t = call.time
            if t is None:
                last = None
            elif last is None or t != last and (abs(t - last) != 1 or direction and t - last != direction):
                run, direction, position, last = len(self.times), 0, 0, t
                self.times.append([t])
            elif t != last:
                direction, position, last = t - last, position + 1, t
                self.times[run].append(t)
            call.run, call.position = (run, position) if t is not None else (None, None)
            key = (call.run, call.position, call.op.name)
            call.nth, counts[key] = counts[key], counts[key] + 1

    def _link(self):
        """Parents by the place of the argument (None for an untracked one), and what each saved value is: an argument's
        place, "y", or None."""
        self.call: list[Any] = [None] * len(self.nodes)
        n = range(len(self.nodes))
        for call in self.calls:
            if call.node in self.index:
                self.call[self.index[call.node]] = call
        self.parents = [tuple(self.index[p] for p in node.parents) for node in self.nodes]
        self.places, self.sources = [range(len(p)) for p in self.parents], [()] * len(n)
        for i in n:
            call = self.call[i]
            if call is not None:
                self.parents[i] = tuple(self.index[a._node] if isinstance(a, Tensor) and a._node is not None else None for a in call.args)
                self.places[i] = [slot for slot, j in enumerate(self.parents[i]) if j is not None]
                self.sources[i] = _sources(call.op, self.places[i])
        for i, node in enumerate(self.nodes):
            if node.plan is PICK:
                self.call[i] = self.call[self.parents[i][0]]
        self.where: list[Any] = [(None, None) if call is None else (call.run, call.position) for call in self.call]
        self.sites, self.steps = defaultdict(dict), defaultdict(list)
        for i, call in enumerate(self.call):
            if call is not None and self.nodes[i].plan is not PICK:
                self.sites[call.site][call.position] = i
        self.called = defaultdict(dict)  # as `sites`, with the calls on which the loss does not depend
        for call in self.calls:
            self.steps[call.run, call.position].append(call)
            self.called[call.site][call.position] = call
        self.before = set()  # what no step has touched: parameters, data, and what was made of them outside of scans
        for i, parents in enumerate(self.parents):
            if self.where[i][0] is None and all(j in self.before for j in parents if j is not None):
                self.before.add(i)
        self._find_state()

    def _find_state(self):
        """Edges that carry state, the consumers that read it, and each leaf of the state from before the first step on."""
        self.carries, readers = set(), defaultdict(set)
        for i, (run, position) in enumerate(self.where):
            for slot, j in enumerate(self.parents[i]):
                if j is not None and run is not None and self.where[j][0] == run and self.where[j][1] < position:
                    self.carries.add((i, slot))
                    readers[self.call[j].site, self._output(j)].add((self.call[i].site, slot))
        self.states = {}
        for (site, output), consumers in readers.items():
            made = self.called[site]
            before = [self._argument(self.sites[s][0], slot) for s, slot in consumers if 0 in self.sites[s]]
            self.states[site, output] = [before[0] if before else None, *(self._made(made[p], output) for p in sorted(made))]
            for s, slot in consumers:  # the edge into the initial state, where that is tracked
                first = self.sites[s].get(0)
                if first is not None and len(self.parents[first]) > slot and self.parents[first][slot] is not None:
                    self.carries.add((first, slot))
        self.stateful = set()  # what depends on the state that comes into its step
        for i, parents in enumerate(self.parents):
            if any((i, slot) in self.carries or j in self.stateful and self.where[j] == self.where[i] for slot, j in enumerate(parents)):
                self.stateful.add(i)

    def hands_back(self, i, slots=None):
        """Whether what node i gives to its inputs (or those in `slots`) can reach an earlier step."""
        return any((i, slot) in self.carries or self.parents[i][slot] in self.stateful and self.where[self.parents[i][slot]] == self.where[i]
                   for slot in (range(len(self.parents[i])) if slots is None else slots))

    def _output(self, j):
        return self.nodes[j].saved if self.nodes[j].plan is PICK else None

    def _argument(self, i, slot):
        args = self.call[i].args
        return array(args[slot]) if slot < len(args) else None

    def _made(self, call, output=None):
        y = call.y
        return array(y if output is None else y[output])

    def elsewhere(self, seed=0):
        """The same loss and data with other parameters: nothing small, zero or symmetric."""
        rng = np.random.default_rng(seed)
        draw = lambda leaf: redrawn(leaf, rng)
        return Unrolled(self.function, trees.map(draw, self.params), self.data, self.wanted)

    # ---- what a person calls things -------------------------------------------------------------------------

    @property
    def T(self):
        """The number of steps of the longest scan, 0 without one."""
        return max((len(times) for times in self.times), default=0)

    def time(self, i):
        """The time index of a node, None outside of scans."""
        return None if self.call[i] is None else self.call[i].time

    def roots(self, i, within=None):
        """The names of the parameters that a value is made of, within its own step."""
        run, position = self.where[i]
        seen, pending, found = {i}, [i], set()
        leaf = {index: name for name, index in self.names.items()}
        while pending:
            k = pending.pop()
            if k in leaf:
                found.add(leaf[k])
                continue
            for slot, j in enumerate(self.parents[k]):
                if j is not None and j not in seen and (k, slot) not in self.carries and self.where[j] in ((run, position), (None, None)):
                    seen.add(j)
                    pending.append(j)
        return [name for name in self.names if name in found and name not in self.wanted]

    def label(self, i):
        """A node in words: its op and the parameters behind it."""
        call, names = self.call[i], self.roots(i)
        if call is None:
            return str(self.nodes[i].plan)
        same = len({s for s in self.sites if s[0] == call.run and s[1] == call.op.name})
        number = f" no. {call.nth + 1}" if same > 1 else ""
        return f"{call.op.name}{number}" + (f" ({', '.join(names)})" if 0 < len(names) < 5 else "")

    def downstream(self, name):
        """The nodes that depend on a tensor."""
        if not hasattr(self, "_downstream"):
            self._downstream = {}
        if name not in self._downstream:
            found = {self.names[name]}
            for i, parents in enumerate(self.parents):
                if any(j in found for j in parents if j is not None):
                    found.add(i)
            self._downstream[name] = found
        return self._downstream[name]

    # ---- walking back ---------------------------------------------------------------------------------------

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


def _sources(op, tracked):
    """What the rules of an op's tracked inputs ask for, in the order in which a node saves it."""
    inputs = [op.arrays[slot] if slot < len(op.arrays) else op.variadic for slot in tracked]
    asked = [p for name in dict.fromkeys(inputs) if op.rules.get(name) for p in inspect.signature(op.rules[name]).parameters]
    return [p if p == "y" else op.arrays.index(p) if p in op.arrays else None for p in dict.fromkeys(asked) if p not in ("g", "into")]


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
