"""diagnose on derivations written as people write them: texts, and mistakes made in the text.

Models that no other test has: a language model with an embedding, an LSTM whose input and state are concatenated, a leaky cell
with an adapting threshold (a state of two parts), a network whose last step is written out after the scan,
and one with einsum and a bias for its initial state. A mistake is a pair of a right piece and a wrong one.
"""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.check import diagnose

LANGUAGE = '''
def bptt(p, tokens, targets):
    E, Wx, Wh, b, Wy, by = (p[n] for n in ("E", "Wx", "Wh", "b", "Wy", "by"))
    T, B = tokens.shape
    h, P, loss = [np.zeros((B, len(b)))], [], 0.0
    for t in range(T):
        h.append(np.tanh(E[tokens[t]] @ Wx + h[t] @ Wh + b))
        z = h[t + 1] @ Wy + by
        z = z - z.max(1, keepdims=True)
        P.append(np.exp(z) / np.exp(z).sum(1, keepdims=True))
        loss -= np.log(P[t][np.arange(B), targets[t]]).sum() / (T * B)
    g = {k: np.zeros_like(v) for k, v in p.items()}
    back = 0
    for t in reversed(range(T)):
        dz = P[t].copy()
        dz[np.arange(B), targets[t]] -= 1
        dz /= T * B
        g["Wy"] += h[t + 1].T @ dz
        g["by"] += dz.sum(0)
        dh = dz @ Wy.T + back
        da = (1 - h[t + 1] ** 2) * dh
        g["Wx"] += E[tokens[t]].T @ da
        g["Wh"] += h[t].T @ da
        g["b"] += da.sum(0)
        np.add.at(g["E"], tokens[t], da @ Wx.T)
        back = da @ Wh.T
    return loss, g
'''

LSTM = '''
def bptt(p, x, y):
    W, b, V, d = p["W"], p["b"], p["V"], p["d"]
    T, B, I = x.shape
    H = len(V)
    hs, cs, kept = [p["h0"]], [p["c0"]], []
    for t in range(T):
        v = np.concatenate([x[t], hs[t]], 1)
        a = v @ W + b
        i, f, o = (1 / (1 + np.exp(-a[:, k * H:(k + 1) * H])) for k in range(3))
        g = np.tanh(a[:, 3 * H:])
        cs.append(f * cs[t] + i * g)
        hs.append(o * np.tanh(cs[t + 1]))
        kept.append((v, i, f, o, g))
    err = np.array([hs[t + 1] @ V + d - y[t] for t in range(T)])
    G = {k: np.zeros_like(u) for k, u in p.items()}
    dh, dc = np.zeros((B, H)), np.zeros((B, H))
    for t in reversed(range(T)):
        v, i, f, o, g = kept[t]
        G["V"] += hs[t + 1].T @ err[t]
        G["d"] += err[t].sum(0)
        dh = dh + err[t] @ V.T
        tc = np.tanh(cs[t + 1])
        do = dh * tc
        dc = dc + dh * o * (1 - tc ** 2)
        di, df, dg = dc * g, dc * cs[t], dc * i
        da = np.hstack([di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g ** 2)])
        G["W"] += v.T @ da
        G["b"] += da.sum(0)
        dh = da @ W[I:].T
        dc = dc * f
    G["h0"], G["c0"] = dh, dc
    return np.sum(err ** 2) / 2, G
'''

LEAKY = '''
def bptt(p, x, y):
    U, W, V, k, q = (p[n] for n in "UWVkq")
    T, B, _ = x.shape
    ss, as_, hs = [p["s0"]], [np.zeros((B, len(U)))], []
    for t in range(T):
        hs.append(np.tanh(ss[t] - as_[t]))
        ss.append((1 - k) * ss[t] + k * (hs[t] @ U + x[t] @ W))
        as_.append(0.8 * as_[t] + q * hs[t])
    e = ss[T] @ V - y
    g = {name: np.zeros_like(v) for name, v in p.items()}
    g["V"] = ss[T].T @ e
    ds, da = e @ V.T, np.zeros_like(as_[0])
    for t in reversed(range(T)):
        dn = ds * k
        g["k"] += (ds * (hs[t] @ U + x[t] @ W - ss[t])).sum(0)
        g["U"] += hs[t].T @ dn
        g["W"] += x[t].T @ dn
        g["q"] += (da * hs[t]).sum(0)
        du = (dn @ U.T + da * q) * (1 - hs[t] ** 2)
        ds = ds * (1 - k) + du
        da = da * 0.8 - du
    g["s0"] = ds
    return np.sum(e ** 2) / 2, g
'''


