"""Schedules: the learning rate as a function of the number of steps.

Knows the functions that PyTorch's schedulers of the same names compute, each in closed form, so that a run can be
resumed at any step. Refuses to know gradients. Below it: errors, and the optimiser that it is given.
"""

import math

from ..errors import DomainError, message


class Schedule:
    """A learning rate as a function of the number of `step()` calls: lr = rate(lr at the start, t), in every group.

    Every schedule here is one such function, so a run is resumed by making the optimiser and the schedule as at the
    start and assigning `t`.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.Schedule(optimizer, lambda lr, t: lr / (1 + t))
        >>> schedule.step(); optimizer.lr
        0.5
        >>> schedule.t = 3; optimizer.lr
        0.25
    """

    def __init__(self, optimizer, rate):
        self.optimizer, self.rate = optimizer, rate
        self.bases = [group["lr"] for group in optimizer.param_groups]
        self.t = 0

    @property
    def t(self):
        """How many steps (or epochs) there have been; to assign it is to set the learning rates."""
        return self._t

    @t.setter
    def t(self, t):
        self._t = t
        for group, base in zip(self.optimizer.param_groups, self.bases):
            group["lr"] = self.rate(base, t)

    def step(self):
        """One step (or epoch) further: set the optimiser's learning rates."""
        self.t += 1


def _check(who, **counts):
    for name, count in counts.items():
        if not count > 0:
            raise DomainError(message(who, f"{name} is not positive", {name: count}, f"Pass {name}=1 or more."))


def LambdaLR(optimizer, lr_lambda):
    """lr · lr_lambda(t).

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.LambdaLR(optimizer, lambda t: 1 / (1 + t))
        >>> schedule.step(); optimizer.lr
        0.5
    """
    return Schedule(optimizer, lambda lr, t: lr * lr_lambda(t))


def StepLR(optimizer, step_size, gamma=0.1):
    """lr · γ for every `step_size` steps.

    Raises: DomainError for a `step_size` that is not positive.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.StepLR(optimizer, 1, 0.5)
        >>> schedule.step(); optimizer.lr
        0.5
    """
    _check("StepLR(optimizer, step_size)", step_size=step_size)
    return Schedule(optimizer, lambda lr, t: lr * gamma ** (t // step_size))


def MultiStepLR(optimizer, milestones, gamma=0.1):
    """lr · γ for every milestone that t has reached.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.MultiStepLR(optimizer, [1, 4], 0.5)
        >>> schedule.step(); optimizer.lr
        0.5
    """
    return Schedule(optimizer, lambda lr, t: lr * gamma ** sum(t >= m for m in milestones))


def ExponentialLR(optimizer, gamma):
    """lr · γᵗ.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.ExponentialLR(optimizer, 0.5)
        >>> schedule.step(); optimizer.lr
        0.5
    """
    return Schedule(optimizer, lambda lr, t: lr * gamma**t)


def LinearLR(optimizer, start_factor=1 / 3, end_factor=1.0, total_iters=5):
    """lr times a factor that goes straight from one to the other in `total_iters` steps: a warm-up.

    Raises: DomainError for a `total_iters` that is not positive.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.LinearLR(optimizer, 0.0, 1.0, 4)
        >>> schedule.step(); optimizer.lr
        0.25
    """
    _check("LinearLR(optimizer)", total_iters=total_iters)
    rise = (end_factor - start_factor) / total_iters
    return Schedule(optimizer, lambda lr, t: lr * (start_factor + rise * min(t, total_iters)))


def CosineAnnealingLR(optimizer, T_max, eta_min=0.0):
    """Half a cosine from lr down to `eta_min` in `T_max` steps.

    Raises: DomainError for a `T_max` that is not positive.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.CosineAnnealingLR(optimizer, 2)
        >>> schedule.step(); optimizer.lr
        0.5
    """
    _check("CosineAnnealingLR(optimizer, T_max)", T_max=T_max)
    return Schedule(optimizer, lambda lr, t: eta_min + (lr - eta_min) * (1 + math.cos(math.pi * t / T_max)) / 2)
