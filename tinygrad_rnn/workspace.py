"""Memory for the long buffers of a loop, used again when nobody holds it.

Knows which of the blocks that it gave out are idle: an array made here is a view of a block, and so is every view of it,
so a block that only this module refers to can be given out again. A fresh large array costs a page fault for each 4 kB,
which is up to a fifth of the time of a pass. Refuses to know what is kept in the arrays. Below it: NumPy alone.

What a person holds is never given out, threads do not see each other's blocks (taking one out and putting it back are
single steps of the interpreter), and no more than `MOST_BYTES` wait idle. An interpreter that does not count references
gets plain arrays.
"""

import sys
from collections import deque

import numpy as np

__all__ = ["clear", "empty"]

LEAST_BYTES = 1 << 16  # smaller arrays come cheaper from NumPy
MOST_BYTES = 1 << 28  # kept in all
_SAME_SIZE = 16  # blocks of one size that are kept

_blocks: dict[int, deque] = {}  # bytes -> blocks, longest waiting first; sizes in the order in which one was made last


def empty(shape, dtype):
    """An array of this shape whose values are arbitrary, as `np.empty` makes it.

    Example:
        >>> from tinygrad_rnn.workspace import empty
        >>> a = empty((100, 1000), float)
        >>> where = a.ctypes.data
        >>> del a
        >>> empty((1000, 100), float).ctypes.data == where
        True
    """
    size = np.dtype(dtype).itemsize
    for n in shape:
        size *= n
    if size < LEAST_BYTES or size > MOST_BYTES // 2 or not _idle:
        return np.empty(shape, dtype)
    kept = _blocks.get(size)
    for _ in range(len(kept or ())):
        try:
            block = kept.popleft()
        except IndexError:  # another thread was faster
            break
        found = np.ndarray(shape, dtype, block) if sys.getrefcount(block) == _idle else None
        kept.append(block)
        if found is not None:
            return found
    block = np.empty(size, np.uint8)
    _keep(size, block)
    return np.ndarray(shape, dtype, block)


def _keep(size, block):
    """Remember a new block, and forget those of the sizes of which none was made for the longest."""
    kept = _blocks.pop(size, None)
    _blocks[size] = kept = deque(maxlen=_SAME_SIZE) if kept is None else kept
    kept.append(block)
    total = 0
    for other, blocks in reversed(list(_blocks.items())):
        total += other * len(blocks)
        if total > MOST_BYTES:
            _blocks.pop(other, None)


def clear():
    """Forget all blocks: idle memory goes back to the system."""
    _blocks.clear()


def _count():
    """The number of references to a block that nobody holds, as `empty` counts them."""
    kept = deque([np.empty(1, np.uint8)])
    block = kept.popleft()
    return sys.getrefcount(block)


_idle = _count() if hasattr(sys, "getrefcount") else 0
