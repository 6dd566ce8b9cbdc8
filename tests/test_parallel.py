"""One gradient by many workers: equal to one process, in a fixed order, and nothing is counted twice."""

import doctest
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.errors import ArgumentError, DomainError, GradientError, ShapeError, WorkerError

elman = tg.sources.elman


def summed(p, x, y):
    """A recurrent net over rows: x (B, T, I), y (B, O)."""
    h, _ = tg.scan(lambda h, x: (tg.tanh(x @ p["W"] + h @ p["U"] + p["b"]), None), np.zeros((len(x), p["U"].shape[0])), tg.swapaxes(x, 0, 1))
    return tg.sum(tg.square(h @ p["V"] - y))


def averaged(p, x, y):
    return summed(p, x, y) / y.shape[0]


def case(B=7, T=5, I=2, H=4, O=3, seed=0):
    r = np.random.default_rng(seed).normal
    return dict(W=r(size=(I, H)), U=r(size=(H, H)), b=r(size=H), V=r(size=(H, O))), r(size=(B, T, I)), r(size=(B, O))


def same(got, expected, rtol=1e-12):
    np.testing.assert_allclose(got[0], expected[0], rtol=rtol)
    assert got[1].keys() == expected[1].keys()
    for name in expected[1]:
        np.testing.assert_allclose(got[1][name], expected[1][name], rtol=rtol, atol=1e-12 * np.abs(expected[1][name]).max(), err_msg=name)


def processes():
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(3) as pool:
        yield pool


@settings(max_examples=40, deadline=None)
@given(B=st.integers(1, 13), shards=st.integers(1, 15), seed=st.integers(0, 2**32 - 1), loss=st.sampled_from([summed, averaged]))
def test_threads_equal_one_process(B, shards, seed, loss):
    params, x, y = case(B=B, seed=seed)
    with ThreadPoolExecutor(3) as pool:
        same(tg.parallel.value_and_grad(loss, pool, shards=shards)(params, x, y), tg.value_and_grad(loss)(params, x, y))


def test_processes_equal_one_process():
    params, x, y = case()
    with processes() as pool:
        for loss in (summed, averaged):
            same(tg.parallel.value_and_grad(loss, pool, shards=3)(params, x, y), tg.value_and_grad(loss)(params, x, y))
        p, (ex, ey) = elman.example()
        p.pop("h0")
        same(tg.parallel.value_and_grad(elman.loss, pool, axis=1)(p, ex, ey), tg.value_and_grad(elman.loss)(p, ex, ey))


def test_the_ragged_shards_are_cut_evenly_and_cover_every_row(threads):
    seen = []

    def loss(p, x):
        seen.append(x.copy())
        return tg.sum(p * x)

    value, g = tg.parallel.value_and_grad(loss, threads, shards=3, reduction="sum")(2.0, np.arange(7.0))
    assert sorted(map(len, seen)) == [2, 2, 3] and sorted(np.concatenate(seen)) == list(range(7))
    assert (value, g) == (42.0, 21.0)


def test_the_order_of_addition_is_that_of_the_shards():
    """Bits are the same whoever finishes first."""
    params, x, y = case(B=9)

    def run(delays):
        waits = iter(delays)

        def loss(p, x, y):
            time.sleep(next(waits))
            return summed(p, x, y)

        with ThreadPoolExecutor(3) as pool:
            return tg.parallel.value_and_grad(loss, pool, shards=3, reduction="sum")(params, x, y)

    first, last = run([0.0, 0.02, 0.04]), run([0.04, 0.02, 0.0])
    assert first[0] == last[0]
    for name in params:
        np.testing.assert_array_equal(first[1][name], last[1][name])


def test_float32_stays_float32(threads):
    params, x, y = case()
    params = {name: value.astype(np.float32) for name, value in params.items()}
    value, grads = tg.parallel.value_and_grad(lambda p, x: tg.sum(x @ p["W"]) / len(x), threads)({"W": params["W"]}, x[:, 0].astype(np.float32))
    assert value.dtype == grads["W"].dtype == np.float32


def test_trees_tensors_and_arguments_that_are_not_cut(threads):
    def loss(p, batch, scale):
        return scale[0] * tg.sum(batch["x"] * p["w"] + tg.sum(batch["y"], axis=0))

    batch = {"x": tg.tensor(np.arange(5.0)), "y": tg.tensor(np.ones((3, 5)))}
    params = {"w": tg.tensor(2.0, requires_grad=True), "steps": 3}
    step = tg.parallel.value_and_grad(lambda p, x, y, s: loss(p, {"x": x, "y": y}, s), threads, axis=(0, 1, None))
    value, grads = step(params, batch["x"], batch["y"], np.array([2.0]))
    assert (value, grads) == (70.0, {"w": 20.0, "steps": None})


