"""Mistakes in the rule of one call: a derivative missing or taken of the wrong value, a transpose, a factor, a sum.

Knows what can go wrong at each site of a cell, and what may be mistaken for what there. Refuses to know how cotangents travel
in time: `bugs_time` does. Below it: bugs_shifts, breakage,
diagnose_graph.
"""

from functools import partial

import numpy as np

from .breakage import (
    ACTIVATIONS,
    AGAIN,
    BIAS,
    DOUBLE,
    FACTOR,
    LAYER,
    MISSING,
    OPERAND,
    OTHER,
    PIECE,
    PRE,
    SIGN,
    SOFTMAX,
    TRANSPOSE,
    TWICE,
    VALUE,
    WEIGHT,
    Breakage,
    edited,
    instead,
    resaved,
)
from .bugs_outside import of_tables
from .bugs_shifts import maker, other_values, shifts, users
from .diagnose_graph import fit
from .diagnose_record import array

_OTHERS = {
    "tanh": {"1 − y": lambda y: 1 - y, "1 + y²": lambda y: 1 + y * y, "y (1 − y), that of sigmoid": lambda y: y * (1 - y)},
    "sigmoid": {"1 − y², that of tanh": lambda y: 1 - y * y, "1 − y": lambda y: 1 - y, "y": lambda y: y, "y (1 + y)": lambda y: y * (1 + y)},
    "relu": {"1 for every unit": lambda y: np.ones_like(y)},
    "softplus": {"1 where the input is positive, that of relu": lambda y: 1.0 * (y > np.log(2)),
                 "σ (1 − σ), that of sigmoid": lambda y: np.exp(-y) * -np.expm1(-y)},
}



def of_site(graph, nodes, rare):
    first = next(iter(nodes.values()))
    call = graph.call[first]
    slots = [slot for slot, j in enumerate(graph.parents[first]) if j is not None]
    unary = len(call.op.arrays) == 1 and call.op.elementwise and not call.op.variadic
    if unary and any(source is not None for source in graph.sources[first]):
        yield from _activation(graph, nodes, call)
    if call.op.name in ("log_softmax", "softmax"):
        yield from _softmax(graph, nodes, call)
    if call.op.name == "matmul":
        yield from _matmul(graph, nodes)
    if call.op.name in ("multiply", "divide"):
        for slot in slots:
            yield Breakage(FACTOR, graph.label(first), f"the other factor of {graph.label(first)} is missing", {
                i: edited(slot, lambda part, g: g) for i in nodes.values()}, 1, touches=(slot,))
        yield from _exchanged(graph, nodes, call)
    if call.op.name == "concatenate":
        yield from _pieces(graph, nodes, call)
    if call.op.name == "getitem":
        yield from of_tables(graph, nodes)
    yield from shifts(graph, nodes, unary)
    yield from _unsummed(graph, nodes, call)
    if call.op.name in ("subtract", "negative"):
        yield from _signs(graph, nodes, [s for s in slots if s == len(call.args) - 1], 1)
    if rare:
        yield from other_values(graph, nodes)
        yield from _signs(graph, nodes, slots, 5)
        for slot in slots:
            yield Breakage(DOUBLE, graph.label(first), f"what {graph.label(first)} hands to its input no. {slot + 1} is counted twice",
                           {i: edited(slot, lambda part, g: 2 * part) for i in nodes.values()}, 5, touches=(slot,))
    elif graph.where[first][0] is None:
        yield from other_values(graph, nodes)


def _exchanged(graph, nodes, call):
    """A product whose two factors are each multiplied with themselves on the way back."""
    label, shapes = graph.label(nodes[max(nodes)]), {np.shape(array(a)) for a in call.args}
    both = [i for i in nodes.values() if {0, 1} <= set(graph.sources[i])]
    if call.op.name == "multiply" and len(shapes) == 1 and both:
        def hook(i):
            a, b = graph.sources[i].index(0), graph.sources[i].index(1)
            return instead(lambda pull, g, saved: pull(g, tuple({a: s[b], b: s[a]}.get(k, one) for k, one in enumerate(s)))
                           if (s := graph.nodes[i].saved if saved is None else saved) else None)

        yield Breakage(OPERAND, label, f"the factors of {label} are exchanged: each input gets the cotangent times itself", {i: hook(i) for i in both}, 2)


def _pieces(graph, nodes, call):
    """The cotangent of a concatenation cut in the wrong place: the first rows or columns for the last ones."""
    label, axis = graph.label(nodes[max(nodes)]), call.statics["axis"]
    sizes = [np.shape(array(a))[axis] for a in call.args]
    for slot, n in enumerate(sizes):
        if graph.parents[nodes[max(nodes)]][slot] is None:
            continue
        for words, start in (("first", 0), ("last", sum(sizes) - n)):
            if start != sum(sizes[:slot]):
                def cut(start, n, part, g):
                    return np.take(g, range(start, start + n), axis)

                yield Breakage(PIECE, label, f"input no. {slot + 1} of {label} is handed the {words} {n} entries of the cotangent, not its own",
                               {i: edited(slot, partial(cut, start, n)) for i in nodes.values()}, 2, touches=(slot,))


