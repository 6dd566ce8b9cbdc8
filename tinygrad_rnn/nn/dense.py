"""Layers without time: Linear, Embedding, LayerNorm, Dropout, Sequential.

Knows their parameters, PyTorch's names and starting weights. Refuses to know recurrence. Below it: ops, module,
init, functional.
"""

import copy
import math

import numpy as np

from .. import ops
from ..errors import ArgumentError, DomainError, DtypeError, IndexingError, ShapeError, TraceError, message
from ..tensor import Tensor, mode, tensor
from . import init
from .cell import columns, fits, wrong_dtype
from .functional import dropout_mask, layer_norm, visible
from .module import Module, check_probability, check_sizes


def _checked(who, x, size, name, weight):
    """x as an array whose last axis and dtype are those of the weight, if there is one."""
    x = x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x)
    if x.shape[-1:] != (size,):
        raise ShapeError(message(who, f"x has {columns(x)} columns, this layer was made for {size}",
                                 {"x": x.shape, name: None if weight is None else weight.shape},
                                 f"Make the layer with size {columns(x)}, or feed it {size} columns."))
    if weight is not None and not fits(x, weight):
        raise wrong_dtype(who, "x", x, name, weight)
    return x


class Linear(Module):
    """y = x Wᵀ + b.

    Shapes: x (…, I), y (…, O); weight (O, I), bias (O,). Both start uniformly between ±1/√I, as in PyTorch.

    Raises: DomainError for sizes below 1, ShapeError and DtypeError for an x that does not fit.

    Example:
        >>> tg.nn.Linear(3, 2, rng=0)(np.ones((4, 3))).shape
        (4, 2)
    """

    shown = ("in_features", "out_features")

    def __init__(self, in_features, out_features, bias=True, *, dtype=np.float64, rng=None):
        check_sizes("Linear(in_features, out_features)", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        rng, bound = init.generator(rng), 1 / math.sqrt(in_features)
        self.weight = tensor(init.uniform(rng, (out_features, in_features), bound, dtype), requires_grad=True)
        self.bias = tensor(init.uniform(rng, (out_features,), bound, dtype), requires_grad=True) if bias else 0.0

    def __call__(self, x):
        return _checked("Linear(x)", x, self.in_features, "weight", self.weight) @ self.weight.T + self.bias


class Embedding(Module):
    """A row of the weight for each integer.

    `padding_idx` names a row that starts at zero and gets no gradient; −1 is the last.

    Shapes: x integers of any shape (…), y (…, D); weight (N, D), normal with deviation 1 at the start, as in PyTorch.

    Raises: DomainError for sizes below 1 or a `padding_idx` that is no row; DtypeError for an x that is not of integers,
    IndexingError for one outside 0 … N − 1 (negative ones too).

    Gradient: rows that are looked up twice get both.

    Example:
        >>> tg.nn.Embedding(10, 4, rng=0)(np.array([[1, 2, 3]])).shape
        (1, 3, 4)
    """

    shown = ("num_embeddings", "embedding_dim", "padding_idx=None")

    def __init__(self, num_embeddings, embedding_dim, padding_idx=None, *, dtype=np.float64, rng=None):
        check_sizes("Embedding(num_embeddings, embedding_dim)", num_embeddings=num_embeddings,
                    embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise DomainError(message("Embedding(…)", "padding_idx is not a row",
                                      {"padding_idx": padding_idx, "num_embeddings": num_embeddings},
                                      f"Pass padding_idx from 0 to {num_embeddings - 1}, or None."))
        values = init.normal(rng, (num_embeddings, embedding_dim), 1.0, dtype)
        self.padding_idx = None if padding_idx is None else range(num_embeddings)[padding_idx]
        if padding_idx is not None:
            values[padding_idx] = 0
        self.weight = tensor(values, requires_grad=True)

    def __call__(self, x):
        x, N = x if isinstance(x, Tensor) else np.asarray(x), self.num_embeddings
        if x.dtype.kind not in "iu":
            raise DtypeError(message("Embedding(x)", "x is not of integers", {"x": f"{x.shape} {x.dtype}"},
                                     "Pass the numbers of the rows."))
        seen = visible(x)
        if seen is not None and (wrong := seen[(seen < 0) | (seen >= N)]).size:
            raise IndexingError(message("Embedding(x)", f"x asks for row {wrong[0]}, there are {N}",
                                        {"x": x.shape, "weight": self.weight.shape},
                                        f"Pass integers from 0 to {N - 1}."))
        rows = ops.take(self.weight, x, axis=0)
        if self.padding_idx is None:
            return rows
        return ops.where(ops.expand_dims(ops.equal(x, self.padding_idx), -1), ops.stop_gradient(rows), rows)


class LayerNorm(Module):
    """Normalisation over the last axis, with a scale and a shift; see `functional.layer_norm`.

    `elementwise_affine=False` leaves out both, `bias=False` the shift.

    Shapes: x and y (…, n), n = normalized_shape, which may be written (n,); weight, ones at the start, and bias, zeros,
    (n,).

    Raises: DomainError for a size below 1, ShapeError and DtypeError for an x that does not fit.

    Example:
        >>> tg.nn.LayerNorm(2, eps=0.0)(np.array([1.0, 3.0])).numpy()
        array([-1.,  1.])
    """

    shown = ("size", "eps=1e-05")

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, *, dtype=np.float64):
        size = normalized_shape
        size = size[0] if isinstance(size, (tuple, list)) and len(size) == 1 else size
        check_sizes("LayerNorm(normalized_shape)", normalized_shape=size)
        self.size, self.eps = size, eps
        self.weight = tensor(np.ones(size, dtype), requires_grad=True) if elementwise_affine else None
        self.bias = tensor(np.zeros(size, dtype), requires_grad=True) if elementwise_affine and bias else None

    def __call__(self, x):
        x = _checked("LayerNorm(x)", x, self.size, "weight", self.weight)
        return layer_norm(x, self.weight, self.bias, self.eps)


class Dropout(Module):
    """In training: elements set to 0 with probability p, the others scaled by 1 / (1 − p). After `eval()`: x itself.

    Each call draws one mask from the module's own generator, which the backward uses again. A cell cannot hold one: its
    mask would be drawn once for all steps. Draw `functional.dropout_mask` outside and pass it in xs, or use
    `Recurrent(dropout=)`.

    Raises: DomainError for a p outside 0 … 1, TraceError when called while a cell is traced.

    Gradient: g times the mask.

    Source: Srivastava et al., "Dropout" (2014).

    Example:
        >>> layer = tg.nn.Dropout(0.5, rng=0)
        >>> sorted(set(layer(np.ones(100)).tolist())), layer.eval()(np.ones(2)).tolist()
        ([0.0, 2.0], [1.0, 1.0])
    """

    shown = ("p",)

    def __init__(self, p=0.5, *, rng=None):
        check_probability("Dropout(p)", p=p)
        self.p, self.rng = p, init.generator(rng)

    def __call__(self, x):
        if not self.training or self.p == 0:
            return x
        if (now := mode.get()).tracing:
            raise TraceError(message(
                "Dropout(x)", "called in a traced cell, where one mask would be drawn for all steps",
                {"traced in": now.recorder.name},
                "Draw functional.dropout_mask outside and pass it as a part of xs, or use Recurrent(dropout=)."))
        x = x if isinstance(x, Tensor) else np.asarray(x)
        return x * dropout_mask(self.rng, x.shape, self.p, x.dtype)


class Sequential(Module):
    """Layers one after the other: each gets what the one before returned.

    A recurrent layer returns (output, state); make it with `return_state=False` to hand on the output alone.

    Raises: ArgumentError for a layer that cannot be called.

    Example:
        >>> model = tg.nn.Sequential(tg.nn.Linear(3, 4, rng=0), tg.tanh, tg.nn.Linear(4, 2, rng=1))
        >>> model(np.ones((5, 3))).shape, list(model.state_dict())
        ((5, 2), ['0.weight', '0.bias', '2.weight', '2.bias'])
    """

    def __init__(self, *layers):
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise ArgumentError(message("Sequential(*layers)", f"layer {i} cannot be called",
                                            {f"layers[{i}]": type(layer).__name__},
                                            "Pass the layers one by one: Sequential(*layers) for a list."))
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def _members(self):
        return enumerate(self.layers)

    def __getitem__(self, i):
        return self.layers[i]

    def __len__(self):
        return len(self.layers)

    def tree_children(self):
        """The layers under their numbers, as PyTorch names them; a plain function is configuration."""
        return {str(i): layer for i, layer in enumerate(self.layers) if hasattr(type(layer), "tree_children")}

    def tree_replace(self, children):
        """A copy with other layers in these places."""
        new = copy.copy(self)
        new.layers = tuple(children.get(str(i), layer) for i, layer in enumerate(self.layers))
        return new
