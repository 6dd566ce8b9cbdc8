"""Mistakes in what is handed back in time: a carry lost, cut, replaced; errors of the wrong step.

Knows the edges between steps and the values with several users. Refuses to know what one call's rule says: `bugs_rules` does.
Below it: breakage, diagnose_graph.
"""

from collections import defaultdict
from functools import partial

import numpy as np

from ..primitive import PICK
from .breakage import (
    ACTIVATIONS,
    CARRY,
    CLIPPED,
    CUT,
    DOUBLE,
    LAST_ERROR,
    MISSING,
    PATH,
    REPLACED,
    SCALED,
    SHIFTED_ERROR,
    SHORT,
    SIGN,
    STATE,
    SUMMED,
    TWICE,
    Breakage,
    both,
    dropped,
    edited,
    resaved,
)
from .diagnose_record import array


def of_carries(graph):
    """The cotangent of the state: lost, cut, scaled, clipped on its way from one step to the step before."""
    if not graph.carries:
        return
    leaves = defaultdict(list)
    for i, slot in graph.carries:
        j = graph.parents[i][slot]
        key = "initial" if graph.where[j][0] is None else (graph.call[j].site, graph._output(j))
        leaves[key].append((i, slot))
    initial = leaves.pop("initial", [])
    groups = {"the state": [edge for edges in leaves.values() for edge in edges]}
    if len(leaves) > 1:
        for (site, _), edges in leaves.items():
            groups[f"the state that {site[1]} no. {site[2] + 1} makes"] = edges
    for words, edges in groups.items():
        yield Breakage(CARRY, words, f"the cotangent of {words} is not handed back from step t to step t−1", _drops(edges), 0)
        readers = {(graph.call[i].site, slot) for i, slot in edges}
        first = [(i, slot) for i, slot in initial if (graph.call[i].site, slot) in readers]
        if first:
            yield Breakage(CARRY, words, f"the cotangent of {words} is not handed back in time, not even to the initial state", _drops(edges + first), 1)
        for factor, kind, name in ((2.0, DOUBLE, "counted twice"), (-1.0, SIGN, "of the wrong sign"), (0.5, SCALED, "halved")):
            yield Breakage(kind, words, f"what is handed back to {words} is {name}", _edits(edges + first, lambda part, g, c=factor: c * part), 2)
        back = frozenset(edges + first) if len(groups) > 1 and words != "the state" else frozenset(graph.carries)
        for bound in (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0):
            yield Breakage(CLIPPED, words, f"what is handed back to {words} is clipped to ±{bound:g} inside the loop", {}, 2,
                           handed=(lambda g, c=bound: np.clip(g, -c, c), back))
    T, edges = graph.T, groups["the state"]
    entry = {(graph.call[i].site, slot): graph.parents[i][slot] for i, slot in initial}
    for k in range(1, T - 1):
        last = [(i, slot) for i, slot in edges if graph.where[i][1] == T - 1 - k]
        yield Breakage(CUT, "the state", f"the carry is cut: nothing passes from the last {k + 1} steps to those before (k = {k})", _drops(last), 1)
        absent = {i: dropped(range(len(graph.parents[i]))) for i, (run, p) in enumerate(graph.where) if run is not None and p < T - 1 - k}
        yield Breakage(CUT, "the state", f"the loop over time stops: only the last {k + 1} steps are visited (k = {k})", absent, 2)
        ends = {edge: entry[key] for edge in last if (key := (graph.call[edge[0]].site, edge[1])) in entry}
        if ends:
            yield Breakage(CUT, "the state", f"the loop over time stops: only the last {k + 1} steps are visited (k = {k}), and what they hand back is "
                           "taken for the initial state's gradient", absent, 2, reroute=ends)
        if k <= 10 or T <= 12:  # each takes a walk for every step
            yield Breakage(CUT, "the state", f"the error of each step is carried back over {k} steps and no further (a sliding window, k = {k})", {},
                           2 if k <= 3 else 3, window=k)
    for words, part in groups.items() if len(groups) > 1 else ():
        for k in range(1, T - 1) if words != "the state" else ():
            yield Breakage(CUT, words, f"what is handed back to {words} is cut: nothing passes from the last {k + 1} steps to those before (k = {k})",
                           _drops((i, slot) for i, slot in part if graph.where[i][1] == T - 1 - k), 2)
    for size in range(2, T):
        chunk = [(i, slot) for i, slot in edges if graph.where[i][1] % size == 0]
        yield Breakage(CUT, "the state", f"the carry is cut between chunks of {size} steps", _drops(chunk), 2)
        offset = [(i, slot) for i, slot in edges if (T - graph.where[i][1]) % size == 0]
        yield Breakage(CUT, "the state", f"the carry is cut between chunks of {size} steps, counted from the end", _drops(offset), 3)


