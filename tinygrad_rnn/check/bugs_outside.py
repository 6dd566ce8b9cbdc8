"""Mistakes outside of the loop over time: with values of all steps at once, and with rows that were looked up in a table.

Knows the calls that see a whole sequence, an output layer for all steps, say. By hand they are loops too, in which an index slips
or a sum is overwritten. Refuses to know what happens inside of a scan. Below it: bugs_shifts, breakage, diagnose_graph.
"""

from functools import partial

import numpy as np

from ..primitive import PICK
from ..tensor import Tensor
from .breakage import ACCUMULATED, FIRST, INDEX, INPUT, LAST, NEXT, PREVIOUS, REPEATED, SHORT, STATE, Breakage, instead, resaved
from .bugs_shifts import function_of_states, places_of, trajectory, users
from .diagnose_record import array


def of_sequences(graph):
    """For every call outside of the scan with a time axis in front."""
    T = graph.T
    for i, call in enumerate(graph.call):
        if T < 2 or call is None or graph.where[i][0] is not None or graph.nodes[i].plan is PICK:
            continue
        shape = graph.nodes[i].shape
        if shape[:1] == (T,) and i not in graph.before:
            yield from _shifted(graph, i, T)
            yield from _overwritten(graph, i, T)


def _shifted(graph, i, T):
    """The outputs of all steps, read one step too early or too late."""
    label = graph.label(i)
    for source in graph.sources[i]:
        if not isinstance(source, int):
            continue
        own = array(graph.call[i].args[source])
        row = _steps(graph, i, own, T)
        if row is None:
            continue
        states, start = trajectory(graph, row)
        if states is None:
            calls = _makers(graph, row)
            states, start = function_of_states(graph, calls, row) if None not in calls else (None, 0)
        pool, kinds = (states, (STATE, STATE)) if states else (row, (INDEX, INDEX))
        touches = users(graph, i, source)
        names = ", ".join(graph.roots(graph.parents[i][touches[0]])) if len(touches) == 1 else ""
        purpose = f"the gradient of {names} is formed with" if names else f"{label} is derived with"
        for kind, what, places in places_of(T, start, kinds, bool(states)):
            if all(place is None or pool[place] is not None for place in places):
                value = np.stack([np.zeros_like(row[p]) if place is None else pool[place] for p, place in enumerate(places)])
                yield Breakage(kind, label, f"{purpose} {what}", resaved(graph, source, {i: value}), 0 if "," not in what else 1, touches=touches)


def _steps(graph, i, own, T):
    """The T arrays that an array was stacked of."""
    made = next((c for c in graph.calls if c.op.name == "stack" and array(c.y) is own), None)
    return [array(part) for part in made.args] if made is not None and len(made.args) == T and made.statics.get("axis", 0) == 0 else None


def _makers(graph, row):
    made = {id(array(c.y)): c for c in graph.calls if c.time is not None and not isinstance(c.y, tuple)}
    return [made.get(id(value)) for value in row]


def _overwritten(graph, i, T):
    """What the call hands to a parameter, summed over the wrong steps."""
    steps = np.arange(T)
    forms = [(FIRST, "only what the first step contributes is returned: each step overwrites the one before it in the loop", steps == 0, 1),
             (LAST, "only what the last step contributes is returned: the steps are not summed", steps == T - 1, 1),
             (SHORT, "what the first step (t = 0) contributes is left out of the sum", steps > 0, 2),
             (SHORT, "what the last step contributes is left out of the sum", steps < T - 1, 2),
             (ACCUMULATED, "a running sum is added up again at every step: accumulators are not reset", steps + 1, 2),
             (ACCUMULATED, "a running sum is added up again at every step (from the first on): accumulators are not reset", T - steps, 2)]
    for slot, j in enumerate(graph.parents[i]):
        if j is None or j not in graph.before or graph.nodes[j].shape[:1] == (T,) and len(graph.nodes[j].shape) == len(graph.nodes[i].shape):
            continue
        for kind, what, weights, rank in forms:
            yield Breakage(kind, graph.label(i), f"{what} ({', '.join(graph.roots(j))})", {i: partial(_weighted, slot, weights)}, rank, touches=(slot,))


def _weighted(slot, weights, pull, g, saved=None):
    other = dict(pull(g * weights.reshape(-1, *(1,) * (g.ndim - 1)), saved))
    return [(s, other[s] if s == slot else part) for s, part in pull(g, saved)]


