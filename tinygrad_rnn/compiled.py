"""compiled: a whole function, a loss with its gradients say, as one piece of NumPy source without graph and Tensors.

Knows how to trace a function of trees, and when what was written of it may serve again: at every call your function runs on
stand-ins, at less than a microsecond an op, to see that it does what it did. So nothing that it closes over goes stale.
Refuses to know rules (a transform says which calls a gradient is), and how calls, and the loops of scans among them, are
written down (`straight`). Below it: straight, following, walk, program, tensor, trees.
"""

import copy
import functools
from operator import attrgetter
from typing import Any

import numpy as np

from . import trees
from .errors import ArgumentError, message
from .following import Recorded
from .program import Program, Tracer, code_of, literals_of, name_of
from .straight import Straight, once, shorter
from .tensor import Tensor, mode, switched
from .walk import is_tracked

_MOST_PROGRAMS = 64  # of one function


def compiled(f) -> Any:
    """`f`, run as NumPy source that is written when it is first called; meant for `value_and_grad` and `grad` of a loss.

    `compiled(value_and_grad(loss))` gives what `value_and_grad(loss)` gives, as plain arrays. It saves what the graph costs: a
    hundred microseconds or two a call, which counts where a step is small. `.source(*args)` is the text that runs for
    these arguments: the whole step, with the loops of its scans written out for their number of steps, forward and backward (a
    loop that is called in several places is called by name).

    f may close over anything, also over what changes from call to call (weights, random masks, numbers), but it must not
    look at values: it runs on stand-ins without values, once a call, and again when it does not do what it did before.
    Where an argument, or something that f closes over, is tracked (by an outer transform, or as a leaf outside `no_grad()`),
    where an argument is empty and where a recorder watches, f itself runs.

    Raises: TraceError for a function that looks at a value (`if loss > 1`, `float(loss)`); ArgumentError when `.source` is asked
    where f itself would run.

    Example:
        >>> step = tg.compiled(tg.value_and_grad(lambda w, x: tg.sum(tg.tanh(w * x))))
        >>> value, slope = step(np.array(0.5), np.array([0.0, 1.0]))
        >>> round(float(value), 6), round(float(slope), 6)
        (0.462117, 0.786448)
    """
    known, texts, tracked = {}, {}, set()  # `tracked`: the keys of calls that closed over something tracked when last seen

    def found(args, options):
        """(the arguments, the program for them, what goes into it); no program where f itself must run."""
        now, given = mode.get(), _Given(f, args, options)
        if now.recorder is not None or now.grad and (given.tracked or given.key in tracked):
            return given, None, ()
        last = known.get(given.key)
        if last is None and 0 in [array.size for array in given.arrays]:
            return given, None, ()
        closed = None if last is None else last.recorded.repeated(given.again(last.structure_of))
        if closed is None:
            traced = _Traced(given)
            last, closed = texts.get(traced.key), traced.closed()
            if len(texts) >= _MOST_PROGRAMS:
                known.clear()
                texts.clear()
                tracked.clear()
            if last is None:
                last = texts[traced.key] = _Written(f, given, traced)
            known[given.key] = last
        if not closed:
            return given, last, given.arrays
        if now.grad and any(map(is_tracked, closed)):
            tracked.add(given.key)
            return given, None, ()
        return given, last, [*given.arrays, *[x._array if type(x) is Tensor else x for x in closed]]

    @functools.wraps(f)
    def run(*args, **options):
        given, written, arrays = found(args, options)
        if written is not None:
            return trees.unflatten(written.tree(given), written.run(*arrays))
        result = f(*args, **options)
        if given.key in tracked and not any(map(is_tracked, trees.flatten(result)[0])):
            tracked.discard(given.key)  # it may be followed again
        return result

    def source(*args, **options):
        _, written, _ = found(args, options)
        if written is None:
            raise ArgumentError(message("compiled(f).source(*args)",
                                        "something is tracked, an argument is empty, or somebody watches: f itself would run", {},
                                        "Ask within no_grad(), outside of other transforms, with arrays that are not empty."))
        return written.run.source

    run.source = source  # type: ignore[attr-defined]
    return run