APART = '''
def bptt(p, x, y):
    W, U, V = (p[k] for k in "WUV")
    T, h = len(x), [p["h0"]]
    for t in range(T):
        z = x[t] @ W + h[t] @ U
        h.append(np.tanh(z) if t < T - 1 else z)
    e = h[T] @ V - y
    g = {k: np.zeros_like(v) for k, v in p.items()}
    g["V"] = h[T].T @ e
    dh = e @ V.T
    for t in reversed(range(T)):
        dz = dh * (1 - h[t + 1] ** 2) if t < T - 1 else dh
        g["W"] += x[t].T @ dz
        g["U"] += h[t].T @ dz
        dh = dz @ U.T
    g["h0"] = dh
    return 0.5 * np.sum(e ** 2), g
'''


PRODUCTS = '''
def bptt(p, x, y):
    sig = lambda z: 1 / (1 + np.exp(-z))
    hs, Q = [np.repeat(p["h"][None], len(y[0]), 0)], []
    for t in range(len(x)):
        Q.append(x[t] + hs[t] @ p["R"])
        hs.append(np.log1p(np.exp(Q[t])))
    e = np.array([h @ p["v"] for h in hs[1:]]) - y
    g = {"R": np.zeros_like(p["R"]), "v": np.zeros_like(p["v"])}
    back = np.zeros_like(hs[0])
    for t in reversed(range(len(x))):
        g["v"] += e[t] @ hs[t + 1]
        dh = np.outer(e[t], p["v"]) + back
        da = dh * sig(Q[t])
        g["R"] += hs[t].T @ da
        back = da @ p["R"].T
    g["h"] = back.sum(0)
    return np.sum(e ** 2) / 2, g
'''


def language(p, tokens, targets):
    def cell(h, e):
        h = tg.tanh(e @ p["Wx"] + h @ p["Wh"] + p["b"])
        return h, h

    T, B = tokens.shape
    _, hs = tg.scan(cell, np.zeros((B, len(p["b"]))), p["E"][tokens])
    return -tg.mean(tg.log_softmax(hs @ p["Wy"] + p["by"])[np.arange(T)[:, None], np.arange(B)[None], targets])


def lstm(p, x, y):
    H = len(p["V"])

    def cell(state, x):
        h, c = state
        a = tg.concatenate([x, h], axis=1) @ p["W"] + p["b"]
        i, f, o, g = tg.sigmoid(a[:, :H]), tg.sigmoid(a[:, H:2 * H]), tg.sigmoid(a[:, 2 * H:3 * H]), tg.tanh(a[:, 3 * H:])
        c = f * c + i * g
        h = o * tg.tanh(c)
        return (h, c), h

    _, hs = tg.scan(cell, (p["h0"], p["c0"]), x)
    return tg.sum(tg.square(hs @ p["V"] + p["d"] - y)) / 2


def leaky(p, x, y):
    def cell(state, x):
        s, a = state
        h = tg.tanh(s - a)
        return ((1 - p["k"]) * s + p["k"] * (h @ p["U"] + x @ p["W"]), 0.8 * a + p["q"] * h), None

    (s, _), _ = tg.scan(cell, (p["s0"], np.zeros(p["s0"].shape)), x)
    return tg.sum(tg.square(s @ p["V"] - y)) / 2


def apart(p, x, y):
    h, _ = tg.scan(lambda h, x: (tg.tanh(x @ p["W"] + h @ p["U"]), None), p["h0"], x[:-1])
    return 0.5 * tg.sum(tg.square((x[-1] @ p["W"] + h @ p["U"]) @ p["V"] - y))


