"""trace: every intermediate of a loss, by name, with its value and its cotangent. The first thing to look at.

A red gradient check says that a gradient is wrong; this table says what flowed where: read upwards from the loss
and find the first cotangent that is zero, infinite, or not what you derived. It is also reverse mode on one page.

Knows how to line up values with cotangents and how to print them. Refuses to judge them. Below it: watch, and
`walk.walk`, whose visits are the cotangents.
"""

from dataclasses import dataclass, field

import numpy as np

from ..errors import ArgumentError, GradientError, message
from ..scan import step
from ..tensor import Tensor, switched
from ..walk import walk
from .watch import Naming, Watcher, arguments, caller, function_of, inputs, line_of, refuse_untracked


@dataclass
class Row:
    """One intermediate: where it was computed, its value, and its cotangent ∂loss/∂value (None if it has none).

    `order` counts the calls, `step` is the time index inside a scan, `function` and `line` say where the call stands.
    """

    order: int
    name: str
    op: str
    function: str
    line: str
    step: int | None
    value: np.ndarray = field(repr=False)
    cotangent: np.ndarray | None = field(default=None, repr=False)
    depth: int = field(default=0, repr=False)

    shape = property(lambda self: np.shape(self.value))
    value_norm = property(lambda self: _norm(self.value))
    cotangent_norm = property(lambda self: None if self.cotangent is None else _norm(self.cotangent))


def _norm(array):
    array = np.asarray(array)
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.sum(np.abs(array.astype(complex if array.dtype.kind == "c" else float)) ** 2)))


class Trace:
    """What `trace` returns: a list of rows that prints as a table. `rows` holds them in the order of the calls.

    `trace["h"]` are the rows of that name, `trace["h", 3]` is the one at step 3, `over_time("h")` their values stacked.
    """

    def __init__(self, rows, value):
        self.rows, self.value = rows, value

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    @property
    def names(self):
        """Every name that occurs, in the order of first use."""
        return list(dict.fromkeys(row.name for row in self.rows))

    def __getitem__(self, key):
        name, at = key if isinstance(key, tuple) else (key, ...)
        found = [row for row in self.rows if row.name == name and at in (..., row.step)]
        if not found:
            steps = sorted({row.step for row in self.rows if row.name == name and row.step is not None})
            facts = {f"steps of {name}": f"{steps[0]} to {steps[-1]}" if steps else "none"}
            facts = facts if name in self.names else {"names": ", ".join(self.names)}
            raise ArgumentError(message(f"trace[{key!r}]", "there is no such intermediate", facts, "Pick one of these."))
        return found if at is ... else found[-1]

    def over_time(self, name, cotangents=False):
        """The values (or the cotangents) of one name at every time step.

        Shapes: (T, …).
        """
        last = {row.step: row for row in self[name] if row.step is not None}
        if not last:
            raise ArgumentError(message(f"over_time({name!r})", "this value is not computed inside a scan",
                                        {"op": self[name][0].op}, f"Use trace[{name!r}]."))
        rows = [last[t] for t in sorted(last)]
        if not cotangents:
            return np.stack([row.value for row in rows])
        return np.stack([np.zeros_like(row.value) if row.cotangent is None else row.cotangent for row in rows])

    def table(self, limit=60):
        """The rows as text; of more than `limit` (None: no limit) the first two thirds and the last third."""
        head = [("#", "step", "name", "op", "in", "shape", "|value|", "|cotangent|")]
        cells = head + [(str(r.order), "" if r.step is None else str(r.step), r.name, r.op, r.function, str(r.shape),
                         f"{r.value_norm:.4g}", "-" if r.cotangent is None else f"{r.cotangent_norm:.4g}") for r in self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(head[0]))]
        lines = ["  ".join(c.rjust(w) if i in (0, 1, 6, 7) else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths)))
                 .rstrip() for row in cells]
        if limit is not None and len(self.rows) > limit:
            last = limit // 3
            lines[1 + limit - last:-last] = [f"… {len(self.rows) - limit} more rows: table(limit=None)"]
        return "\n".join(lines)

    def __str__(self):
        return self.table()

    def __repr__(self):
        return f"Trace({len(self.rows)} rows, loss {float(np.asarray(self.value)):.6g})"


class _Recording(Watcher):
    def __init__(self):
        self.rows, self.nodes, self.naming = [], {}, Naming(step.get)

    def record(self, op, args, statics):
        frame = caller()
        self.naming.look(frame)
        y = self.run(op, args, statics)
        for out in y if type(y) is tuple else (y,):
            self.add(out, "", op.name, function_of(frame), line_of(frame))
        return y

    def add(self, out, name, op, function="", line=""):
        array = out._array if isinstance(out, Tensor) else np.asarray(out)
        row = Row(len(self.rows), name, op, function, line, step.get(), _read_only(array))
        self.rows.append(row)
        self.naming.expect(out, row)
        if isinstance(out, Tensor) and out._node is not None:
            self.nodes.setdefault(out._node, row)


def _read_only(array):
    view = array.view()
    view.flags.writeable = False
    return view


def trace(loss, params, data=()):
    """A table of every intermediate of `loss(params, *data)`: name, step, shape, value and cotangent.

    Names are those of the variables that hold the values in your functions; what no variable holds is named by its
    op. Inside `scan` each step has its rows, with the time index. Parameters come first, the loss last.

    Shapes: `params` is a tree; `data` a tuple of further arguments (anything else is one argument).

    Raises: GradientError when the loss is not a scalar or does not depend on params.

    Gradient: each cotangent is complete, ∂loss/∂value over all paths. A value without one does not reach the loss
    or does not depend on params.

    Example:
        >>> def loss(p, x):
        ...     z = x * p["w"]
        ...     return tg.sum(z * z)
        >>> found = tg.explain.trace(loss, {"w": 3.0}, np.array([1.0, 2.0]))
        >>> print(found)
        #  step  name      op        in    shape  |value|  |cotangent|
        0        w         input           ()           3           30
        1        z         multiply  loss  (2,)     6.708        13.42
        2        multiply  multiply  loss  (2,)     37.11        1.414
        3        sum       sum       loss  ()          45            1
        >>> found["z"][0].cotangent
        array([ 6., 12.])
    """
    seen = _Recording()
    tracked, params = inputs(params)
    for name, leaf in tracked.items():
        seen.add(leaf, name, "input")
    with seen.watching("trace(loss, params, data)"), switched(grad=True), seen.naming.at_returns():
        value = loss(params, *arguments(data))
    refuse_untracked("trace(loss, params, data)", value)
    if value.size != 1:
        raise GradientError(message("trace(loss, params, data)", "the loss is not a scalar", {"shape": value.shape},
                                    "Reduce it, for example with sum()."))

    def visit(node, g):
        if node in seen.nodes:
            seen.nodes[node].cotangent = _read_only(g if type(g) is np.ndarray else np.asarray(g))

    walk([(value._node, np.ones(value.shape, value.dtype))], graph=False, visit=visit)
    for row in seen.rows:
        row.name = row.name or row.op
    return Trace(seen.rows, value.numpy())
