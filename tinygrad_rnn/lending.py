"""Lending: stacks of results that are kept where something lies that a loop reads for the last time.

Knows, of buffers that nobody reads after the loop, whether every read of a step's entry comes before the step writes there;
what the step still reads later is copied block by block. So cotangents overwrite what the forward pass kept for them, as
they do where backpropagation is written by hand. Refuses to know what the buffers are called. Below it: buffers, program, schedule.
"""

from .buffers import has_out
from .program import Value
from .schedule import SAMPLE


class Owned:
    """A buffer that a loop may overwrite: so many entries of a dtype a step, and the sequences of the loop that lie in it."""

    def __init__(self, name, dtype, size, sequences):
        self.name, self.dtype, self.size, self.sequences = name, dtype, size, sequences


def lent(source, owned):
    """({stack: buffer it may lie in}, [sequences to be copied block by block]) for the stacks that a loop's source makes."""
    s, order = source.s, [*source.early, *source.s.inside, *source.late]
    at = {call: k for k, call in enumerate(order)}
    makers = {v: call for call in order for v in call.outs}
    later = [c for c in source.whole if c not in source.sooner] + [c for c in s.after if c in s.summing and c not in at]
    read = {a for c in later for a in c.inputs} | {v for v in (*source.loop.next_states, *s.outputs, *s.sums) if isinstance(v, Value)}
    aliases = {x: _aliases(x, s, [*source.sooner, *order, *later]) for buffer in owned for x in buffer.sequences}
    free = [buffer for buffer in owned if all(read.isdisjoint(aliases[x]) for x in buffer.sequences)]
    places, copied = {}, []
    for value, size, first in sorted(_stacks(source, at, makers), key=lambda entry: -entry[1]):
        for buffer in [b for b in free if b.size == size and b.dtype == value.dtype]:
            late = [x for x in buffer.sequences if any(k >= first and not aliases[x].isdisjoint(c.inputs) for c, k in at.items())]
            if sum(x.size for x in late) <= size:
                places[value] = buffer
                copied += late
                free.remove(buffer)
                break
    return places, copied


def _stacks(source, at, makers):
    """(stack, its entries a step, when the first of them is written) for what is kept of all steps."""
    s, found = source.s, []
    for v in s.stored:
        if v not in source.passing and v not in source.parts and v not in source.owner and (s.stacked[v], "") not in source.names:
            parts = [part for part, _, _ in source.joined.get(v, ()) if isinstance(part, Value) and part in makers]
            found.append((v, v.size, min(at[makers[p]] for p in (v, *parts))))
    for call in (*source.early, *source.late):
        out = call.outs[0]
        if (source.at_once or out in source.full) and has_out(call) and call not in source.tallies:
            found.append((out, out.size // SAMPLE, at[call]))
    return found


def _aliases(x, s, calls):
    """The values that are x, or views of it: stacks, and those of one step that are read from them."""
    found = {x, s.stacked[x]}
    for call in calls:
        if call.op.view and not found.isdisjoint(call.inputs):
            found.update(call.outs)
    return found | {v for v, stacked in s.stacked.items() if stacked in found}
