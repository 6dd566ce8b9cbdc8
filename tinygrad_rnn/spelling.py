"""How an op call is spelled in NumPy: the words of every generated source.

Knows for each op the NumPy text that does the same, with or without an output buffer, and how to copy an op's own
kernel into a source that must stand alone. Refuses to know what a program is for. Below it: primitive.
"""

import inspect
import re
import textwrap

import numpy as np

from .primitive import registry

_INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "matmul": "@", "power": "**", "greater": ">", "less": "<",
          "greater_equal": ">=", "less_equal": "<=", "equal": "==", "not_equal": "!=", "logical_and": "&", "logical_or": "|"}
_RANK = {"+": 3, "-": 3, "*": 4, "/": 4, "@": 4, "**": 6, ">": 1, "<": 1, ">=": 1, "<=": 1, "==": 1, "!=": 1, "&": 2, "|": 2}
ATOM = 9


def index_text(index, arrays=()):
    """The text between the brackets of x[…]."""
    rest, words = iter(arrays), []
    for part in index:
        if isinstance(part, slice):
            words.append(f"{'' if part.start is None else part.start}:{'' if part.stop is None else part.stop}"
                         + (f":{part.step}" if part.step is not None else ""))
        elif part is Ellipsis:
            words.append("...")
        elif part is None or isinstance(part, int):
            words.append(repr(part))
        else:
            words.append(next(rest))
    return ", ".join(words) + ("," if len(words) == 1 and words[0] == "..." else "") or "()"


def _tuple(items):
    items = list(items)
    return f"({', '.join(map(_item, items))}{',' if len(items) == 1 else ''})"


def _item(value):
    if isinstance(value, Steps):
        return "T"
    if isinstance(value, tuple):
        return _tuple(value)
    if isinstance(value, (np.dtype, type)):
        return f"np.{np.dtype(value).name}"
    return repr(value)


class Steps(int):
    """The number of steps where it enters a shape: known only when the loop runs, spelled T."""


def spell(call, args, out=None):
    """`(text, rank)` of a call on argument texts; rank says how tightly the text binds. `args` are (text, rank) pairs."""
    op, statics, names = call.op, call.statics, [text for text, _ in args]
    special = _SPECIAL.get(op.name) if ours(op) else None
    if special is not None:
        return special(args, statics, call)
    if "loop" in statics:  # a scan inside a cell is a function of its own
        return f"{statics['loop'].name(statics['T'])}({', '.join([_item(statics['T']), *names])})" + "[0]" * (len(call.outs) == 1), ATOM
    if out is None and ours(op) and op.name in _INFIX:
        sign = _INFIX[op.name]
        rank = _RANK[sign]
        left = names[0] if args[0][1] >= rank and sign != "**" or args[0][1] > rank else f"({names[0]})"
        right = names[1] if args[1][1] > rank else f"({names[1]})"
        return f"{left} {sign} {right}", rank
    if out is None and op.name == "negative" and ours(op):
        return "-" + (names[0] if args[0][1] >= 5 else f"({names[0]})"), 4
    words = [*names, *(f"{k}={_item(v)}" for k, v in statics.items() if v is not op.defaults[k])]
    if out is not None and op.takes_out:
        words.append(f"out={out}")
    return f"{called(op)}({', '.join(words)})", ATOM


def called(op):
    """The name under which a source calls the op: NumPy's, where that is the same thing, or the kernel's own."""
    if is_numpy(op):
        return f"np.{op.name}"
    if ours(op):
        return op.name
    seen = _strangers.setdefault(op.name, [registry[op.name]] if op.name in registry else [])
    if op not in seen:
        seen.append(op)
    return re.sub(r"\W", "_", op.name) + (str(seen.index(op) + 1) if seen[0] is not op else "")  # a lambda has no name of its own


_strangers = {}  # name -> ops of that name, the library's own first: two that differ must not be spelled alike


def is_numpy(op):
    """Whether NumPy's function of the same name takes the op's arguments as they are."""
    return ours(op) and op.name not in _OWN and getattr(np, op.name, None) is not None


_OWN = {"sigmoid", "softplus", "relu", "softmax", "log_softmax", "logsumexp", "norm", "scatter_add", "identity", "stop_gradient", "cumsum", "diagonal", "roll"}


def ours(op):
    """Whether the op is the library's own: a user's op of the same name has its own kernel."""
    return registry.get(op.name) is op


def _prefix(arg):
    return arg[0] if arg[1] == ATOM else f"({arg[0]})"


def _transpose(args, statics, call):
    axes = statics["axes"]
    rank = len(call.args[0].shape)
    if axes is None or tuple(axes) == tuple(range(rank))[::-1]:
        return f"{_prefix(args[0])}.T", ATOM
    if rank >= 2 and tuple(a % rank for a in axes) == (*range(rank - 2), rank - 1, rank - 2):
        return f"{_prefix(args[0])}.swapaxes(-1, -2)", ATOM
    return f"{_prefix(args[0])}.transpose{_tuple(axes)}", ATOM


def _split(args, statics, call):
    cuts = np.cumsum(statics["sizes"][:-1]).tolist()
    return f"np.split({args[0][0]}, {cuts}, axis={statics['axis']})", ATOM


def _broadcast(args, statics, call):
    return f"np.broadcast_to({args[0][0]}, {_tuple(statics['shape'])})", ATOM


def _reshape(args, statics, call):
    shape = statics["shape"]
    return f"{_prefix(args[0])}.reshape({', '.join(map(_item, shape)) or '()' if isinstance(shape, tuple) else shape})", ATOM


