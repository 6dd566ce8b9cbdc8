"""Forward passes that somebody might have differentiated in place of the right one.

Knows other things that a call of the loss could have computed: another weight in its place, no bias, an array that broadcasts
where two of one shape belong. Refuses to know gradients: the engine differentiates what comes out. Below it: diagnose_graph.
"""

import numpy as np

from ..ops import expand_dims
from .diagnose_record import array

BROADCAST = "broadcasting in the loss"
ANOTHER_WEIGHT = "another weight in the forward pass"
ANOTHER_ACTIVATION = "another activation in the forward pass"
NO_BIAS = "bias left out of the forward pass"
ZERO_START = "initial state taken for zero"


def forwards(graph, broadcast_only=False):
    """(kind, words, {place of a call: what is computed there})."""
    yield from _broadcast(graph)
    if not broadcast_only:
        yield from _weights(graph)
        yield from _elementwise(graph)


def _broadcast(graph):
    for n, call in enumerate(graph.calls):
        if call.op.name != "subtract" or call.run is not None or call.node not in graph.index:
            continue
        shape = np.shape(array(call.y))
        if [np.shape(array(a)) for a in call.args] != [shape, shape]:
            continue
        for axis in range(len(shape)):
            def spread(a, b, fresh=None, axis=axis, call=call):
                return call.op(expand_dims(a, axis + 1), expand_dims(b, axis))

            yield (BROADCAST, f"two arrays of shape {shape} are subtracted as if one were a column: the difference has the shape "
                   f"{shape[:axis + 1] + shape[axis:]}, every prediction is compared with every target along axis {axis}", {n: spread})


def _inside(graph):
    """Sites inside of scans: their calls' places in the recording."""
    rows = {}
    for n, call in enumerate(graph.calls):
        if call.node in graph.index:
            rows.setdefault((call.site, call.run is None), []).append(n)
    return rows.values()


def _weights(graph):
    for places in _inside(graph):
        call = graph.calls[places[0]]
        if call.op.name not in ("matmul", "multiply", "add"):
            continue
        for slot, arg in enumerate(call.args):
            own = next((name for name, t in graph.inputs.items() if t is arg), None)
            if own is None:
                continue
            for other in graph.inputs:
                if other == own:
                    continue

                def swapped(*args, fresh, slot=slot, other=other, call=call):
                    y = call.op(*args[:slot], fresh[other], *args[slot + 1:])
                    return y + np.zeros(np.shape(array(call.y)))

                yield ANOTHER_WEIGHT, f"the forward pass uses {other} where {own} belongs ({call.op.name})", dict.fromkeys(places, swapped)


def _elementwise(graph):
    activations = {c.op.name: c.op for c in graph.calls} | {}
    from ..ops import relu, sigmoid, tanh
    activations = {"tanh": tanh, "sigmoid": sigmoid, "relu": relu}
    for places in _inside(graph):
        call = graph.calls[places[0]]
        if call.op.name in activations:
            for name, f in {**activations, "nothing": lambda x: x * 1.0}.items():
                if name != call.op.name:
                    yield (ANOTHER_ACTIVATION, f"the forward pass has {name} where {call.op.name} belongs",
                           dict.fromkeys(places, lambda x, fresh=None, f=f: f(x)))
        if call.op.name == "add":
            for slot, arg in enumerate(call.args):
                own = next((name for name, t in graph.inputs.items() if t is arg), None)
                if own is not None:
                    def without(*args, fresh=None, slot=slot, call=call):
                        return args[1 - slot] * 1.0 + np.zeros(np.shape(array(call.y)))

                    yield NO_BIAS, f"the forward pass does not add {own}", dict.fromkeys(places, without)
