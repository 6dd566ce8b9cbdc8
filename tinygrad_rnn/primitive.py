"""@primitive: one op in one place, and the only place where an array becomes a Tensor.

Knows how an op is declared, called, put into the graph and told to a recorder. Refuses to know which ops
there are and how gradients travel. Below it: tensor, domains, errors.

    @primitive(method="tanh", domain=REALS, elementwise=True, analytic=True)
    def tanh(x, /, *, out=None):
        return np.tanh(x, out=out)

    tanh.vjp(x=lambda g, y: g * (1 - y * y))

**The signature is the schema.** Before `/` stand arrays (`*parts` is any number of them), after it statics.
**The rule's parameter names say what it needs**, and nothing else is kept until the backward:

    g          the cotangent of the output             y        the output
    a name     an input, or a static                   x_shape  an input's shape (free)
    into       the `Sum` in which this input's cotangents are being added up, or None for the first of them; a rule
               that gets one may add to it and return it (T slices of one array then cost one buffer, not T, and the
               T products of a weight are taken as one)

Rules are made of ops and operators: fed plain arrays they compute, fed Tensors they grow a graph, which is
how derivatives of every order come free. An op with several outputs gets tuples for `g` and `y`, with None
for a cotangent that nobody asked for. A rule of `*parts` returns a list. A rule that is None: no gradient.
"""

import inspect
import weakref
from typing import Any

import numpy as np

from . import errors
from .domains import REALS
from .errors import ArgumentError, IndexingError, RuleError, ShapeError, message
from .tensor import Node, Tensor, mode, over

RESERVED = ("g", "y", "into", "out")
UNTRACKED = -1  # where a saved input has no place among the parents
registry = {}  # name -> Primitive, in the order of declaration


