"""What makes a loop faster changes nothing that it computes: means that go into weights, columns, blocks of few steps."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cells import Recipe, assert_same, derivative, directions, loss, with_options

import tinygrad_rnn as tg
from tinygrad_rnn import emit, means, quotients, rows, workspace
from tinygrad_rnn.means import without_means
from tinygrad_rnn.program import Call, Program, Tracer
from tinygrad_rnn.rewrite import _Rewriter
from tinygrad_rnn.tensor import switched

scan_module = sys.modules["tinygrad_rnn.scan"]  # (`tinygrad_rnn.scan` is the function)
rng = np.random.default_rng(0)
norm = tg.nn.functional.layer_norm
unit = lambda v: v / tg.sqrt(mean(v * v) + 0.1)
mean = lambda v: tg.mean(v, axis=-1, keepdims=True)
total = lambda v: tg.sum(v, axis=-1, keepdims=True)
CENTRED = {  # of a state h, an input x and parameters p: values of h's shape in which means meet products
    "centred": lambda h, x, p: (lambda v: v - mean(v))(h @ p["U"]),
    "transposed": lambda h, x, p: (lambda v: tg.sum(v, axis=-1, keepdims=True) * -0.3 + v)(h @ p["U"].T),
    "twice": lambda h, x, p: (lambda v: v - mean(v))((lambda v: 2.0 * v - 0.1 * total(v))(h @ p["U"])),
    "two products": lambda h, x, p: (lambda v: v - mean(v))(h @ p["U"] + x @ p["W"] - p["b"]),
    "negative": lambda h, x, p: (lambda v: -(mean(-v) / 2) + v * 0.5)(x @ p["W"]),
    "reshaped": lambda h, x, p: (lambda v: v - (tg.sum(v, axis=-1) / v.shape[-1]).reshape((*v.shape[:-1], 1)))(h @ p["U"]),
    "product kept": lambda h, x, p: (lambda v: (v - mean(v)) * tg.sin(v))(h @ p["U"]),
    "mean kept": lambda h, x, p: (lambda v: (v - mean(v)) * tg.cos(mean(v)))(h @ p["U"]),
    "normed": lambda h, x, p: norm(h @ p["U"], p["a"], p["b"], 0.1) + norm(x @ p["W"], p["b"], None, 0.2),
    "normed state": lambda h, x, p: norm(h + x @ p["W"], p["a"], p["b"], 0.1) @ p["U"].T,
    "columns of factors": lambda h, x, p: total(h * p["a"] * tg.exp(x @ p["W"]) * mean(x)) * h * total(x),
    "numbers in a sum": lambda h, x, p: mean(-(h * p["a"]) * tg.exp(x @ p["W"]) * 3.0) * h,
    "unit": lambda h, x, p: (unit(h @ p["V"]) * p["e"])[..., :h.shape[-1]] + unit(h) * h,
    "unit, read thrice": lambda h, x, p: (lambda y: y @ p["V"].T * mean(y) + y[..., 2:])(unit(tg.sin(h) @ p["V"] - mean(x))),
    "unit of a unit": lambda h, x, p: (lambda y: unit(y * y)[..., 1:-1])(unit(h @ p["V"] + x @ p["V"][:2])),
    "not quite units": lambda h, x, p: (lambda v, r: (v / r + (v / (r + 1) - 1 / r) * mean(v)) @ p["V"].T)(
        *(lambda v: (v, tg.sqrt(mean(v * v) + 0.1)))(h @ p["V"])),
    "variance": lambda h, x, p: (lambda v: (v - mean(v)) / tg.sqrt(tg.var(v, axis=-1, keepdims=True) + 0.1))(h @ p["U"]),
}


def cell(kind, p):
    def stepped(h, x):
        h = tg.tanh(0.5 * h + CENTRED[kind](h, x, p))
        return h, h * mean(h)

    return stepped


def arrays(lead, H=3, T=5):
    p = dict(U=rng.normal(size=(H, H)), W=rng.normal(size=(2, H)), a=rng.normal(size=H), b=rng.normal(size=H),
             V=rng.normal(size=(H, H + 2)), e=rng.normal(size=H + 2))
    return dict(p=p, h=rng.normal(size=(*lead, H)) * 0.5, xs=rng.normal(size=(T, *lead, 2)))


def value(kind, compiled=True):
    def f(at):
        state, ys = tg.scan(cell(kind, at["p"]), at["h"], at["xs"], compiled=compiled)
        return tg.sum(tg.sin(state)) + tg.sum(ys * ys)

    return f


def widths(monkeypatch, wide):
    """Have arrays of so many elements count as wide; every cell is seen for the first time."""
    monkeypatch.setattr(scan_module, "_programs", {})
    monkeypatch.setattr(scan_module, "_known", {})
    monkeypatch.setattr(rows, "WIDE", wide)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("lead", [(), (1,), (4,)], ids=str)
@pytest.mark.parametrize("kind", CENTRED)
@pytest.mark.parametrize("wide", [1, rows.WIDE])
def test_cells_with_means_equal_the_plain_loop(kind, lead, order, wide, monkeypatch):
    widths(monkeypatch, wide)
    at = arrays(lead)
    vs = [directions(at, k) for k in range(order - 1)]
    found, expected = (derivative(value(kind, compiled), order, *vs)(at) for compiled in (True, False))
    assert_same(value(kind)(at), value(kind, False)(at))
    assert_same(found, expected, what=f"order {order}")


def program(function, *shapes):
    """What a function of Tensors of these shapes does, and arrays to try it on."""
    tracer, inputs = Tracer("a test"), [rng.normal(size=shape) for shape in shapes]
    pairs = [tracer.input(a) for a in inputs]
    with switched(grad=False, recorder=tracer):
        out = function(*[tensor for _, tensor in pairs])
    outs = out if isinstance(out, tuple) else (out,)
    return Program([v for v, _ in pairs], tracer.calls, [tracer.value(o) for o in outs]), inputs


def names(body, shape):
    """The ops that make values of a shape."""
    return [call.op.name for call in body.calls if call.outs[0].shape == shape]


@pytest.mark.parametrize("function,ops", [
    (lambda x, W: (lambda v: v - mean(v))(x @ W), ["matmul"]),
    (lambda x, W: (lambda v: 3.0 * v + total(v))(x @ W), ["matmul"]),
    (lambda x, W: (lambda v: v - mean(v))(x @ W + tg.tanh(x) @ W), ["matmul", "matmul", "add"]),
    (lambda x, W: (lambda v: (v - mean(v), v))(x @ W), ["matmul", "subtract"]),  # the product is wanted as it is
    (lambda x, W: (lambda v: (v - mean(v)) * mean(v))(x @ W), ["matmul", "subtract", "multiply"]),
    (lambda x, W: (lambda v: v - mean(v))(tg.tanh(x @ W)), ["matmul", "tanh", "subtract"]),  # nothing there to take it over
    (lambda x, W: (lambda v: v - mean(v))(x @ W * 2.0 + 1.0), ["matmul", "multiply", "add", "subtract"]),
])
def test_which_means_go_into_a_weight(function, ops):
    body, inputs = program(function, (5, 4), (4, 3))
    fast = without_means(body, [body.inputs[1]])
    assert names(fast, (5, 3)) == ops
    for a, b in zip(fast.run(inputs), body.run(inputs)):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


def test_which_products_take_over_what_a_cotangent_is():
    """The backward of a centred product: products with the transpose, and sums over time, centre something smaller."""
    def back(g, x, W):
        v = (lambda t: t - mean(t))(tg.tanh(g))
        return v @ W.T, (x.T @ v).T

    body, inputs = program(back, (5, 3), (5, 4), (4, 3))
    fast = without_means(body, [body.inputs[2]])
    assert names(fast, (5, 3)) == ["tanh"]
    for a, b in zip(fast.run(inputs), body.run(inputs)):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)
    both = lambda g, x, W: (lambda v: (v @ W.T, v))((lambda t: t - mean(t))(tg.tanh(g)))
    body, inputs = program(both, (5, 3), (5, 4), (4, 3))
    assert "subtract" in names(without_means(body, [body.inputs[2]]), (5, 3))


@pytest.mark.parametrize("fault", ["mean", "law", "factors", "quotient", "row", "behind"])
def test_a_wrong_law_is_found(monkeypatch, fault):
    widths(monkeypatch, 1)
    if fault == "mean":
        monkeypatch.setattr(means._Means, "shifted", lambda self, m, *rest, right=means._Means.shifted: right(self, m, rest[0], rest[1] / 2, *rest[2:]))
    if fault == "law":  # of a cotangent only
        def wrong(self, call, v, right=means._Means.taken):
            self.laws[v].b *= 0.5
            right(self, call, v)

        monkeypatch.setattr(means._Means, "taken", wrong)
    if fault == "factors":
        monkeypatch.setattr(_Rewriter, "sorted_factors", lambda self, k, shape, right=_Rewriter.sorted_factors: (1.0, *right(self, k, shape)[1:]))
    if fault == "quotient":  # t / r is taken for t
        monkeypatch.setattr(quotients._Search, "undivided", lambda self, value: value)
    if fault == "row":  # the factor that is taken out stays
        monkeypatch.setattr(_Rewriter, "without", lambda self, u, k, r, shape: (u, k))
    if fault == "behind":  # it is put behind one product only
        def forgetful(self, call, right=_Rewriter.rows_behind):
            found = right(self, call)
            if found and call.args[0] in self.turned:
                self.calls[-1] = Call(call.op, (call.args[0], self.calls[-1].args[1]), {}, self.calls[-1].outs)
            return found

        monkeypatch.setattr(_Rewriter, "rows_behind", forgetful)
    with pytest.raises(AssertionError):
        for kind in ("centred", "twice", "normed", "numbers in a sum"):
            at = arrays((4,))
            assert_same(tg.grad(value(kind))(at), tg.grad(value(kind, False))(at))


# ---- rows divided by their roots ----------------------------------------------------------------------------


def test_a_dividend_is_not_kept_beside_its_quotient():
    """Of the backward pass of a layer norm only the quotients and the roots are read."""
    text = tg.explain.source(lambda h, x: (lambda h: (h, h))(unit(h @ np.eye(4) + x)), np.zeros((2, 4)), np.zeros((5, 2, 4)))
    assert "saved = (T, deviation, h)" in text, text  # the quotient is the state


@pytest.mark.parametrize("parts", [(0,), (1,), (2,), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_some_cotangents_of_quotients_roots_and_dividends(parts, order):
    """What is kept was decided for the cotangents of all results; a loss may read only some of them."""
    def f(at, compiled=True):
        def step(h, x):
            d = h @ at["p"]["U"] + x @ at["p"]["W"]
            r = tg.sqrt(mean(d * d) + 0.1)
            return tg.tanh(h + tg.exp(-r) * at["p"]["a"]), (d / r, r, mean(d / (r + 1)))

        ys = tg.scan(step, at["h"], at["xs"], compiled=compiled)[1]
        return sum(tg.sum(tg.sin(ys[i])) for i in parts)

    at = arrays((4,))
    vs = [directions(at, k) for k in range(order - 1)]
    found, expected = (derivative(lambda at: f(at, compiled), order, *vs)(at) for compiled in (True, False))
    assert_same(found, expected)


def test_the_factor_of_a_row_stands_behind_the_products(monkeypatch):
    widths(monkeypatch, 1)
    H, G = 4, 16
    cell = lambda p: lambda h, x: (lambda h: (h, h))(tg.tanh(unit(h @ p["U"]) * p["a"])[..., :H] + x)
    at = dict(U=rng.normal(size=(H, G)), a=rng.normal(size=G))
    step = lambda p: tg.explain.source(cell(p), np.zeros((2, H)), np.zeros((5, 2, H)), optimized=True)
    text = step(at)
    backward = text[text.index("def backward"):]
    assert re.search(r"dot\((\w+), \w+, (\w+)\)\n +multiply\(\2, \w+, ", backward), text
    monkeypatch.setattr(rows, "WIDE", 1 << 12)
    assert step(at) != text


@pytest.mark.parametrize("batch, alone", [(1, True), (2, False)])
def test_one_number_stands_beside_an_array_without_axes(batch, alone):
    """A row's root, its mean and the products of its cotangent: with one row they are numbers."""
    cell = lambda h, x: (lambda h: (h, h))(tg.tanh(unit(h @ np.eye(4) + x) - mean(tg.sin(h)) * h))
    text = tg.explain.source(cell, np.zeros((batch, 4)), np.zeros((5, batch, 4)), optimized=True)
    backward = text[text.index("def backward"):]
    assert (".reshape(())" in backward) is alone, text
    assert ("np.broadcast_to" in backward) is not alone, text


