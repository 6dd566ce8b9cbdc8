"""The eager tape: a gated cell in a plain Python loop, forward and backward, against other tapes and bare NumPy.

    python benchmarks/tape.py [--rounds N] [--dtypes float32 float64] [--cores all] [--markdown]

The cell is the minimal gated unit of ``cells.py`` at T 50, B 1, I 1, H 100; one run gives its gradients for all six
parameters, the sequence and the initial state. Columns: milliseconds; the time divided by that of tinygrad_rnn's tape
in the same round; microseconds an op, forward and backward, on top of NumPy's own time; peak memory a step (of what
allocates through Python). All must agree with the hand-derived gradients first.

NumPy's own time is that of ``bare`` below: the NumPy calls of the same ops in the same order, the calls of their
rules in reverse order, one call for every sum of two cotangents, all allocating their results; no tape, no dispatch,
no checks. An op is one call in the loop's equations or in the loss: 15 a step and 4 at the end.
"""

import argparse

import cells
import numpy as np
import peers
import timing
from scan import agreeing, measured, run_of

SIZE = (50, 1, 1, 100)
OPS = 15 * SIZE[0] + 4
ENTRIES = ("hand", "bare", "ours-loop", "torch-loop", "autograd", "mygrad", "mygrad-unguarded")


def bare(Wf, Uf, bf, Wh, Uh, bh, h0, xs):
    saved, ys, h = [], [], h0
    for t in range(len(xs)):
        x = xs[t]
        f = 1 / (1 + np.exp(-(x @ Wf + h @ Uf + bf)))
        fh = f * h
        c = np.tanh(x @ Wh + fh @ Uh + bh)
        d = c - h
        saved.append((x, h, f, fh, c, d))
        h = h + f * d
        ys.append(h)
    ys = np.stack(ys)
    loss = np.sum(ys) + np.sum(h)

    dys = np.broadcast_to(np.ones((), ys.dtype), ys.shape)
    dWf, dUf, dbf, dWh, dUh, dbh, dxs = (np.zeros_like(a) for a in (Wf, Uf, bf, Wh, Uh, bh, xs))
    dh = np.broadcast_to(np.ones((), h.dtype), h.shape)
    for t, (x, h, f, fh, c, d) in reversed(list(enumerate(saved))):
        dh = dh + dys[t]
        df, dd = dh * d, dh * f
        dh = dh + -dd
        dz = dd * (1 - c * c)
        dbh += np.sum(dz, 0)
        dx = dz @ Wh.T
        dWh += x.T @ dz
        dfh = dz @ Uh.T
        dUh += fh.T @ dz
        df = df + dfh * h
        dh = dh + dfh * f
        dz = df * (f * (1 - f))
        dbf += np.sum(dz, 0)
        dx = dx + dz @ Wf.T
        dWf += x.T @ dz
        dh = dh + dz @ Uf.T
        dUf += h.T @ dz
        dxs[t] += dx
    return loss, dict(Wf=dWf, Uf=dUf, bf=dbf, Wh=dWh, Uh=dUh, bh=dbh, h0=dh, xs=dxs)


def prepare_bare(_, p):
    return lambda: bare(**p), lambda result: result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=("float32", "float64"))
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--budget", type=float, default=4.0, help="seconds for one peer")
    parser.add_argument("--cores", choices=("1", "all"), default="1")
    parser.add_argument("--clock", choices=timing.CLOCKS, default="wall", help="cpu: when others use the machine")
    parser.add_argument("--markdown", action="store_true", help="print tables for a README")
    options = parser.parse_args()
    timing.pin(options.cores)
    loaded, missing = peers.load_all(key for key in ENTRIES if key != "bare")
    loaded["bare"] = prepare_bare
    print(timing.setting(options.clock), *missing, sep="\n")
    for dtype in options.dtypes:
        readings = measured(options, agreeing(loaded, "mgu", SIZE, dtype))
        p, rows = cells.draw("mgu", SIZE, dtype), []
        for key in ENTRIES:
            if key in loaded:
                above = timing.median([a - b for a, b in zip(readings[key], readings["bare"], strict=False)])
                allocates = key not in ("torch-loop",)
                rows.append([
                    peers.title(key) if key != "bare" else "bare NumPy",
                    f"{timing.median(readings[key]) * 1e3:.3g}", f"{timing.ratio(readings, key, 'ours-loop'):.2f}",
                    f"{above / OPS * 1e6:.2f}" if key not in ("hand", "bare") else "–",
                    f"{timing.peak(run_of(loaded[key], 'mgu', p)) / SIZE[0] / 1e3:.1f}" if allocates else "–"])
        header = [f"mgu {SIZE} {dtype}, eager", "ms", "/ tinygrad_rnn", "µs an op above NumPy", "kB a step"]
        print("", timing.table(header, rows, options.markdown), sep="\n", flush=True)


if __name__ == "__main__":
    main()
