"""Equal bodies in which what is joined once is not joined again.

Knows concatenations that begin with the same parts as another one, as the cotangents of gates do whose pre-activations
differ in one gate. Where a loop makes the one anyway, the other is read in two pieces, a slice of the first and the rest:

    [a b] W = a W₁ + b W₂        Xᵀ [a b] = [Xᵀ a  Xᵀ b]        Σ [a b] = [Σa  Σb]

Refuses to touch what is needed in one piece. Below it: program, ops, primitive.
"""

from .ops import add, getitem, matmul
from .primitive import registry
from .program import Call, Program, Value

_concatenate, _sum = registry["concatenate"], registry["sum"]


def without_joins(body, n_states):
    """A Program with the results of `body`, of which the first are the next states."""
    wanted, inside = {v for v in body.outputs[:n_states] if isinstance(v, Value)}, set()
    for call in reversed(body.calls):
        if not wanted.isdisjoint(call.outs):
            inside.add(call)
            wanted.update(call.inputs)
    first, later = [c for c in body.calls if c in inside], [c for c in body.calls if c not in inside]
    wholes, changed, known = [c for c in first if _joins(c)], [], set()  # `known`: readers of what is changed, of one each
    for call in later:
        found = [(k, whole) for whole in wholes if _joins(call) and (k := _shared(call, whole))]
        readers = [c for c in later if call.outs[0] in c.inputs]
        if found and call.outs[0] not in body.outputs and known.isdisjoint(readers) and all(map(_reads_pieces, readers)):
            changed.append((call, *max(found, key=lambda entry: entry[0]), readers))
            known.update(readers)
    for join, k, whole, readers in changed:
        head, tail, made = _pieces(join, k, whole)
        at = later.index(join)
        later[at:at + 1] = made
        for reader in readers:
            at = later.index(reader)
            later[at:at + 1] = _in_pieces(reader, join.outs[0], head, tail)
    return Program(body.inputs, [*first, *later], body.outputs) if changed else body


def _joins(call):
    """Whether a call joins columns."""
    return call.op is _concatenate and len(call.outs[0].shape) == 2 and call.statics["axis"] % 2 == 1 and len(call.inputs) == len(call.args)


def _shared(call, whole):
    """How many parts both begin with; 0 unless they are the larger part of both."""
    k = 0
    while k < min(len(call.args), len(whole.args)) - 1 and call.args[k] is whole.args[k]:
        k += 1
    return k if 2 * sum(part.shape[1] for part in call.args[:k]) >= call.outs[0].shape[1] else 0


def _reads_pieces(reader):
    """Whether a call can read what it reads in two pieces: a product of two matrices, or a sum over rows."""
    if reader.op is matmul:
        a, b = reader.args
        return isinstance(a, Value) and isinstance(b, Value) and len(a.shape) == len(b.shape) == 2 and a is not b
    return reader.op is _sum and reader.statics["axis"] in (0, (0,), -2, (-2,))


def _pieces(join, k, whole):
    """(the first k parts as a slice of the other concatenation, the rest, the calls that make them)."""
    rows, width = join.outs[0].shape[0], sum(part.shape[1] for part in join.args[:k])
    head = Value((rows, width), join.outs[0].dtype)
    made, tail = [Call(getitem, (whole.outs[0],), {"index": (Ellipsis, slice(0, width))}, (head,))], join.args[k]
    if len(join.args) - k > 1:
        tail = Value((rows, join.outs[0].shape[1] - width), head.dtype)
        made.append(Call(_concatenate, join.args[k:], {"axis": -1}, (tail,)))
    return head, tail, made


def _in_pieces(reader, join, head, tail):
    """The calls that give what the reader of a concatenation gave."""
    (out,), width, calls = reader.outs, head.shape[1], []

    def made(op, shape, *args, **statics):
        value = Value(shape, out.dtype)
        calls.append(Call(op, args, statics, (value,)))
        return value

    if reader.op is matmul and reader.args[0] is join:
        weight, shape = reader.args[1], reader.args[1].shape
        above = made(getitem, (width, shape[1]), weight, index=(slice(0, width),))
        below = made(getitem, (shape[0] - width, shape[1]), weight, index=(slice(width, None),))
        parts = made(matmul, out.shape, head, above), made(matmul, out.shape, tail, below)
        return [*calls, Call(add, parts, {}, (out,))]
    if reader.op is matmul:
        parts = [made(matmul, (out.shape[0], piece.shape[1]), reader.args[0], piece) for piece in (head, tail)]
    else:
        parts = [made(reader.op, (*out.shape[:-1], piece.shape[1]), piece, **reader.statics) for piece in (head, tail)]
    return [*calls, Call(_concatenate, tuple(parts), {"axis": -1}, (out,))]