def of_continued(graph):
    """A step that is written out after the scan: by hand it is one more step of the loop, and an index slips there too."""
    outside = [i for i, call in enumerate(graph.call) if call is not None and graph.where[i][0] is None]
    for (run, name, _), nodes in graph.sites.items():
        if run is None:
            continue
        last = nodes[max(nodes)]
        call, calls = graph.call[last], graph.called[graph.call[last].site]
        T = len(calls)
        after = [i for i in outside if i > last]
        own = [i for i in after if graph.call[i].op.name == name and graph.nodes[i].shape == graph.nodes[last].shape
               and (len(call.args) == 1 or any(a is b and isinstance(a, Tensor) for a, b in zip(call.args, graph.call[i].args)))]
        if len(own) != 1 or T < 2 or sorted(calls) != list(range(T)):
            continue
        more = graph.call[own[0]]
        results = [array(graph.call[i].y) for i in after if not isinstance(graph.call[i].y, tuple) and i >= own[0]]
        for source in graph.sources[last]:
            if source not in graph.sources[own[0]] or source is None:
                continue
            row = [array(c.y) if source == "y" else array(c.args[source]) for c in (*(calls[p] for p in range(T)), more)]
            states, start = trajectory(graph, row[:-1])
            if states is None:
                pools, kinds = [row], (INPUT, INPUT)
            elif start == 0:
                pools, kinds = [[*states, y] for y in results if y.shape == row[-1].shape], (STATE, STATE)
            else:
                pools, kinds = [[*states, row[-1]]], (PREVIOUS, NEXT) if len(call.op.arrays) == 1 else (STATE, STATE)
            if states is not None and start == 0 and states[-1] is not row[-1]:
                continue
            touches = users(graph, last, source)
            for pool in pools:
                for kind, what, places in places_of(T + 1, start, kinds, states is not None):
                    values = [np.zeros_like(row[p]) if place is None else pool[place] for p, place in enumerate(places)]
                    if all(v is not None and v.shape == r.shape for v, r in zip(values, row)):
                        hooks = resaved(graph, source, {i: values[p] for p, i in [*nodes.items(), (T, own[0])]})
                        yield Breakage(kind, graph.label(last), f"{graph.label(last)}, in the loop and in the step after it, is derived with {what}", hooks, 2,
                                       touches=touches)


# ---- rows of a table ----------------------------------------------------------------------------------------


def of_tables(graph, nodes):
    """Rows that are looked up by an index array, an embedding: entries that occur twice, rows of another step."""
    first = nodes[max(nodes)]
    call, parent = graph.call[first], graph.parents[first][0]
    if len(call.args) != 2 or parent is None or array(call.args[1]).dtype.kind not in "iu" or len(call.statics["index"]) != 1:
        return
    label, shape = graph.label(first), graph.nodes[parent].shape
    where = {p: array(graph.call[i].args[1]) for p, i in nodes.items()}
    yield Breakage(REPEATED, label, f"{label}: where a row is looked up twice at once, the last contribution stands for the sum (d[i] += g "
                   "does not add up repeated i; np.add.at does)", {i: _put(_assigned, where[p], shape) for p, i in nodes.items()}, 1)
    T = graph.T if graph.where[first][0] is None else 0
    index = where[max(nodes)]
    if T > 1 and index.ndim > 1 and index.shape[0] == T:
        i = first
        yield Breakage(REPEATED, label, f"{label}: where a row is looked up twice in one step, the last contribution stands for the sum (d[i] += g does not "
                       "add up repeated i; np.add.at does)", {i: _put(_assigned_by_step, index, shape)}, 1)
    if T > 1 and index.shape[0] == T:
        yield Breakage(REPEATED, label, f"{label}: each step writes over what was there, it is not added up",
                       {first: _put(lambda g, at, into: _assigned(g[::-1], at[::-1], into), index, shape)}, 1)
        for words, moved in (("one step too early (t−1 for t), wrapping at t = 0", np.roll(index, 1, 0)),
                             ("one step too late (t+1 for t), wrapping at t = T−1", np.roll(index, -1, 0)),
                             ("one step too early (t−1 for t), held at the end", np.concatenate([index[:1], index[:-1]])),
                             ("one step too late (t+1 for t), held at the end", np.concatenate([index[1:], index[-1:]]))):
            yield Breakage(INPUT, label, f"the gradient is added to the rows of {words}", {first: _put(_added, moved, shape)}, 1)
    elif len(nodes) == graph.T > 1:
        for words, shift in (("one step too early (t−1 for t), wrapping at t = 0", -1), ("one step too late (t+1 for t), wrapping at t = T−1", 1)):
            yield Breakage(INPUT, label, f"the gradient is added to the rows of {words}",
                           {i: _put(_added, where[(p + shift) % graph.T], shape) for p, i in nodes.items()}, 1)


def _put(how, index, shape):
    return instead(lambda pull, g, saved: [(0, how(g, index, np.zeros(shape, g.dtype)))])


def _added(g, index, into):
    np.add.at(into, index, g)
    return into


def _assigned(g, index, into):
    into[index] = g
    return into


def _assigned_by_step(g, index, into):
    for at, part in zip(index, g):
        into[at] += part
    return into
