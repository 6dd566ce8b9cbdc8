"""What this library and its peers can do, found out by trying; prints README's table.

    python benchmarks/features.py

A column for each of PyTorch, Keras (on JAX), flax (with JAX), HIPS/autograd and MyGrad that is installed; a row for each
function below. "no" is said of a library that fails the probe, or has nothing public that could be probed; "backend's" of
Keras, where it leaves a thing to what it runs on.
"""

import datetime
import importlib
import importlib.metadata as metadata
import inspect
import os
import re
import warnings

import numpy as np

import tinygrad_rnn as tg

os.environ.setdefault("KERAS_BACKEND", "jax")
warnings.simplefilter("ignore")
x0, no = np.array([0.3, -0.7], np.float32), "no"


def module(name):
    return importlib.import_module(name)


# ---- the libraries: what a probe calls, where there is something to call ------------------------------------


class Peer:
    needs, loops, lacking = (), (), no
    grad = jvp = code = check = None

    def run(self, cell, h, xs):
        for x in xs:
            h, _ = cell(h, x)
        return h


class Ours(Peer):
    package, F, layers, loops = "tinygrad-rnn", tg, tg.nn, (tg.scan,)
    grad, jvp, language = staticmethod(tg.grad), staticmethod(tg.jvp), "NumPy"
    run = staticmethod(lambda cell, h, xs: tg.scan(cell, h, xs)[0])
    code = staticmethod(lambda cell, h, xs: tg.explain.source(cell, h, xs))

    def check(self, x):
        @tg.primitive(domain=tg.domains.REALS, elementwise=True, analytic=True)
        def planted(x, /, *, out=None):
            return np.multiply(x * x, x, out=out)

        planted.vjp(x=lambda g, x: 4.0 * g * x * x)
        report = tg.check.gradcheck(lambda x: tg.sum(planted(x)), (x.astype(float),))
        return "cannot tell" if "cannot tell" in str(report) else report.ok


class PyTorch(Peer):
    package, language = "torch", "ATen"

    def __init__(self):
        self.F = self.torch = module("torch")
        self.layers, self.loops, self.jvp = self.torch.nn, (self.torch.nn.RNN, self.torch.nn.LSTM), self.torch.func.jvp

    def grad(self, f):
        return lambda x: self.torch.func.grad(f)(self.torch.as_tensor(x))

    def run(self, cell, h, xs):
        return super().run(cell, h, self.torch.as_tensor(xs))

    def code(self, cell, h, xs):
        trace = module("torch.fx.experimental.proxy_tensor").make_fx
        return trace(self.grad(lambda h: self.run(cell, h, xs).sum()))(self.torch.as_tensor(h)).code

    def check(self, x):
        class Cube(self.torch.autograd.Function):
            forward = staticmethod(lambda ctx, x: (ctx.save_for_backward(x), x**3)[1])
            backward = staticmethod(lambda ctx, g: 4 * g * ctx.saved_tensors[0] ** 2)

        x = self.torch.tensor(x.astype(float), requires_grad=True)
        return self.torch.autograd.gradcheck(Cube.apply, (x,), raise_exception=False)


class Flax(Peer):
    package, language = "flax", "jaxpr"

    def __init__(self):
        self.jax, self.layers = module("jax"), module("flax.nnx")
        self.F, self.grad, self.jvp = self.jax.numpy, self.jax.grad, self.jax.jvp
        self.loops = (self.layers.RNN, self.layers.RNN.__call__, self.layers.scan, self.jax.lax.scan)

    def run(self, cell, h, xs):
        return self.jax.lax.scan(cell, h, xs)[0]

    def code(self, cell, h, xs):
        return str(self.jax.make_jaxpr(self.grad(lambda h: self.run(cell, h, xs).sum()))(h))

    def check(self, x):
        cube = self.jax.custom_vjp(lambda x: x**3)
        cube.defvjp(lambda x: (x**3, x), lambda x, g: (4 * g * x * x,))
        return tries(lambda: module("jax.test_util").check_grads(cube, (x,), 1, modes=["rev"]) or True)


class Keras(Peer):
    package, needs, lacking = "keras", ("jax",), "backend's"

    def __init__(self):
        keras = module("keras")
        self.F, self.layers, self.jvp = keras.ops, keras.layers, keras.ops.jvp
        self.loops, self.run = (keras.layers.RNN, keras.ops.scan), lambda cell, h, xs: keras.ops.scan(cell, h, xs)[0]


class Autograd(Peer):
    package = "autograd"  # of HIPS

    def __init__(self):
        autograd = module("autograd")
        self.F, self.layers, self.grad = module("autograd.numpy"), autograd, autograd.grad
        self.jvp = lambda f, x, v: autograd.make_jvp(f)(*x)(*v)

    def check(self, x):
        cube = module("autograd.extend").primitive(lambda x: x**3)
        module("autograd.extend").defvjp(cube, lambda y, x: lambda g: 4 * g * x * x)
        return tries(lambda: module("autograd.test_util").check_grads(cube, modes=["rev"])(x.astype(float)) or True)


class MyGrad(Peer):
    package = "mygrad"

    def __init__(self):
        self.F, self.layers = module("mygrad"), module("mygrad.nnet.layers")

    def grad(self, f):
        def gradient(x):
            x = self.F.tensor(x)
            f(x).backward()
            return x.grad
        return gradient


