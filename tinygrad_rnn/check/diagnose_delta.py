"""What one more breakage changes: the difference that it makes, carried back from where it begins.

Knows that a backward pass is linear in the cotangent: only what differs from a pass that was walked before has to be walked.
Refuses to know where mistakes can be made. Below it: breakage, diagnose_graph.
"""

from functools import partial

import numpy as np

from ..primitive import PICK
from ..tensor import Leaf
from .breakage import broken, options
from .diagnose_graph import Misfit, chained, fit


class Base:
    """The backward pass of a loss under some breakages, kept, and `under(b)`: the gradients when `b` is broken too."""

    def __init__(self, graph, breakages=()):
        self.graph, self.breakages = graph, list(breakages)
        self.plain = all(_plain(b) and b.scope == "all" for b in self.breakages)
        self.grads = None
        if self.plain:
            self.chains = chained(graph, [b.hooks for b in self.breakages])
            self.handed = [[] for _ in graph.nodes]
            visit = lambda i, slot, part: self.handed[i].append((slot, part))
            try:
                self.grads = graph.backward(**options(self.breakages), visit=visit)
                self.cotangents = graph.cotangents
            except (Misfit, ValueError, IndexError):
                self.plain = False

    def under(self, b):
        """The gradients by name; None where the breakage cannot be written here. Those that stay as they are, are the same arrays."""
        if not (self.plain and _plain(b) and b.scope != "carry"):
            return broken(self.graph, [*self.breakages, b])
        try:
            with np.errstate(all="ignore"):
                change = self._change(b)
        except (Misfit, ValueError, IndexError):
            return None
        return {name: g if change[i] is None else g + change[i] for (name, g), i in zip(self.grads.items(), self.graph.names.values())}

    def _change(self, b):
        graph, hooks = self.graph, b.hooks
        change: list = [None] * len(graph.nodes)
        for i in range(max(hooks, default=-1), -1, -1):
            d, hook, node = change[i], hooks.get(i), graph.nodes[i]
            if d is None and (hook is None or self.cotangents[i] is None) or type(node) is Leaf:
                continue
            if node.plan is PICK:
                parent = graph.parents[i][0]
                if change[parent] is None:
                    change[parent] = [None] * len(node.parents[0].shape)
                change[parent][node.saved] = d
                continue
            pull = self.chains.get(i) or partial(graph.pull, i)
            parts = pull(tuple(d) if type(d) is list else d) if hook is None else self._replaced(i, hook, pull, d)
            for slot, part in parts:
                j = graph.parents[i][slot]
                if j is not None and part is not None and not (b.scope == "local" and (i, slot) in graph.carries):
                    part = fit(part, graph.nodes[j])
                    change[j] = part if change[j] is None else change[j] + part
        return change

    def _replaced(self, i, hook, pull, d):
        """What the hook hands on, less what was handed on before."""
        g = self.cotangents[i]
        if d is not None:
            g = [b if a is None else a if b is None else a + b for a, b in zip(g or [None] * len(d), d)] if type(d) is list else d if g is None else g + d
        parts = [(slot, fit(part, self.graph.nodes[self.graph.parents[i][slot]])) for slot, part in hook(pull, tuple(g) if type(g) is list else g)
                 if part is not None and self.graph.parents[i][slot] is not None]
        return parts + [(slot, -part) for slot, part in self.handed[i]]


def _plain(b):
    return not (b.exchange or b.order or b.window or b.handed or b.reroute)
