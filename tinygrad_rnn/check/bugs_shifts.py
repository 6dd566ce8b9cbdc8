"""Mistakes of one step: a value of step t−1 or t+1, or of something else, where the value of this step belongs.

Knows the states from before the first step on, what a program does where there is no such step (wrap around, take zero, hold),
and what else of the same shape lies about. Refuses to know what the rules do with it. Below it: breakage, diagnose_graph.
"""

import inspect
from collections import defaultdict

import numpy as np

from .breakage import INDEX, INPUT, NEXT, OPERAND, PREVIOUS, START, STATE, TARGET, VALUE, WRAP, Breakage, resaved
from .diagnose_record import array


def shifts(graph, nodes, unary):
    """A saved value of step t−1 or t+1, with what a program may do where there is no such step."""
    if len(nodes) < 1 or graph.where[nodes[max(nodes)]][0] is None:
        return
    last = nodes[max(nodes)]
    label, call = graph.label(last), graph.call[last]
    calls = graph.called[call.site]
    T = len(calls)
    if sorted(calls) != list(range(T)) or T < 2:
        return
    for source in graph.sources[last]:
        if source is None or source == "y" and isinstance(graph.call[last].y, tuple):
            continue
        for kind, what, values in _versions(graph, calls, source, T, unary):
            if all(np.array_equal(values[p], _value(graph.call[i], source)) for p, i in nodes.items()):
                continue
            yield Breakage(kind, label, f"{_purpose(graph, last, source, label)} {what}", resaved(graph, source, {i: values[p] for p, i in nodes.items()}),
                           0 if "wrap" not in what and "zero" not in what and "held" not in what else 1, touches=users(graph, last, source),
                           form=(call.op.name if unary else "", what, graph.hands_back(last, users(graph, last, source))),
                           reads=(id(_value(call, source)), what))


def _versions(graph, calls, source, T, unary):
    row = [_value(calls[p], source) for p in range(T)]
    states, start = trajectory(graph, row)
    if states is None:
        states, start = function_of_states(graph, calls, row)
    kinds = (PREVIOUS, NEXT) if unary else (STATE, STATE) if states else (INPUT, INPUT) if _is_input(graph, calls[T - 1], source) else (INDEX, INDEX)
    for kind, what, places in places_of(T, start, kinds, bool(states)):
        pool = states or row
        if all(place is None or pool[place] is not None for place in places):
            yield kind, what, [np.zeros_like(row[p]) if place is None else pool[place] for p, place in enumerate(places)]
    if states is None and source != "y":
        yield from _concatenated(graph, calls, source, T)


def places_of(T, start, kinds, is_state):
    """(kind, words, which entry for each step); `start` is the entry of step 0: 0 for a state before the step, 1 for one after it."""
    n = T + 1 if is_state else T
    own = [start + p for p in range(T)]
    subject = "the state" if is_state else "its value"
    for shift, when, kind in ((-1, "one step too early (t−1 for t)", kinds[0]), (1, "one step too late (t+1 for t)", kinds[1])):
        moved = [i + shift for i in own]
        edges = [i for i in moved if not 0 <= i < n]
        if not edges:
            yield kind, f"{subject} of {when}", moved
            continue
        ends = {f", wrapping at t = {'0' if shift < 0 else 'T−1'}": [i % n for i in moved],
                ", with zero beyond the end": [i if 0 <= i < n else None for i in moved],
                ", held at the end": [min(max(i, 0), n - 1) for i in moved]}
        if is_state:
            inner = [i if 0 <= i < n else (T - 1 if shift < 0 else 1) for i in moved]
            ends[f", wrapping at t = {'0' if shift < 0 else 'T−1'} past the initial state"] = inner
        yield from ((kind, f"{subject} of {when}{end}", places) for end, places in ends.items())
    if is_state and start == 0:
        yield WRAP, "the last state at t = 0, where the initial one belongs (index −1 wraps around)", [T, *own[1:]]
        yield WRAP, "the last state but one at t = 0, where the initial one belongs (index −1 wraps around)", [T - 1, *own[1:]]
        yield START, "zero at t = 0, where the initial state belongs", [None, *own[1:]]
    if is_state and start == 1:
        yield kinds[0], "the state of one step too early, with zero for the initial one", [None, *(i - 1 for i in own[1:])]
        yield kinds[0], "the state of one step too early, wrapping at t = 0 to the last one", [T, *(i - 1 for i in own[1:])]


def users(graph, i, source):
    """The inputs whose rules ask for a saved value."""
    op = graph.call[i].op
    name = source if source == "y" else op.arrays[source]
    return tuple(slot for slot in graph.places[i] if slot < len(op.arrays) and op.rules.get(op.arrays[slot])
                 and name in inspect.signature(op.rules[op.arrays[slot]]).parameters)