def tries(call):
    """What a probe returns, or None when it raises anything."""
    try:
        return call()
    except Exception:
        return None


# ---- the rows -----------------------------------------------------------------------------------------------


def installs(peer):
    seen, pending = set(), [peer.package, *peer.needs]
    while pending:
        name = re.sub(r"[-_.]+", "-", pending.pop()).lower()
        if name not in seen and tries(lambda: metadata.distribution(name)):
            seen.add(name)
            pending += [re.split(r"[^\w.-]", line)[0] for line in metadata.requires(name) or () if "extra ==" not in line]
    paths = [file.locate() for name in seen for file in metadata.files(name) or ()]
    return f"{len(seen)} packages, {sum(path.stat().st_size for path in paths if path.is_file()) / 1e6:.0f} MB"


def third_derivative(peer):
    value = peer.grad and tries(lambda: peer.grad(peer.grad(peer.grad(lambda x: x * peer.F.tanh(x))))(0.5))
    return peer.lacking if not peer.grad else "yes" if value is not None and abs(float(value) + 2.4631906) < 1e-5 else no


def forward_mode(peer):
    x = peer.F.ones(()) if isinstance(peer, PyTorch) else np.ones((), np.float32)
    value = peer.jvp and tries(lambda: peer.jvp(lambda x: x * x * x, (x,), (x,))[1])
    return "yes" if value is not None and abs(float(value) - 3) < 1e-6 else no


def recurrent_layers(peer):
    return ", ".join(kind for kind in ("RNN", "LSTM", "GRU") if any(kind in name.upper() for name in dir(peer.layers))) or no


def cell_of(peer, calls):
    def cell(h, x):
        calls.append(1)
        h = peer.F.tanh(x + 0.5 * h)
        return h, h
    return cell


def own_cell(peer):
    """Is there a loop that does not call the cell in Python at each of 40 steps?"""
    calls = []
    grad = peer.grad or module("jax").grad
    grad(lambda h: peer.F.sum(peer.run(cell_of(peer, calls), h, np.ones((40, 2), np.float32))))(x0)
    return "yes" if len(calls) < 5 else no


def truncation(peer):
    return "yes" if any("truncat" in f"{inspect.signature(f)} {f.__doc__}" for f in peer.loops) else no


def backward_code(peer):
    """The text of the gradient of a loop; does it grow with the number of steps?"""
    if not peer.code:
        return peer.lacking
    few, many = (len(peer.code(cell_of(peer, []), x0, np.ones((T, 2), np.float32))) for T in (2, 40))
    return f"{peer.language}, {'unrolled' if many > 2 * few else 'a loop'}"


def checker(peer):
    """x³ with the rule 4 g x²."""
    return peer.lacking if not peer.check else no if peer.check(x0) else "yes"


def blindness(peer):
    """The same at x = 0, where every comparison is of 0 with 0."""
    return peer.lacking if not peer.check else "yes" if peer.check(0 * x0) == "cannot tell" else "no, it passes"


NUMPY = [np.tanh, np.exp, np.sum, np.mean, lambda t: np.maximum(t, 0.1), lambda t: np.where(x0 > 0, t, 0.0), lambda t: np.reshape(t, (2, 1)),
         lambda t: np.concatenate([t, t]), lambda t: np.stack([t, 2 * t]), lambda t: np.einsum("i,i->", t, t),
         lambda t: np.ones((3, 2)) @ t, lambda t: np.arange(2.0) * t]


def numpy_functions(peer):
    """How many of NumPy's own functions and operators take its tensors and keep the gradient."""
    if not peer.grad:
        return peer.lacking
    kept = 0
    for f in NUMPY:
        expected = [(np.sum(f(x0 + e)) - np.sum(f(x0 - e))) / 2e-4 for e in 1e-4 * np.eye(2)]
        got = tries(lambda f=f: np.asarray(peer.grad(lambda t: peer.F.sum(f(t)))(x0.astype(float)), float))
        kept += got is not None and np.allclose(got, expected, rtol=1e-3, atol=1e-4)
    return f"{kept} of {len(NUMPY)}"


ROWS = {"installs": installs, "derivatives of third order": third_derivative, "forward mode": forward_mode,
        "recurrent layers": recurrent_layers, "a loop that takes a cell of your own": own_cell, "truncated BPTT as its option": truncation,
        "the derived backward pass as code": backward_code, "a gradient checker finds a wrong rule": checker,
        "… and says so where it cannot see it": blindness, "NumPy's own functions keep the gradient": numpy_functions}


def main():
    peers = [peer for peer in map(tries, (Ours, PyTorch, Keras, Flax, Autograd, MyGrad)) if peer]
    print("| | tinygrad_rnn | " + " | ".join(type(peer).__name__ for peer in peers[1:]) + " |\n" + "|---" * (len(peers) + 1) + "|")
    for title, probe in ROWS.items():
        print(f"| {title} | " + " | ".join(probe(peer) for peer in peers) + " |")
    versions = [f"{package} {metadata.version(package)}" for peer in peers[1:] for package in (peer.package, *peer.needs)]
    print(f"\n{datetime.date.today()}: {', '.join(versions)}, numpy {np.__version__}")


if __name__ == "__main__":
    main()
