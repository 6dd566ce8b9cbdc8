"""Losses, dense layers and initialisers: values by hand, gradients by differences, the edges, the messages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg

F = tg.nn.functional
seeds = st.integers(0, 2**32 - 1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_hand_cross_entropy(x, q, w):
    return np.array([-sum(w[c] * q[n, c] * np.log(softmax(x)[n, c]) for c in range(x.shape[1])) for n in range(len(x))])


@given(seed=seeds, N=st.integers(1, 5), C=st.integers(2, 5), smoothing=st.sampled_from([0.0, 0.2]), weighted=st.booleans())
@settings(max_examples=30, deadline=None)
def test_cross_entropy_in_all_its_forms(seed, N, C, smoothing, weighted):
    rng = np.random.default_rng(seed)
    x, target, w = rng.normal(size=(N, C)), rng.integers(0, C, N), rng.random(C) + 0.1 if weighted else np.ones(C)
    weight = w if weighted else None
    q = np.eye(C)[target] * (1 - smoothing) + smoothing / C
    rows = by_hand_cross_entropy(x, q, w)
    for reduction, expected in (("none", rows), ("sum", rows.sum()), ("mean", rows.sum() / w[target].sum())):
        np.testing.assert_allclose(F.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=smoothing), expected, rtol=1e-12)
    np.testing.assert_allclose(F.cross_entropy(x, np.eye(C)[target], weight, label_smoothing=smoothing), rows.mean(), rtol=1e-12)
    np.testing.assert_allclose(F.nll_loss(np.log(softmax(x)), target, weight, reduction="none"), by_hand_cross_entropy(x, np.eye(C)[target], w), rtol=1e-12)
    np.testing.assert_allclose(F.cross_entropy(x.T, target, weight, reduction="sum", label_smoothing=smoothing, axis=0), rows.sum(), rtol=1e-12)
    if not weighted:
        np.testing.assert_allclose(tg.grad(lambda x: F.cross_entropy(x, target, label_smoothing=smoothing))(x), (softmax(x) - q) / N, rtol=1e-10, atol=1e-14)


def test_ignored_targets_do_not_count():
    x, target = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, -100, 2, 1])
    for smoothing in (0.0, 0.3):
        kept = F.cross_entropy(x[[0, 2, 3]], target[[0, 2, 3]], label_smoothing=smoothing)
        np.testing.assert_allclose(F.cross_entropy(x, target, label_smoothing=smoothing), kept, rtol=1e-14)
        broken = x.copy()
        broken[1] = np.nan
        value, g = tg.value_and_grad(lambda x, s=smoothing: F.cross_entropy(x, target, label_smoothing=s))(np.where(np.isnan(broken), 1e3, x))
        assert np.isfinite(value) and not g[1].any() and g[0].any()
    assert F.cross_entropy(x, np.array([0, 1, 2, 1]), ignore_index=1, reduction="none")[[1, 3]].tolist() == [0, 0]


LOSSES = {
    "mse": lambda x, y: F.mse_loss(x, y), "half": lambda x, y: F.half_squared_error(x, y), "huber": lambda x, y: F.huber_loss(x, y, delta=0.7),
    "bce": lambda x, y: F.binary_cross_entropy_with_logits(x, 1 / (1 + np.exp(-y)), pos_weight=2.0),
    "classes": lambda x, y: F.cross_entropy(x, np.argmax(y, 1), weight=np.arange(1.0, 1 + x.shape[1]), label_smoothing=0.1),
    "distributions": lambda x, y: F.cross_entropy(x, softmax(y)), "norm": lambda x, y: tg.sum(F.layer_norm(x) * y),
}


@pytest.mark.parametrize("name", LOSSES)
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_gradients_against_differences(name, seed):
    rng = np.random.default_rng(seed)
    x, y, v = (rng.normal(size=(3, 4)) for _ in range(3))
    loss, h = LOSSES[name], 1e-4

    def central(f):
        return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)

    near_kink = name == "huber" and np.any(np.abs(np.abs(x - y) - 0.7) < 4 * h * np.abs(v))
    if not near_kink:
        np.testing.assert_allclose(np.sum(tg.grad(loss)(x, y) * v), central(lambda h: float(loss(x + h * v, y))), rtol=1e-7, atol=1e-9)
        second = tg.hvp(lambda x: loss(x, y), (x,), (v,))
        np.testing.assert_allclose(np.sum(second * v), central(lambda h: np.sum(tg.grad(loss)(x + h * v, y) * v)), rtol=1e-6, atol=1e-8)


def test_losses_at_a_thousand_and_at_infinity():
    big, inf, nan = np.array([1e3, -1e3]), np.inf, np.nan
    bce = lambda x, t, **o: F.binary_cross_entropy_with_logits(np.array(x), np.array(t), reduction="none", **o)
    assert bce(big, [1.0, 0.0]).tolist() == [0, 0] and bce(big, [0.0, 1.0]).tolist() == [1000, 1000]
    assert bce([inf, -inf], [1.0, 0.0]).tolist() == [0, 0] and bce([inf, -inf], [0.0, 1.0]).tolist() == [inf, inf]
    assert bce([inf, inf], [1.0, 1.0], pos_weight=3.0).tolist() == [0, 0]
    assert np.isnan(bce([nan, 1.0], [1.0, nan])).all()
    x = np.array([inf, -inf, inf, 0.0])
    g = tg.grad(lambda x: F.binary_cross_entropy_with_logits(x, np.array([1.0, 0.0, 0.0, 1.0]), reduction="sum"))(x)
    assert g.tolist() == [0, 0, 1, -0.5]
    targets = tg.grad(lambda t: F.binary_cross_entropy_with_logits(np.array([2.0, -3.0]), t, reduction="sum"))(np.array([1.0, 0.0]))
    assert targets.tolist() == [-2, 3]  # the guard at the ends of t does not change the gradient to t
    rows, target = np.array([[1e3, -1e3], [-1e3, 1e3]]), np.array([0, 0])
    assert F.cross_entropy(rows, target, reduction="none").tolist() == [0, 2000]
    assert tg.grad(lambda x: F.cross_entropy(x, target, reduction="sum"))(rows).tolist() == [[0, 0], [-1, 1]]
    masked = np.array([[0.0, -inf, 0.0]])
    assert tg.grad(lambda x: F.cross_entropy(x, np.array([0])))(masked).tolist() == [[-0.5, 0, 0.5]]
    np.testing.assert_allclose(F.cross_entropy(masked, np.array([[0.5, 0.0, 0.5]])), np.log(2))
    assert F.cross_entropy(masked, np.array([1])) == inf and F.cross_entropy(masked, np.array([0]), label_smoothing=0.1) == inf
    assert np.isnan(F.cross_entropy(np.array([[nan, 0.0]]), np.array([1])))
    huber = lambda x: F.huber_loss(x, np.zeros(len(x)), "none")
    assert huber(np.array([1e3, -inf])).tolist() == [999.5, inf] and np.isnan(huber(np.array([nan]))).all()
    assert tg.grad(lambda x: tg.sum(huber(x)))(np.array([1e3, -inf, 1.0, 0.0, 0.5])).tolist() == [1, -1, 1, 0, 0.5]
    assert np.isnan(F.mse_loss(np.array([nan, 1.0]), np.zeros(2)))


def test_losses_inside_a_cell():
    """A loss at every step, targets in xs: what one wants for looking at single steps."""
    rng = np.random.default_rng(0)
    xs, ts, W = rng.normal(size=(6, 2, 3)), rng.integers(0, 3, (6, 2)), rng.normal(size=(3, 3))

    def total(W, compiled):
        def cell(total, x_and_t):
            x, t = x_and_t
            loss = F.cross_entropy(x @ W, t) + F.mse_loss(x @ W, x)
            return total + loss, loss

        return tg.scan(cell, np.zeros(()), (xs, ts), compiled=compiled)[0]

    flat = lambda W: sum(F.cross_entropy(x @ W, t) + F.mse_loss(x @ W, x) for x, t in zip(xs, ts))
    for compiled in (True, False):
        np.testing.assert_allclose(tg.grad(lambda W, c=compiled: total(W, c))(W), tg.grad(flat)(W), rtol=1e-12)


def test_float32_stays():
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    for loss in (F.mse_loss(x, y), F.half_squared_error(x, y), F.huber_loss(x, y), F.binary_cross_entropy_with_logits(x, y),
                 F.cross_entropy(x, np.array([0, 1]), weight=np.ones(3), label_smoothing=0.1), F.cross_entropy(x, y), F.layer_norm(x)):
        assert loss.dtype == np.float32


def text(error, call):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def test_messages():
    z, E = np.zeros, tg.errors
    assert text(E.ShapeError, lambda: F.mse_loss(z((4, 1)), z(4))) == """\
