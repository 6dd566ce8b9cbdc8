"""Scans of others under check_scan: JAX's passes, PyTorch's private one has a wrong second derivative, and is caught."""

import functools

import numpy as np
import pytest

from tinygrad_rnn.check import Engine, check_scan

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SOME = ("weights closed over", "weights in the state", "states that change places", "a state passed through", "products of state and input")


@functools.cache
def torch_engine():
    torch = pytest.importorskip("torch")

    def grad(f):
        def gradients(*xs):
            xs = [x if x.requires_grad else x.requires_grad_() for x in xs]
            return torch.autograd.grad(f(*xs), xs, create_graph=True, allow_unused=True, materialize_grads=True)

        return gradients

    return Engine("torch", torch.tensor, lambda t: t.detach().numpy(), grad, torch)


def torch_loop(cell, state, xs, reverse=False):
    torch = pytest.importorskip("torch")
    leaves, ys = xs if isinstance(xs, tuple) else (xs,), {}
    times = range(len(leaves[0]))
    for t in reversed(times) if reverse else times:
        x = tuple(leaf[t] for leaf in leaves) if isinstance(xs, tuple) else xs[t]
        state, ys[t] = cell(state, x)
    rows = [ys[t] for t in times]
    return state, tuple(torch.stack(column) for column in zip(*rows)) if isinstance(rows[0], tuple) else torch.stack(rows)


def test_a_loop_over_torch_passes():
    report = check_scan(torch_loop, torch_engine(), steps=(4,))
    assert report.ok and not report.notes, str(report)


def torch_scan(cell, state, xs, reverse=False):
    """The private scan, whose cells must not return what they were given."""
    scan = pytest.importorskip("torch._higher_order_ops.scan").scan

    def copying(state, x):
        return tuple(tuple(part.clone() for part in tree) if isinstance(tree, tuple) else tree.clone() for tree in cell(state, x))

    return scan(copying, state, xs, reverse=reverse)


def test_the_private_scan_of_torch_has_a_wrong_second_derivative():
    report = check_scan(torch_scan, torch_engine(), steps=(4,), recurrences=SOME)
    assert not report.ok
    assert "the derivative of order 2 is wrong" in {finding.what for finding in report.findings}, str(report)
    assert not any(finding.what == "the value is wrong" or "order 1 is wrong" in finding.what for finding in report.findings), str(report)


def test_the_scan_of_jax_passes():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)

    def grad(f):
        return lambda *xs: jax.grad(f, argnums=tuple(range(len(xs))))(*xs)

    engine = Engine("jax", jax.numpy.asarray, np.asarray, grad, jax.numpy, jax.jvp)
    report = check_scan(jax.lax.scan, engine, steps=(3,), recurrences=SOME[:3])
    assert report.ok, str(report)


def test_jax_over_every_recurrence_at_first_order():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    engine = Engine("jax", jax.numpy.asarray, np.asarray, lambda f: lambda *xs: jax.grad(f, argnums=tuple(range(len(xs))))(*xs), jax.numpy, jax.jvp)
    report = check_scan(jax.lax.scan, engine, steps=(3,), orders=1)
    assert report.ok, str(report)


def test_the_scan_of_pytensor_passes():
    pytensor = pytest.importorskip("pytensor")
    pt = pytensor.tensor
    parts, like = lambda tree: tree if isinstance(tree, tuple) else (tree,), lambda tree, new: tuple(new) if isinstance(tree, tuple) else new[0]

    def scan(cell, state, xs, reverse=False):
        y = cell(state, like(xs, [x[0] for x in parts(xs)]))[1]  # how many outputs there are must be known beforehand
        n, m = len(parts(state)), len(parts(xs))

        def step(*args):
            new, y = cell(like(state, args[m:m + n]), like(xs, args[:m]))
            return [*parts(new), *parts(y)]

        info = [*parts(state), *[None] * len(parts(y))]
        rows = pytensor.scan(step, sequences=list(parts(xs)), outputs_info=info, go_backwards=reverse, return_updates=False)
        return like(state, [row[-1] for row in rows[:n]]), like(y, [row[::-1] if reverse else row for row in rows[n:]])

    def grad(f):
        return lambda *xs: pytensor.grad(f(*xs), list(xs), disconnected_inputs="ignore", return_disconnected="zero")

    engine = Engine("pytensor", pytensor.shared, lambda t: np.asarray(t.eval()), grad, pt)
    with pytensor.config.change_flags(mode="FAST_COMPILE", cxx=""):
        report = check_scan(scan, engine, steps=(2,), orders=1, recurrences=("weights closed over", "states that change places", "reverse"))
    assert report.ok and not report.notes, str(report)
