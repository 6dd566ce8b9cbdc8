"""Programs, schedules and generated loops, each by itself: what is recorded, what moves where, what the text does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_cells import assert_same, cell, recipes

import tinygrad_rnn as tg
from tinygrad_rnn.loops import Loop, Schedule, Source
from tinygrad_rnn.program import Program, Tracer, Value
from tinygrad_rnn.spelling import array_text, kernel_text, spell
from tinygrad_rnn.tensor import switched

rng = np.random.default_rng(0)


def traced(function, *arrays, names="abcdef", literals=None):
    """(program, tracer) of a function of arrays."""
    tracer = Tracer("test", literals)
    inputs = [tracer.input(np.asarray(a), name) for a, name in zip(arrays, names)]
    with switched(grad=False, recorder=tracer):
        out = function(*[tensor for _, tensor in inputs])
    outs = [tracer.value(o) for o in (out if isinstance(out, tuple) else (out,))]
    return Program([v for v, _ in inputs] + [v for v, _ in tracer.closed], tracer.calls, outs), tracer


# ---- programs -----------------------------------------------------------------------------------------------


def test_a_program_prints_itself():
    program, _ = traced(lambda a, b: tg.sum(tg.tanh(a @ b) * 2.0, axis=0), np.ones((2, 3)), np.ones((3, 4)))
    assert repr(program) == """\
inputs a: float64[2, 3], b: float64[3, 4]
  v2 = matmul(a, b)
  v3 = tanh(v2)
  v4 = multiply(v3, 2.0)
  v5 = sum(v4, axis=0, keepdims=False)
