"""Derivative rules with a planted mistake each, and right rules with odd habits, at the inputs one tries first.

Each entry: forward, vjp, inputs. The inputs are benign on purpose: many of the mistakes do not show at them.
"""

import random

import numpy as np

rng = np.random.default_rng(12345)
n34, m34 = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
n33, m33 = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
n4, n5, p34 = rng.normal(size=4), rng.normal(size=5), rng.uniform(0.5, 2, size=(3, 4))
arange3, ones3 = np.arange(3.0), np.ones(3)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def layernorm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def layernorm_rule(g, x, eps=1e-5):
    s = np.sqrt(x.var(-1, keepdims=True) + eps)
    z = (x - x.mean(-1, keepdims=True)) / s
    return ((g - g.mean(-1, keepdims=True) - z * (g * z).mean(-1, keepdims=True)) / s,)


def logsumexp(x):
    top = x.max(-1)
    return np.log(np.exp(x - top[..., None]).sum(-1)) + top


def cross_entropy(z, t):
    return -(t * (z - logsumexp(z)[..., None])).sum()


def embed(table, rows):
    return table[rows]


def scatter(g, table, rows):
    out = np.zeros_like(table)
    np.add.at(out, rows, g)
    return out, None


def overwritten(g, table, rows):
    out = np.zeros_like(table)
    out[rows] = g
    return out, None


def added_once(g, table, rows):
    out = np.zeros_like(table)
    out[rows] += g
    return out, None


def share(x, axis=-1):
    hit = x == x.max(axis, keepdims=True)
    return (hit / hit.sum(axis, keepdims=True)).astype(x.dtype)


def conv(x, w):
    return np.convolve(x, w, "valid")


def conv_rule(g, x, w):
    return np.convolve(g, w[::-1], "full"), np.array([g @ x[len(w) - 1 - k:len(x) - k] for k in range(len(w))])


cell_x, cell_h, cell_w = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 3))


def cell(x, h, w):
    return np.tanh(x + h @ w)


def cell_rule(g, x, h, w):
    d = g * (1 - np.tanh(x + h @ w) ** 2)
    return d, d @ w.T, h.T @ d


def suffix_sums(g):
    """Sums from each place to the end, one call deeper for each."""
    return [] if not g else [g[0] + (suffix_sums(g[1:]) or [0.0])[0], *suffix_sums(g[1:])] if len(g) < 4 else deep(g)


def deep(g):
    rest = suffix_sums(g[1:])
    return [g[0] + rest[0], *rest]


rows3 = np.array([0, 2, 1])
onehot = np.eye(4)[[1, 0, 3]]
buffer, memo, last, count = np.zeros((3, 4)), {}, {}, {"calls": 0}
noise = np.random.default_rng(0)


def into_buffer(g, x):
    np.multiply(g, np.cos(x), out=buffer) if x.shape == buffer.shape else None
    return (buffer if x.shape == buffer.shape else g * np.cos(x),)


def cached_by_shape(g, x):
    return (g * memo.setdefault(x.shape, np.cos(x)),)


ids = {}


def cached_by_id(g, x):
    if ids.get("id") != id(x):
        ids.update(id=id(x), keep=x, value=np.cos(x))
    return (g * ids["value"],)


def remembering_forward(x):
    last["y"] = np.tanh(x)
    return last["y"].copy()


def remembering_rule(g, x):
    y = last["y"]
    return (g * (1 - y * y),) if y.shape == x.shape else (g * (1 - np.tanh(x) ** 2),)


def every_fiftieth(g, x):
    count["calls"] += 1
    return (g * np.cos(x) * (1.001 if count["calls"] % 50 == 0 else 1.0),)


def mutates_x(g, x):
    x *= 2
    return (g * x,)


def mutates_g(g, x):
    g *= np.cos(x)
    return (g,)


def twice_the_same(g, a, b):
    out = g * (a + b)
    return out, out