def test_a_loss_that_is_no_sum_is_refused_instead_of_added_wrongly(threads):
    penalty = lambda p, x: tg.sum(p * x) + 100.0 * tg.sum(p * p)
    with pytest.raises(DomainError) as error:
        tg.parallel.value_and_grad(penalty, threads)(2.0, np.arange(4.0))
    assert str(error.value) == """\
parallel.value_and_grad(loss, executor): the loss is neither a sum nor a mean over the rows of a batch
  one row  400
  another  402
  both     402
Leave what is not (a penalty on params) out of the loss, or pass reduction="sum" or "mean"."""
    with pytest.raises(DomainError, match="one row  0\n"):
        tg.parallel.value_and_grad(lambda p, x: tg.sum(p * x), threads)(0.0, np.arange(4.0))
    # rows that say nothing at the start are looked past
    assert tg.parallel.value_and_grad(lambda p, x: tg.sum(p * x) / len(x), threads)(1.0, np.array([0.0, 0.0, 3.0, 5.0]))[0] == 2.0


def per_step(p, x, mask):
    """A mean over the steps that are not padding."""
    return tg.sum(p * x * mask) / tg.sum(mask)


def test_a_mean_over_something_else_than_rows_is_refused(threads):
    """Two rows of one length look like a mean over rows; the batch is none."""
    x, mask = np.arange(12.0).reshape(4, 3) + 1, np.array([[1.0, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
    step = tg.parallel.value_and_grad(per_step, threads, shards=2)
    for _ in range(2):  # what was refused is not taken for known
        with pytest.raises(DomainError) as error:
            step(2.0, x, mask)
        assert str(error.value) == """\
parallel.value_and_grad(loss, executor): the loss is no mean over the rows of this batch, though it looked like one
  mean over 4 rows   11.8333
  loss of the batch  10.2222
Divide by what the loss counts outside of it, so that it is a sum over rows."""
    assert step(2.0, x[:2], mask[:2]) == tg.value_and_grad(per_step)(2.0, x[:2], mask[:2])


def test_what_else_a_loss_returns_comes_back_by_shards(threads):
    def loss(p, x):
        return tg.sum(p * x), {"seen": x, "twice": 2 * p}

    step = tg.parallel.value_and_grad(loss, threads, shards=3, has_aux=True)
    (value, aux), g = step(2.0, np.arange(5.0))
    assert (value, g) == (20.0, 10.0)
    assert [part["seen"].tolist() for part in aux] == [[0, 1], [2, 3], [4]] and [part["twice"] for part in aux] == [4.0] * 3
    assert all(type(part["twice"]) is np.ndarray for part in aux)


def test_no_rows_are_one_empty_shard(threads):
    params, x, y = case(B=0)
    for reduction in (None, "sum", "mean"):
        same(tg.parallel.value_and_grad(summed, threads, reduction=reduction)(params, x, y), tg.value_and_grad(summed)(params, x, y))


def test_one_row_does_not_decide_what_the_loss_is(threads):
    step = tg.parallel.value_and_grad(averaged, threads)
    for B in (1, 5, 2, 1):
        params, x, y = case(B=B, seed=B)
        same(step(params, x, y), tg.value_and_grad(averaged)(params, x, y))


def test_what_no_gradient_can_be_asked_of(threads):
    def refused(kind, words, loss, x, executor=threads, **options):
        with pytest.raises(kind, match=words):
            tg.parallel.value_and_grad(loss, executor, **options)(2.0, x)

    x = np.arange(5.0)
    refused(GradientError, r"does not return a scalar\n  returned  \(2,\)", lambda p, x: p * x, x)
    refused(GradientError, "does not return a scalar\n  returned  tuple\n.*has_aux=True", lambda p, x: (tg.sum(p * x), x), x)
    refused(GradientError, r"returned  shape \(2,\)", lambda p, x: p * x, x, reduction="sum")
    refused(DomainError, 'two rows is not finite.*\n  rows     0, 1\n(.*\n)*Pass reduction="sum"', lambda p, x: tg.sum(p * x), np.full(4, np.nan))
    refused(DomainError, "no such number\n  shards   0\n", summed, x, shards=0)
    refused(DomainError, "no such number\n.*\n  retries  -1\n", summed, x, retries=-1)
    refused(ArgumentError, "this is no executor\n  type  int\n", summed, x, executor=4)
    refused(ArgumentError, "this is no executor\n  type  NoneType\n", summed, x, executor=None)


def test_an_exception_of_the_loss_comes_through_with_its_rows(threads):
    def loss(p, x):
        if 5.0 in x:
            raise KeyError("bad row")
        return tg.sum(p * x)

    with pytest.raises(KeyError, match="bad row") as error:
        tg.parallel.value_and_grad(loss, threads, shards=3, reduction="sum")(1.0, np.arange(9.0))
    assert error.value.__notes__ == ["in shard 2 of 3, rows 3 to 5"]


def test_data_that_do_not_fit(threads):
    params, x, y = case()
    with pytest.raises(ShapeError, match=r"unequal numbers of rows\n  data\[0\]  7\n  data\[1\]  6\nPass axis="):
        tg.parallel.value_and_grad(summed, threads)(params, x, y[:6])
    with pytest.raises(ShapeError, match=r"data\[1\] has no batch axis"):
        tg.parallel.value_and_grad(summed, threads)(params, x, 3.0)
    with pytest.raises(ArgumentError, match="axis does not say where the batch is"):
        tg.parallel.value_and_grad(summed, threads, axis=(0,))(params, x, y)
    with pytest.raises(DomainError, match="there is no such reduction"):
        tg.parallel.value_and_grad(summed, threads, reduction="max")


# ---- workers that die ---------------------------------------------------------------------------------------


def dies_once(p, x):
    """Kills its own process the first time that it meets row 0."""
    if x[0] == 0 and not os.path.exists(path := os.environ["TINYGRAD_TEST_DIED"]):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return tg.sum(p * x)


def dies_always(p, x):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_replaced_and_nothing_is_counted_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_TEST_DIED", str(tmp_path / "died"))
    made = []

    def pool():
        made.append(processes())
        return made[-1]

    step = tg.parallel.value_and_grad(dies_once, pool, shards=4, reduction="sum")
    assert step(1.0, np.arange(8.0)) == (28.0, 28.0) and len(made) == 2
    assert step(1.0, np.arange(8.0)) == (28.0, 28.0) and len(made) == 2
    made[-1].shutdown()


def test_a_pool_that_cannot_be_replaced_fails_clearly():
    with processes() as pool, pytest.raises(WorkerError) as error:
        tg.parallel.value_and_grad(dies_always, pool, shards=2, reduction="sum")(1.0, np.arange(4.0))
    text = str(error.value)
    assert text.startswith("parallel.value_and_grad(loss, executor): 2 of 2 shards were lost with their worker\n"
                           "  tries       2\n  last error  BrokenProcessPool")
    assert text.endswith("Nothing was added up. Give the workers what they lack (memory, time), or "
                         "pass a function that makes the executor, so that a broken pool is replaced.")


def test_what_cannot_be_sent_is_said_at_once():
    with processes() as pool, pytest.raises(WorkerError, match="cannot be sent to another process\n  loss   .*<lambda>\n.*\nDefine the loss at the top level"):
        tg.parallel.value_and_grad(lambda p, x: tg.sum(p * x), pool, shards=2, reduction="sum")(1.0, np.arange(4.0))


class Flaky:
    """An executor that loses the answer of chosen submissions; the work itself was done."""

    def __init__(self, *losing):
        self.losing, self.sent = set(losing), 0

    def submit(self, function, *args):
        self.sent += 1
        future = Future()
        result = function(*args)
        if self.sent in self.losing:
            future.set_exception(ConnectionError("the worker is gone"))
        else:
            future.set_result(result)
        return future


def test_only_lost_shards_are_sent_again():
    flaky = Flaky(2, 3)
    value, g = tg.parallel.value_and_grad(lambda p, x: tg.sum(p * x), flaky, shards=4, reduction="sum")(1.0, np.arange(8.0))
    assert (value, g, flaky.sent) == (28.0, 28.0, 6)
    with pytest.raises(WorkerError, match="1 of 4 shards were lost.*\n  tries       2\n  last error  ConnectionError: the worker is gone"):
        tg.parallel.value_and_grad(lambda p, x: tg.sum(p * x), Flaky(2, 5), shards=4, reduction="sum")(1.0, np.arange(8.0))


def test_a_planted_double_count_is_found(monkeypatch):
    """Results that are appended, not kept by shard, fail the test above."""
    from tinygrad_rnn import parallel

    collect = parallel._Pool._collect

    def twice(self, futures, done):
        lost = collect(self, futures, done)
        done[0] = tuple(np.multiply(part, 2) for part in done[0])
        return lost

    monkeypatch.setattr(parallel._Pool, "_collect", twice)
    with pytest.raises(AssertionError):
        test_only_lost_shards_are_sent_again()


def test_threads_do_not_see_each_others_modes(threads):
    with tg.no_grad():
        value, g = tg.parallel.value_and_grad(lambda p, x: tg.sum(p * x), threads, shards=3)(1.0, np.arange(6.0))
    assert g == 15.0 and threading.active_count() >= 1


def test_the_example_runs():
    from tinygrad_rnn import parallel

    assert not doctest.testmod(parallel, extraglobs={"tg": tg, "np": np}).failed
