"""Four cells derived by hand in plain NumPy, with mistakes that can be planted one at a time.

Knows an Elman network, an LSTM, a GRU and a minimal gated unit: each as a loss made of the engine's ops and, apart from that, as
a hand derivation that takes the name of a mistake. Refuses to know how mistakes are found: nothing here imports `check`.

T steps, B batch, I inputs, H hidden, O outputs. x (T, B, I), y (T, B, O) or labels (T, B); states and weights are rows:
W (I, nH), U (H, nH), b (nH,), V (H, O), c (O,), h0 (B, H), and c0 (B, H) for the LSTM.
"""

import numpy as np

import tinygrad_rnn as tg

T, B, I, H, O = 6, 3, 2, 4, 3
GATES = {"elman": 1, "lstm": 4, "gru": 3, "custom": 2}
LOSSES = ("last", "every", "mean", "entropy")
STARTS = {"small": 0.05, "normal": 1.0, "large": 2.5}


def point(cell, loss, start="normal", seed=0):
    """Parameters and data; every size differs from its neighbours, and only the small start hides anything."""
    rng = np.random.default_rng(seed)
    n, scale = GATES[cell], STARTS[start]
    params = {"W": rng.normal(size=(I, n * H)) / np.sqrt(I), "U": rng.normal(size=(H, n * H)) / np.sqrt(H), "b": 0.5 * rng.normal(size=n * H),
              "V": rng.normal(size=(H, O)) / np.sqrt(H), "c": 0.5 * rng.normal(size=O), "h0": 0.5 * rng.normal(size=(B, H))}
    if cell == "lstm":
        params["c0"] = 0.5 * rng.normal(size=(B, H))
    params = {name: scale * value for name, value in params.items()}
    x = rng.normal(size=(T, B, I))
    return params, (x, rng.integers(0, O, (T, B)) if loss == "entropy" else rng.normal(size=(T, B, O)))


# ---- in ops -------------------------------------------------------------------------------------------------


def in_ops(cell, loss):
    """`loss(params, x, y)` made of ops."""
    def of(p, x, y):
        state = (p["h0"], p["c0"]) if cell == "lstm" else p["h0"]
        _, hs = tg.scan(CELLS[cell](p), state, x)
        if loss == "last":
            return 0.5 * tg.sum(tg.square(hs[-1] @ p["V"] + p["c"] - y[-1]))
        o = hs @ p["V"] + p["c"]
        if loss == "entropy":
            t, b = np.indices(y.shape)
            return -tg.mean(tg.log_softmax(o, axis=-1)[t, b, y])
        return tg.mean(tg.square(o - y)) if loss == "mean" else 0.5 * tg.sum(tg.square(o - y))

    return of


def elman(p):
    def cell(h, x):
        h = tg.tanh(x @ p["W"] + h @ p["U"] + p["b"])
        return h, h
    return cell


def lstm(p):
    def cell(state, x):
        h, c = state
        z = x @ p["W"] + h @ p["U"] + p["b"]
        i, f, g, o = (z[:, k * H:(k + 1) * H] for k in range(4))
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
        return (h, c), h
    return cell


def gru(p):
    def cell(h, x):
        W, U, b = (tg.split(p[name], 3, axis=-1) for name in ("W", "U", "b"))
        r = tg.sigmoid(x @ W[0] + h @ U[0] + b[0])
        z = tg.sigmoid(x @ W[1] + h @ U[1] + b[1])
        n = tg.tanh(x @ W[2] + (r * h) @ U[2] + b[2])
        h = (1 - z) * n + z * h
        return h, h
    return cell


def custom(p):
    def cell(h, x):
        W, U, b = (tg.split(p[name], 2, axis=-1) for name in ("W", "U", "b"))
        f = tg.sigmoid(x @ W[0] + h @ U[0] + b[0])
        n = tg.tanh(x @ W[1] + (f * h) @ U[1] + b[1])
        h = h + f * (n - h)
        return h, h
    return cell


CELLS = {"elman": elman, "lstm": lstm, "gru": gru, "custom": custom}


# ---- by hand ------------------------------------------------------------------------------------------------

