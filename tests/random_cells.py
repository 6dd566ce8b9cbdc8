"""Random cells: what hypothesis draws is a recipe, short and printable; `cell(recipe, p)` is the cell it stands for."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

import tinygrad_rnn as tg

# each kind makes one more (…, H) value of two that exist already
SMOOTH = {
    "tanh": lambda u, w, p: tg.tanh(u),
    "sigmoid": lambda u, w, p: tg.sigmoid(u),
    "softplus": lambda u, w, p: tg.softplus(u),
    "gelu": lambda u, w, p: tg.gelu(u),
    "matmul": lambda u, w, p: tg.tanh(u) @ p["U"],
    "matmul_transposed": lambda u, w, p: tg.tanh(u) @ p["V"].T,
    "columns": lambda u, w, p: (p["U"].T @ tg.tanh(u).T).T,
    "einsum": lambda u, w, p: tg.einsum("...i,ij->...j", tg.tanh(u), p["V"]),
    "quadratic": lambda u, w, p: tg.einsum("...i,...i,ij->...j", tg.tanh(u), tg.sin(w), p["V"]),
    "multiply": lambda u, w, p: tg.tanh(u) * tg.sin(w),
    "add": lambda u, w, p: u + w,
    "subtract": lambda u, w, p: u - w,
    "bias": lambda u, w, p: u + p["b"],
    "scale": lambda u, w, p: p["a"] * u,
    "divide": lambda u, w, p: u / (2.0 + tg.cos(w)),
    "power": lambda u, w, p: tg.tanh(u) ** 2 + (1.5 + tg.sin(w)) ** 1.3,
    "exp": lambda u, w, p: tg.exp(-u * u),
    "log": lambda u, w, p: tg.log(1.0 + u * u) + tg.log1p(w * w),
    "sqrt": lambda u, w, p: tg.sqrt(1.0 + u * u) - w,
    "softmax": lambda u, w, p: tg.softmax(u, axis=-1),
    "log_softmax": lambda u, w, p: 0.3 * tg.log_softmax(u, axis=-1),
    "logsumexp": lambda u, w, p: tg.tanh(u) - 0.2 * tg.logsumexp(w, axis=-1, keepdims=True),
    "sum": lambda u, w, p: tg.tanh(u - 0.1 * tg.sum(w, axis=-1, keepdims=True)),
    "mean": lambda u, w, p: u - tg.mean(w, axis=-1, keepdims=True),
    "prod": lambda u, w, p: u + 0.1 * tg.prod(tg.tanh(w), axis=-1, keepdims=True),
    "norm": lambda u, w, p: u / (1.0 + tg.norm(w, axis=-1, keepdims=True)),
    "layer_norm": lambda u, w, p: tg.nn.functional.layer_norm(u, p["a"], p["b"], 0.1),
    "cumsum": lambda u, w, p: tg.tanh(tg.cumsum(u, axis=-1)),
    "split": lambda u, w, p: halves(tg.split(tg.concatenate([u, w], axis=-1), 2, axis=-1)),
    "gates": lambda u, w, p: gates(tg.split(tg.tanh(u) @ p["G"] + p["g"], 3, -1), w),
    "concatenate": lambda u, w, p: tg.concatenate([u[..., :1], w[..., 1:]], axis=-1),
    "stack": lambda u, w, p: tg.sum(tg.stack([u, tg.tanh(w)], axis=-1) * 0.5, axis=-1),
    "take": lambda u, w, p: tg.tanh(u)[..., np.r_[1, 0, 2:u.shape[-1]]],
    "repeat": lambda u, w, p: u + 0.5 * tg.tanh(w)[..., np.zeros(u.shape[-1], int)],
    "roll": lambda u, w, p: tg.roll(u, 1, -1),
    "flip": lambda u, w, p: tg.flip(u, -1) * 0.5 + w * 0.5,
    "reshape": lambda u, w, p: tg.tanh(u).reshape(-1).reshape(u.shape),
    "pad": lambda u, w, p: u * 0.5 + tg.pad(tg.tanh(w)[..., 1:], [(0, 0)] * (w.ndim - 1) + [(1, 0)]),
    "outer": lambda u, w, p: u + 0.1 * tg.sum(tg.expand_dims(tg.tanh(u), -1) * tg.expand_dims(tg.sin(w), -2), axis=-1),
    "detached": lambda u, w, p: tg.tanh(u) + tg.stop_gradient(tg.sin(w)),
}
KINKED = {
    "relu": lambda u, w, p: tg.relu(u) + 0.1 * u,
    "abs": lambda u, w, p: tg.abs(u) - w,
    "clip": lambda u, w, p: tg.clip(u, -0.7, 0.8) + 0.1 * u,
    "where": lambda u, w, p: tg.where(u > 0.1, u, 0.3 * w),
    "maximum": lambda u, w, p: tg.maximum(u, 0.5 * w),
    "max": lambda u, w, p: u - tg.max(w, axis=-1, keepdims=True),
}
KINDS = SMOOTH | KINKED


def halves(parts):
    return 0.5 * parts[0] + tg.tanh(parts[1])


def gates(parts, w):
    i, f, n = parts
    return tg.sigmoid(f) * w + tg.sigmoid(i) * tg.tanh(n)


@dataclass(frozen=True)
class Recipe:
    """The sizes, the ops and the wiring of a cell; `B` None: no batch axis. `seed` draws its numbers."""

    T: int
    B: int | None
    H: int
    script: tuple  # (kind, first, second): numbers of earlier values, counted from the last
    second_state: str
    output: str
    seed: int

    @property
    def lead(self):
        return () if self.B is None else (self.B,)

    def arrays(self):
        """Parameters whose products do not commute, a state, a sequence: everything a gradient is taken of."""
        rng, H, I = np.random.default_rng(self.seed), self.H, 2
        p = dict(W=rng.normal(size=(I, H)), U=rng.normal(size=(H, H)) * 0.7, V=rng.normal(size=(H, H)) * 0.7,
                 G=rng.normal(size=(H, 3 * H)) * 0.5, g=rng.normal(size=3 * H), a=rng.normal(size=H) * 0.5, b=rng.normal(size=H))
        state = rng.normal(size=(*self.lead, H))
        if self.second_state != "none":
            state = (state, rng.normal(size=(*self.lead, H)))
        return dict(p=p, state=state, xs=rng.normal(size=(self.T, *self.lead, I)))


def cell(recipe, p):
    """The cell, closing over the parameters p."""
    def stepped(state, x):
        first, second = state if recipe.second_state != "none" else (state, None)
        values = [first if second is None else second, x @ p["W"], x @ p["W"] + first @ p["U"]]
        for kind, i, j in recipe.script:
            values.append(KINDS[kind](values[-1 - i % len(values)], values[-1 - j % len(values)], p))
        new = tg.tanh(values[-1] + 0.5 * first)
        y = {"state": new, "two": (values[-1], new), "tree": {"a": tg.sum(values[-1]), "b": first}, "x": x,
             "twice": (new, new, values[2]), "before": first, "constant": (p["b"], new)}[recipe.output]
        if second is None:
            return new, y
        return (new, {"delayed": first, "own": tg.tanh(values[-2]), "slow": second * 0.9 + 0.1 * values[-1],
                      "same": new, "kept": second}[recipe.second_state]), y

    return stepped


def recipes(kinds=tuple(KINDS), most=5, steps=5):
    number = st.integers(0, 5)
    return st.builds(Recipe, T=st.integers(1, steps), B=st.sampled_from([2, None, 1, 3]), H=st.sampled_from([3, 2, 4]),
                     script=st.lists(st.tuples(st.sampled_from(kinds), number, number), min_size=1, max_size=most).map(tuple),
                     second_state=st.sampled_from(["none", "delayed", "own", "slow", "same", "kept"]),
                     output=st.sampled_from(["state", "two", "tree", "x", "twice", "before", "constant"]),
                     seed=st.integers(0, 10**6))


@st.composite
def with_options(draw, kinds=tuple(KINDS), most=5):
    """A recipe, and any combination of scan's options."""
    recipe = draw(recipes(kinds, most))
    truncate = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 5)))
    options = dict(reverse=draw(st.booleans()), checkpoint=draw(st.sampled_from([None, 1, 2, "sqrt"])), truncate=truncate)
    rows = recipe.output not in ("tree", "constant")  # every output has the batch first
    if recipe.B is not None and rows and draw(st.booleans()):
        options["lengths"] = tuple(draw(st.lists(st.integers(0, recipe.T), min_size=recipe.B, max_size=recipe.B)))
    return recipe, options


