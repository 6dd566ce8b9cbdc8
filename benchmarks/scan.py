"""Any recurrent cell under ``scan``, forward and backward, against careful NumPy by hand and against other libraries.

    python benchmarks/scan.py                      every table, on one core
    python benchmarks/scan.py --cores all          the same without pinning, by the clock on the wall
    python benchmarks/scan.py --quick              without the largest size and PyTensor (it compiles for half a minute)
    python benchmarks/scan.py --tables speed --cells lstm gru --sizes 100,32,64,128 --peers ours jax

One run gives the loss and the gradients for every parameter, the sequence and the initial state (see ``cells.py``).
Before anything is timed, all must agree with the gradients that were derived by hand. Tables:

    first     milliseconds from a cell never seen before to its gradients, at (50, 1, 1, 100); libraries are warm
    speed     milliseconds; in brackets the time divided by hand-written NumPy's of the same round; medians. Last column:
              the highest that a run reaches, MB, of hand-written NumPy and of tinygrad_rnn
    overhead  microseconds of a repeated call at T 3, H 1, and what it has above the generated code called directly
    linear    microseconds and kilobytes for one step, of 100, 1,000 and 10,000
    memory    the highest that a run reaches, MB, for what allocates through Python
"""

import argparse
import sys

import cells
import numpy as np
import peers
import timing

from tinygrad_rnn import workspace

TOLERANCE = dict(float64=(1e-9, 1e-12), float32=(1e-4, 1e-5))  # of the gradient's largest entry, of all gradients'


def disagreement(expected, found, dtype):
    """The first result that is not the hand-derived one within the tolerance, in words; None if all agree."""
    (loss, gradients), (own_loss, own) = expected, found
    of_own, of_all = TOLERANCE[dtype]
    largest = max(np.abs(g).max() for g in gradients.values())
    for key, g in gradients.items():
        if own[key].shape != g.shape or own[key].dtype != g.dtype:
            return f"{key} is {own[key].dtype} {own[key].shape}, not {g.dtype} {g.shape}"
        error, allowed = np.abs(own[key] - g).max(), of_own * np.abs(g).max() + of_all * largest
        if not error <= allowed:
            return f"{key} is {error:.1e} away, allowed are {allowed:.1e}"
    count = gradients["xs"].size / gradients["xs"].shape[-1] * gradients["h0"].shape[-1]  # outputs, which cancel in the sum
    return None if abs(own_loss - loss) <= of_own * (abs(loss) + count ** 0.5) else f"the loss is {own_loss}, not {loss}"


def agreeing(loaded, cell, size, dtype):
    """{peer: run} of those that have the cell; ends the program if one disagrees with the hand-derived gradients."""
    p = cells.draw(cell, size, dtype)
    expected = loaded["hand"](cell, p)[0]()
    runs = {}
    for key, prepare in loaded.items():
        prepared = prepare(cell, p)
        if prepared:
            runs[key], read = prepared
            fault = read and disagreement(expected, read(runs[key]()), dtype)
            if fault:
                raise SystemExit(f"{peers.title(key)}, {cell} {size} {dtype}: {fault}")
    return runs


def measured(options, runs):
    return timing.interleaved(runs, options.rounds, options.budget, options.clock)


def run_of(prepare, cell, p):
    def fresh():
        workspace.clear()  # what earlier runs left idle would not be counted
        return prepare(cell, p)[0]

    return fresh


def first(options, loaded):
    rows = []
    for key, prepare in loaded.items():
        if key in ("hand", "floor"):
            continue
        warm_up = prepare("leaky", cells.draw("leaky", (3, 3, 1, 1), "float64"))
        if warm_up:
            warm_up[0]()
        row = [peers.title(key)]
        for cell in options.cells:
            p = cells.draw(cell, (50, 1, 1, 100), "float64")
            seconds, result = timing.once(lambda: (prepared := prepare(cell, p)) and prepared[0]())
            row.append(f"{seconds * 1e3:.3g}" if result else "–")
        rows.append(row)
    return ["first gradients of a new cell, ms", *options.cells], rows