# What is planted, and words of which one must stand in the name or the explanation that a diagnosis gives.
BUGS = {
    "derivative missing": ("derivative missing",),
    "derivative twice": ("applied twice",),
    "derivative of the pre-activation": ("pre-activation",),
    "derivative of the previous step": ("previous",),
    "derivative of the next step": ("next",),
    "derivative of a sigmoid for a tanh": ("another activation",),
    "derivative missing in dU alone": ("derivative missing",),
    "derivative missing in the carry alone": ("derivative missing",),
    "transpose missing": ("transpose",),
    "state one step early": ("index of the state",),
    "state one step late": ("index of the state",),
    "state wraps at 0": ("wrap",),
    "initial state taken for zero": ("initial state taken for zero",),
    "input one step early": ("index of the input",),
    "input one step late": ("index of the input",),
    "carry lost": ("carry not propagated", "path"),
    "carry replaces": ("replaced",),
    "carry cut after 2": ("cut",),
    "carry in chunks of 3": ("cut",),
    "carry counted twice": ("counted twice",),
    "carry clipped": ("clipping",),
    "averaged over T": ("averaged",),
    "averaged over B": ("averaged",),
    "bias not summed": ("bias not summed",),
    "gates swapped": ("gates swapped",),
    "initial gradient lost": ("initial state's gradient",),
    "weights returned": ("weights returned",),
    "updated weights returned": ("weights returned",),
    "half": ("loss factor",),
    "twice": ("loss factor", "counted twice"),
    "sign": ("sign",),
    "clipped": ("clipping",),
    "running sum": ("not reset",),
    "first step left out": ("left out",),
    "last step's part alone": ("last step",),
    "error of the last step alone": ("last step",),
    "error one step late": ("index of the error",),
    "weight decay": ("decay",),
    "gradient transposed": ("transpose",),
    "softmax twice": ("softmax",),
    "target not subtracted": ("target", "softmax"),
}


def applies(bug, cell, loss):
    """Whether a mistake can be made at all in this cell and loss."""
    every = loss != "last"
    return {"gates swapped": cell != "elman", "error of the last step alone": every, "error one step late": every,
            "softmax twice": loss == "entropy", "carry replaces": True,
            "transpose missing": True}.get(bug, True)


class Derivatives:
    """σ' and tanh' with the mistakes that are made in them, at one step."""

    def __init__(self, bug, caches, t):
        self.bug, self.caches, self.t = bug, caches, t

    def __call__(self, key, name):
        """The derivative of the activation `key`, which is `name`; the mistakes are made in the candidate alone."""
        t, caches = self.t, self.caches
        y, z = caches[t][key], caches[t]["z" + key]
        if key == "n":
            if self.bug == "derivative of the pre-activation":
                y = z
            elif self.bug == "derivative of the previous step":
                y = caches[t - 1][key] if t else caches[0].get("before", y)
            elif self.bug == "derivative of the next step" and t + 1 < len(caches):
                y = caches[t + 1][key]
            elif self.bug == "derivative missing":
                return np.ones_like(y)
            elif self.bug == "derivative of a sigmoid for a tanh":
                return y * (1 - y)
        d = 1 - y * y if name == "tanh" else y * (1 - y)
        return d * d if key == "n" and self.bug == "derivative twice" else d


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _forward(cell, p, s, x):
    """The next state and what the backward pass will need."""
    h = s[0]
    z = x @ p["W"] + h @ p["U"] + p["b"]
    if cell == "elman":
        return (np.tanh(z),), {"n": np.tanh(z), "zn": z, "before": h}
    if cell == "lstm":
        zi, zf, zn, zo = np.split(z, 4, 1)
        i, f, n, o = _sigmoid(zi), _sigmoid(zf), np.tanh(zn), _sigmoid(zo)
        c = f * s[1] + i * n
        return (o * np.tanh(c), c), {"i": i, "f": f, "n": n, "o": o, "zi": zi, "zf": zf, "zn": zn, "zo": zo, "m": np.tanh(c), "zm": c, "c": s[1]}
    k = GATES[cell] - 1
    gates = _sigmoid(z[:, :k * H])
    U, r = p["U"][:, k * H:], gates[:, :H]
    zn = x @ p["W"][:, k * H:] + (r * h) @ U + p["b"][k * H:]
    n = np.tanh(zn)
    cache = {"r": r, "zr": z[:, :H], "n": n, "zn": zn}
    if cell == "custom":
        return (h + r * (n - h),), cache
    u = gates[:, H:]
    return ((1 - u) * n + u * h,), cache | {"u": u, "zu": z[:, H:k * H]}


