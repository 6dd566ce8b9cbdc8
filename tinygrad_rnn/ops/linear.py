"""Linear algebra: matmul, einsum, tensordot, outer, dot, trace, diagonal, tril, triu.

Knows products of arrays under all of NumPy's rank rules. Refuses decompositions. Below it: primitive, domains.
"""

import numpy as np

from ..domains import REALS
from ..errors import ArgumentError, ShapeError, message
from ..primitive import composite, primitive


def _swapped(x):
    return x.swapaxes(-1, -2)


def _product(a, b):
    """matmul by the faster call where there is one: 4 times as fast for the outer product that a batch of one row makes."""
    return np.dot(a, b) if a.ndim == 2 == b.ndim else np.matmul(a, b)


def _matmul_a(g, b, a_shape):
    if len(a_shape) == 1:
        return g * b if b.ndim == 1 else np.matmul(b, g[..., None])[..., 0]
    if b.ndim == 1:
        return np.matmul(g[..., None], b[None, :])  # an outer product, as a product: a sum of these over time is one product
    return _product(g, _swapped(b))


def _matmul_b(g, a, b_shape, into):
    if len(b_shape) == 1:
        return g * a if a.ndim == 1 else np.matmul(_swapped(a), g[..., None])[..., 0]
    if a.ndim == 1:
        return np.matmul(a[:, None], g[..., None, :])
    if a.ndim > 2 and len(b_shape) == 2:  # one product over all rows in place of one product per matrix
        a, g = a.reshape((-1, a.shape[-1])), g.reshape((-1, g.shape[-1]))
    if into is not None and a.ndim == 2 == g.ndim == len(b_shape):
        return into.add_product(a.T, g)
    return _product(_swapped(a), g)


def _matmul_over_time(T, stacked, a, b):
    """Weights on the right: time is flattened into rows, one product for all steps."""
    a_stacked, b_stacked = stacked
    if a_stacked and not b_stacked:
        if b.ndim <= 2 < a.ndim:
            rows = np.matmul(a.reshape((-1, a.shape[-1])), b)
            return rows.reshape((T, *a.shape[1:-1], *b.shape[1:]))
        if a.ndim == 2 and b.ndim <= 2:
            return np.matmul(a, b)
        if a.ndim == 2:
            return np.matmul(a.reshape((T, *(1,) * (b.ndim - 2), 1, a.shape[-1])), b)[..., 0, :]
        return np.matmul(_aligned(T, a, b.ndim), b)
    if b_stacked and not a_stacked:
        if b.ndim == 2:  # a matrix times T vectors: the vectors become rows
            return np.matmul(b, np.transpose(a)) if a.ndim <= 2 else np.matmul(a, b.reshape((T, *(1,) * (a.ndim - 2), b.shape[-1], 1)))[..., 0]
        return np.matmul(a, _aligned(T, b, a.ndim))
    if a.ndim == 2 and b.ndim == 2:
        return np.sum(a * b, axis=-1)
    if a.ndim == 2:
        return np.matmul(a.reshape((T, *(1,) * (b.ndim - 3), 1, a.shape[-1])), b)[..., 0, :]
    if b.ndim == 2:
        return np.matmul(a, b.reshape((T, *(1,) * (a.ndim - 3), b.shape[-1], 1)))[..., 0]
    return np.matmul(_aligned(T, a, b.ndim - 1), _aligned(T, b, a.ndim - 1))


def _aligned(T, x, rank):
    """Put ones after the time axis so that the other axes line up with an array of `rank` axes."""
    missing = rank - (x.ndim - 1)
    return x.reshape((T, *(1,) * missing, *x.shape[1:])) if missing > 0 else x


@primitive(method="__matmul__ __rmatmul__", domain=(REALS, REALS), broadcasts=False, analytic=True, over_time=_matmul_over_time,
           sample=lambda rng: [((rng.normal(size=a), rng.normal(size=b)), {}) for a, b in (
               ((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 3), (5, 3, 4)),
               ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((1, 5, 2, 3), (6, 1, 3, 4)))],
           reference=lambda a, b: np.einsum({(1, 1): "j,j->", (1, 2): "j,jk->k", (2, 1): "ij,j->i"}.get(
               (a.ndim, b.ndim), "...j,...jk->...k" if a.ndim == 1 else "...ij,j->...i" if b.ndim == 1 else "...ij,...jk->...ik"), a, b),
           faults=[((np.ones((2, 3)), np.ones((4, 2))), {}, "not aligned"), ((np.ones((5, 2, 3)), np.ones((5, 4, 2))), {}, "mismatch in its core dimension")],
           remedy="Make the last size of a equal to the second to last size of b.")
def matmul(a, b, /, *, out=None):
    """Matrix product, with NumPy's rules for vectors and stacks of matrices.

    Shapes: (…, m, k) @ (…, k, n) to (…, m, n); a vector counts as a row on the left and as a column on the right.

    Raises: ShapeError when the inner sizes differ.

    Gradient: smooth; g bᵀ and aᵀ g.

    Example:
        >>> tg.matmul(np.eye(2), np.array([1.0, 2.0]))
        array([1., 2.])
    """
    return _product(a, b) if out is None and type(a) is type(b) is np.ndarray else np.matmul(a, b, out=out)