mse_loss(prediction, target): prediction and target have different shapes
  prediction  (4, 1)
  target      (4,)
Give both one shape: broadcasting would compare every row with every other."""
    assert text(E.DomainError, lambda: F.mse_loss(z(3), z(3), "average")) == """\
mse_loss(prediction, target): there is no such reduction
  reduction  'average'
Use "mean", "sum" or "none"."""
    assert text(E.DomainError, lambda: F.mse_loss(z(0), z(0))).startswith("mse_loss(prediction, target): the mean is over nothing")
    assert text(E.DomainError, lambda: F.cross_entropy(z((2, 3)), np.array([-100, -100]))).startswith("cross_entropy(logits, target): the mean is over nothing")
    assert text(E.IndexingError, lambda: F.cross_entropy(z((2, 3)), np.array([0, 3]))) == """\
cross_entropy(logits, target): a target is class 3, there are 3
  scores  (2, 3)
  target  (2,)
Pass integers from 0 to 2, or ignore_index."""
    assert text(E.ShapeError, lambda: F.cross_entropy(z((2, 5, 3)), z((2, 5), int))) == """\
cross_entropy(logits, target): the target has another shape than the scores without their classes
  scores  (2, 5, 3)
  target  (2, 5)
  needed  (2, 3)
Move the classes to axis 1, or say axis=."""
    for error, call in ((E.ShapeError, lambda: F.cross_entropy(z((2, 3)), z(2))), (E.DtypeError, lambda: F.nll_loss(z((2, 3)), z((2, 3)))),
                        (E.ShapeError, lambda: F.cross_entropy(z((2, 3)), z(2, int), weight=z(2))),
                        (E.ShapeError, lambda: F.cross_entropy(1.0, 0)), (E.DomainError, lambda: F.huber_loss(z(2), z(2), delta=0)),
                        (E.DomainError, lambda: F.cross_entropy(z((2, 3)), z(2, int), label_smoothing=2.0)),
                        (E.IndexingError, lambda: F.nll_loss(z((2, 3)), np.array([0, -1])))):
        text(error, call)


# ---- dense layers -------------------------------------------------------------------------------------------


def test_linear_and_norm():
    rng, layer, norm = np.random.default_rng(0), tg.nn.Linear(3, 2, rng=0), tg.nn.LayerNorm(4)
    x = rng.normal(size=(5, 6, 3))
    np.testing.assert_allclose(layer(x).numpy(), np.einsum("oi,abi->abo", layer.weight.numpy(), x) + layer.bias.numpy(), rtol=1e-13)
    assert list(tg.nn.Linear(3, 2, bias=False).state_dict()) == ["weight"] and list(tg.nn.LayerNorm(3, bias=False).state_dict()) == ["weight"]
    x = rng.normal(size=(5, 4))
    np.testing.assert_allclose(norm(x).numpy(), (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5), rtol=1e-12)
    assert text(tg.errors.ShapeError, lambda: layer(np.zeros((2, 4)))) == """\