return v5"""


def test_a_program_runs_again_on_arrays_and_on_tensors():
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))
    program, _ = traced(lambda a, b: (tg.tanh(a @ b), a * 2.0), np.ones((2, 3)), np.ones((3, 4)))
    found = program.run([a, b])
    np.testing.assert_allclose(found[0], np.tanh(a @ b))
    np.testing.assert_allclose(found[1], a * 2)
    grads = tg.grad(lambda a: tg.sum(program.run([a, b])[0]))(a)
    np.testing.assert_allclose(grads, (1 - np.tanh(a @ b) ** 2) @ b.T)


def test_what_nobody_needs_is_left_out():
    program, tracer = traced(lambda a: (tg.exp(a), tg.sin(a))[1], np.ones(2))
    assert len(tracer.calls) == 2 and [c.op.name for c in program.calls] == ["sin"]


def test_one_array_passed_twice_is_two_inputs():
    a = np.ones(3)
    program, _ = traced(lambda x, y: x - y * 2.0, a, a)
    assert len(set(program.inputs)) == 2
    np.testing.assert_allclose(program.run([np.full(3, 5.0), np.ones(3)])[0], 3.0)


def test_numbers_that_the_code_does_not_spell_are_inputs():
    box = [0.731]
    function = lambda a: a * box[0] + 2.0
    program, tracer = traced(function, np.ones(2), literals=frozenset((2.0,)))
    assert len(tracer.closed) == 1 and tracer.closed[0][1].item() == 0.731
    np.testing.assert_allclose(program.run([np.ones(2), np.array(5.0)])[0], 7.0)
    once, _ = traced(lambda a: a * box[0] + a * box[0], np.ones(2), literals=frozenset())
    assert len(once.inputs) == 2


def test_equal_keys_mean_equal_programs():
    key = lambda f, *arrays: tuple(traced(f, *arrays)[1].key)
    a, b = np.ones((2, 2)), np.ones((2, 2))
    assert key(lambda a, b: a @ b, a, b) == key(lambda a, b: a @ b, a, b)
    for other in (lambda a, b: b @ a, lambda a, b: a * b, lambda a, b: a @ a):
        assert key(lambda a, b: a @ b, a, b) != key(other, a, b)
    assert key(lambda a: a[0:1], a) != key(lambda a: a[0:2], a) != key(lambda a: a[:, 0:1], a)
    assert key(lambda a: tg.sum(a, axis=0), a) != key(lambda a: tg.sum(a, axis=1), a)
    assert key(lambda a: a * 2.0, a) != key(lambda a: a * 3.0, a)


# ---- schedules ----------------------------------------------------------------------------------------------

T, B, I, H = 5, 3, 2, 4
W, U, b = rng.normal(size=(I, H)), rng.normal(size=(H, H)), rng.normal(size=H)


def loop_of(function, state, x, *consts, reverse=False):
    """function(state, x, *consts) -> (state, y) as a Loop."""
    program, _ = traced(function, state, x, *consts, names=["h", "x", "W", "U", "b"])
    return Loop(program, 1, 1, len(program.outputs) - 1, reverse)


def elman(h, x, W, U, b):
    h = tg.tanh(x @ W + h @ U + tg.exp(b))
    return h, h, tg.sum(h * h, axis=-1)


def names(calls):
    return [call.op.name for call in calls]


def test_every_call_is_in_its_part():
    s = Schedule(loop_of(elman, np.ones((B, H)), np.ones((B, I)), W, U, b))
    assert "exp" in names(s.once) and "matmul" in names(s.before) and names(s.inside) == ["matmul", "add", "add", "tanh"]
    assert names(s.after) == ["multiply", "sum"]


def test_a_readable_schedule_moves_products_alone():
    s = Schedule(loop_of(lambda h, x, W, U, b: (tg.tanh(tg.sin(x) @ W + x @ W + h @ U + b),) * 2, np.ones((B, H)), np.ones((B, I)), W, U, b), readable=True)
    assert names(s.before) == ["matmul"] and names(s.inside).count("matmul") == 2 and "sin" in names(s.inside)


def test_an_op_without_a_form_over_time_stays():
    @tg.primitive()
    def turned(x, /):
        return x[::-1].copy()

    turned.vjp(x=lambda g: turned(g))
    s = Schedule(loop_of(lambda h, x: (tg.tanh(h + turned(x)),) * 2, np.ones((B, H)), np.ones((B, H))))
    assert "turned" in names(s.inside)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [0, 1, T])
def test_a_loop_is_its_body_step_by_step(steps, reverse):
    loop = loop_of(elman, np.ones((B, H)), np.ones((B, I)), W, U, b, reverse=reverse)
    h0, xs = rng.normal(size=(B, H)), rng.normal(size=(steps, B, I))
    last, ys, norms = loop.run(steps, [h0, xs, W, U, b])
    h, rows = h0, [None] * steps
    for t in (reversed(range(steps)) if reverse else range(steps)):
        h, *rows[t] = loop.body.run([h, xs[t], W, U, b])
    np.testing.assert_allclose(last, h, rtol=1e-12)
    assert ys.shape == (steps, B, H) and norms.shape == (steps, B)
    for t in range(steps):
        np.testing.assert_allclose(ys[t], rows[t][0], rtol=1e-12)
        np.testing.assert_allclose(norms[t], rows[t][1], rtol=1e-12)


def test_the_text_of_a_loop_compiles_alone_and_allocates_nothing_per_step():
    source = Source(loop_of(elman, np.ones((B, H)), np.ones((B, I)), W, U, b))
    scope = {"np": np, **source.constants}
    exec(source.text, scope)
    h0, xs = rng.normal(size=(B, H)), rng.normal(size=(T, B, I))
    arrays = dict(zip([v.name for v in source.loop.body.inputs], [h0, xs, W, U, b]))
    found = scope["run"](T, *arrays.values())
    np.testing.assert_allclose(found[0], tg.scan(lambda h, x: elman(h, x, W, U, b)[:2], h0, xs, compiled=False)[0], rtol=1e-12)
    inner = source.text.split("in zip(")[1].split(":\n", 1)[1].split("    # after")[0]
    for line in inner.splitlines():
        assert " @ " not in line and "np.empty" not in line and " + " not in line, line


@given(recipes(most=4, steps=4), st.booleans())
def test_the_fast_form_of_a_random_cell_is_its_plain_form(recipe, reverse):
    """What a rewritten, scheduled and generated loop gives is what its own program gives, call by call."""
    arrays = recipe.arrays()
    f = lambda compiled: tg.scan(cell(recipe, arrays["p"]), arrays["state"], arrays["xs"], reverse=reverse, compiled=compiled)
    assert_same(f(True), f(False), 1e-10)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_product_that_is_part_of_a_concatenation(batch):
    """NumPy's dot writes into one piece of memory only: a slice of some columns is none, unless there is one row."""
    h0, xs, V = rng.normal(size=(batch, H)), rng.normal(size=(T, batch, H)), rng.normal(size=(2 * H, H))

    def cell(h, x):
        h = tg.tanh(tg.concatenate([h @ U, h * x], axis=1) @ V)
        return h, h

    f = lambda U, compiled: tg.sum(tg.scan(cell, h0, xs @ U, compiled=compiled)[1])
    assert_same(tg.grad(f)(U, True), tg.grad(f)(U, False), 1e-12)


