"""Inputs made from the ones a developer tried first: other values, other sizes, other memory layouts.

Knows what a given array looks like (indices, a mask, rows of probabilities, positive numbers) and how to draw more of
the kind; and which axes of several arrays belong together, found out by asking the function itself. Refuses to know
derivatives. Nothing stands below it.

A size may change only where the function takes two different new sizes for it: then the axis is free. Broadcasting
against something fixed could hide behind a size of 1, so 1 and 0 are tried on free axes alone; and arrays whose
shapes agree are never made to broadcast against each other, which a right rule need not allow for.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

VALUES = {
    "random values": lambda rng, shape: rng.normal(size=shape),
    "positive values": lambda rng, shape: rng.uniform(0.1, 3.0, shape),
    "negative values": lambda rng, shape: -rng.uniform(0.1, 3.0, shape),
    "values between 0 and 1": lambda rng, shape: rng.uniform(0.05, 0.95, shape),
    "values up to 10": lambda rng, shape: rng.uniform(-10, 10, shape),
    "values up to 30": lambda rng, shape: rng.uniform(-30, 30, shape),
    "values up to 1e3": lambda rng, shape: rng.uniform(-1e3, 1e3, shape),
    "values up to 1e5": lambda rng, shape: rng.uniform(-1e5, 1e5, shape),
    "positive values up to 1e3": lambda rng, shape: 10.0 ** rng.uniform(-3, 3, shape),
    "values about 1e-3": lambda rng, shape: 1e-3 * rng.normal(size=shape),
    "values about 1e-8": lambda rng, shape: 1e-8 * rng.normal(size=shape),
    "integers": lambda rng, shape: rng.integers(-3, 4, shape).astype(float),
    "positive integers": lambda rng, shape: rng.integers(1, 4, shape).astype(float),
    "some zeros": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.6),
    "all zeros": lambda rng, shape: np.zeros(shape),
    "ties": lambda rng, shape: rng.choice(rng.normal(size=2), shape),
    "all equal": lambda rng, shape: np.full(shape, rng.uniform(0.5, 1.5)),
    "sorted values": lambda rng, shape: np.sort(rng.normal(size=shape), axis=-1) if shape else rng.normal(size=shape),
}
GENTLE = ("as given", "values like those given", "random values", "positive values")  # where a crash has no excuse
SPECIAL = ("the values in another order", "equal inputs", "a mask all true", "a mask all false")  # beside VALUES


@dataclass(frozen=True)
class Case:
    """Arrays to try, and what is particular about them; `gentle` when a right rule must not raise on them, `turned` when a
    size that was the larger of two became the smaller: there a right rule may even give another shape."""

    label: str
    arrays: tuple
    gentle: bool = True
    turned: bool = False


class Kind:
    """What an array looks like, and how to draw another."""

    def __init__(self, array):
        self.array, self.dtype = array, array.dtype
        self.special = self._special()
        if array.dtype.kind == "f" and array.size:
            self.low, self.high = float(np.min(array)), float(np.max(array))

    def _special(self):
        x = self.array
        if x.dtype.kind in "iu":
            return "indices"
        if x.dtype.kind == "b":
            return "mask"
        if x.dtype.kind != "f" or not x.size:
            return "other"
        rows = x.ndim > 0 and x.shape[-1] > 1 and np.all(x >= 0) and np.allclose(x.sum(-1), 1.0, rtol=0, atol=1e-6)
        binary = np.all(np.isin(x, (0.0, 1.0)))
        if rows:
            return "one-hot rows" if binary else "probabilities"
        return "zeros and ones" if binary and 0 < x.sum() < x.size else ""

    @property
    def free(self):
        """Whether any real numbers may stand in its place."""
        return self.special == ""

    def like(self, rng, shape):
        """Another array that looks like the given one."""
        x = self.array
        if self.special == "indices":
            return np.asarray(rng.integers(x.min(), x.max() + 1, shape) if x.size else np.zeros(shape), self.dtype)
        if self.special == "mask":
            return np.asarray(rng.random(shape) < 0.5)
        if self.special and not shape:
            return np.asarray(rng.choice(x.ravel()), self.dtype)
        if self.special == "one-hot rows":
            return (np.arange(shape[-1]) == rng.integers(0, max(shape[-1], 1), (*shape[:-1], 1))).astype(self.dtype)
        if self.special == "probabilities":
            e = np.exp(rng.normal(size=shape))
            return (e / e.sum(-1, keepdims=True)).astype(self.dtype)
        if self.special == "zeros and ones":
            return (rng.random(shape) < 0.5).astype(self.dtype)
        if not x.size:
            return np.asarray(rng.normal(size=shape), self.dtype)
        spread = self.high - self.low or 0.5 * abs(self.high) or 1.0
        drawn = rng.choice(x.ravel(), shape) + 0.1 * spread * rng.uniform(-1, 1, shape)
        inside = np.clip(drawn, self.low, self.high) if self.high > self.low else drawn
        return np.asarray(np.where(drawn == inside, drawn, inside - 0.1 * (drawn - inside)), self.dtype)  # reflected, not piled up

    def resized(self, rng, shape):
        """The given array at another size, its values a little moved."""
        if self.special or not self.array.size or 0 in shape:
            return self.like(rng, shape)
        tiled = self.array[np.ix_(*(np.arange(n) % m for n, m in zip(shape, self.array.shape)))] if shape else self.array
        return (tiled * (1 + 0.05 * rng.uniform(-1, 1, shape)) + (tiled == 0) * 0.05 * self.like(rng, shape)).astype(self.dtype)


def accepts(forward, arrays):
    """The value of `forward` if it takes these arrays and gives finite floats, else None."""
    try:
        y = np.asarray(forward(*[np.array(x) for x in arrays]))
    except Exception:  # how somebody's function refuses an input is its own affair
        return None
    return y if y.dtype.kind == "f" and np.all(np.isfinite(y)) else None


def free_axes(forward, arrays, rng):
    """Groups of axes, pairs (array, axis), that can change size together; those with a fixed size are in none."""
    kinds = [Kind(x) for x in arrays]
    axes = [(i, axis) for i, x in enumerate(arrays) for axis in range(x.ndim) if x.shape[axis] > 0]
    size_of = lambda a: arrays[a[0]].shape[a[1]]
    groups, taken = [], set()
    for first in axes:
        if first in taken:
            continue
        mates = [a for a in axes if a != first and a not in taken and size_of(a) == size_of(first)]
        subsets = itertools.chain.from_iterable(itertools.combinations(mates[:6], r) for r in range(min(len(mates), 6) + 1))
        if size_of(first) == 1:  # ones at the same place grow together, or they would begin to broadcast
            place = first[1] - arrays[first[0]].ndim
            subsets = [tuple(a for a in mates if a[1] - arrays[a[0]].ndim == place)]
        for more in subsets:
            group = (first, *more)
            if all(accepts(forward, sized(kinds, {group: size_of(first) + k}, rng)) is not None for k in (1, 2)):
                groups.append(group)
                taken.update(group)
                break
    return groups


def sized(kinds, sizes, rng):
    """The arrays with the axes of each group at a new size."""
    return tuple(kind.resized(rng, shape) if shape != kind.array.shape else kind.array.copy() for kind, shape in zip(kinds, _shapes(kinds, sizes)))


def _shapes(kinds, sizes):
    shapes = [list(kind.array.shape) for kind in kinds]
    for group, size in sizes.items():
        for i, axis in group:
            shapes[i][axis] = size
    return [tuple(shape) for shape in shapes]


def other_values(arrays, rng):
    """Cases of the given shapes: each kind of value in all arrays, and in each array alone."""
    kinds = [Kind(x) for x in arrays]
    like = lambda: tuple(kind.like(rng, x.shape) for kind, x in zip(kinds, arrays))
    yield Case("values like those given", like())
    yield Case("values like those given", like())
    coarse = tuple(np.round(64 * x) / 64 if kind.free else x for kind, x in zip(kinds, arrays))  # their sums are exact, in any order
    yield Case("the values in another order", coarse, False)
    yield Case("the values in another order", tuple(x.ravel()[::-1].reshape(x.shape) if kind.free else x for kind, x in zip(kinds, coarse)), False)
    free = [i for i, kind in enumerate(kinds) if kind.free]
    for label, draw in VALUES.items():
        together = [] if "zeros" in label and len(free) > 1 else [free]  # 0 to the power 0 is nobody's first thought
        for chosen in [*together, *([[i] for i in free] if len(free) > 1 else [])]:
            drawn = [np.asarray(draw(rng, x.shape), x.dtype) if i in chosen else y for i, (x, y) in enumerate(zip(arrays, like()))]
            yield Case(label, tuple(drawn), label in GENTLE)
    for i, j in itertools.combinations(free, 2):
        if arrays[i].shape == arrays[j].shape:
            drawn = list(like())
            drawn[j] = drawn[i].astype(arrays[j].dtype)
            yield Case("equal inputs", tuple(drawn), False)
    if any(kind.special == "mask" for kind in kinds):
        for label, value in (("a mask all true", True), ("a mask all false", False)):
            yield Case(label, tuple(np.full_like(x, value) if kind.special == "mask" else y for kind, x, y in zip(kinds, arrays, like())), False)
    if any(kind.special == "indices" for kind in kinds):
        same = [np.full_like(x, x.flat[-1]) if k.special == "indices" and x.size else y for k, x, y in zip(kinds, arrays, like())]
        yield Case("equal indices", tuple(same))
        yield Case("repeated indices", tuple(rng.choice(x.ravel()[:2], x.shape) if k.special == "indices" and x.size else y
                                             for k, x, y in zip(kinds, arrays, like())))


def other_sizes(forward, arrays, rng):
    """Cases of other shapes on the axes that are free."""
    kinds, groups = [Kind(x) for x in arrays], free_axes(forward, arrays, rng)
    name = lambda group: ", ".join(f"axis {axis} of input {i}" for i, axis in group)
    given = [arrays[group[0][0]].shape[group[0][1]] for group in groups]
    same_order = lambda k, size: all((n - given[k]) * (n - size) > 0 for n in given if n != given[k])
    for sizes in ((4, 2, 5, 3, 7, 6, 8), (2, 6, 3, 5, 4, 8, 7)):
        if groups:  # where a size that was the larger becomes the smaller, a rule may refuse
            ordered = all((m - n) * (sizes[a % 7] - sizes[b % 7]) >= 0 for a, m in enumerate(given) for b, n in enumerate(given))
            yield Case("all sizes different", sized(kinds, {group: sizes[k % 7] for k, group in enumerate(groups)}, rng), ordered, not ordered)
    for k, group in enumerate(groups):
        for size in (1, 2, 9, 37):
            yield Case(f"size {size} ({name(group)})", sized(kinds, {group: size}, rng), same_order(k, size), not same_order(k, size))
        yield Case(f"size 0 ({name(group)})", sized(kinds, {group: 0}, rng), False)
    if groups:
        yield Case("every free size 1", sized(kinds, {group: 1 for group in groups}, rng), len(groups) == 1)
        for k, group in enumerate(groups):  # beyond a byte, and beyond Python's recursion
            if sum(math.prod(shape) for shape in _shapes(kinds, {group: 1100})) < 10000:
                yield Case("a size of 1100", sized(kinds, {group: 1100}, rng), len(groups) == 1, not same_order(k, 1100))
    axes = sum(x.ndim for x in arrays)
    y = accepts(forward, arrays)
    if axes and axes == sum(len(group) for group in groups) and all(x.shape == y.shape for x in arrays):
        scalars = tuple(kind.like(rng, ()) for kind in kinds)
        y = accepts(forward, scalars)
        if y is not None and y.shape == ():
            yield Case("0-d arrays", scalars, False)


def another_axis(arrays, rng):
    """The arrays with one more axis in front, in which floats differ; None when there are none to stack."""
    count = 2 if all(2 not in x.shape for x in arrays) else 5
    kinds = [Kind(x) for x in arrays]
    if any(kind.special == "indices" or x.ndim == 0 for kind, x in zip(kinds, arrays)):
        return None
    return tuple(np.stack([kind.like(rng, x.shape) for _ in range(count)]) for kind, x in zip(kinds, arrays))


def broadcast(forward, arrays, i):
    """Cases in which array i alone is smaller, and the result is not: one of its axes has size 1, or its first axes are gone."""
    y, x = accepts(forward, arrays), arrays[i]
    cuts = [x[(slice(None),) * axis + (slice(0, 1),)] for axis in range(x.ndim) if x.shape[axis] > 1]
    cuts += [x[(0,) * count] for count in range(1, x.ndim + 1) if 0 not in x.shape]
    for cut in cuts if y is not None and len(arrays) > 1 else ():
        made = tuple(np.array(cut) if k == i else other for k, other in enumerate(arrays))
        if np.shape(accepts(forward, made)) == y.shape:
            yield Case(f"shapes {cut.shape} and {x.shape}, broadcast", made, False)


def layouts(x):
    """The same values in other places of memory: (label, array)."""
    if x.ndim > 1:
        yield "Fortran order", np.asfortranarray(x)
        yield "a transposed view", np.ascontiguousarray(x.T).T
    if x.ndim:
        wide = np.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2], wide[..., 1::2] = x, x[..., ::-1]
        yield "a strided view", wide[..., ::2]
        yield "a reversed view", np.ascontiguousarray(x[::-1])[::-1]
