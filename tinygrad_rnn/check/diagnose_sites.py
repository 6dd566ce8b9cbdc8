"""A loss unrolled: every op call with its time step, its site, and what it is called.

Knows how to run a loss once under a recorder, which calls of different steps are the same line of the cell (a *site*: the
n-th call of an op in the cell's body), which edges carry state from one step to another, and what to call a node in words.
Refuses to know derivatives: `diagnose_graph` walks back. Below it: diagnose_record, walk, tensor, trees.
"""

import inspect
from collections import defaultdict
from typing import Any

from .. import trees
from ..errors import GradientError, message
from ..primitive import PICK
from ..tensor import Tensor, switched, tensor
from ..walk import reachable
from .diagnose_record import Watcher, array, is_float


class Sites:
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

    # ---- what a person calls things -------------------------------------------------------------------------

    @property
    def T(self):
        """The number of steps of the longest scan, 0 without one."""
        return len(self.clock)

    @property
    def clock(self):
        """The time indices of the longest scan in the order in which they ran."""
        return max(self.times, key=len, default=[])

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


def _sources(op, tracked):
    """What the rules of an op's tracked inputs ask for, in the order in which a node saves it."""
    inputs = [op.arrays[slot] if slot < len(op.arrays) else op.variadic for slot in tracked]
    asked = [p for name in dict.fromkeys(inputs) if op.rules.get(name) for p in inspect.signature(op.rules[name]).parameters]
    return [p if p == "y" else op.arrays.index(p) if p in op.arrays else None for p in dict.fromkeys(asked) if p not in ("g", "into")]