Linear(x): x has 4 columns, this layer was made for 3
  x       (2, 4)
  weight  (2, 3)
Make the layer with size 4, or feed it 3 columns."""
    assert text(tg.errors.DtypeError, lambda: tg.nn.Linear(3, 2, dtype=np.float32)(np.zeros((2, 3)))).startswith(
        "Linear(x): x is float64, this layer computes in float32")
    plain = tg.nn.LayerNorm((4,), elementwise_affine=False)
    assert not plain.state_dict() and np.array_equal(plain(x), norm(x).numpy()) and plain(x.astype(np.float32)).dtype == np.float32
    assert text(tg.errors.ShapeError, lambda: plain(np.zeros((2, 3)))).startswith("LayerNorm(x): x has 3 columns, this layer was made for 4")
    assert text(tg.errors.DtypeError, lambda: layer(np.zeros((2, 3), int))).endswith("Pass x.astype(np.float64).")
    assert text(tg.errors.DomainError, lambda: tg.nn.Embedding(3, 2, padding_idx=3)) == """\
Embedding(…): padding_idx is not a row
  padding_idx     3
  num_embeddings  3
Pass padding_idx from 0 to 2, or None."""
    assert text(tg.errors.ArgumentError, lambda: tg.nn.Sequential(layer, [norm])) == """\
Sequential(*layers): layer 1 cannot be called
  layers[1]  list
Pass the layers one by one: Sequential(*layers) for a list."""
    for make in (lambda: tg.nn.LayerNorm((2, 3)), lambda: tg.nn.Linear(0, 2), lambda: tg.nn.Linear(2, True),
                 lambda: tg.nn.LayerNorm(0), lambda: tg.nn.Dropout(1.5),
                 lambda: tg.nn.Embedding(3, 0)):
        with pytest.raises(tg.errors.DomainError):
            make()


def test_embedding():
    layer, x = tg.nn.Embedding(6, 3, padding_idx=-4, rng=0), np.array([[1, 2, 1], [5, 0, 2]])
    assert layer.padding_idx == 2 and not layer.weight.numpy()[2].any()
    layer.weight.data = layer.weight.numpy() + 1
    g = np.random.default_rng(0).normal(size=(2, 3, 3))
    y = layer(x)
    np.testing.assert_array_equal(y.numpy(), layer.weight.numpy()[x])
    (y * g).sum().backward()
    expected = np.zeros((6, 3))
    np.add.at(expected, x, g)
    expected[2] = 0
    np.testing.assert_allclose(layer.weight.grad, expected, rtol=1e-14)
    assert text(tg.errors.IndexingError, lambda: layer(np.array([1, 6]))) == """\