def test_a_compiled_step_knows_what_is_a_root():
    """Its loops are made again where a cotangent is the same at every step."""
    def f(at):
        cell = lambda h, x: (lambda h: (h, h))(tg.tanh(unit(h @ at["p"]["U"]) + x @ at["p"]["W"]))
        return tg.sum(tg.scan(cell, at["h"], at["xs"])[1])

    step, at = tg.compiled(tg.grad(f)), arrays((4,))
    step(at)
    assert step.source(at).count("divide(") == 2, step.source(at)  # by r, and 1 / r


def test_what_is_made_of_weights_once_is_made_once_for_all_loops():
    """The centred weights of the forward pass serve the backward pass; not where something was written in their place."""
    cell = lambda W, squash: lambda h, x: (lambda h: (h, h))(squash(unit((lambda v: v - mean(v))(h @ W))) + x[..., :1])
    loss = lambda W, at, squash=tg.tanh: tg.sum(tg.scan(cell(W, squash), at["h"], at["xs"])[1])

    def overwritten(at):
        W = at["p"]["U"] * 2.0
        first = loss(W, at)
        return first + loss(W * 3.0, at, tg.sin)

    at = arrays((4,))
    text = tg.compiled(tg.grad(lambda at: loss(at["p"]["U"], at))).source(at)
    assert text.count(" @ constant") == 2, text  # of the weight, and of its gradient
    step = tg.compiled(overwritten)
    assert_same(step(at), overwritten(at))
    assert re.search(r"(v\d*) = v\d* \* 2.0\n(.*\n)* +multiply\(\1, [\w.]+, \1\)", step.source(at)), step.source(at)


