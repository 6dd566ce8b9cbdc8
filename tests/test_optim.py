"""Optimisers against straight loops in NumPy, schedules, clipping, resuming, and what they refuse."""

import math

import numpy as np
import pytest

import tinygrad_rnn as tg

# ---- each optimiser once more, as a loop over plain numbers -------------------------------------------------


def sgd(p, grads, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    b = None
    for g in grads:
        g = g + weight_decay * p
        if momentum:
            b = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        p = p - lr * g
        yield p


def rmsprop(p, grads, lr, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    v = m = b = 0.0
    for g in grads:
        g = g + weight_decay * p
        v, m = alpha * v + (1 - alpha) * g**2, alpha * m + (1 - alpha) * g
        b = momentum * b + g / (math.sqrt(v - m**2 if centered else v) + eps)
        p = p - lr * b
        yield p


def adagrad(p, grads, lr, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10):
    s = initial_accumulator_value
    for t, g in enumerate(grads):
        g = g + weight_decay * p
        s = s + g**2
        p = p - lr / (1 + t * lr_decay) * g / (math.sqrt(s) + eps)
        yield p


def adam(p, grads, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, decoupled=False):
    m = v = top = 0.0
    for t, g in enumerate(grads, 1):
        p, g = (p - lr * weight_decay * p, g) if decoupled else (p, g + weight_decay * p)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        top = max(top, v)
        p = p - lr * (m / (1 - betas[0]**t)) / (math.sqrt((top if amsgrad else v) / (1 - betas[1]**t)) + eps)
        yield p


CASES = [
    (tg.optim.SGD, sgd, dict(lr=0.1)), (tg.optim.SGD, sgd, dict(lr=0.05, momentum=0.9, dampening=0.2, weight_decay=0.1)),
    (tg.optim.SGD, sgd, dict(lr=0.05, momentum=0.9, nesterov=True)),
    (tg.optim.RMSProp, rmsprop, dict(lr=0.02)), (tg.optim.RMSprop, rmsprop, dict(lr=0.02, alpha=0.8, momentum=0.5, centered=True, weight_decay=0.1)),
    (tg.optim.Adagrad, adagrad, dict(lr=0.1)), (tg.optim.Adagrad, adagrad, dict(lr=0.1, lr_decay=0.1, weight_decay=0.1, initial_accumulator_value=0.3)),
    (tg.optim.Adam, adam, dict(lr=0.05)), (tg.optim.Adam, adam, dict(lr=0.05, betas=(0.7, 0.9), weight_decay=0.1, amsgrad=True)),
    (tg.optim.AdamW, lambda p, g, **o: adam(p, g, **o, decoupled=True), dict(lr=0.05, weight_decay=0.2)),
]


@pytest.mark.parametrize("kind, reference, settings", CASES)
def test_fifty_steps_equal_the_loop_over_numbers(kind, reference, settings):
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(2, 3)), rng.normal(size=(50, 2, 3))
    p, alone = tg.tensor(start, requires_grad=True), tg.tensor(start, requires_grad=True)
    optimizer = kind([("w", p), ("never", alone)], **settings)
    rows = []
    for g in grads:
        optimizer.zero_grad()
        p.grad = g
        optimizer.step()
        rows.append(p.numpy())
    expected = np.array([list(reference(float(start[i]), grads[:, *i].tolist(), **settings)) for i in np.ndindex(2, 3)]).T.reshape(50, 2, 3)
    np.testing.assert_allclose(rows, expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(alone.numpy(), start)
    narrow = tg.tensor(start.astype(np.float32), requires_grad=True)
    narrow.grad = grads[0]
    kind([narrow], **settings).step()
    assert narrow.dtype == np.float32


def test_a_planted_fault_is_found():
    """Adam without the correction for the start at zero fails the comparison at the first step."""
    class Uncorrected(tg.optim.Adam):
        def direction(self, g, memory, betas, eps, amsgrad):
            m = memory["mean"] = 0.1 * g
            return m / (np.sqrt(0.001 * g * g) + eps)

    with pytest.raises(AssertionError):
        test_fifty_steps_equal_the_loop_over_numbers(Uncorrected, adam, dict(lr=0.05))


@pytest.mark.parametrize("kind, reference, settings", CASES)
def test_a_run_resumes_bit_for_bit(kind, reference, settings):
    """State of model and optimiser through arrays, as a file holds them, in the middle of a run."""
    def steps(model, optimizer, first, last):
        for k in range(first, last):
            optimizer.zero_grad()
            x = np.random.default_rng(k).normal(size=(5, 2, 3))
            tg.sum(tg.square(model(x)[0])).backward()
            optimizer.step()

    model = tg.nn.GRU(3, 4, rng=0)
    optimizer = kind(model, **settings)
    steps(model, optimizer, 0, 3)
    saved = model.state_dict(), optimizer.state_dict()
    other = tg.nn.GRU(3, 4, rng=1)
    resumed = kind(other, **{**settings, "lr": 1.0})
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    steps(model, optimizer, 3, 6)
    steps(other, resumed, 3, 6)
    assert all(np.array_equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_graph_that_was_built_before_the_step_keeps_its_numbers():
    w = tg.tensor([2.0], requires_grad=True)
    loss = (w * w).sum()
    w.grad = np.array([1.0])
    tg.optim.SGD([w], lr=1.0).step()
    w.grad = None
    loss.backward()
    assert w.grad.tolist() == [4.0] and w.tolist() == [1.0]


# ---- groups -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, reference, settings", CASES)
def test_groups_have_settings_of_their_own(kind, reference, settings):
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=3), rng.normal(size=(20, 3))
    p, q, r = parameters = [tg.tensor(v, requires_grad=True) for v in start]
    own = {**settings, "lr": 0.003, **({"weight_decay": 0.3} if "weight_decay" in settings else {})}
    optimizer = kind([{"params": [p, q]}, {**own, "params": r}], **settings)
    assert list(optimizer.parameters) == ["0", "1", "2"] and [g["param_names"] for g in optimizer.param_groups] == [["0", "1"], ["2"]]
    for row in grads:
        for parameter, g in zip(parameters, row):
            parameter.grad = g
        optimizer.step()
    expected = [list(reference(start[k], grads[:, k].tolist(), **(own if k == 2 else settings)))[-1] for k in range(3)]
    np.testing.assert_allclose([parameter.item() for parameter in parameters], expected, rtol=1e-12)


def test_groups_between_steps():
    w, b, late = (tg.tensor([1.0], requires_grad=True) for _ in range(3))
    optimizer = tg.optim.SGD([{"params": [("w", w)]}, {"params": [("b", b)], "lr": 0.5}], lr=0.25)

    def step():
        for p in (w, b, late):
            p.grad = np.ones(1)
        optimizer.step()
        return [p.item() for p in (w, b, late)]

    assert step() == [0.75, 0.5, 1.0] and optimizer.lr == 0.25
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.add_param_group({"params": {"late": late}, "lr": 1.0})
    assert step() == [0.75, 0.0, 0.0]
    optimizer.lr = 0.125
    assert step() == [0.625, -0.125, -0.125]
    schedule = tg.optim.StepLR(optimizer, 1, 0.5)
    optimizer.param_groups[1]["lr"] = 8.0
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0625] * 3
    schedule.t = 0
    assert optimizer.lr == 0.125


def test_the_state_of_groups():
    def made(lr):
        w, b = tg.tensor([1.0, 2.0], requires_grad=True), tg.tensor([3.0], requires_grad=True)
        return tg.optim.Adam([{"params": [("w", w)], "betas": (0.5, 0.75)}, {"params": [("b", b)], "lr": 2 * lr, "amsgrad": True}], lr=lr)

    first, second = made(0.5), made(0.25)
    for p in first.parameters.values():
        p.grad = np.ones(p.shape)
    first.step()
    state = first.state_dict()
    assert state["lr"].tolist() == [0.5, 1.0] and state["betas"].tolist() == [[0.5, 0.75], [0.9, 0.999]] and "b/largest" in state and "w/largest" not in state
    groups = second.param_groups[:]
    second.load_state_dict(state)
    for mine, other in zip(first.param_groups, groups):
        assert {**mine, "params": 0} == {**other, "params": 0} and type(other["amsgrad"]) is bool and type(other["betas"]) is tuple
    assert repr(second.memory) == repr(first.memory)


def test_numbers_of_numpy_move_a_float32_parameter_like_those_of_python():
    """Bit for bit, so that a run goes on as before when its settings come back from a file."""
    ends = []
    for number in (float, np.float64):
        p = tg.tensor(np.linspace(0.1, 0.7, 5), requires_grad=True, dtype=np.float32)
        optimizer = tg.optim.RMSProp([p], lr=number(0.1), alpha=number(0.7), momentum=number(0.9))
        for k in range(5):
            p.grad = np.sin(np.arange(5, dtype=np.float32) + k)
            optimizer.step()
        ends.append((p.tolist(), {key: value.dtype for key, value in optimizer.memory["0"].items()}))
    assert ends[0] == ends[1] and set(ends[0][1].values()) == {np.dtype(np.float32)}


def test_an_optimiser_of_your_own():
    """The example in the text of the module that defines Optimizer."""
    class Sign(tg.optim.Optimizer):
        def __init__(self, params, lr=0.01):
            super().__init__(params, lr=lr)

        def update(self, p, g, memory, lr):
            return p - lr * np.sign(g)

    (p,) = with_grads([3.0, -4.0])
    Sign([p], lr=0.5).step()
    assert p.tolist() == [-0.5, 0.5]


SCHEDULES = {
    "lambda": (lambda o: tg.optim.LambdaLR(o, lambda t: 1 / (1 + t)), lambda t: 2 / (1 + t)),
    "step": (lambda o: tg.optim.StepLR(o, 3, 0.5), lambda t: 2 * 0.5 ** (t // 3)),
    "milestones": (lambda o: tg.optim.MultiStepLR(o, [2, 5]), lambda t: 2 * (1 if t < 2 else 0.1 if t < 5 else 0.01)),
    "exponential": (lambda o: tg.optim.ExponentialLR(o, 0.9), lambda t: 2 * 0.9**t),
    "linear": (lambda o: tg.optim.LinearLR(o, 0.0, 1.0, 4), lambda t: 2 * min(t / 4, 1)),
    "cosine": (lambda o: tg.optim.CosineAnnealingLR(o, 8, 0.5), lambda t: 0.5 + 1.5 * (1 + math.cos(math.pi * t / 8)) / 2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    make, rate = SCHEDULES[name]
    optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=2.0)
    schedule = make(optimizer)
    for t in range(9):
        np.testing.assert_allclose(optimizer.lr, rate(t), rtol=1e-14)
        schedule.step()


# ---- clipping -----------------------------------------------------------------------------------------------


def with_grads(*grads):
    found = [tg.tensor(np.zeros(np.shape(g)), requires_grad=True) for g in grads]
    for p, g in zip(found, grads):
        p.grad = g
    return found


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_clip_grad_norm(norm_type):
    grads = [np.array([3.0, -4.0]), np.array([[12.0]])]
    everything = np.array([3.0, 4.0, 12.0])
    norm = everything.max() if norm_type == math.inf else (everything**norm_type).sum() ** (1 / norm_type)
    parameters = [*with_grads(*grads), tg.tensor([1.0], requires_grad=True)]
    np.testing.assert_allclose(tg.optim.clip_grad_norm_(parameters, 100.0, norm_type), norm, rtol=1e-14)
    assert all(np.array_equal(p.grad, g) for p, g in zip(parameters, grads))
    np.testing.assert_allclose(tg.optim.clip_grad_norm_(parameters, 1.0, norm_type), norm, rtol=1e-14)
    for p, g in zip(parameters, grads):
        np.testing.assert_allclose(p.grad, g / (norm + 1e-6), rtol=1e-14)
    assert parameters[2].grad is None


def test_clip_grad_norm_of_huge_tiny_and_no_gradients():
    (p,) = with_grads([3e200, 4e200])
    np.testing.assert_allclose(tg.optim.clip_grad_norm_(p, 1.0), 5e200, rtol=1e-12)
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-12)
    (p,) = with_grads([3e-200, 4e-200])
    np.testing.assert_allclose(tg.optim.clip_grad_norm_([p], 1.0), 5e-200, rtol=1e-12)
    assert tg.optim.clip_grad_norm_(with_grads(np.zeros(3)), 1.0) == 0 and tg.optim.clip_grad_norm_([tg.tensor([1.0], requires_grad=True)], 1.0) == 0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_infinite_gradient_is_named_and_nothing_changes(bad):
    model = tg.nn.GRU(3, 4, rng=0)
    before = model.state_dict()
    for _, p in model.named_parameters():
        p.grad = np.ones(p.shape)
    model.bias_ih_l0.grad = np.where(np.arange(12) == 5, bad, 1.0)
    optimizer = tg.optim.Adam(model)
    for who, call in (("clip_grad_norm_(parameters, max_norm)", lambda: tg.optim.clip_grad_norm_(model, 1.0)), ("Adam.step()", optimizer.step)):
        with pytest.raises(tg.errors.NonFiniteError) as found:
            call()
        assert str(found.value) == f"""\
{who}: the gradient of parameter bias_ih_l0 is not finite
  bias_ih_l0  (12,)
  elements    1 of 12
  first       {bad}
Nothing was changed. Look for the first non-finite value, lower the learning rate, or clip earlier."""
    assert all(np.array_equal(v, before[k]) for k, v in model.state_dict().items()) and optimizer.memory["weight_ih_l0"] == {}
    assert (model.weight_ih_l0.grad == 1).all() and model.bias_ih_l0.grad[4] == 1


def test_clip_grad_value():
    (p,) = with_grads([30.0, -0.5, -40.0, np.inf, np.nan])
    tg.optim.clip_grad_value_([p], 10.0)
    np.testing.assert_array_equal(p.grad, [10, -0.5, -10, 10, np.nan])


# ---- what they refuse ---------------------------------------------------------------------------------------


def text(error, call):
    with pytest.raises(error) as found:
        call()
    return str(found.value)


def test_messages():
    E, w = tg.errors, tg.tensor([1.0], requires_grad=True)
    assert text(E.ArgumentError, lambda: tg.optim.SGD([])) == """\
named(parameters): there are no parameters
  parameters  0
Pass model.parameters(), or the model."""
    assert text(E.ArgumentError, lambda: tg.optim.SGD([np.ones(2)])).startswith("named(parameters): 0 is not a Tensor")
    assert text(E.DomainError, lambda: tg.optim.Adam([w], betas=(0.9, 1.0))) == """\
Adam(…): betas is out of range
  betas  (0.9, 1.0)
Pass betas at least 0 and below 1."""
    for call in (lambda: tg.optim.SGD([w], lr=-1.0), lambda: tg.optim.SGD([w], nesterov=True),
                 lambda: tg.optim.SGD([w], momentum=0.9, dampening=0.1, nesterov=True),
                 lambda: tg.optim.RMSProp([w], eps=-1e-8), lambda: tg.optim.Adam([w], lr=math.nan), lambda: tg.optim.clip_grad_norm_([w], -1.0),
                 lambda: tg.optim.clip_grad_value_([w], math.nan), lambda: tg.optim.clip_grad_norm_([w], 1.0, 0.0)):
        text(E.DomainError, call)
    for make in (lambda: tg.optim.SGD([w], lr=None), lambda: tg.optim.SGD([w], lr="0.1"), lambda: tg.optim.SGD([w], lr=math.inf)):
        assert text(E.DomainError, make).startswith("SGD(…): lr is out of range")
    assert text(E.DomainError, lambda: tg.optim.StepLR(tg.optim.SGD([w]), 0)) == """\
StepLR(optimizer, step_size): step_size is not positive
  step_size  0
Pass step_size=1 or more."""
    text(E.DomainError, lambda: tg.optim.LinearLR(tg.optim.SGD([w]), total_iters=0))
    text(E.DomainError, lambda: tg.optim.CosineAnnealingLR(tg.optim.SGD([w]), 0))
    optimizer = tg.optim.Adam(tg.nn.Linear(3, 2))
    assert repr(optimizer) == "Adam(lr=0.001): 2 parameters of 8 numbers"


def test_parameters_that_would_not_move_or_move_twice():
    E, w, b = tg.errors, tg.tensor([1.0], requires_grad=True), tg.tensor([2.0], requires_grad=True)
    assert text(E.ArgumentError, lambda: tg.optim.SGD([w, b, w])) == """\
named(parameters): 2 is the Tensor that 0 is
  parameters  3
Pass model.parameters(), or the model."""
    assert text(E.ArgumentError, lambda: tg.optim.SGD([("w", w), ("w", b)])).startswith("named(parameters): two are called w")
    assert text(E.ArgumentError, lambda: tg.optim.SGD([{"params": [w, b]}, {"params": [b]}])).startswith("named(parameters): 2 is the Tensor that 1 is")
    assert text(E.ArgumentError, lambda: tg.optim.SGD([{"params": [("a", w)]}, {"params": [("a", b)]}])).startswith("named(parameters): two are called a")
    assert text(E.ArgumentError, lambda: tg.optim.SGD([w, 2 * b])) == """\
SGD(…): parameter 1 is the result of a call
  1        (1,)
  made by  multiply
Pass the leaf that it was made of: only leaves hold a gradient."""
    assert text(E.ArgumentError, lambda: tg.optim.SGD([{"params": [w], "rate": 1.0}])) == """\
SGD(…): a group is not a dict of params and settings
  group  params, rate
Pass dicts of "params" and any of lr, momentum, dampening, weight_decay, nesterov."""
    for params in ([{"params": [w]}, b], [{"lr": 1.0}]):
        text(E.ArgumentError, lambda p=params: tg.optim.SGD(p))
    assert text(E.DomainError, lambda: tg.optim.SGD([{"params": [w], "lr": -1.0}])).startswith("SGD(…): lr is out of range")
    optimizer = tg.optim.SGD([w])
    text(E.DomainError, lambda: optimizer.add_param_group({"params": [b], "nesterov": True}))
    assert list(optimizer.parameters) == ["0"] and len(optimizer.param_groups) == 1


def test_a_state_of_another_optimiser_changes_nothing():
    E, optimizer = tg.errors, tg.optim.Adam(tg.nn.Linear(3, 2), lr=0.5)
    good = {"lr": np.array([0.25]), "weight/mean": np.zeros((2, 3))}
    assert text(E.StateError, lambda: optimizer.load_state_dict({**good, "other/mean": np.zeros(2)})) == """\
Adam.load_state_dict(state): this optimiser has no other/mean
  settings    lr, betas, eps, weight_decay, amsgrad
  parameters  weight, bias
  remembers   step, mean, square, largest
Make an optimiser of the same kind for the same model."""
    assert text(E.ShapeError, lambda: optimizer.load_state_dict({**good, "weight/mean": np.zeros((3, 3))})) == """\
Adam.load_state_dict(state): weight/mean does not have the shape that it has here
  weight/mean  (3, 3) float64
  here         (2, 3)
Make an optimiser of the same kind, with the same groups, for the same model."""
    for error, bad in ((E.StateError, {"weight/momentum": np.zeros((2, 3))}), (E.StateError, {"momentum": np.zeros(1)}),
                       (E.ShapeError, {"lr": np.zeros(2)}), (E.ShapeError, {"lr": np.array(["x"])}),
                       (E.ShapeError, {"weight/step": np.zeros(2)}), (E.ShapeError, {"bias/mean": np.zeros(2, complex)}),
                       (E.DomainError, {"lr": np.array([-1.0])}), (E.DomainError, {"betas": np.array([[0.9, 1.0]])}), (E.DomainError, {"eps": [math.nan]})):
        text(error, lambda bad=bad: optimizer.load_state_dict({**good, **bad}))
    assert optimizer.memory == {"weight": {}, "bias": {}} and optimizer.lr == 0.5
    optimizer.load_state_dict(good)
    assert optimizer.lr == 0.25 and list(optimizer.memory["weight"]) == ["mean"]


@pytest.mark.parametrize("parameters", [lambda m: m, lambda m: m.parameters(), lambda m: m.named_parameters(), lambda m: dict(m.named_parameters()),
                                        lambda m: iter(m.parameters()), lambda m: [{"params": m}], lambda m: [{"params": p} for p in m.parameters()]])
def test_ways_to_say_which_parameters(parameters):
    model = tg.nn.Linear(3, 2, rng=0)
    optimizer = tg.optim.SGD(parameters(model), lr=1.0)
    model(np.ones((1, 3))).sum().backward()
    before = model.bias.numpy()
    optimizer.step()
    np.testing.assert_allclose(model.bias.numpy(), before - 1)