matmul.vjp(a=_matmul_a, b=_matmul_b)


def _einsum_rule(g, operands, operands_shape, subscripts):
    """One einsum per operand: the cotangent with the other operands, to the operand's own letters."""
    terms, out = _letters(subscripts)
    results = []
    for i, term in enumerate(terms):
        others = terms[:i] + terms[i + 1:]
        alone = [c for c in term if c not in out and not any(c in other for other in others)]
        ones = [np.ones(operands_shape[i][term.index(c)], g.dtype) for c in alone]
        spec = ",".join([out, *others, *alone]) + "->" + term
        results.append(einsum(spec, g, *operands[:i], *operands[i + 1:], *ones))
    return results


def _letters(subscripts):
    left, out = subscripts.split("->")
    return left.split(","), out


def _einsum_over_time(T, stacked, *operands, subscripts):
    terms, out = _letters(subscripts)
    t = next(c for c in "tTabcdefghijklmnopqrsuvwxyzABCDEFGHIJKLMNOPQRSUVWXYZ" if c not in subscripts)
    spec = ",".join(t + term if has else term for has, term in zip(stacked, terms)) + "->" + t + out
    return einsum(spec, *operands)


def _einsum_by_loops(operands, subscripts):
    """The definition: every operand along all letters, multiplied, and summed over those that the output lacks."""
    terms, out = _letters(subscripts)
    letters = out + "".join(sorted(set("".join(terms)) - set(out)))
    product = 1.0
    for operand, term in zip(operands, terms):
        order = sorted(range(len(term)), key=lambda i, term=term: letters.index(term[i]))
        sizes = dict(zip(term, operand.shape))
        product = product * operand.transpose(order).reshape([sizes.get(c, 1) for c in letters])
    return np.sum(product, axis=tuple(range(len(out), len(letters))))


def einsum_kernel(*operands, subscripts):
    """Sum of products over named axes; `einsum("ij,jk->ik", a, b)` is the public form.

    Gradient: multilinear; for each operand the einsum of g with the others.

    Example:
        >>> tg.einsum("ij,j->i", np.eye(2), np.ones(2))
        array([1., 1.])
    """
    y = np.einsum(subscripts, *operands)
    return np.array(y) if len(operands) == 1 else y  # of one operand NumPy gives a view, where it can


einsum_kernel.__name__ = "einsum"
einsum_ = primitive(
    einsum_kernel, domain=REALS, analytic=True, over_time=_einsum_over_time, numpy=False,
    sample=lambda rng: [((rng.normal(size=(2, 3)), rng.normal(size=(3, 4))), {"subscripts": "ij,jk->ik"}),
                        ((rng.normal(size=(2, 3)),), {"subscripts": "ij->j"}),
                        ((rng.normal(size=3), rng.normal(size=3), rng.normal(size=(2, 3))), {"subscripts": "i,i,ki->k"})],
    reference=lambda *operands, subscripts: _einsum_by_loops(operands, subscripts),
    faults=[((np.ones((2, 3)), np.ones((4, 5))), {"subscripts": "ij,jk->ik"}, "")], remedy="Give axes of one letter one size.")
einsum_.vjp(operands=_einsum_rule)


@composite
def einsum(subscripts, *operands):
    """Sum of products over named axes, as `numpy.einsum` with a subscripts string.

    Shapes: one letter an axis; `…` stands for axes that broadcast; without `->` the letters that occur once, sorted.

    Raises: ArgumentError for a letter that repeats within one operand (use `diagonal` or `trace`), ShapeError for sizes
    that differ.

    Gradient: multilinear; for each operand the einsum of g with the others.

    Example:
        >>> tg.einsum("ij,j->i", np.eye(2), np.ones(2))
        array([1., 1.])
    """
    text = subscripts.replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    if "." in text:
        terms, out = _without_ellipsis(terms, out, arrow, [np.ndim(x) for x in operands])
    elif not arrow:
        out = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    if any(len(set(term)) != len(term) for term in [*terms, out]) or len(terms) != len(operands):
        what = "a letter repeats within one operand" if len(terms) == len(operands) else "the number of operands differs from the subscripts"
        raise ArgumentError(message(f"einsum({subscripts!r}, …)", what, {"shapes": [np.shape(x) for x in operands]},
                                    "Use diagonal or trace for repeated letters, and one term per operand."))
    return einsum_(*operands, subscripts=",".join(terms) + "->" + out)


def _without_ellipsis(terms, out, arrow, ranks):
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if not any(c in term for term in terms)]
    widths = [rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks)]
    most = max(widths)
    names = [term.replace("...", "".join(free[most - width:most])) for term, width in zip(terms, widths)]
    if not arrow:
        plain = "".join(terms).replace("...", "")
        out = "..." + "".join(sorted(c for c in set(plain) if plain.count(c) == 1))
    return names, out.replace("...", "".join(free[:most]))