def test_what_was_made_once_is_let_go_after_the_last_loop_that_reads_it():
    """The halved weights of the gates serve the forward pass alone."""
    def gated(p, h, x):
        f, n = tg.split(h @ p["U"] + x @ p["W"], 2, axis=-1)
        h = tg.sigmoid(f) * h + tg.tanh(n)
        return h, h

    xs = np.zeros((50, 32, 8))
    gradient = tg.grad(lambda p: tg.sum(tg.scan(lambda h, x: gated(p, h, x), np.zeros((32, 64)), xs)[1]))
    text = tg.compiled(gradient).source(dict(U=np.ones((64, 128)), W=np.ones((8, 128))))
    halved = re.findall(r"(\w+) = \w+ \* constant\w*\n", text[:text.index("# buffers")])
    assert len(halved) == 2 and {name for line in re.findall(r"del (.*)", text) for name in line.split(", ")}.issuperset(halved), text


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.sampled_from([1e-5, 1e-30, 1e-36]), st.sampled_from([1, 1 << 12]))
def test_extreme_rows_have_the_gradients_of_the_plain_loop(seed, epsilon, wide):
    """Rows, weights and cotangents of sizes from 1e-12 to 1e12, float32: finite where the plain loop is, and as accurate."""
    rng = np.random.default_rng(seed)
    sizes = lambda *lead: 10.0 ** rng.uniform(-12, 12, size=lead)
    at = dict(V=rng.normal(size=(3, 5)) * sizes(), W=rng.normal(size=(2, 5)) * sizes(), a=rng.normal(size=5), h=rng.normal(size=(4, 3)) * sizes(4, 1),
              xs=rng.normal(size=(3, 4, 2)) * sizes(3, 4, 1), g=rng.normal(size=(3, 4, 3)) * sizes(3, 4, 1))
    at = {name: a.astype(np.float32) for name, a in at.items()}
    normed = lambda v: (lambda d: d / tg.sqrt(mean(d * d) + epsilon))(v - mean(v))

    def f(at, compiled):
        def step(h, x):
            h = h * tg.tanh(normed(h @ at["V"]) * at["a"] + normed(x @ at["W"]))[..., :3]
            return h, h

        return tg.sum(tg.scan(step, at["h"], at["xs"], compiled=compiled)[1] * at["g"])

    precise = {name: a.astype(np.float64) for name, a in at.items()}
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        widths(patch, wide)
        grads = [tg.grad(f)(p, compiled) for p, compiled in ((at, True), (at, False), (precise, False))]
    for name in at:
        found, plain, exact = (np.asarray(grad[name], np.float64) for grad in grads)
        axes = tuple(range(exact.ndim)) if name in "VWa" else (-1,)
        with np.errstate(all="ignore"):
            errors = [np.max(np.abs(grad - exact), axis=axes) for grad in (found, plain)]
            bound = 50 * errors[1] + 1e-5 * np.max(np.abs(exact), axis=axes) + 1e-30
        assert np.all((errors[0] <= bound) | ~np.isfinite(bound)), (name, found, plain)


