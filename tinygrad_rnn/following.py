"""Following: a function that was traced before is run again, and checked to do what it did, without computing.

Knows what a trace is remembered by, what stands for its values meanwhile, and when a run departs from it. Refuses to know
what is done with what was found: `scan` and `compiled` do. Below it: program, tensor.
"""

from operator import is_
from sys import getrefcount
from typing import Any

import numpy as np

from .program import Mark, Value, frozen
from .tensor import Mode, Tensor, mode


class Departed(BaseException):
    """A run does not make the calls that it was expected to make. (Not an Exception: a cell must not catch it.)"""


class Same:
    """A place where a run has what the known trace had: a number, or the Tensor that stands for a value."""

    __slots__ = ("obj",)

    def __init__(self, obj):
        self.obj = obj

    def meet(self, arg):
        """Check an object that is not `obj` itself."""
        known = self.obj
        if type(known) is Tensor:
            same = type(arg) is Tensor and arg._array is known._array and not mode.get().grad
        else:
            arg = arg.item() if isinstance(arg, np.generic) else arg
            same = type(arg) is type(known) and frozen(arg) == frozen(known)
        if not same:
            raise Departed


class Closed:
    """A place of what the function closes over; `value` is what a run has met here, as an array or Tensor.

    It must look as it did in the known trace, and be a number where that had one. `obj` is what the next use needs not be
    compared with `array`: not a Tensor whose array may be replaced. `own` are the ids of the arrays that exist only in the trace.
    """

    __slots__ = ("obj", "value", "array", "shape", "dtype", "number", "own")

    def __init__(self, value, number, own):
        self.shape, self.dtype, self.number, self.own = value.shape, value.dtype, number, own
        self.obj = self.value = self.array = None

    def meet(self, arg):
        """Take what stands here, or check that it is what stood here before; it is not `obj` itself."""
        if self.number:
            arg = arg.item() if isinstance(arg, np.generic) else arg
            if type(arg) is not float or self.value is not None and frozen(arg) != frozen(self.obj):
                raise Departed
            self.obj, self.value = arg, np.asarray(arg, self.dtype)  # its dtype follows from what stands beside it
            return
        mark = node = None
        if type(arg) is Tensor:
            array, mark, node = arg._array, arg._trace, arg._node
        else:
            array = np.asarray(arg) if isinstance(arg, np.ndarray) else None
        if self.value is not None:
            if array is not self.array:
                raise Departed
            return
        if array is None or array.shape != self.shape or array.dtype != self.dtype or id(array) in self.own:
            raise Departed
        if mark is not None and not mark.live or node is not None and mode.get().grad:
            raise Departed
        self.array, self.value = array, arg if type(arg) is Tensor else array
        self.obj = arg if type(arg) is not Tensor or mark is not None else _CHANGES


_CONSTANT = {int, float, bool, str, type(None)}
_CHANGES = object()  # stands for what its identity says nothing of


class Step:
    """A call that a run is expected to make, and the stand-ins that it is answered with."""

    __slots__ = ("op", "args", "statics", "plain", "fixed", "frozen", "result", "next", "inner", "note")

    def __init__(self, op, args, statics, result):
        self.op, self.args, self.result = op, args, result
        self.plain = op is not None and statics is op.defaults
        self.statics = statics if self.plain and op.exact else None  # of a call that needs no further look
        self.fixed = [s if not isinstance(s, (tuple, list)) or type(s) is tuple and _CONSTANT.issuperset(map(type, s)) else _CHANGES
                      for s in statics.values()]
        self.frozen = [frozen(s) for s in statics.values()]
        self.next: Any = None
        self.inner: Any = None  # the mode of the follower of a function that makes this call
        self.note: Any = None  # of whoever makes this call

    def fits(self, args, statics):
        """Whether so many arguments and these statics are the known ones; to give none is another thing than to give the defaults."""
        if len(args) != len(self.args) or (statics is self.op.defaults) != self.plain:
            return False
        return all(map(is_, statics.values(), self.fixed)) or [frozen(s) for s in statics.values()] == self.frozen


_END = Step(None, (), {}, None)