def single_inside(g, x):
    return ((g * np.cos(x.astype(np.float32))).astype(np.float64),)


def wrong_dropout(g, x):
    return (g * (noise.random(x.shape) > 1e-3),)


sums = {}


def cached_by_sum(g, x):
    return (g * sums.setdefault((x.shape, float(x.sum())), np.cos(x)),)


def printing(g, x):
    np.set_printoptions(precision=3)
    return (g * np.cos(x),)


def drawing(g, x):
    random.random()
    return (g * np.cos(x),)


def other_epsilon_in_single(g, x):
    return layernorm_rule(g, x, 1e-5 if x.dtype == np.float64 else 1e-1)


def averaged(g, shape):
    g = g.mean(axis=tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1), keepdims=True)
    return g


def last_axes_only(g, shape):
    while g.ndim > len(shape):
        g = g.sum(0)
    return g


def unrolled(x, w):
    h, ys = np.zeros(len(w)), np.zeros((len(x), len(w)))
    for t in range(len(x)):
        ys[t] = h = np.tanh(x[t] + h @ w)
    return ys


def through_time(g, x, w):
    ys, dx, dw, dh = unrolled(x, w), np.zeros_like(x), np.zeros_like(w), np.zeros(len(w))
    for t in reversed(range(len(x))):
        dx[t] = dz = (g[t] + dh) * (1 - ys[t] ** 2)
        dw += np.outer(ys[t - 1], dz) if t else 0.0
        dh = w @ dz
    return dx, dw


def latest(g, x):
    top, out = np.maximum.accumulate(x), np.zeros_like(x)
    np.add.at(out, np.maximum.accumulate(np.where(x == top, np.arange(len(x)), 0)), g)
    return out


def attention(q, k, v):
    return softmax(q @ k.T) @ v


def attention_rule(g, q, k, v):
    a = softmax(q @ k.T)
    d = a * (g @ v.T - (g @ v.T * a).sum(-1, keepdims=True))
    return d @ k, d.T @ q, a.T @ g


def sort_rule(g, x):
    out = np.empty_like(x)
    out[np.argsort(x)] = g
    return (out,)