# ---- blocks of steps ----------------------------------------------------------------------------------------


def blocks_of(patch, steps):
    """Have every loop work in blocks of so many steps, and every buffer come from the workspace."""
    def part(self, results):
        self._divide(results, True)
        self.block_size = steps

    patch.setattr(scan_module, "_programs", {})
    patch.setattr(scan_module, "_known", {})
    patch.setattr(rows, "WIDE", 1)
    patch.setattr(workspace, "LEAST_BYTES", 1)
    patch.setattr(emit.Source, "_part", part)


@settings(max_examples=25)
@given(with_options(most=4), st.integers(1, 3), st.integers(1, 2))
def test_blocks_of_few_steps_equal_the_plain_loop(drawn, steps, order):
    """A random cell under random options, with a last block that is shorter than the others."""
    recipe, options = drawn
    at = recipe.arrays()
    vs = [directions(at, k) for k in range(order - 1)]
    with pytest.MonkeyPatch.context() as patch:
        blocks_of(patch, steps)
        found, expected = (derivative(loss(recipe, compiled=compiled, **options), order, *vs)(at) for compiled in (True, False))
    assert_same(found, expected, what=f"order {order}")


@pytest.mark.parametrize("make", [tg.nn.RNNCell, tg.nn.LSTMCell, tg.nn.GRUCell, tg.nn.LayerNormLSTMCell])
@pytest.mark.parametrize("size", [(70, 8, 4, 32), (300, 1, 4, 32), (9, 64, 4, 80)], ids=str)
def test_cells_of_the_library_in_blocks_of_the_usual_size(make, size, monkeypatch):
    T, B, I, H = size
    monkeypatch.setattr(emit, "BLOCK_BYTES", 1 << 15)
    monkeypatch.setattr(emit, "LEAST_ROWS", 64)
    monkeypatch.setattr(scan_module, "_programs", {})
    monkeypatch.setattr(scan_module, "_known", {})
    model, xs = make(I, H, rng=0), rng.normal(size=(T, B, I))

    def f(at, compiled):
        model, xs = at
        state, ys = tg.scan(model, model.initial_state((B,)), xs, compiled=compiled)
        return tg.sum(tg.sin(ys)) + sum(tg.sum(leaf) for leaf in tg.trees.flatten(state)[0])

    read = lambda grads: [np.asarray(g.detach() if isinstance(g, tg.Tensor) else g) for g in tg.trees.flatten(grads)[0]]
    found, expected = (read(tg.grad(f)([model, xs], compiled)) for compiled in (True, False))
    assert len(found) > 3
    assert_same(found, expected, 1e-9)