class Primitive:
    """An op: a forward kernel over arrays and one derivative rule per input.

    Calling it on plain arrays returns plain arrays; when a Tensor is among the inputs it returns Tensors.
    Make one with `@primitive(...)`.
    """

    view: bool
    broadcasts: bool
    remedy: str
    numpy: Any
    fresh = False  # whether every array that a rule returns is new, and no two of them share memory

    def __init__(self, forward, options):
        self.forward, self.name, self.__doc__ = forward, forward.__name__, inspect.cleandoc(forward.__doc__ or "")
        self.__name__ = self.name
        self.__module__ = forward.__module__
        signature = inspect.signature(forward)
        self.__signature__ = signature.replace(parameters=[p for p in signature.parameters.values() if p.name != "out"])
        self.__dict__.update(options)
        self.arrays, self.variadic, self.defaults, self.takes_out = _schema(forward)
        self.required = {name for name, default in self.defaults.items() if default is inspect.Parameter.empty}
        self.exact = None if self.required or self.variadic else len(self.arrays)  # calls of so many inputs alone need no sorting
        self.rules, self._plans = {}, {}

    def __repr__(self):
        kept = sorted({need for rule in self.rules.values() if rule for need in _parameters(rule)} - {"g", "into"})
        names = [*self.arrays, *([f"*{self.variadic}"] if self.variadic else []), *self.defaults]
        return f"{self.name}({', '.join(names)}) keeps {', '.join(kept) or 'nothing'}"

    def __reduce__(self):
        """Copies and pickles are the op itself: it is known by its name."""
        return (_declared, (self.name,)) if registry.get(self.name) is self else self.name

    def vjp(self, **rules):
        """Declare the rule of each array input: `op.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)`.

        Raises: RuleError for an input or a request that does not exist; the text lists what does.
        """
        inputs = [*self.arrays, *([self.variadic] if self.variadic else [])]
        allowed = ["g", "y", "into", *inputs, *(f"{name}_shape" for name in inputs), *self.defaults]
        for name, rule in rules.items():
            wrong = [name] if name not in inputs else [p for p in (_parameters(rule) if rule else ()) if p not in allowed]
            if wrong:
                what = f"has no input called {wrong[0]}" if name not in inputs else f"the rule of {name} asks for {wrong[0]}"
                raise RuleError(message(f"{self.name}.vjp({name}=…)", what, {"allowed": ", ".join(inputs if name not in inputs else allowed)},
                                        "Use only these names."))
        self.rules |= rules
        self._plans.clear()
        return self

    # ---- calling --------------------------------------------------------------------------------------------

    def __call__(self, *args, **statics):
        if statics or len(args) != self.exact:
            args, statics = self.bind(args, statics)
        else:
            statics = self.defaults
        now = mode.get()
        if now.recorder is not None:
            return now.recorder.record(self, args, statics)
        return self.apply(args, statics, now.grad)

    def bind(self, args, statics):
        """Sort positional arguments into arrays and statics, and fill in the statics' defaults."""
        n = len(self.arrays)
        if len(args) > n and not self.variadic:
            extra = dict(zip(self.defaults, args[n:]))
            if len(args) - n > len(self.defaults) or extra.keys() & statics.keys():
                raise self._bad_call(args, statics)
            args, statics = args[:n], {**extra, **statics}
        bound = {**self.defaults, **statics}
        if len(args) < n or len(bound) > len(self.defaults) or self.required and not self.required <= statics.keys():
            raise self._bad_call(args, statics)
        return args, bound

    def apply(self, args, statics, grad):
        """Compute, and put the call into the graph when `grad` is set and an input is tracked."""
        arrays, parents, tracked, bit, plain, tensors = [], [], 0, 1, False, False
        for arg in args:
            kind = type(arg)
            if kind is Tensor:
                tensors = True
                arrays.append(arg._array)
                if arg._trace is not None and not arg._trace.live:
                    raise over(arg, f"{self.name}({', '.join(self.arrays)})")
                if arg._node is not None:
                    parents.append(arg._node)
                    tracked |= bit
            else:
                plain = True
                arrays.append(arg if kind in _PLAIN else self.coerce(arg))
            bit += bit
        if not tensors and np.ndarray not in map(type, arrays):  # among themselves NumPy's scalars are not weak
            arrays = [arg if isinstance(arg, np.generic) else array for arg, array in zip(args, arrays)]
        try:
            y: Any = self.forward(*arrays, **statics)
        except (ValueError, TypeError, IndexError) as error:
            if type(error).__module__ == errors.__name__:
                raise
            raise self.explain(error, args, statics) from error
        if not tensors:
            return y
        several = type(y) is tuple
        if several:
            y = tuple([np.asarray(one) for one in y])
        elif type(y) is not np.ndarray:
            y = np.asarray(y)
        elif self.view and y is arrays[0]:
            y = y.view()  # an array's identity is a value's identity to a recorder
        if tracked and grad:
            plan = self._plans.get(tracked + bit) or self.plan(tracked, len(args))
            if plan.targets and (several or y.dtype.kind in "fc"):  # an integer has no gradient
                if plain:
                    for i in plan.keeps:
                        if isinstance(args[i], np.ndarray):
                            arrays[i] = _kept(arrays[i])
                saved = plan.save(arrays, y, statics)
                if several:
                    return outputs(Node(plan, parents, saved, [one.shape for one in y], None), y)
                return Tensor(y, Node(plan, parents, saved, y.shape, y.dtype))
        return tuple([Tensor(one) for one in y]) if several else Tensor(y)

    def plan(self, tracked, count):
        """How to save for, and pull a cotangent back through, a call of `count` inputs of which the bits of `tracked` are."""
        if len(self._plans) >= 256:  # an op of any number of inputs could go on for ever
            self._plans.clear()
        plan = self._plans[tracked + (1 << count)] = Plan(self, tracked, count)
        return plan

    # ---- what goes wrong ------------------------------------------------------------------------------------

    def coerce(self, arg):
        """A NumPy scalar becomes a Python number (it must not promote float32), a list becomes an array."""
        if isinstance(arg, np.generic):
            return arg.item()
        if isinstance(arg, np.ndarray):
            return np.asarray(arg)
        if isinstance(arg, (list, tuple)):
            return np.array(arg)
        raise ArgumentError(message(f"{self.name}({', '.join(self.arrays)})", "an input is not an array",
                                    {"type": type(arg).__name__, "value": repr(arg)[:60]}, "Pass arrays, Tensors or numbers."))

    def _bad_call(self, args, statics):
        return ArgumentError(message(f"{self.name}({len(args)} positional{''.join(f', {k}=' for k in statics)})",
                                     "the arguments do not fit the signature",
                                     {"signature": f"{self.name}{self.__signature__}"},
                                     "Call it as the signature says."))

    def explain(self, error, args, statics):
        """The same error in the library's own words: which op, which inputs, what to do."""
        names = [*self.arrays, *(f"{self.variadic}[{i}]" for i in range(len(args) - len(self.arrays)))]
        shapes = [getattr(arg, "shape", ()) for arg in args]
        facts = dict(zip(names, shapes)) | {k: v for k, v in statics.items() if v is not self.defaults[k]}
        what, remedy = (str(error) or type(error).__name__).splitlines()[0], self.remedy
        kind = IndexingError if isinstance(error, IndexError) else ArgumentError if isinstance(error, TypeError) else ShapeError
        if self.broadcasts and not _fit_together(shapes):
            what = "the shapes do not broadcast together"
            remedy = remedy or "Make the sizes equal, or 1, counted from the last axis."
        elif isinstance(error, np.exceptions.AxisError):
            what, remedy, kind = f"axis is out of range: {what}", "Use an axis that the array has; -1 is the last one.", ShapeError
        return kind(message(f"{self.name}({', '.join(names)})", what, facts, remedy or f"See help(tg.{self.name}) for what fits."))


