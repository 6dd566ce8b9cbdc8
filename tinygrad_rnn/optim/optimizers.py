"""Optimisers: SGD, RMSProp, Adagrad, Adam, AdamW, step by step as PyTorch's of the same names.

Knows how a parameter moves along its gradient. Refuses to know models and losses, and to take a step along a NaN.
Below it: clipping (names and the check that gradients are finite), errors.

An optimiser is one function, `update(p, g, memory)`: arrays in, the new parameter out, with a dict of what it
remembers for that parameter. Steps rebind `.data`; nothing that a graph still needs is written to.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DomainError, ShapeError, StateError, message
from .clipping import check_finite, named


class Optimizer:
    """What all optimisers share: parameters by name, memory for each, one step for all or none.

    `lr` may be assigned between steps; schedules do.

    Raises: ArgumentError for no parameters, DomainError for a setting out of range; `step` raises NonFiniteError that
    names the parameter, before anything is changed, when a gradient is NaN or infinite.

    Example:
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.SGD([w], lr=0.5)
        >>> (w * w).sum().backward(); optimizer.step(); w.tolist()
        [0.0]
    """

    def __init__(self, params, lr, **settings):
        self.parameters, self.lr = named(params), lr
        self.__dict__.update(settings)
        self.memory = {name: {} for name in self.parameters}
        who = f"{type(self).__name__}(…)"
        for name, value in {"lr": lr, **settings}.items():
            numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if v is not None]
            below_one = name in ("betas", "alpha")
            if any(not (0 <= v and (v < 1 or not below_one)) for v in numbers):
                raise DomainError(message(who, f"{name} is out of range", {name: value},
                                          f"Pass {name} at least 0{' and below 1' if below_one else ''}."))

    if TYPE_CHECKING:  # settings are attributes
        def __getattr__(self, name: str) -> Any: ...

    def __repr__(self):
        count = sum(p.size for p in self.parameters.values())
        return f"{type(self).__name__}(lr={self.lr}): {len(self.parameters)} parameters of {count:,} numbers"

    def zero_grad(self):
        """Forget all gradients."""
        for p in self.parameters.values():
            if p.grad is not None:
                p.grad = None

    def step(self):
        """Move every parameter that has a gradient."""
        check_finite(f"{type(self).__name__}.step()", self.parameters)
        for name, p in self.parameters.items():
            if p.grad is not None:
                p.data = self.update(p.data, p.grad, self.memory[name])

    def update(self, p, g, memory):
        """The new values of a parameter, from its values, its gradient and what is remembered for it."""
        raise NotImplementedError

    def state_dict(self):
        """A flat dict of arrays, "lr" and "name/what is remembered": what `load_state_dict` and `tg.files` take."""
        rows = {f"{name}/{key}": np.array(value)
                for name, memory in self.memory.items() for key, value in memory.items()}
        return {"lr": np.array(self.lr, float), **rows}

    def load_state_dict(self, state):
        """Take over what `state_dict` gave. Everything is checked before anything is changed.

        Raises: StateError for names that are no parameter's, ShapeError for arrays of another shape.
        """
        who, memory = f"{type(self).__name__}.load_state_dict(state)", {name: {} for name in self.parameters}
        for key, value in state.items():
            name, _, what = key.rpartition("/")
            value = np.asarray(value)
            if key == "lr":
                continue
            if name not in memory:
                raise StateError(message(who, f"{key} belongs to no parameter of this optimiser",
                                         {"parameters": ", ".join(memory)}, "Make the optimiser for the same model."))
            if value.ndim and value.shape != self.parameters[name].shape:
                raise ShapeError(message(who, f"{key} has another shape than its parameter",
                                         {key: value.shape, name: self.parameters[name].shape},
                                         "Make the optimiser for the same model."))
            memory[name][what] = int(value) if what == "step" else value.astype(self.parameters[name].dtype)
        self.memory, self.lr = memory, float(state.get("lr", self.lr))


def _counted(memory):
    memory["step"] = memory.get("step", 0) + 1
    return memory["step"]


def _decayed(mean, g, beta):
    """Running mean: β mean + (1 − β) g, starting from 0."""
    return (1 - beta) * g if mean is None else beta * mean + (1 - beta) * g


class SGD(Optimizer):
    """Gradient descent: p = p − lr g.

    With momentum μ: b = μ b + (1 − dampening) g, at first b = g, and p = p − lr b; Nesterov's takes g + μ b for b.
    Weight decay λ adds λ p to the gradient.

    Raises: DomainError for a setting out of range, or `nesterov` without momentum or with dampening.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013);
    torch.optim.SGD.

    Example:
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.SGD([w], lr=0.1, momentum=0.9)
        >>> (w * w).sum().backward(); optimizer.step(); w.tolist()
        [0.8]
    """

    def __init__(self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
        super().__init__(params, lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
                         nesterov=nesterov)
        if nesterov and (not momentum or dampening):
            raise DomainError(message("SGD(…)", "nesterov needs momentum and no dampening",
                                      {"momentum": momentum, "dampening": dampening}, "Pass momentum=0.9."))

    def update(self, p, g, memory):
        g = g + self.weight_decay * p if self.weight_decay else g
        if self.momentum:
            b = memory.get("momentum")
            b = memory["momentum"] = g if b is None else self.momentum * b + (1 - self.dampening) * g
            g = g + self.momentum * b if self.nesterov else b
        return p - self.lr * g


class RMSProp(Optimizer):
    """Steps divided by a running root mean square: v = α v + (1 − α) g², p = p − lr g / (√v + ε).

    `centered` takes the running mean's square from v; momentum μ moves along b = μ b + g / (√v + ε).

    Source: Hinton's lecture 6e (2012); Graves (2013), centered; torch.optim.RMSprop.

    Example:
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.RMSProp([w], lr=0.1, alpha=0.0)
        >>> (w * w).sum().backward(); optimizer.step(); w.numpy().round(6).tolist()
        [0.9]
    """

    def __init__(self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
        super().__init__(params, lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                         centered=centered)

    def update(self, p, g, memory):
        g = g + self.weight_decay * p if self.weight_decay else g
        v = memory["square"] = _decayed(memory.get("square"), g * g, self.alpha)
        if self.centered:
            m = memory["mean"] = _decayed(memory.get("mean"), g, self.alpha)
            v = v - m * m
        g = g / (np.sqrt(v) + self.eps)
        if self.momentum:
            g = memory["momentum"] = self.momentum * memory.get("momentum", 0.0) + g
        return p - self.lr * g


RMSprop = RMSProp  # as PyTorch spells it


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squares.

    s = s + g²;  p = p − lr / (1 + (t − 1) lr_decay) g / (√s + ε)

    Source: Duchi et al., "Adaptive subgradient methods" (2011); torch.optim.Adagrad.

    Example:
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.Adagrad([w], lr=0.1)
        >>> (w * w).sum().backward(); optimizer.step(); w.numpy().round(6).tolist()
        [0.9]
    """

    def __init__(self, params, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10):
        super().__init__(params, lr, lr_decay=lr_decay, weight_decay=weight_decay,
                         initial_accumulator_value=initial_accumulator_value, eps=eps)

    def update(self, p, g, memory):
        g = g + self.weight_decay * p if self.weight_decay else g
        lr = self.lr / (1 + (_counted(memory) - 1) * self.lr_decay)
        s = memory["square"] = memory.get("square", self.initial_accumulator_value) + g * g
        return p - lr * g / (np.sqrt(s) + self.eps)


