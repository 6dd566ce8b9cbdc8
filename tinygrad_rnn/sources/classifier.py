"""Source 003, classifier: a tanh network that reads a phrase and says what it thinks, batch first, states as rows.

    x (B, T, F)      labels (B,) integers      h_n (B, H), h_{-1} = 0
    params   w_x (F, H)   w_h (H, H)   b (H,)      head   w_y (H, C)   b_y (C,); h0 (B, H), if the start is not zero

    h_n = tanh(x[:,n,:] w_x + h_{n-1} w_h + b)      z = h_{T-1} w_y + b_y
    L = −(1/B) Σ_batch log softmax(z)[label]

By hand, with d_n = ∂L/∂h_n and δ_n = ∂L/∂(pre-activation of h_n). A row multiplies from the left, so where a page
in columns has Wᵀδ this one has δ wᵀ:

    dz = (softmax(z) − onehot(label)) / B      ∂L/∂w_y = h_{T-1}ᵀ dz      ∂L/∂b_y = Σ_batch dz
    d_{T-1} = dz w_yᵀ
    δ_n = (1 − h_n²) ∘ d_n                     ∂L/∂w_x = Σ_n x_nᵀ δ_n     ∂L/∂b = Σ_n Σ_batch δ_n
    d_{n-1} = δ_n w_hᵀ                         ∂L/∂w_h = Σ_n h_{n-1}ᵀ δ_n
    ∂L/∂x_n = δ_n w_xᵀ                         ∂L/∂h_{-1} = δ_0 w_hᵀ

The source's backward pass cannot run. The text that it follows forgets the transpose in d_{n-1} = δ_n w_hᵀ, and
the source itself loses the output layer. Both run here, as `bptt_as_written` and `bptt_without_output_layer`.
On the figures that the source prints the transpose hides: that w_h is nearly symmetric.

Knows the model, its derivation and its recipe. Refuses to know how the engine differentiates. Below it stand
the ops, `scan` and `gradients`.
"""

import numpy as np

from ..gradients import value_and_grad
from ..ops import log_softmax, mean, swapaxes, tanh
from ..scan import scan
from .record import Erratum, Progress, norms

POSITIVE = (
    "good", "happy", "i am good", "i am happy", "not bad", "not sad", "very good", "very happy", "i am not bad",
    "i am not sad", "i am not at all bad", "i am not at all sad", "this is very good", "this is not bad",
    "this is good right now", "i was good earlier", "i was happy and not sad", "she was not unhappy", "good not bad",
)  # fmt: skip
NEGATIVE = (
    "bad", "sad", "i am bad", "i am sad", "not good", "not happy", "very bad", "very sad", "i am not good",
    "i am not happy", "i am not at all good", "i am not at all happy", "this is very bad", "this is not good",
    "this is bad right now", "i was bad earlier", "i was sad and not happy", "she was unhappy", "bad not good",
)  # fmt: skip
VOCABULARY = tuple(sorted({word for phrase in POSITIVE + NEGATIVE for word in phrase.split()}))
WORDS = len(VOCABULARY)


