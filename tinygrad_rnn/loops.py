"""Loops: a Program run T times, as generated NumPy source.

Knows which calls of a loop's body can leave the loop and how: every call is sorted into

    once      depends on what does not change from step to step      computed once
    before    depends on the inputs, not on the state                computed for all T at once
    loop      on the way from a state to the next one                one NumPy call per step, into a buffer
    after     depends on the state and never returns to it           computed for all T at once

Refuses to know gradients: a backward pass is a loop like any other. Below it: emit, schedule, joins, rewrite, means,
program, tensor.

A loop has three kinds of result: the last states, stacked outputs, and sums over time (weight gradients). A sum of
products over time is one product over all T·B rows.
"""

import numpy as np

from .emit import Source
from .joins import without_joins
from .means import without_means
from .program import Value
from .rewrite import rewritten
from .schedule import Schedule
from .tensor import switched

__all__ = ["Loop", "Schedule", "Source"]


class Loop:
    """A body and how it is wired: `inputs = states + xs + consts`, `outputs = states + ys + sums`."""

    def __init__(self, body, n_states, n_xs, n_ys, reverse=False):
        self.body, self.n_states, self.n_xs, self.n_ys, self.reverse = body, n_states, n_xs, n_ys, reverse
        self.derived = {}  # what `derive` has made of this loop
        self.augmented = False  # whether its results enter a graph, where nobody can write to them
        self.roots = set()  # inputs of the body that are square roots, as far as anybody knows
        self.shorter = self  # the loop without the outputs that it was augmented with
        self._runs, self._block = {}, 0  # whether all steps fit a block -> function; how many do

    states = property(lambda self: self.body.inputs[:self.n_states])
    xs = property(lambda self: self.body.inputs[self.n_states:self.n_states + self.n_xs])
    consts = property(lambda self: self.body.inputs[self.n_states + self.n_xs:])
    next_states = property(lambda self: self.body.outputs[:self.n_states])
    ys = property(lambda self: self.body.outputs[self.n_states:self.n_states + self.n_ys])
    addends = property(lambda self: self.body.outputs[self.n_states + self.n_ys:])

    def __repr__(self):
        return f"loop({self.n_states} states, {self.n_xs} xs, {len(self.consts)} consts, {len(self.body.calls)} calls{', reversed' * self.reverse})"

    def run(self, T, arrays):
        """The results of T steps: last states, stacked ys, sums."""
        return (self._runs.get(T <= self._block) or self.function(T))(T, *arrays)

    def like(self, T):
        """Arrays of the shapes and dtypes of the results of T steps that take no memory."""
        outs = [v if isinstance(v, Value) else Value(np.shape(v), np.asarray(v).dtype) for v in self.body.outputs]
        ys = range(self.n_states, self.n_states + self.n_ys)
        return tuple([np.broadcast_to(v.like_ones(), (T, *v.shape)) if i in ys else v.like_ones() for i, v in enumerate(outs)])

    def function(self, T):
        """The generated function `(T, *arrays) -> results`; one that knows no blocks where T steps fit one."""
        if T <= self._block and True in self._runs or T > self._block > 0 and False in self._runs:
            return self._runs[T <= self._block]
        with switched(grad=False, recorder=None):  # whoever runs a loop may be tracing
            source = Source(self.faster(), T=T)
            self._block = source.block_size
            return self._runs.setdefault(T <= self._block, source.compile())

    def name(self, T):
        """Under which the loop is called from another, as for a scan inside a cell."""
        self.function(T)
        return f"loop_{id(self)}{'_in_blocks' * (T > self._block)}"

    def faster(self):
        """The same loop with a body that makes fewer calls."""
        body = without_means(self.body, self.consts)
        shown = body.outputs[:self.n_states + self.shorter.n_ys]
        body = without_joins(rewritten(body, self.states, self.consts, shown, self.roots), self.n_states)
        loop = Loop(body, self.n_states, self.n_xs, self.n_ys, self.reverse)
        loop.augmented = self.augmented
        return loop
