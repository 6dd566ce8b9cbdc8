"""PyTorch: its fused layers where the cell exists, and the equations in an eager Python loop."""

import torch
from cells import EPSILON, EVERY, initial, loop, loss, namespace

F = namespace(
    torch, sigmoid=torch.sigmoid, split=lambda z, n: z.chunk(n, -1),
    normalize=lambda v: torch.nn.functional.layer_norm(v, v.shape[-1:], eps=EPSILON))
LAYERS = dict(elman=torch.nn.RNN, lstm=torch.nn.LSTM, gru=torch.nn.GRU)


def prepare_fused(cell, p):
    if cell not in LAYERS:
        return None
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in p.items() if key in ("h0", "c0", "xs")}
    (_, _, I), H = leaves["xs"].shape, leaves["h0"].shape[-1]
    layer = LAYERS[cell](I, H, dtype=leaves["xs"].dtype)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor(p["W"].T))
        layer.weight_hh_l0.copy_(torch.tensor(p["U"].T))
        layer.bias_ih_l0.copy_(torch.tensor(p["b"]))
        layer.bias_hh_l0.zero_()
        if cell == "gru":
            layer.bias_hh_l0[2 * H:] = torch.tensor(p["bn"])
    names, targets = zip(*leaves.items(), *layer.named_parameters(), strict=True)

    def run():
        state = initial(leaves)
        batch = tuple(leaf[None] for leaf in state) if isinstance(state, tuple) else state[None]
        ys, final = layer(leaves["xs"], batch)
        value = loss(F, final, ys)
        return value, torch.autograd.grad(value, targets)

    def read(result):
        value, gradients = result
        g = {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}
        own = dict(W=g["weight_ih_l0"].T, U=g["weight_hh_l0"].T, b=g["bias_ih_l0"])
        return value.item(), own | dict(bn=g["bias_hh_l0"][2 * H:]) | {key: g[key] for key in leaves}

    return run, read


def prepare_loop(cell, p):
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in p.items()}

    def run():
        value = loop(F, EVERY[cell], leaves)
        return value, torch.autograd.grad(value, list(leaves.values()))

    def read(result):
        return result[0].item(), {key: g.numpy() for key, g in zip(leaves, result[1], strict=True)}

    return run, read
