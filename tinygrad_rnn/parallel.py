"""parallel: one gradient by many workers, through any `concurrent.futures.Executor`.

    step = tg.parallel.value_and_grad(loss, executor)      threads, processes, Dask, MPI: the one line that changes
    value, grads = step(params, x, y)                      as tg.value_and_grad(loss)(params, x, y)

The batch is cut into shards, each worker differentiates the loss of its shard, and the parts are added in the order
of the shards, whichever came first: the same shards give the same bits. Each shard counts once, because results are
kept by shard: after a death only those without a result are sent again.

Knows how to cut a batch and how to put a sum or a mean together again. Refuses to be a cluster: who runs what, where,
is the executor's business. Below it: gradients, trees.
"""

import functools
import os
import pickle
from concurrent.futures import Executor

import numpy as np

from . import trees
from .errors import ArgumentError, DomainError, GradientError, ShapeError, WorkerError, message
from .gradients import value_and_grad as differentiated
from .tensor import Tensor, no_grad

_WHO = "parallel.value_and_grad(loss, executor)"


def value_and_grad(loss, executor, *, axis=0, shards=None, reduction=None, retries=1, has_aux=False):
    """A function `(params, *data) -> (value, gradient)` that is `tg.value_and_grad(loss)` on many workers.

    `executor`   a `concurrent.futures.Executor`, or a function that makes one: then a pool that broke is replaced.
    `axis`       the batch axis of the data: one number, or a tuple with one for each argument (None: sent whole).
    `shards`     how many parts; by default one for each worker.
    `reduction`  "sum" or "mean": how the loss treats the rows of a batch. By default it is found out at the first call
                 with more than one row, by comparing two rows with each alone, and what came of it with the value in
                 this process. A mean over something else, say the steps that are not padding, must stand outside.
    `retries`    how often shards that were lost with a worker are sent again.
    `has_aux`    the loss returns (scalar, aux); then `((value, [aux of every shard, in order]), gradient)` comes back.

    Shapes: every leaf of the data has the same number of rows along its axis; the last shards may have one row less.
    Value and gradient equal those of one process to rounding; the gradient is a tree like `params`.

    Raises: DomainError when the loss is neither a sum nor a mean over rows (then parts cannot be put together);
    ShapeError for data of unequal numbers of rows; ArgumentError for what is no executor; WorkerError when a worker
    died and its shards could not be done by another, or when the loss cannot be sent to one. An exception of the loss
    itself comes through as it is.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> def loss(p, x):
        ...     return tg.sum(tg.square(x * p["w"]))
        >>> with ThreadPoolExecutor(2) as pool:
        ...     tg.parallel.value_and_grad(loss, pool)({"w": 2.0}, np.array([1.0, 2.0, 3.0]))
        (array(56.), {'w': array(56.)})
    """
    if reduction not in (None, "sum", "mean"):
        raise DomainError(message(_WHO, "there is no such reduction", {"reduction": repr(reduction)}, 'Pass "sum", "mean" or None.'))
    if shards is not None and shards < 1 or retries < 0:
        raise DomainError(message(_WHO, "there is no such number", {"shards": shards, "retries": retries},
                                  "Pass shards of at least 1, or None, and retries of at least 0."))
    pool = _Pool(executor, retries)
    known = reduction

    @functools.wraps(loss, assigned=("__doc__",), updated=())
    def step(params, *data):
        nonlocal known
        rows, cut = _cutter(data, axis)
        count = max(1, min(rows, shards or pool.workers()))
        unproved = known is None and rows > 1 and count > 1
        if unproved:
            known = _found_out(loss, params, cut, rows, has_aux)
        bounds = [-(-rows * i // count) for i in range(count + 1)]  # rounded up: the longer shards come first
        parts = list(zip(bounds, bounds[1:]))
        params = _plain(params)
        results = pool.run([(loss, params, _plain(cut(a, b)), (i, count, a, b), has_aux) for i, (a, b) in enumerate(parts)])
        weights = [(b - a) / rows if known == "mean" and rows else 1.0 for a, b in parts]
        values, gradients = zip(*results)
        values, aux = zip(*values) if has_aux else (values, ())
        value = _added(values, weights)
        if unproved:
            try:
                _compared(value, _value(loss, params, cut(0, rows), has_aux), known, rows)
            except DomainError:
                known = None
                raise
        gradient = trees.map(lambda *grads: None if grads[0] is None else _added(grads, weights), *gradients)
        return ((value, list(aux)), gradient) if has_aux else (value, gradient)

    return step


def _value(loss, params, data, has_aux):
    """The loss in this process, as a number."""
    with no_grad():
        value = loss(_plain(params), *_plain(data))
    value = _plain(value[0] if has_aux else value)
    shown = type(value).__name__ if isinstance(value, (tuple, list, dict)) else np.shape(value)
    if shown != ():
        raise GradientError(message(_WHO, "the loss does not return a scalar", {"returned": shown},
                                    "Reduce it with sum or mean, and pass has_aux=True if it returns (scalar, aux)."))
    return float(value)


def _compared(value, whole, known, rows):
    """Refuse a batch of which the parts do not make the whole."""
    if abs(value - whole) > 1e-4 * (abs(value) + abs(whole)):
        raise DomainError(message(_WHO, f"the loss is no {known} over the rows of this batch, though it looked like one",
                                  {f"{known} over {rows} rows": f"{float(value):.6g}", "loss of the batch": f"{whole:.6g}"},
                                  "Divide by what the loss counts outside of it, so that it is a sum over rows."))


def _added(parts, weights):
    """Σ weight · part, in the order of the shards."""
    total = np.multiply(parts[0], weights[0], dtype=np.asarray(parts[0]).dtype)
    for part, weight in zip(parts[1:], weights[1:]):
        total = total + np.multiply(part, weight, dtype=np.asarray(part).dtype)
    return np.asarray(total)


def _plain(tree):
    """Arrays in place of Tensors: what a worker needs are values."""
    return trees.map(lambda leaf: leaf.numpy() if isinstance(leaf, Tensor) else leaf, tree)


# ---- cutting ------------------------------------------------------------------------------------------------


def _cutter(data, axis):
    """The number of rows, and a function that cuts rows a to b out of every argument."""
    axes = axis if isinstance(axis, tuple) else (axis,) * len(data)
    if len(axes) != len(data) or not data or all(a is None for a in axes):
        raise ArgumentError(message(_WHO, "axis does not say where the batch is",
                                    {"arguments after params": len(data), "axis": axis},
                                    "Call with data, and pass one axis for each argument."))
    sizes = {}
    for i, (tree, ax) in enumerate(zip(data, axes)):
        if ax is None:
            continue
        for name, leaf in zip(trees.paths(tree, f"data[{i}]"), trees.flatten(tree)[0]):
            if not -np.ndim(leaf) <= ax < np.ndim(leaf):
                raise ShapeError(message(_WHO, f"{name} has no batch axis", {name: np.shape(leaf), "axis": ax},
                                         "Pass axis= with one entry for each argument, None for those that have no rows."))
            sizes[name] = np.shape(leaf)[ax]
    if len(set(sizes.values())) != 1:
        raise ShapeError(message(_WHO, "the data have unequal numbers of rows", sizes,
                                 "Pass axis= with one entry for each argument."))

    def cut(a, b):
        def rows(leaf, ax):
            return leaf[(slice(None),) * (ax % np.ndim(leaf)) + (slice(a, b),)]

        return tuple(tree if ax is None else trees.map(lambda leaf: rows(leaf, ax), tree) for tree, ax in zip(data, axes))

    return next(iter(sizes.values())), cut


def _found_out(loss, params, cut, rows, has_aux):
    """Whether the loss of two rows is the sum or the mean of the losses of each."""
    facts = {}
    for start in dict.fromkeys((0, rows - 2)):
        both, one, other = (_value(loss, params, cut(a, b), has_aux)
                            for a, b in ((start, start + 2), (start, start + 1), (start + 1, start + 2)))
        if not np.isfinite([both, one, other]).all():
            facts = {"rows": f"{start}, {start + 1}", "both": both, "one row": one, "another": other}
            raise DomainError(message(_WHO, "the loss of two rows is not finite, so that it cannot be found out how it treats them", facts,
                                      'Pass reduction="sum" or "mean".'))
        near = 1e-4 * (abs(one) + abs(other) + abs(both))
        is_sum, is_mean = abs(both - (one + other)) <= near, abs(both - 0.5 * (one + other)) <= near
        if is_sum != is_mean:
            return "sum" if is_sum else "mean"
        facts = {"one row": f"{one:.6g}", "another": f"{other:.6g}", "both": f"{both:.6g}"}
        if not is_sum:
            break
    raise DomainError(message(_WHO, "the loss is neither a sum nor a mean over the rows of a batch", facts,
                              'Leave what is not (a penalty on params) out of the loss, or pass reduction="sum" or "mean".'))


# ---- running ------------------------------------------------------------------------------------------------


def _shard(loss, params, data, shard, has_aux):
    """What a worker does. An exception of the loss is a result: only the death of a worker may look like one."""
    try:
        return True, differentiated(loss, has_aux=has_aux)(params, *data)
    except Exception as error:
        i, count, a, b = shard
        error.add_note(f"in shard {i + 1} of {count}, rows {a} to {b - 1}")
        return False, error


class _Pool:
    """The executor, or what makes one, and what to do when a part does not come back."""

    def __init__(self, executor, retries):
        self.make = None if isinstance(executor, Executor) or hasattr(executor, "submit") else executor
        self.executor, self.retries = None if self.make else executor, retries
        if executor is None or self.make is not None and not callable(self.make):
            raise ArgumentError(message(_WHO, "this is no executor", {"type": type(executor).__name__},
                                        "Pass a concurrent.futures.Executor, or a function that makes one."))

    def get(self):
        if self.executor is None:
            self.executor = self.make()
        return self.executor

    def workers(self):
        """How many workers there are, as far as the executor tells."""
        executor = self.get()
        told = getattr(executor, "_max_workers", None) or getattr(executor, "num_workers", None)
        client = getattr(executor, "_client", None)  # Dask's
        return told or client is not None and sum(client.ncores().values()) or os.cpu_count() or 1

    def run(self, tasks):
        """The results in the order of the tasks. A task that has one is never sent again."""
        done = {}
        for _ in range(self.retries + 1):
            missing = [i for i in range(len(tasks)) if i not in done]
            try:
                executor = self.get()
                futures = {i: executor.submit(_shard, *tasks[i]) for i in missing}
            except Exception as error:
                lost = error
            else:
                lost = self._collect(futures, done)
            if lost is None:
                return [done[i] for i in range(len(tasks))]
            self._judge(lost, tasks[0][0])
            if self.make is not None:
                self.executor.shutdown(wait=False, cancel_futures=True)
                self.executor = None
        remedy = "raise retries." if self.make else "pass a function that makes the executor, so that a broken pool is replaced."
        raise WorkerError(message(_WHO, f"{len(tasks) - len(done)} of {len(tasks)} shards were lost with their worker",
                                  {"tries": self.retries + 1, "last error": f"{type(lost).__name__}: {lost}".splitlines()[0]},
                                  f"Nothing was added up. Give the workers what they lack (memory, time), or {remedy}")) from lost

    def _collect(self, futures, done):
        """Put every result in its place; returns the last exception that was not the loss's own."""
        lost = None
        try:
            for i, future in futures.items():
                try:
                    fine, result = future.result()
                except Exception as error:
                    lost = error
                    continue
                if not fine:
                    raise result
                done[i] = result
        finally:
            for future in futures.values():
                future.cancel()
        return lost

    def _judge(self, lost, loss):
        """What cannot be sent will not arrive at the second try either."""
        if isinstance(lost, pickle.PicklingError) or "pickle" in str(lost).lower() and not isinstance(lost, OSError):
            raise WorkerError(message(_WHO, "the loss or its arguments cannot be sent to another process",
                                      {"loss": getattr(loss, "__qualname__", type(loss).__name__),
                                       "error": str(lost).splitlines()[0]},
                                      "Define the loss at the top level of a module (no lambda, no inner function), and pass "
                                      "plain arrays.")) from lost
