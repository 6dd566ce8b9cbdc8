"""The command line in a process of its own, and sizes at which training takes no time."""

import subprocess
import sys

SMALL = ("--hidden", 8, "--tbptt", 10, "--batch", 4, "--every", 20)


def run(*arguments, **options):
    """The command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "tinygrad_rnn", *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)