def _declared(name):
    return registry[name]


_copies = weakref.WeakValueDictionary()  # id of an array -> a copy of it that a graph holds


def _kept(array):
    """A copy of an array that its owner may write to before the backward. While nobody does, all steps of a loop share
    one copy: a weight that is not differentiated by would else be kept T times."""
    if array.size < 1_000:
        return np.array(array)
    copy = _copies.get(id(array))
    if copy is None or copy.dtype != array.dtype or not np.array_equal(copy, array):
        copy = _copies[id(array)] = np.array(array)
    return copy


def _fit_together(shapes):
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        return False
    return True


_PLAIN = {np.ndarray, float, int, bool, complex}
_OPERANDS = (np.ndarray, np.generic, list, tuple, Tensor)  # what an operator takes besides; of the rest it is no business


def outputs(parent, ys):
    """Tensors for the outputs of a call that has several: each points at its place in the parent's node."""
    return tuple(Tensor(y, Node(PICK, (parent,), i, y.shape, y.dtype)) for i, y in enumerate(ys))


class Plan:
    """For one op and one set of tracked inputs: what to save, and how the rules are called with it.

    `targets` are the places among the node's parents (its tracked inputs) that a cotangent goes to, in the order in
    which `pull(g, saved, into)` returns them. `sources` say for each saved value what it is: a place among the
    parents, UNTRACKED, a list of these, "y", or None for shapes and statics. `adds_into` is the place of the parent
    whose rule asks for `into`, if there is one.

    The two functions are spelled as Python text once and compiled, as `namedtuple` does: looping over requests
    in every call would cost more than the arithmetic of a small cell.
    """

    __slots__ = ("op", "targets", "keeps", "sources", "adds_into", "fresh", "save", "pull")

    def __init__(self, op, tracked, count):
        self.op, self.fresh = op, op.fresh
        n = len(op.arrays)
        wanted = [name for i, name in enumerate(op.arrays) if tracked >> i & 1] + [op.variadic] * (tracked >> n > 0)
        for name in wanted:
            if name not in op.rules:
                raise RuleError(message(f"{op.name}", f"no derivative rule is declared for {name}", {"rules": ", ".join(op.rules) or "none"},
                                        f"Declare {op.name}.vjp({name}=…), or {name}=None if it has no gradient."))
        wanted = [name for name in wanted if op.rules[name] is not None]
        positions = {name: [i] for i, name in enumerate(op.arrays)} | {op.variadic: list(range(n, count))}
        parent = [(tracked & ((1 << i) - 1)).bit_count() if tracked >> i & 1 else UNTRACKED for i in range(count)]
        slots, calls, self.targets = {}, [], []  # slots: what is saved, in the order of the first request
        scope = {"chosen": lambda parts: _chosen(op, parts, [at != UNTRACKED for at in parent[n:]])}
        for name in wanted:
            call = f"d_{name}({', '.join(_request(r, slots) for r in _parameters(op.rules[name]))})"
            calls.append(f"*chosen({call}), " if name == op.variadic else f"{call}, ")
            scope[f"d_{name}"] = op.rules[name]
            self.targets += [parent[i] for i in positions[name] if parent[i] != UNTRACKED]
        self.adds_into = next((parent[positions[name][0]] for name in wanted if "into" in _parameters(op.rules[name])), None)
        self.keeps = sorted({i for name in slots for i in positions.get(name, ())})
        self.sources = [name if name == "y" else [parent[i] for i in positions[name]] if name == op.variadic else
                        parent[positions[name][0]] if name in positions else None for name in slots]
        self.save = eval(f"lambda args, y, statics: ({''.join(_saved(op, name, tracked) + ', ' for name in slots)})", {"shape": np.shape})
        self.pull = eval(f"lambda g, saved, into: ({''.join(calls)})", scope)

    def __repr__(self):
        return self.op.name


def _chosen(op, parts, tracked):
    """Of the cotangents that a rule of any number of inputs returned, those that somebody waits for."""
    if len(parts) != len(tracked):
        raise RuleError(message(f"{op.name}", f"the rule of {op.variadic} returned the wrong number of cotangents",
                                {"inputs": len(tracked), "cotangents": len(parts)}, "Return a list with one entry for each input."))
    return [part for part, wanted in zip(parts, tracked) if wanted]


class _Pick:
    """The plan of one output of a call with several: its cotangent is an entry of the parent's tuple."""

    def __repr__(self):
        return "output"


PICK = _Pick()


def _request(name, slots):
    if name in ("g", "into"):
        return name
    return f"saved[{slots.setdefault(name, len(slots))}]"


