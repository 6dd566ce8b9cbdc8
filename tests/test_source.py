"""The printed derivation: it runs alone, it equals the engine, and it reads as a teacher would write it."""

import ast
import inspect
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from random_cells import assert_same, cell, recipes

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, TraceError

FORMS = pytest.mark.parametrize("optimized", [False, True], ids=["readable", "optimized"])
rng = np.random.default_rng(0)


def module(text):
    """The printed module, executed with nothing but NumPy within reach."""
    imports = [line for line in text.splitlines() if re.match(r"\s*(import|from)\b", line)]
    assert imports == ["import numpy as np"]
    namespace = {}
    exec(compile(text, "derived", "exec"), namespace)
    return namespace


def compare(run, state, xs, params, text, rtol=1e-12):
    """Forward, and backward for random cotangents, against the engine; `run(params)` is the cell that has these params."""
    namespace = module(text)
    names = [p.name for p in inspect.signature(namespace["forward"]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    params = {name: params[name] for name in names}
    engine = lambda params, state, xs: tg.scan(run(params), state, xs)
    floats = lambda tree: tg.trees.map(lambda a: a if np.asarray(a).dtype.kind == "f" else np.zeros(0), tree)
    (last, ys), pullback = tg.vjp(engine, params, state, xs)
    found_state, found_ys, saved = namespace["forward"](state, xs, **params)
    assert_same(found_state, last, rtol, "state")
    assert_same(found_ys, ys, rtol, "ys")
    draw = np.random.default_rng(1)
    g = tg.trees.map(lambda a: draw.normal(size=np.shape(a)), (last, ys))
    found = namespace["backward"](*g, saved)
    d_params, d_state, d_xs = pullback(g)
    assert_same(found[2], {k: v for k, v in d_params.items() if k in found[2]}, rtol, "params")
    assert all(not np.any(v) for k, v in d_params.items() if k not in found[2])
    for kind, one, expected in (("state", found[0], d_state), ("xs", found[1], d_xs)):
        for f, e in zip(leaves(one), tg.trees.flatten(floats(expected))[0]):
            assert_same(np.zeros(np.shape(e)) if f is None else f, e, rtol, kind)


def leaves(tree):
    """The leaves of a tree in which None stands for the cotangent of a leaf that has none."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for child in tree for leaf in leaves(child)] if isinstance(tree, (list, tuple)) else [tree]


# ---- the library's cells ------------------------------------------------------------------------------------

CELLS = {
    "RNNCell": lambda: tg.nn.RNNCell(3, 5, rng=0),
    "RNNCell relu": lambda: tg.nn.RNNCell(3, 5, nonlinearity="relu", rng=0),
    "RNNCell without bias": lambda: tg.nn.RNNCell(3, 5, bias=False, rng=0),
    "LSTMCell": lambda: tg.nn.LSTMCell(3, 5, rng=0),
    "LSTMCell peephole": lambda: tg.nn.LSTMCell(3, 5, peephole=True, rng=0),
    "LSTMCell projection": lambda: tg.nn.LSTMCell(3, 5, proj_size=2, rng=0),
    "GRUCell": lambda: tg.nn.GRUCell(3, 5, rng=0),
    "GRUCell reset before": lambda: tg.nn.GRUCell(3, 5, reset_after=False, rng=0),
    "MGUCell": lambda: tg.nn.MGUCell(3, 5, rng=0),
    "IndRNNCell": lambda: tg.nn.IndRNNCell(3, 5, rng=0),
    "LayerNormLSTMCell": lambda: tg.nn.LayerNormLSTMCell(3, 5, rng=0),
}


def of_library(name):
    made = CELLS[name]()
    params = {name: np.array(p.data) for name, p in made.named_parameters()}

    def run(params):
        leaves, structure = tg.trees.flatten(made)
        return tg.trees.unflatten(structure, [params[n] for n, _ in made.named_parameters()])

    return made, run, params


def test_every_cell_of_the_library_is_among_them():
    names = {name for name in dir(tg.nn) if name.endswith("Cell") and name != "Cell"}
    assert names == {key.split()[0] for key in CELLS}


@FORMS
@pytest.mark.parametrize("batch", [(2,), (), (1,)], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_the_printed_module_equals_the_engine(name, batch, optimized):
    made, run, params = of_library(name)
    state = tg.trees.map(lambda a: rng.normal(size=a.shape), made.initial_state(batch))
    xs = rng.normal(size=(6, *batch, 3))
    compare(run, state, xs, params, tg.explain.source(made, state, xs, optimized=optimized))


@FORMS
@pytest.mark.parametrize("name", CELLS)
def test_sizes_alone_are_enough_and_T_is_no_part_of_the_text(name, optimized):
    made, run, params = of_library(name)
    text = tg.explain.source(made, optimized=optimized)
    state = tg.trees.map(lambda a: rng.normal(size=a.shape), made.initial_state((2,)))
    for steps in (0, 1, 9):
        compare(run, state, rng.normal(size=(steps, 2, 3)), params, text)


@FORMS
def test_float32(optimized):
    made = tg.nn.LSTMCell(3, 5, rng=0, dtype=np.float32)
    params = {name: np.array(p.data) for name, p in made.named_parameters()}
    namespace = module(tg.explain.source(made, optimized=optimized))
    state, xs = tg.trees.map(lambda a: a, made.initial_state((2,))), rng.normal(size=(4, 2, 3)).astype(np.float32)
    (h, c), ys, saved = namespace["forward"](state, xs, **params)
    d_state, d_xs, d_params = namespace["backward"]((h, c), ys, saved)
    assert {a.dtype for a in (h, c, ys, *d_state, d_xs, *d_params.values())} == {np.dtype(np.float32)}


# ---- the sources' cells, next to their hand derivations ---------------------------------------------------------


def elman(p):
    Whx, Whh, Wyh, bh, by = p["Whx"], p["Whh"], p["Wyh"], p["bh"], p["by"]

    def cell(h, x):
        h = tg.tanh(Whh @ h + Whx @ x.T + bh)
        y = Wyh @ h + by
        return h, y

    return cell


def sine_wave(p):
    W = p["W"]

    def cell(s, at):
        u, x = at
        s = tg.sigmoid(u * x + W @ s)
        return s, s

    return cell


def counting(p):
    wx, wrec = p["wx"], p["wrec"]

    def cell(s, x):
        s = x * wx + s * wrec
        return s, s

    return cell


def classifier(p):
    w_x, w_h, b = p["w_x"], p["w_h"], p["b"]

    def cell(h, x):
        h = tg.tanh(x @ w_x + h @ w_h + b)
        return h, h

    return cell


def step_by_step(p):
    W_ax, W_aa, W_ya, b_a, b_y = p["W_ax"], p["W_aa"], p["W_ya"], p["b_a"], p["b_y"]

    def cell(a, x):
        a = tg.tanh(W_ax @ x + W_aa @ a + b_a)
        y_hat = tg.softmax(W_ya @ a + b_y, axis=0)
        return a, (a, y_hat)

    return cell


draw = lambda **shapes: {name: rng.normal(size=shape) for name, shape in shapes.items()}
SOURCES = {
    "elman": (elman, draw(Whx=(4, 2), Whh=(4, 4), Wyh=(2, 4), bh=(4, 1), by=(2, 1)), rng.normal(size=(4, 3)), rng.normal(size=(5, 3, 2))),
    "sine_wave": (sine_wave, draw(W=(4, 4)), rng.normal(size=(4, 3)), (rng.normal(size=(5, 4, 1)), rng.normal(size=(5, 1, 3)))),
    "counting": (counting, draw(wx=(), wrec=()), rng.normal(size=3), rng.normal(size=(5, 3))),
    "classifier": (classifier, draw(w_x=(2, 4), w_h=(4, 4), b=(4,)), rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 2))),
    "step_by_step": (step_by_step, draw(W_ax=(4, 2), W_aa=(4, 4), W_ya=(2, 4), b_a=(4, 1), b_y=(2, 1)), rng.normal(size=(4, 3)), rng.normal(size=(5, 2, 3))),
}


@FORMS
@pytest.mark.parametrize("name", SOURCES)
def test_the_sources_cells(name, optimized):
    run, params, state, xs = SOURCES[name]
    compare(run, state, xs, params, tg.explain.source(run(params), state, xs, optimized=optimized))


@pytest.mark.parametrize("optimized", [False, True])
def test_the_printed_elman_is_the_hand_derivation(optimized):
    """Forward, the loss's cotangents, backward: the numbers of the source's own BPTT."""
    params, (x, y) = tg.sources.elman.example()
    names = ("Whx", "Whh", "Wyh", "bh", "by")
    value, expected = tg.sources.elman.bptt(params, x, y)
    namespace = module(tg.explain.source(elman(params), params["h0"], x, optimized=optimized))
    last, outputs, saved = namespace["forward"](params["h0"], x, **{k: params[k] for k in names})
    error = outputs - y.swapaxes(1, 2)
    np.testing.assert_allclose(0.5 * np.sum(error**2), value, rtol=1e-13)
    d_h0, d_x, d_params = namespace["backward"](np.zeros_like(last), error, saved)
    assert_same({"h0": d_h0, "x": d_x, **d_params}, {k: expected[k] for k in ("h0", "x", *d_params)}, 1e-12)


def test_the_printed_elman_can_be_ticked_off_line_by_line():
    run, params, state, xs = SOURCES["elman"]
    text = tg.explain.source(run(params), state, xs)
    wanted = [
        "h[t + 1] = np.tanh(Whh @ h[t] + Whx_x[t] + bh)",        # h_t = tanh(Whh h_{t-1} + Whx x_tᵀ + bh)
        "y = Wyh @ h[1:] + by",                                  # y_t = Wyh h_t + by
        "dz[t] = dh * (1 - h[t + 1] ** 2)",                      # δ_t = (1 − h_t²) ∘ (Wyhᵀ dy + …)
        "dh = Whh.T @ dz[t]",                                    # … Whhᵀ δ_{t+1})
        "dWyh = np.einsum('tib,tjb->ij', d_ys, h[1:])",          # dWyh = Σ dy h_tᵀ
        "dWhh = np.einsum('tib,tjb->ij', dz, h[:-1])",           # dWhh = Σ δ_t h_{t-1}ᵀ
        "dWhx = np.einsum('tib,tbj->ij', dz, xs)",               # dWhx = Σ δ_t x_t
        "Wyh_dy = Wyh.T @ d_ys",                                 # … Wyhᵀ dy
        "dh = dh + Wyh_dy[t]",                                   # … of every step
        "dbh = np.sum(dz, axis=(0, 2)).reshape(4, 1)",           # dbh = Σ δ_t
        "dby = np.sum(d_ys, axis=(0, 2)).reshape(2, 1)",         # dby = Σ_b dy
        "dx = (Whx.T @ dz).swapaxes(-1, -2)",                    # dx_t = Whxᵀ δ_t
        "return dh, dx, d_params",                               # dh_0 = Whhᵀ δ_1
    ]
    lines = [line.strip() for line in text.splitlines()]
    assert [line for line in wanted if line not in lines] == [], text


# ---- any cell -----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(recipes(most=5, steps=4))
def test_random_cells(recipe):
    at = recipe.arrays()
    compare(lambda p: cell(recipe, at["p"] | p), at["state"], at["xs"], at["p"], tg.explain.source(cell(recipe, at["p"]), at["state"], at["xs"]))


@settings(max_examples=40)
@given(recipes(most=5, steps=4))
def test_random_cells_as_they_run(recipe):
    at = recipe.arrays()
    text = tg.explain.source(cell(recipe, at["p"]), at["state"], at["xs"], optimized=True)
    compare(lambda p: cell(recipe, at["p"] | p), at["state"], at["xs"], at["p"], text)


W, U, b, p = rng.normal(size=(2, 4)), rng.normal(size=(4, 4)), rng.normal(size=4), {"gain": rng.normal(size=4)}
h0, xs = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 2))


@FORMS
def test_trees_of_states_sequences_and_outputs(optimized):
    def run(params):
        W, U = params["W"], params["U"]

        def cell(state, inputs):
            fast = tg.tanh(inputs["x"] @ W + state["fast"] @ U)
            slow = 0.9 * state["slow"] + 0.1 * fast * inputs["m"]
            return {"fast": fast, "slow": slow, "n": state["n"] + 1}, [fast, (slow, None)]

        return cell

    params, state = dict(W=W, U=U), {"fast": h0, "slow": h0 * 2, "n": np.array(0)}
    sequences = {"x": xs, "m": rng.normal(size=(5, 3, 4))}
    text = tg.explain.source(run(params), state, sequences, optimized=optimized)
    namespace = module(text)
    last, ys, saved = namespace["forward"](state, sequences, W=W, U=U)
    expected_last, expected_ys = tg.scan(run(params), state, sequences)
    assert_same(last, expected_last)
    assert_same(ys, expected_ys)
    f = lambda params, fast, slow, sequences: tg.scan(run(params), {"fast": fast, "slow": slow, "n": np.array(0)}, sequences)[1]
    _, pullback = tg.vjp(f, params, h0, h0 * 2, sequences)
    d_state, d_xs, d_params = namespace["backward"](tg.trees.map(np.zeros_like, last), ys, saved)
    expected = pullback(ys)
    assert d_state["n"] is None
    assert_same((d_params, d_state["fast"], d_state["slow"], d_xs), expected, 1e-12)


@FORMS
def test_a_scan_inside_a_cell_is_a_function_inside_the_module(optimized):
    def run(params):
        U = params["U"]

        def cell(h, x):
            def settle(s, drive):
                s = tg.tanh(s @ U + drive[..., None])
                return s, s

            h, path = tg.scan(settle, h, x.T)
            return h, tg.sum(path, axis=0)

        return cell

    compare(run, h0, xs, dict(U=U), tg.explain.source(run(dict(U=U)), h0, xs, optimized=optimized))


@FORMS
def test_no_sequence(optimized):
    """Without xs forward takes the number of steps, and there is no cotangent of xs."""
    def run(U):
        def cell(s, x):
            h = tg.tanh(s["h"] @ U + s["slow"])
            return {"h": h, "slow": s["slow"] * 0.5}, h * 2

        return cell

    state = {"h": h0, "slow": h0 * 2}
    forward, backward = (lambda m: (m["forward"], m["backward"]))(module(tg.explain.source(run(U), state, length=5, optimized=optimized)))
    for steps in (0, 1, 5, 8):
        last, ys, saved = forward(state, steps, U=U)
        expected, pullback = tg.vjp(lambda U, state, steps=steps: tg.scan(run(U), state, None, length=steps), U, state)
        assert_same((last, ys), expected, 1e-12)
        g = tg.trees.map(np.cos, expected)
        d_state, d_xs, d_params = backward(*g, saved)
        assert d_xs is None
        assert_same((d_params["U"], d_state), pullback(g), 1e-12)


@FORMS
def test_parts_of_a_weight_fill_it_or_overlap(optimized):
    """Gradients of slices: side by side they are one concatenation; where two are of one slice, they are added."""
    p = {"W": rng.normal(size=(6, 4))}
    beside = lambda p: lambda h, x: (lambda h: (h, h))(tg.tanh(x @ p["W"][:2] + h @ p["W"][2:]))
    twice = lambda p: lambda h, x: (lambda h: (h, h))(tg.tanh(h @ p["W"][2:] + (x @ p["W"][:2]) * (tg.sin(x) @ p["W"][:2])))
    first = lambda p: lambda h, x: (lambda h: (h, h))(tg.tanh(x @ p["W"][1:3] + h[:, 1:] @ p["W"][3:]))
    last = lambda p: lambda h, x: (lambda h: (h, h))(tg.tanh(x @ p["W"][:2] + h[:, 1:] @ p["W"][2:5]))
    for run in (beside, twice, first, last):
        compare(run, h0, xs, p, tg.explain.source(run({"W": tg.tensor(p["W"])}), h0, xs, optimized=optimized))
    assert "dW = np.concatenate((np.einsum(" in tg.explain.source(beside({"W": tg.tensor(p["W"])}), h0, xs)
    assert "placed_at(" in tg.explain.source(twice({"W": tg.tensor(p["W"])}), h0, xs)


@FORMS
def test_an_op_of_ones_own_brings_its_kernel(optimized):
    @tg.primitive(elementwise=True)
    def cubed(x, /):
        return x * x * x

    cubed.vjp(x=lambda g, x: g * 3 * x * x)
    run = lambda params: lambda h, x: ((lambda z: (z, z))(cubed(tg.tanh(h + x @ params["W"]))))
    text = tg.explain.source(run(dict(W=W)), h0, xs, optimized=optimized)
    assert re.search(r"def cubed\d*\(x, /\):", text)
    compare(run, h0, xs, dict(W=W, p0=W), text.replace("p0", "W") if "p0" in text else text)


@FORMS
@pytest.mark.parametrize("wiring", ["swapped", "rotated by products", "delayed, both ways", "one tensor for both states", "y is x", "the state is x",
                                    "the state is a constant", "passed through", "views of what is stored", "splits that return", "y is a constant"])
def test_wirings(wiring, optimized):
    from test_scan_traps import WIRINGS, c0, xs
    from test_scan_traps import h0 as start
    text = tg.explain.source(WIRINGS[wiring], (start, c0), xs, optimized=optimized)
    names = {"U": "U", "V": "V", "c0": "c0"}
    import test_scan_traps
    namespace = module(text)
    keys = [q.name for q in inspect.signature(namespace["forward"]).parameters.values() if q.kind is q.KEYWORD_ONLY]
    given = {k: getattr(test_scan_traps, k) if k in names else {"p1": np.array(3.0), "p2": np.arange(2)}[k] for k in keys}
    last, ys, saved = namespace["forward"]((start, c0), xs, **given)
    (expected_last, expected_ys), pullback = tg.vjp(lambda s, x: tg.scan(WIRINGS[wiring], s, x), (start, c0), xs)
    assert_same((last, ys), (expected_last, expected_ys))
    g = tg.trees.map(lambda a: np.cos(np.arange(np.size(a), dtype=float)).reshape(np.shape(a)), (expected_last, expected_ys))
    d_state, d_xs, _ = namespace["backward"](*g, saved)
    expected_state, expected_xs = pullback(g)
    assert_same((d_state, d_xs if d_xs is not None else np.zeros(xs.shape)), (expected_state, expected_xs))


# ---- what it looks like -------------------------------------------------------------------------------------


def test_the_whole_text_of_a_small_cell():
    def cell(h, x):
        z = x @ W + h @ U + b
        h = tg.tanh(z)
        return h, h

    assert tg.explain.source(cell, h0, xs) == ELMAN


ELMAN = '''\
"""test_the_whole_text_of_a_small_cell.cell: its forward pass, and the backpropagation through time that follows from it.

Shapes, for T steps:
    h  (3, 4)     the state
    x  (T, 3, 2)  the sequence
    W  (2, 4)
    U  (4, 4)
    b  (4,)
"""

import numpy as np


def forward(state, xs, *, W, U, b):
    """(state, ys, saved): the last state, the outputs of all steps, and what backward reads."""
    T = len(xs)

    # before the loop: depends on the inputs only, for all steps at once
    xW = xs @ W

    # the loop
    h = np.empty((T + 1, 3, 4))
    h[0] = state
    for t in range(T):
        z = xW[t] + h[t] @ U + b
        h[t + 1] = np.tanh(z)

    saved = (T, h, xs, U, W)
    return h[T], h[1:], saved


def backward(d_state, d_ys, saved):
    """(d_state, d_xs, d_params): the cotangents of all that went in, from those of all that came out."""
    T, h, xs, U, W = saved

    # the loop, from the last step to the first
    dz = np.empty((T, 3, 4))
    dh = d_state
    for t in reversed(range(T)):
        dh = dh + d_ys[t]
        dz[t] = dh * (1 - h[t + 1] ** 2)
        dh = dz[t] @ U.T

    # after the loop, for all steps at once
    dx = dz @ W.T
    dW = np.einsum('tbi,tbj->ij', xs, dz)
    dU = np.einsum('tbi,tbj->ij', h[:-1], dz)
    db = np.sum(dz, axis=(0, 1))

    d_params = {"W": dW, "U": dU, "b": db}
    return dh, dx, d_params
'''


@pytest.mark.parametrize("name", CELLS)
def test_every_text_is_tidy(name):
    text = tg.explain.source(CELLS[name]())
    assert ", )" not in text and ",)," not in text.replace("(5,)", "") and ".T.T" not in text and "\n\n\n\n" not in text and not re.search(r"[ \t]\n", text)
    assert max(map(len, text.splitlines())) <= 120
    assert not re.search(r"\b(v|kept|total|einsum|concatenate|difference|squared|part)\d*\b(?! *\()", re.sub(r"np\.\w+", "", text)), text
    made = CELLS[name]()
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    for parameter, _ in made.named_parameters():
        assert parameter in names
    for part in ("# before the loop", "# the loop", "# after the loop"):
        assert part in text


@pytest.mark.parametrize("name", CELLS)
def test_lines_of_what_runs_are_broken_too(name):
    text = tg.explain.source(CELLS[name](), optimized=True)
    assert max(map(len, text.splitlines())) <= 150, max(text.splitlines(), key=len)
    assert not re.search(r"\bkept\d*\b", text) and "h0" in text and "dh_T" in text


def test_locals_and_parameters_keep_their_names():
    text = tg.explain.source(tg.nn.LSTMCell(3, 5))
    for line in ("i, f, g, o = np.split(", "c[t + 1] = sigmoid_f[t] * c[t] + sigmoid_i[t] * tanh_g[t]", "h[t + 1] = sigmoid_o[t] * tanh_c[t]",
                 "dgates[t] = np.concatenate((di, df, dg, do), axis=1)", "dh = dgates[t] @ weight_hh"):
        assert line in text, text
    gated = lambda h, x: ((lambda keep: (keep * h, keep))(tg.sigmoid(x @ W + h * p["gain"])))
    assert "gain" in tg.explain.source(gated, h0, xs)


def test_what_nobody_named_is_called_after_what_it_is():
    text = tg.explain.source(tg.nn.LayerNormLSTMCell(3, 5))
    for line in ("deviation[t] = np.sqrt(np.mean(centered ** 2, axis=-1, keepdims=True) + 1e-05)", "normed[t] = centered / deviation[t]",
                 "dcentered2 = dnormed2 / deviation2[t] - 2 * (minus_ddeviation2_scaled / 20 * normed2[t])"):
        assert f"        {line}\n" in text, text
    text = tg.explain.source(lambda h, x: (tg.tanh(h @ U + b), x @ W), h0, xs)
    assert "    y = xs @ W\n" in text and "dz[t] = " in text, text


def test_nothing_is_added_where_there_is_no_bias():
    for text in (tg.explain.source(tg.nn.RNNCell(3, 5, bias=False)), tg.explain.equations(tg.nn.RNNCell(3, 5, bias=False))):
        assert "+ 0" not in text, text
    spread = lambda p: lambda h, x: (lambda h: (h, h))(tg.tanh(0 + h @ p["U"] - 0.0) - 0 + (np.zeros((3, 1)) + x @ p["W"]))
    text = tg.explain.source(spread({"U": U, "W": W}), h0, xs)
    assert "tanh_z[t] = np.tanh(h[t] @ U)\n" in text and "h[t + 1] = tanh_z[t] + (np.zeros((3, 1)) + xW[t])\n" in text, text
    compare(spread, h0, xs, {"U": U, "W": W}, text)
    counting = lambda p: lambda s, x: ({"h": tg.tanh(s["h"] @ p["U"] * (s["n"] + 0.0) ** -1), "n": s["n"] + 1}, x)  # a float from now on
    state = {"h": h0, "n": np.array(2)}
    assert_same(module(tg.explain.source(counting({"U": U}), state, xs))["forward"](state, xs, U=U)[0]["h"], tg.scan(counting({"U": U}), state, xs)[0]["h"])


def test_names_that_are_taken_get_a_number():
    T, np_, saved = b, U, W

    def cell(state, xs):
        t = tg.tanh(xs @ saved + state @ np_ + T)
        return t, t

    run = lambda q: cell
    text = tg.explain.source(cell, h0, xs)
    namespace = module(text)
    keys = [q.name for q in inspect.signature(namespace["forward"]).parameters.values() if q.kind is q.KEYWORD_ONLY]
    assert set(keys) == {"T2", "np_", "saved2"}, keys
    _, ys, _ = namespace["forward"](h0, xs, T2=T, np_=np_, saved2=saved)
    assert_same(ys, tg.scan(run(None), h0, xs)[1])


def test_a_cell_of_unknown_sizes():
    with pytest.raises(ArgumentError) as caught:
        tg.explain.source(lambda h, x: (h, h))
    assert str(caught.value) == (
        "source(cell, state, xs): the sizes are not known\n"
        "  cell  function\n"
        "Pass an initial state and a sequence, for example zeros of the right shapes.")


def test_the_module_runs_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "derived.py"
    path.write_text(tg.explain.source(tg.nn.GRUCell(3, 5)) + "\n\nfrom pathlib import Path\nimport sys\n"
                    "assert 'tinygrad_rnn' not in sys.modules\n"
                    "shapes = dict(weight_ih=(15, 3), bias_ih=(15,), weight_hh=(15, 5), bias_hh=(15,))\n"
                    "params = {k: np.ones(v) for k, v in shapes.items()}\n"
                    "h, ys, saved = forward(np.zeros((2, 5)), np.ones((4, 2, 3)), **params)\n"
                    "print(backward(h, ys, saved)[2]['weight_ih'].shape)\n")
    out = subprocess.run([sys.executable, "-W", "error", str(path)], capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (0, "(15, 3)\n"), out.stderr


def test_a_fault_in_the_printed_text_is_found():
    """Each of these one-character slips makes the comparison fail."""
    run, params, state, steps = SOURCES["elman"]
    text = tg.explain.source(run(params), state, steps)
    compare(run, state, steps, params, text)
    for right, wrong in (("1 - h[t + 1] ** 2", "1 - h[t] ** 2"), ("Whh.T @ dz[t]", "Whh @ dz[t]"), ("d_ys, h[1:]", "d_ys, h[:-1]"),
                         ("dz, h[:-1]", "dz, h[1:]"), ("np.sum(dz", "np.sum(dz[1:]")):
        assert right in text, right
        with pytest.raises(AssertionError):
            compare(run, state, steps, params, text.replace(right, wrong))


def test_vectors_need_no_axes_of_size_one():
    cell = lambda h, x: (lambda h: (h, h))(tg.tanh(U @ h + W.T @ x + b))
    text = tg.explain.source(cell, np.zeros(4), np.ones((5, 2)))
    assert "None" not in text and "dU = np.einsum('ti,tj->ij', dz, h[:-1])" in text and "db = np.sum(dz, axis=0)" in text, text


def test_a_number_that_is_closed_over_has_its_name_and_no_gradient():
    alpha = 0.9
    cell = lambda h, x: (lambda h: (h, h))(alpha * h + (1 - alpha) * tg.tanh(x @ W))
    text = tg.explain.source(cell, h0, xs)
    assert "alpha * h[t]" in text and "W, alpha" in text and "dalpha" not in text, text


def test_a_random_draw_is_refused_here_too():
    draws = np.random.default_rng(0)
    with pytest.raises(TraceError, match="closes over a value that changes from step 0 to step 1"):
        tg.explain.source(lambda h, x: (h * draws.normal(size=4), h), h0, xs)