def _drops(edges):
    table = defaultdict(list)
    for i, slot in edges:
        table[i].append(slot)
    return {i: dropped(slots) for i, slots in table.items()}


def _edits(edges, f):
    table = {}
    for i, slot in edges:
        one = edited(slot, f)
        table[i] = one if i not in table else partial(both, table[i], one)
    return table


def of_consumers(graph):
    """Values that several calls use: one of their contributions lost, or writing over the others."""
    classes = defaultdict(lambda: defaultdict(dict))
    for i, parents in enumerate(graph.parents):
        if graph.call[i] is None:
            continue
        for slot, j in enumerate(parents):
            if j is None or graph.call[j] is None or graph.where[j][0] is None:
                continue
            crosses = (i, slot) in graph.carries
            inside = graph.where[i][0] == graph.where[j][0]
            consumer = (graph.call[i].site, slot if inside else 0, crosses)
            classes[graph.call[j].site, graph._output(j)][consumer][graph.where[j][1]] = (i, slot)
    for (site, _), users in classes.items():
        if len(users) < 2 and next(iter(users.values())):
            (_, _, crosses), edges = next(iter(users.items()))
            if len(edges) > 1 or crosses:
                continue
        label = graph.label(next(iter(graph.sites[site].values())))
        back = [table for (_, _, crosses), table in users.items() if crosses]
        if len(back) > 1:
            present = set().union(*back)
            losers = [edge for (_, _, crosses), table in users.items() if not crosses for p, edge in table.items() if p in present]
            if losers:
                yield Breakage(REPLACED, label, f"what the next step hands back to {label} replaces the error that enters here, it is not added to it",
                               _drops(losers), 0)
        for (user, slot, crosses), edges in users.items():
            if len(users) > 1:
                words = graph.label(next(iter(edges.values()))[0])
                back = "the next step's " if crosses else ""
                kind, lost = CARRY if crosses else PATH, list(edges.values())
                yield Breakage(kind, label, f"what {back}{words} hands back to {label} is lost", _drops(lost), 2 if not crosses else 1)
                start = graph.sites[user].get(0)
                if crosses and (start, slot) in graph.carries and (start, slot) not in lost:
                    yield Breakage(kind, label, f"what {back}{words} hands back to {label} and to the initial state is lost", _drops([*lost, (start, slot)]), 1)
                losers = [edge for other, table in users.items() if other != (user, slot, crosses) for p, edge in table.items() if p in edges]
                kept = [p for table in users.values() for p in table if p not in edges]
                if losers and kept:
                    yield Breakage(REPLACED, label, f"what {back}{words} hands back to {label} replaces the other contributions, it is not added to them",
                                   _drops(losers), 0 if crosses else 2)


def of_uses(graph):
    """A parameter that is used in several places: one of its contributions lost."""
    for name, j in graph.names.items():
        uses = defaultdict(list)
        for i, parents in enumerate(graph.parents):
            for slot, parent in enumerate(parents):
                if parent == j and graph.call[i] is not None:
                    uses[graph.call[i].site, slot].append((i, slot))
        for edges in uses.values() if len(uses) > 1 else ():
            yield Breakage(PATH, name, f"what {graph.label(edges[0][0])} hands to {name} is lost", _drops(edges), 1)


