"""scan on random cells: compiled, plain and differences agree, at orders one to three, under all options at once."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cells import SMOOTH, Recipe, assert_same, cell, derivative, directions, inner, loss, recipes, with_options
from twin import boxed, gradient, values

import tinygrad_rnn as tg
from tinygrad_rnn import derive, loops, program

relaxed = settings(max_examples=100)
fewer = settings(max_examples=30)


def compare(recipe, order, **options):
    arrays = recipe.arrays()
    vs = [directions(arrays, k) for k in range(order - 1)]
    found, expected = ([loss(recipe, compiled=compiled, **options)(arrays),
                        derivative(loss(recipe, compiled=compiled, **options), order, *vs)(arrays)] for compiled in (True, False))
    assert_same(found[0], expected[0], what="value")
    assert_same(found[1], expected[1], what=f"order {order}")


@relaxed
@given(with_options())
def test_first_order_equals_the_plain_loop(drawn):
    compare(drawn[0], 1, **drawn[1])


@settings(relaxed, max_examples=60)
@given(with_options(most=4))
def test_second_order_equals_the_plain_loop(drawn):
    compare(drawn[0], 2, **drawn[1])


@fewer
@given(with_options(most=2))
def test_third_order_equals_the_plain_loop(drawn):
    compare(drawn[0], 3, **drawn[1])


@settings(relaxed, max_examples=20)
@given(recipes(tuple(SMOOTH), most=4), st.sampled_from([dict(), dict(reverse=True), dict(checkpoint=2)]))
def test_first_and_second_order_equal_differences(recipe, options):
    """Along a random direction, central differences with Richardson's correction, of values and of gradients."""
    if any(kind == "detached" for kind, *_ in recipe.script):
        return
    arrays, f = recipe.arrays(), loss(recipe, **options)
    v = directions(arrays)
    assert_same(inner(tg.grad(f)(arrays), v), difference(f, arrays, v), 1e-7, "order 1")
    gradient = tg.grad(f)
    assert_same(tg.hvp(f, (arrays,), (v,)), difference(gradient, arrays, v), 1e-6, "order 2")


def difference(f, at, v, h=1e-3):
    moved = lambda s: f(tg.trees.map(lambda a, b: a + s * b, at, v))
    slope = lambda s: tg.trees.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / (2 * s), moved(s), moved(-s))
    return tg.trees.map(lambda a, b, c: (64 * a - 20 * b + c) / 45, slope(h / 4), slope(h / 2), slope(h))


@settings(relaxed, max_examples=60)
@given(with_options())
def test_forward_mode_and_pullback_are_adjoint(drawn):
    """⟨g, J v⟩ = ⟨Jᵀ g, v⟩, the pullback called twice gives the same."""
    recipe, options = drawn
    lengths = options.pop("lengths", None)
    arrays = recipe.arrays()
    f = lambda at: tg.scan(cell(recipe, at["p"]), at["state"], at["xs"], lengths=None if lengths is None else np.array(lengths), **options)
    y, tangent = tg.jvp(f, (arrays,), (directions(arrays),))
    _, pullback = tg.vjp(f, arrays)
    g = directions(y, 3)
    (x_bar,), (again,) = pullback(g), pullback(g)
    assert_same(again, x_bar, 0.0)
    assert_same(inner(x_bar, directions(arrays)), inner(g, tangent), 1e-9)


def gated(p, h, x):
    """A gated cell in NumPy's names: it runs on Tensors and on the twin's scalars."""
    f = 1 / (1 + np.exp(-(x @ p["W"] + h @ p["U"])))
    n = np.tanh(x @ p["W"] * p["a"] + (f * h) @ p["V"])
    h = f * h + (1 - f) * n
    return h, h * np.sin(h) / (2 + np.cos(x @ p["W"]))