def _saved(op, name, tracked):
    n = len(op.arrays)
    if name == "y":
        return "y"
    if name in op.arrays:
        return f"args[{op.arrays.index(name)}]"
    if name == op.variadic:
        return f"args[{n}:]"
    if name in op.defaults:
        return f"statics[{name!r}]"
    array = name.removesuffix("_shape")
    if array == op.variadic:
        return f"[shape(a) for a in args[{n}:]]"
    i = op.arrays.index(array)
    return f"args[{i}].shape" if tracked >> i & 1 else f"shape(args[{i}])"


def _parameters(function):
    return tuple(inspect.signature(function).parameters)


def _schema(forward):
    arrays, variadic, defaults, takes_out = [], None, {}, False
    for p in inspect.signature(forward).parameters.values():
        if p.kind is p.POSITIONAL_ONLY:
            arrays.append(p.name)
        elif p.kind is p.VAR_POSITIONAL:
            variadic = p.name
        elif p.name == "out":
            takes_out = True
        else:
            defaults[p.name] = p.default
    clash = [name for name in [*arrays, variadic, *defaults] if name in RESERVED]
    if clash or not (arrays or variadic):
        what = f"{clash[0]} is a reserved name" if clash else "no array stands before /"
        raise RuleError(message(f"@primitive {forward.__name__}", what, {"reserved": ", ".join(RESERVED)},
                                "Write def op(x, /, *, static=…, out=None)."))
    return arrays, variadic, defaults, takes_out


# ---- declaring ----------------------------------------------------------------------------------------------


def primitive(function=None, *, method="", domain: Any = REALS, broadcasts=False, elementwise=False, analytic=False, view=False,
              reference=None, sample=None, kinks=(), faults=(), remedy="", over_time=None, numpy=None) -> Any:
    """Declare an op from its forward kernel; see the module's text for the form.

    `method` names the Tensor methods to bind ("__mul__ __rmul__": a reflected one swaps its operands). `domain` says
    where each array may be sampled, `reference` is an independent NumPy formula, `sample(rng)` yields `(arrays,
    statics)` to try, `kinks` the points without a derivative, or a function of the inputs that tells where it stands
    on one, `faults` bad inputs with a part of their message. `over_time(stacked, *arrays, **statics)` is the op on
    arrays of which those flagged in `stacked` got a leading time axis; elementwise ops need none. `numpy` is the
    NumPy function that the op replaces (default: the one of the same name).

    Raises: RuleError for a signature that is no schema.

    Example:
        >>> @tg.primitive(domain=tg.domains.REALS, elementwise=True)
        ... def cube(x, /, *, out=None):
        ...     "x³ of every element."
        ...     return np.power(x, 3, out=out)
        >>> _ = cube.vjp(x=lambda g, x: g * 3 * x * x)
        >>> float(tg.grad(cube)(2.0))
        12.0
    """
    def declare(forward):
        op = Primitive(forward, dict(domain=domain, broadcasts=broadcasts, elementwise=elementwise, analytic=analytic,
                                     view=view, reference=reference, sample=sample, kinks=kinks, faults=faults,
                                     remedy=remedy, over_time=over_time, numpy=None))
        if (forward.__module__ or "").startswith(__package__ + "."):
            registry[op.name] = op
        op.numpy = bind(op, method, numpy)
        return op

    return declare if function is None else declare(function)


def composite(function=None, *, method="", numpy=None) -> Any:
    """Bind a function made of ops as Tensor methods and as the replacement of a NumPy function, as an op is.

    Example:
        >>> @tg.composite(method="halved")
        ... def halved(x):
        ...     return x / 2
        >>> tg.tensor(3.0).halved()
        tensor(1.5)
        >>> del tg.Tensor.halved
    """
    def declare(f):
        bind(f, method, numpy)
        return f

    return declare if function is None else declare(function)


def bind(function, method="", numpy=None):
    """Hang `function` under Tensor methods and under the NumPy function it stands for."""
    name = function.__name__
    for m in method.split():
        reflected = m.startswith("__r") and m not in ("__round__",)
        setattr(Tensor, m, _method(function, m, reflected))
    if numpy is None:
        numpy = getattr(np, name, None)
    if numpy and callable(numpy) and (function.__module__ or "").startswith(__package__):
        Tensor.numpy_table[numpy] = function
    return numpy


def _method(function, name, reflected):
    def operator(self, other):
        if type(other) is not Tensor and type(other) not in _PLAIN and not isinstance(other, _OPERANDS):
            return NotImplemented
        now = mode.get()
        args = (other, self) if reflected else (self, other)
        if now.recorder is not None:
            return now.recorder.record(function, args, function.defaults)
        return function.apply(args, function.defaults, now.grad)

    def method(self, *args, **options):
        return function(self, *args, **options)

    call = operator if isinstance(function, Primitive) and function.exact == 2 and not function.defaults else method
    call.__name__, call.__doc__ = name, function.__doc__
    return call