WRONG = {
    # values, at the inputs themselves
    "sin: the rule of cos": (np.sin, lambda g, x: (-g * np.sin(x),), (n34,)),
    "tanh: 1 − y": (np.tanh, lambda g, x: (g * (1 - np.tanh(x)),), (n34,)),
    "square: the factor 2 forgotten": (np.square, lambda g, x: (g * x,), (n34,)),
    "subtract: the sign of b": (lambda a, b: a - b, lambda g, a, b: (g, +g * 1.0), (n34, m34)),
    "divide: b not squared": (lambda a, b: a / b, lambda g, a, b: (g / b, -g * a / b), (n34, p34)),
    "matmul: transpose missing, square": (lambda a, b: a @ b, lambda g, a, b: (g @ b, a.T @ g), (n33, m33)),
    "matmul: transposes missing at the identity": (lambda a, b: a @ b, lambda g, a, b: (g @ b, a @ g), (np.eye(3), np.eye(3))),
    "gradients in the wrong order": (lambda a, b: a * b, lambda g, a, b: (g * a, g * b), (n34, m34)),
    "gradients in the wrong order, equal inputs": (lambda a, b: a * b, lambda g, a, b: (g * a, g * b), (ones3, ones3)),
    "ones hide a missing factor": (lambda a, b: a * b, lambda g, a, b: (g, g * a), (n34, np.ones((3, 4)))),
    "softmax: the diagonal only": (softmax, lambda g, x: (g * softmax(x) * (1 - softmax(x)),), (n34,)),
    "softmax: summed over all": (softmax, lambda g, x: (softmax(x) * (g - (g * softmax(x)).sum()),), (n34,)),
    "softmax: summed over all, one row": (softmax, lambda g, x: (softmax(x) * (g - (g * softmax(x)).sum()),), (n34[:1],)),
    "softmax: the other axis, square": (softmax, lambda g, x: (softmax(x) * (g - (g * softmax(x)).sum(0, keepdims=True)),), (n33,)),
    "layernorm: the variance held fixed": (layernorm, lambda g, x: ((g - g.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5),), (n34,)),
    "layernorm: another epsilon": (layernorm, lambda g, x: layernorm_rule(g, x, 1e-3), (1e-1 * n34,)),
    "cumsum: not reversed": (lambda x: np.cumsum(x, -1), lambda g, x: (np.cumsum(g, -1),), (n34,)),
    "mean: the number of rows": (lambda x: x.mean(), lambda g, x: (np.full_like(x, g / len(x)),), (n34,)),
    "mean over an axis: all elements": (lambda x: x.mean(0), lambda g, x: (np.broadcast_to(g / x.size, x.shape),), (n34,)),
    "std: ddof 1": (lambda x: x.std(), lambda g, x: (g * (x - x.mean()) / (x.std(ddof=1) * x.size),), (n5,)),
    "cell: the derivative forgotten for w": (cell, lambda g, x, h, w: (*cell_rule(g, x, h, w)[:2], h.T @ g), (cell_x, cell_h, cell_w)),
    "convolution: the kernel not flipped": (conv, lambda g, x, w: (np.convolve(g, w, "full"), conv_rule(g, x, w)[1]), (n5, np.array([1.0, 2.0]))),
    "convolution: symmetric kernel hides the flip": (conv,
                                                     lambda g, x, w: (np.convolve(g, w, "full"), conv_rule(g, x, w)[1]), (n5, np.array([1.0, 2.0, 1.0]))),
    # shapes and broadcasting
    "bias: not summed, batch of one": (lambda x, b: x + b, lambda g, x, b: (g, g[0]), (n34[:1], n4)),
    "bias: summed over the wrong axis, square": (lambda x, b: x + b, lambda g, x, b: (g, g.sum(1)), (n33, m33[0])),
    "bias: mean in place of sum": (lambda x, b: x + b, lambda g, x, b: (g, g.mean(0)), (n34, n4)),
    "bias: keepdims left on": (lambda x, b: x + b, lambda g, x, b: (g, g.sum(0, keepdims=True)), (n34, n4)),
    "sum over an axis: square": (lambda x: x.sum(1), lambda g, x: (np.ones_like(x) * g,), (n33,)),
    "matvec: the outer product transposed, square": (lambda a, x: a @ x, lambda g, a, x: (np.outer(x, g), a.T @ g), (n33, arange3)),
    "add: averaged where an axis of size 1 was repeated": (lambda a, b: a + b, lambda g, a, b: (averaged(g, a.shape), averaged(g, b.shape)), (n34, m34)),
    "add: axes of size 1 forgotten": (lambda a, b: a + b, lambda g, a, b: (last_axes_only(g, a.shape), last_axes_only(g, b.shape)), (n34, m34)),
    "mean: of two axes": (np.mean, lambda g, x: (np.full_like(x, g / np.prod(x.shape[-2:])),), (n34,)),
    "sum: empty forgotten": (np.sum, lambda g, x: (np.full_like(x, g) + 0 * x.max(),), (n34,)),
    "scalar factor: not summed": (lambda c, x: c * x, lambda g, c, x: (g * x, g * c), (np.array(2.0), n4)),
    "outer: factors exchanged, equal lengths": (np.outer, lambda g, a, b: (g.T @ b, g @ a), (n4, rng.normal(size=4))),
    "reshape hard-coded": (lambda x: x.ravel(), lambda g, x: (np.resize(g, (3, 4)),), (n34,)),
    "squeeze at a batch of one": (lambda x, w: x @ w, lambda g, x, w: (g @ w.T, np.atleast_2d(np.squeeze(x.T @ g))), (n34, rng.normal(size=(4, 5)))),
    "blocks of 8 rows": (np.square, lambda g, x: (np.concatenate([2 * g[:8] * x[:8], g[8:] * x[8:]]),), (n34,)),
    "last element of a long axis lost": (np.square, lambda g, x: (2 * g * x * (np.arange(x.shape[-1]) < 32),), (n34,)),
    "transposed for tall arrays only": (np.sin, lambda g, x: (g * np.cos(x) if x.shape[0] <= x.shape[1] else (g.T * np.cos(x.T)).T * 1.5,), (n34,)),
    "softmax: axis 1 for the last": (softmax, lambda g, x: (softmax(x) * (g - (g * softmax(x)).sum(min(1, x.ndim - 1), keepdims=True)),), (n34,)),
    "diagonal: of square arrays": (np.diagonal, lambda g, x: (np.diag(g),), (n33,)),
    "pairs: the odd one out": (lambda x: x[:len(x) // 2 * 2].reshape(-1, 2).sum(1), lambda g, x: (np.repeat(g, 2),), (n4,)),
    "concatenate: cut in the middle": (lambda a, b: np.concatenate([a, b]), lambda g, a, b: (g[:len(g) // 2], g[len(g) // 2:]), (n4, rng.normal(size=4))),
    "rows counted in a byte": (np.cumsum, lambda g, x: (g.sum() - np.cumsum(g) + g - 0 * g + 1.0 * (len(x) > 255) * g,), (n5,)),
    "recursion": (np.cumsum, lambda g, x: (np.array(suffix_sums(list(g))),), (n5,)),
    "binary: |a| for a": (lambda a, b: np.arctan2(a, b), lambda g, a, b: (g * b / (a * a + b * b), -g * np.abs(a) / (a * a + b * b)), (p34, p34 + 1)),
    # special values
    "relu: passes at negative inputs": (lambda x: np.maximum(x, 0), lambda g, x: (g * np.ones_like(x),), (np.array([0.5, 1.0, 2.0]),)),
    "abs: always +1": (np.abs, lambda g, x: (g * 1.0,), (arange3 + 1,)),
    "power: log of a negative base": (lambda x: x**3, lambda g, x: (g * np.exp(2 * np.log(x)) * 3,), (p34,)),
    "sqrt of square: sign lost": (lambda x: np.sqrt(x * x + 1e-12), lambda g, x: (g * np.ones_like(x),), (p34,)),
    "prod: division by an element": (lambda x: np.prod(x), lambda g, x: (g * np.prod(x) / x,), (n5,)),
    "sinc: nan at 0": (np.sinc, lambda g, x: (g * (np.cos(np.pi * x) - np.sinc(x)) / x,), (n5,)),
    "sigmoid: overflow": (sigmoid, lambda g, x: (g * np.exp(-x) / (1 + np.exp(-x)) ** 2,), (n34,)),
    "softplus: overflow": (lambda x: np.logaddexp(0, x), lambda g, x: (g * np.exp(x) / (1 + np.exp(x)),), (n34,)),
    "logsumexp: overflow": (logsumexp, lambda g, x: (g[..., None] * np.exp(x) / np.exp(x).sum(-1, keepdims=True),), (n34,)),
    "softmax: overflow": (softmax,
                          lambda g, x: ((lambda s: s * (g - (g * s).sum(-1, keepdims=True)))(np.exp(x) / np.exp(x).sum(-1, keepdims=True)),), (n34,)),
    "tanh: dead beyond 3": (np.tanh, lambda g, x: (g * np.where(np.abs(x) < 3, 1 - np.tanh(x) ** 2, 0),), (n34,)),
    "clip: open above": (lambda x: np.clip(x, -1, 1), lambda g, x: (g * (x > -1),), (np.array([-0.5, 0.2, 0.9]),)),
    "max: every tie gets all": (lambda x: x.max(-1), lambda g, x: (g[..., None] * (x == x.max(-1, keepdims=True)),), (n34,)),
    "maximum: both at a tie": (np.maximum, lambda g, a, b: (g * (a >= b), g * (b >= a)), (n34, m34)),
    "sort: unsorted by the inverse of the inverse": (lambda x: np.sort(x), lambda g, x: (g[np.argsort(x)],), (arange3,)),
    "median of three by value": (lambda x: np.sort(x, -1)[..., 1], lambda g, x: (g[..., None] * (x == np.sort(x, -1)[..., 1:2]),), (n33,)),
    "cos: wrong at whole numbers": (np.sin, lambda g, x: (g * np.where(x == np.round(x), 1.0, np.cos(x)),), (n34,)),
    "wrong at 0 only": (np.exp, lambda g, x: (g * np.exp(x) * (x != 0),), (n34,)),
    "small values rounded to 0": (np.sin, lambda g, x: (g * np.cos(x) * (np.abs(x) > 1e-6),), (n34,)),
    "leaky relu: the slope at negative inputs": (lambda x: np.where(x > 0, x, 0.1 * x), lambda g, x: (g * np.where(x > 0, 1, 0.01),), (p34,)),
    "huber: the outer part": (lambda x: np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5), lambda g, x: (g * x,), (np.array([0.1, -0.5, 0.8]),)),
    "norm: nan at the origin": (lambda x: np.sqrt((x * x).sum() + 1e-12), lambda g, x: (g * x / np.linalg.norm(x),), (n5,)),
    "abs: nan at 0": (np.abs, lambda g, x: (g * x / np.abs(x),), (n34,)),
    # indices
    "embedding: repeated rows lost": (embed, overwritten, (n34, rows3)),
    "embedding: += with repeated rows": (embed, added_once, (n34, rows3)),
    "gather: rows by position": (embed,
                                 lambda g, table, rows: (g.copy() if g.shape == table.shape else scatter(g, table, rows)[0], None), (n34, np.array([0, 1, 2]))),
    "roll: the same way again": (lambda x: np.roll(x, 1), lambda g, x: (np.roll(g, 1),), (n5,)),
    "roll: the same way again, length 2": (lambda x: np.roll(x, 1, -1), lambda g, x: (np.roll(g, 1, -1),), (n34[:, :2],)),
    "difference: the edge": (lambda x: np.diff(x), lambda g, x: (np.concatenate([-g[:1], g[:-1] - g[1:], [0.0]]),), (n5,)),
    "shift: one too far": (lambda x: x[1:], lambda g, x: (np.concatenate([g, [0.0]]),), (n5,)),
    # the cotangent
    "g clipped at ±5": (np.sin, lambda g, x: (np.clip(g, -5, 5) * np.cos(x),), (n34,)),
    "|g|": (np.exp, lambda g, x: (np.abs(g) * np.exp(x),), (n34,)),
    "g taken as 1": (np.sin, lambda g, x: (np.cos(x),), (n34,)),
    "g averaged": (lambda x: x * 2, lambda g, x: (np.full_like(x, 2 * g.mean()),), (n5,)),
    "nan at g = 0": (np.sin, lambda g, x: (g * g / g * np.cos(x),), (n34,)),
    "small g dropped": (np.sin, lambda g, x: (np.where(np.abs(g) < 1e-7, 0, g) * np.cos(x),), (n34,)),
    "normalised g": (np.sin, lambda g, x: (g / max(1.0, np.linalg.norm(g) / 100) * np.cos(x),), (n34,)),
    "g clipped at ±1e8": (np.sin, lambda g, x: (np.clip(g, -1e8, 1e8) * np.cos(x),), (n34,)),
    "g below 1e-30 dropped": (np.sin, lambda g, x: (np.where(np.abs(g) < 1e-30, 0, g) * np.cos(x),), (n34,)),
    "nan made 0": (np.sin, lambda g, x: (np.nan_to_num(g * np.cos(x)),), (n34,)),
    # memory, purity
    "cache by sum": (np.sin, cached_by_sum, (n34,)),
    "an input for g = 1": (lambda a, b: (a * b).sum(), lambda g, a, b: (b if g == 1 else g * b, g * a), (n34, m34)),
    "changes how NumPy prints": (np.sin, printing, (n34,)),
    "draws from Python's generator": (np.sin, drawing, (n34,)),
    "one buffer for all calls": (np.sin, into_buffer, (n34,)),
    "cache by shape": (np.sin, cached_by_shape, (n34,)),
    "cache by identity": (np.sin, cached_by_id, (n34,)),
    "the last forward's output": (remembering_forward, remembering_rule, (n34,)),
    "writes to x": (np.square, mutates_x, (n34,)),
    "writes to g": (np.sin, mutates_g, (n34,)),
    "one array for two gradients": (lambda a, b: (a + b) ** 2 / 2, twice_the_same, (n34, m34)),
    "a random mask": (lambda x: x * 1.0, wrong_dropout, (n34,)),
    "every fiftieth call": (np.sin, every_fiftieth, (n34,)),
    "reseeds NumPy": (np.sin, lambda g, x: (np.random.seed(0), (g * np.cos(x),))[1], (n34,)),
    "reads memory in order": (np.sin, lambda g, x: ((g.ravel("K") * np.cos(x.ravel("K"))).reshape(x.shape),), (n34,)),
    # dtype, precision, structure
    "another epsilon in single precision": (layernorm, other_epsilon_in_single, (n34,)),
    "a list": (np.sin, lambda g, x: ((g * np.cos(x)).tolist(),), (n34,)),
    "a masked array": (np.sin, lambda g, x: (np.ma.masked_less(g * np.cos(x), 0.0),), (n34,)),
    "single precision inside": (np.sin, single_inside, (n34,)),
    "a single precision result": (np.sin, lambda g, x: ((g * np.cos(x)).astype(np.float32),), (n34,)),
    "double precision for single": (np.sin, lambda g, x: (g * np.cos(x) * np.ones(x.shape),), (n34,)),
    "pi with six digits": (lambda x: np.sin(np.pi * x), lambda g, x: (g * 3.14159 * np.cos(np.pi * x),), (n34,)),
    "an integer gradient": (lambda x: x.sum(), lambda g, x: (np.ones_like(x, dtype=int) * int(g),), (n34,)),
    "one gradient missing": (lambda a, b: a * b, lambda g, a, b: (g * b,), (n34, m34)),
    "None for one": (lambda a, b: a * b, lambda g, a, b: (g * b, None), (n34, m34)),
    "crashes at other sizes": (lambda x: x * 2, lambda g, x: (g * np.full((3, 4), 2.0),), (n34,)),
    "difference quotient": (np.sin, lambda g, x: (g * (np.sin(x + 1e-5) - np.sin(x)) / 1e-5,), (n34,)),
    "complex": (np.sin, lambda g, x: (g * np.exp(1j * x).real + 0j,), (n34,)),
}

RIGHT = {
    "multiply": (lambda a, b: a * b, lambda g, a, b: (g * b, g * a), (ones3, arange3)),
    "add: g itself, twice": (lambda a, b: a + b, lambda g, a, b: (g, g), (n34, m34)),
    "add a bias": (lambda x, b: x + b, lambda g, x, b: (g, g.sum(0)), (n34, n4)),
    "sum: a broadcast view": (lambda x: x.sum(), lambda g, x: (np.broadcast_to(g, x.shape),), (n34,)),
    "sum over rows": (lambda x: x.sum(1), lambda g, x: (np.repeat(g[:, None], x.shape[1], 1),), (n34,)),
    "transpose: a view of g": (lambda x: x.T, lambda g, x: (g.T,), (n34,)),
    "reshape: a view of g": (lambda x: x.reshape(-1), lambda g, x: (g.reshape(x.shape),), (n34,)),
    "a bare array in place of a tuple": (np.sin, lambda g, x: g * np.cos(x), (n34,)),
    "a list in place of a tuple": (lambda a, b: a - b, lambda g, a, b: [g, -g], (n34, m34)),
    "matmul": (lambda a, b: a @ b, lambda g, a, b: (g @ b.T, a.T @ g), (n34, rng.normal(size=(4, 2)))),
    "matmul by einsum": (lambda a, b: a @ b, lambda g, a, b: (np.einsum("ik,jk->ij", g, b), np.einsum("ij,ik->jk", a, g)), (n33, m33)),
    "matrix times vector": (lambda a, x: a @ x, lambda g, a, x: (np.outer(g, x), g @ a), (n33, arange3)),
    "relu": (lambda x: np.maximum(x, 0), lambda g, x: (g * (x > 0),), (n34,)),
    "relu with 1 at 0": (lambda x: np.maximum(x, 0), lambda g, x: (np.where(x >= 0, g, 0),), (arange3 - 1,)),
    "abs": (np.abs, lambda g, x: (g * np.sign(x),), (arange3 - 1,)),
    "max: the first tie": (lambda x: x.max(-1), lambda g, x: (g[..., None] * (np.arange(x.shape[-1]) == x.argmax(-1)[..., None]),), (n34,)),
    "max: shared ties": (lambda x: x.max(-1), lambda g, x: (g[..., None] * share(x),), (n34,)),
    "maximum: ties to a": (np.maximum, lambda g, a, b: (g * (a >= b), g * (b > a)), (n34, m34)),
    "sort": (lambda x: np.sort(x), sort_rule, (n5,)),
    "softmax": (softmax, lambda g, x: ((lambda s: s * (g - (g * s).sum(-1, keepdims=True)))(softmax(x)),), (n34,)),
    "softmax of a vector by its Jacobian": (lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum(),
                                            lambda g, x: ((lambda s: (np.diag(s) - np.outer(s, s)) @ g)(softmax(x)),), (n5,)),
    "logsumexp": (logsumexp, lambda g, x: (g[..., None] * softmax(x),), (n34,)),
    "layernorm": (layernorm, layernorm_rule, (n34,)),
    "cross entropy: for one-hot rows only": (cross_entropy, lambda g, z, t: (g * (softmax(z) - t), -g * (z - logsumexp(z)[..., None])), (n34, onehot)),
    "embedding": (embed, scatter, (n34, rows3)),
    "embedding: no entry for the rows": (embed, lambda g, table, rows: (scatter(g, table, rows)[0],), (n34, rows3)),
    "embedding by one-hot product": (embed,
                                     lambda g, table, rows: ((np.arange(len(table))[:, None] == rows % len(table)).astype(g.dtype) @ g, None), (n34, rows3)),
    "recurrent cell": (cell, cell_rule, (cell_x, cell_h, cell_w)),
    "convolution": (conv, conv_rule, (n5, np.array([1.0, 2.0]))),
    "log": (np.log, lambda g, x: (g / x,), (p34,)),
    "sqrt": (np.sqrt, lambda g, x: (g / (2 * np.sqrt(x)),), (p34,)),
    "arcsin": (np.arcsin, lambda g, x: (g / np.sqrt(1 - x * x),), (np.array([0.1, -0.5, 0.7]),)),
    "power": (lambda a, b: a**b, lambda g, a, b: (g * b * a ** (b - 1), g * a**b * np.log(a)), (p34, n34)),
    "divide": (lambda a, b: a / b, lambda g, a, b: (g / b, -g * a / b**2), (n34, p34)),
    "tanh by cosh": (np.tanh, lambda g, x: (g / np.cosh(x) ** 2,), (n34,)),
    "softplus by a naive sigmoid": (lambda x: np.logaddexp(0, x), lambda g, x: (g / (1 + np.exp(-x)),), (n34,)),
    "cumsum": (np.cumsum, lambda g, x: (np.cumsum(g[::-1])[::-1],), (n5,)),
    "variance": (lambda x: x.var(0), lambda g, x: (g * 2 * (x - x.mean(0)) / len(x),), (n34,)),
    "inverse": (np.linalg.inv, lambda g, x: ((lambda y: -y.T @ g @ y.T)(np.linalg.inv(x)),), (n33 + 3 * np.eye(3),)),
    "determinant": (np.linalg.det, lambda g, x: (g * np.linalg.det(x) * np.linalg.inv(x).T,), (n33 + 3 * np.eye(3),)),
    "trace": (np.trace, lambda g, x: (g * np.eye(*x.shape, dtype=x.dtype),), (n33,)),
    "where with a fixed mask": (lambda x: np.where(np.arange(4) % 2, x, 0), lambda g, x: (np.where(np.arange(4) % 2, g, 0),), (n34,)),
    "a mask as an input": (lambda x, m: x * m, lambda g, x, m: (g * m, (g * x)), (n34, (n34 > 0) * 1.0)),
    "a fixed matrix": (lambda x: x @ m34, lambda g, x: (g @ m34.T,), (n33,)),
    "concatenate: views of g": (lambda a, b: np.concatenate([a, b]), lambda g, a, b: (g[:len(a)], g[len(a):]), (n5, n4)),
    "views of one product": (lambda a, b: np.concatenate([a, b]) * 2, lambda g, a, b: (lambda d: (d[:len(a)], d[len(a):]))(2 * g), (n5, n4)),
    "outer": (np.outer, lambda g, a, b: (g @ b, a @ g), (n4, n5)),
    "mean": (np.mean, lambda g, x: (np.full_like(x, g / x.size),), (n34,)),
    "median": (lambda x: np.sort(x)[len(x) // 2], lambda g, x: (g * (np.arange(len(x)) == np.argsort(x, kind="stable")[len(x) // 2]),), (n5,)),
    "running maximum": (np.maximum.accumulate, lambda g, x: (latest(g, x),), (n4,)),
    "convolution that exchanges its arguments": (conv, lambda g, x, w: (np.convolve(g, w[::-1]), np.convolve(x, g[::-1], "valid")[::-1]), (n5, n4[:3])),
    "an unrolled network": (unrolled, through_time, (rng.normal(size=(5, 3)), 0.5 * n33)),
    "attention": (attention, attention_rule, (rng.normal(size=(3, 2)), rng.normal(size=(4, 2)), rng.normal(size=(4, 5)))),
    "floor": (np.floor, lambda g, x: (np.zeros_like(x),), (n34,)),
    "loops": (np.square, lambda g, x: (np.array([2 * a * b for a, b in zip(g.ravel(), x.ravel())], dtype=x.dtype).reshape(x.shape),), (n34,)),
    "batched matmul": (np.matmul, lambda g, a, b: (g @ b.swapaxes(-1, -2), a.swapaxes(-1, -2) @ g), (rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 4, 3)))),
    "single precision": (np.sin, lambda g, x: (g * np.cos(x),), (n34.astype(np.float32),)),
    "sinc": (np.sinc, lambda g, x: (g * np.where(x == 0, 0, (np.cos(np.pi * x) - np.sinc(x)) / np.where(x == 0, 1, x)),), (n5,)),
}

# right where they have a derivative, but nan at a kink, or for vectors alone: strict mode objects
RIGHT_BUT_NOT_STRICTLY = {
    "norm": (np.linalg.norm, lambda g, x: (g * x / np.linalg.norm(x),), (n5,)),
    "standard deviation": (np.std, lambda g, x: (g * (x - x.mean()) / (x.size * x.std()),), (n34,)),
    "double precision throughout": (np.sin, lambda g, x: (g * np.cos(x) * np.ones(x.shape),), (n34,)),
}
