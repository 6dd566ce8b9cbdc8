"""Module: an object that owns parameters, and what follows from owning them.

Knows the names of a module's Tensors, how to count, show, freeze to arrays and restore them, and how a module
takes part in trees. Refuses to know any layer's equations, shapes or randomness. Below it: trees, tensor, errors.

A module's children are the attributes that are Tensors, modules, or lists, tuples and dicts with such inside;
everything else that it holds is its configuration. So a layer of your own is a class with attributes:

    class Scale(tg.nn.Module):
        def __init__(self, size):
            self.weight = tg.tensor(np.ones(size), requires_grad=True)

        def __call__(self, x):
            return x * self.weight
"""

import copy
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import trees
from ..errors import ArgumentError, DomainError, DtypeError, ShapeError, StateError, message
from ..tensor import Tensor


def _holds(value):
    """Whether a value is, or contains, a Tensor or a module."""
    if isinstance(value, dict):
        return any(_holds(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds(v) for v in value)
    return isinstance(value, Tensor) or hasattr(type(value), "tree_children")


class Module:
    """An object with parameters: leaf Tensors under the names of its attributes.

    Write `__call__` (or `forward`, as in PyTorch). A module is a tree: `grad(loss)(model)` is a module of gradients,
    and `trees.map` over one gives another. One Tensor under two names counts as one parameter, but as two leaves of the
    tree.

    Example:
        >>> layer = tg.nn.Linear(3, 2, rng=0)
        >>> [name for name, _ in layer.named_parameters()]
        ['weight', 'bias']
        >>> layer
        Linear(3, 2): 8 parameters
          weight  (2, 3)
          bias    (2,)
    """

    training = True
    shown = ()  # attributes in the first line of repr: "size", or "bias=True" to leave it out where it has this value

    def __call__(self, *args, **options):
        forward = getattr(self, "forward", None)
        if forward is None:
            raise ArgumentError(message(f"{type(self).__name__}(…)", "this module has no equations",
                                        {"class": type(self).__qualname__},
                                        "Define __call__ (or forward) in the class."))
        return forward(*args, **options)

    if TYPE_CHECKING:  # parameters and sizes are attributes under names that only the equations know
        def __getattr__(self, name: str) -> Any: ...

    # ---- a module is a tree ---------------------------------------------------------------------------------

    def tree_children(self):
        """Name to child, in the order in which the attributes were set."""
        known = self.__dict__.get("_children", ())  # a copy holds arrays or gradients under the same names
        return {name: value for name, value in self.__dict__.items() if name in known or _holds(value)}

    def tree_replace(self, children):
        """A copy of this module with other children under the same names: arrays, gradients, whatever a map gives."""
        new = copy.copy(self)
        new.__dict__.update(children, _children=tuple(children))
        return new

    # ---- parameters -----------------------------------------------------------------------------------------

    def named_parameters(self):
        """Pairs of name and Tensor, each Tensor once under its first name ("cells.0.weight_ih")."""
        seen = set()
        return [(name, p) for name, p in self._tensors() if not (id(p) in seen or seen.add(id(p)))]

    def parameters(self):
        """The Tensors of this module and of the modules in it, each once: what an optimiser takes."""
        return [p for _, p in self.named_parameters()]

    def _tensors(self):
        named = zip(trees.paths(self), trees.flatten(self)[0])
        return [(re.sub(r"\[(\d+)\]", r".\1", path).removeprefix("."), leaf)
                for path, leaf in named if isinstance(leaf, Tensor)]

    def zero_grad(self):
        """Forget the gradients of all parameters."""
        for p in self.parameters():
            if p.requires_grad:
                p.grad = None

    def astype(self, dtype):
        """A copy of this module whose parameters have another float dtype.

        Example:
            >>> tg.nn.Linear(3, 2, rng=0).astype(np.float32).weight.dtype
            dtype('float32')
        """
        def converted(p):
            if p.dtype.kind != "f":
                return p
            new = Tensor(p.numpy().astype(dtype))
            new.requires_grad = p.requires_grad
            return new

        return trees.map(converted, self)

    # ---- states ---------------------------------------------------------------------------------------------

    def state_dict(self):
        """Copies of the parameters by name: what `load_state_dict`, `tg.files` and PyTorch's modules take."""
        return {name: np.array(p.numpy()) for name, p in self._tensors()}

    def load_state_dict(self, state, *, strict=True, cast=False):
        """Take over arrays by name. Everything is checked before anything is written.

        Shapes: `state` maps names to arrays of the parameters' shapes. A narrower float dtype is widened; a wider one
        is only narrowed with `cast=True`. With `strict=False` names that only one side has are passed over.

        Raises: StateError for missing or unexpected names, ShapeError and DtypeError for an array that does not fit;
        the module is then as it was.

        Example:
            >>> a, b = tg.nn.Linear(3, 2, rng=0), tg.nn.Linear(3, 2, rng=1)
            >>> a.load_state_dict(b.state_dict())
            >>> bool((a.weight.numpy() == b.weight.numpy()).all())
            True
        """
        who, own = f"{type(self).__name__}.load_state_dict(state)", dict(self._tensors())
        missing, unexpected = [n for n in own if n not in state], [n for n in state if n not in own]
        if strict and (missing or unexpected):
            facts = {"missing": ", ".join(missing) or "none", "unexpected": ", ".join(map(str, unexpected)) or "none"}
            raise StateError(message(who, "the names are not those of this module", facts,
                                     "Pass a state of the same architecture, or strict=False."))
        ready = {name: _fitting(who, name, p, state[name], cast) for name, p in own.items() if name in state}
        for name, values in ready.items():
            own[name].data = values

    # ---- modules in it --------------------------------------------------------------------------------------

    def modules(self):
        """This module and every module in it."""
        yield self
        for child in self.tree_children().values():
            yield from _modules_in(child)

    def train(self, mode=True):
        """Switch what behaves differently in training (dropout, zoneout) on; returns the module."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self):
        """Switch what behaves differently in training off; returns the module."""
        return self.train(False)

    def __repr__(self):
        count = sum(p.size for p in self.parameters())
        plural = "" if count == 1 else "s"
        lines = [f"{type(self).__name__}({', '.join(self._settings())}): {count:,} parameter{plural}"]
        rows = [row for name, child in self._members() for row in _rows(name, child)]
        width = max((len(name) for name, text in rows if text.startswith("(")), default=0)
        for name, text in rows:
            is_shape = text.startswith("(")
            lines.append(f"  {name:<{width}}  {text}" if is_shape else f"  {name}: " + text.replace("\n", "\n  "))
        return "\n".join(lines)

    def _members(self):
        return self.tree_children().items()

    def _settings(self):
        for name, _, default in (entry.partition("=") for entry in self.shown):
            value = repr(getattr(self, name))
            if value != default:
                yield f"{name}={value}" if default else value


def _modules_in(value):
    """The modules in a child: a function of its own, since a nested one that calls itself is a reference cycle at every
    call."""
    if isinstance(value, Module):
        yield from value.modules()
    elif isinstance(value, (list, tuple, dict)):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _modules_in(v)


def _rows(name, child):
    """Lines of a repr: a Tensor's shape, a module's own repr, a function's name, and those of the members of a container."""
    if isinstance(child, (list, tuple, dict)):
        pairs = child.items() if isinstance(child, dict) else enumerate(child)
        return [row for key, member in pairs for row in _rows(f"{name}.{key}", member)]
    if isinstance(child, Module) or not callable(child):
        return [(name, repr(child) if isinstance(child, Module) else str(np.shape(child)))]
    return [(name, getattr(child, "__name__", type(child).__name__))]


def check_sizes(who, **sizes):
    """Raise unless every size is a positive int.

    Raises: DomainError that names the parameter.
    """
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise DomainError(message(who, f"{name} is not a positive int", {name: repr(size)},
                                      f"Pass {name}=1 or more."))


def check_probability(who, **probabilities):
    """Raise unless every value is a number between 0 and 1.

    Raises: DomainError that names the parameter.
    """
    for name, p in probabilities.items():
        if isinstance(p, bool) or not isinstance(p, (int, float, np.number)) or not 0 <= p <= 1:
            raise DomainError(message(who, f"{name} is not a probability", {name: repr(p)},
                                      f"Pass {name} between 0 and 1."))


def _fitting(who, name, parameter, values, cast):
    """`values` as an array that the parameter can take."""
    values = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    facts = {name: f"{values.shape} {values.dtype}", "this module's": f"{parameter.shape} {parameter.dtype}"}
    if values.shape != parameter.shape:
        raise ShapeError(message(who, f"{name} has another shape than this module's", facts,
                                 "Pass a state of the same architecture."))
    if values.dtype.kind not in "fiu" or not (cast or np.can_cast(values.dtype, parameter.dtype, "safe")):
        raise DtypeError(message(who, f"{name} cannot be stored without loss", facts,
                                 "Pass cast=True to round, or make the module with the state's dtype."))
    return values.astype(parameter.dtype)