class Adam(Optimizer):
    """Steps along a running mean, divided by a running root mean square, both corrected for their start at 0.

    m = β₁ m + (1 − β₁) g;  v = β₂ v + (1 − β₂) g²;  p = p − lr m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε)

    Weight decay λ adds λ p to the gradient; with `amsgrad` v is the largest so far.

    Source: Kingma and Ba, "Adam" (2014); Reddi et al. (2018), amsgrad; torch.optim.Adam.

    Example:
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.Adam([w], lr=0.1)
        >>> (w * w).sum().backward(); optimizer.step(); w.numpy().round(6).tolist()
        [0.9]
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)

    def update(self, p, g, memory):
        g = g + self.weight_decay * p if self.weight_decay else g
        return p - self.lr * self.direction(g, memory)

    def direction(self, g, memory):
        """What the learning rate multiplies."""
        (b1, b2), t = self.betas, _counted(memory)
        m = memory["mean"] = _decayed(memory.get("mean"), g, b1)
        v = memory["square"] = _decayed(memory.get("square"), g * g, b2)
        if self.amsgrad:
            v = memory["largest"] = np.maximum(memory.get("largest", 0.0), v)
        return m / (1 - b1**t) / (np.sqrt(v) / math.sqrt(1 - b2**t) + self.eps)


class AdamW(Adam):
    """Adam whose weight decay λ acts on the parameter and not through the gradient.

    p = p (1 − lr λ) − lr (Adam's direction)

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization" (2017); torch.optim.AdamW.

    Example:
        >>> w = tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.AdamW([w], lr=0.1)
        >>> (w * w).sum().backward(); optimizer.step(); w.numpy().round(6).tolist()
        [0.899]
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)

    def update(self, p, g, memory):
        return p * (1 - self.lr * self.weight_decay) - self.lr * self.direction(g, memory)
