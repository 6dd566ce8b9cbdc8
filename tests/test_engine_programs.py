"""Random programs: the engine against the twin (tests/twin.py) at first and second order, and planted faults found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twin import boxed, gradient, values

import tinygrad_rnn as tg

TOLERANCE = dict(rtol=1e-9, atol=1e-9)


def fitted(a, b):
    """Two operands that broadcast: both are cut to the smaller size along an axis where they differ."""
    for axis in range(1, min(np.ndim(a), np.ndim(b)) + 1):
        n = min(np.shape(a)[-axis], np.shape(b)[-axis])
        if np.shape(a)[-axis] != np.shape(b)[-axis] and n > 1:
            cut = (..., slice(0, n), *[slice(None)] * (axis - 1))
            a, b = a[cut], b[cut]
    return a, b


def repeated(a, b):
    shape = np.broadcast_shapes(np.shape(a), np.shape(b))
    return [np.broadcast_to(a, shape), np.broadcast_to(b, shape)]


def positive(a):
    return 1.5 + np.tanh(a)


def matrices(a, b):
    a = np.reshape(a, (-1, np.shape(a)[-1] if np.ndim(a) else 1))
    b = np.reshape(b, (np.shape(b)[0] if np.ndim(b) else 1, -1))
    n = min(np.shape(a)[1], np.shape(b)[0])
    return a[:, :n], b[:n]


def mask(a):
    return np.reshape(np.arange(np.size(a)) % 3 > 0, np.shape(a))


BINARY = {
    "add": lambda a, b: np.add(*fitted(a, b)),
    "subtract": lambda a, b: np.subtract(*fitted(a, b)),
    "multiply": lambda a, b: np.multiply(*fitted(np.tanh(a), b)),
    "divide": lambda a, b: np.divide(*fitted(a, positive(b))),
    "matmul": lambda a, b: np.matmul(*matrices(np.tanh(a), np.tanh(b))),
    "stack": lambda a, b: np.stack(repeated(*fitted(a, b)), axis=-1),
    "concatenate": lambda a, b: np.concatenate([np.reshape(a, (-1,)), np.reshape(b, (-1,))], axis=0),
    "where": lambda a, b: np.where(mask(a), a, np.sum(b)),
}
UNARY = {
    "tanh": np.tanh,
    "exp": lambda a: np.exp(np.tanh(a)),
    "log": lambda a: np.log(positive(a)),
    "sqrt": lambda a: np.sqrt(positive(a)),
    "sin": np.sin,
    "cube": lambda a: np.tanh(a) ** 3,
    "negative": lambda a: -a,
    "reflected": lambda a: 1.0 - a / 2.0,
    "sum": lambda a: np.sum(a, axis=-1, keepdims=True) if np.ndim(a) else a,
    "sum_all": lambda a: np.sum(a),
    "mean": lambda a: np.mean(a, axis=0) if np.ndim(a) else a,
    "flat": lambda a: np.reshape(a, (-1,)),
    "column": lambda a: np.expand_dims(a, -1),
    "transposed": lambda a: np.transpose(a),
    "moved": lambda a: np.moveaxis(a, 0, -1) if np.ndim(a) else a,
    "reversed": lambda a: a[::-1] if np.ndim(a) else a,
    "row": lambda a: a[0] if np.ndim(a) else a,
    "twice": lambda a: a[np.array([0, -1, 0])] if np.ndim(a) else a,
    "masked": lambda a: a[mask(a)] if np.ndim(a) else a,
    "spread": lambda a: np.broadcast_to(a, (2, *np.shape(a))) * 1.0,
    "squared": lambda a: np.tanh(a) * np.tanh(a),
}


def run(program, inputs, box=lambda x: x):
    """Every step appends the result of an op on earlier values; the result is a weighted sum of all the last ones."""
    known = [box(x) for x in inputs]
    for name, i, j in program:
        a, b = known[i % len(known)], known[j % len(known)]
        new = box(BINARY[name](a, b) if name in BINARY else UNARY[name](a))
        if 0 < np.size(new) <= 24 and np.ndim(new) <= 4:
            known.append(new)
    weighted = [np.sum(a * np.reshape(0.1 * np.arange(np.size(a)) + 0.3, np.shape(a))) for a in known[-4:]]
    return sum(weighted[1:], weighted[0])


def loss(program):
    return lambda *inputs: run(program, inputs)


def twin_gradients(program, inputs, directions):
    """First derivatives, and the derivatives of their product with `directions`, as the twin finds them."""
    xs = [boxed(x) for x in inputs]
    first = gradient(run(program, xs, boxed), xs)
    along = sum(np.sum(g * v) for g, v in zip(first, directions))
    return [values(g) for g in first], [values(g) for g in gradient(along, xs)]


def agree(program, inputs):
    directions = [np.cos(np.arange(x.size)).reshape(x.shape) for x in inputs]
    first, second = twin_gradients(program, inputs, directions)
    every = tuple(range(len(inputs)))
    for got, expected in zip(tg.grad(loss(program), every)(*inputs), first):
        np.testing.assert_allclose(got, expected, **TOLERANCE)
    for got, expected in zip(tg.hvp(loss(program), tuple(inputs), tuple(directions)), second):
        np.testing.assert_allclose(got, expected, **TOLERANCE)
    leaves = [tg.tensor(x, requires_grad=True) for x in inputs]
    run(program, leaves).backward()
    for leaf, expected in zip(leaves, first):
        np.testing.assert_allclose(np.zeros(leaf.shape) if leaf.grad is None else leaf.grad, expected, **TOLERANCE)
    slope = tg.jvp(loss(program), tuple(inputs), tuple(directions))[1]
    np.testing.assert_allclose(slope, sum((g * v).sum() for g, v in zip(first, directions)), **TOLERANCE)


NAMES = [*BINARY, *UNARY]
programs = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9)
shapes = st.lists(st.lists(st.integers(1, 3), max_size=2).map(tuple), min_size=2, max_size=2)


@given(program=programs, sizes=shapes, seed=st.integers(0, 2**16))
def test_random_programs_agree_with_the_twin(program, sizes, seed):
    rng = np.random.default_rng(seed)
    agree(program, [rng.normal(size=size) for size in sizes])


@pytest.mark.parametrize("name", NAMES)
def test_every_op_of_the_programs_agrees_with_the_twin(name):
    rng = np.random.default_rng(0)
    agree([(name, 0, 1), ("tanh", 2, 2), (name, 2, 1)], [rng.normal(size=(2, 3)), rng.normal(size=(3,))])


FAULTS = {  # a wrong rule for each class of mistake, and an op of the programs that shows it
    "sign": ("subtract", "b", lambda g: g, "subtract"),
    "factor": ("tanh", "x", lambda g, y: g * (1 - 0.999 * y * y), "tanh"),
    "input for output": ("exp", "x", lambda g, x: g * x, "exp"),
    "swapped operands": ("multiply", "b", lambda g, b: g * b, "multiply"),
    "lost transpose": ("transpose", "x", lambda g, x_shape: np.reshape(g, x_shape), "transposed"),
    "second order": ("sin", "x", lambda g, x: g * np.cos(tg.stop_gradient(x)), "sin"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault, monkeypatch):
    op, name, rule, step = FAULTS[fault]
    op = getattr(tg, op)
    monkeypatch.setattr(op, "rules", {**op.rules, name: rule})
    monkeypatch.setattr(op, "_plans", {})
    rng = np.random.default_rng(0)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        agree([(step, 0, 1), (step, 1, 0), (step, 2, 3)], [rng.normal(size=(2, 3)), rng.normal(size=(2, 3))])
