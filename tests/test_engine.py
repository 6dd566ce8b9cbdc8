"""Tensors and backward: what a value is, what may be done with it, and what the errors say."""

import copy
import inspect
import pickle

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DtypeError, GradientError, LostGradientError, RuleError, ShapeError


def leaf(*values, dtype=None):
    return tg.tensor(values[0] if len(values) == 1 else list(values), requires_grad=True, dtype=dtype)


# ---- making one ---------------------------------------------------------------------------------------------


def test_data_is_copied_in():
    array = np.array([1.0, 2.0])
    x = tg.tensor(array, requires_grad=True)
    array[:] = 7
    assert x.tolist() == [1.0, 2.0]


def test_dtypes():
    assert tg.tensor([1.0]).dtype == np.float64 and tg.tensor(1.5).dtype == np.float64 and tg.tensor([1]).dtype == np.int64
    assert tg.tensor(np.ones(2, np.float32)).dtype == np.float32 and tg.tensor([1, 2], dtype=np.float32).dtype == np.float32
    assert tg.tensor([True]).dtype == np.bool_ and tg.tensor(1j).dtype == np.complex128


@pytest.mark.parametrize("data", [[1, 2], [True], 1j])
def test_only_floats_have_a_gradient(data, says):
    dtype = np.asarray(data).dtype
    with says(DtypeError, f"requires_grad: only floating point values have a gradient\n  dtype  {dtype}\n"
                          "Pass dtype=np.float64 (or float32)."):
        tg.tensor(data, requires_grad=True)


@pytest.mark.parametrize("data, dtype", [("text", "<U4"), (None, "object"), ({"a": 1}, "object")])
def test_what_is_not_numeric_is_refused(data, dtype, says):
    with says(DtypeError, f"tensor(data): data is not numeric\n  dtype  {dtype}\n"
                          "Pass numbers, or nested lists of numbers of equal lengths."):
        tg.tensor(data)


def test_lists_of_unequal_lengths_are_refused(says):
    with says(ShapeError, "tensor(data): the nested lists have unequal lengths\nPass numbers, or nested lists of numbers of equal lengths."):
        tg.tensor([[1.0], [1.0, 2.0]])


def test_a_copy_of_a_tracked_tensor_is_a_new_leaf_or_an_error(says):
    x = leaf(1.0, 2.0)
    with says(LostGradientError, "tensor(data): a copy would drop the gradient of a tracked Tensor\n  shape  (2,)\n"
                                 "Use the Tensor itself, detach() to drop the gradient, or requires_grad=True for a new leaf."):
        tg.tensor(x * 2)
    other = tg.tensor(x * 2, requires_grad=True)
    (other * other).sum().backward()
    assert x.grad is None and other.grad.tolist() == [4.0, 8.0]
    assert tg.tensor(x.detach()).tolist() == [1.0, 2.0]


# ---- what it is ---------------------------------------------------------------------------------------------


def test_attributes():
    x = leaf([[1.0, 2.0, 3.0]])
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((1, 3), 2, 3, np.float64, 1)
    assert x.T.shape == (3, 1) and x.sum().item() == 6.0 and x.sum().shape == ()
    assert isinstance(x.numpy(), np.ndarray) and isinstance(x.sum().numpy(), np.ndarray)


def test_repr_names_the_op():
    x = leaf(1.0, 2.0)
    assert repr(x) == "tensor([1., 2.], requires_grad=True)" and repr(x.detach()) == "tensor([1., 2.])"
    assert repr(tg.tanh(x) * 0) == "tensor([0., 0.], op=multiply)" and repr(tg.tensor(np.float32(1))) == "tensor(1., dtype=float32)"
    assert repr(tg.split(x, 2)[1]) == "tensor([2.], op=output)"
    assert f"{x.sum():.2f} {x}" == "3.00 tensor([1., 2.], requires_grad=True)"


