"""A progress bar: tqdm's when it is installed, one line that rewrites itself otherwise, nothing where nobody looks.

Knows a terminal. Refuses to know what is counted. Nothing of the library stands below it.
"""

import sys
import time


class Plain:
    """The part of tqdm's interface that the command line uses, in one rewritten line."""

    def __init__(self, total, initial=0, desc="", unit="it", stream=None):
        self.total, self.n, self.first, self.name, self.unit = total, initial, initial, desc, unit
        self.stream, self.note, self.started, self.shown = stream or sys.stderr, "", time.monotonic(), float("-inf")

    def update(self, count=1):
        self.n += count
        if time.monotonic() - self.shown > 0.1 or self.n >= self.total:
            self._show()

    def set_postfix_str(self, note, refresh=False):
        self.note = note

    def write(self, text):
        self.stream.write("\r\x1b[K")
        self.stream.flush()
        print(text, flush=True)
        self._show()

    def _show(self):
        self.shown = time.monotonic()
        done = 20 * self.n // max(self.total, 1)
        rate = (self.n - self.first) / max(self.shown - self.started, 1e-9)
        self.stream.write(f"\r\x1b[K{self.name} [{'#' * done}{'.' * (20 - done)}] {self.n}/{self.total}  {rate:.1f} {self.unit}/s  {self.note}")
        self.stream.flush()

    def close(self):
        self.stream.write("\n")
        self.stream.flush()


class Silent(Plain):
    """Where stderr is a file or a pipe: text that is meant to be kept is printed, the bar is not."""

    def write(self, text):
        print(text, flush=True)

    def _show(self):
        pass

    def close(self):
        pass


def bar(total, *, initial=0, desc="", unit="it"):
    """A bar with `update(n)`, `set_postfix_str(text)`, `write(line)` and `close()`."""
    if not sys.stderr.isatty():
        return Silent(total, initial, desc, unit)
    try:
        from tqdm import tqdm
    except ImportError:
        return Plain(total, initial, desc, unit)
    return tqdm(total=total, initial=initial, desc=desc, unit=unit, dynamic_ncols=True, smoothing=0.05)
