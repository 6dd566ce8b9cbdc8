"""compiled: what it gives, what it must notice, and what it must not hold or hand out."""

import gc
import threading
import weakref

import numpy as np
import pytest
import random_cells
from hypothesis import given, settings

import tinygrad_rnn as tg
from tinygrad_rnn import following
from tinygrad_rnn.straight import Straight


def params(seed=0, H=3):
    rng = np.random.default_rng(seed)
    return {"W": rng.normal(size=(2, H)), "U": rng.normal(size=(H, H)) / H, "b": rng.normal(size=H)}


def data(T=4, B=2):
    return np.random.default_rng(1).normal(size=(T, B, 2))


def loss(p, xs):
    def cell(h, x):
        h = tg.tanh(x @ p["W"] + h @ p["U"] + p["b"])
        return h, h

    state, ys = tg.scan(cell, np.zeros((xs.shape[1], 3)), xs)
    return tg.mean(ys * ys) + tg.sum(state)


def assert_same(a, b, tolerance=1e-12):
    (left, structure), (right, other) = tg.trees.flatten(a), tg.trees.flatten(b)
    assert structure == other
    for x, y in zip(left, right, strict=True):
        assert type(y) is np.ndarray and x.shape == y.shape and x.dtype == y.dtype
        np.testing.assert_allclose(y, x, rtol=tolerance, atol=tolerance)


# ---- what it gives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_gives_what_the_function_gives(dtype):
    plain, step = tg.value_and_grad(loss), tg.compiled(tg.value_and_grad(loss))
    for seed in range(3):
        p = {k: v.astype(dtype) for k, v in params(seed).items()}
        assert_same(plain(p, data().astype(dtype)), step(p, data().astype(dtype)), 1e-12 if dtype == "float64" else 1e-5)


@given(random_cells.with_options())
def test_random_cells_with_all_options_give_what_they_give(drawn):
    recipe, options = drawn
    arrays, f = recipe.arrays(), random_cells.loss(recipe, **options)
    step = tg.compiled(tg.value_and_grad(f))
    for _ in range(2):
        random_cells.assert_same(step(arrays), tg.value_and_grad(f)(arrays))


def test_every_form_of_a_gradient():
    f = lambda a, b, scale=2.0: tg.sum(a * b * scale)
    a, b = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    assert_same((2 * b, 2 * a), tg.compiled(tg.grad(f, (0, 1)))(a, b))
    assert_same(3 * a, tg.compiled(tg.grad(f, -2))(a, b, 3.0))
    assert_same(7 * b, tg.compiled(tg.grad(f))(a, b, scale=7.0))
    (value, aux), slope = tg.compiled(tg.value_and_grad(lambda a: (tg.sum(a * a), {"twice": a * 2, "it": a}), has_aux=True))(a)
    assert_same(((np.array(5.0), {"twice": 2 * a, "it": a}), 2 * a), ((value, aux), slope))
    assert_same(np.array(12.0), tg.compiled(tg.grad(lambda x: x**3))(2.0))
    assert_same(np.array([[6.0, 0.0], [0.0, 12.0]]), tg.compiled(tg.hessian(lambda x: tg.sum(x**3)))(a))
    assert_same(a * 2, tg.compiled(lambda a: a * 2)(a))


def test_leaves_without_a_gradient():
    f = lambda p: tg.sum(p["x"] * p["n"])
    _, slope = tg.compiled(tg.value_and_grad(f))({"x": np.ones(2), "n": np.array([1, 2])})
    assert slope["n"] is None and slope["x"].tolist() == [1.0, 2.0]
    assert tg.compiled(tg.grad(lambda x, n: tg.sum(x) * 2.0))(np.ones(2), 3).tolist() == [2.0, 2.0]


def test_python_numbers_stay_weak():
    slope = tg.compiled(tg.grad(lambda x, scale: tg.sum(x * scale)))
    for scale in (2, 0.3, 0.7, True):
        found = slope(np.ones(2, np.float32), scale)
        assert found.dtype == np.float32 and np.allclose(found, scale)


def test_the_text_stands_for_itself():
    text = tg.compiled(tg.grad(lambda x: tg.sum(tg.tanh(x)))).source(np.ones(3))
    assert "tanh" in text and "Tensor" not in text


# ---- what it must notice ------------------------------------------------------------------------------------


