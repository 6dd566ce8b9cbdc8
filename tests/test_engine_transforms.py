"""vjp, jvp, grad, jacobian, hessian, hvp, stop_gradient, checkpoint: over trees, nested, to higher orders."""

from collections import namedtuple

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DtypeError, GradientError

rng = np.random.default_rng(3)
Pair = namedtuple("Pair", "left right")


def close(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def difference(f, x, v, step=1e-6):
    return (f(x + step * v) - f(x - step * v)) / (2 * step)


# ---- trees --------------------------------------------------------------------------------------------------


def model(p):
    return (tg.tanh(p["a"][0] @ p["b"]) * p["n"]).sum()


PARAMS = {"b": rng.normal(size=3), "n": 3, "a": (rng.normal(size=(3, 3)), None), "flag": True}
TANGENT = {"a": (rng.normal(size=(3, 3)), None), "flag": 0, "n": 1, "b": rng.normal(size=3)}  # the same names in another order


def shifted(p, v, step):
    return {**p, "b": p["b"] + step * v["b"], "a": (p["a"][0] + step * v["a"][0], None)}


def test_leaves_that_are_no_floats_get_none():
    g = tg.grad(model)(PARAMS)
    assert list(g) == list(PARAMS) and g["n"] is None and g["flag"] is None and g["a"][1] is None
    d = 3 * (1 - np.tanh(PARAMS["a"][0] @ PARAMS["b"]) ** 2)
    close(g["b"], PARAMS["a"][0].T @ d)
    close(g["a"][0], np.outer(d, PARAMS["b"]))


def test_jvp_and_hvp_match_leaves_by_name():
    y, y_dot = tg.jvp(model, (PARAMS,), (TANGENT,))
    close(y_dot, difference(lambda s: model(shifted(PARAMS, TANGENT, s)), 0.0, 1.0), 1e-7)
    product = tg.hvp(model, (PARAMS,), (TANGENT,))
    slope = lambda s: tg.grad(model)(shifted(PARAMS, TANGENT, s))
    for pick in (lambda g: g["b"], lambda g: g["a"][0]):
        close(pick(product), (pick(slope(1e-6)) - pick(slope(-1e-6))) / 2e-6, 1e-6)
    assert product["n"] is None


def test_jacobian_and_hessian_of_trees():
    f = lambda p: {"y": p["w"] @ p["x"], "z": [p["x"] * p["k"]]}
    p = {"k": 2, "w": rng.normal(size=(2, 3)), "x": rng.normal(size=3)}
    j = tg.jacobian(f)(p)
    close(j["y"]["x"], p["w"])
    close(j["y"]["w"], np.einsum("ij,k->ijk", np.eye(2), p["x"]))
    close(j["z"][0]["x"], 2 * np.eye(3))
    assert j["y"]["k"] is None and j["z"][0]["w"].shape == (3, 2, 3) and not j["z"][0]["w"].any()
    h = tg.hessian(lambda p: (p["w"] @ p["x"]).sum() * p["x"].sum())(p)
    close(h["x"]["x"], p["w"].sum(0)[:, None] + p["w"].sum(0))
    close(h["w"]["w"], np.zeros((2, 3, 2, 3)))
    close(h["w"]["x"], np.moveaxis(h["x"]["w"], 0, -1))
    assert h["k"] is None and h["x"]["k"] is None


def test_several_arguments():
    f = lambda a, b, scale=1.0: (a * b * b).sum() * scale
    a, b = rng.normal(size=3), rng.normal(size=3)
    close(tg.grad(f, 1)(a, b), 2 * a * b)
    close(tg.grad(f, -1)(a, b, scale=2.0), 4 * a * b)
    ga, gb = tg.grad(f, (0, 1))(a, b)
    close(ga, b * b), close(gb, 2 * a * b)
    (haa, hab), (hba, hbb) = tg.hessian(f, (0, 1))(a, b)
    close(haa, np.zeros((3, 3))), close(hab, np.diag(2 * b)), close(hba, np.diag(2 * b)), close(hbb, np.diag(2 * a))
    va, vb = rng.normal(size=3), rng.normal(size=3)
    pa, pb = tg.hvp(f, (a, b), (va, vb))
    close(pa, 2 * b * vb), close(pb, 2 * b * va + 2 * a * vb)
    ja, jb = tg.jacobian(lambda a, b: a * b, (0, 1))(a, b)
    close(ja, np.diag(b)), close(jb, np.diag(a))


def test_labels_have_no_direction():
    f = lambda p, labels: (p["x"] ** 3)[labels].sum()
    p, labels, v = {"x": np.array([1.0, 2.0])}, np.array([0, 1, 1]), {"x": np.ones(2)}
    product, nothing = tg.hvp(f, (p, labels), (v, np.zeros(3)))
    assert product["x"].tolist() == [6.0, 24.0] and nothing is None
    assert tg.jvp(f, (p, labels), (v, np.zeros(3)))[1] == 3.0 + 24.0


def test_named_tuples_lists_and_empty_trees():
    p = Pair([np.ones(2)], {})
    g = tg.grad(lambda p: (p.left[0] ** 2).sum())(p)
    assert type(g) is Pair and g.right == {} and g.left[0].tolist() == [2.0, 2.0]
    y, pullback = tg.vjp(lambda p: Pair(p.left[0] * 2, None), p)
    assert type(y) is Pair and pullback(Pair(np.ones(2), None))[0].left[0].tolist() == [2.0, 2.0]
    y, pullback = tg.vjp(lambda x: {}, 1.0)
    assert y == {} and pullback({}) == (0.0,)


def test_auxiliary_output():
    (y, aux), g = tg.value_and_grad(lambda x: (x * x, {"twice": 2 * x, "name": "x"}), has_aux=True)(3.0)
    assert (float(y), float(aux["twice"]), aux["name"], float(g)) == (9.0, 6.0, "x", 6.0)
    assert type(aux["twice"]) is np.ndarray


def test_strings_and_objects_are_constants():
    f = lambda p: p["w"] * 2 if p["kind"] == "f8" else p["w"]
    g = tg.grad(f)({"kind": "f8", "w": 1.0, "call": len})
    assert g["kind"] is None and g["call"] is None and g["w"] == 2.0


# ---- what goes in and comes out -----------------------------------------------------------------------------


def test_results_are_plain_arrays_of_their_own():
    x = np.array([1.0, 2.0])
    y, pullback = tg.vjp(lambda x: x, x)
    y[:] = 7.0
    g = np.ones(2)
    first = pullback(g)[0]
    first[:] = 5.0
    assert x.tolist() == [1.0, 2.0] and g.tolist() == [1.0, 1.0] and pullback(g)[0].tolist() == [1.0, 1.0]


def test_values_may_be_written_to_before_the_pullback():
    y, pullback = tg.vjp(tg.tanh, np.array([0.5]))  # its rule keeps y
    y[:] = 0.0
    close(pullback(np.ones(1))[0], 1 - np.tanh(0.5) ** 2)
    t = tg.tensor([1.0, 2.0])
    y, _ = tg.vjp(lambda x: x, t)
    y[:] = 9.0
    assert t.tolist() == [1.0, 2.0]


def test_gradients_of_one_pullback_share_no_memory():
    w = tg.tensor([1.0, 1.0], requires_grad=True)  # something else is tracked: the pullback takes the graph's way
    for f in (lambda a, b: a + b, lambda a, b: a + b + w):
        y, pullback = tg.vjp(f, np.ones(2), np.ones(2))
        g = np.ones(2)
        a, b = pullback(g)
        assert type(a) is type(b) is np.ndarray and not np.shares_memory(a, b) and not np.shares_memory(a, g)
        y, pullback = tg.vjp(lambda x, f=f: x.reshape(1, 2) + f(0.0, 0.0), np.ones(2))
        assert not np.shares_memory(pullback(np.ones((1, 2)))[0], g)


def test_a_pullback_can_be_called_again():
    y, pullback = tg.vjp(lambda x: tg.sin(x) * x, np.array([1.0, 2.0]))
    first = pullback(np.array([1.0, 0.0]))[0]
    close(pullback(np.array([1.0, 0.0]))[0], first)
    close(pullback(np.array([0.0, 1.0]))[0] + first, pullback(np.ones(2))[0])


def test_a_pullback_asks_for_a_tree_like_y(says):
    _, pullback = tg.vjp(lambda x: {"y": x * x}, np.ones(2))
    with says(ArgumentError, "pullback(g): g does not have the structure and shapes of y\n  y            dict(y=*)\n"
                             "  shapes of y  [(2,)]\n  shapes of g  [(3,)]\nPass a tree like y."):
        pullback({"y": np.ones(3)})
    with pytest.raises(ArgumentError):
        pullback(np.ones(2))


def test_the_users_arrays_are_not_written():
    x, g = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    x.flags.writeable = g.flags.writeable = False
    _, pullback = tg.vjp(lambda x: x[0] * x[1] + x, x)
    pullback(g)
    tg.hvp(lambda x: (x[0] * x).sum(), (x,), (g,))


def test_primals_may_be_written_to_before_the_pullback():
    x = np.array([1.0, 2.0])
    _, pullback = tg.vjp(lambda x: x * x, x)
    x[:] = 100.0
    close(pullback(np.ones(2))[0], [2.0, 4.0])


def test_untracked_tensors_go_in_and_plain_arrays_come_out():
    g = tg.grad(lambda x: (x * x).sum())(tg.tensor([1.0, 2.0]))
    assert type(g) is np.ndarray and g.tolist() == [2.0, 4.0]


def test_a_function_that_ignores_its_input_has_zero_gradient():
    assert tg.grad(lambda x: 3.0)(np.ones(2)).tolist() == [0.0, 0.0]
    assert tg.jvp(lambda x: np.ones(3), (1.0,), (1.0,))[1].tolist() == [0.0, 0.0, 0.0]
    assert tg.hessian(lambda x: x.sum())(np.ones(2)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert tg.jacobian(lambda x: x[:0])(np.ones(2)).shape == (0, 2)


# ---- errors -------------------------------------------------------------------------------------------------


def test_what_cannot_be_differentiated(says):
    def f(x):
        return x * x

    with says(GradientError, "grad(f): the function does not return a scalar\n  returned  shape (2,)\n"
                             "Reduce it, for example with sum(), or use jacobian."):
        tg.grad(f)(np.ones(2))
    with says(GradientError, "grad(f): the function does not return a scalar\n  returned  tuple(*, *) of shapes [(), ()]\n"
                             "Reduce it, for example with sum(), or use jacobian."):
        f2 = lambda x: (x, x)
        f2.__name__ = "f"
        tg.grad(f2)(1.0)
    with says(DtypeError, "grad(f): argument 0 has no floating point leaf\n  argument  2\nPass floats (2.0, not 2) or arrays of a float dtype."):
        tg.grad(f)(2)
    with says(DtypeError, "jacobian(f): argument 0 has no floating point leaf\n  argument  2\nPass floats (2.0, not 2) or arrays of a float dtype."):
        tg.jacobian(f)(2)
    with says(ArgumentError, "grad(f): there is no argument of that number\n  argnums    1\n  arguments  1\n"
                             "Pass the argument by position, counted from 0."):
        tg.grad(f, 1)(1.0)
    with says(DtypeError, "grad(f): the function returns a complex number\n  dtype  complex128\nReturn a real one."):
        f3 = lambda x: x * 1j
        f3.__name__ = "f"
        tg.grad(f3)(1.0)


@pytest.mark.parametrize("who", [tg.jvp, tg.hvp])
def test_tangents_that_do_not_fit(who, says):
    name = f"{who.__name__}(f, primals, tangents)"
    with says(ArgumentError, f"{name}: the tangents are not trees like the primals\n  primals   ['shape (2,)']\n"
                             "  tangents  ['shape (3,)']\nPass tuples with one tangent per primal."):
        who(tg.sum, (np.ones(2),), (np.ones(3),))
    with says(ArgumentError, f"{name}: primals and tangents are not tuples\n  primals   shape (2,)\n  tangents  shape (2,)\n"
                             "Pass tuples with one entry per argument of f: (x,), (v,)."):
        who(tg.sum, np.ones(2), np.ones(2))
    for tangents in ((), ({"a": 1.0},), (np.ones(2), np.ones(2))):
        with pytest.raises(ArgumentError, match="not trees like the primals"):
            who(tg.sum, (np.ones(2),), tangents)


def test_the_mode_comes_back_when_f_raises():
    def f(x):
        raise KeyError(x * 2)

    w = tg.tensor(1.0, requires_grad=True)
    for call in (lambda: tg.grad(f)(1.0), lambda: tg.vjp(f, 1.0), lambda: tg.jvp(f, (1.0,), (1.0,)), lambda: tg.checkpoint(f)(w)):
        with tg.no_grad():
            with pytest.raises(KeyError):
                call()
            assert not (w * 2).requires_grad
        assert (w * 2).requires_grad


# ---- nesting and higher orders ------------------------------------------------------------------------------


def test_nested_transforms_do_not_confuse_their_inputs():
    assert tg.grad(lambda x: x * tg.grad(lambda y: x + y)(x))(1.0) == 1.0
    assert tg.grad(lambda x: x * tg.grad(lambda y: x * y)(2.0))(3.0) == 6.0
    assert tg.grad(lambda x: tg.jvp(lambda y: x * y * y, (x,), (1.0,))[1])(3.0) == 12.0  # d/dx 2x²
    inner = lambda x: tg.jvp(lambda y: y * x, (x,), (x,))[1]
    assert tg.jvp(inner, (3.0,), (1.0,))[1] == 6.0


@pytest.mark.parametrize("f, derivatives", [
    (lambda x: x**4, (32.0, 48.0, 48.0, 24.0)),
    (lambda x: x * x * x * x, (32.0, 48.0, 48.0, 24.0)),
    (lambda x: tg.exp(x * 0.5) * 2, (np.e, np.e / 2, np.e / 4, np.e / 8)),
    (lambda x: 1 / x, (-0.25, 0.25, -0.375, 0.75)),
    (lambda x: tg.log(x), (0.5, -0.25, 0.25, -0.375)),
    (lambda x: x[None][np.array([0, 0])].sum() * x, (8.0, 4.0, 0.0, 0.0)),
], ids=["power", "product", "exp", "reciprocal", "log", "indexing"])
def test_four_orders(f, derivatives):
    for expected in derivatives:
        f = tg.grad(f)
        close(f(2.0), expected)


def test_forward_over_reverse_is_reverse_over_reverse():
    f = lambda x: tg.sum(tg.tanh(x @ np.arange(9.0).reshape(3, 3)) ** 2)
    x, v = rng.normal(size=3), rng.normal(size=3)
    expected = tg.hessian(f)(x) @ v
    close(tg.hvp(f, (x,), (v,)), expected)
    close(tg.jvp(tg.grad(f), (x,), (v,))[1], expected)
    close(tg.grad(lambda x: tg.jvp(f, (x,), (v,))[1])(x), expected)
    close(tg.vjp(tg.grad(f), x)[1](v)[0], expected)
    close(difference(tg.grad(f), x, v), expected, 1e-7)


def test_pullbacks_and_gradients_are_differentiable_in_what_they_close_over():
    w = tg.tensor(2.0, requires_grad=True)
    g = tg.grad(lambda x: w * x * x)(3.0)
    assert g.requires_grad and g.item() == 12.0
    g.backward()
    assert w.grad == 6.0
    _, pullback = tg.vjp(lambda x: x * x, 3.0)
    assert tg.grad(lambda g: pullback(g)[0])(1.0) == 6.0


def test_a_pullback_that_outlives_its_outer_transform_gives_plain_results():
    kept = []

    def outer(x):
        y, pullback = tg.vjp(lambda z: z * x, x)
        kept.append(pullback)
        return y

    assert tg.grad(outer)(3.0) == 6.0
    g = kept[0](1.0)[0]
    assert type(g) is np.ndarray and g == 3.0


def test_integers_cut_the_gradient():
    assert tg.grad(lambda x: (x.astype(int) * x).sum())(np.array([2.7])).tolist() == [2.0]
    assert tg.grad(lambda x: x * (x > 1.0))(2.0) == 1.0


def test_stop_gradient_and_detach():
    assert tg.grad(lambda x: x * tg.stop_gradient(x))(3.0) == 3.0
    assert tg.grad(lambda x: x * x.detach())(3.0) == 3.0
    assert tg.grad(tg.grad(lambda x: x * x * tg.stop_gradient(x)))(3.0) == 6.0
    assert tg.stop_gradient(2.0) == 2.0 and not tg.tensor(1.0, requires_grad=True).detach().requires_grad


# ---- checkpoint ---------------------------------------------------------------------------------------------


def segment(w):
    return lambda x, y: (tg.tanh(x * w) * y, {"sum": (x * y).sum(), "count": 3})


@pytest.mark.parametrize("order", [1, 2, 3])
def test_checkpoint_is_transparent_also_for_what_it_closes_over(order):
    start = rng.normal(size=3)
    w = tg.tensor(rng.normal(size=3), requires_grad=True)

    def loss(wrap):
        def f(x):
            a, more = wrap(segment(w))(x, x * 2.0)
            return (a * a).sum() * more["sum"] * more["count"]

        for _ in range(order - 1):
            f = (lambda inner: lambda x: (tg.grad(inner)(x) * np.arange(3.0)).sum())(f)
        return f

    results = []
    for wrap in (lambda f: f, tg.checkpoint):
        x = tg.tensor(start, requires_grad=True)
        loss(wrap)(x).backward()
        results.append((x.grad, w.grad))
        w.grad = None
    for got, expected in zip(*results):
        close(got, expected)


def test_checkpoint_keeps_inputs_safe_and_nests():
    a = np.array([1.0, 2.0])
    x = tg.tensor([1.0, 1.0], requires_grad=True)
    inner = tg.checkpoint(lambda x, a: x * a * x)
    y = tg.checkpoint(lambda x: inner(x, a.copy()) + inner(x, np.ones(2)))(x)
    kept = inner(x, a)
    a[:] = 50.0
    (kept.sum() * 1.0).backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])
    a[:] = [1.0, 2.0]  # what a function closes over must still be there when it runs again
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [6.0, 10.0])


def test_checkpoint_without_gradients_just_calls():
    f = tg.checkpoint(lambda x: x * 2)
    assert f(2.0) == 4.0
    with tg.no_grad():
        assert not f(tg.tensor(1.0, requires_grad=True)).requires_grad
    with pytest.raises(TypeError):
        f(x=1.0)


def test_checkpoint_leaves_untracked_outputs_alone():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y, index = tg.checkpoint(lambda x: (x * x, np.argmax(x)))(x)
    assert index == 1 and y.requires_grad


def test_only_what_something_else_tracks_comes_out_tracked():
    w = tg.tensor(2.0, requires_grad=True)
    y, pullback = tg.vjp(lambda x: {"own": x * x, "shared": x * w}, 3.0)
    assert type(y["own"]) is np.ndarray and y["shared"].requires_grad
    (g,) = pullback({"own": 1.0, "shared": 0.0})
    assert g.requires_grad and g.item() == 6.0
    (value, aux), g = tg.value_and_grad(lambda x: (x * x, (x * w, x + 1.0)), has_aux=True)(3.0)
    assert type(value) is type(g) is type(aux[1]) is np.ndarray and aux[0].requires_grad
