"""tinygrad_rnn through its public API: the cell under ``scan``, compiled with its loss or not, and in a plain Python loop."""

import inspect

import numpy as np
from cells import EPSILON, EVERY, initial, loop, loss, namespace

import tinygrad_rnn as tg

F = namespace(tg, sigmoid=tg.sigmoid, split=lambda z, n: tg.split(z, n, axis=-1))


def read(result):
    value, gradients = result
    return float(value), {key: np.asarray(g) for key, g in gradients.items()}


def loss_and_gradients(cell):
    equations = EVERY[cell]

    def scan_loss(p):
        state, ys = tg.scan(lambda state, x: equations(F, p, state, x), initial(p), p["xs"])
        return loss(F, state, ys)

    return tg.value_and_grad(scan_loss)


def prepare_compiled(cell, p):
    """Every call runs the loss on stand-ins, looks its program up and runs it."""
    step = tg.compiled(loss_and_gradients(cell))
    return lambda: step(p), read


def prepare_scan(cell, p):
    """The loss around the scan is computed op by op, and its graph walked back, at every call."""
    return lambda: loss_and_gradients(cell)(p), read


def prepare_loop(cell, p):
    return lambda: tg.value_and_grad(lambda p: loop(F, EVERY[cell], p))(p), read


def prepare_generated(cell, p):
    """The generated code alone, as printed, called directly: what a repeated call costs without tracing and look-up."""
    state, xs = initial(p), p["xs"]
    text = tg.explain.source(lambda state, x: EVERY[cell](F, p, state, x), state, xs, optimized=True)
    code = {}
    exec(compile(text, f"<derived {cell}>", "exec"), code)
    forward, backward = code["forward"], code["backward"]
    # The one number of the equations has no name in the cell.
    params = {key: p.get(key, EPSILON) for key in list(inspect.signature(forward).parameters)[2:]}

    def run():
        final, ys, saved = forward(state, xs, **params)
        leaves = final if isinstance(final, tuple) else (final,)
        value = ys.sum() + sum(leaf.sum() for leaf in leaves)
        d_ys, *ones = (np.broadcast_to(np.ones((), a.dtype), a.shape) for a in (ys, *leaves))
        return value, backward(tuple(ones) if isinstance(final, tuple) else ones[0], d_ys, saved)

    def read_generated(result):
        value, (d_state, d_xs, d_params) = result
        d_state = d_state if isinstance(d_state, tuple) else (d_state,)
        return float(value), dict(zip(("h0", "c0"), d_state, strict=False)) | d_params | {"xs": d_xs}

    return run, read_generated
