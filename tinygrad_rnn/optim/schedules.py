"""Schedules: the learning rate as a function of the number of steps.

Knows the functions that PyTorch's schedulers of the same names compute, each in closed form, so that a run can be
resumed at any step. Refuses to know gradients. Nothing stands below it but the optimiser it is given.
"""

import math


class Schedule:
    """A learning rate as a function of the number of `step()` calls: lr = rate(lr at the start, t).

    Every schedule here is one such function, so a run can be resumed by setting `t`.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.Schedule(optimizer, lambda lr, t: lr / (1 + t))
        >>> schedule.step(); optimizer.lr
        0.5
    """

    def __init__(self, optimizer, rate):
        self.optimizer, self.rate, self.base, self.t = optimizer, rate, optimizer.lr, 0
        optimizer.lr = rate(self.base, 0)

    def step(self):
        """One step (or epoch) further: set the optimiser's learning rate."""
        self.t += 1
        self.optimizer.lr = self.rate(self.base, self.t)


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

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.StepLR(optimizer, 1, 0.5)
        >>> schedule.step(); optimizer.lr
        0.5
    """
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

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.LinearLR(optimizer, 0.0, 1.0, 4)
        >>> schedule.step(); optimizer.lr
        0.25
    """
    return Schedule(optimizer, lambda lr,
                    t: lr * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters))


def CosineAnnealingLR(optimizer, T_max, eta_min=0.0):
    """Half a cosine from lr down to `eta_min` in `T_max` steps.

    Example:
        >>> optimizer = tg.optim.SGD([tg.tensor([1.0], requires_grad=True)], lr=1.0)
        >>> schedule = tg.optim.CosineAnnealingLR(optimizer, 2)
        >>> schedule.step(); optimizer.lr
        0.5
    """
    return Schedule(optimizer, lambda lr, t: eta_min + (lr - eta_min) * (1 + math.cos(math.pi * t / T_max)) / 2)