# ---- spelling -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function,text", [
    (lambda a, b: (a + b) * a, "(a + b) * a"), (lambda a, b: a - (b - a), "a - (b - a)"), (lambda a, b: (a - b) - a, "a - b - a"),
    (lambda a, b: a / (b * a), "a / (b * a)"), (lambda a, b: (-a) * b, "-a * b"), (lambda a, b: -(a + b), "-(a + b)"),
    (lambda a, b: (a * b) @ a, "a * b @ a"), (lambda a, b: a * (b @ a), "a * (b @ a)"), (lambda a, b: (a @ b).T, "(a @ b).T"),
    (lambda a, b: (a + b) ** 2, "(a + b) ** 2"), (lambda a, b: (-a) ** 2, "(-a) ** 2"), (lambda a, b: tg.tanh(a[0, :1]), "np.tanh(a[0, :1])"),
    (lambda a, b: tg.sum(a, axis=(0,)), "np.sum(a, axis=0)"), (lambda a, b: a.reshape(4), "a.reshape(4)"),
    (lambda a, b: tg.concatenate([a, b], axis=1), "np.concatenate((a, b), axis=1)"), (lambda a, b: tg.where(a > b, a, 0.0), "np.where(a > b, a, 0.0)"),
    (lambda a, b: tg.moveaxis(tg.stack([a, b]), 0, 2), "np.stack((a, b), axis=0).transpose(1, 2, 0)"),
])
def test_spelling_means_what_the_op_does(function, text):
    """The text has the brackets that it needs and evaluates to the op's result."""
    arrays = rng.normal(size=(2, 2, 2))
    program, _ = traced(function, *arrays)
    makers = {v: c for c in program.calls for v in c.outs}

    def render(arg):
        if not isinstance(arg, Value):
            return repr(arg), 9
        return spell(makers[arg], [render(a) for a in makers[arg].args]) if arg in makers else (arg.name, 9)

    spelled = render(program.outputs[0])[0]
    np.testing.assert_allclose(eval(spelled, {"np": np, "a": arrays[0], "b": arrays[1]}), function(*arrays), rtol=1e-13)
    assert spelled.replace("(a * b) @ a", "a * b @ a").replace("axis=-1", "axis=1") == text


@pytest.mark.parametrize("array", [np.array(0.5), np.arange(3), np.array([[1.5, 2.0]]), np.zeros((0, 3)), np.repeat([0.5, 1.0, 0.5], [10, 5, 5]),
                                   np.tile(np.repeat([0.5, 1.0], 10), (4, 1)), np.ones((2, 3, 4), np.float32), np.array([True, False]),
                                   np.float32([1, 2, 3]), np.random.default_rng(0).normal(size=(3, 9))], ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_the_text_of_an_array_makes_it_again(array):
    scope = {"np": np}
    exec(array_text("c", array), scope)
    assert scope["c"].dtype == array.dtype and scope["c"].shape == array.shape and scope["c"].flags.writeable
    np.testing.assert_array_equal(scope["c"], array)


def test_equal_rows_are_written_once():
    assert len(array_text("c", np.tile(np.repeat([0.5, 1.0], 500), (64, 1)))) < 120


def test_kernels_bring_the_functions_that_they_call():
    text = kernel_text({"softplus": tg.softplus.forward, "softmax": tg.softmax.forward, "logsumexp": tg.logsumexp.forward})
    scope = {"np": np}
    exec(text, scope)
    x = rng.normal(size=(3, 4))
    for name in ("softplus", "softmax", "logsumexp"):
        np.testing.assert_allclose(scope[name](x), getattr(tg, name)(x), rtol=1e-14)
    assert '"""' not in text
