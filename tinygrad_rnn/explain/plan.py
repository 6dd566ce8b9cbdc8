"""The plan of a cell: which instruction went where and why, and what a step costs.

Knows the parts of the two generated loops, and how to count in their text: NumPy calls per step, per block of steps and
once, and the buffers with their sizes. Refuses to plan: the parts are those of the loops that run, the counts are read
from their source. Below it: derivation, source, spelling, program.
"""

import ast
import math

import numpy as np

from ..program import Value
from ..spelling import Steps
from .derivation import Derivation
from .source import Module

WHY = {"forward": {"once": "reads parameters only", "before": "reads inputs, and no state", "after": "no later step reads it"},
       "backward": {"once": "reads parameters only", "before": "reads what forward kept or dy, and nothing that is handed back",
                    "after": "no earlier step reads it"}}


def plan(cell, state=None, xs=None, *, length=None):
    """What `scan` does with a cell: every instruction with its part and the reason, calls per step, buffers.

    Shapes: as in `scan`; xs may be None with `length=T`. A cell with `initial_state` and `input_size` (the library's own)
    can be given alone.

    Raises: what `scan` raises for a cell that cannot be traced; ArgumentError when sizes are not known.

    Example:
        >>> found = tg.explain.plan(tg.nn.RNNCell(3, 5))
        >>> found.forward.step, found.backward.step
        (3, 3)
        >>> [row.text for row in found.forward.rows if row.part == "loop"]
        ['h_weight_hh = matmul(h, weight_hh_T)', 'z = add(h_weight_hh, total)', "h' = tanh(z)"]
    """
    return Plan(Derivation(cell, state, xs, length, "plan(cell, state, xs)"))


class Row:
    """One instruction: its `part` ("once", "before", "loop", "after"), its `text`, and `why` it stands there."""

    def __init__(self, part, text, why):
        self.part, self.text, self.why = part, text, why

    def __repr__(self):
        return f"{self.part:<6}  {self.text}  ({self.why})"


class Plan:
    """`forward` and `backward` are Passes; `compared` says whether two steps were traced and found to be the same."""

    def __init__(self, derivation):
        module = Module(derivation, optimized=True)
        self.cell, self.T, self.compared = derivation.cell, derivation.T, derivation.T > 1
        tree = ast.parse(module.text)
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        forward, backward = module.made
        arrived = backward.loop.xs[:len(derivation.backward.arrived)]
        self.forward = Pass("forward", functions, forward, self.T, {})
        self.backward = Pass("backward", functions, backward, self.T, {v: f"dy{i + 1}" if len(arrived) > 1 else "dy" for i, v in enumerate(arrived)})

    def __str__(self):
        lines = [f"plan of {self.cell}"]
        if not self.compared:
            lines.append(f"T = {self.T}: there is no second step with which the trace could be compared; what changes from step to step is not found.")
        for part in (self.forward, self.backward):
            lines += ["", str(part)]
        return "\n".join(lines)


class Pass:
    """One of the two loops: `rows`; `step`, `block`, `once`: NumPy calls in each step, in each block of `block_steps` steps
    (None: there are no blocks), and outside the loops; `buffers`: (name, shape, bytes) at T steps."""

    def __init__(self, name, functions, made, T, names):
        self.name, self.T = name, T
        self.rows = _rows(made, names, WHY[name])
        body = functions[name].body
        counts = _Counts(functions)
        loop = next((node for node in body if isinstance(node, ast.For)), None)
        inner = next((node for node in loop.body if isinstance(node, ast.For)), None) if loop is not None else None
        self.block_steps = loop.iter if inner is not None else None
        if inner is not None:
            ranged = next(node for node in ast.walk(loop.iter) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "range")
            self.block_steps = ast.literal_eval(ranged.args[2])
        step = inner or loop
        self.step = counts.of(step.body) if step is not None else 0
        self.block = counts.of([node for node in loop.body if node is not inner]) if inner is not None else 0
        self.once = counts.of([node for node in body if node is not loop])
        self.buffers = list(_buffers(body, T))

    @property
    def bytes(self):
        """Memory of all buffers at T steps."""
        return sum(size for _, _, size in self.buffers)

    def calls(self, T):
        """NumPy calls of a run over T steps."""
        blocks = math.ceil(T / self.block_steps) if self.block_steps else 0
        return self.once + blocks * self.block + T * self.step

    def __str__(self):
        wide = max((len(row.text) for row in self.rows), default=0)
        blocks = f", {self.block} per block of {self.block_steps} steps" if self.block_steps else ""
        lines = [f"{self.name}: {self.step} NumPy calls per step{blocks}, {self.once} outside the loop"]
        for part, title in (("once", "once"), ("before", "before the loop"), ("loop", "the loop"), ("after", "after the loop")):
            rows = [row for row in self.rows if row.part == part]
            if rows:
                lines += [f"  {title}", *(f"    {row.text:<{wide}}  {row.why}" for row in rows)]
        lines.append(f"  buffers, {_size(self.bytes)} at T = {self.T}")
        names = max((len(name) for name, _, _ in self.buffers), default=0)
        shapes = max((len(str(shape)) for _, shape, _ in self.buffers), default=0)
        lines += [f"    {name:<{names}}  {str(shape):<{shapes}}  {_size(size)}" for name, shape, size in self.buffers]
        return "\n".join(lines)


# ---- which instruction went where ---------------------------------------------------------------------------