def test_hash_is_identity_and_comparison_is_elementwise():
    x, y = leaf(1.0, 2.0), leaf(1.0, 3.0)
    assert len({x, y, x}) == 2 and (x == y).tolist() == [True, False] and (x != y).tolist() == [False, True]
    assert (x == None) is False and (x != None) is True and (x == "a") is False  # noqa: E711
    assert not (x == y).requires_grad and x in [x] and 2.0 in x and 5.0 not in x


def test_values_can_be_looked_at_but_not_written():
    x = leaf(1.0, 2.0)
    for view in (x.numpy(), x.data, np.asarray(x.detach())):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 5.0
    with pytest.raises(LostGradientError) as caught:
        x[0] = 5.0
    assert str(caught.value) == ("tensor[index] = value: a Tensor is read-only, its graph may need the old values\n"
                                 "  shape    (2,)\n  kept by  no op so far\nUse where, concatenate or stack to build a new one.")
    _ = x * tg.tanh(x)
    with pytest.raises(LostGradientError, match="\\n  kept by  multiply\\n"):
        x[0] = 5.0
    assert x.tolist() == [1.0, 2.0]


def test_augmented_assignment_makes_a_new_tensor():
    x = leaf(1.0, 2.0)
    y = x
    y += 1.0
    y *= x
    assert x.tolist() == [1.0, 2.0] and y.tolist() == [2.0, 6.0]
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [3.0, 5.0])


def test_assigning_data_rebinds_a_leaf(says):
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    x.data = x.data * 10  # the step of an optimiser between forward and backward
    y.backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])
    assert x.tolist() == [10.0, 20.0]
    with says(ArgumentError, ".data = values: values have another shape than the Tensor\n  values  (3,)\n  tensor  (2,)\n"
                             "Pass an array of the Tensor's shape."):
        x.data = np.ones(3)
    with says(GradientError, ".data = values: this Tensor is the result of a call, its values belong to the graph\n"
                             "  made by  multiply\nAssign to leaves, or use detach()."):
        (x * 2).data = np.ones(2)


def test_assigned_data_is_copied_and_keeps_the_dtype():
    x, values = leaf(np.ones(2, np.float32)), np.array([3.0, 4.0])
    x.data = values
    values[:] = 0
    assert x.dtype == np.float32 and x.tolist() == [3.0, 4.0]


def test_requires_grad_can_be_switched_on_leaves_alone(says):
    x = tg.tensor([1.0])
    x.requires_grad = True
    y = x * 2
    with says(GradientError, "requires_grad = …: this Tensor is the result of a call\n  made by  multiply\n"
                             "Use detach() to get a leaf with the same values."):
        y.requires_grad = False
    x.requires_grad = False
    assert not x.requires_grad and x.grad is None


# ---- copies -------------------------------------------------------------------------------------------------


def test_copies_of_leaves_are_leaves_with_their_gradient():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    for twin in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.requires_grad and twin.grad.tolist() == [2.0, 4.0] and twin.grad is not x.grad
        (twin * 3.0).sum().backward()
        assert twin.grad.tolist() == [5.0, 7.0] and x.grad.tolist() == [2.0, 4.0]


def test_copies_of_results_are_detached():
    y = leaf(1.0, 2.0) * 2
    for twin in (copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y))):
        assert not twin.requires_grad and twin.tolist() == [2.0, 4.0]


# ---- backward -----------------------------------------------------------------------------------------------


def test_backward_needs_a_graph(says):
    text = ("backward(): this Tensor has no graph\n  shape  ()\n"
            "Make an input with requires_grad=True, and compute outside no_grad().")
    with says(GradientError, text):
        tg.tensor(1.0).backward()
    with tg.no_grad():
        y = leaf(1.0) * 2
    with says(GradientError, text):
        y.backward()


def test_backward_needs_a_scalar_or_a_cotangent(says):
    x = leaf(1.0, 2.0)
    with says(GradientError, "backward(): a Tensor with more than one element needs a cotangent\n  shape  (2,)\n"
                             "Reduce it to a scalar, for example with .sum(), or pass gradient=."):
        (x * x).backward()
    with says(ArgumentError, "backward(gradient): the cotangent has another shape than the Tensor\n"
                             "  gradient  (1,)\n  tensor    (2,)\nPass an array of the Tensor's shape."):
        (x * x).backward(np.ones(1))
    (x * x).backward([1.0, 10.0])
    np.testing.assert_array_equal(x.grad, [2.0, 40.0])


