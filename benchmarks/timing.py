"""How the benchmarks measure: one core, interleaved, medians, ratios taken round by round; peaks by tracemalloc.

Knows nothing of cells and libraries: what is timed is a dict of calls without arguments. Stands on the standard
library, and on no array library, because the number of threads must be settled before one of them is loaded.
"""

import gc
import importlib.metadata
import os
import platform
import statistics
import sys
import time
import tracemalloc
from datetime import date

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)  # cpu: for a machine on which others work meanwhile
SHORTEST = 0.01  # seconds: shorter calls are repeated within one reading of the clock, so that they find their own data in the caches
LIBRARIES = ("numpy", "torch", "jax", "pytensor", "autograd", "mygrad")


def pin(cores):
    """Start the program again, bound to one core with one thread a library ("1"), or with all cores ("all").

    JAX ignores the usual thread variables, so the process itself is pinned; the binding holds for all of its threads.
    """
    if os.environ.get("BENCHMARK_CORES") == cores:
        return
    if cores == "1":
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.environ.update(dict.fromkeys(THREADS, "1"))
    os.environ["BENCHMARK_CORES"] = cores
    os.execv(sys.executable, [sys.executable, *sys.argv])


def once(call, clock="wall"):
    """(seconds, result) of one call."""
    now = CLOCKS[clock]
    start = now()
    result = call()
    return now() - start, result


def interleaved(calls, rounds, budget, clock="wall"):
    """Seconds of one run of every call, ``rounds`` times, all calls taking turns: {name: [seconds, ...]}.

    The order turns from round to round. A call that would take more than ``budget`` seconds in all joins the first
    rounds only, and at least one; every call has run before.
    """
    now = CLOCKS[clock]
    first = {name: once(call, clock)[0] for name, call in calls.items()}
    short = [name for name, seconds in first.items() if seconds < budget / 10]
    first |= {name: min(first[name], once(calls[name], clock)[0]) for name in short}
    repeats = {name: max(1, round(SHORTEST / seconds)) for name, seconds in first.items()}
    turns = {name: max(1, min(rounds, int(budget / (seconds * repeats[name])))) for name, seconds in first.items()}
    readings = {name: [] for name in calls}
    names = list(calls)
    gc.collect()
    gc.freeze()  # what the libraries hold is no longer walked through; garbage made by the calls still is collected
    for turn in range(max(turns.values())):
        names.append(names.pop(0))
        for name in names:
            if turn < turns[name]:
                call, count = calls[name], repeats[name]
                start = now()
                for _ in range(count):
                    call()
                readings[name].append((now() - start) / count)
    gc.unfreeze()
    return readings


def ratio(readings, name, reference):
    """Median over the rounds of time / reference time of the same round."""
    return statistics.median(a / b for a, b in zip(readings[name], readings[reference], strict=False))


def median(readings):
    return statistics.median(readings)


def peak(prepare):
    """Bytes: the highest that Python's allocator reached, NumPy's arrays included: ``run = prepare(); run(); run()``.

    Preparing counts, so that memory kept between calls is seen.
    """
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run = prepare()
    run()
    run()
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return highest - before


def processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions():
    for library in LIBRARIES:
        try:
            yield f"{library} {importlib.metadata.version(library)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{library} not installed"


def setting(clock="wall"):
    """Machine, versions and date, in one sentence."""
    cores = "pinned to one core" if os.environ.get("BENCHMARK_CORES") == "1" else f"{os.cpu_count()} cores"
    return (f"{processor()}, {cores}, {clock} time; {platform.system()}, Python {platform.python_version()}, "
            f"{', '.join(versions())}; {date.today().isoformat()}.")


def table(header, rows, markdown):
    """Text of a table: the first column to the left, the others to the right."""
    cells = [header, *rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = [[cell.rjust(w) if k else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))]
             for row in cells]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = ["-" * w if k == 0 else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