def of_entries(graph):
    """An activation's derivative missing, or once too often, in the error that enters at a step or in what the next step hands back."""
    for (run, name, _), nodes in graph.sites.items():
        if run is None or name not in ACTIVATIONS:
            continue
        ends = {True: [], False: []}
        for i, parents in enumerate(graph.parents):
            for slot, j in enumerate(parents):
                if j in nodes.values():
                    ends[(i, slot) in graph.carries].append((i, slot))
        if not (ends[True] and ends[False]):
            continue
        label = graph.label(nodes[max(nodes)])
        with np.errstate(all="ignore"):
            slope = {j: graph.pull(j, np.ones(graph.nodes[j].shape))[0][1] for j in nodes.values()}
            for crosses, words in ((False, "the error that enters at each step"), (True, "what the next step hands back")):
                for kind, what, power in ((MISSING, "is not multiplied into", -1), (TWICE, "is multiplied twice into", 1)):
                    table = defaultdict(list)
                    for i, slot in ends[crosses]:
                        table[i].append((slot, slope[graph.parents[i][slot]] ** power))
                    yield Breakage(kind, label, f"the derivative of {label} {what} {words} (and rightly into the rest)",
                                   {i: partial(_times, dict(rows)) for i, rows in table.items()}, 2)


def _times(factors, pull, g, saved=None):
    return [(slot, part * factors[slot] if slot in factors else part) for slot, part in pull(g, saved)]


def of_errors(graph):
    """The error that enters at each step: of the last or the first step alone, or of a neighbour."""
    for i, node in enumerate(graph.nodes):
        call = graph.call[i]
        if call is None or node.plan is PICK or call.op.name != "stack" or graph.where[i][0] is not None:
            continue
        n = len(graph.parents[i])
        if n < 2 or any(j is None or graph.where[j][0] is None for j in graph.parents[i]):
            continue
        yield from _error_steps(graph, i, {})
    for i, node in enumerate(graph.nodes):  # the same where outputs of all steps are one array
        shape = node.shape
        if graph.call[i] is not None and graph.where[i][0] is None and i not in graph.before and node.plan is not PICK and shape and shape[0] == graph.T > 1:
            yield from _error_steps(graph, i, None)
    if graph.states:
        yield from _summed_states(graph)


def _error_steps(graph, i, slots):
    """The cotangent of node i, whose steps are its inputs (`slots`) or lie along its first axis, kept for one step or moved by one."""
    n = len(graph.parents[i]) if slots is not None else graph.nodes[i].shape[0]
    forms = [("the error of the last step alone enters, those of the other steps are lost", LAST_ERROR, 1, lambda t: t if t == n - 1 else None),
             ("the error of the first step alone enters, those of the other steps are lost", LAST_ERROR, 3, lambda t: t if t == 0 else None),
             ("the error of the first step (t = 0) does not enter: the loop ends before it", SHORT, 1, lambda t: t if t > 0 else None),
             ("the error of the last step does not enter: the loop starts after it", SHORT, 1, lambda t: t if t < n - 1 else None)]
    for shift, words in ((1, "the next"), (-1, "the previous")):
        forms += [(f"the error of {words} step is used at step t", SHIFTED_ERROR, 2, lambda t, s=shift: t + s if 0 <= t + s < n else None),
                  (f"the error of {words} step is used at step t, wrapping around at the end", SHIFTED_ERROR, 2, lambda t, s=shift: (t + s) % n)]
    for what, kind, rank, source in forms:
        move = partial(_moved if slots is not None else _moved_along, [source(t) for t in range(n)])
        yield Breakage(kind, f"outputs ({graph.label(i)})", what, {i: move}, rank)


def _moved_along(sources, pull, g, saved=None):
    return pull(np.stack([np.zeros_like(g[0]) if t is None else g[t] for t in sources]), saved)


def _moved(sources, pull, g, saved=None):
    parts = dict(pull(g, saved))
    return [(slot, np.zeros_like(parts[slot]) if t is None else parts[t]) for slot, t in enumerate(sources)]


def _summed_states(graph):
    """Outside of the scan, another step's state where the final one belongs, or the sum of all."""
    for i, call in enumerate(graph.call):
        if call is None or graph.where[i][0] is not None:
            continue
        for source in graph.sources[i]:
            if not isinstance(source, int):
                continue
            for states in graph.states.values():
                if states[0] is not None and array(call.args[source]) is states[-1]:
                    label = graph.label(i)
                    yield Breakage(SUMMED, label, f"{label} uses the sum of the states of all steps, where only the last one belongs",
                                   resaved(graph, source, {i: np.sum(states[1:], axis=0)}), 2)
                    yield Breakage(STATE, label, f"{label} uses the state of one step too early", resaved(graph, source, {i: states[-2]}), 1)
                    yield Breakage(STATE, label, f"{label} uses the initial state in place of the last one", resaved(graph, source, {i: states[0]}), 2)
