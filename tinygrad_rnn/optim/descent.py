"""Descent: SGD, RMSProp, Adagrad, Adam, AdamW, step by step as PyTorch's of the same names.

Knows how a parameter moves along its gradient: each is a function from arrays to the new array, with a dict of what it
remembers for that parameter. Refuses to know names, groups and files: `optimizer` does. Below it: optimizer, errors.
"""

import math

import numpy as np

from ..errors import DomainError, message
from .optimizer import Optimizer


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

    remembers = ("momentum",)

    def __init__(self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
        super().__init__(params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
                         nesterov=nesterov)

    def check(self, who, settings):
        super().check(who, settings)
        if settings.get("nesterov") and (not settings["momentum"] or settings["dampening"]):
            raise DomainError(message(who, "nesterov needs momentum and no dampening",
                                      {name: settings[name] for name in ("momentum", "dampening")}, "Pass momentum=0.9."))

    def update(self, p, g, memory, lr, momentum, dampening, weight_decay, nesterov):
        g = g + weight_decay * p if weight_decay else g
        if momentum:
            b = memory.get("momentum")
            b = memory["momentum"] = g if b is None else momentum * b + (1 - dampening) * g
            g = g + momentum * b if nesterov else b
        return p - lr * g


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

    remembers = ("square", "mean", "momentum")

    def __init__(self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False):
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                         centered=centered)

    def update(self, p, g, memory, lr, alpha, eps, weight_decay, momentum, centered):
        g = g + weight_decay * p if weight_decay else g
        v = memory["square"] = _decayed(memory.get("square"), g * g, alpha)
        if centered:
            m = memory["mean"] = _decayed(memory.get("mean"), g, alpha)
            v = v - m * m
        g = g / (np.sqrt(v) + eps)
        if momentum:
            g = memory["momentum"] = momentum * memory.get("momentum", 0.0) + g
        return p - lr * g


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

    remembers = ("step", "square")

    def __init__(self, params, lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10):
        super().__init__(params, lr=lr, lr_decay=lr_decay, weight_decay=weight_decay,
                         initial_accumulator_value=initial_accumulator_value, eps=eps)

    def update(self, p, g, memory, lr, lr_decay, weight_decay, initial_accumulator_value, eps):
        g = g + weight_decay * p if weight_decay else g
        lr = lr / (1 + (_counted(memory) - 1) * lr_decay)
        s = memory["square"] = memory.get("square", initial_accumulator_value) + g * g
        return p - lr * g / (np.sqrt(s) + eps)


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

    remembers = ("step", "mean", "square", "largest")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)

    def update(self, p, g, memory, lr, betas, eps, weight_decay, amsgrad):
        g = g + weight_decay * p if weight_decay else g
        return p - lr * self.direction(g, memory, betas, eps, amsgrad)

    def direction(self, g, memory, betas, eps, amsgrad):
        """What the learning rate multiplies."""
        (b1, b2), t = betas, _counted(memory)
        m = memory["mean"] = _decayed(memory.get("mean"), g, b1)
        v = memory["square"] = _decayed(memory.get("square"), g * g, b2)
        if amsgrad:
            v = memory["largest"] = np.maximum(memory.get("largest", 0.0), v)
        return m / (1 - b1**t) / (np.sqrt(v) / math.sqrt(1 - b2**t) + eps)


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

    def update(self, p, g, memory, lr, betas, eps, weight_decay, amsgrad):
        return p * (1 - lr * weight_decay) - lr * self.direction(g, memory, betas, eps, amsgrad)