@composite
def tensordot(a, b, axes=2):
    """Products summed over pairs of axes, as in NumPy.

    Shapes: the axes of a that stay, then those of b.

    Raises: ShapeError when paired axes differ in size.

    Gradient: bilinear.

    Example:
        >>> tg.tensordot(np.ones((2, 3)), np.ones((3, 4)), 1).shape
        (2, 4)
    """
    n, m = np.ndim(a), np.ndim(b)
    if isinstance(axes, int):
        pairs = [(n - axes + i, i) for i in range(axes)]
    else:
        first, second = ((x,) if isinstance(x, int) else tuple(x) for x in axes)
        pairs = [(i % n, j % m) for i, j in zip(first, second)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    left, right = letters[:n], list(letters[n:n + m])
    for i, j in pairs:
        right[j] = left[i]
    shared = {left[i] for i, _ in pairs}
    out = "".join(c for c in left if c not in shared) + "".join(c for c in right if c not in shared)
    return einsum(f"{left},{''.join(right)}->{out}", a, b)


@composite
def outer(a, b):
    """All products of two vectors: a_i b_j.

    Shapes: (n,), (m,) to (n, m).

    Gradient: bilinear.

    Example:
        >>> tg.outer(np.ones(2), np.arange(2.0))
        array([[0., 1.],
               [0., 1.]])
    """
    return np.reshape(a, (-1, 1)) * np.reshape(b, (1, -1))


@composite(method="dot")
def dot(a, b):
    """NumPy's dot for vectors and matrices: `matmul`, and a product when one of the two is a scalar.

    Shapes: up to two axes each.

    Raises: ShapeError for more axes (use `tensordot`), or when the inner sizes differ.

    Example:
        >>> tg.dot(np.ones(2), np.ones(2))
        np.float64(2.0)
    """
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return a * b
    if np.ndim(b) > 2:
        raise ShapeError(message("dot(a, b)", "b has more than two axes", {"a": np.shape(a), "b": np.shape(b)}, "Use matmul or tensordot."))
    return matmul(a, b)


def _triangle(name, where):
    def kernel(x, /, *, k=0):
        return getattr(np, name)(x, k)

    kernel.__name__ = kernel.__qualname__ = name
    kernel.__doc__ = f"""The elements on and {where} the k-th diagonal, zeros elsewhere.

    Shapes: x (…, n, m), unchanged.

    Gradient: g on the kept elements.

    Example:
        >>> tg.{name}(np.ones((2, 2)))
        array({'''[[1., 0.],
               [1., 1.]]''' if name == 'tril' else '''[[1., 1.],
               [0., 1.]]'''})
    """
    op = primitive(kernel, domain=REALS, analytic=True, sample=lambda rng: [((rng.normal(size=(3, 4)),), {"k": k}) for k in (-1, 0, 1)],
                   over_time=lambda T, stacked, x, *, k: op(x, k=k))
    return op.vjp(x=lambda g, k: op(g, k=k))


tril = _triangle("tril", "below")
triu = _triangle("triu", "above")


def _put_on_diagonal(g, x_shape, offset):
    n, m = x_shape[-2:]
    where = np.eye(n, m, offset, dtype=bool)
    rows = g.shape[-1]
    start = max(-offset, 0)
    column = np.concatenate([np.zeros((*g.shape[:-1], start), g.dtype), g, np.zeros((*g.shape[:-1], n - rows - start), g.dtype)], axis=-1)
    return np.where(where, column[..., None], 0)


@primitive(method="diagonal", domain=REALS, analytic=True, view=True,
           sample=lambda rng: [((rng.normal(size=(3, 4)),), {"offset": k}) for k in (-1, 0, 1)] + [((rng.normal(size=(2, 4, 3)),), {})],
           reference=lambda x, offset=0: np.diagonal(x, offset, -2, -1), numpy=False,
           over_time=lambda T, stacked, x, *, offset: diagonal(x, offset=offset))
def diagonal(x, /, *, offset=0):
    """The k-th diagonal of the last two axes (NumPy takes the first two by default).

    Shapes: (…, n, m) to (…, length of the diagonal).

    Gradient: g on the diagonal, zeros elsewhere; of the shape of x, also when that is not square.

    Example:
        >>> tg.diagonal(np.eye(2))
        array([1., 1.])
    """
    return np.diagonal(x, offset, -2, -1)


diagonal.vjp(x=_put_on_diagonal)


@composite(method="trace")
def trace(x, offset=0):
    """Sum of the k-th diagonal of the last two axes.

    Shapes: (…, n, m) to (…).

    Gradient: g on the diagonal.

    Example:
        >>> tg.trace(np.eye(3))
        np.float64(3.0)
    """
    return np.sum(diagonal(x, offset=offset), axis=-1)
