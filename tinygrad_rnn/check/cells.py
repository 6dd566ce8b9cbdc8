"""check_cell: does a cell keep its promises to scan, and are its derivatives right?

Knows what a cell owes: a state of the shape, structure and dtype that came in, the same result for the same inputs, nothing
written to. Refuses to know any cell's equations. Below it: cell_parts, gradcheck, report, scan, gradients, trees.
"""

import gc
import tracemalloc
import warnings
from typing import Any

import numpy as np

from .. import trees
from ..errors import DomainError, TraceError, message
from ..gradients import value_and_grad, vjp
from ..scan import scan
from ..tensor import Tensor
from .cell_parts import called_with, lowered, parameters
from .gradcheck import gradcheck
from .report import Finding, Report, said, small

LEAK = 4096  # bytes that a run may leave behind: caches that are still filling


def check_cell(cell, state=None, xs=None, *, order=3, seed=0):
    """Check any `cell(state, x) -> (state, y)` against all that scan and its users rely on.

    Shapes: `xs` has time first, T ≥ 2. A cell with `input_size` and `initial_state(batch)` needs neither: it is tried on
    T = 4, B = 3. Batch first in the state and second in xs, if there is a batch.

    It looks at: structure, shapes and dtypes of the state; the same result twice, also after other inputs; parameters and
    inputs left alone; derivatives of orders 1 to `order` by state, input and parameters (`gradcheck`); compiled scan =
    plain loop, values and gradients; T = 0 and T = 1; rows of a batch that do not see each other; `lengths` = each row cut
    off by itself, with nan in the padding; float32 that stays float32; memory that does not grow. Parameters are the
    leaves of a module, the Tensors that another object holds or a function closes over. What a cell need not be (compilable,
    a function of each row alone, fit for single precision though it closes over float64 arrays) is noted.

    Raises: ArgumentError when the cell cannot be called, it is not known with what, or xs has no time axis; DomainError for
    another order.

    Example:
        >>> tg.check.check_cell(tg.nn.GRUCell(2, 3, rng=0), order=2).ok
        True
    """
    who = f"check_cell({getattr(cell, '__name__', type(cell).__name__)})"
    rng = np.random.default_rng(seed)
    if order not in (1, 2, 3):
        raise DomainError(message(who, "there is no check of this order", {"order": order}, "Pass 1, 2 or 3."))
    battery = _Battery(cell, *called_with(cell, state, xs, rng, who), order, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        battery.run()
    return Report(who, tuple(battery.findings), battery.checked, tuple(dict.fromkeys(battery.notes)),
                  f"Mend the first of these and run the check again, seed={seed}.")


class _Battery:
    """The checks on one cell; findings gather here."""

    def __init__(self, cell, state, xs, order, seed):
        self.cell, self.state, self.xs, self.order, self.seed = cell, state, xs, order, seed
        self.names, self.params, self.rebuilt = parameters(cell)
        self.T = trees.flatten(xs)[0][0].shape[0]
        self.findings, self.notes, self.checked, self.options = [], [], 0, {}

    def find(self, what, case="", **facts):
        self.findings.append(Finding(what, case or "one step", facts))

    def run(self):
        if not self.contract():
            return
        for part in (self.purity, self.derivatives, self.loop, self.short, self.rows, self.single, self.memory):
            self.checked += 1
            try:
                part()
            except Exception as error:  # somebody's cell may fail anywhere
                self.find(f"it raises {type(error).__name__}", part.__name__.replace("single", "single precision"), error=said(error))

    def at(self, t):
        return trees.map(lambda x: x[t], self.xs)

    # ---- what scan relies on --------------------------------------------------------------------------------

    def contract(self):
        """(state, y) come back, the state as it went in."""
        try:
            result = self.cell(trees.map(_tensor, self.state), trees.map(_tensor, self.at(0)))
        except Exception as error:
            self.find(f"it raises {type(error).__name__}", error=said(error))
            return False
        self.checked += 1
        if not isinstance(result, tuple) or len(result) != 2:
            self.find("it does not return (state, y)", returned=f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__)
            return False
        leaves, structure = trees.flatten(self.state)
        new = trees.flatten_like(result[0], structure)
        if new is None:
            self.find("it changes the structure of its state", **{"in": structure, "out": trees.flatten(result[0])[1]})
            return False
        for name, old, leaf in zip(trees.paths(self.state, "state"), leaves, new):
            if np.shape(leaf) != old.shape:
                self.find("it changes the shape of its state", **{name: f"in {old.shape} out {np.shape(leaf)}"})
            elif getattr(leaf, "dtype", old.dtype) != old.dtype:
                self.find("it changes the dtype of its state", **{name: f"in {old.dtype} out {leaf.dtype}"})
        return not self.findings

    def purity(self):
        """The same inputs give the same result, whatever was computed between; nothing is written to."""
        before = [np.array(p._array) for p in self.params]
        state, x = trees.map(np.array, self.state), trees.map(np.array, self.at(0))
        first = _arrays(self.cell(state, x))
        if not _same(trees.flatten((state, x))[0], trees.flatten((self.state, self.at(0)))[0]):
            self.find("it writes to its inputs")
            return
        between = [_arrays(self.cell(self.state, self.at(t))) for t in range(1, self.T)]
        if not _same(first, _arrays(self.cell(self.state, self.at(0)))):
            self.find("equal calls give different results", note="a random draw, or something kept from the call before")
        elif between and not _same(between[0], _arrays(self.cell(self.state, self.at(1)))):
            self.find("equal calls give different results", note="something counts the calls")
        if not _same(before, [p._array for p in self.params]):
            self.find("it writes to its parameters")

    def derivatives(self):
        """Orders 1 to 3 of one step, by parameters, state and input."""
        def step(params, state, x):
            return self.rebuilt(params)(state, x)

        inputs = dict(zip(self.names, [p._array for p in self.params])), self.state, self.at(0)
        single = _is_single(_arrays(inputs))
        report = gradcheck(step, inputs, order=self.order, seed=self.seed, float32=single)
        self.checked += sum(row.entries for row in report.rows)
        for problem in report.problems:
            self.find(problem)
        for row in report.rows:
            if row.verdict == "wrong":
                self.find(f"the derivative of order {row.order} is wrong", **{"with respect to": row.name, "at": row.index, "yours": row.yours,
                                                                              "numerical": row.numerical, "error": small(row.error)})
            elif row.verdict == "cannot tell" and row.order == 1 and row.shape:
                self.notes.append(f"the gradient of {row.name} cannot be told: {row.reason}")

    # ---- over time ------------------------------------------------------------------------------------------

    def gradients(self, state, xs, **options):
        """Outputs of a scan, and the gradients of a weighted sum of them by parameters, state and sequence."""
        rng = np.random.default_rng(self.seed)

        def run(params, state, xs):
            return scan(self.rebuilt(params), state, xs, **options)

        values = dict(zip(self.names, [p._array for p in self.params]))
        y, pullback = vjp(run, values, state, xs)
        g = trees.map(lambda leaf: rng.normal(size=np.shape(leaf)).astype(leaf.dtype), y)
        return _arrays(y), _arrays(pullback(g))

    def loop(self):
        """The compiled scan is the plain loop."""
        plain = self.gradients(self.state, self.xs, compiled=False)
        try:
            compiled = self.gradients(self.state, self.xs)
        except TraceError as error:
            self.notes.append(f"it cannot be compiled, use compiled=False: {said(error)}")
            self.options = {"compiled": False}
            return
        for what, a, b in zip(("values", "gradients"), compiled, plain):
            if not _near(a, b, 1e-4 if _is_single(b) else 1e-9):
                self.find(f"compiled scan and plain loop give different {what}", f"T = {self.T}")

    def short(self):
        """T = 0 returns the state and its gradient; T = 1 is one call."""
        none, one = (trees.map(lambda x, n=n: x[:n], self.xs) for n in (0, 1))
        state, _ = scan(self.cell, self.state, none, **self.options)
        if not _same(_arrays(state), _arrays(self.state)):
            self.find("no steps change the state", "T = 0")
        state, ys = scan(self.cell, self.state, one, **self.options)
        wanted = self.cell(self.state, self.at(0))
        if not _near(_arrays((state, trees.map(lambda y: y[0], ys))), _arrays(wanted), 1e-4 if _is_single(_arrays(wanted)) else 1e-12):
            self.find("a scan of one step differs from one call", "T = 1")

    def rows(self):
        """Rows of a batch do not see each other, and `lengths` is each row cut off by itself, whatever stands in the padding."""
        leaves, moving = trees.flatten(self.state)[0], trees.flatten(self.xs)[0]
        sizes = {leaf.shape[:1] for leaf in leaves} | {x.shape[1:2] for x in moving}
        if len(sizes) != 1 or () in sizes or (0,) in sizes:
            self.notes.append("there is no batch: lengths were not checked")
            return
        B, tolerance = sizes.pop()[0], 1e-4 if _is_single([*leaves, *moving]) else 1e-9
        whole = _arrays(scan(self.cell, self.state, self.xs, compiled=False))
        row = lambda b, T: (trees.map(lambda s: s[b:b + 1], self.state), trees.map(lambda x: x[:T, b:b + 1], self.xs))
        last = _arrays(scan(self.cell, *row(B - 1, self.T), compiled=False)[0])
        if not _near(last, [w[B - 1:] for w in whole[:len(last)]], tolerance):
            self.notes.append("rows of a batch see each other: lengths were not checked")
            return
        lengths = np.array([max(0, self.T - b) for b in range(B)])
        padded = trees.map(lambda x: np.where((np.arange(self.T)[:, None] < lengths).reshape(self.T, B, *(1,) * (x.ndim - 2)), x,
                                              np.nan if x.dtype.kind == "f" else 0).astype(x.dtype), self.xs)
        with np.errstate(all="ignore"):
            values, grads = self.gradients(self.state, padded, lengths=lengths, **self.options)
        if any(not np.all(np.isfinite(grad)) for grad in grads):
            self.find("nan in the padding reaches a gradient", "lengths")
        for b in range(B):
            (state, xs), T = row(b, lengths[b]), lengths[b]
            cut = _arrays(scan(self.cell, state, xs, **self.options)[0])
            if not _near([v[b:b + 1] for v in values[:len(cut)]], cut, tolerance):
                self.find("lengths differs from the row cut off by itself", f"row {b} of length {T}")
                return

    # ---- precision and memory -------------------------------------------------------------------------------

    def single(self):
        """float32 in, float32 out, near the values in double precision."""
        down = lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf
        params = dict(zip(self.names, [down(p._array) for p in self.params]))
        cell = self.rebuilt(trees.map(_tensor, params))
        call = lambda cell: _arrays(cell(trees.map(_tensor, trees.map(down, self.state)), trees.map(_tensor, trees.map(down, self.at(0)))))
        wide = lambda arrays: any(leaf.dtype == np.float64 for leaf in arrays)
        result = call(cell)
        if wide(result) and not _is_single(trees.flatten(self.state)[0]):
            names, lower = lowered(cell)
            if names and not wide(call(lower)):
                self.notes.append(f"it closes over float64 arrays ({', '.join(names)}): single precision becomes double through them")
            else:
                self.find("float32 does not stay float32", "single precision")
        elif not _near(result, _arrays(self.cell(self.state, self.at(0))), 1e-3):
            self.find("single precision gives another value", "single precision")

    def memory(self):
        """Repeated training steps leave nothing behind, without the garbage collector."""
        def step():
            def loss(params, state, xs):
                leaves: list[Any] = trees.flatten(scan(self.rebuilt(params), state, xs, compiled=False))[0]
                return sum((y * y).sum() for y in leaves if y.dtype.kind == "f")

            value_and_grad(loss)(dict(zip(self.names, [p._array for p in self.params])), self.state, self.xs)

        if not self.params:
            return
        running, enabled = tracemalloc.is_tracing(), gc.isenabled()
        gc.collect()
        gc.disable()
        if not running:
            tracemalloc.start()
        try:
            for _ in range(3):
                step()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(8):
                step()
            grown = (tracemalloc.get_traced_memory()[0] - before) / 8
        finally:
            if not running:
                tracemalloc.stop()
            if enabled:
                gc.enable()
        if grown > LEAK:
            self.find("memory grows with every run", "memory", **{"bytes a run": int(grown)})


def _tensor(leaf):
    return Tensor(np.array(leaf)) if np.asarray(leaf).dtype.kind == "f" else leaf


def _arrays(tree):
    return [leaf._array if isinstance(leaf, Tensor) else np.asarray(leaf) for leaf in trees.flatten(tree)[0]]


def _same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind == "f") for x, y in zip(a, b))


def _near(a, b, tolerance):
    return len(a) == len(b) and all(x.shape == y.shape and np.allclose(x, y, rtol=tolerance, atol=tolerance * max(1.0, np.max(np.abs(y), initial=0.0)))
                                    for x, y in zip(a, b))


def _is_single(arrays):
    return any(a.dtype == np.float32 for a in arrays)
