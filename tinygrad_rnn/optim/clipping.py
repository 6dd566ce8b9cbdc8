"""Clipping: gradients held within a norm or within bounds, after the backward and before the step.

Knows norms over all gradients together, and parameters by name, so that a gradient that is not finite is an error
that says whose it is. Refuses to turn an infinite gradient into NaN. Below it: tensor, errors.
"""

import math

import numpy as np

from ..errors import ArgumentError, DomainError, NonFiniteError, message
from ..tensor import Tensor


def named(parameters, taken=()):
    """Parameters by name: of a module, a dict, pairs of name and Tensor, or Tensors, which are called by their number.

    Numbers begin behind those that are `taken`, a dict of others by name.

    Raises: ArgumentError when there are none, something is not a Tensor, or one Tensor or one name comes twice: it would
    move, or count, twice, or not at all.

    Example:
        >>> list(tg.optim.named([tg.tensor([1.0], requires_grad=True)]))
        ['0']
    """
    if hasattr(parameters, "named_parameters"):
        parameters = parameters.named_parameters()
    if isinstance(parameters, dict):
        parameters = parameters.items()
    pairs = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    pairs = [pair if isinstance(pair, tuple) else (str(i), pair) for i, pair in enumerate(pairs, len(taken))]
    seen, wrong = {id(p): name for name, p in dict(taken).items()}, None if pairs else "there are no parameters"
    for name, p in pairs:
        if not isinstance(p, Tensor):
            wrong = wrong or f"{name} is not a Tensor"
        elif id(p) in seen or name in seen.values():
            wrong = wrong or (f"{name} is the Tensor that {seen[id(p)]} is" if id(p) in seen else f"two are called {name}")
        seen[id(p)] = name
    if wrong:
        raise ArgumentError(message("named(parameters)", wrong, {"parameters": len(pairs)},
                                    "Pass model.parameters(), or the model."))
    return dict(pairs)


def check_finite(who, parameters):
    """Raise NonFiniteError for the first gradient that is not finite; nothing has been changed then."""
    for name, p in parameters.items():
        if p.grad is not None and not np.isfinite(p.grad).all():
            bad = p.grad[~np.isfinite(p.grad)]
            raise NonFiniteError(message(who, f"the gradient of parameter {name} is not finite",
                                         {name: p.shape, "elements": f"{bad.size} of {p.size}", "first": bad.flat[0]},
                                         "Nothing was changed. Look for the first non-finite value, lower the learning "
                                         "rate, or clip earlier."))


def clip_grad_norm_(parameters, max_norm, norm_type=2.0):
    """Scale all gradients together, so that the norm of all their elements is at most `max_norm`.

    Returns the norm before. As in PyTorch the scale is max_norm / (norm + 1e-6), and 1 where that is above 1.

    Raises: NonFiniteError, which names the parameter, for a gradient that is NaN or infinite: the scale would turn
    every gradient into NaN (PyTorch does that). No gradient is changed then. DomainError for a norm that is not one.

    Source: Pascanu et al., "On the difficulty of training recurrent neural networks" (2013).

    Example:
        >>> w = tg.tensor([3.0, 4.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> tg.optim.clip_grad_norm_([w], 1.0), w.grad.round(5).tolist()
        (10.0, [0.6, 0.8])
    """
    who, found = "clip_grad_norm_(parameters, max_norm)", named(parameters)
    if not (max_norm >= 0 and norm_type > 0):
        raise DomainError(message(who, "max_norm or norm_type is out of range",
                                  {"max_norm": max_norm, "norm_type": norm_type},
                                  "Pass max_norm ≥ 0 and norm_type > 0."))
    check_finite(who, found)
    grads = [p.grad for p in found.values() if p.grad is not None]
    top = max((float(np.abs(g).max(initial=0)) for g in grads), default=0.0)
    if top == 0 or math.isinf(norm_type):
        norm = top
    else:  # divided by the largest element, so that the powers do not overflow
        norm = top * float(sum(np.sum(np.abs(g / top) ** norm_type, dtype=float) for g in grads)) ** (1 / norm_type)
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        for p in found.values():
            if p.grad is not None:
                p.grad = p.grad * scale
    return norm


def clip_grad_value_(parameters, clip_value):
    """Hold every element of every gradient between −clip_value and clip_value. A NaN stays one, for `step` to name.

    Raises: DomainError for a negative clip_value.

    Example:
        >>> w = tg.tensor([3.0, -40.0], requires_grad=True)
        >>> (w * w).sum().backward(); tg.optim.clip_grad_value_([w], 10.0); w.grad.tolist()
        [6.0, -10.0]
    """
    if not clip_value >= 0:
        raise DomainError(message("clip_grad_value_(parameters, clip_value)", "clip_value is negative",
                                  {"clip_value": clip_value}, "Pass clip_value ≥ 0."))
    for p in named(parameters).values():
        if p.grad is not None:
            p.grad = np.clip(p.grad, -clip_value, clip_value)