def _backward(cell, p, cache, h, ds, d, U):
    """Pre-activation cotangents of all gates, what goes to the previous state, and the operand of U for each block."""
    dh = ds[0]
    if cell == "elman":
        dz = dh * d("n", "tanh")
        return dz, (dz @ U.T,), [h]
    if cell == "lstm":
        dc = ds[1] + dh * cache["o"] * d("m", "tanh")
        dz = np.concatenate([dc * cache["n"] * d("i", "sigmoid"), dc * cache["c"] * d("f", "sigmoid"), dc * cache["i"] * d("n", "tanh"),
                             dh * cache["m"] * d("o", "sigmoid")], 1)
        return dz, (_times(dz, U), dc * cache["f"]), [h] * 4
    r, n = cache["r"], cache["n"]
    k = GATES[cell] - 1
    if cell == "custom":
        dn, direct = dh * r, dh * (1 - r)
        dr, du = dh * (n - h), []
    else:
        dn, direct = dh * (1 - cache["u"]), dh * cache["u"]
        dr, du = 0.0, [dh * (h - n) * d("u", "sigmoid")]
    dzn = dn * d("n", "tanh")
    drh = dzn @ U[:, k * H:].T
    dr = dr + drh * h
    dz = np.concatenate([dr * d("r", "sigmoid"), *du, dzn], 1)
    return dz, (direct + drh * r + dz[:, :k * H] @ U[:, :k * H].T,), [h] * k + [r * h]


def _times(dz, U):
    return dz @ U.T


def bptt(cell, loss, bug=None):
    """`by_hand(params, x, y) -> (loss, grads)`, with one mistake planted, or none."""
    def by_hand(p, x, y):
        steps = len(x)
        s = [(p["h0"], p["c0"]) if cell == "lstm" else (p["h0"],)]
        caches = []
        for t in range(steps):
            state, cache = _forward(cell, p, s[t], x[t])
            s.append(state)
            caches.append(cache)
        value, do = _head(loss, [state[0] @ p["V"] + p["c"] for state in s[1:]], y, bug)
        if bug == "error of the last step alone":
            do = [0 * e for e in do[:-1]] + do[-1:]
        if bug == "error one step late":
            do = [0 * do[0], *do[:-1]]
        g = _sweep(cell, p, x, s, caches, do, bug, every=loss != "last")
        return value, _finished(g, p, bug, steps)

    return by_hand


def _head(loss, o, y, bug):
    """The loss and its derivative with respect to every output."""
    steps, rows = len(o), len(o[0])
    if loss == "entropy":
        p = [np.exp(q - q.max(1, keepdims=True)) for q in o]
        p = [q / q.sum(1, keepdims=True) for q in p]
        value = -np.mean([np.log(q[np.arange(rows), k]) for q, k in zip(p, y)])
        d = [q - np.eye(O)[k] * (bug != "target not subtracted") for q, k in zip(p, y)]
        if bug == "softmax twice":
            d = [q * (e - (q * e).sum(1, keepdims=True)) for q, e in zip(p, d)]
        return value, [e / (steps * rows) for e in d]
    e = [a - b for a, b in zip(o, y)]
    d = o if bug == "target not subtracted" else e
    if loss == "last":
        return 0.5 * np.sum(e[-1] ** 2), [0 * a for a in d[:-1]] + [d[-1]]
    if loss == "mean":
        return np.mean(np.square(e)), [2 * a / np.size(e) for a in d]
    return 0.5 * np.sum(np.square(e)), d


