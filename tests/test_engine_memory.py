"""Memory, long chains, threads: what a graph holds on to, and for how long."""

import asyncio
import copy
import gc
import pickle
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.tensor import mode

STEPS = 1_000


@pytest.fixture
def without_gc():
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def cell(w, h, x):
    f = tg.sigmoid(x @ w["in"] + h @ w["back"] + w["bias"])
    a, b = tg.split(tg.concatenate([f * h, tg.tanh(x @ w["in"])], axis=1), 2, axis=1)
    return h + tg.where(np.arange(4) > 1, a, b) * np.float64(0.5)


def params():
    rng = np.random.default_rng(0)
    return {"in": rng.normal(size=(3, 4)), "back": rng.normal(size=(4, 4)), "bias": np.zeros(4)}


def sequence(w, xs):
    h = np.zeros((2, 4))
    for t in range(4):
        h = cell(w, h, xs[t])
    return (h * h).sum()


def by_backward():
    w, xs = {name: tg.tensor(value, requires_grad=True) for name, value in params().items()}, np.ones((4, 2, 3))

    def step():
        loss = sequence(w, tg.tensor(xs))
        loss.backward()
        for p in w.values():
            p.data, p.grad = p.data - 0.01 * p.grad, None
        return loss.item()

    return step


def by_transform(transform):
    w, xs = params(), np.ones((4, 2, 3))

    def step():
        transform(w, xs)

    return step


def hessian_product(w, xs):
    return tg.hvp(lambda w: sequence(w, xs), (w,), (w,))


STEPPERS = {
    "backward": by_backward,
    "grad": lambda: by_transform(tg.grad(sequence)),
    "hvp": lambda: by_transform(hessian_product),
    "jvp": lambda: by_transform(lambda w, xs: tg.jvp(lambda w: sequence(w, xs), (w,), (w,))),
    "checkpoint": lambda: by_transform(tg.grad(lambda w, xs: tg.checkpoint(sequence)(w, xs))),
    "scan": lambda: by_transform(tg.grad(lambda w, xs: (tg.scan(lambda h, x: (cell(w, h, x), None), np.zeros((2, 4)), xs)[0] ** 2).sum())),
}


def array_memory(step, count):
    """Bytes in the buffers of arrays after each ten of `count` steps (Python's own free lists are not counted)."""
    tracemalloc.start()
    sizes, buffers = [], tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    for i in range(count):
        step()
        if i % 10 == 9:
            taken = tracemalloc.take_snapshot().filter_traces([buffers]).statistics("filename")
            sizes.append(sum(entry.size for entry in taken))
    tracemalloc.stop()
    return sizes


