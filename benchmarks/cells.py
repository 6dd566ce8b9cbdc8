"""The five cells of the benchmarks, their loss, and the numbers they run on.

Knows the equations, written once for every array library: ``F`` brings the library's ``tanh``, ``sigmoid``,
``split``, ``normalize`` and ``sum``; ``p`` is a dict of parameters that also holds the sequence ``xs`` and the
initial state. Every entry of a table runs these equations, except PyTorch's fused layers and the versions derived by
hand, and all must agree before anything is timed. Knows nothing of any library and nothing of time.

T steps, B batch, I inputs, H hidden; ``xs`` is (T, B, I), states are (B, H). The loss is the sum of
all outputs and of every leaf of the final state, as little work as a loss can be: a recurrence is timed, and what an
eager library pays for a loss of squares, passes over (T, B, H) arrays, is not. Every contestant computes it, and its
gradients for every entry of ``p``.

Source: Elman 1990. Hochreiter & Schmidhuber 1997 with a forget gate, gates in PyTorch's order i, f, g, o. Cho et al.
2014 as PyTorch writes it: the reset gate acts after the product, gates r, z, n, update ``n + z (h - n)``. Minimal
gated unit, Zhou et al. 2016, update ``h + f (c - h)``. Layer-norm LSTM, Ba et al. 2016, eqs 29-31: the products with
x and with h are each normalised over all 4H entries, the new c over its H before its tanh; normalised is (v - mean) /
sqrt(variance + 1e-5). The shifts of the first two would only repeat ``b``, so there is one.
"""

from types import SimpleNamespace

import numpy as np

EPSILON = 1e-5


def elman(F, p, h, x):
    h = F.tanh(x @ p["W"] + h @ p["U"] + p["b"])
    return h, h


def lstm(F, p, state, x):
    h, c = state
    i, f, g, o = F.split(x @ p["W"] + h @ p["U"] + p["b"], 4)
    c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
    h = F.sigmoid(o) * F.tanh(c)
    return (h, c), h


def gru(F, p, h, x):
    xr, xz, xn = F.split(x @ p["W"] + p["b"], 3)
    hr, hz, hn = F.split(h @ p["U"], 3)
    r, z = F.sigmoid(xr + hr), F.sigmoid(xz + hz)
    n = F.tanh(xn + r * (hn + p["bn"]))
    h = n + z * (h - n)
    return h, h


def mgu(F, p, h, x):
    f = F.sigmoid(x @ p["Wf"] + h @ p["Uf"] + p["bf"])
    c = F.tanh(x @ p["Wh"] + (f * h) @ p["Uh"] + p["bh"])
    h = h + f * (c - h)
    return h, h


def lnlstm(F, p, state, x):
    h, c = state
    i, f, g, o = F.split(F.normalize(x @ p["W"]) * p["ax"] + F.normalize(h @ p["U"]) * p["ah"] + p["b"], 4)
    c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
    h = F.sigmoid(o) * F.tanh(F.normalize(c) * p["ac"] + p["bc"])
    return (h, c), h


def leaky(F, p, h, x):
    h = h / 2 + F.tanh(x @ p["W"] + p["b"]) @ p["U"]
    return h, h


CELLS = dict(elman=elman, lstm=lstm, gru=gru, mgu=mgu, lnlstm=lnlstm)
EVERY = CELLS | dict(leaky=leaky)  # leaky warms libraries up
SIZES = [(50, 1, 1, 100), (3, 3, 1, 1), (25, 1, 65, 100), (100, 32, 64, 128), (128, 64, 256, 512)]


def shapes(name, T, B, I, H):
    """Shapes of everything that the cell's gradient is taken for, by name."""
    G = H * dict(lstm=4, gru=3, lnlstm=4).get(name, 1)
    weights = dict(Wf=(I, H), Uf=(H, H), bf=(H,), Wh=(I, H), Uh=(H, H), bh=(H,)) if name == "mgu" else \
        dict(W=(I, G), U=(H, G), b=(G,))
    gru_bias = dict(bn=(H,)) if name == "gru" else {}
    scales = dict(ax=(G,), ah=(G,), ac=(H,), bc=(H,)) if name == "lnlstm" else {}
    state = dict(h0=(B, H), c0=(B, H)) if "lstm" in name else dict(h0=(B, H))
    return weights | gru_bias | scales | state | dict(xs=(T, B, I))


def draw(name, size, dtype, seed=0):
    """A params dict: weights uniform within 1/sqrt(H) as in PyTorch, the sequence and the state standard normal.

    The scales of the layer norm are near 0.3: near 1 the recurrence is chaotic and its gradients explode.
    """
    rng = np.random.default_rng(seed)
    H = size[-1]

    def leaf(key, shape):
        if key in ("xs", "h0", "c0"):
            return rng.normal(size=shape)
        return rng.uniform(-1, 1, size=shape) / np.sqrt(H) + 0.3 * (key in ("ax", "ah", "ac"))

    return {key: leaf(key, shape).astype(dtype) for key, shape in shapes(name, *size).items()}


def namespace(library, **special):
    """The names in the equations, from a library that spells them as NumPy does; ``special`` are the others."""
    def normalize(v):
        d = v - library.mean(v, axis=-1, keepdims=True)
        return d / library.sqrt(library.mean(d * d, axis=-1, keepdims=True) + EPSILON)

    names = dict(tanh=library.tanh, sum=library.sum, stack=library.stack, normalize=normalize)
    return SimpleNamespace(**names | special)


def initial(p):
    return (p["h0"], p["c0"]) if "c0" in p else p["h0"]


def loss(F, state, ys):
    final = F.sum(state[0]) + F.sum(state[1]) if isinstance(state, tuple | list) else F.sum(state)
    return F.sum(ys) + final


def loop(F, cell, p):
    """The loss of a plain Python loop over the steps: what an eager library is given."""
    state, ys = initial(p), []
    for t in range(len(p["xs"])):
        state, y = cell(F, p, state, p["xs"][t])
        ys.append(y)
    return loss(F, state, F.stack(ys))