def _signs(graph, nodes, slots, rank):
    label = graph.label(next(iter(nodes.values())))
    for slot in slots:
        yield Breakage(SIGN, label, f"what {label} hands to its input no. {slot + 1} has the wrong sign",
                       {i: edited(slot, lambda part, g: -part) for i in nodes.values()}, rank)


def _activation(graph, nodes, call):
    name, label = call.op.name, graph.label(next(iter(nodes.values())))
    rank = 0 if name in ACTIVATIONS else 2
    every = nodes.values()
    yield Breakage(MISSING, label, f"the derivative of {label} is missing: the cotangent passes unchanged",
                   {i: edited(0, lambda part, g: g) for i in every}, rank, form=(name,))
    yield Breakage(TWICE, label, f"the derivative of {label} is multiplied in twice",
                   {i: instead(lambda pull, g, saved: pull(pull(g, saved)[0][1], saved)) for i in every}, rank, form=(name,))
    for source in graph.sources[nodes[max(nodes)]]:
        x, y = ({i: array(graph.call[i].args[0]) for i in every}, {i: array(graph.call[i].y) for i in every})
        if source == "y":
            yield Breakage(PRE, label, f"the derivative of {label} is taken of the pre-activation, in place of the activation",
                           resaved(graph, source, x), rank, form=(name,))
            with np.errstate(all="ignore"):
                again = {i: call.op.forward(y[i]) for i in every}
            yield Breakage(AGAIN, label, f"the derivative of {label} is taken at its output: the function is applied twice",
                           resaved(graph, source, again), rank + 1, form=(name,))
        elif source == 0:
            yield Breakage(AGAIN if name in ACTIVATIONS else VALUE, label, f"the derivative of {label} is taken at its output in place of its input",
                           resaved(graph, source, y), rank + 1)
    if name in ACTIVATIONS:
        yield Breakage(SIGN, label, f"what goes back through {label} has the wrong sign", {i: edited(0, lambda part, g: -part) for i in every}, rank + 1,
                       form=(name, "sign"))
    for formula, f in _OTHERS.get(name, {}).items():
        yield Breakage(OTHER, label, f"the derivative of {label} is written {formula}",
                       {i: edited(0, partial(lambda d, part, g: g * d, f(array(graph.call[i].y)))) for i in every}, rank + 1, form=(name, formula))


def _softmax(graph, nodes, call):
    label, every = graph.label(next(iter(nodes.values()))), nodes.values()
    axis = call.statics["axis"]
    p = {i: array(graph.call[i].y) if call.op.name == "softmax" else np.exp(array(graph.call[i].y)) for i in every}

    def jacobian(p, g):
        return p * (g - (g * p).sum(axis=axis, keepdims=True))

    forms = {"the derivative of the softmax is missing: the cotangent passes unchanged": lambda p, part, g: g,
             "the derivative of the softmax is applied once too often (p − y is already the derivative with respect to the logits)":
                 lambda p, part, g: jacobian(p, part),
             "p (1 − p) is multiplied in, as for a sigmoid, on top of the right derivative": lambda p, part, g: part * p * (1 - p),
             "the Jacobian of the softmax is taken for its diagonal p (1 − p) alone":
                 lambda p, part, g: (g / p if call.op.name == "log_softmax" else g) * p * (1 - p),
             "p is used without subtracting the target": lambda p, part, g: -p * g.sum(axis=axis, keepdims=True)}
    for what, f in forms.items():
        yield Breakage(SOFTMAX, label, what, {i: edited(0, partial(f, p[i])) for i in every}, 1)
    if call.op.name == "log_softmax":
        for what, wrong in _not_probabilities(array(call.y).ndim, axis):
            def replaced(x, p, wrong, part, g):
                return part + (p - wrong(x)) * g.sum(axis=axis, keepdims=True)

            yield Breakage(SOFTMAX, label, what, {i: edited(0, partial(replaced, array(graph.call[i].args[0]), p[i], wrong)) for i in every}, 2)


def _not_probabilities(ndim, axis):
    """What may stand in p − y in the place of the probabilities, as functions of the logits."""
    top = lambda x, axis: x - x.max(axis=axis, keepdims=True)
    yield "the logits are used in place of the probabilities", lambda x: x
    yield "the logits, less their maximum, are used in place of the probabilities", lambda x: top(x, axis)
    yield "the logarithms of the probabilities are used in place of the probabilities", lambda x: top(x, axis) - np.log(
        np.exp(top(x, axis)).sum(axis=axis, keepdims=True))
    yield "the softmax is not normalised: exp(z) is used in place of the probabilities", np.exp
    yield "the softmax is not normalised: exp(z − max z) is used in place of the probabilities", lambda x: np.exp(top(x, axis))
    for other in range(-ndim, 0):
        if other % ndim != axis % ndim:
            for words, shifted in (("", other), (f", with the maximum over {axis} subtracted", axis)):
                yield (f"the softmax is taken over axis {other} in place of {axis}{words}",
                       lambda x, other=other, a=shifted: np.exp(top(x, a)) / np.exp(top(x, a)).sum(axis=other, keepdims=True))