@pytest.mark.parametrize("options", [{}, dict(reverse=True), dict(checkpoint=2)], ids=str)
def test_the_twin_has_the_same_opinion_at_two_orders(options):
    """Reverse mode over single Python floats, which shares nothing with the library."""
    rng = np.random.default_rng(0)
    at = dict(W=rng.normal(size=(2, 2)), U=rng.normal(size=(2, 2)), V=rng.normal(size=(2, 2)), a=rng.normal(size=2),
              h=rng.normal(size=(2, 2)), xs=rng.normal(size=(3, 2, 2)))
    v = directions(at)

    def by_scan(p):
        state, ys = tg.scan(lambda h, x: gated(p, h, x), p["h"], p["xs"], **options)
        return tg.sum(ys * ys) + tg.sum(tg.sin(state))

    names, scalars = list(at), [boxed(a) for a in at.values()]
    p, h, total = dict(zip(names, scalars)), scalars[4], 0.0
    for x in p["xs"][::-1] if options.get("reverse") else p["xs"]:
        h, y = gated(p, h, boxed(x))
        h, y = boxed(h), boxed(y)
        total = total + (y * y).sum()
    total = total + np.sin(h).sum()
    first = gradient(total, scalars)
    second = gradient(sum((g * v[name]).sum() for name, g in zip(names, first)), scalars)
    assert_same(tg.grad(by_scan)(at), {name: values(g) for name, g in zip(names, first)}, 1e-12)
    assert_same(tg.hvp(by_scan, (at,), (v,)), {name: values(g) for name, g in zip(names, second)}, 1e-12)


@fewer
@given(recipes(most=3))
def test_float32_stays_float32_and_close(recipe):
    arrays = recipe.arrays()
    small = tg.trees.map(lambda a: a.astype(np.float32), arrays)
    found, expected = tg.grad(loss(recipe))(small), tg.grad(loss(recipe, compiled=False))(small)
    assert {leaf.dtype for leaf in tg.trees.flatten(found)[0]} == {np.dtype(np.float32)}
    assert_same(found, expected, 2e-4)


# ---- a test that cannot fail is no test: each planted fault must be found -----------------------------------------

SEEN = Recipe(T=4, B=2, H=3, script=(("matmul", 0, 0), ("gates", 0, 1), ("multiply", 0, 1)), second_state="delayed", output="two", seed=7)


scan_module = sys.modules["tinygrad_rnn.scan"]  # (`tinygrad_rnn.scan` is the function)


def planted(monkeypatch):
    monkeypatch.setattr(scan_module, "_programs", {})
    monkeypatch.setattr(scan_module, "_known", {})


def test_a_wrong_rule_is_found(monkeypatch):
    """One rule of one op, in compiled code only: the plain loop keeps the right one through its plan."""
    planted(monkeypatch)
    right = derive.walk

    def wrong(seeds, targets, **options):
        found = right(seeds, targets, **options)
        return {node: -g if i == 1 else g for i, (node, g) in enumerate(found.items())}

    monkeypatch.setattr(derive, "walk", wrong)
    with pytest.raises(AssertionError, match="order 1"):
        compare(SEEN, 1)


@pytest.mark.parametrize("fault", ["direction", "stash", "sum", "state"])
def test_a_wrong_schedule_is_found(monkeypatch, fault):
    planted(monkeypatch)
    if fault == "direction":  # the derived loop runs the wrong way
        monkeypatch.setattr(derive, "Loop", lambda body, s, x, y, reverse=False: loops.Loop(body, s, x, y, False))
    if fault == "stash":  # what was kept is read one entry beside its place
        right = derive._where
        monkeypatch.setattr(derive, "_where", lambda loop, v: ("output", right(loop, v)[1] ^ 1) if right(loop, v)[0] == "output" else right(loop, v))
    if fault == "sum":  # the sum over time leaves out the first step
        right = loops.Schedule._summed
        monkeypatch.setattr(loops.Schedule, "_summed", lambda self, v: self._traced(
            lambda x: np.sum(x[1:], axis=0), [self.stack(v)], [True]) if isinstance(v, program.Value) and v in self.varying else right(self, v))
    if fault == "state":  # the carried cotangent is dropped
        monkeypatch.setattr(derive.np, "zeros", np.ones)
        right = derive.derived
        monkeypatch.setattr(derive, "derived", lambda loop, given: right(loop, (False, *given[1:])))
    with pytest.raises((AssertionError, IndexError, ValueError)):
        compare(SEEN, 1)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_unharmed_recipe_passes(order):
    compare(SEEN, order)


def test_differences_find_a_wrong_rule():
    @tg.primitive(elementwise=True)
    def bent(x, /):
        return np.tanh(x)

    bent.vjp(x=lambda g, y: g * (1 - y * y) * 1.001)
    f = lambda at: tg.sum(tg.scan(lambda h, x: (bent(h @ at["U"] + x), None), at["h"], at["xs"])[0])
    rng = np.random.default_rng(0)
    arrays = dict(U=rng.normal(size=(3, 3)), h=rng.normal(size=3), xs=rng.normal(size=(4, 3)))
    v = directions(arrays)
    with pytest.raises(AssertionError):
        assert_same(inner(tg.grad(f)(arrays), v), difference(f, arrays, v), 1e-7)