@pytest.mark.parametrize("fault", ["first", "part"])
def test_a_wrong_block_is_found(monkeypatch, fault):
    right = emit.Source._tally
    blocks_of(monkeypatch, 2)

    def wrong(self, call, texts):
        right(self, call, texts)
        if call.op.name == "matmul":
            old, new = {"first": ("if not first:", "if first:"), "part": (" if first else ", " if True else ")}[fault]
            self.block[:] = [line.replace(old, new) for line in self.block]

    monkeypatch.setattr(emit.Source, "_tally", wrong)
    at = arrays((4,))
    with pytest.raises(AssertionError):
        assert_same(tg.grad(value("centred"))(at), tg.grad(value("centred", False))(at))


def test_what_only_a_block_reads_is_no_longer_than_a_block():
    """The cotangents of the gates: a sequence of them would be the longest buffer of the backward pass."""
    x, state = np.zeros((50, 32, 8)), (np.zeros((32, 64)), np.zeros((32, 64)))
    text = tg.explain.source(tg.nn.LSTMCell(8, 64), state, x, optimized=True)
    backward = text[text.index("def backward"):]
    assert "np.empty((T, 32, 256)" not in backward and "np.empty((min(T, 8), 32, 256)" in backward


def test_a_sum_that_is_not_kept_is_made_again_for_some_cotangents_too():
    """At orders two and three a loss reads only some results of the derived loops."""
    recipe = Recipe(T=1, B=2, H=3, script=(("subtract", 1, 0),), second_state="none", output="tree", seed=0)
    at = recipe.arrays()
    for order in (1, 2, 3):
        vs = [directions(at, k) for k in range(order - 1)]
        assert_same(*(derivative(loss(recipe, compiled=compiled), order, *vs)(at) for compiled in (True, False)), what=f"order {order}")


def test_calls_that_differ_in_the_sign_of_zero_or_in_their_dtype_are_two_calls():
    def cell(h, m):
        return h * 1.0, (m + True, m + 1, m * 0.0, m * -0.0, h * 0.0, h * -0.0)

    h, m = np.ones(2), np.ones((3, 2), bool)
    for one, plain in zip(*(tg.scan(cell, h, m, compiled=compiled)[1] for compiled in (True, False))):
        assert one.dtype == plain.dtype
        np.testing.assert_array_equal(one, plain)
        np.testing.assert_array_equal(np.signbit(one), np.signbit(plain))
