"""rtrl: real-time recurrent learning, the gradient carried forward in time with the state.

Knows the influence recursion through any unrolled loss: M_t = ∂s_t/∂θ = (∂s_t/∂s_{t−1}) M_{t−1} + (∂s_t/∂θ at fixed s_{t−1}).
Refuses to be a second opinion on rules: the Jacobians of one step are the engine's. What it does not share with
backpropagation through time is everything that happens between steps. Below it: diagnose_graph.

Source: Williams and Zipser, "A learning algorithm for continually running fully recurrent neural networks" (1989).
"""

import numpy as np

from ..primitive import PICK
from .diagnose_graph import Unrolled, fit


def rtrl(loss, params, data):
    """The gradients of `loss(params, *data)` by name, from influences that travel forward with the state.

    Shapes: gradients like the parameters. Memory grows with the state times the parameters, not with T.

    Raises: GradientError when the loss does not depend on the parameters.

    Example:
        >>> from tinygrad_rnn.check.rtrl import rtrl
        >>> def loss(p, x):
        ...     return tg.sum(tg.scan(lambda h, x: (tg.tanh(h * p["w"] + x), None), np.zeros(2), x)[0])
        >>> x = np.ones((5, 2))
        >>> bool(np.isclose(rtrl(loss, {"w": np.array(0.5)}, (x,))["w"], tg.grad(loss)({"w": np.array(0.5)}, x)["w"]))
        True
    """
    return influences(Unrolled(loss, params, tuple(data)))


def influences(graph):
    """The recursion over the segments of a loss: what comes before a scan, each step, what comes between and after."""
    offsets, size = {}, 0
    for name, i in graph.names.items():
        offsets[i] = size
        size += graph.values[name].size
    segment, count = [], 0
    for i, place in enumerate(graph.where):
        count += i > 0 and place != graph.where[i - 1]
        segment.append(count)
    leaving = {graph.index[graph.root._node]}
    for i, parents in enumerate(graph.parents):
        leaving |= {j for j in parents if j is not None and segment[j] != segment[i]}
    M = {}  # node -> ∂(its value)/∂θ, one row per entry
    for i, start in offsets.items():
        M[i] = np.zeros((int(np.prod(graph.nodes[i].shape)), size))
        M[i][:, start:start + len(M[i])] = np.eye(len(M[i]))
    last_use = {j: segment[i] for i, parents in enumerate(graph.parents) for j in parents if j is not None}
    with np.errstate(all="ignore"):
        for i in sorted(leaving - set(offsets)):
            M[i] = _carried_forward(graph, i, segment, M, size)
            for j in [j for j in M if last_use.get(j, segment[i]) < segment[i] and j not in offsets]:
                del M[j]
    total = M[graph.index[graph.root._node]].reshape(size)
    return {name: total[offsets[i]:offsets[i] + graph.values[name].size].reshape(graph.values[name].shape) for name, i in graph.names.items()}


def _carried_forward(graph, i, segment, M, size):
    """The influence on node i: for each of its entries, what its own segment's rules say, times the influences that enter it."""
    shape = graph.nodes[i].shape
    rows = np.zeros((int(np.prod(shape)), size))
    for k in range(len(rows)):
        seed = np.zeros(len(rows))
        seed[k] = 1
        pending = {i: seed.reshape(shape)}
        while pending:
            j = max(pending)
            g = pending.pop(j)
            if segment[j] != segment[i] or j in M and j != i:
                rows[k] += np.ravel(g) @ M[j]
            elif graph.nodes[j].plan is PICK:
                whole = graph.parents[j][0]
                parts = pending.setdefault(whole, [None] * len(graph.nodes[whole].shape))
                parts[graph.nodes[j].saved] = g
            else:
                for slot, part in graph.pull(j, tuple(g) if isinstance(g, list) else g):
                    parent = graph.parents[j][slot]
                    if parent is not None and part is not None:
                        part = fit(part, graph.nodes[parent])
                        pending[parent] = pending[parent] + part if parent in pending else part
    return rows
