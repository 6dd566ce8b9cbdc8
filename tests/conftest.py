"""What all tests share: one BLAS thread, hypothesis without a clock, `says`, which pins an error's whole text, and a
folder with files for the command line."""

import contextlib
import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("house", deadline=None, print_blob=True, max_examples=60,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.load_profile("house")


@pytest.fixture
def says():
    """`with says(ErrorClass, "the whole text"):` fails unless exactly this is raised."""
    @contextlib.contextmanager
    def check(kind, text):
        with pytest.raises(kind) as caught:
            yield
        assert type(caught.value) is kind and str(caught.value) == text, f"\n{caught.value}"

    return check


# ---- the command line ---------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Call the command line with bad input; returns its one line."""
    from tinygrad_rnn import cli

    def call(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        assert status == 2 and err.count("\n") == 1 and err.endswith("\n"), (status, err)
        return err.strip()

    return call


@pytest.fixture
def poem(here):
    """A text."""
    (here / "poem.txt").write_text("to be or not to be, that is the question\n" * 30)
    return "poem.txt"


@pytest.fixture
def table(here):
    """A sine with a header."""
    rows = [f"{t},{20 + 5 * math.sin(t / 3):.6f}" for t in range(300)]
    (here / "table.csv").write_text("hour,degrees\n" + "\n".join(rows) + "\n")
    return "table.csv"
