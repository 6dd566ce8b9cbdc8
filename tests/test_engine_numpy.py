"""Tensors in the hands of NumPy: what keeps the gradient, what would lose it, and what NumPy users write."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DtypeError, IndexingError, LostGradientError, ShapeError

rng = np.random.default_rng(5)
A, B, SQUARE, CUBE, V = rng.normal(size=(2, 3)), rng.normal(size=(3, 2)), rng.normal(size=(3, 3)), rng.normal(size=(2, 3, 4)), rng.normal(size=3)
MASK = A > 0


def same_as_numpy(f, *arrays):
    """f on Tensors has NumPy's value, and the slope of f along a random direction."""
    leaves = [tg.tensor(a, requires_grad=True) for a in arrays]
    y, expected = f(*leaves), f(*arrays)
    assert type(y) is tg.Tensor and y.requires_grad and y.shape == np.shape(expected)
    np.testing.assert_allclose(y.detach(), expected, rtol=1e-12, atol=1e-12)
    weights = rng.normal(size=y.shape)
    y.backward(weights)
    directions = [rng.normal(size=a.shape) for a in arrays]
    up, down = (f(*[a + s * d for a, d in zip(arrays, directions)]) for s in (1e-6, -1e-6))
    slope = sum(np.sum(leaf.grad * d) for leaf, d in zip(leaves, directions) if leaf.grad is not None)
    np.testing.assert_allclose(slope, np.sum((up - down) / 2e-6 * weights), rtol=1e-5, atol=1e-7)