def speed(options, loaded):
    rows = []
    for dtype in options.dtypes:
        for size in options.sizes:
            for cell in options.cells:
                readings = measured(options, agreeing(loaded, cell, size, dtype))
                entries = {key: f"{timing.median(seconds) * 1e3:.3g} ({timing.ratio(readings, key, 'hand'):.2f})"
                           for key, seconds in readings.items()}
                p = cells.draw(cell, size, dtype)
                peaks = [f"{timing.peak(run_of(loaded[key], cell, p)) / 1e6:.3g}" for key in ("hand", "ours") if key in loaded]
                rows.append([f"{cell} {size} {dtype}", *(entries.get(key, "–") for key in loaded), " / ".join(peaks)])
                print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    return ["ms (of hand-written)", *map(peers.title, loaded), "peak MB"], rows


def overhead(options, loaded):
    chosen, rows = {key: peers.load(key) for key in ("hand", "ours", "generated")}, []
    for dtype in options.dtypes:
        for cell in options.cells:
            readings = measured(options, agreeing(chosen, cell, (3, 1, 1, 1), dtype))
            above = timing.median([a - b for a, b in zip(readings["ours"], readings["generated"], strict=False)])
            rows.append([f"{cell} {dtype}", *(f"{timing.median(readings[key]) * 1e6:.0f}" for key in chosen),
                         f"{above * 1e6:.0f}"])
    return ["µs at (3, 1, 1, 1)", *map(peers.title, chosen), "above the generated code"], rows


def linear(options, loaded):
    chosen, rows = {key: loaded[key] for key in ("hand", "ours") if key in loaded}, []
    for dtype in options.dtypes:
        for cell in options.cells:
            for T in (100, 1000, 10_000):
                p = cells.draw(cell, (T, 1, 1, 100), dtype)
                runs = {key: prepare(cell, p)[0] for key, prepare in chosen.items()}
                readings = measured(options, runs)
                steps = {key: (timing.median(readings[key]) / T, timing.peak(run_of(prepare, cell, p)) / T)
                         for key, prepare in chosen.items()}
                rows.append([f"{cell} T {T:,} {dtype}", *(
                    f"{seconds * 1e6:.1f} µs {size / 1e3:.2f} kB" for seconds, size in steps.values())])
    return ["one step of (T, 1, 1, 100)", *map(peers.title, chosen)], rows


def memory(options, loaded):
    chosen, rows = {key: loaded[key] for key in ("hand", "ours", "autograd", "mygrad") if key in loaded}, []
    for dtype in options.dtypes:
        for size in options.sizes:
            for cell in options.cells:
                p = cells.draw(cell, size, dtype)
                rows.append([f"{cell} {size} {dtype}", *(
                    f"{timing.peak(run_of(prepare, cell, p)) / 1e6:.3g}" for prepare in chosen.values())])
    return ["peak, MB", *map(peers.title, chosen)], rows


TABLES = dict(first=first, speed=speed, overhead=overhead, linear=linear, memory=memory)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--cells", nargs="+", choices=cells.CELLS, default=list(cells.CELLS))
    parser.add_argument("--sizes", nargs="+", metavar="T,B,I,H", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=("float32", "float64"))
    parser.add_argument("--peers", nargs="+", choices=peers.PEERS, help="hand-written NumPy is always there")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for one peer in one line")
    parser.add_argument("--cores", choices=("1", "all"), default="1")
    parser.add_argument("--clock", choices=timing.CLOCKS, default="wall", help="cpu: when others use the machine")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print tables for a README")
    options = parser.parse_args()
    if options.cores == "all" and options.clock == "cpu":
        parser.error("cpu time adds up the threads: with all cores use --clock wall")
    left_out = {"ours-loop", "generated", "mygrad-unguarded"} | ({"pytensor"} if options.quick else set())
    options.sizes = options.sizes or cells.SIZES[:4 if options.quick else None]
    options.peers = options.peers or [key for key in peers.PEERS if key not in left_out]
    return options


def main():
    options = arguments()
    timing.pin(options.cores)
    loaded, missing = peers.load_all(["hand", *options.peers])
    print(timing.setting(options.clock), *missing, sep="\n")
    for name in TABLES:
        if name in options.tables:
            print("", timing.table(*TABLES[name](options, loaded), options.markdown), sep="\n", flush=True)


if __name__ == "__main__":
    main()
