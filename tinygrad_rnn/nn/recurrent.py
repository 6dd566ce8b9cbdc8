"""Recurrent: any cell, or a stack of cells, run over a sequence.

Knows layers, directions, lengths, batch_first, and the three kinds of noise in time. Refuses to know what a cell
computes: it is called as `cell(state, x) -> (state, y)` by `scan`, and asked for `initial_state(batch)` when no
state is given. Below it: scan, ops, trees, module, functional.

Masks of noise are drawn before the loop, from the module's own generator, and are inputs of the loop: the
backward, a checkpointed segment and a compiled loop all read the mask that the forward read.
"""

import warnings

import numpy as np

from .. import trees
from ..errors import ArgumentError, ShapeError, message
from ..ops import concatenate, swapaxes, where
from ..scan import scan
from ..tensor import Tensor
from . import init
from .functional import dropout_mask
from .module import Module, check_probability


class Recurrent(Module):
    """Cells over a sequence: `ys, state = layer(xs)`, with each cell's outputs the next one's inputs.

    `cells`              one cell, or a list; with `bidirectional` two for each layer, forward and backward in turn.
    `bidirectional`      the second cell of each layer runs from the end; the two outputs are joined along the last
                         axis.
    `batch_first`        xs and ys are (B, T, …) and not (T, B, …).
    `dropout`            in training, zeroes elements of what goes from one layer to the next, as in PyTorch.
    `variational`        that mask is one for all steps of a sequence.
    `recurrent_dropout`  in training, one mask per sequence on the first part of the state (h) as the cell reads it.
    `zoneout`            in training, each element of the state keeps its last value with this probability; after
                         `eval()` it moves by the expected part of its step.
    `return_state`       False returns ys alone.
    `rng`                a generator or seed for the masks.

    Called as `layer(xs, state=None, *, lengths=None, **options)`: `lengths` (B,) as in `scan`, which also takes the
    options (`truncate`, `checkpoint`, `compiled`). State in and out is the cell's own for one cell, a list for a list.

    Shapes: xs (T, B, I) or (T, I), ys (T, B, O) or (T, O); trees where the cell has them. An array of two axes is
    always (T, I): only longer ones are turned by `batch_first`.

    Raises: ArgumentError for an odd number of cells with `bidirectional`, or a cell that has no initial state when none
    is given; ShapeError for layers whose sizes do not chain; what `scan` and the cells raise.

    Gradient: that of the loop at every order, also to the state.

    Source: Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks" (2016);
    Krueger et al., "Zoneout" (2016).

    Example:
        >>> layer = tg.nn.Recurrent([tg.nn.GRUCell(3, 5, rng=0), tg.nn.LSTMCell(5, 4, rng=1)])
        >>> ys, (h, (h2, c2)) = layer(np.zeros((6, 2, 3)))
        >>> ys.shape
        (6, 2, 4)
    """

    shown = ("bidirectional=False", "batch_first=False", "dropout=0.0", "variational=False", "recurrent_dropout=0.0",
             "zoneout=0.0")

    def __init__(self, cells, *, bidirectional=False, batch_first=False, dropout=0.0, variational=False,
                 recurrent_dropout=0.0, zoneout=0.0, return_state=True, rng=None):
        who = f"{type(self).__name__}(…)"
        check_probability(who, dropout=dropout, recurrent_dropout=recurrent_dropout, zoneout=zoneout)
        self.cells, self.single = (list(cells), False) if isinstance(cells, (list, tuple)) else ([cells], True)
        self.directions = 2 if bidirectional else 1
        if not self.cells or len(self.cells) % self.directions:
            raise ArgumentError(message(who, "the cells do not make whole layers",
                                        {"cells": len(self.cells), "per layer": self.directions},
                                        "Pass one cell per layer and direction: [forward, backward, …] with "
                                        "bidirectional."))
        _check_chain(who, self.cells, self.directions)
        self.num_layers = len(self.cells) // self.directions
        if dropout and self.num_layers == 1:
            warnings.warn(f"{who}: dropout={dropout} acts between layers, and there is only one", stacklevel=3)
        self.bidirectional, self.batch_first = bool(bidirectional), bool(batch_first)
        self.dropout, self.variational = dropout, bool(variational)
        self.recurrent_dropout, self.zoneout = recurrent_dropout, zoneout
        self.return_state = bool(return_state)
        self.rng = init.generator(rng)

    def __call__(self, xs, state=None, *, lengths=None, **options):
        ys, states = self.run(xs, state if state is None or not self.single else [state], lengths, options)
        return (ys, states[0] if self.single else states) if self.return_state else ys

    def run(self, xs, states, lengths, options):
        """The sequence through all layers: `(ys, states)`, a state for each cell."""
        xs = trees.map(self._time_first, xs)
        if states is None:
            states = [self._initial_state(cell, xs) for cell in self.cells]
        elif len(states) != len(self.cells):
            raise ArgumentError(message(f"{type(self).__name__}(xs, state)",
                                        "the number of states is not that of the cells",
                                        {"states": len(states), "cells": len(self.cells)},
                                        "Pass a list with one state per cell."))
        last = []
        for first in range(0, len(self.cells), self.directions):
            if first and self.training and self.dropout:
                xs = trees.map(self._dropped, xs)
            ys = []
            for i in range(first, first + self.directions):
                cell, sequences = self._noisy(self.cells[i], states[i], xs)
                end, y = scan(cell, states[i], sequences, reverse=i > first, lengths=lengths, **options)
                last.append(end)
                ys.append(y)
            xs = ys[0] if len(ys) == 1 else trees.map(lambda a, b: concatenate([a, b], -1), *ys)
        return trees.map(self._time_first, xs), last

    def _time_first(self, x):
        x = x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x)
        return swapaxes(x, 0, 1) if self.batch_first and x.ndim > 2 else x

    def _initial_state(self, cell, xs):
        if not hasattr(cell, "initial_state"):
            raise ArgumentError(message(f"{type(self).__name__}(xs)", "the cell does not say its initial state",
                                        {"cell": getattr(cell, "__name__", type(cell).__name__)},
                                        "Pass state=, or give the cell a method initial_state(batch)."))
        return cell.initial_state(trees.flatten(xs)[0][0].shape[1:-1])

    # ---- noise ----------------------------------------------------------------------------------------------

    def _dropped(self, x):
        return x * dropout_mask(self.rng, (1, *x.shape[1:]) if self.variational else x.shape, self.dropout, x.dtype)

    def _noisy(self, cell, state, xs):
        """The cell with recurrent dropout and zoneout around it, and the sequences that it then reads."""
        inner, p = cell, self.zoneout
        if self.training and self.recurrent_dropout:
            mask = trees.flatten(state)[0][0]
            mask = dropout_mask(self.rng, np.shape(mask), self.recurrent_dropout, mask.dtype)
            inner = lambda state, x: cell(_first_times(state, mask), x)
        if not p:
            return inner, xs
        if not self.training:
            return lambda state, x: _zoned(state, inner(state, x), lambda old, new: old + (1 - p) * (new - old)), xs
        T = trees.flatten(xs)[0][0].shape[0]
        keep = [self.rng.random((T, *leaf.shape)) < p for leaf in trees.flatten(state)[0]]

        def zoned(state, x_and_keep):
            x, keep = x_and_keep
            masks = iter(keep)
            return _zoned(state, inner(state, x), lambda old, new: where(next(masks), old, new))

        return zoned, (xs, keep)


def _first_times(state, mask):
    leaves, structure = trees.flatten(state)
    return trees.unflatten(structure, [leaves[0] * mask, *leaves[1:]])


def _zoned(state, result, mix):
    """A cell's result with `mix(old, new)` for its state; an output that is a part of the state stays that part."""
    new, y = result
    mixed = {}

    def one(old, new):
        mixed[id(new)] = mix(old, new) if old.dtype.kind == "f" else new
        return mixed[id(new)]

    return trees.map(one, state, new), trees.map(lambda leaf: mixed.get(id(leaf), leaf), y)


def _check_chain(who, cells, directions):
    """Each layer's cells take as many columns as the layer before gives."""
    width = None
    for first in range(0, len(cells), directions):
        layer = cells[first:first + directions]
        for i, cell in enumerate(layer, first):
            size = getattr(cell, "input_size", None)
            if width is not None and size is not None and size != width:
                raise ShapeError(message(who, f"cell {i} does not take what the layer before it gives",
                                         {f"cells[{i}].input_size": size, "columns given": width},
                                         f"Make the cell with input_size={width}."))
        sizes = [cell.output_size for cell in layer if hasattr(cell, "output_size")]
        width = sum(sizes) if len(sizes) == directions else None