class _Given:
    """The arguments of one call: `arrays` go into the program, the other leaves (`places`) into the function as they are.

    A transform such as `grad(loss)` says of itself what it is made of: `_of`, the loss, which is what runs on stand-ins;
    `_chosen`, the numbers of the arguments that it is about; `_again(f)`, the same transform of another function.
    """

    returned: trees.Structure  # of what the function returned

    def __init__(self, f, args, options):
        self.of, self.count, self.options = getattr(f, "_of", f), len(args), options
        self.tracked, self.arrays, self.places, self.structures = False, [], [], []
        key = [code_of(self.of), *options]
        for i, arg in enumerate((*args, *options.values()) if options else args):
            leaves, structure = trees.flatten(arg)
            self.structures.append(structure)
            key.append(structure)
            if not _ARRAYS.issuperset(map(type, leaves)):
                leaves = self._sorted(leaves, i in _chosen(f, len(args)), key)
            else:
                self.places += [_ARRAY] * len(leaves)
            self.arrays += leaves
            key += map(_FORM, leaves)
        self.key = tuple(key)

    def _sorted(self, leaves, chosen, key):
        """The arrays among the leaves of an argument; the key tells where they stand, and between what."""
        arrays = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                self.tracked |= leaf._node is not None
                arrays.append(leaf._array)
            elif isinstance(leaf, np.ndarray) or chosen and isinstance(leaf, (float, np.floating)):
                arrays.append(np.asarray(leaf))
            else:
                self.places.append(leaf)
                key.append(type(leaf))
                continue
            self.places.append(_ARRAY)
            key.append(_ARRAY)
        return arrays

    def modules(self):
        """The modules among the arguments and in what the function returned."""
        return [module for structure in (*self.structures, self.returned) for module in trees.modules(structure)]

    def call(self, f, tensors):
        """What f returns when Tensors stand in the places of the arrays."""
        leaves = tensors
        if len(self.places) > len(self.arrays):
            tensors = iter(tensors)
            leaves = [next(tensors) if place is _ARRAY else place for place in self.places]
        every, start = [], 0
        for structure in self.structures:
            every.append(trees.unflatten(structure, leaves[start:start + structure.count]))
            start += structure.count
        return f(*every[:self.count], **dict(zip(self.options, every[self.count:]))) if self.options else f(*every)

    def again(self, structure):
        """The leaves that the function returns, as a function of the Tensors; None if they stand in another tree."""
        def function(tensors):
            leaves, self.returned = trees.flatten(self.call(self.of, tensors))
            return leaves if self.returned is structure or self.returned == structure else None

        return function


def _chosen(f, count):
    """The numbers of the arguments that a transform is about."""
    return [i % max(count, 1) for i in getattr(f, "_chosen", ())]


_ARRAYS, _FORM = {np.ndarray}, attrgetter("shape", "dtype")
_ARRAY = object()  # stands among the leaves of the arguments for an array


class _Traced:
    """The calls of one run of the function, its results, and a key that says when two runs are the same."""

    def __init__(self, given):
        self.tracer = tracer = Tracer(name_of(given.of), literals_of(given.of))
        inputs = [tracer.input(array) for array in given.arrays]
        self.inputs = [value for value, _ in inputs]
        try:
            with switched(grad=False, recorder=tracer):
                result = given.call(given.of, [tensor for _, tensor in inputs])
        finally:
            tracer.mark.live = False
        leaves, self.structure = trees.flatten(result)
        given.returned = self.structure
        self.outs = [tracer.value(leaf) for leaf in leaves]
        self.key = (given.key, self.structure, tuple(tracer.key), tuple([(v.number, v.shape, v.dtype) for v, _ in tracer.closed]),
                    tuple([v.number for v in self.outs]))

    def closed(self):
        """What the function closed over, as it was when it was used: a Tensor if it is tracked, else an array."""
        return [obj if type(obj) is Tensor and obj._node is not None else self.tracer.array(value)
                for value, obj in self.tracer.closed]


class _Written:
    """A function as it was traced, transformed and written down: `run(*arrays)` gives the leaves of `structure`."""

    def __init__(self, f, given, traced):
        self.recorded, self.structure_of = Recorded(traced.tracer, traced.inputs, traced.outs), traced.structure
        places = {id(module): _Place(k) for k, module in enumerate(given.modules())}
        empty = copy.copy(given)
        empty.structures = [trees.with_modules(structure, places) for structure in given.structures]
        returned = trees.with_modules(traced.structure, places)
        closed = [value for value, _ in traced.tracer.closed]
        body = Program([*traced.inputs, *closed], traced.tracer.calls, traced.outs)
        again = getattr(f, "_again", lambda of: of)
        tracer = Tracer(traced.tracer.name)
        inputs = [tracer.input(v.like_ones(), v.name) for v in body.inputs]
        tensors = [tensor for _, tensor in inputs]
        n = len(given.arrays)

        def replayed(*args, **options):
            leaves = [leaf for arg in (*args, *options.values()) for leaf in trees.flatten(arg)[0]]
            arrays = [leaf for leaf, place in zip(leaves, given.places) if place is _ARRAY]
            return trees.unflatten(returned, body.run([*arrays, *tensors[n:]]))

        with switched(grad=False, recorder=tracer), np.errstate(all="ignore"):
            leaves, self.structure = trees.flatten(empty.call(again(replayed), tensors[:n]))
        outs = [tracer.value(leaf) for leaf in leaves]
        same = {value: getattr(obj, "_array", obj) for value, obj in tracer.closed}  # arrays that rules made
        calls = once(tracer.calls, same)
        program = Program([value for value, _ in inputs], calls, [same.get(v, v) for v in outs])
        self.run = Straight(shorter(program)).compile()
        self.places = trees.modules(self.structure)

    def tree(self, given):
        """What the results stand in: modules are those of this call, with what they hold besides arrays."""
        if not self.places:
            return self.structure
        now = given.modules()
        return trees.with_modules(self.structure, {id(place): now[place.number] for place in self.places})


class _Place:
    """Stands in a tree for a module: the one that is this far among those that went in and came out."""

    def __init__(self, number, children=None):
        self.number, self.children = number, children

    def tree_children(self):
        return self.children

    def tree_replace(self, children):
        return _Place(self.number, children)