def loss(recipe, *, compiled=True, lengths=None, **options):
    """A function of the recipe's arrays in which every output and state has a weight of its own."""
    def total(at):
        rng = np.random.default_rng(recipe.seed + 1)
        lengths_ = None if lengths is None else np.array(lengths)
        out = tg.scan(cell(recipe, at["p"]), at["state"], at["xs"], compiled=compiled, lengths=lengths_, **options)
        return sum(tg.sum(tg.sin(leaf) * rng.normal(size=leaf.shape)) for leaf in tg.trees.flatten(out)[0])

    return total


def directions(arrays, seed=0):
    rng = np.random.default_rng(seed)
    return tg.trees.map(lambda a: rng.normal(size=np.shape(a)), arrays)


def inner(a, b):
    return sum(tg.sum(x * y) for x, y in zip(tg.trees.flatten(a)[0], tg.trees.flatten(b)[0]))


def derivative(f, order, *vs):
    """The gradient of f, its product with v, the gradient of that with another v: orders 1, 2, 3."""
    if order == 1:
        return tg.grad(f)
    lower = derivative(f, order - 1, *vs[1:])
    return tg.grad(lambda at: inner(lower(at), vs[0]))


def assert_same(found, expected, rtol=1e-9, what=""):
    """Trees equal, measured against the largest entry of the expected one."""
    names = tg.trees.paths(expected)
    found, expected = tg.trees.flatten(found)[0], tg.trees.flatten(expected)[0]
    assert len(found) == len(expected)
    scale = max([1.0, *(float(np.abs(e).max()) for e in expected if np.size(e))])
    for name, f, e in zip(names, found, expected):
        np.testing.assert_allclose(f, e, rtol=0, atol=rtol * scale, err_msg=f"{what} {name}")