def test_backward_twice_names_retain_graph(says):
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_array_equal(x.grad, [4.0, 8.0])
    text = ("backward(): this part of the graph was freed by an earlier backward\n  at  sum\n"
            "Call the earlier one with backward(retain_graph=True).")
    with says(GradientError, text):
        y.backward()
    z = x * x
    (z + 1.0).sum().backward()
    with says(GradientError, text.replace("sum", "multiply")):
        (z * 2.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [6.0, 12.0])  # the call that failed added nothing


def test_repeated_backward_accumulates_until_the_gradient_is_reset():
    x = leaf(2.0)
    for times in (1, 2, 3):
        (x * x).backward()
        np.testing.assert_array_equal(x.grad, 4.0 * times)
        assert isinstance(x.grad, np.ndarray) and x.grad.shape == ()
    x.grad = None
    (x * x).backward()
    np.testing.assert_array_equal(x.grad, 4.0)


def test_grad_is_set_on_leaves_with_their_shape_and_dtype(says):
    x = leaf(np.ones(2, np.float32))
    x.grad = [1.0, 2.0]
    assert x.grad.dtype == np.float32
    with says(ArgumentError, "grad = value: value has another shape than the Tensor\n  value   (3,)\n  tensor  (2,)\n"
                             "Pass an array of the Tensor's shape."):
        x.grad = np.ones(3)
    with says(GradientError, "grad = …: only leaves hold a gradient\n  requires_grad  False\nMake the Tensor with requires_grad=True."):
        tg.tensor(1.0).grad = 1.0
    assert (x * 2).grad is None


def test_a_leaf_is_its_own_gradient():
    x = leaf(3.0)
    x.backward()
    x.backward()
    np.testing.assert_array_equal(x.grad, 2.0)


def test_leaves_that_were_not_used_keep_no_gradient():
    x, y = leaf(1.0), leaf(2.0)
    (x * 2).backward()
    assert y.grad is None


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 3)])
def test_all_shapes_pass(shape):
    x = leaf(np.full(shape, 0.5))
    (tg.tanh(x) * x + 1.0).sum().backward()
    h = np.tanh(0.5)
    np.testing.assert_allclose(x.grad, np.full(shape, h + 0.5 * (1 - h * h)))


@pytest.mark.parametrize("make", [np.asfortranarray, lambda a: a[::-1, ::2], lambda a: np.broadcast_to(a[:1], a.shape)],
                         ids=["fortran", "strided", "repeated"])
def test_read_only_and_odd_layouts_work_and_are_not_written(make):
    array = make(np.arange(12.0).reshape(3, 4))
    before = array.copy()
    array.flags.writeable = False
    x = leaf(array)
    (np.tanh(x) @ np.ones(array.shape[1]) * array[:, 0]).sum().backward()
    expected = (1 - np.tanh(before) ** 2) * before[:, :1]
    np.testing.assert_allclose(x.grad, expected)
    np.testing.assert_array_equal(array, before)


# ---- no_grad ------------------------------------------------------------------------------------------------


def test_no_grad_is_restored_after_an_exception():
    x = leaf(1.0)
    with pytest.raises(KeyError), tg.no_grad():
        assert not (x * 2).requires_grad
        raise KeyError
    assert (x * 2).requires_grad


def test_no_grad_nests_and_decorates():
    x = leaf(1.0)

    @tg.no_grad()
    def f():
        with tg.no_grad():
            pass
        return x * 2

    assert not f().requires_grad and not f().requires_grad and (x * 2).requires_grad
    again = tg.no_grad()
    for _ in range(2):
        with again, again:
            assert not (x * 2).requires_grad
        assert (x * 2).requires_grad


