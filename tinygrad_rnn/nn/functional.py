"""Functions of layers: losses, layer normalisation, the masks of dropout.

Knows the losses as PyTorch names and reduces them, stable at ±1e3. Refuses to hide a NaN (what is not a number in
the input is not one in the loss) and to broadcast a prediction against a target, which gives a wrong loss in
silence. Below it: ops, errors.

`reduction` is "mean", "sum" or "none". A mean over nothing is an error, not NaN.
"""

import math
from typing import Any

import numpy as np

from .. import ops
from ..errors import DomainError, DtypeError, IndexingError, ShapeError, message
from ..tensor import Tensor, traced
from .init import generator


def _reduced(who, loss, reduction, weight=None):
    """`loss` summed, averaged (over the sum of `weight` if there is one) or left alone."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return ops.sum(loss)
    if reduction != "mean":
        raise DomainError(message(who, "there is no such reduction", {"reduction": repr(reduction)},
                                  'Use "mean", "sum" or "none".'))
    if math.prod(loss.shape) == 0 or weight is not None and visible(weight) is not None and not np.any(visible(weight)):
        raise DomainError(message(who, "the mean is over nothing",
                                  {"elements": loss.shape, "weight": 0 if weight is not None else 1},
                                  'Pass at least one element that counts, or reduction="sum".'))
    return ops.mean(loss) if weight is None else ops.sum(loss) / ops.sum(weight)


def visible(x):
    """The values of x if they may be looked at, None for those of one step of a traced cell.

    Example:
        >>> tg.nn.functional.visible(tg.tensor([1.0]))
        array([1.])
    """
    if not isinstance(x, Tensor):
        return np.asarray(x)
    return None if traced(x) else x.numpy()


def _same_shape(who, prediction, target):
    prediction, target = (x if isinstance(x, (Tensor, np.ndarray)) else np.asarray(x) for x in (prediction, target))
    if prediction.shape != target.shape:
        raise ShapeError(message(who, "prediction and target have different shapes",
                                 {"prediction": prediction.shape, "target": target.shape},
                                 "Give both one shape: broadcasting would compare every row with every other."))
    return prediction, target


def mse_loss(prediction, target, reduction="mean"):
    """Mean squared error: (prediction − target)².

    Shapes: both alike; the loss is () or, for "none", like them.

    Raises: ShapeError when the shapes differ, DomainError for another reduction.

    Gradient: smooth; 2 (prediction − target) / n.

    Example:
        >>> float(tg.nn.functional.mse_loss(np.array([1.0, 3.0]), np.zeros(2)))
        5.0
    """
    prediction, target = _same_shape("mse_loss(prediction, target)", prediction, target)
    return _reduced("mse_loss(prediction, target)", ops.square(prediction - target), reduction)


def half_squared_error(prediction, target, reduction="sum"):
    """½ Σ (prediction − target)²: the loss whose gradient is the error itself.

    Shapes: both alike; the loss is () or, for "none", like them.

    Raises: ShapeError when the shapes differ, DomainError for another reduction.

    Gradient: smooth; prediction − target.

    Example:
        >>> float(tg.nn.functional.half_squared_error(np.array([1.0, 3.0]), np.zeros(2)))
        5.0
    """
    prediction, target = _same_shape("half_squared_error(prediction, target)", prediction, target)
    return _reduced("half_squared_error(prediction, target)", 0.5 * ops.square(prediction - target), reduction)


def huber_loss(prediction, target, reduction="mean", delta=1.0):
    """Huber's loss: ½ d² for |d| ≤ δ, else δ (|d| − ½ δ), with d = prediction − target.

    Shapes: both alike; the loss is () or, for "none", like them.

    Raises: ShapeError when the shapes differ, DomainError for another reduction or a delta that is not positive.

    Gradient: d held between −δ and δ; the second derivative at ±δ is that of the linear part, 0.

    Source: Huber, "Robust estimation of a location parameter" (1964).

    Example:
        >>> tg.nn.functional.huber_loss(np.array([0.5, 3.0]), np.zeros(2), "none")
        array([0.125, 2.5  ])
    """
    who = "huber_loss(prediction, target)"
    if not delta > 0:
        raise DomainError(message(who, "delta is not positive", {"delta": delta}, "Pass delta > 0."))
    prediction, target = _same_shape(who, prediction, target)
    d = prediction - target
    held = ops.clip(d, -delta, delta)
    return _reduced(who, held * (d - 0.5 * held), reduction)


def binary_cross_entropy_with_logits(logits, target, weight=None, reduction="mean", pos_weight=None):
    """Cross-entropy of yes-or-no targets: −p t log σ(x) − (1 − t) log(1 − σ(x)), times `weight`.

    Shapes: logits x and target t alike; `weight` and `pos_weight` p broadcast against them.

    Raises: ShapeError when the shapes differ, DomainError for another reduction.

    Gradient: w (σ(x) − t) for p = 1. Value and gradient are 0 where an infinite logit is right (PyTorch: nan), the
    value is infinite where it is wrong.

    Example:
        >>> x, t = np.array([np.inf, -1000.0]), np.array([1.0, 1.0])
        >>> tg.nn.functional.binary_cross_entropy_with_logits(x, t, reduction="none")
        array([   0., 1000.])
    """
    who = "binary_cross_entropy_with_logits(logits, target)"
    x, t = _same_shape(who, logits, target)
    agrees = ops.logical_or(ops.logical_and(ops.equal(x, np.inf), ops.equal(t, 1)),
                            ops.logical_and(ops.equal(x, -np.inf), ops.equal(t, 0)))
    x = ops.where(agrees, 0.0, x)  # guards the argument as well: 0 · inf in the side that is not taken is nan
    yes = t * ops.softplus(-x)
    if pos_weight is not None:
        yes = yes * pos_weight
    loss = ops.where(agrees, 0.0, yes + (1 - t) * ops.softplus(x))
    return _reduced(who, loss if weight is None else loss * weight, reduction)


def nll_loss(log_probabilities, target, weight=None, ignore_index=-100, reduction="mean", *, axis=None):
    """Negative log likelihood: −w_t log p_t, the mean being over the sum of the weights.

    Shapes: log_probabilities (C,), (N, C) or (N, C, …) as in PyTorch, or with the classes along any `axis`; target has
    integers in the shape without that axis; `weight` (C,).

    Raises: ShapeError, DtypeError or IndexingError for a target that does not fit; DomainError for another reduction,
    or a mean for which every target is ignored (PyTorch: nan).

    Gradient: −w_t / Σ w at the targets; nothing reaches rows whose target is `ignore_index`.

    Example:
        >>> float(tg.nn.functional.nll_loss(np.log([[0.5, 0.5]]), np.array([1])) - np.log(2.0))
        0.0
    """
    who = "nll_loss(log_probabilities, target)"
    axis = _class_axis(who, log_probabilities, axis)
    loss, counts = _picked(who, log_probabilities, target, weight, ignore_index, axis)
    return _reduced(who, loss, reduction, counts)


def cross_entropy(logits, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0, *, axis=None):
    """Cross-entropy of class scores: −Σ_c w_c q_c log softmax(logits)_c, with q the target's distribution.

    A target of integers names classes (q is 1 there), one of floats of the logits' shape gives q itself. Label
    smoothing ε mixes q with the uniform one: (1 − ε) q + ε / C. The mean is over Σ w_t for classes and over rows for
    distributions.

    Shapes: logits (C,), (N, C) or (N, C, …) as in PyTorch, or with the classes along any `axis` (−1 for (T, B, C));
    integers in the shape without that axis, or floats in the shape of logits; `weight` (C,).

    Raises: ShapeError, DtypeError or IndexingError for a target that does not fit; DomainError for another reduction,
    smoothing outside 0…1, or a mean for which every target is ignored (PyTorch: nan).

    Gradient: (softmax − q) / n; nothing reaches rows whose target is `ignore_index`. A class with q = 0 may have logit
    −inf.

    Example:
        >>> float(tg.nn.functional.cross_entropy(np.array([[1000.0, 0.0]]), np.array([1])))
        1000.0
    """
    who = "cross_entropy(logits, target)"
    axis = _class_axis(who, logits, axis)
    if not 0 <= label_smoothing <= 1:
        raise DomainError(message(who, "label_smoothing is not between 0 and 1", {"label_smoothing": label_smoothing},
                                  "Pass a share, for example 0.1."))
    log_p = ops.log_softmax(logits, axis=axis)
    classes = log_p.shape[axis]
    target = target if isinstance(target, (Tensor, np.ndarray)) else np.asarray(target)
    along = (-1,) + (1,) * (log_p.ndim - 1 - axis)
    weighted = log_p if weight is None else log_p * np.reshape(_weight(who, weight, log_p, axis), along)
    if target.dtype.kind == "f":
        if target.shape != log_p.shape:
            raise ShapeError(message(who, "a target of distributions has another shape than the logits",
                                     {"logits": log_p.shape, "target": target.shape},
                                     "Give the target the logits' shape, or integers for classes."))
        q = target * (1 - label_smoothing) + label_smoothing / classes if label_smoothing else target
        loss = -ops.sum(_product(q, weighted), axis=axis)
        return _reduced(who, loss, reduction)
    loss, counts = _picked(who, log_p, target, weight, ignore_index, axis)
    if label_smoothing:
        spread = ops.where(ops.not_equal(target, ignore_index), -ops.mean(weighted, axis=axis), 0.0)
        loss = loss * (1 - label_smoothing) + spread * label_smoothing
    return _reduced(who, loss, reduction, counts)


def _product(q, log_p):
    """q log p, and 0 where both q is 0 and p is: the limit."""
    never = ops.logical_and(ops.equal(q, 0), ops.equal(log_p, -np.inf))
    return q * ops.where(never, 0.0, log_p)


def _class_axis(who, scores, axis):
    ndim = np.ndim(scores)
    if ndim == 0 or axis is not None and not -ndim <= axis < ndim:
        raise ShapeError(message(who, "there is no axis of classes", {"scores": np.shape(scores), "axis": axis},
                                 "Pass scores of shape (C,), (N, C) or (N, C, …)."))
    return (0 if ndim == 1 else 1) if axis is None else axis % ndim


def _weight(who, weight, log_p, axis):
    if np.shape(weight) != (log_p.shape[axis],):
        raise ShapeError(message(who, "weight is not one number per class",
                                 {"weight": np.shape(weight), "classes": log_p.shape[axis]},
                                 "Pass an array of shape (C,)."))
    return ops.astype(weight, dtype=log_p.dtype)


def _picked(who, log_p, target, weight, ignore_index, axis):
    """−w log p at the target classes, and the weights by which a mean is divided."""
    target = target if isinstance(target, (Tensor, np.ndarray)) else np.asarray(target)
    shape = (*log_p.shape[:axis], *log_p.shape[axis + 1:])
    classes, facts = log_p.shape[axis], {"scores": log_p.shape, "target": target.shape}
    if target.dtype.kind not in "iu":
        raise DtypeError(message(who, "the target does not name classes by integers", {"target": target.dtype},
                                 "Pass integers between 0 and C − 1."))
    if target.shape != shape:
        raise ShapeError(message(who, "the target has another shape than the scores without their classes",
                                 {**facts, "needed": shape},
                                 "Move the classes to axis 1, or say axis=."))
    seen = visible(target)
    if seen is not None and (wrong := seen[(seen != ignore_index) & ((seen < 0) | (seen >= classes))]).size:
        raise IndexingError(message(who, f"a target is class {wrong[0]}, there are {classes}", facts,
                                    f"Pass integers from 0 to {classes - 1}, or ignore_index."))
    counted = ops.not_equal(target, ignore_index)
    safe = ops.where(counted, target, 0)
    counts = ops.astype(counted, dtype=log_p.dtype)
    if weight is not None:
        counts = counts * ops.take(_weight(who, weight, log_p, axis), safe, axis=0)
    picked = ops.squeeze(ops.gather(log_p, ops.expand_dims(safe, axis), axis), axis)
    return -ops.where(counted, picked, 0.0) * counts, counts


def layer_norm(x, weight=None, bias=None, eps=1e-5):
    """Normalisation over the last axis: (x − mean) / √(variance + ε) · weight + bias.

    Shapes: x (…, n); weight and bias (n,), either may be None.

    Gradient: smooth.

    Source: Ba et al., "Layer normalization" (2016).

    Example:
        >>> tg.nn.functional.layer_norm(np.array([1.0, 3.0]), eps=0.0)
        array([-1.,  1.])
    """
    d = x - ops.mean(x, axis=-1, keepdims=True)
    y = d / ops.sqrt(ops.mean(d * d, axis=-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def dropout_mask(rng, shape, p, dtype: Any = np.float64):
    """A mask for dropout: 0 with probability p, else 1 / (1 − p). Multiply by it wherever the same one is needed.

    Example:
        >>> sorted(set(tg.nn.functional.dropout_mask(0, (100,), 0.5).tolist()))
        [0.0, 2.0]
    """
    keep = generator(rng).random(shape) >= p
    return keep.astype(dtype) / (1 - p if p < 1 else 1)