def _scatter(args, statics, call):
    index = index_text(statics["index"], [a for a, _ in args[1:]])
    return f"{'added_at' if len(args) > 1 else 'placed_at'}({args[0][0]}, {_tuple(statics['shape'])}, np.s_[{index}])", ATOM


def placed_at(values, shape, index):
    out = np.zeros(shape, values.dtype)
    out[index] = values
    return out


def added_at(values, shape, index):
    out = np.zeros(shape, values.dtype)
    np.add.at(out, index, values)
    return out


def _parts(args):
    return f"({', '.join(text for text, _ in args)}{',' * (len(args) == 1)})"


def _sum(args, statics, call):
    words = [args[0][0], *(f"{k}={_item(v[0] if isinstance(v, tuple) and len(v) == 1 else v)}" for k, v in statics.items()
                           if v is not call.op.defaults[k])]
    return f"np.{call.op.name}({', '.join(words)})", ATOM


_SPECIAL = {
    "transpose": _transpose,
    "split_": _split,
    "broadcast_to": _broadcast,
    "reshape": _reshape,
    "getitem": lambda args, s, call: (f"{_prefix(args[0])}[{index_text(s['index'], [a for a, _ in args[1:]])}]", ATOM),
    "identity": lambda args, s, call: args[0],
    "stop_gradient": lambda args, s, call: args[0],
    "astype": lambda args, s, call: (f"{_prefix(args[0])}.astype({_item(np.dtype(s['dtype']))})", ATOM),
    "scatter_add": _scatter,
    "pad_": lambda args, s, call: (f"np.pad({args[0][0]}, {_item(s['width'])})", ATOM),
    "cumsum": lambda args, s, call: (f"np.cumsum({args[0][0]}, axis={s['axis']})", ATOM),
    "diagonal": lambda args, s, call: (f"np.diagonal({args[0][0]}, {s['offset']}, -2, -1)", ATOM),
    "roll": lambda args, s, call: (f"np.roll({args[0][0]}, {s['shift']}, {s['axis']})", ATOM),
    "unstack": lambda args, s, call: (f"tuple(np.moveaxis({args[0][0]}, {s['axis']}, 0))", ATOM),
    "einsum": lambda args, s, call: (f"np.einsum({', '.join([repr(s['subscripts']), *(a for a, _ in args)])})" + ".copy()" * (len(args) == 1), ATOM),
    "concatenate": lambda args, s, call: (f"np.concatenate({_parts(args)}, axis={s['axis']})", ATOM),
    "stack": lambda args, s, call: (f"np.stack({_parts(args)}, axis={s['axis']})", ATOM),
    "clip": lambda args, s, call: (f"np.clip({args[0][0]}, {s['min']}, {s['max']})", ATOM),
    "sum": _sum, "mean": _sum, "max": _sum, "min": _sum, "prod": _sum, "var": _sum, "std": _sum,
}


def kernels(calls):
    """The kernels that a source of these calls needs beside NumPy: {name: function}."""
    found = {called(call.op): call.op.forward for call in calls
             if not is_numpy(call.op) and not (ours(call.op) and call.op.name in _SPECIAL) and "loop" not in call.statics}
    for call in calls:
        if "loop" in call.statics:
            loop, T = call.statics["loop"], call.statics["T"]
            found[loop.name(T)] = loop.function(T)
        if call.op.name == "scatter_add" and ours(call.op):
            function = added_at if len(call.args) > 1 else placed_at
            found[function.__name__] = function
    return found


def kernel_text(functions):
    """Stand-alone definitions of kernels, with the functions of their own modules that they call."""
    done, texts = {}, []

    def add(name, function):
        if name in done:
            return
        done[name] = function
        for other in function.__code__.co_names:
            found = function.__globals__.get(other)
            if isinstance(found, np.ndarray):
                texts.append(array_text(other, found))
            elif inspect.isfunction(found) and (found.__module__ == function.__module__ or hasattr(function, "source")):
                add(other, found)
            elif hasattr(found, "forward") and found is not function:
                add(other, found.forward)
        texts.append(_definition(name, function))

    for name, function in functions.items():
        add(name, function)
    return "\n\n".join(texts)


def array_text(name, array):
    """An assignment that makes the array again."""
    return f"{name} = {_array(array)}"


def _array(array):
    """Rows that are all the same are written once, and runs of one number by its count."""
    kind = "" if array.dtype.name in ("float64", "int64") and array.size else f", np.{array.dtype.name}"
    if array.ndim > 1 and array.size and array.shape[0] > 1 and (array == array[0]).all():
        return f"np.broadcast_to({_array(array[0])}, {array.shape}).copy()"
    if array.ndim == 1 and array.size > 8:
        starts = np.flatnonzero(np.r_[True, array[1:] != array[:-1]])
        if 2 * starts.size < array.size:
            return f"np.repeat(np.array({array[starts].tolist()!r}{kind}), {np.diff(np.r_[starts, array.size]).tolist()})"
    return f"np.array({array.tolist()!r}{kind})" + (f".reshape({array.shape})" if not array.size else "")


def _definition(name, function):
    if hasattr(function, "source"):
        return re.sub(r"def \w+\(", f"def {name}(", function.source, count=1)
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith("def "))
    text = "\n".join(lines[start:])
    if function.__doc__:
        text = re.sub(r'\n\s*(?P<q>"""|"|\'\'\')' + re.escape(function.__doc__) + r"(?P=q)", "", text, count=1)
    return re.sub(r"def \w+\(", f"def {name}(", text, count=1)
