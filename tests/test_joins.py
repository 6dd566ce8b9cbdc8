"""What is joined once is not joined again: equal bodies, and when nothing may change."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import joins, ops
from tinygrad_rnn.program import Program, Tracer
from tinygrad_rnn.tensor import switched

RNG = np.random.default_rng(3)
INPUTS = dict(state=RNG.normal(size=(4, 3)), p=RNG.normal(size=(4, 3)), q=RNG.normal(size=(4, 3)), r=RNG.normal(size=(4, 2)),
              W=RNG.normal(size=(8, 5)), V=RNG.normal(size=(8, 3)), x=RNG.normal(size=(4, 6)))


def traced(body):
    """The program of a function of INPUTS that returns the next state first."""
    tracer = Tracer("body")
    inputs = {name: tracer.input(array, name) for name, array in INPUTS.items()}
    with switched(grad=False, recorder=tracer):
        results = body(**{name: tensor for name, (_, tensor) in inputs.items()})
    return Program([value for value, _ in inputs.values()], tracer.calls, [tracer.value(result) for result in results])


def backward(state, p, q, r, W, V, x):
    """As the derivative of a gated cell whose pre-activations of x and of the state differ in one gate."""
    a, b = state * p, state * q
    of_state = ops.concatenate([a, b, state[:, :2] * r], axis=-1)
    of_x = ops.concatenate([a, b, r], axis=-1)
    return of_state @ V, of_x @ W, x.T @ of_x, ops.sum(of_x, axis=0)


def same(program, other):
    arrays = list(INPUTS.values())
    return all(np.allclose(one, two, rtol=1e-12, atol=1e-12) for one, two in zip(program.run(arrays), other.run(arrays)))


def test_products_and_sums_of_a_join_are_taken_in_pieces():
    program = traced(backward)
    split = joins.without_joins(program, 1)
    widths = [call.outs[0].shape[1] for call in split.calls if call.op.name == "concatenate" and len(call.outs[0].shape) == 2]
    assert same(program, split) and widths.count(8) == 2  # the one of the state, and the product with x put together again


def test_a_wrong_cut_would_be_seen(monkeypatch):
    program = traced(backward)
    monkeypatch.setattr(joins, "_in_pieces", lambda reader, join, head, tail, made=joins._in_pieces: [
        call if call.op.name != "add" else type(call)(ops.subtract, call.args, call.statics, call.outs) for call in made(reader, join, head, tail)])
    assert not same(program, joins.without_joins(program, 1))


@pytest.mark.parametrize("body", [
    lambda state, p, q, r, W, V, x: (ops.tanh(state), ops.concatenate([state * p, state * q, r], axis=-1)),  # shown whole
    lambda state, p, q, r, W, V, x: (ops.concatenate([state, q, r], axis=-1) @ V, ops.concatenate([p, q, r], axis=-1) @ W),  # nothing shared
    lambda state, p, q, r, W, V, x: (
        ops.concatenate([state, q, r], axis=-1) @ V, ops.tanh(ops.concatenate([state, q, r * r], axis=-1))),  # read as it is
])
def test_what_is_needed_in_one_piece_stays(body):
    program = traced(body)
    assert joins.without_joins(program, 1) is program


def test_the_gru_keeps_one_join_of_its_gates():
    cell = tg.nn.GRUCell(3, 4)
    arrays = np.random.default_rng(0).normal(size=(5, 2, 3))

    def loss(cell, xs):
        return tg.sum(tg.scan(cell, np.zeros((2, 4)), xs)[1])

    step, plain = tg.compiled(tg.grad(loss)), tg.grad(loss)
    with tg.no_grad():
        assert step.source(cell, arrays).count("np.concatenate") == 2  # of the sums that are results
        for found, expected in zip(*(tg.trees.flatten(f(cell, arrays))[0] for f in (step, plain))):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)



def test_a_product_of_two_joins_reads_only_one_of_them_in_pieces():
    def body(state, p, q, r, W, V, x):
        a = state[:, :2] * q[:, :2]
        inside = ops.concatenate([a, state[:, :1], r[:, :1]], axis=-1)
        one, two = (ops.concatenate([a, part, r[:, :1]], axis=-1) for part in (p[:, :1], q[:, :1]))
        return inside @ V[:4], one @ two

    program = traced(body)
    split = joins.without_joins(program, 1)
    assert split is not program and same(program, split)
    cell = lambda state, x: body(state, **{name: array for name, array in INPUTS.items() if name != "state"})
    for compiled, plain in zip(*(tg.scan(cell, INPUTS["state"], None, length=3, compiled=way) for way in (True, False))):
        np.testing.assert_allclose(compiled, plain, rtol=1e-12)