def test_transforms_inside_no_grad_give_plain_results():
    w = leaf(2.0)
    with tg.no_grad():
        g = tg.grad(lambda x: x * x * w)(3.0)
        y, pullback = tg.vjp(lambda x: x * w, 3.0)
        pulled = pullback(1.0)[0]
    assert type(g) is type(y) is type(pulled) is np.ndarray and (float(g), float(y), float(pulled)) == (12.0, 6.0, 2.0)


# ---- what the user holds ------------------------------------------------------------------------------------


OPERANDS = {"multiply": lambda x, a: x * a,
    "matmul": lambda x, a: x @ a,
    "power": lambda x, a: x**a,
    "where": lambda x, a: np.where(a > 2, x, a),
            "divide": lambda x, a: x / a,
    "maximum": lambda x, a: np.maximum(x, a),
    "einsum": lambda x, a: np.einsum("ij,jk->ik", x, a),
            "take": lambda x, a: x[a.astype(int) % 2],
    "concatenate": lambda x, a: np.concatenate([x, a]) ** 2}


@pytest.mark.parametrize("name", OPERANDS)
def test_arrays_may_be_written_to_between_forward_and_backward(name):
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    x, twin = leaf(np.full((2, 2), 1.5)), leaf(np.full((2, 2), 1.5))
    OPERANDS[name](twin, a.copy()).sum().backward()
    y = OPERANDS[name](x, a).sum()
    a[:] = 100.0
    y.backward()
    np.testing.assert_array_equal(x.grad, twin.grad)


def test_gradients_share_no_memory():
    x, y = leaf(1.0, 2.0), leaf(1.0, 2.0)
    g = np.ones(2)
    (x + y).backward(g)
    arrays = [g, x.grad, y.grad, x.numpy(), y.numpy()]
    for i, a in enumerate(arrays):
        assert not any(np.shares_memory(a, b) for b in arrays[i + 1:])
    held = x.grad
    (x * 3.0).sum().backward()
    assert held.tolist() == [1.0, 1.0]  # a gradient somebody holds is not added to


def test_a_reshaped_cotangent_is_a_copy():
    x = leaf(1.0, 2.0)
    g = np.ones((1, 2))
    x.reshape(1, 2).backward(g)
    x.grad += 5.0
    assert g.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("steps", [1, 2, 3, 64, 65, 130])