@pytest.mark.parametrize("name", STEPPERS)
def test_training_leaves_memory_flat_without_the_garbage_collector(name, without_gc):
    step = STEPPERS[name]()
    for _ in range(20):  # plans, compiled loops and caches are made once
        step()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(STEPS if name == "backward" else STEPS // 10):
        step()
    more = len(gc.get_objects()) - before
    assert gc.collect() == 0, "a reference cycle was left behind"
    assert more < 50, f"{more} objects more"
    sizes = array_memory(step, 40)
    assert sizes[-1] - sizes[len(sizes) // 2] < 2_000, f"the memory of arrays grew: {sizes}"


def test_planted_leaks_are_found(without_gc):
    kept, step = [], by_backward()
    sizes = array_memory(lambda: (step(), kept.append(np.ones(10))), 40)
    assert sizes[-1] - sizes[2] >= 800
    gc.collect()
    node = tg.tensor(1.0, requires_grad=True)._node
    node.saved = node
    del node
    assert gc.collect() > 0


def test_intermediates_that_no_rule_needs_are_freed_at_once(without_gc):
    x = tg.tensor(np.ones(100), requires_grad=True)
    middle = x + 1.0
    array, node = weakref.ref(middle._array), middle._node
    y = middle * 2.0  # keeps the number, not the array
    del middle
    assert array() is None and y.requires_grad and node.saved == ()


def test_backward_frees_what_the_graph_saved(without_gc):
    x = tg.tensor(np.ones(100), requires_grad=True)
    h = tg.tanh(x)
    array = weakref.ref(h._array)
    y = (h * h).sum()
    del h
    assert array() is not None
    y.backward()
    assert array() is None


def test_cotangents_of_the_steps_of_one_array_go_into_one_buffer():
    steps, size = 200, 20_000
    x = tg.tensor(np.ones((steps, size)), requires_grad=True)
    total = 0.0
    for t in range(steps):
        total = total + x[t].sum()
    tracemalloc.start()
    total.backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(x.grad, 1.0)
    assert peak < 1.2 * x.numpy().nbytes, f"{peak / x.numpy().nbytes:.1f} times the array"


def test_steps_share_one_copy_of_a_constant_array():
    w, steps = np.eye(300), 50
    tracemalloc.start()
    x = h = tg.tensor(np.ones((1, 300)), requires_grad=True)
    for t in range(steps):
        if t == steps // 2:
            w *= 0.5  # from here on it is another matrix, and the graph has to know both
        h = h @ w
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    w[:] = np.nan
    h.sum().backward()
    np.testing.assert_allclose(x.grad, 0.5 ** (steps - steps // 2))
    assert peak < 4 * w.nbytes, f"{peak / w.nbytes:.1f} copies"


def test_slices_that_overlap_and_repeat_sum_into_that_buffer():
    x = tg.tensor(np.arange(4.0), requires_grad=True)
    y = x[1:] * 2.0
    (y.sum() + x[::-1][0] + x[[0, 0, 3]].sum() + x[x.numpy() > 2.0].sum() + (x * x).sum()).backward()
    np.testing.assert_array_equal(x.grad, [0.0 + 2, 2 + 2.0, 2 + 4.0, 2 + 1 + 1 + 1 + 6.0])


# ---- long chains --------------------------------------------------------------------------------------------


def chain(x, n):
    for _ in range(n):
        x = x + 1.0
    return x


def test_a_chain_of_a_million_ops_passes_and_is_freed():
    x = tg.tensor(1.0, requires_grad=True)
    y = chain(x, 1_000_000)
    y.backward()
    assert x.grad == 1.0 and y.item() == 1_000_001.0
    del y
    z = chain(x, 200_000)
    del z  # a graph that no backward freed goes without the stack running over


def test_copies_of_a_long_chain_are_detached():
    y = chain(tg.tensor(1.0, requires_grad=True), 100_000)
    for twin in (copy.copy(y), copy.deepcopy(y), pickle.loads(pickle.dumps(y))):
        assert twin.item() == 100_001.0 and not twin.requires_grad


def test_transforms_of_a_long_chain():
    assert tg.grad(lambda x: chain(x, 50_000))(1.0) == 1.0
    assert tg.grad(tg.grad(lambda x: chain(x, 20_000) * x))(1.0) == 2.0


# ---- threads ------------------------------------------------------------------------------------------------


def test_threads_have_grad_modes_of_their_own():
    x = tg.tensor(1.0, requires_grad=True)
    inside, checked, seen = threading.Event(), threading.Event(), {}

    def other():
        with tg.no_grad():
            inside.set()
            checked.wait(10)
            seen["other"] = (x * 2).requires_grad

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    seen["main"] = (x * 2).requires_grad
    checked.set()
    thread.join()
    assert seen == {"main": True, "other": False} and mode.get().grad


def test_tasks_have_grad_modes_of_their_own():
    x = tg.tensor(1.0, requires_grad=True)

    async def quiet():
        with tg.no_grad():
            await asyncio.sleep(0)
            return (x * 2).requires_grad

    async def loud():
        await asyncio.sleep(0)
        return (x * 2).requires_grad

    async def both():
        return await asyncio.gather(quiet(), loud(), quiet())

    assert asyncio.run(both()) == [False, True, False]


def test_one_pullback_in_many_threads():
    xs = np.random.default_rng(0).normal(size=(3, 2, 3))
    y, pullback = tg.vjp(lambda xs: sum((cell(params(), xs[t, :, :1] * np.ones(4), xs[t]) ** 2).sum() for t in range(3)), xs)
    expected, found = pullback(1.0)[0], []
    threads = [threading.Thread(target=lambda: found.extend(pullback(1.0)[0] for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all(np.array_equal(g, expected) for g in found)


def test_graphs_grow_in_many_threads():
    def train(results):
        step = by_backward()
        results.append([step() for _ in range(20)])

    results = []
    threads = [threading.Thread(target=train, args=(results,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(r == results[0] for r in results) and results[0][-1] < results[0][0]


def test_a_generator_holds_no_grad_only_where_it_runs():
    x = tg.tensor(1.0, requires_grad=True)

    def values():
        for _ in range(2):
            with tg.no_grad():
                y = x * 2
            yield y

    for y in values():
        assert not y.requires_grad and (x * 2).requires_grad