def _rows(made, names, reasons):
    s, loop = made.s, made.loop
    used = set(names.values())

    def name(arg):
        if not isinstance(arg, Value):
            return f"{arg:g}" if isinstance(arg, (int, float)) else f"array{np.shape(arg)}"
        if arg not in names:
            word = arg.name or "v"
            names[arg] = word if word not in used else next(f"{word}{i}" for i in range(1, 10**6) if f"{word}{i}" not in used)
            used.add(names[arg])
        return names[arg]

    for v in loop.body.inputs:
        name(v)
    back = {id(w): v for v, w in s.stacked.items()}  # all steps of a value go under the value's name
    nexts = {}
    for state, out in zip(loop.states, loop.next_states):
        if isinstance(out, Value):
            nexts.setdefault(out, state)
            names.setdefault(out, f"{name(state)}'")
    reads, leads = _paths(s, loop, nexts)
    rows = []
    for part, calls in (("once", s.once), ("before", s.before), ("loop", s.inside), ("after", s.after)):
        for call in calls:
            if part != "loop" and not made.live(call):
                continue
            args = [name(back.get(id(a), a)) for a in call.args]
            extra = [f"{k}={_shown(v)}" for k, v in call.statics.items() if v is not call.op.defaults.get(k) and not hasattr(v, "body")]
            outs = ", ".join(name(back.get(id(v), v)) for v in call.outs)
            why = reasons.get(part) or _why(call, s, reads, leads, name, nexts)
            rows.append(Row(part, f"{outs} = {call.op.name.strip('_')}({', '.join([*args, *extra])})", why))
    return rows


def _shown(static):
    """A static; the number of steps is T."""
    if isinstance(static, tuple):
        return f"({', '.join(map(_shown, static))}{',' * (len(static) == 1)})"
    return "T" if isinstance(static, Steps) else str(static)


def _paths(s, loop, nexts):
    """For every value of the loop the states that it comes from, and the states that come from it."""
    reads = {v: {v} for v in loop.states}
    for call in s.inside:
        found = set().union(*(reads.get(a, set()) for a in call.inputs))
        reads.update(dict.fromkeys(call.outs, found))
    leads = {out: {state} for out, state in nexts.items()}
    for call in reversed(s.inside):
        found = set().union(*(leads.get(v, set()) for v in call.outs))
        for a in call.inputs:
            leads[a] = leads.get(a, set()) | found
    return reads, leads


def _why(call, s, reads, leads, name, nexts):
    come, go = ({v for out in call.outs for v in table.get(out, ())} for table in (reads, leads))
    if any(v in nexts for v in call.outs):
        return f"is the next {', '.join(name(nexts[v]) for v in call.outs if v in nexts)}"
    if come and go:
        return f"on the way from {', '.join(sorted(map(name, come)))} to the next {', '.join(sorted(map(name, go)))}"
    if s.lift(call, s.varying) is None:
        return f"{call.op.name.strip('_')} has no form for all steps at once"
    return f"the next {', '.join(sorted(map(name, go)))} reads it" if go else "read by an instruction that cannot leave the loop"


# ---- counting in the source ---------------------------------------------------------------------------------


class _Counts:
    """Counts NumPy calls: calls of functions, operators on arrays, copies into a place; a function of the module counts what
    it does itself. Views (a slice, `.T`, `.reshape`, a split) and plain numbers are no work."""

    VIEWS = {"reshape", "transpose", "swapaxes", "slice", "min", "max", "range", "len", "zip", "split"}

    def __init__(self, functions):
        self.functions, self.known = functions, {}

    def of(self, nodes):
        return sum(self._one(node) for node in nodes)

    def _one(self, node):
        inner = sum(self._one(child) for child in ast.iter_child_nodes(node) if not isinstance(node, ast.Subscript) or child is node.value)
        if isinstance(node, ast.Call):
            word = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
            if word in self.functions:
                if word not in self.known:
                    self.known[word] = 0  # (a function that calls itself counts once)
                    self.known[word] = self.of(self.functions[word].body)
                return inner + self.known[word]
            return inner + (word not in self.VIEWS)
        if isinstance(node, (ast.BinOp, ast.Compare)) or isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
            return inner + (not _plain(node))
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Subscript) for target in node.targets):
            return inner + 1
        return inner


def _plain(node):
    """Whether an operator works on numbers: constants, T, n, start and attributes of a slice."""
    return all(isinstance(n, (ast.Constant, ast.Name, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context, ast.Call))
               and (not isinstance(n, ast.Name) or n.id in ("T", "n", "start", "part", "min")) for n in ast.walk(node))


def _buffers(body, T):
    """(name, shape, bytes) of every np.empty in a function."""
    for node in body:
        if not isinstance(node, ast.Assign):
            continue
        targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else [node.targets[0]]
        values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        for target, value in zip(targets, values):
            if isinstance(value, ast.Call) and ast.unparse(value.func) == "np.empty":
                shape = eval(compile(ast.Expression(value.args[0]), "<shape>", "eval"), {"__builtins__": {}, "T": T, "min": min, "max": max})
                shape = shape if isinstance(shape, tuple) else (shape,)
                kind = np.dtype(ast.unparse(value.args[1]).removeprefix("np.")) if len(value.args) > 1 else np.dtype(float)
                yield ast.unparse(target), shape, math.prod(shape) * kind.itemsize


def _size(count):
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
