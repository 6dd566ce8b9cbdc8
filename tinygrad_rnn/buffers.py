"""Buffers: which places of a straight list of calls may be written again, and which calls can write into one.

Knows the last read of every value. Refuses to know where a buffer lies and what it is called. Below it: spelling.
"""

import numpy as np

from .spelling import ours


class Room:
    """Which buffers are free again after the last read of what they hold, by call of a straight list."""

    def __init__(self, calls, at_the_end):
        self.last, self.root, self.names, self.free = {}, {}, {}, {}
        for k, call in enumerate(calls):
            for a in call.inputs:
                self.last[a] = k
        self.last.update(dict.fromkeys(at_the_end, len(calls)))
        self.calls = calls
        for call in calls:  # a view is a read of what it is a view of
            if call.op.view and call.inputs:
                for v in call.outs:
                    self.root[v] = self.root.get(call.inputs[0], call.inputs[0])
        for v, root in self.root.items():
            self.last[root] = max(self.last.get(root, -1), self.last.get(v, -1))
        self.held = {}  # root -> name of its buffer

    def keep(self, value, name, again=False):
        """The value lives in the buffer called `name`, which nobody else holds, or (`again`) nobody any more."""
        if again:
            for root in [r for r, n in self.held.items() if n == name]:
                del self.held[root]
        self.held[value] = name
        self.names[value] = name

    def view(self, value, of, name):
        """The value is a view, called `name`, of another."""
        self.root[value] = self.root.get(of, of)
        self.names[value] = name

    def in_place(self, call, k):
        """The name of an argument that the call may overwrite: of the result's shape, read here for the last time."""
        (out,) = call.outs
        if not (ours(call.op) and isinstance(getattr(np, call.op.name, None), np.ufunc)):
            return None  # a kernel may read an input again after it has begun to write
        if out.size == 1:
            return None  # NumPy takes twice as long: it cannot tell that the places are the same
        for a in call.inputs:
            root = self.root.get(a, a)
            if (root in self.held and self.last.get(root) == k and a.shape == out.shape and a.dtype == out.dtype and a.size == root.size
                    and self.names.get(a) and (a is root or self._straight(a))):
                del self.held[root]
                self.held[out] = self.names[out] = self.names[a]
                return self.names[a]
        return None

    def _straight(self, view):
        """Whether a view shows its buffer in order: only reshapes in between."""
        made = next((call for call in self.calls if call.op.view and view in call.outs), None)
        return made is None or made.op.name in ("reshape", "identity") and self._straight(made.args[0])

    def again(self, call, k):
        """The name of a buffer of the result's shape whose value nobody reads from here on."""
        (out,) = call.outs
        for root, name in list(self.held.items()):
            if self.last.get(root, -1) < k and root.shape == out.shape and root.dtype == out.dtype and self.names.get(root) == name:
                del self.held[root]
                return name
        return None


def has_out(call):
    """Whether a call can write its result, one array, into a buffer."""
    if len(call.outs) > 1:
        return False
    if call.op.name == "matmul":
        return call.outs[0].shape != ()
    if call.op.name in ("concatenate", "stack"):
        return True
    return call.op.takes_out and call.op.elementwise


def tuple_text(shape):
    """A shape, as it stands in a source."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def dtype_text(value):
    """The dtype of a value, as it stands in a source."""
    return f"np.{value.dtype.name}"