def changing(kind):
    """(step, how to change what it closes over)."""
    box = {"w": np.ones(3), "scale": 0.3, "flip": False, "power": 2}

    def f(x):
        y = x * box["w"] * box["scale"]
        return tg.sum((tg.sin(y) if box["flip"] else tg.cos(y)) ** box["power"])

    changes = {"a new array": lambda: box.update(w=np.full(3, 2.0)), "written in place": lambda: box["w"].__imul__(3),
               "a number": lambda: box.update(scale=0.7), "a branch": lambda: box.update(flip=True),
               "an exponent": lambda: box.update(power=3), "another shape": lambda: box.update(w=np.ones(1)),
               "another dtype": lambda: box.update(w=np.ones(3, np.float32))}
    return f, changes[kind]


CHANGES = ["a new array", "written in place", "a number", "a branch", "an exponent", "another shape", "another dtype"]


@pytest.mark.parametrize("kind", CHANGES)
def test_what_it_closes_over_may_change(kind):
    f, change = changing(kind)
    x, step = np.array([0.1, 0.2, 0.3]), tg.compiled(tg.value_and_grad(f))
    before = step(x)
    change()
    assert_same(tg.value_and_grad(f)(x), step(x))
    assert not np.allclose(before[1], step(x)[1]) or "dtype" in kind or "shape" in kind


def test_a_planted_stale_closure_is_found(monkeypatch):
    f, change = changing("a branch")
    x, step = np.array([0.1, 0.2, 0.3]), tg.compiled(tg.value_and_grad(f))
    step(x)
    follow = following.Recorded.repeated
    last = []
    monkeypatch.setattr(following.Recorded, "repeated", lambda self, function: last[0] if last else last.append(follow(self, function)) or last[0])
    step(x)
    change()
    with pytest.raises(AssertionError):
        assert_same(tg.value_and_grad(f)(x), step(x))


def test_random_masks_are_drawn_at_every_call():
    rng = np.random.default_rng(0)
    step = tg.compiled(tg.grad(lambda x: tg.sum(x * (rng.random(5) < 0.5))))
    masks = {tuple(step(np.ones(5))) for _ in range(8)}
    assert len(masks) > 1
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    assert [tuple(step(np.ones(5))) for _ in range(4)] == [tuple((twin.random(5) < 0.5).astype(float)) for _ in range(4)]


def test_a_step_that_goes_back_and_forth_is_written_once_for_each(monkeypatch):
    flag, written = [False], []
    init = Straight.__init__
    monkeypatch.setattr(Straight, "__init__", lambda self, program: written.append(1) or init(self, program))
    step = tg.compiled(tg.grad(lambda x: tg.sum(tg.sin(x) if flag[0] else tg.cos(x))))
    for k in range(6):
        flag[0] = k % 2 == 0
        step(np.ones(2))
    assert len(written) == 2


def test_a_value_that_is_looked_at_is_an_error():
    with pytest.raises(tg.errors.TraceError, match="value was turned into a plain one"):
        tg.compiled(tg.grad(lambda x: tg.sum(x) if x[0] > 0 else -tg.sum(x)))(np.ones(2))


def test_a_tensor_of_an_earlier_call_is_an_error():
    kept = []

    def f(x):
        y = x * 2
        kept.append(y)
        return tg.sum(kept[0] * y)

    step = tg.compiled(tg.grad(f))
    step(np.ones(2))
    with pytest.raises(tg.errors.TraceError, match="an earlier trace"):
        step(np.ones(2))


def test_an_error_in_the_function_is_the_users_own_and_the_next_call_works():
    fail = [False]

    def f(x):
        if fail[0]:
            raise KeyError("mine")
        return tg.sum(x * x)

    step = tg.compiled(tg.grad(f))
    for fail[0] in (False, True, False):
        if fail[0]:
            with pytest.raises(KeyError, match="mine"):
                step(np.ones(2))
        else:
            assert step(np.ones(2)).tolist() == [2.0, 2.0]


def test_the_errors_of_a_gradient_stay_what_they_are():
    with pytest.raises(tg.errors.GradientError, match="scalar"):
        tg.compiled(tg.grad(lambda x: x * 2))(np.ones(2))
    with pytest.raises(tg.errors.DtypeError, match="no floating point leaf"):
        tg.compiled(tg.grad(lambda x: tg.sum(x)))(np.ones(2, int))


# ---- inside and around other things --------------------------------------------------------------------------


def test_under_another_transform_the_function_itself_runs():
    inner = tg.compiled(tg.grad(lambda x: tg.sum(x**3)))
    assert_same(np.array([6.0, 12.0]), tg.grad(lambda x: tg.sum(inner(x)))(np.array([1.0, 2.0])))
    w = tg.tensor([1.0, 2.0], requires_grad=True)
    tg.sum(inner(w) * w).backward()
    assert w.grad.tolist() == [9.0, 36.0]