Embedding(x): x asks for row 6, there are 6
  x       (2,)
  weight  (6, 3)
Pass integers from 0 to 5."""
    text(tg.errors.IndexingError, lambda: layer(np.array([-1])))
    text(tg.errors.DtypeError, lambda: layer(np.array([1.0])))
    assert tg.nn.Embedding(6, 3)([1, 2]).shape == (2, 3)


def test_dropout_is_one_mask_per_call():
    layer = tg.nn.Dropout(0.25, rng=0)
    x = tg.tensor(np.ones((100, 100)), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert np.array_equal(x.grad, y.numpy()) and set(np.unique(y.numpy())) == {0.0, 1 / 0.75}
    assert abs((y.numpy() == 0).mean() - 0.25) < 0.02
    assert not np.array_equal(layer(x).numpy(), y.numpy())
    assert np.array_equal(tg.nn.Dropout(0.25, rng=0)(x).numpy(), y.numpy())
    assert not tg.nn.Dropout(1.0)(np.ones(9)).any() and tg.nn.Dropout(0.0)(x) is x and layer.eval()(x) is x


def test_dropout_in_a_traced_cell_is_an_error():
    drop = tg.nn.Dropout(0.5, rng=0)
    with pytest.raises(tg.errors.TraceError, match="one mask would be drawn for all steps"):
        tg.scan(lambda s, x: (drop(s + x), s), np.zeros(3), np.ones((4, 3)))
    state, _ = tg.scan(lambda s, x: (drop(s + x), s), np.zeros(3), np.ones((4, 3)), compiled=False)
    assert state.shape == (3,)


def test_dropout_in_a_checkpointed_function_is_an_error():
    """Its second run would draw another mask: a silently wrong gradient. A mask that is passed in is right."""
    drop, x = tg.nn.Dropout(0.5, rng=0), np.arange(1.0, 11.0)
    _, pullback = tg.vjp(tg.checkpoint(lambda x: drop(x) * x), x)
    with pytest.raises(tg.errors.GradientError, match="the second run gave other values than the first"):
        pullback(np.ones(10))
    mask = F.dropout_mask(0, (10,), 0.5)
    np.testing.assert_array_equal(tg.grad(lambda x: tg.sum(tg.checkpoint(lambda x, mask: mask * x * x)(x, mask)))(x), 2 * mask * x)


# ---- initialisers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw, deviation", [
    (lambda r: tg.nn.init.uniform(r, (300, 200), 0.3), 0.3 / np.sqrt(3)), (lambda r: tg.nn.init.normal(r, (300, 200), 0.3), 0.3),
    (lambda r: tg.nn.init.glorot_uniform(r, (300, 200), 2.0), 2 * np.sqrt(2 / 500)), (lambda r: tg.nn.init.glorot_normal(r, (300, 200)), np.sqrt(2 / 500)),
    (lambda r: tg.nn.init.he_uniform(r, (300, 200)), np.sqrt(2 / 200)), (lambda r: tg.nn.init.he_normal(r, (300, 200), 1.0), np.sqrt(1 / 200)),
    (lambda r: tg.nn.init.orthogonal(r, (300, 200), 0.5), 0.5 / np.sqrt(300))])
def test_initialisers(draw, deviation):
    a = draw(np.random.default_rng(0))
    np.testing.assert_allclose(a.std(), deviation, rtol=0.02)
    np.testing.assert_allclose(a.mean(), 0, atol=0.03 * deviation)
    assert np.array_equal(a, draw(0)) and not np.array_equal(a, draw(1)) and a.dtype == np.float64


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (4, 2, 3)])
def test_orthogonal(shape):
    q = tg.nn.init.orthogonal(0, shape, 2.0).reshape(shape[0], -1)
    small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-13)
    assert tg.nn.init.orthogonal(0, shape, dtype=np.float32).dtype == np.float32
    with pytest.raises(tg.errors.ShapeError, match="at least two axes"):
        tg.nn.init.orthogonal(0, (3,))
    with pytest.raises(tg.errors.ShapeError, match="the rows are not whole gates"):
        tg.nn.init.gates(tg.nn.init.orthogonal, 0, (13, 3), 4)
    assert tg.nn.init.glorot_uniform(0, (0, 3)).shape == (0, 3) and tg.nn.init.he_normal(0, (3, 0)).shape == (3, 0)