def _matmul(graph, nodes):
    last = nodes[max(nodes)]
    label, call = graph.label(last), graph.call[last]
    for source in (s for s in graph.sources[last] if isinstance(s, int)):
        own = array(call.args[source])
        touches = users(graph, last, source)
        for words, transposed in (*_transposes(own.shape), *_of_parts(graph, last, source)):
            values = {i: transposed(array(graph.call[i].args[source])) for i in nodes.values()}
            yield Breakage(TRANSPOSE, label, f"a transpose is missing{words}: {label} hands back the product with the matrix as it is",
                           resaved(graph, source, values), 0, touches=touches, form=(graph.hands_back(last, touches),))
        if graph.parents[last][source] not in graph.before:
            continue
        for name, value in graph.values.items():  # another weight of the same shape
            for form, other in (("", value), ("ᵀ", value.T)):
                if other.shape == own.shape and not np.array_equal(other, own) and name not in graph.roots(graph.parents[last][source]):
                    yield Breakage(WEIGHT, label, f"{label} hands back the product with {name}{form} in place of its own matrix",
                                   resaved(graph, source, dict.fromkeys(nodes.values(), other)), 2 if not form else 4, touches=touches)
    for slot in (0, 1):
        j = graph.parents[last][slot]
        if j is None:
            continue
        if j in graph.before or graph.where[last][0] is not None and not graph.hands_back(last, (slot,)):
            for words, transposed in _transposes(graph.nodes[j].shape):
                yield Breakage(TRANSPOSE, label, f"the gradient of the matrix of {label} is transposed{words}",
                               {i: edited(slot, lambda part, g, f=transposed: f(part)) for i in nodes.values()}, 1, touches=(slot,), form=(False,))
        if j not in graph.before and graph.nodes[j].shape == graph.nodes[last].shape:
            yield Breakage(LAYER, label, f"the cotangent passes {label} unchanged, as if there were no matrix (dL/dh = dL/dy): the layer is lost",
                           {i: edited(slot, lambda part, g: g) for i in nodes.values()}, 1, touches=(slot,))


def _transposes(shape):
    """Ways to transpose a matrix that keep its shape: whole, or each of the square blocks (gates) that it is made of."""
    if len(shape) < 2:
        return
    n, m = shape[-2:]
    if n == m:
        yield "", lambda w: np.swapaxes(w, -1, -2)
    elif len(shape) == 2 and min(n, m) > 1 and max(n, m) % min(n, m) == 0 and max(n, m) // min(n, m) <= 4:
        yield " in every gate", lambda w: blockwise(w)


def _of_parts(graph, i, source):
    """The same for the rows or columns of a matrix that belong to one part of a concatenated operand: W = [W_x; W_h]."""
    other = 1 - source
    made = maker(graph, graph.call[i], array(graph.call[i].args[other]))
    if made is None or made.op.name != "concatenate":
        return
    start = 0
    for number, part in enumerate(made.args):
        n = array(part).shape[-1 if source else 0]
        rows = np.s_[start:start + n] if source else np.s_[:, start:start + n]
        shape = array(graph.call[i].args[source])[rows].shape
        for words, transposed in _transposes(shape):
            yield f" in the part of the matrix for input no. {number + 1}{words}", partial(_in_part, rows, transposed)
        start += n


def _in_part(rows, transposed, w):
    w = np.array(w)
    w[rows] = transposed(w[rows])
    return w


def blockwise(w):
    """A matrix of square blocks with each of them transposed."""
    axis = int(w.shape[1] > w.shape[0])
    return np.concatenate([block.T for block in np.split(w, max(w.shape) // min(w.shape), axis)], axis)


# ---- sums that are none -------------------------------------------------------------------------------------


def _unsummed(graph, nodes, call):
    """Where a small input was broadcast: its gradient averaged, or taken of one row, where it must be summed."""
    if not call.op.broadcasts:
        return
    last, shape = nodes[max(nodes)], np.shape(array(call.y))
    for slot in range(len(graph.parents[last])):
        j = graph.parents[last][slot]
        if j is None or graph.nodes[j].shape == shape:
            continue
        node = graph.nodes[j]
        repeated = np.prod(shape) / max(np.prod(node.shape), 1)
        for words, f in {"averaged over the batch, not summed": lambda part, g, node=node, r=repeated: fit(part, node) / r,
                         "taken of the first row of the batch alone": partial(_one_row, node, 0),
                         "taken of the last row of the batch alone": partial(_one_row, node, -1)}.items():
            yield Breakage(BIAS, graph.label(last), f"the gradient of what {graph.label(last)} broadcasts is {words}",
                           {i: edited(slot, f) for i in nodes.values()}, 1, form=(words,))


def _one_row(node, which, part, g):
    part = np.asarray(part)
    extra = part.ndim - len(node.shape)
    for _ in range(extra):
        part = part[which]
    for axis, n in enumerate(node.shape):
        if n == 1 and part.shape[axis] != 1:
            part = np.take(part, [which % part.shape[axis]], axis)
    return part
