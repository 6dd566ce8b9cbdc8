"""The loop around a run: update, report, save; and an end that loses nothing when somebody presses Ctrl-C.

Knows when a snapshot is written. Refuses to know what an update is and what is said of it. Below it: run, report.
"""

import contextlib
import signal
import time

from . import report


def train(run, updates, every, path, *, bar, stopped=lambda: False):
    """Update until there have been `updates`, or until `stopped()`.

    At the start and after every `every` updates the losses and the speed are reported to `bar`, with an example, and the
    snapshot is written; it is also written at the end, if that is no exception.

    Raises: what `Run.update` raises; the snapshot is then the last one.
    """
    if not run.history:
        bar.write(report.line(run, run.report()))
    run.save(path)
    read, began = 0, time.perf_counter()
    while run.updates < updates and not stopped():
        read += run.chunk[0].size
        bar.set_postfix_str(report.figures(run.corpus, run.update()), refresh=False)
        bar.update()
        if run.updates % every == 0 or run.updates == updates:
            speed = read / (time.perf_counter() - began)
            bar.write(report.line(run, run.report(), speed))
            bar.write(report.example(run))
            run.save(path)
            read, began = 0, time.perf_counter()
    run.save(path)


@contextlib.contextmanager
def interrupts():
    """Within the block the first Ctrl-C only makes the function that it gives return True; the second one interrupts."""
    seen = []

    def note(number, frame):
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    old = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, old)