def _sweep(cell, p, x, s, caches, do, bug, every):
    steps = len(x)
    U = p["U"]
    carried = np.concatenate([u.T for u in np.split(U, GATES[cell], 1)], 1) if bug == "transpose missing" else U
    g = {name: np.zeros_like(value) for name, value in p.items()}
    ds = tuple(np.zeros_like(a) for a in s[0])
    running = []
    for t in reversed(range(steps)):
        g["V"] += s[t + 1][0].T @ do[t]
        g["c"] += do[t].sum(0)
        out = do[t] @ p["V"].T
        dh = ds[0] if bug == "carry replaces" and t + 1 < steps else ds[0] + out
        d = Derivatives(bug, caches, t)
        dz, ds_new, operands = _backward(cell, p, caches[t], s[t][0], (dh, *ds[1:]), d, carried)
        if bug == "gates swapped":
            dz = np.concatenate([dz[:, H:2 * H], dz[:, :H], dz[:, 2 * H:]], 1)
            if cell == "lstm":
                ds_new = (dz @ U.T, ds_new[1])
            elif cell == "gru":
                _, clean, _ = _backward(cell, p, caches[t], s[t][0], (dh,), d, U)
                right = np.concatenate([dz[:, H:2 * H], dz[:, :H]], 1)
                ds_new = (clean[0] + (dz[:, :2 * H] - right) @ U[:, :2 * H].T,)
            # the minimal gated unit's swapped blocks reach the weights alone
        operands = _operands(bug, operands, s, caches, cell, t)
        local = dz
        if bug == "derivative missing in dU alone":
            local, _, _ = _backward(cell, p, caches[t], s[t][0], (dh, *ds[1:]), Derivatives("derivative missing", caches, t), U)
        if bug == "derivative missing in the carry alone":
            _, ds_new, _ = _backward(cell, p, caches[t], s[t][0], (dh, *ds[1:]), Derivatives("derivative missing", caches, t), U)
        u = t - 1 if bug == "input one step early" else t + 1 if bug == "input one step late" else t
        part = {"W": (x[u % steps] if 0 <= u < steps else 0 * x[0]).T @ dz, "b": dz[0] if bug == "bias not summed" else dz.sum(0),
                "U": np.concatenate([a.T @ b for a, b in zip(operands, np.split(local, GATES[cell], 1))], 1)}
        if bug == "first step left out" and t == 0 or bug == "last step's part alone" and t < steps - 1:
            part = {name: 0 * value for name, value in part.items()}
        for name in part:
            g[name] += part[name]
        running.append({name: g[name].copy() for name in part})
        ds = ds_new
        if bug == "carry lost" or bug == "carry cut after 2" and t == steps - 3 or bug == "carry in chunks of 3" and t % 3 == 0 and t:
            ds = tuple(0 * a for a in ds)
        if bug == "carry counted twice":
            ds = tuple(2 * a for a in ds)
        if bug == "carry clipped":
            ds = tuple(np.clip(a, -0.1, 0.1) for a in ds)
    if bug == "running sum":
        g |= {name: sum(one[name] for one in running) for name in running[0]}
    for name, value in zip(("h0", "c0"), ds):
        g[name] = 0 * value if bug == "initial gradient lost" else value
    return g


def _operands(bug, operands, s, caches, cell, t):
    """What U's gradient is formed with; in gated cells the mistakes are made in every block that takes the plain state."""
    h, steps = s[t][0], len(caches)
    wrong = {"state one step early": s[t - 1][0] if t else 0 * h, "state one step late": s[t + 1][0], "state wraps at 0": s[t][0] if t else s[steps][0],
             "initial state taken for zero": h if t else 0 * h}.get(bug)
    return operands if wrong is None else [wrong if a is h else a for a in operands]


def _finished(g, p, bug, steps):
    core = ("W", "U", "b")
    if bug == "averaged over T":
        return {n: v / steps for n, v in g.items()}
    if bug == "averaged over B":
        return {n: v / B for n, v in g.items()}
    if bug in ("half", "twice", "sign"):
        return {n: {"half": 0.5, "twice": 2.0, "sign": -1.0}[bug] * v for n, v in g.items()}
    if bug == "weights returned":
        return g | {"U": steps * p["U"]}
    if bug == "updated weights returned":
        return g | {n: p[n] - 0.1 * g[n] for n in core}
    if bug == "clipped":
        return {n: np.clip(v, -0.05, 0.05) for n, v in g.items()}
    if bug == "weight decay":
        return g | {n: g[n] + 0.01 * p[n] for n in core}
    if bug == "gradient transposed":
        return g | {"U": np.concatenate([u.T for u in np.split(g["U"], g["U"].shape[1] // H, 1)], 1)}
    return g