class Follower:
    """A recorder for a function that was traced before: it checks that the calls are the known ones, and computes nothing.

    Nobody may look at a traced value, so the Tensors that stand for them are made once, and serve in the next run too,
    unless somebody has kept one: that one must stay known as a value of a trace that is over. An argument is the expected
    one if it is the same object: only what a run closes over has to be looked at.

    A function that `outer` calls to make its call `step` closes over what that one knows, the arguments after the inputs.
    """

    tracing = True

    def __init__(self, known, outer=None, step=None):
        self.name, self.mark, self.own = known.name, Mark(known.name), set() if outer is None else outer.own
        lent = [None] * len(known.closing) if step is None else step.args[len(known.inputs):]
        places = [place if place and not number else Closed(value, number, self.own) for place, (value, number) in zip(lent, known.closing)]
        self.closing = [place for place, other in zip(places, lent) if place is not other]
        self.numbers = [other for place, other in zip(places, lent) if place is not other]  # come to `outer` as arrays
        self.lent = [place for place in lent if type(place) is Closed]
        self._inner = []  # the modes of followers of what makes a step of this one
        self._make(known, places)
        self._holders = self._counted()

    def _make(self, known, closed):
        """The steps, and stand-ins for the known values; `closed` are the places of what is closed over."""
        self.inputs = [self._stand_in(value) for value in known.inputs]
        places: dict[Value, Any] = dict(zip(known.inputs, map(Same, self.inputs)))
        places.update(zip([value for value, _ in known.closing], closed))
        self._steps = []
        for call, several in zip(known.calls, known.several):
            outs = tuple([self._stand_in(value) for value in call.outs])
            args = [places[arg] if isinstance(arg, Value) else Same(arg) for arg in call.args]
            self._steps.append(Step(call.op, args, call.statics, outs if several else outs[0]))
            places.update(zip(call.outs, map(Same, outs)))
        results = [step.result for step in self._steps]
        self._steps.append(_END)
        for step, after in zip(self._steps, self._steps[1:]):
            step.next = after
        self.outs = [places[value] for value in known.outs]
        self._given = [*self.inputs, *results, *(tensor for y in results if type(y) is tuple for tensor in y)]

    def _stand_in(self, value):
        """A Tensor that looks like the value and takes no memory."""
        tensor = Tensor(value.like_ones())
        tensor._trace = self.mark
        self.own.add(id(tensor._array))
        return tensor

    def _counted(self):
        """How many references there are to what was given out."""
        return sum(map(getrefcount, self._given))

    def kept(self):
        """Whether somebody still holds what was given out in the last run."""
        return self._counted() != self._holders or any([inner.recorder.kept() for inner in self._inner])

    def holds(self, array):
        """Whether the array exists only inside this trace."""
        return id(array) in self.own

    def meet(self, tensor):
        """As a `Tracer` does: a transform begins, whose calls are not followed."""
        raise Departed

    # ---- a run --------------------------------------------------------------------------------------------------

    def record(self, op, args, statics):
        """Check the call, and answer with what stands for its result."""
        step = self.step
        if op is not step.op:
            raise Departed
        for arg, known in zip(args, step.args):
            if arg is not known.obj:
                known.meet(arg)
        if statics is not step.statics and not step.fits(args, statics):
            raise Departed
        self.step = step.next
        return step.result

    def ahead(self, op, args):
        """The next step, if it is a call of `op`, which must begin with `args`; None if it is another."""
        step = self.step
        if step.op is not op:
            return None
        for arg, known in zip(args, step.args):
            if arg is not known.obj:
                known.meet(arg)
        return step

    def made(self, step, known, function):
        """Run `function`, which is `known` to make the step ahead; what it closes over, as far as that is not of this trace."""
        if step.inner is None:
            step.inner = Mode(False, Follower(known, self, step))
            self._inner.append(step.inner)
        inner = step.inner.recorder
        closed = inner.run(step.inner, function)
        if closed is None:
            raise Departed
        for place, array in zip(inner.numbers, closed):
            place.meet(array)
        return [place.value for place in inner.lent]

    def passed(self, step):
        """The results of the step ahead, which has been made."""
        self.step = step.next
        return step.result

    def run(self, now, function):
        """What `function` closes over, if in this mode, with this recorder, it makes the known calls; None if it departs.

        It is given Tensors for the inputs, and returns the results, or None to depart.
        """
        self.mark.live, self.step, token = True, self._steps[0], mode.set(now)
        try:
            outs = function(self.inputs)
            if outs is None or self.step is not _END:
                return None
            for out, known in zip(outs, self.outs):
                if out is not known.obj:
                    known.meet(out if isinstance(out, (Tensor, np.ndarray)) else np.asarray(out))
            return self._closed() if self.closing else []
        except Departed:
            return None
        finally:
            mode.reset(token)
            self.mark.live = False
            for place in self.closing:
                place.obj = place.value = place.array = None

    def _closed(self):
        """What was closed over, as it was then; None if something was not met."""
        closed = []
        for place in self.closing:
            value = place.value
            if value is None:
                return None
            closed.append(value if type(value) is not Tensor or value._array is place.array else Tensor(place.array, value._node))
        return closed


class Recorded:
    """What a traced function is remembered by, and what another run of it is compared with."""

    def __init__(self, tracer, inputs, outs):
        self.name, self.inputs, self.outs, self.calls, self.several = tracer.name, inputs, outs, tracer.calls, tracer.several
        numbers = tracer.numbers()
        self.closing = [(value, value in numbers) for value, _ in tracer.closed]
        self._idle = []  # the modes of followers that wait for another run

    def repeated(self, function):
        """What `function` closes over, if it does what it did before; None if it departs from that (see `Follower.run`)."""
        try:
            now = self._idle.pop()
        except IndexError:
            now = None
        if now is None or now.recorder.kept():
            now = Mode(False, Follower(self))
        try:
            return now.recorder.run(now, function)
        finally:
            self._idle.append(now)