def test_products_of_many_steps_are_summed_as_one(steps):
    rng = np.random.default_rng(steps)
    xs, v, w = rng.normal(size=(steps, 2, 3)), rng.normal(size=(steps, 2, 4)), leaf(rng.normal(size=(3, 4)))
    total = (w * w).sum()  # a cotangent of another kind among them
    for t in range(steps):
        total = total + ((xs[t] @ w) * v[t]).sum() + ((xs[t, 0] @ w) * v[t, 0]).sum()
    total = total + ((xs @ w) * v).sum()
    held = []
    tg.walk.walk([(total._node, np.ones(()))], visit=lambda node, g: held.append((node, g)))
    assert all(type(g) is np.ndarray for _, g in held) and held[-1][0] is w._node
    total.backward()
    expected = 2 * np.einsum("tbi,tbj->ij", xs, v) + np.einsum("ti,tj->ij", xs[:, 0], v[:, 0]) + 2 * w.numpy()
    np.testing.assert_allclose(w.grad, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(w.grad, held[-1][1])


# ---- numbers ------------------------------------------------------------------------------------------------


SINGLE = {
    "a Python number": lambda x: x * 2.5 + 1,
    "np.float64": lambda x: x * np.float64(2.5) + np.float64(1),
    "reflected": lambda x: np.float64(2.5) * x / 3,
    "np.pi": lambda x: tg.sin(np.pi * x),
    "a mean": lambda x: x - x.mean(),
    "an int array": lambda x: x * np.arange(3, dtype=np.int16),
    "softmax": lambda x: tg.softmax(x),
    "a power": lambda x: x**2 + 2**x,
    "a scalar sum": lambda x: x * np.sum(np.ones(3)),
    "std": lambda x: x / x.std(),
}


@pytest.mark.parametrize("name", SINGLE)
def test_float32_stays_float32(name):
    x = leaf(np.array([0.1, 0.2, 0.3], np.float32))
    y = SINGLE[name](x)
    assert y.dtype == np.float32
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    f = lambda x: tg.sum(SINGLE[name](x) ** 2)
    assert tg.grad(f)(x.numpy()).dtype == np.float32 and tg.hvp(f, (x.numpy(),), (np.ones(3),)).dtype == np.float32
    assert tg.jvp(f, (x.numpy(),), (np.ones(3, np.float32),))[1].dtype == np.float32


def test_numpy_scalars_among_themselves_keep_their_dtype():
    assert tg.tanh(np.float32(1)).dtype == np.float32 and tg.add(np.float32(1), 1.0).dtype == np.float32
    assert tg.add(np.float32(1), np.float64(1)).dtype == np.float64


def test_results_of_rank_zero_are_arrays():
    x = leaf(1.0, 2.0)
    total = x.sum()
    assert isinstance(total.numpy(), np.ndarray) and isinstance(tg.grad(lambda x: (x * x).sum())(np.float64(2.0)), np.ndarray)
    (total * total).backward()
    assert type(x.grad) is np.ndarray


def test_float32_over_ten_thousand_steps():
    w = np.array([[0.3, -0.4], [0.5, 0.2]])

    def loss(w, x):
        h = x
        for _ in range(10_000):
            h = tg.tanh(h @ w) + x
        return (h * h).sum()

    x = np.array([0.3, 0.1])
    exact = tg.grad(loss)(w, x)
    single = tg.grad(loss)(w.astype(np.float32), x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, exact, rtol=1e-5)


# ---- rules --------------------------------------------------------------------------------------------------


def crooked(rule):
    @tg.primitive
    def crooked(x, /):
        """A broken op."""
        return x * 2.0

    return crooked.vjp(x=rule)


def test_a_cotangent_of_the_wrong_shape_is_refused(says):
    with says(RuleError, "crooked: a rule returned a cotangent of the wrong shape\n  cotangent  (3,)\n  input      (2,)\n"
                         "Return an array of the input's shape, or of a shape that the input broadcasts to."):
        crooked(lambda g: np.ones(3))(leaf(1.0, 2.0)).backward([1.0, 1.0])
    with pytest.raises(RuleError, match="wrong shape"):
        crooked(lambda g: g.sum())(leaf(1.0, 2.0)).backward([1.0, 1.0])


def test_a_complex_cotangent_is_refused(says):
    with says(RuleError, "crooked: a rule returned a cotangent of another kind than its input\n  cotangent  complex128\n"
                         "  input      float64\nReturn a real floating point array."):
        crooked(lambda g: g * 1j)(leaf(1.0)).backward()


def test_a_rule_that_drops_the_graph_is_refused(says):
    op = crooked(lambda g: np.asarray(g.numpy() if isinstance(g, tg.Tensor) else g) * 2.0)
    with says(RuleError, "crooked: a rule returned a plain array for a cotangent that is tracked\n  shape  ()\n"
                         "Write the rule with ops and operators, so that it can be differentiated again."):
        tg.jvp(lambda x: op(tg.sin(x)), (1.0,), (1.0,))


def test_a_missing_rule_is_named(says):
    @tg.primitive
    def bare(a, b, /):
        """No rules."""
        return a + b

    assert bare(1.0, 2.0) == 3.0
    bare.vjp(a=lambda g: g)
    assert bare(leaf(1.0), 2.0).requires_grad
    with says(RuleError, "bare: no derivative rule is declared for b\n  rules  a\nDeclare bare.vjp(b=…), or b=None if it has no gradient."):
        bare(1.0, leaf(2.0))


def test_a_misspelt_request_lists_what_there_is(says):
    @tg.primitive
    def f(x, /, *, axis=0):
        """An op."""
        return x

    with says(RuleError, "f.vjp(x=…): the rule of x asks for out\n  allowed  g, y, into, x, x_shape, axis\nUse only these names."):
        f.vjp(x=lambda g, out: g)
    with says(RuleError, "f.vjp(z=…): has no input called z\n  allowed  x\nUse only these names."):
        f.vjp(z=lambda g: g)
    with says(RuleError, "@primitive bad: g is a reserved name\n  reserved  g, y, into, out\nWrite def op(x, /, *, static=…, out=None)."):
        @tg.primitive
        def bad(g, /):
            return g
    with says(RuleError, "@primitive none: no array stands before /\n  reserved  g, y, into, out\nWrite def op(x, /, *, static=…, out=None)."):
        @tg.primitive
        def none(x):
            return x


def test_a_rule_of_any_number_of_inputs_returns_as_many(says):
    @tg.primitive
    def total(*parts):
        """Sum of all."""
        return sum(parts)

    total.vjp(parts=lambda g: [g, g])
    x = leaf(1.0)
    total(x, 2.0).backward()
    assert x.grad == 1.0
    with says(RuleError, "total: the rule of parts returned the wrong number of cotangents\n  inputs      3\n  cotangents  2\n"
                         "Return a list with one entry for each input."):
        total(x, x, x).backward()


def test_an_op_says_what_it_keeps():
    assert repr(tg.tanh) == "tanh(x) keeps y" and repr(tg.add) == "add(a, b) keeps nothing"
    assert repr(tg.multiply) == "multiply(a, b) keeps a, b" and repr(tg.sum) == "sum(x, axis, keepdims) keeps axis, x_shape"


# ---- calls that do not fit ----------------------------------------------------------------------------------


def test_operands_that_do_not_fit(says):
    x = leaf(np.ones((2, 3)))
    with says(ShapeError, "add(a, b): the shapes do not broadcast together\n  a  (2, 3)\n  b  (4,)\n"
                          "Make the sizes equal, or 1, counted from the last axis."):
        x + np.ones(4)
    with says(ArgumentError, "tanh(2 positional): the arguments do not fit the signature\n  signature  tanh(x, /)\n"
                             "Call it as the signature says."):
        tg.tanh(x, x)
    with says(ArgumentError, "sum(1 positional, axes=): the arguments do not fit the signature\n"
                             "  signature  sum(x, /, *, axis=None, keepdims=False)\nCall it as the signature says."):
        tg.sum(x, axes=0)
    with says(ArgumentError, "tanh(x): an input is not an array\n  type   str\n  value  'a'\nPass arrays, Tensors or numbers."):
        tg.tanh("a")
    for other in (None, "a", {}, object()):
        with pytest.raises(TypeError, match="unsupported operand type"):
            x + other
        with pytest.raises(TypeError, match="unsupported operand type"):
            other @ x


def test_other_classes_may_take_a_tensor():
    class Taker:
        def __radd__(self, other):
            return "taken"

    assert leaf(1.0) + Taker() == "taken"


def test_an_error_of_an_op_inside_an_op_is_told_once():
    @tg.primitive
    def outer(x, /):
        """Calls another op."""
        return tg.reshape(x, (7,))

    with pytest.raises(ShapeError) as caught:
        outer(leaf(1.0, 2.0))
    assert str(caught.value).startswith("reshape(x): cannot reshape") and type(caught.value.__cause__) is ValueError


def test_ops_are_copied_and_pickled_by_name():
    for op in (tg.tanh, tg.ops.shape.concatenate_, tg.getitem):
        assert copy.copy(op) is copy.deepcopy(op) is pickle.loads(pickle.dumps(op)) is op
    assert str(inspect.signature(tg.sum)) == "(x, /, *, axis=None, keepdims=False)"


def test_an_op_may_be_declared_in_a_namespace_without_a_name():
    scope = {"tg": tg, "np": np}
    exec("@tg.primitive(domain=tg.domains.REALS, elementwise=True)\ndef twice(x, /, *, out=None):\n    return np.add(x, x, out=out)", scope)
    scope["twice"].vjp(x=lambda g: g * 2)
    assert tg.grad(scope["twice"])(1.0) == 2.0