def init(seed=0, inputs=WORDS, hidden=64, classes=2):
    """Normal matrices over √(rows), so that no unit starts saturated; biases zero.

    Example:
        >>> tg.sources.classifier.init()["w_y"].shape
        (64, 2)
    """
    draw = np.random.RandomState(seed).randn
    shapes = {"w_x": (inputs, hidden), "w_h": (hidden, hidden), "w_y": (hidden, classes)}
    matrices = {name: draw(*shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
    return {**matrices, "b": np.zeros(hidden), "b_y": np.zeros(classes)}


def one_hot(phrase):
    """A phrase as a batch of one: a row for each word, 1 at the word's place in the vocabulary.

    Shapes: (1, words, WORDS).

    Raises: ValueError when a word is not in the vocabulary.

    Example:
        >>> tg.sources.classifier.one_hot("not bad").sum(axis=2)
        array([[1., 1.]])
    """
    return np.eye(WORDS)[[VOCABULARY.index(word) for word in phrase.split()]][None]


def data():
    """The phrases, positive and negative in turn, each as a batch of its own: (x, labels), label 1 is positive.

    Shapes: every x (1, words, F), every labels (1,).

    Example:
        >>> x, labels = tg.sources.classifier.data()[0]
        >>> x.shape[:2], labels
        ((1, 1), array([1]))
    """
    pairs = [(phrase, label) for both in zip(POSITIVE, NEGATIVE) for phrase, label in zip(both, (1, 0))]
    return [(one_hot(phrase), np.array([label])) for phrase, label in pairs]


def printed_point():
    """The figures of the source's only check: x (1, 3, 2), w_x (2, 4), a nearly symmetric w_h, b of ones.

    Example:
        >>> classifier = tg.sources.classifier
        >>> classifier.forward(*classifier.printed_point()).round(6)
        array([[0.794942, 0.81839 , 0.839396, 0.855842]])
    """
    w_h = [[1, 3, 5, 7], [2, 4, 6, 8], [3, 5, 7, 8], [4, 6, 8, 10]]
    params = {"w_x": np.array([[1, 3, 5, 7], [3, 5, 7, 8]]) / 100, "w_h": np.array(w_h) / 100, "b": np.ones(4)}
    return params, np.array([[[1, 2], [2, 3], [3, 4]]]) / 100


def example(seed=0, classes=3):
    """A point for checking gradients: B 3, T 5, F 2, H 4, biases and a start that are not zero."""
    params = init(seed, 2, 4, classes)
    draw = np.random.RandomState(seed + 1)
    extra = {"b": draw.randn(4), "b_y": draw.randn(classes), "h0": draw.randn(3, 4)}
    return {**params, **extra}, (draw.randn(3, 5, 2), draw.randint(0, classes, 3))


# ── the model in ops ────────────────────────────────────────────────────────────────────────────────────


def forward(params, x):
    """The last state.

    Shapes: x (B, T, F) -> (B, H).
    """
    w_x, w_h, b = params["w_x"], params["w_h"], params["b"]

    def cell(h, x):
        h = tanh(x @ w_x + h @ w_h + b)
        return h, None

    h0 = params["h0"] if "h0" in params else np.zeros((x.shape[0], w_h.shape[0]), w_h.dtype)
    return scan(cell, h0, swapaxes(x, 0, 1))[0]


def loss(params, x, labels):
    """Softmax cross-entropy of the labels, averaged over the batch.

    Shapes: x (B, T, F), labels (B,) integers; params as at the top of this page, h0 (B, H) if given.
    """
    z = forward(params, x) @ params["w_y"] + params["b_y"]
    return -mean(log_softmax(z, axis=1)[np.arange(len(labels)), labels])


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────


def bptt(params, x, labels):
    """Loss and gradients, derived by hand.

    Shapes: the gradients are shaped as the parameters, x (B, T, F) and h0 (B, H).
    """
    value, dz, h = _head(params, x, labels)
    head = {"w_y": h.T @ dz, "b_y": dz.sum(axis=0)}
    return value, head | backward(params, x, dz @ params["w_y"].T)


def backward(params, x, d_h):
    """The gradients of w_x, w_h, b, x and h0 from any gradient `d_h` of the last state, derived by hand.

    Shapes: x (B, T, F), d_h (B, H).
    """
    return _back(params, x, d_h, params["w_h"].T)


def bptt_as_written(params, x, labels):
    """The text that the source follows: what is handed back in time is δ w_h, not δ w_hᵀ.

    Only the head is right; with one step b and w_x are right as well.
    """
    value, dz, h = _head(params, x, labels)
    head = {"w_y": h.T @ dz, "b_y": dz.sum(axis=0)}
    return value, head | _back(params, x, dz @ params["w_y"].T, params["w_h"])


def bptt_without_output_layer(params, x, labels):
    """The source's second class: no output layer stands between state and loss, so ∂L/∂h is ∂L/∂y.

    The head gets no gradient at all. The rest of the class is repaired here so that it can run.

    Raises: ValueError unless there are as many classes as units: no other shapes get past the source's line.
    """
    value, dz, h = _head(params, x, labels)
    if dz.shape != h.shape:
        raise ValueError(f"∂L/∂h = ∂L/∂y needs as many classes as units: {dz.shape[1]} classes, {h.shape[1]} units")
    head = {name: np.zeros_like(params[name]) for name in ("w_y", "b_y")}
    return value, head | backward(params, x, dz)


def _head(params, x, labels):
    """Loss, its gradient with respect to z, and the last state."""
    h, rows = _states(params, x)[-1], np.arange(len(labels))
    z = h @ params["w_y"] + params["b_y"]
    log_p = z - np.max(z, axis=1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    dz = np.exp(log_p)
    dz[rows, labels] -= 1
    return -np.mean(log_p[rows, labels]), dz / len(labels), h


def _back(params, x, d, carry):
    h = _states(params, x)
    grads = {name: np.zeros_like(params[name]) for name in ("w_x", "w_h", "b")} | {"x": np.zeros(x.shape)}
    for n in reversed(range(x.shape[1])):
        delta = (1 - h[n + 1] ** 2) * d
        grads["b"] += delta.sum(axis=0)
        grads["w_x"] += x[:, n].T @ delta
        grads["w_h"] += h[n].T @ delta
        grads["x"][:, n] = delta @ params["w_x"].T
        d = delta @ carry
    return grads | {"h0": d}


def _states(params, x):
    """h_{-1} … h_{T-1}: entry n is the state before step n."""
    h = [params["h0"] if "h0" in params else np.zeros((len(x), len(params["w_h"])))]
    for n in range(x.shape[1]):
        h.append(np.tanh(x[:, n] @ params["w_x"] + h[n] @ params["w_h"] + params["b"]))
    return h


# ── recipe ──────────────────────────────────────────────────────────────────────────────────────────────


def train(params=None, *, seed=0, hidden=64, epochs=60, rate=0.02, clip=1.0, gradient=None):
    """One phrase for each step of gradient descent, every entry of a gradient clipped to ±`clip`.

    Yields `Progress`; loss is the mean over the phrases, figures: accuracy. `gradient(params, x, labels) ->
    (loss, grads)` is the engine's unless given.
    """
    params, phrases = dict(params or init(seed, hidden=hidden)), data()
    gradient, rng = gradient or value_and_grad(loss), np.random.default_rng(seed)
    for epoch in range(epochs + 1):
        yield _progress(epoch, params, phrases)
        for i in rng.permutation(len(phrases)):
            _, grads = gradient(params, *phrases[i])
            params = {name: value - rate * np.clip(grads[name], -clip, clip) for name, value in params.items()}


def _progress(epoch, params, phrases):
    found = [bptt(params, *phrase) for phrase in phrases]
    grads = {name: np.mean([grads[name] for _, grads in found], axis=0) for name in params}
    z = [_states(params, x)[-1] @ params["w_y"] + params["b_y"] for x, _ in phrases]
    hits = [row.argmax() == label for (row,), (_, (label,)) in zip(z, phrases)]
    figures = {"accuracy": float(np.mean(hits))}
    return Progress(epoch, float(np.mean([value for value, _ in found])), norms(grads, params), params, figures)


ERRATA = (
    Erratum(
        "The text that the source follows hands back W δ where Wᵀδ belongs, in rows δ w_h for δ w_hᵀ. Every gradient "
        "that passes through time is wrong, those of the output layer are right. With the source's own nearly "
        "symmetric w_h the gradients of the parameters move by hardly more than 1 %.",
        wrong={"w_x": 0.3669, "w_h": 0.3790, "b": 0.2627, "x": 0.4796, "h0": 0.9409},
        right=("w_y", "b_y"),
        at="example(0): B 3, T 5, F 2, H 4, 3 classes",
        point=example,
        as_written=bptt_as_written,
        corrected=bptt,
    ),
    Erratum(
        "The output layer is lost in the second class: dL/dh is taken to be dL/dy.",
        wrong={"w_x": 0.8364, "w_h": 1.0377, "b": 1.0623, "w_y": 1.0, "b_y": 1.0, "x": 1.3270, "h0": 1.6424},
        at="example(0, classes=4): B 3, T 5, F 2, H 4, 4 classes",
        point=lambda: example(0, 4),
        as_written=bptt_without_output_layer,
        corrected=bptt,
    ),
    Erratum("The second class cannot run: its loop walks the batch axis and unpacks a tuple that is not there."),
    Erratum("Its accumulators are set to zero under one name and added to under another."),
    Erratum("Its formulas are those for column vectors, in a layout of rows."),
    Erratum("It updates the hidden state with the gradient of the bias, and the bias with dL/dy."),
    Erratum("Its clipping writes into the array that the caller passed."),
    Erratum("Its state is never reset: a second call starts where the first one ended."),
)