FUNCTIONS = {
    "tanh": (np.tanh, A),
    "exp": (np.exp, A),
    "log1p": (lambda x: np.log1p(np.abs(x)), A),
    "abs": (np.abs, A),
    "negative": (np.negative, A),
    "power": (lambda x: np.power(np.abs(x), 3), A),
    "ufunc with an array": (np.multiply, A, A + 1),
    "array first": (lambda x: np.add(A, x), A),
    "maximum": (np.maximum, A, A[::-1].copy()),
    "sum": (lambda x: np.sum(x, 0), A),
    "sum keepdims": (lambda x: np.sum(x, axis=1, keepdims=True), A),
    "mean": (np.mean, A),
    "std": (lambda x: np.std(x, axis=0, ddof=1), A),
    "var": (lambda x: np.var(x, 1), A),
    "max": (lambda x: np.max(x, axis=1), A),
    "prod": (lambda x: np.prod(x, axis=0), A),
    "matmul": (np.matmul, A, B),
    "dot": (np.dot, A, B),
    "outer": (np.outer, V, V + 1),
    "einsum": (lambda a, b: np.einsum("ij,jk->ik", a, b), A, B),
    "einsum optimized": (lambda a, b: np.einsum("ij,jk", a, b, optimize=True), A, B),
    "tensordot": (lambda a, b: np.tensordot(a, b, axes=([1], [0])), A, B),
    "norm": (np.linalg.norm, A),
    "norm of a vector": (lambda x: np.linalg.norm(x, 2), V),
    "norm axis": (lambda x: np.linalg.norm(x, axis=1, keepdims=True), A),
    "frobenius": (lambda x: np.linalg.norm(x, "fro"), A),
    "cumsum": (np.cumsum, A),
    "cumsum axis": (lambda x: np.cumsum(x, axis=0), A),
    "roll": (lambda x: np.roll(x, 1), A),
    "roll axis": (lambda x: np.roll(x, 1, axis=0), A),
    "clip": (lambda x: np.clip(x, -0.5, 0.5), A),
    "clip by name": (lambda x: np.clip(x, a_min=-0.5, a_max=None), A),
    "trace": (np.trace, SQUARE),
    "trace of a stack": (np.trace, CUBE),
    "trace offset": (lambda x: np.trace(x, 1), SQUARE),
    "diagonal": (np.diagonal, CUBE),
    "diagonal axes": (lambda x: np.diagonal(x, 1, 1, 2), CUBE),
    "tril": (np.tril, SQUARE),
    "reshape": (lambda x: np.reshape(x, (3, 2)), A),
    "ravel": (np.ravel, A),
    "transpose": (lambda x: np.transpose(x, (2, 0, 1)), CUBE),
    "moveaxis": (lambda x: np.moveaxis(x, 0, -1), CUBE),
    "swapaxes": (lambda x: np.swapaxes(x, 0, 1), A),
    "squeeze": (lambda x: np.squeeze(x[None]), A),
    "expand_dims": (lambda x: np.expand_dims(x, 1), A),
    "expand_dims twice": (lambda x: np.expand_dims(x, (0, -1)), A),
    "broadcast_to": (lambda x: np.broadcast_to(x, (4, 2, 3)), A),
    "concatenate": (lambda x, y: np.concatenate([x, y, np.ones((1, 3))]), A, A + 1),
    "stack": (lambda x, y: np.stack([x, y], axis=1), A, A + 1),
    "where": (lambda x, y: np.where(MASK, x, y), A, A + 1),
    "take": (lambda x: np.take(x, [0, 0, 2], axis=1), A),
    "take_along_axis": (lambda x: np.take_along_axis(x, np.array([[0, 1, 1]]), axis=0), A),
    "flip": (lambda x: np.flip(x, 1), A),
    "pad": (lambda x: np.pad(x, 1), A),
    "split": (lambda x: np.split(x, 3, axis=1)[1], A),
    "sinc": (np.sinc, A),
    "logaddexp": (np.logaddexp, A, A * 2),
    "method mean": (lambda x: x.mean(), A),
    "method sum": (lambda x: x.sum(0), A),
    "method max": (lambda x: x.max(axis=1), A),
    "method clip": (lambda x: x.clip(-0.5, 0.5), A),
    "method reshape": (lambda x: x.reshape(3, -1), A),
    "T": (lambda x: x.T, A),
    "method transpose": (lambda x: x.transpose(1, 0), A),
    "method std": (lambda x: x.std(axis=0), A),
    "method dot": (lambda x, y: x.dot(y), A, B),
    "method astype": (lambda x: x.astype(np.float64), A),
    "method swapaxes": (lambda x: x.swapaxes(0, 1), A),
    "method cumsum": (lambda x: x.cumsum(axis=1), A),
    "square": (lambda x: x ** 2, A),
    "power of two": (lambda x: 2**x, A),
    "float power": (lambda x: np.abs(x) ** 1.5, A),
    "matrix product": (lambda x, y: x @ y, A, B),
    "array @ tensor": (lambda x: B @ x, A),
    "tensor @ array": (lambda x: x @ B, A),
    "array * tensor": (lambda x: A * x, A),
    "list * tensor": (lambda x: [1.0, 2.0, 3.0] * x, A),
    "arithmetic": (lambda x: (1 - x) / (3 + -x) - 2 * abs(x), A),
    "index": (lambda x: x[1], A),
    "slices": (lambda x: x[::-1, 1:], A),
    "new axis": (lambda x: x[..., None], A),
    "ellipsis": (lambda x: x[..., -1], CUBE),
    "integers": (lambda x: x[[0, 0], [1, 1]], A),
    "mask": (lambda x: x[MASK], A),
    "mixed": (lambda x: x[:, [0, 2], 1], CUBE),
    "negative step": (lambda x: x[:, ::-2], A),
    "iteration": (lambda x: sum(row * i for i, row in enumerate(x)), A),
    "unpacking": (lambda x: (lambda a, b: a * b)(*x), A),
    "python sum": (lambda x: sum(x), A),
    "full_like": (lambda x: x * np.full_like(x, 2.0) + np.zeros_like(x) - np.ones_like(x), A),
    "shape": (lambda x: x * np.size(x) + np.ndim(x) + np.shape(x)[0] + np.size(x, 1), A),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_means_on_tensors_what_it_means_on_arrays(name):
    same_as_numpy(*FUNCTIONS[name])


def test_a_planted_fault_is_found(monkeypatch):
    monkeypatch.setitem(tg.Tensor.numpy_table, np.cumsum, tg.cumsum)  # along the last axis: not what NumPy means
    with pytest.raises(AssertionError):
        same_as_numpy(*FUNCTIONS["cumsum"])


# ---- what would lose the gradient ---------------------------------------------------------------------------


def test_conversion_of_a_tracked_tensor_is_an_error(says):
    x = tg.tensor(np.ones((2, 3)), requires_grad=True)
    text = ("np.asarray(tensor): this would drop the gradient of a tracked Tensor\n  shape  (2, 3)\n"
            "Use stack or concatenate to build arrays of Tensors, or detach() to drop it on purpose.")
    for convert in (np.asarray, np.array, lambda x: np.array([x, x]), np.asanyarray, np.ascontiguousarray):
        with says(LostGradientError, text):
            convert(x)
    assert np.asarray(x.detach()).tolist() == x.tolist() and np.array([x.detach(), x.detach()]).shape == (2, 2, 3)


def test_functions_without_a_rule_name_themselves(says):
    x = tg.tensor(np.ones((2, 2)), requires_grad=True)
    for name, call in {"np.linalg.svd(…)": lambda: np.linalg.svd(x), "np.hstack(…)": lambda: np.hstack([x, x]), "np.sort(…)": lambda: np.sort(x),
                       "np.add.reduce(…)": lambda: np.add.reduce(x), "np.multiply.outer(…)": lambda: np.multiply.outer(x, x),
                       "np.hypot(…)": lambda: np.hypot(x, 1.0), "np.add(…)": lambda: np.add(x, 1.0, dtype=np.float32)}.items():
        with says(LostGradientError, f"{name}: this NumPy function has no derivative rule here\nWrite it with ops of this package, "
                                     "declare it with @primitive, or use detach() to drop the gradient on purpose."):
            call()
    plain = x.detach()
    assert np.linalg.svd(plain).S.shape == (2,) and np.hstack([plain, plain]).shape == (2, 4) and np.add.reduce(plain).tolist() == [2.0, 2.0]
    assert type(np.hypot(plain, 1.0)) is np.ndarray


def test_arrays_cannot_swallow_a_tracked_tensor(says):
    x, store = tg.tensor(np.ones(3), requires_grad=True), np.zeros((2, 3))
    with says(LostGradientError, "np.add(…): writing into a NumPy array would drop the gradient\nWrite it with ops of this package, "
                                 "declare it with @primitive, or use detach() to drop the gradient on purpose."):
        store += x
    with pytest.raises(LostGradientError):
        store[0] = x
    with pytest.raises(LostGradientError):
        np.tanh(x, out=store[0])
    with pytest.raises(ValueError) as caught:  # NumPy says "with a sequence"; the cause says what it is about
        store[0, 0] = x.sum()
    assert str(caught.value.__cause__) == ("array[index] = tensor: writing into a NumPy array would drop the gradient\n  shape  ()\n"
                                           "Collect Tensors in a list and use stack or concatenate.")
    assert not store.any()
    store[0, 0] = float(x.sum())
    store[1] = x.detach()
    store += x.detach()
    assert store.tolist() == [[4.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    with says(LostGradientError, "np.add(…, out=tensor): a Tensor is read-only, its graph may need the old values\n"
                                 "Use the result, and rebind the name to it."):
        np.add(1.0, 2.0, out=x)


def test_what_has_no_gradient_to_lose_passes():
    x = tg.tensor(A, requires_grad=True)
    assert np.argmax(x) == np.argmax(A) and x.argmax(1).tolist() == A.argmax(1).tolist() and x.argmin() == A.argmin()
    assert np.allclose(x, A) and np.array_equal(x, A) and np.result_type(x, 1.0) == np.float64 and not np.iscomplexobj(x)
    assert (x > 0).any() and not (x > 0).all() and (np.isfinite(x)).all() and np.any(x > 0)
    assert type(x > 0) is tg.Tensor and (~(x > 0) | (x > 0)).all() and ((x > 0) & (x <= 0)).any() is np.False_


def test_numpys_own_norms_that_have_no_rule_are_refused(says):
    with says(LostGradientError, "np.linalg.norm(tensor, ord): only the Euclidean norm has a derivative rule here\n  ord  1\n"
                                 "Write another one with abs, max, sum and power."):
        np.linalg.norm(tg.tensor(A, requires_grad=True), 1)
    with pytest.raises(LostGradientError):
        np.linalg.norm(tg.tensor(A, requires_grad=True), 2)  # of a matrix: the largest singular value


# ---- odds and ends ------------------------------------------------------------------------------------------


def test_tensors_as_numbers_and_indices():
    x = tg.tensor([3.0, 1.0, 2.0], requires_grad=True)
    assert float(x[0]) == 3.0 and int(x[0]) == 3 and math.floor(x[0] + 0.5).item() == 3.0 and bool(x[0] > 2)
    assert [1, 2, 3][tg.tensor(1)] == 2 and list(range(tg.tensor(2))) == [0, 1] and np.arange(5)[tg.tensor(2)] == 2
    assert [v.item() for v in sorted(x)] == [1.0, 2.0, 3.0] and max(x).item() == 3.0
    assert x[tg.tensor(1)].item() == 1.0 and x[tg.tensor([0, 0])].tolist() == [3.0, 3.0] and x[np.int64(1)].item() == 1.0
    with pytest.raises(ValueError, match="truth value"):
        bool(x)
    with pytest.raises(TypeError):
        hash([x]), [1, 2][x]


def test_len_and_iteration_need_an_axis(says):
    with says(ArgumentError, "len(tensor): the Tensor has no axis\n  shape  ()\nUse .item() for its value."):
        len(tg.tensor(1.0))
    with pytest.raises(TypeError):
        list(tg.tensor(1.0))


def test_indices_and_axes_that_do_not_fit(says):
    x = tg.tensor(A, requires_grad=True)
    with says(ShapeError, "sum(x): axis is out of range: axis 5 is out of bounds for array of dimension 2\n  x     (2, 3)\n  axis  5\n"
                          "Use an axis that the array has; -1 is the last one."):
        x.sum(5)
    with says(IndexingError, "getitem(x): index 7 is out of bounds for axis 0 with size 2\n  x      (2, 3)\n  index  (7,)\n"
                             "Use an index that lies inside the array."):
        x[7]
    for name, call in {"expand_dims(x, axis)": lambda: tg.expand_dims(x, 3), "moveaxis(x, source, destination)": lambda: tg.moveaxis(x, 3, 0),
                       "swapaxes(x, axis1, axis2)": lambda: tg.swapaxes(x, 0, -3), "take(x, indices, axis)": lambda: x.take([0], axis=2),
                       "split(x, sections, axis)": lambda: x.split(2, axis=2), "squeeze(x, axis)": lambda: x.squeeze(5)}.items():
        with pytest.raises(ShapeError) as caught:
            call()
        assert str(caught.value).startswith(f"{name}: axis is out of range: ")
    with says(ShapeError, "power(a, b): Integers to negative integer powers are not allowed.\n  a  (2,)\n  b  ()\nSee help(tg.power) for what fits."):
        tg.tensor([1, 2]) ** -1
    with pytest.raises(DtypeError):
        x[np.array(1.0)]
    with says(DtypeError, "x[index]: an index array is not of an integer or boolean dtype\n  dtype  float64\nUse integers, or a boolean mask."):
        x[np.array([0.0])]


def test_ops_take_lists_numbers_and_subclasses():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    assert tg.add([1.0, 2.0], 1).tolist() == [2.0, 3.0] and (x + [1, 2]).tolist() == [2.0, 4.0]
    masked = np.ma.masked_array([1.0, 2.0])
    y = tg.multiply(x, masked)
    masked[:] = 9.0
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 2.0] and type(tg.tanh(masked)) is np.ndarray


def test_ops_on_arrays_give_arrays():
    for y in (tg.tanh(A), tg.add(A, 1.0), tg.sum(A, 0), tg.concatenate([A, A]), tg.split(A, 3, axis=1)[0], tg.getitem(A, index=(0,))):
        assert type(y) is np.ndarray
    assert not isinstance(tg.sum(A), tg.Tensor) and isinstance(tg.split(A, 3, axis=1), tuple)


def test_complex_arrays_flow_forward():
    x = tg.tensor(A + 1e-20j)
    y = (tg.tanh(x) * x).sum()
    assert y.dtype == np.complex128 and not y.requires_grad
    np.testing.assert_allclose(y.item().imag / 1e-20, np.sum(np.tanh(A) + A * (1 - np.tanh(A) ** 2)))
