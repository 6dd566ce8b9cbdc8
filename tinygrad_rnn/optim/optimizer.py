"""Optimizer: what all optimisers share: parameters by name, groups with settings of their own, one step for all or none.

Knows names, groups, and what goes to disk. Refuses to know models and losses, how a parameter moves, and to take a step
along a NaN. Below it: clipping (names and the check that gradients are finite), errors, tensor.

An optimiser of your own is one function, `update(p, g, memory, **settings)`: arrays in, the new parameter out.

    class Sign(tg.optim.Optimizer):
        def __init__(self, params, lr=0.01):
            super().__init__(params, lr=lr)

        def update(self, p, g, memory, lr):
            return p - lr * np.sign(g)

One that keeps arrays in `memory` from step to step names them in `remembers`, for files. Steps rebind `.data`; nothing
that a graph still needs is written to.
"""

import math

import numpy as np

from ..errors import ArgumentError, DomainError, ShapeError, StateError, message
from ..tensor import Leaf, Tensor
from .clipping import check_finite, named


class Optimizer:
    """What all optimisers share: parameters by name, memory for each, one step for all or none.

    `params` is a module, its parameters, or groups with settings of their own, `[{"params": …, "lr": 0.1}, …]`; the
    groups are then in `param_groups`, as dicts of "params", "param_names" and every setting, any of which may be
    assigned between steps. `lr` is that of the first group; to assign it is to assign all.

    Raises: ArgumentError for no parameters, one that is the result of a call, or two that are one Tensor or have one
    name; DomainError for a setting out of range; `step` raises NonFiniteError that names the parameter, before anything
    is changed, when a gradient is NaN or infinite.

    Example:
        >>> w, b = tg.tensor([1.0], requires_grad=True), tg.tensor([1.0], requires_grad=True)
        >>> optimizer = tg.optim.SGD([{"params": [w]}, {"params": [b], "lr": 0.25}], lr=0.5)
        >>> (w * w + b * b).sum().backward(); optimizer.step(); w.tolist(), b.tolist()
        ([0.0], [0.5])
    """

    remembers = ()  # what `update` keeps in a parameter's memory

    def __init__(self, params, **defaults):
        self.defaults, self.param_groups, self.parameters, self.memory = defaults, [], {}, {}
        if not (isinstance(params, (dict, Tensor)) or hasattr(params, "named_parameters")):
            params = list(params)
        groups = isinstance(params, list) and any(isinstance(group, dict) for group in params)
        for group in params if groups else [{"params": params}]:
            self.add_param_group(group)

    def add_param_group(self, group):
        """Take in more parameters, with the settings that the group says and the defaults for the others.

        Raises: ArgumentError and DomainError as the constructor does; nothing is taken in then.
        """
        who = f"{type(self).__name__}(…)"
        if not isinstance(group, dict) or "params" not in group or not group.keys() <= {"params", *self.defaults}:
            seen = ", ".join(map(str, group)) if isinstance(group, dict) else type(group).__name__
            raise ArgumentError(message(who, "a group is not a dict of params and settings", {"group": seen},
                                        f'Pass dicts of "params" and any of {", ".join(self.defaults)}.'))
        settings = {**self.defaults, **group}
        found = named(settings.pop("params"), taken=self.parameters)
        self.check(who, settings)
        for name, p in found.items():
            if p.requires_grad and not isinstance(p._node, Leaf):
                raise ArgumentError(message(who, f"parameter {name} is the result of a call",
                                            {name: p.shape, "made by": p._node.plan},
                                            "Pass the leaf that it was made of: only leaves hold a gradient."))
        self.param_groups.append({"params": list(found.values()), "param_names": list(found), **settings})
        self.parameters |= found
        self.memory |= {name: {} for name in found}

    def check(self, who, settings):
        """Raise DomainError for a setting that is no number, or out of range."""
        for name, value in settings.items():
            below_one = name in ("betas", "alpha")
            if not all(isinstance(v, (int, float, np.number)) and 0 <= v < (1 if below_one else math.inf)
                       for v in (value if isinstance(value, (tuple, list)) else (value,))):
                raise DomainError(message(who, f"{name} is out of range", {name: value},
                                          f"Pass {name} at least 0{' and below 1' if below_one else ''}."))

    @property
    def lr(self):
        """The learning rate, of the first group."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value):
        for group in self.param_groups:
            group["lr"] = value

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
        for group in self.param_groups:
            settings = {name: _weak(group[name]) for name in self.defaults}
            for name, p in zip(group["param_names"], group["params"]):
                if p.grad is not None:
                    p.data = self.update(p.data, p.grad, self.memory[name], **settings)

    def update(self, p, g, memory, **settings):
        """The new values of a parameter, from its values, its gradient and what is remembered for it."""
        raise NotImplementedError

    def state_dict(self):
        """A flat dict of arrays, what `load_state_dict` and `tg.files` take: each setting, a row for each group, and
        "name/what is remembered" for each parameter."""
        rows = {f"{name}/{key}": np.array(value)
                for name, memory in self.memory.items() for key, value in memory.items()}
        return {**{name: np.array([group[name] for group in self.param_groups], float) for name in self.defaults}, **rows}

    def load_state_dict(self, state):
        """Take over what `state_dict` gave. Everything is checked before anything is changed.

        Raises: StateError for names that this optimiser does not have, ShapeError for arrays of another shape,
        DomainError for a setting out of range.
        """
        who, memory = f"{type(self).__name__}.load_state_dict(state)", {name: {} for name in self.parameters}
        groups = [{} for _ in self.param_groups]
        for key, value in state.items():
            value, shape, (name, _, what) = np.asarray(value), self._shape(key), key.rpartition("/")
            if shape is None:
                facts = {"settings": ", ".join(self.defaults), "parameters": ", ".join(memory),
                         "remembers": ", ".join(self.remembers) or "nothing"}
                raise StateError(message(who, f"this optimiser has no {key}", facts,
                                         "Make an optimiser of the same kind for the same model."))
            if value.shape != shape or value.dtype.kind not in "fiu":
                raise ShapeError(message(who, f"{key} does not have the shape that it has here",
                                         {key: f"{value.shape} {value.dtype}", "here": shape},
                                         "Make an optimiser of the same kind, with the same groups, for the same model."))
            if key in self.defaults:
                kind = type(self.defaults[key])
                for group, row in zip(groups, value.tolist()):
                    group[key] = kind(row) if kind in (tuple, bool) else row
            else:
                memory[name][what] = int(value) if what == "step" else value.astype(self.parameters[name].dtype)
        for group, settings in zip(self.param_groups, groups):
            self.check(who, {name: settings.get(name, group[name]) for name in self.defaults})
        self.memory = memory
        for group, settings in zip(self.param_groups, groups):
            group.update(settings)

    def _shape(self, key):
        """The shape of an entry of this optimiser's state, None for what it does not have."""
        if key in self.defaults:
            return (len(self.param_groups), *np.shape(self.defaults[key]))
        name, _, what = key.rpartition("/")
        if name not in self.parameters or what not in self.remembers:
            return None
        return () if what == "step" else self.parameters[name].shape


def _weak(setting):
    """A NumPy scalar as the Python number that it is: it would turn the step of a float32 parameter into float64."""
    return setting.item() if isinstance(setting, np.generic) else setting