def test_modules_go_in_as_values_within_no_grad():
    model = tg.nn.Linear(3, 2, rng=np.random.default_rng(0))
    f = lambda model, x: tg.sum(model(x) ** 2)
    step, x = tg.compiled(tg.value_and_grad(f)), np.ones((4, 3))
    with tg.no_grad():
        for _ in range(3):
            (value, slope), (expected, other) = step(model, x), tg.value_and_grad(f)(model, x)
            assert np.allclose(value, expected)
            assert_same(tg.trees.flatten(other)[0], tg.trees.flatten(slope)[0])
            for p, g in zip(model.parameters(), tg.trees.flatten(slope)[0], strict=True):
                p.data = p.data - 0.1 * g


def test_a_compiled_function_may_call_itself_and_run_in_threads():
    def f(x, depth):
        return tg.sum(x * x) if depth == 0 else tg.sum(f(x, depth - 1) * x)

    step, results = tg.compiled(tg.grad(f)), {}
    assert step(np.ones(2), 2).tolist() == tg.grad(f)(np.ones(2), 2).tolist()

    def work(k):
        results[k] = [step(np.full(2, float(k)), 1).tolist() for _ in range(50)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(results[k] == [tg.grad(f)(np.full(2, float(k)), 1).tolist()] * 50 for k in range(4))


def test_derivatives_within_are_derived_again():
    third = tg.grad(tg.grad(tg.grad(lambda x: x**4)))
    assert tg.compiled(third)(2.0) == 48.0
    second = tg.grad(tg.grad(lambda x: x**3 + x))
    assert tg.compiled(tg.grad(lambda x: second(x) * x))(2.0) == 24.0


@given(random_cells.recipes())
@settings(max_examples=15)
def test_third_derivatives_of_random_cells(recipe):
    arrays, f = recipe.arrays(), random_cells.loss(recipe)
    v, w = random_cells.directions(arrays), random_cells.directions(arrays, 1)
    g = random_cells.derivative(f, 3, v, w)
    random_cells.assert_same(tg.compiled(g)(arrays), g(arrays), 1e-8)


def test_what_it_closes_over_may_be_tracked():
    w = np.array([1.0, 2.0])
    total = lambda w: tg.compiled(lambda x: tg.sum(w * w * x))(np.ones(2)) + tg.sum(w)
    assert tg.grad(total)(w).tolist() == [3.0, 5.0]
    leaf = tg.tensor(w, requires_grad=True)
    total(leaf).backward()
    assert leaf.grad.tolist() == [3.0, 5.0]


def test_empty_arrays():
    f = lambda x, W: tg.sum(x @ W - tg.mean(x, axis=1, keepdims=True))
    assert_same(tg.grad(f, 1)(np.ones((0, 4)), np.ones((4, 4))), tg.compiled(tg.grad(f, 1))(np.ones((0, 4)), np.ones((4, 4))))


def test_numbers_that_are_equal_are_not_the_same():
    f = tg.compiled(lambda x, k: x * k)
    for k in (2, 2.0, True, 1, 1.0, 0.0, -0.0, 0.0):
        found = f(np.arange(3), k)
        assert found.dtype == (np.arange(3) * k).dtype and np.array_equal(np.signbit(found), np.signbit(np.arange(3) * k)), k


def test_two_results_that_are_no_arrays():
    a, other = np.array(5), [False]
    f = tg.compiled(lambda x: (x * 1.0, 1001, 2002) if other[0] else (x * 1.0, a, a))
    assert [int(n) for n in f(np.ones(2))[1:]] == [5, 5]
    other[0] = True
    assert [int(n) for n in f(np.ones(2))[1:]] == [1001, 2002]


class Tagged:
    """A module that holds something besides arrays."""

    def __init__(self, w, tag):
        self.w, self.tag = w, tag

    def tree_children(self):
        return {"w": self.w}

    def tree_replace(self, children):
        return Tagged(children["w"], self.tag)


def test_modules_are_those_of_the_call():
    gradient = tg.compiled(tg.grad(lambda m: tg.sum(m.w * m.w)))
    moved = tg.compiled(lambda m, x: Tagged(m.w - x, m.tag + "!"))
    for tag in "abc":
        assert gradient(Tagged(np.ones(2), tag)).tag == tag
        out = moved(Tagged(np.ones(2), tag), np.ones(2))
        assert out.tag == tag + "!" and out.w.tolist() == [0.0, 0.0]


# ---- what it holds and hands out ------------------------------------------------------------------------------


def test_results_belong_to_the_caller():
    x = np.ones(3)
    for f in (lambda x: tg.sum(x), lambda x: tg.sum(x * 1.0), lambda x: tg.sum(x[:2]), lambda x: tg.sum(x.reshape(3, 1))):
        step = tg.compiled(tg.grad(f))
        first = step(x)
        kept = first.copy()
        first *= 5
        assert np.array_equal(step(x), kept) and np.array_equal(x, np.ones(3))
    a, b, c = tg.compiled(lambda x: (x, x * 2, x.T))(x)
    assert not any(np.shares_memory(p, q) for p, q in ((a, x), (c, x), (a, c), (a, b)))
    double = lambda x: (lambda y: (y, y, y[0]))(x * 2)
    a, b, c = tg.compiled(double)(x)
    assert not np.shares_memory(a, b) and not np.shares_memory(a, c)


def test_an_op_that_returns_its_input_gives_no_alias_away():
    @tg.primitive(domain=tg.domains.REALS, elementwise=True)
    def lazy(x, /, *, out=None):
        return x

    lazy.vjp(x=lambda g: g)
    x = np.arange(3.0)
    assert not np.shares_memory(tg.compiled(lazy)(x), x)
    f = lambda x: (lambda v: tg.sum(lazy(v) * 2.0 * v) + tg.sum(lazy(v) * 3.0))(x + 1)
    assert_same(tg.value_and_grad(f)(x), tg.compiled(tg.value_and_grad(f))(x))


def test_an_einsum_of_one_array_is_no_view():
    f = lambda x: (lambda y: tg.sin(tg.einsum("ij->ji", y)) * (y + 1.0))(x * 2.0)
    x = np.arange(4.0).reshape(2, 2)
    assert_same(f(x), tg.compiled(f)(x))
    assert not np.shares_memory(tg.compiled(lambda x: tg.einsum("ij->ji", x))(x), x)


def test_inputs_are_not_written_to():
    p, xs = params(), data()
    before = {k: v.copy() for k, v in p.items()}
    tg.compiled(tg.value_and_grad(loss))(p, xs)
    assert all(np.array_equal(p[k], before[k]) for k in p)


def test_nothing_of_the_caller_is_kept():
    class Held(np.ndarray):
        pass

    w = np.ones(3).view(Held)
    x = np.ones(3).view(Held)
    box = [w]
    step = tg.compiled(tg.grad(lambda x: tg.sum(x * box[0])))
    for _ in range(2):
        step(x)
    refs = weakref.ref(w), weakref.ref(x)
    box[0] = np.ones(3)
    del w, x
    gc.collect()
    assert [r() for r in refs] == [None, None]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_numpy_scalars_are_arguments(kind):
    value, slope = tg.compiled(tg.value_and_grad(lambda a: a * a))(kind(1.5))
    assert (value, slope) == (2.25, 3.0) and value.dtype == slope.dtype == kind


def test_a_mask_may_change_its_count():
    x, mask = data()[0], np.array([True, False])
    step, plain = (wrap(tg.value_and_grad(lambda x: tg.var(x[:, mask]) + tg.sum(x[mask]))) for wrap in (tg.compiled, lambda f: f))
    for mask[:] in ([True, False], [False, True], [True, True]):
        assert_same(step(x), plain(x))

    def cell(h, x):
        return h, h[mask] * x

    outputs = [tg.grad(lambda h, c=c: tg.sum(tg.scan(cell, h, np.arange(3.0), compiled=c)[1]))(np.ones(2)) for c in (True, False)]
    np.testing.assert_array_equal(*outputs)


def test_a_mask_that_depends_on_what_is_traced_is_an_error():
    for loss, args in ((lambda x: tg.sum(x[x > 0]), (np.ones(3),)), (lambda x, mask: tg.sum(x[mask]), (np.ones(3), np.array([True, False, True])))):
        with pytest.raises(tg.errors.TraceError, match=r"x\[mask\]: the shape of the result depends on a mask that is traced\n  x     \(3,\)\n  mask  \(3,\)"):
            tg.compiled(tg.grad(loss))(*args)
    with pytest.raises(tg.errors.IndexingError, match="boolean index did not match"):
        tg.compiled(tg.grad(lambda x: tg.sum(x[np.array([True, False])])))(np.ones(3))


def test_there_is_no_source_where_the_function_itself_would_run():
    source = tg.compiled(lambda x: tg.sum(x * x)).source
    for x in (tg.tensor([1.0], requires_grad=True), np.ones(0)):
        with pytest.raises(tg.errors.ArgumentError) as error:
            source(x)
        assert str(error.value) == (
            "compiled(f).source(*args): something is tracked, an argument is empty, or somebody watches: f itself would run\n"
            "Ask within no_grad(), outside of other transforms, with arrays that are not empty.")
    assert "return" in source(np.ones(1))
