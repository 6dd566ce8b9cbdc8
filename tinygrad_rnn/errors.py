"""Every exception the library raises on purpose, and the one form in which it speaks.

Knows how a message is laid out: who was called and what is wrong, the facts in two aligned columns, and
what to do about it. Refuses to know shapes, ops or cells: the caller brings the words, because the highest
floor that knows the user's names is the one that should speak. Nothing stands below it.

Each class is also the builtin that a reader would expect, so `except ValueError` keeps working.
"""


def message(who, what, facts=(), remedy=""):
    """Lay out an error text.

    Shapes: `facts` is a dict or a sequence of (name, value) pairs; values are shown with `str`.

    Example:
        >>> print(tg.errors.message("f(x)", "x is empty", {"x": (0, 3)}, "Pass at least one row."))
        f(x): x is empty
          x  (0, 3)
        Pass at least one row.
    """
    pairs = [(str(name), str(value)) for name, value in (facts.items() if isinstance(facts, dict) else facts)]
    width = max((len(name) for name, _ in pairs), default=0)
    lines = [f"{who}: {what}", *(f"  {name:<{width}}  {value}" for name, value in pairs)]
    return "\n".join([*lines, remedy] if remedy else lines)


class ShapeError(ValueError):
    """Shapes do not fit together, or an axis is none that the array has."""


class IndexingError(IndexError):
    """An index lies outside the array."""


class DtypeError(TypeError):
    """A dtype is not the one that is needed, and casting it silently would hide a mistake."""


class ArgumentError(TypeError):
    """A call does not have the arguments that its signature asks for."""


class DomainError(ValueError):
    """A value lies where the function is not defined, or an option has no such value."""


class RuleError(RuntimeError):
    """A derivative rule is misdeclared, or returned something that cannot be a cotangent."""


class GradientError(RuntimeError):
    """A derivative was asked for where there is none: no graph, a freed graph, no scalar."""


class LostGradientError(TypeError):
    """An operation would have dropped the gradient in silence."""


class TraceError(TypeError):
    """Python code looked at a value that exists only while a cell is traced."""


class StateError(ValueError):
    """A state, a checkpoint or a set of parameters does not fit what it is meant for."""


class NonFiniteError(FloatingPointError):
    """A NaN or an infinity was born where somebody asked to be told."""


class WorkerError(RuntimeError):
    """A worker died, or a part of the work could not be sent to it."""


class MissingExtraError(ImportError):
    """An optional dependency is needed for this call and is not installed."""
