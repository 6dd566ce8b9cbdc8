"""A dozen small recurrences that scans have been seen to get wrong, and the loop that a scan stands for.

Knows each recurrence written once for two worlds: an engine under test, and NumPy with complex numbers. Refuses to know
derivatives. Nothing stands below it.
"""

import numpy as np


def plain_scan(cell, state, xs, reverse=False):
    """The meaning of scan, on arrays and on complex numbers."""
    leaves = xs if isinstance(xs, tuple) else (xs,)
    times, ys = range(len(leaves[0])), {}
    for t in reversed(times) if reverse else times:
        x = tuple(leaf[t] for leaf in leaves) if isinstance(xs, tuple) else xs[t]
        state, ys[t] = cell(state, x)
    rows = [ys[t] for t in times]
    return state, tuple(np.stack(column) for column in zip(*rows)) if isinstance(rows[0], tuple) else np.stack(rows)


# ---- recurrences: each returns the arrays that its loss looks at ---------------------------------------------

def _closed_over(m, scan, h, xs, w, u):
    return scan(lambda h, x: (m.tanh(x @ w + h @ u),) * 2, h, xs)


def _outputs_only(m, scan, h, xs, w, u):
    def cell(h, x):
        h = m.tanh(x @ w + h @ u)
        return h, m.sin(h) * (x @ w)

    return scan(cell, h, xs)[1:]


def _state_only(m, scan, h, xs, w, u):
    return scan(lambda h, x: (m.tanh(x @ w + h @ u), h * 2.0), h, xs)[:1]


def _weights_in_the_state(m, scan, h, xs, w, u):
    def cell(state, x):
        h, w, u = state
        h = m.tanh(x @ w + h @ u)
        return (h, w, u), h

    (h, w_out, u_out), ys = scan(cell, (h, w, u), xs)
    return h, w_out * w, u_out, ys


def _weights_in_the_sequence(m, scan, h, xs, w, u):
    T = xs.shape[0]
    each = m.stack([w * (1.0 + 0.1 * t) for t in range(T)])
    return scan(lambda h, x: (m.tanh(x[0] @ x[1] + h @ u), h), h, (xs, each))


def _swapped(m, scan, h, xs, w, u):
    (a, b), ys = scan(lambda s, x: ((s[1], m.tanh(s[0] @ u + x @ w)), s[0]), (h, m.sin(h)), xs)
    return a, b, ys


def _delayed(m, scan, h, xs, w, u):
    (a, b), ys = scan(lambda s, x: ((m.tanh(x @ w + s[1] @ u), s[0]), s[0] * s[1]), (h, 0.5 * h), xs)
    return a, b, ys


def _passed_through(m, scan, h, xs, w, u):
    (a, b), ys = scan(lambda s, x: ((s[0], m.tanh(0.5 * s[1] * s[0] + x @ w)), s[0] * s[1]), (h, h @ u), xs)
    return a, b, ys


def _state_unused(m, scan, h, xs, w, u):
    return scan(lambda h, x: (m.sin(x @ w), m.tanh(x @ w) @ u), h, xs)


def _input_unused(m, scan, h, xs, w, u):
    return scan(lambda h, x: (m.tanh(h @ u), h * h), h, xs)


def _two_outputs(m, scan, h, xs, w, u):
    h, (a, b) = scan(lambda h, x: (m.tanh(x @ w + h @ u), (h @ u, m.sin(x))), h, xs)
    return h, a, b


def _one_output_unused(m, scan, h, xs, w, u):
    return scan(lambda h, x: (m.tanh(x @ w + h @ u), (h @ u, m.sin(x) * 3.0)), h, xs)[1][:1]


def _products(m, scan, h, xs, w, u):
    return scan(lambda h, x: (0.5 * h * (x @ w) + m.tanh(h @ u), h * h), h, xs)


def _used_outside_too(m, scan, h, xs, w, u):
    h, ys = scan(lambda h, x: (m.tanh(x @ w + h @ u), h), h, xs)
    return h @ u, ys * m.sum(w * w), xs


def _two_layers(m, scan, h, xs, w, u):
    _, ys = scan(lambda h, x: (m.tanh(x @ w + h @ u),) * 2, h, xs)
    return scan(lambda h, y: (m.tanh(y @ u + h * 0.5),) * 2, m.sin(h), ys)


def _nested(m, scan, h, xs, w, u):
    def inner(a, z):
        a = m.tanh(a @ u + z)
        return a, a

    def cell(h, x):
        h, zs = scan(inner, h + 0.5 * x @ w, m.stack([x @ w, h, 0.3 * h * h]))
        return h, m.sum(zs, 0)

    return scan(cell, h, xs)


def _reversed(m, scan, h, xs, w, u):
    return scan(lambda h, x: (m.tanh(x @ w + h @ u), h * (x @ w)), h, xs, reverse=True)


RECURRENCES = {
    "weights closed over": _closed_over, "outputs alone used": _outputs_only, "final state alone used": _state_only,
    "weights in the state": _weights_in_the_state, "weights in the sequence": _weights_in_the_sequence, "states that change places": _swapped,
    "a delayed state": _delayed, "a state passed through": _passed_through, "a state that is not used": _state_unused,
    "an input that is not used": _input_unused, "two outputs": _two_outputs, "one of two outputs unused": _one_output_unused,
    "products of state and input": _products, "weights used outside too": _used_outside_too, "two layers": _two_layers, "nested": _nested,
    "reverse": _reversed,
}
INPUTS = ("state", "xs", "w", "u")
