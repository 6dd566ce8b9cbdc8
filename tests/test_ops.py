"""Every op of the registry under the public battery; the battery itself under planted faults; the edges; the composites."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_rnn as tg
from tinygrad_rnn.check import check_op, gradcheck
from tinygrad_rnn.domains import NONZERO, POSITIVE, REALS
from tinygrad_rnn.primitive import registry

rng = np.random.default_rng(0)
inf, nan = np.inf, np.nan


@pytest.mark.parametrize("name", registry)
def test_the_op_passes_the_battery(name):
    report = check_op(registry[name])
    assert report.ok and not report.notes, str(report)


def test_every_op_is_public():
    for name, op in registry.items():
        assert getattr(tg, name.rstrip("_"), getattr(tg.ops, name, None)) is not None, name
        assert op.rules, f"{name} declares no rule"


# ---- the battery finds what is planted ----------------------------------------------------------------------

def declare(forward, rule, **options):
    options = {"domain": REALS, "elementwise": True, "reference": np.sin} | options
    op = tg.primitive(forward, **options)
    return op.vjp(**(rule if isinstance(rule, dict) else {"x": rule}))


def sine(x, /, *, out=None):
    """Sine."""
    return np.sin(x, out=out)


COS = lambda g, x: g * np.cos(x)


def out_ignored(x, /, *, out=None):
    """Sine, but not into the buffer."""
    return np.sin(x)


def out_crashes(x, /, *, out=None):
    """Sine, but not with a buffer."""
    if out is not None:
        raise TypeError("no buffers here")
    return np.sin(x)


def out_differs(x, /, *, out=None):
    """Sine, but less of it with a buffer."""
    return np.sin(x) if out is None else np.multiply(np.sin(x), 0.5, out=out)


def writes(x, /):
    """Sine that leaves its mark."""
    y = np.sin(x)
    x *= 1.0 + 1e-9
    return y


def passes_through(x, /):
    """Its input."""
    return x


def double_precision(x, /):
    """Sine in double precision."""
    return np.sin(np.asarray(x, np.float64))


def order_of_memory(x, /):
    """Sine of the elements as they lie in memory."""
    return np.sin(x.ravel("K")).reshape(x.shape)


def raises(x, /):
    """Nothing."""
    raise ValueError("no")


def whole(x, /):
    """Not elementwise."""
    return np.cumsum(x.ravel()).reshape(x.shape)


def says_nothing(x, /):
    """An exception without a word."""
    raise ValueError


def product(a, b, /):
    """Product."""
    return np.multiply(a, b)


def scaled(x, /, *, by=2.0):
    """A multiple."""
    return x * by


STACK = {"sample": lambda rng: [((rng.normal(size=(2, 3)),), {"by": 3.0})], "elementwise": False, "reference": lambda x, by: x * by}
PLANTED = {
    "its value is not that of its reference": [declare(sine, COS, reference=np.cos)],
    "its reference raises TypeError": [declare(sine, COS, reference=lambda: 0)],
    "out= gives something else than the plain call": [declare(out_ignored, COS), declare(out_differs, COS)],
    "it raises TypeError with out=": [declare(out_crashes, COS)],
    "it writes to its inputs": [declare(writes, COS)],
    "its result shares memory with an input; declare view=True": [declare(passes_through, lambda g: g, reference=np.positive)],
    "float32 does not stay float32": [declare(double_precision, COS)],
    "its value depends on how the arrays lie in memory": [declare(order_of_memory, COS)],
    "it raises ShapeError on a sample": [declare(raises, COS), declare(says_nothing, COS)],
    "over time it differs from a stack of calls": [
        declare(whole, lambda g, x_shape: np.reshape(np.flip(np.cumsum(np.flip(np.reshape(g, (-1,)), 0), axis=0), 0), x_shape),
                reference=lambda x: np.cumsum(x.ravel()).reshape(x.shape)),
        declare(scaled, lambda g, by: g * by, over_time=lambda T, stacked, x, *, by: x * 2.0, **STACK)],
    "it raises ValueError over time": [declare(scaled, lambda g, by: g * by, over_time=lambda T, stacked, x, *, by: x.reshape(7), **STACK)],
    "its sample raises ZeroDivisionError": [declare(sine, COS, sample=lambda rng: 1 / 0)],
    "its sample gives nothing to try it on": [declare(sine, COS, sample=lambda rng: [])],
    "it returns something else than arrays": [declare(lambda x, /: None, COS), declare(lambda x, /: [np.sin(x)], COS)],
    "the rule of x is wrong at order 1": [declare(sine, lambda g, x: g * np.cos(x) * 1.001), declare(sine, lambda g, x: g),
                                          declare(sine, lambda g, x: g * 0), declare(sine, lambda g, y: g * np.sqrt(1 - y * y)),
                                          declare(scaled, lambda g: g * 2.0, **STACK)],
    "the rule of x is wrong at order 2": [declare(sine, lambda g, x: g * tg.stop_gradient(np.cos(x)))],
    "the rule of b is wrong at order 1": [declare(product, {"a": lambda g, b: g * b, "b": lambda g, b: g * b}, broadcasts=True,
                                                  domain=(REALS, REALS), reference=np.multiply)],
    "it is declared analytic, but the complex step does not see through it": [declare(lambda x, /: np.abs(x), lambda g, x: g * np.sign(x),
                                                                                      domain=NONZERO, analytic=True, reference=np.abs)],
    "a declared fault goes through": [declare(sine, COS, faults=[((np.ones(2),), {}, "bad")])],
    "a fault has another message than declared": [declare(product, {"a": lambda g, b: g * b, "b": lambda g, a: g * a}, broadcasts=True,
                                                          domain=(REALS, REALS), reference=np.multiply,
                                                          faults=[((np.ones(2), np.ones(3)), {}, "entirely different words")])],
    "a rule turns float32 into float64": [declare(sine, lambda g, x: g * np.cos(x) * np.ones(x.shape))],
    "the gradient of x is not linear in g": [declare(sine, lambda g, x: np.clip(g, -50, 50) * np.cos(x))],
}


@pytest.mark.parametrize("what, op", [(what, op) for what, ops in PLANTED.items() for op in ops])
def test_the_battery_finds_a_planted_fault(what, op):
    report = check_op(op)
    assert not report.ok
    assert any(what.replace("of x", "") in finding.what.replace("of x", "").replace("of input 0", "") for finding in report.findings), str(report)


def test_the_battery_passes_a_right_op():
    assert check_op(declare(sine, COS, analytic=True)).ok


def test_a_rule_that_drops_the_graph_is_found():
    report = check_op(declare(sine, lambda g, x: (g._array if isinstance(g, tg.Tensor) else g) * np.cos(x._array if isinstance(x, tg.Tensor) else x)))
    assert not report.ok and "cotangent" in str(report)


def test_an_op_without_a_rule_is_found():
    op = tg.primitive(sine, domain=REALS, elementwise=True, reference=np.sin)
    report = check_op(op)
    assert not report.ok and "no derivative rule is declared for x" in str(report)


def test_what_is_no_op_is_refused():
    with pytest.raises(tg.errors.ArgumentError, match="this is no op"):
        check_op(tg.gelu)
    with pytest.raises(tg.errors.DomainError, match="no check of this order"):
        check_op(tg.tanh, order=4)


# ---- drawn shapes -------------------------------------------------------------------------------------------

ELEMENTWISE = [op for op in registry.values() if op.elementwise and len(op.arrays) == 1 and op.rules.get("x") and op.sample is None]
BINARY = [op for op in registry.values() if op.broadcasts and op.arrays == ["a", "b"] and op.rules.get("a")]
REDUCTIONS = [tg.sum, tg.mean, tg.max, tg.min, tg.prod, tg.var, tg.std, tg.norm, tg.logsumexp]
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
quick = settings(max_examples=25, deadline=None, derandomize=True)


@quick
@given(op=st.sampled_from(ELEMENTWISE), shape=shapes, seed=st.integers(0, 10**6))
def test_elementwise_ops_on_drawn_shapes(op, shape, seed):
    x = op.domain.sample(np.random.default_rng(seed), shape)
    assert np.shape(op(x)) == shape
    assert gradcheck(op, (x,), seed=seed, order=1).ok


@quick
@given(op=st.sampled_from(BINARY), pair=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0), seed=st.integers(0, 10**6))
def test_binary_ops_on_drawn_shapes(op, pair, seed):
    draw = np.random.default_rng(seed)
    a, b = (domain.sample(draw, shape) for domain, shape in zip(op.domain, pair.input_shapes))
    assert np.shape(op(a, b)) == pair.result_shape
    report = gradcheck(op, (a, b), seed=seed)
    assert report.ok, str(report)


@quick
@given(op=st.sampled_from(REDUCTIONS), shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=3), keepdims=st.booleans(), seed=st.integers(0, 10**6),
       data=st.data())
def test_reductions_over_drawn_axes(op, shape, keepdims, seed, data):
    axis = data.draw(st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1), hnp.valid_tuple_axes(len(shape), min_size=1)))
    x = np.random.default_rng(seed).normal(size=shape)
    result = op(x, axis=axis, keepdims=keepdims)
    assert np.shape(result) == np.sum(x, axis=axis, keepdims=keepdims).shape
    report = gradcheck(lambda x: op(x, axis=axis, keepdims=keepdims), (x,), seed=seed, order=2)
    assert report.ok, str(report)


@quick
@given(seed=st.integers(0, 10**6), batch=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=2), m=st.integers(1, 3), k=st.integers(1, 3),
       n=st.integers(1, 3))
def test_matmul_on_drawn_stacks(seed, batch, m, k, n):
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(*batch.input_shapes[0], m, k)), draw.normal(size=(*batch.input_shapes[1], k, n))
    np.testing.assert_allclose(tg.matmul(a, b), np.matmul(a, b), atol=1e-12)
    report = gradcheck(tg.matmul, (a, b), seed=seed)
    assert report.ok, str(report)


INDICES = [(1,), slice(None, None, 2), (slice(None), -1), (Ellipsis, 0), None, (0, None), np.array([2, 0, 2]), [1, 1],
           np.array([[0, 1], [2, 2]]), (np.array([0, 2]), np.array([1, 1])), (slice(1, None), np.array([0, 0])),
           np.array([True, False, True]), (np.array([0, 2])[:, None], np.array([1, 3])),
           (slice(None), np.array([True, False, True, True])), np.zeros((3, 4), bool), []]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_as_in_numpy(index):
    x = rng.normal(size=(3, 4))
    np.testing.assert_array_equal(tg.tensor(x)[index].numpy(), x[index])
    report = gradcheck(lambda x: x[index] * 2.0, (x,))
    assert report.ok, str(report)


# ---- the edges ----------------------------------------------------------------------------------------------

def slope(f, *at):
    """The derivatives of a scalar-valued f at numbers; warnings are errors here."""
    return tg.grad(f, argnums=tuple(range(len(at))))(*(np.asarray(x, float) for x in at))


def equal(got, wanted, tiny=1e-300):
    np.testing.assert_allclose(np.asarray(got, float), wanted, rtol=1e-12, atol=tiny)


@pytest.mark.parametrize("f, limits", [(tg.sigmoid, (0.0, 1.0)), (tg.tanh, (-1.0, 1.0))])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_sigmoid_and_tanh_far_out(f, limits, dtype):
    x = np.array([-inf, -1e3, 1e3, inf], dtype)
    equal(f(x), [limits[0], limits[0], limits[1], limits[1]], np.finfo(dtype).tiny)
    equal(tg.grad(lambda x: tg.sum(f(x)))(x), [0, 0, 0, 0], np.finfo(dtype).tiny)
    assert np.isnan(f(np.array([nan]))).all() and np.isnan(tg.grad(lambda x: tg.sum(f(x)))(np.array([nan]))).all()


def test_softplus_and_logaddexp_far_out():
    x = np.array([-inf, -1e3, 1e3, inf])
    equal(tg.softplus(x), [0, 0, 1e3, inf])
    equal(tg.grad(lambda x: tg.sum(tg.softplus(x)))(x), [0, 0, 1, 1])
    equal(slope(tg.logaddexp, -inf, 0.0), [0, 1])
    equal(slope(tg.logaddexp, -inf, -inf), [0, 0])
    equal(slope(tg.logaddexp, 1000.0, -1000.0), [1, 0])


def test_softmax_and_log_softmax_with_a_mask():
    x = np.array([1000.0, 0.0, -1000.0, -inf])
    equal(tg.softmax(x), [1, 0, 0, 0])
    equal(tg.log_softmax(x), [0, -1000, -2000, -inf])
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    assert np.isfinite(tg.grad(lambda x: tg.sum(tg.softmax(x) * weights))(x)).all()
    equal(tg.grad(lambda x: tg.log_softmax(x)[1])(x), [-1, 1, 0, 0])
    masked = np.array([0.3, -inf, 1.2])
    gradient = tg.grad(lambda x: tg.sum(tg.softmax(x) * np.array([1.0, 2.0, 3.0])))(masked)
    equal(gradient[[0, 2]], tg.grad(lambda x: tg.sum(tg.softmax(x) * np.array([1.0, 3.0])))(masked[[0, 2]]))
    assert gradient[1] == 0


def test_logsumexp_of_a_row_that_is_all_minus_infinity():
    x = np.array([[-inf, -inf], [0.0, 0.0]])
    equal(tg.logsumexp(x, axis=1), [-inf, math.log(2)])
    equal(tg.grad(lambda x: tg.logsumexp(x, axis=1)[0] * 0.0 + tg.logsumexp(x, axis=1)[1])(np.array([[1.0, -inf], [0.0, 0.0]])), [[0, 0], [0.5, 0.5]])
    equal(tg.vjp(lambda x: tg.logsumexp(x, axis=1), x)[1](np.ones(2))[0], [[0, 0], [0.5, 0.5]])
    assert np.isnan(tg.softmax(x)[0]).all()  # no distribution there


def test_roots_and_norms_at_zero():
    with np.errstate(divide="ignore"):
        assert slope(tg.sqrt, 0.0) == (inf,)
    equal(tg.grad(tg.norm)(np.zeros(3)), [0, 0, 0])
    equal(tg.grad(tg.std)(np.full(24, 0.7)), np.zeros(24))
    equal(tg.hessian(lambda x: tg.var(x))(np.full(2, 0.7)), [[0.5, -0.5], [-0.5, 0.5]])


def test_powers_at_zero():
    equal(tg.grad(lambda x: x**0)(0.0), 0)
    equal(slope(lambda a, b: tg.power(a, b), 0.0, 0.0), [0, 0])
    equal(slope(lambda a, b: tg.power(a, b), 0.0, 2.0), [0, 0])
    equal(slope(lambda a, b: tg.power(a, b), 2.0, 0.0), [0, math.log(2)])
    equal(tg.grad(tg.grad(lambda b: tg.grad(lambda a: tg.power(a, b))(2.0)))(0.0), 2 * math.log(2) / 2)


def test_products_with_zeros():
    equal(tg.grad(tg.prod)(np.array([0.0, 2.0, 3.0])), [6, 0, 0])
    equal(tg.grad(tg.prod)(np.array([0.0, 0.0, 3.0])), [0, 0, 0])
    equal(tg.hessian(tg.prod)(np.array([0.0, 2.0, 3.0])), [[0, 3, 2], [3, 0, 0], [2, 0, 0]])


def test_sinc_at_and_beside_zero():
    equal(tg.grad(tg.sinc)(0.0), 0)
    equal(tg.grad(tg.grad(tg.sinc))(0.0), -math.pi**2 / 3)
    equal(tg.grad(tg.sinc)(1e-6), -math.pi**2 / 3 * 1e-6)
    np.testing.assert_allclose(tg.grad(tg.sinc)(0.5 - 1e-12), tg.grad(tg.sinc)(0.5 + 1e-12), rtol=1e-10)


def test_where_computes_both_sides():
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isnan(tg.grad(lambda x: tg.where(x > 0, tg.log(x), 0.0))(0.0))
    guarded = lambda x: tg.where(x > 0, tg.log(tg.where(x > 0, x, 1.0)), 0.0)
    equal([tg.grad(guarded)(x) for x in (0.0, 2.0)], [0, 0.5])


def test_ties_and_kinks_are_shared_as_documented():
    equal(tg.grad(tg.max)(np.array([1.0, 3.0, 3.0])), [0, 0.5, 0.5])
    equal(tg.grad(tg.min)(np.array([1.0, 1.0, 3.0])), [0.5, 0.5, 0])
    equal(slope(tg.maximum, 2.0, 2.0), [0.5, 0.5])
    equal(slope(tg.minimum, 2.0, 2.0), [0.5, 0.5])
    equal([slope(f, 0.0)[0] for f in (tg.abs, tg.relu, tg.sign)], [0, 0, 0])
    equal(tg.grad(lambda x: tg.sum(tg.clip(x, -1.0, 1.0)))(np.array([-1.0, 0.0, 1.0, 5.0])), [0, 1, 0, 0])


@pytest.mark.parametrize("f", [tg.max, tg.min, tg.sum, tg.mean, tg.prod, tg.logsumexp, lambda x: tg.maximum(x, 0.0).sum(), lambda x: tg.clip(x, 0, 1).sum()])
def test_nan_stays_nan(f):
    with np.errstate(invalid="ignore"):
        assert np.isnan(f(np.array([1.0, nan])))


def test_large_stays_quiet():
    equal(tg.grad(tg.log1p)(0.0), 1)
    equal(tg.expm1(np.array([-40.0])), [math.expm1(-40)])
    equal(tg.grad(tg.expm1)(-40.0), math.exp(-40))


@pytest.mark.parametrize("op", [tg.sum, tg.prod, tg.cumsum, tg.softmax, tg.logsumexp, tg.norm, tg.exp, tg.relu], ids=lambda op: op.name)
def test_empty_arrays(op):
    x = np.ones((0, 3))
    if op is not tg.logsumexp:
        assert tg.vjp(op, x)[1](np.ones(np.shape(op(x))))[0].shape == (0, 3)
    else:
        assert tg.vjp(lambda x: op(x, axis=1), x)[1](np.ones(0))[0].shape == (0, 3)


# ---- composites: value as NumPy's, gradients by the check ----------------------------------------------------

a23, b34, c4 = rng.normal(size=(2, 3)), rng.normal(size=(3, 4)), rng.normal(size=4)
stack234 = rng.normal(size=(2, 3, 4))
COMPOSITES = {
    "gelu": (tg.gelu, lambda x: np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape), (a23,), 1e-3),
    "take": (lambda x: tg.take(x, np.array([2, 0, 2]), 1), lambda x: np.take(x, [2, 0, 2], 1), (a23,), 0),
    "take, flat": (lambda x: tg.take(x, np.array([5, 0])), lambda x: np.take(x, [5, 0]), (a23,), 0),
    "take, negative axis": (lambda x: tg.take(x, np.array([[0, 1]]), -2), lambda x: np.take(x, [[0, 1]], -2), (a23,), 0),
    "gather": (lambda x: tg.gather(x, np.array([[2], [0]]), 1), lambda x: np.take_along_axis(x, np.array([[2], [0]]), 1), (a23,), 0),
    "gather, repeated": (lambda x: tg.gather(x, np.array([[1, 1, 1]]), 0), lambda x: np.take_along_axis(x, np.array([[1, 1, 1]]), 0), (a23,), 0),
    "einsum, product": (lambda a, b: tg.einsum("ij,jk", a, b), np.matmul, (a23, b34), 1e-15),
    "einsum, ellipsis": (lambda a, b: tg.einsum("...ij,kj->...ik", a, b), lambda a, b: a @ b.T, (stack234, b34), 1e-15),
    "einsum, alone": (lambda a: tg.einsum("ij->", a), np.sum, (a23,), 1e-15),
    "einsum, broadcast batch": (lambda a, b: tg.einsum("...i,...i", a, b), lambda a, b: np.einsum("...i,...i", a, b), (stack234, c4), 1e-15),
    "einsum, three": (lambda a, b, c: tg.einsum("ij,jk,k->i", a, b, c), lambda a, b, c: a @ b @ c, (a23, b34, c4), 1e-15),
    "tensordot": (lambda a, b: tg.tensordot(a, b, 1), lambda a, b: np.tensordot(a, b, 1), (a23, b34), 1e-15),
    "tensordot, pairs": (lambda a, b: tg.tensordot(a, b, ([1, 2], [0, 1])), lambda a, b: np.tensordot(a, b, ([1, 2], [0, 1])), (stack234, b34), 1e-15),
    "tensordot, outer": (lambda a, b: tg.tensordot(a, b, 0), lambda a, b: np.tensordot(a, b, 0), (a23, c4), 1e-15),
    "outer": (tg.outer, np.outer, (c4, a23[0]), 0),
    "dot": (tg.dot, np.dot, (a23, b34), 1e-15),
    "dot, vectors": (tg.dot, np.dot, (c4, c4 + 1), 1e-15),
    "dot, scalar": (tg.dot, np.dot, (np.array(2.0), a23), 0),
    "trace": (tg.trace, np.trace, (b34,), 1e-15),
    "trace, stack": (lambda x: tg.trace(x, 1), lambda x: np.trace(x, 1, -2, -1), (stack234,), 1e-15),
    "moveaxis": (lambda x: tg.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), (stack234,), 0),
    "moveaxis, several": (lambda x: tg.moveaxis(x, (0, 1), (2, 0)), lambda x: np.moveaxis(x, (0, 1), (2, 0)), (stack234,), 0),
    "swapaxes": (lambda x: tg.swapaxes(x, -1, 0), lambda x: np.swapaxes(x, -1, 0), (stack234,), 0),
    "squeeze": (tg.squeeze, np.squeeze, (stack234[:1, :, :1],), 0),
    "squeeze, one": (lambda x: tg.squeeze(x, -1), lambda x: np.squeeze(x, -1), (stack234[:1, :, :1],), 0),
    "expand_dims": (lambda x: tg.expand_dims(x, 1), lambda x: np.expand_dims(x, 1), (a23,), 0),
    "expand_dims, last": (lambda x: tg.expand_dims(x, -1), lambda x: np.expand_dims(x, -1), (a23,), 0),
    "split": (lambda x: tg.split(x, 2, axis=1)[1], lambda x: np.split(x, 2, axis=1)[1], (b34,), 0),
    "split, at": (lambda x: tg.split(x, [1, 2], axis=-1)[2], lambda x: np.split(x, [1, 2], axis=-1)[2], (b34,), 0),
    "concatenate": (lambda a, b: tg.concatenate([a, b[:, :3]], 0), lambda a, b: np.concatenate([a, b[:, :3]], 0), (a23, b34), 0),
    "stack": (lambda a, b: tg.stack([a, b], -1), lambda a, b: np.stack([a, b], -1), (c4, c4 + 1), 0),
    "pad": (lambda x: tg.pad(x, ((1, 0), (0, 2))), lambda x: np.pad(x, ((1, 0), (0, 2))), (a23,), 0),
    "pad, all sides": (lambda x: tg.pad(x, 1), lambda x: np.pad(x, 1), (a23,), 0),
    "ravel": (tg.ravel, np.ravel, (a23,), 0),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_is_numpys_and_its_gradients_are_right(name):
    f, reference, inputs, tolerance = COMPOSITES[name]
    np.testing.assert_allclose(f(*inputs), reference(*inputs), rtol=tolerance, atol=max(tolerance, 1e-15))
    report = gradcheck(f, inputs)
    assert report.ok and report.verdict == "right", str(report)
    single = f(*(tg.tensor(x.astype(np.float32)) for x in inputs))
    assert single.dtype == np.float32


NUMPY = {
    "tanh": (np.tanh, (a23,)),
    "exp": (np.exp, (a23,)),
    "log": (np.log, (np.abs(a23) + 0.1,)),
    "power": (lambda a: np.power(a, 3), (a23,)),
    "maximum": (lambda a: np.maximum(a, 0.1), (a23,)),
    "clip": (lambda a: np.clip(a, -0.5, 0.5), (a23,)),
    "where": (lambda a: np.where(a > 0, a, -a), (a23 + 0.1,)),
    "sum": (lambda a: np.sum(a, axis=0), (a23,)),
    "mean": (lambda a: np.mean(a, axis=-1, keepdims=True), (a23,)),
    "var": (lambda a: np.var(a, axis=0, ddof=1), (a23,)),
    "linalg.norm": (np.linalg.norm, (a23,)),
    "cumsum": (lambda a: np.cumsum(a, axis=1), (a23,)),
    "matmul": (np.matmul, (a23, b34)),
    "einsum": (lambda a, b: np.einsum("ij,jk->ik", a, b), (a23, b34)),
    "outer": (np.outer, (c4, c4)),
    "trace": (np.trace, (b34,)),
    "concatenate": (lambda a, b: np.concatenate([a, b.T]), (a23, b34)),
    "stack": (lambda a: np.stack([a, a]), (a23,)),
    "split": (lambda a: np.split(a, 3, axis=1)[0], (a23,)),
    "transpose": (np.transpose, (a23,)),
    "reshape": (lambda a: np.reshape(a, (3, 2)), (a23,)),
    "roll": (lambda a: np.roll(a, 1, axis=0), (a23,)),
    "take_along_axis": (lambda a: np.take_along_axis(a, np.array([[0], [1]]), 1), (a23,)),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numpys_own_functions_keep_the_gradient(name):
    f, inputs = NUMPY[name]
    y = f(*(tg.tensor(x, requires_grad=True) for x in inputs))
    assert isinstance(y, tg.Tensor) and y.requires_grad
    np.testing.assert_allclose(y.detach().numpy(), f(*inputs), rtol=1e-14)
    assert gradcheck(f, inputs).verdict == "right"


def test_faults_of_the_composites_are_clear():
    with pytest.raises(tg.errors.ArgumentError, match="a letter repeats within one operand"):
        tg.einsum("ii->i", np.eye(2))
    with pytest.raises(tg.errors.ArgumentError, match="the number of operands differs"):
        tg.einsum("ij,jk->ik", np.eye(2))
    with pytest.raises(tg.errors.ShapeError, match="the axis cannot be parted equally"):
        tg.split(np.ones(5), 2)
    with pytest.raises(tg.errors.ShapeError, match="a named axis is longer than 1"):
        tg.squeeze(np.ones((2, 3)), 0)
    with pytest.raises(tg.errors.ShapeError, match="b has more than two axes"):
        tg.dot(np.ones(2), np.ones((2, 2, 2)))
    with pytest.raises(tg.errors.DtypeError, match="not of an integer or boolean dtype"):
        tg.tensor([1.0])[np.array([0.0])]
    with pytest.raises(tg.errors.IndexingError, match="out of bounds"):
        tg.take(tg.tensor([1.0]), np.array([3]))


def test_domains_draw_inside_themselves():
    for domain in (REALS, POSITIVE, NONZERO):
        assert all(v in domain for v in domain.sample(np.random.default_rng(0), (100,)))
