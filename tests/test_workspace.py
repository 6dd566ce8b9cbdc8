"""Blocks of memory that are used again: only when nobody holds them, and never more than is worth keeping."""

import threading
from typing import Any

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import workspace

SHAPE = (64, 300)


@pytest.fixture(autouse=True)
def fresh():
    workspace.clear()
    yield
    workspace.clear()


def address(array):
    return array.__array_interface__["data"][0]


def test_a_block_comes_again_in_another_shape_when_nobody_holds_it():
    a = workspace.empty(SHAPE, np.float64)
    where = address(a)
    del a
    assert address(workspace.empty(SHAPE[::-1], np.float64)) == where
    assert address(workspace.empty((2, *SHAPE), np.float32)) == where


@pytest.mark.parametrize("hold", [lambda a: a, lambda a: a[1:], lambda a: a[::2].T[3:], lambda a: a.reshape(-1)[5:6], lambda a: memoryview(a),
                                  lambda a: np.broadcast_to(a[0], (3, 300)), lambda a: np.lib.stride_tricks.as_strided(a, (2, 2), (8, 8)),
                                  lambda a: np.frombuffer(memoryview(a)), lambda a: tg.Tensor(a)])
def test_what_somebody_holds_is_not_given_out(hold):
    held = hold(workspace.empty(SHAPE, np.float64))
    others = [workspace.empty(SHAPE, np.float64) for _ in range(20)]
    addresses = [address(other) for other in others]
    assert len(set(addresses)) == 20
    assert not any(np.shares_memory(np.asarray(held), other) for other in others)


def test_small_and_huge_arrays_are_plain():
    assert workspace.empty((10, 10), np.float64).base is None
    workspace.empty((workspace.MOST_BYTES + 1,), np.uint8)
    assert not workspace._blocks


def test_what_waits_is_bounded(monkeypatch):
    held = [workspace.empty(SHAPE, np.float64) for _ in range(100)]
    assert len(workspace._blocks[held[0].nbytes]) <= 16
    monkeypatch.setattr(workspace, "MOST_BYTES", 10 * held[0].nbytes)
    for n in range(300, 400):
        workspace.empty((64, n), np.float64)
    assert sum(size * len(blocks) for size, blocks in workspace._blocks.items()) <= workspace.MOST_BYTES
    assert 64 * 399 * 8 in workspace._blocks


def test_threads_do_not_share_a_block():
    wrong, start = [], threading.Barrier(4)

    def work(mine):
        start.wait()
        for _ in range(2000):
            a = workspace.empty(SHAPE, np.float64)
            a[:2] = mine
            b = workspace.empty(SHAPE, np.float64)
            b[:2] = -1
            if (a[:2] != mine).any():
                wrong.append(mine)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_results_of_a_scan_stay_as_they_are():
    """Outputs, gradients, and what a vjp kept, while later calls use all the memory that is idle."""
    rng = np.random.default_rng(0)
    W, U, xs = rng.normal(size=(3, 40)), rng.normal(size=(40, 40)) / 6, rng.normal(size=(120, 4, 3))

    def run(W, U, xs) -> Any:
        def cell(h, x):
            h = tg.tanh(x @ W + h @ U)
            return h, h

        return tg.scan(cell, np.zeros((4, 40)), xs)[1]

    ys, vjp = tg.vjp(run, W, U, xs)
    g = rng.normal(size=ys.shape)
    first = [np.asarray(d) for d in vjp(g)]
    kept = [np.array(a) for a in (np.asarray(ys), *first)]
    for k in range(5):
        tg.grad(lambda W, xs=xs + k: tg.sum(run(W, U, xs) ** 2))(W)
        run(W, U, xs + k)
    again = [np.asarray(d) for d in vjp(g)]
    for before, now, once_more in zip(kept, (np.asarray(ys), *first), (np.asarray(ys), *again)):
        assert np.array_equal(before, now) and np.array_equal(before, once_more)
    assert workspace._blocks