def products(p, x, y):
    def cell(h, x):
        h = tg.softplus(x + tg.einsum("bk,kh->bh", h, p["R"]))
        return h, tg.einsum("bh,h->b", h, p["v"])

    _, out = tg.scan(cell, p["h"] + np.zeros((2, 4)), x)
    return tg.sum(tg.square(out - y)) / 2


rng = np.random.default_rng(0)
n = lambda *shape: rng.normal(size=shape)
MODELS = {
    "language": (language, LANGUAGE, dict(E=n(7, 4), Wx=0.6 * n(4, 4), Wh=0.6 * n(4, 4), b=0.3 * n(4), Wy=n(4, 5), by=0.2 * n(5)),
                 (np.array([[0, 0, 3], [1, 4, 4], [6, 2, 2], [0, 5, 1], [3, 3, 3], [2, 0, 6]]), rng.integers(0, 5, (6, 3)))),
    "lstm": (lstm, LSTM, dict(W=0.6 * n(5, 12), b=0.3 * n(12), V=n(3, 2), d=n(2), h0=n(4, 3), c0=n(4, 3)), (n(5, 4, 2), n(5, 4, 2))),
    "leaky": (leaky, LEAKY, dict(U=0.7 * n(3, 3), W=0.7 * n(2, 3), V=n(3, 2), k=np.array([0.3, 0.5, 0.8]), q=np.array([0.9, 0.4, 0.2]), s0=n(4, 3)),
              (n(6, 4, 2), n(4, 2))),
    "apart": (apart, APART, dict(W=0.6 * n(3, 4), U=0.6 * n(4, 4), V=n(4, 2), h0=n(2, 4)), (n(6, 2, 3), n(2, 2))),
    "products": (products, PRODUCTS, dict(R=0.4 * n(4, 4), v=n(4), h=n(4)), (n(5, 2, 4), n(5, 2))),
}
# a model, a right piece, a wrong one, the words that must be said, and the gradients in which they must be found
MISTAKES = [
    ("language", "np.add.at(g[\"E\"], tokens[t], da @ Wx.T)", "g[\"E\"][tokens[t]] += da @ Wx.T", "repeated entries not added up", "E"),
    ("language", "np.add.at(g[\"E\"], tokens[t], da @ Wx.T)", "g[\"E\"][tokens[t]] = da @ Wx.T", "each step writes over what was there", "E"),
    ("language", "(g[\"E\"], tokens[t], da", "(g[\"E\"], tokens[t - 1], da", "added to the rows of one step too early", "E"),
    ("language", "da @ Wx.T", "da", "the layer is lost", "E"),
    ("language", "g[\"Wy\"] += h[t + 1].T", "g[\"Wy\"] += h[t].T", "formed with the state of one step too early", "Wy"),
    ("language", "g[\"by\"] +=", "g[\"by\"] =", "gradient of the first step only", "by"),
    ("language", "dh = dz @ Wy.T + back\n        da = (1 - h[t + 1] ** 2) * dh", "dh = dz @ Wy.T\n        da = (1 - h[t + 1] ** 2) * dh + back",
     "is not multiplied into what the next step hands back", "E Wx Wh b"),
    ("language", "dz = P[t].copy()", "dz = np.log(P[t])", "logarithms of the probabilities", "E Wx Wh b Wy by"),
    ("language", "return loss, g", "c = np.sqrt(sum(np.sum(v ** 2) for v in g.values()))\n    return loss, {k: v * min(1, 0.1 / c) for k, v in g.items()}",
     "all gradients together are clipped to norm 0.1", "E Wx Wh b Wy by"),
    ("lstm", "di * i * (1 - i), df * f * (1 - f), do * o * (1 - o), dg * (1 - g ** 2)", "di, df, do, dg", "activation derivative missing", "W b h0 c0"),
    ("lstm", "tc = np.tanh(cs[t + 1])", "tc = np.tanh(cs[t])", "wherever it is read", "W b h0 c0"),
    ("lstm", "di, df, dg = dc * g, dc * cs[t], dc * i", "di, df, dg = dc * i, dc * cs[t], dc * g", "are exchanged: each input gets the cotangent times itself",
     "W b h0 c0"),
    ("lstm", "da @ W[I:].T", "da @ W[:H].T", "another part of a concatenation", "W b h0 c0"),
    ("lstm", "da @ W[I:].T", "da.reshape(B, 4, H).sum(1) @ W[I:, :H]", "", ""),
    ("lstm", "da @ W[I:].T", "sum(da[:, k * H:(k + 1) * H] @ W[I:, k * H:(k + 1) * H] for k in range(4))", "transpose is missing in the part of the matrix",
     "W b h0 c0"),
    ("lstm", "do = dh * tc\n        dc = dc + dh * o", "do = dh * tc\n        dc = dc + do", "wrong factor in a product", "W b h0 c0"),
    ("lstm", "        dc = dc * f", "        dc, dh = dc * f, np.clip(dh, -0.1, 0.1)", "is clipped to ±0.1 inside the loop", "W b h0 c0"),
    ("lstm", "for t in reversed(range(T)):", "for t in range(T - 1, 0, -1):", "taken for the initial state's gradient", "W b h0 c0"),
    ("lstm", "for t in reversed(range(T)):", "for t in range(T - 1, 0, -1):", "a step is left out of the sum over time", "V d"),
    ("leaky", "da = da * 0.8 - du", "da = da - du", "factor of a product missing", "U W k q s0"),
    ("leaky", "da * q)", "da)", "factor of a product missing", "U W k q s0"),
    ("leaky", " + da * q)", ")", "hands back to tanh", "U W k q s0"),
    ("leaky", "x[t] @ W - ss[t])", "x[t] @ W)", "hands to k is lost", "k"),
    ("leaky", "(da * hs[t])", "(da * hs[t - 1])", "formed with its value of one step too early", "q"),
    ("apart", "h[t].T @ dz", "h[t + 1].T @ dz", "in the loop and in the step after it, is derived with the state of one step too late", "U"),
    ("apart", "h[t].T @ dz", "h[t - 1].T @ dz", "in the loop and in the step after it, is derived with the state of one step too early", "U"),
    ("apart", "x[t].T @ dz", "x[t - 1].T @ dz", "in the loop and in the step after it, is derived with its value of one step too early", "W"),
    ("apart", "g[\"W\"] +=", "g[\"W\"] =", "gradient of the first step only", "W"),
    ("products", "dh = np.outer(e[t], p[\"v\"]) + back", "dh = np.outer(e[t], p[\"v\"])", "carry not propagated", "R h"),
    ("products", "da @ p[\"R\"].T", "da @ p[\"R\"]", "transpose is missing", "R h"),
    ("products", "hs[t].T @ da", "hs[t + 1].T @ da", "formed with the state of one step too late", "R"),
    ("products", "sig(Q[t])", "(Q[t] > 0)", "that of relu", "R h"),
    ("products", "back.sum(0)", "back", "not summed over axis 0: it has the shape (2, 4), the parameter (4,)", "h"),
    ("products", "back.sum(0)", "back.mean(0)", "divided by B = 2", "h"),
]


def by_hand(text):
    scope = {"np": np}
    exec(compile(text, "derivation", "exec"), scope)
    return scope["bptt"]


@pytest.mark.parametrize("model", MODELS)
def test_the_texts_are_right(model):
    loss, text, params, data = MODELS[model]
    report = diagnose(loss, params, data, by_hand(text))
    assert report.ok and set(report.right) == set(params), str(report)


@pytest.mark.parametrize("model, right, wrong, words, tensors", MISTAKES)
def test_a_mistake_in_the_text_is_named(model, right, wrong, words, tensors):
    loss, text, params, data = MODELS[model]
    assert text.count(right) == 1
    report = diagnose(loss, params, data, by_hand(text.replace(right, wrong)))
    assert not report.ok
    if not words:  # two mistakes in one line, and none that anybody makes: it stays unnamed
        assert report.unnamed and not report.findings, str(report)
        return
    said = {f.tensor for f in report.findings if words in f"{f.bug} {f.explanation}".replace("transpose missing a ", "")}
    assert not report.unnamed and said == set(tensors.split()) <= {f.tensor for f in report.findings}, str(report)
    assert not {f.tensor for f in report.findings} & set(report.right)