def _purpose(graph, i, source, label):
    """What a saved value is used for, in words."""
    slots = users(graph, i, source)
    names = graph.roots(graph.parents[i][slots[0]]) if len(slots) == 1 else []
    if names and not graph.hands_back(i, slots):
        return f"the gradient of {', '.join(names)} is formed with"
    return f"the derivative of {label} is taken with"


def _value(call, source):
    return array(call.y) if source == "y" else array(call.args[source])


def trajectory(graph, row):
    """If a row of values is a state before or after each step: the states from before the first step on, and where the row starts."""
    for states in graph.states.values():
        if len(states) == len(row) + 1 and states[0] is not None:
            for start in (0, 1):
                if all(states[start + p] is v for p, v in enumerate(row)):
                    return states, start
    return None, 0


def function_of_states(graph, calls, row):
    """As `trajectory`, for a row like tanh(c_t): the function of the states from before the first step on."""
    made = [maker(graph, calls[p], value) for p, value in enumerate(row)]
    if all(m is not None and m.op.elementwise and len(m.op.arrays) == 1 for m in made):
        states, start = trajectory(graph, [array(m.args[0]) for m in made])
        if states is not None and start == 1:
            with np.errstate(all="ignore"):
                return [made[0].op.forward(states[0], **made[0].statics), *row], 1
    return None, 0


def _is_input(graph, call, source):
    """Whether an argument comes from xs alone."""
    if source == "y":
        return False
    made = maker(graph, call, array(call.args[source]))
    while made is not None:
        if made.op.name == "getitem":
            return True
        made = maker(graph, call, array(made.args[0])) if len(made.op.arrays) == 1 else None
    return False


def maker(graph, call, value):
    """The call of the same step that made an array."""
    return next((c for c in graph.steps[call.run, call.position] if not isinstance(c.y, tuple) and array(c.y) is value), None)


def _concatenated(graph, calls, source, T):
    """An operand that is a concatenation, with one of its parts taken from another step."""
    made = [maker(graph, calls[p], _value(calls[p], source)) for p in range(T)]
    if any(m is None or m.op.name != "concatenate" for m in made):
        return
    for part in range(len(made[0].args)):
        row = [array(m.args[part]) for m in made]
        states, start = trajectory(graph, row)
        for kind, what, places in places_of(T, start, (STATE, STATE) if states else (INPUT, INPUT), bool(states)):
            pool = states or row
            yield kind, what, [np.concatenate([(np.zeros_like(row[p]) if place is None else pool[place]) if n == part else array(a)
                                               for n, a in enumerate(made[p].args)], axis=made[p].statics["axis"]) for p, place in enumerate(places)]


def other_values(graph, nodes):
    """Any other value of the same step and shape in the place of a saved one."""
    last = nodes[max(nodes)]
    label, call = graph.label(last), graph.call[last]
    for source in graph.sources[last]:
        if source is None or source == "y" and isinstance(call.y, tuple):
            continue
        own = _value(call, source)
        if own.ndim == 0 and graph.where[last][0] is None:
            continue
        others = _candidates(graph, nodes, source)
        for words, values in others.items():
            target = words.startswith("the prediction")
            kind = VALUE if len(call.op.arrays) == 1 and not target else TARGET if target else OPERAND
            yield Breakage(kind, label, f"{label} uses {words} in place of {'its output' if source == 'y' else 'its factor'}",
                           resaved(graph, source, {nodes[p]: v for p, v in values.items()}), 3, touches=users(graph, last, source))


def _candidates(graph, nodes, source):
    """{words: {position: array}} of values that a site could have used by mistake."""
    found = defaultdict(dict)
    for p, i in nodes.items():
        own = _value(graph.call[i], source)
        seen = {id(own)}
        calls = graph.steps[graph.where[i]]
        outside = graph.where[i][0] is None
        for call in sorted(calls, key=lambda call: call.op.name != "subtract") if outside else calls:
            for n, value in enumerate((*call.args, *(call.y if isinstance(call.y, tuple) else (call.y,)))):
                value = array(value)
                if value.shape != own.shape or value.dtype.kind != "f" or id(value) in seen:
                    continue
                seen.add(id(value))
                if outside and call.op.name == "subtract" and n == 0:
                    words = "the prediction (the target is not subtracted)"
                elif n >= len(call.args):
                    words = f"the output of {call.op.name} no. {call.nth + 1}"
                else:
                    words = f"the input no. {n + 1} of {call.op.name} no. {call.nth + 1}"
                found[words][p] = value
    return {words: values for words, values in found.items() if len(values) == len(nodes)}
