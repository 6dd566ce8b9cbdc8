"""A breakage: one mistake at one place of a right derivation, and what the gradients become by it.

Knows the kinds of mistakes by name, how a call's rule is replaced by a wrong one, and how several breakages are walked back at
once. Refuses to know where mistakes can be made: `bugs` finds the places. Below it: diagnose_graph.

A breakage has a scope: "all" spoils whatever flows through its place; "local" only what enters the parameters at that
step, while the cotangent that is handed back in time is right; "carry" the other way round.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import partial

from .diagnose_graph import Misfit, without

MISSING = "activation derivative missing"
TWICE = "activation derivative applied twice"
PRE = "activation derivative taken of the pre-activation"
AGAIN = "activation derivative taken of the output as if it were the pre-activation"
PREVIOUS = "activation derivative taken of the previous step (t−1)"
NEXT = "activation derivative taken of the next step (t+1)"
OTHER = "derivative of another activation"
VALUE = "derivative taken of another value"
TRANSPOSE = "transpose missing"
STATE = "time index of the state off by one"
INPUT = "time index of the input off by one"
INDEX = "time index off by one"
WRAP = "wrap-around at t = 0"
START = "initial state taken for zero"
CARRY = "carry not propagated"
REPLACED = "carry replaced instead of added"
CUT = "carry cut after k steps"
CLIPPED = "clipping left on"
INITIAL = "initial state's gradient lost"
PATH = "a path of the gradient is missing"
FACTOR = "factor of a product missing"
OPERAND = "wrong factor in a product"
LAYER = "a layer's weights missing from the chain"
WEIGHT = "another weight in its place"
SIGN = "sign"
SCALED = "loss factor"
DOUBLE = "counted twice"
BIAS = "bias not summed over the batch"
LAST_ERROR = "error of the last step only"
SHIFTED_ERROR = "time index of the error off by one"
GATES = "gates swapped"
TARGET = "target not subtracted"
SOFTMAX = "softmax and cross-entropy"
SUMMED = "summed over all steps where only the last one counts"
PIECE = "another part of a concatenation"
REPEATED = "repeated entries not added up"
ACCUMULATED = "accumulators not reset"
LAST = "gradient of the last step only"
FIRST = "gradient of the first step only"
SHORT = "a step is left out of the sum over time"


ACTIVATIONS = {"tanh", "sigmoid", "relu", "softplus"}


@dataclass(frozen=True, eq=False)
class Breakage:
    """One mistake at one place. `hooks` maps nodes to stand-ins for their rules; `rank` orders mistakes by how common they are."""

    kind: str
    place: str
    what: str
    hooks: dict
    rank: int = 2
    scope: str = "all"
    order: tuple = ()
    exchange: dict = field(default_factory=dict)
    window: int = 0
    touches: tuple = ()  # the inputs whose gradients it spoils, if not all
    form: tuple = ()  # what it has in common with the same mistake at other places
    handed: tuple = ()  # a function that stands in for what a state gets back, and the edges over which it gets it
    reroute: dict = field(default_factory=dict)  # edges that end at another node
    reads: tuple = ()  # the value that is read wrongly, and how

    def scoped(self, scope):
        return replace(self, scope=scope, rank=self.rank + (1 if scope == "local" else 2))


SCOPES = {"all": "", "local": " where it enters the parameters, not in what is handed back in time", "carry": " in what is handed back in time, nowhere else"}


def broken(graph, breakages):
    """The gradients of the loss under these breakages, by name; None where they cannot be written that way."""
    try:
        windows = [b.window for b in breakages if b.window]
        local = [b for b in breakages if b.exchange and b.scope == "local"]
        if local:
            return _overridden(graph, [b for b in breakages if b not in local], local)
        return _windowed(graph, breakages, windows[0]) if windows else _run(graph, breakages)
    except (Misfit, ValueError, IndexError):
        return None


def options(breakages):
    """`Unrolled.backward`'s arguments for these breakages."""
    hooks = [b.hooks for b in breakages if b.scope != "carry"]
    carry = [b.hooks for b in breakages if b.scope != "local"] if any(b.scope != "all" for b in breakages) else None
    order = next((b.order for b in breakages if b.order), None)
    exchange = {k: v for b in breakages for k, v in b.exchange.items()}
    handed = next((b.handed for b in breakages if b.handed), None)
    reroute = {k: v for b in breakages for k, v in b.reroute.items()}
    return {"hooks": hooks, "carry_hooks": carry, "order": order, "exchange": exchange, "handed": handed, "reroute": reroute}


def _run(graph, breakages, extra=()):
    given = options(breakages)
    given["hooks"] = [*given["hooks"], *extra]
    if given["carry_hooks"] is not None:
        given["carry_hooks"] = [*given["carry_hooks"], *extra]
    return graph.backward(**given)


def _overridden(graph, rest, local):
    """Cotangents that change places on their way into the parameters, and nowhere else."""
    _run(graph, rest)
    right = graph.cotangents
    given = options(rest)
    if given["carry_hooks"] is None:
        given["carry_hooks"] = given["hooks"]
    return graph.backward(**given, override={i: right[j] for b in local for i, j in b.exchange.items() if right[j] is not None})


def _windowed(graph, breakages, k):
    """Every error carried back over k transitions and no further: one pass for each step's error."""
    entries = [(i, slot) for i, parents in enumerate(graph.parents) for slot, j in enumerate(parents)
               if j is not None and graph.where[i][0] is None and graph.where[j][0] is not None]
    rest = [b for b in breakages if not b.window]

    def only(position):
        mask = defaultdict(list)
        for i, slot in entries:
            if graph.where[graph.parents[i][slot]][1] != position:
                mask[i].append(slot)
        cut = defaultdict(list)
        for i, slot in graph.carries:
            if position is not None and graph.where[i][1] == position - k:
                cut[i].append(slot)
        return [{i: partial(without, slots) for i, slots in table.items()} for table in (mask, cut)]

    outside = _run(graph, rest, only(None))
    total = dict(outside)
    for position in range(graph.T):
        part = _run(graph, rest, only(position))
        total = {name: total[name] + part[name] - outside[name] for name in total}
    return total


# ---- making hooks -------------------------------------------------------------------------------------------


def edited(slot, f):
    def hook(pull, g, saved=None):
        return [(s, f(part, g) if s == slot and part is not None else part) for s, part in pull(g, saved)]

    return hook


def resaved(graph, source, values):
    """Another value in the place of a saved one: `values` by node. The first step may keep less, its state being a constant."""
    table = {}
    for i, value in values.items():
        if source in graph.sources[i]:
            table[i] = partial(_with_value, graph.nodes[i], graph.sources[i].index(source), value)
    return table


def _with_value(node, k, value, pull, g, saved=None):
    saved = node.saved if saved is None else saved
    return pull(g, (*saved[:k], value, *saved[k + 1:]))


def instead(f):
    return lambda pull, g, saved=None: f(pull, g, saved)


def dropped(slots):
    return partial(without, tuple(slots))


def both(first, second, pull, g, saved=None):
    """Two hooks of one node, one after the other."""
    return second(partial(first, pull), g, saved)
