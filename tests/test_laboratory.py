"""The commands for cells and derivations of one's own: derive, check, diagnose, bench."""

import re

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import cli, laboratory

CELLS = """
import numpy as np
import tinygrad_rnn as tg

rng = np.random.default_rng(0)
W, U, b = (tg.tensor(rng.normal(size=size), requires_grad=True) for size in ((3, 4), (4, 4), 4))
state, xs = np.zeros((2, 4)), rng.normal(size=(5, 2, 3))

def elman(h, x):
    z = x @ W + h @ U + b
    h = tg.tanh(z)
    return h, h

class Leaky(tg.nn.Module):
    def __init__(self, input_size, hidden_size):
        self.input_size = input_size
        self.W = tg.tensor(np.ones((input_size, hidden_size)), requires_grad=True)

    def __call__(self, h, x):
        h = 0.5 * h + tg.tanh(x @ self.W)
        return h, h

    def initial_state(self, batch):
        return np.zeros((*batch, self.W.shape[1]))

def narrow(h, x):
    return h[:, :2], h

def faulty(h, x):
    return undefined, h

number = 3
"""

ALONE = """
import tinygrad_rnn as tg

def cell(h, x):
    return h, h
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a file of cells, and one that lacks a state."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.py").write_text(CELLS)
    (tmp_path / "alone.py").write_text(ALONE)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Call the command line with bad input; returns its one line."""
    def call(*arguments):
        status = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert status == 2 and err.count("\n") == 1 and "Traceback" not in err, (status, err)
        return err.strip()

    return call


# ---- derive -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--optimized",)])
def test_the_source_that_derive_prints_is_the_backward_pass(files, capsys, options):
    assert cli.main(["derive", "cells.py:elman", *options]) == 0
    alone = {}
    exec(capsys.readouterr().out, alone)
    rng = np.random.default_rng(1)
    W, U, b, h, xs = (rng.normal(size=s) for s in ((3, 4), (4, 4), (4,), (2, 4), (5, 2, 3)))

    def loss(W, U, b, h, xs):
        def cell(h, x):
            h = tg.tanh(x @ W + h @ U + b)
            return h, h

        state, ys = tg.scan(cell, h, xs)
        return tg.sum(ys * ys) / 2 + tg.sum(state)

    state, ys, saved = alone["forward"](h, xs, W=W, U=U, b=b)
    d_state, d_xs, d_params = alone["backward"](np.ones_like(h), ys, saved)
    dW, dU, db, dh, dxs = tg.grad(loss, argnums=(0, 1, 2, 3, 4))(W, U, b, h, xs)
    for found, expected in ((d_params["W"], dW), (d_params["U"], dU), (d_params["b"], db), (d_state, dh), (d_xs, dxs)):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("cell", ["cells.py:Leaky", *laboratory.CELLS])
def test_derive_makes_a_cell_from_sizes(files, capsys, cell):
    assert cli.main(["derive", cell, "--input", "2", "--hidden", "6"]) == 0
    text = capsys.readouterr().out
    assert "def backward(d_state, d_ys, saved):" in text and re.search(r"\bh +\(2, 6\)", text)


def test_derive_shows_equations_and_the_plan(files, capsys):
    assert cli.main(["derive", "cells.py:elman", "equations"]) == 0
    assert "dzₜ = dhₜ ∘ (1 − hₜ²)" in capsys.readouterr().out
    assert cli.main(["derive", "cells.py:elman", "equations", "--latex"]) == 0
    assert r"\begin{aligned}" in capsys.readouterr().out
    assert cli.main(["derive", "cells.py:elman", "plan"]) == 0
    assert "NumPy calls per step" in capsys.readouterr().out


@pytest.mark.parametrize("cell, words", [
    ("lstmm", "there is no such cell (cells rnn, lstm"),
    ("nowhere.py:Cell", "nowhere.py: no such file"),
    ("cells.py:Gone", "cells.py defines no Gone (it defines elman, Leaky, narrow, faulty)"),
    ("cells.py:number", "this cannot be called"),
    ("cells.py:", "not of the form FILE.py:name"),
    ("alone.py:cell", "it is not known what to call this cell with (the file lacks state). Define state and xs in the file"),
    ("cells.py:narrow", "the cell changed the shape of its state at step 0"),
    ("cells.py:faulty", "cells.py, line 30: NameError: name 'undefined' is not defined"),
])
def test_derive_refuses_in_one_line(files, refused, cell, words):
    assert words in refused("derive", cell)


@pytest.mark.parametrize("text, words", [
    ("def cell(h, x):\n    return h, h,,\n", "broken.py, line 2: SyntaxError: invalid syntax"),
    ("x = 1\nraise KeyError('no')\n", "broken.py, line 2: KeyError: 'no'"),
    ("import sys\nsys.exit(5)\n", "RuntimeError: the file ended itself with sys.exit(5)"),
    ("import nowhere_to_be_found\n", "broken.py, line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
])
def test_a_file_that_does_not_run_is_told_in_one_line(files, refused, text, words):
    (files / "broken.py").write_text(text)
    assert words in refused("derive", "broken.py:cell")


# ---- diagnose -----------------------------------------------------------------------------------------------

DERIVATION = """
import numpy as np
import tinygrad_rnn as tg
from tinygrad_rnn.sources import elman

params, data = elman.example()
loss, right, wrong = elman.loss, elman.bptt, elman.bptt_as_written
"""


def test_diagnose_clears_what_is_right_and_names_what_is_wrong(files, capsys):
    (files / "derivation.py").write_text(DERIVATION)
    assert cli.main(["diagnose", "derivation.py:right"]) == 0
    assert "every gradient is right" in capsys.readouterr().out
    assert cli.main(["diagnose", "derivation.py:wrong"]) == 1
    assert "Whh" in capsys.readouterr().out


def test_diagnose_refuses_a_file_without_a_loss(files, refused):
    assert "the file defines no loss. Define loss(params, *data)" in refused("diagnose", "cells.py:elman")


# ---- check --------------------------------------------------------------------------------------------------


def test_check_runs_the_battery(files, capsys):
    for cell in ("cells.py:elman", "cells.py:Leaky", "gru"):
        assert cli.main(["check", cell]) == 0
        assert "check_cell(" in capsys.readouterr().out


def test_check_fails_for_a_cell_that_remembers(files, capsys):
    (files / "remembers.py").write_text(CELLS + "\nseen = []\ndef counting(h, x):\n    seen.append(1)\n    return h + len(seen), h\n")
    assert cli.main(["check", "remembers.py:counting"]) == 1


# ---- exercise and grade -------------------------------------------------------------------------------------


def test_an_exercise_is_written_once_and_graded(files, capsys, refused):
    assert cli.main(["exercise", "elman"]) == 0
    assert capsys.readouterr().out.startswith("wrote elman_skeleton.py\n")
    assert "the file exists already" in refused("exercise", "elman")
    assert cli.main(["grade", "elman_skeleton.py"]) == 1
    assert "of 6 gradients right" in capsys.readouterr().out
    (files / "elman_skeleton.py").write_text(tg.exercises.solution("elman"))
    assert cli.main(["grade", "elman_skeleton.py"]) == 0
    assert "6 of 6 gradients right" in capsys.readouterr().out


def test_a_hint_names_the_mistake(files, capsys):
    assert cli.main(["exercise", "classifier", "bug", "--seed", "3", "--out", "mine.py"]) == 0
    capsys.readouterr()
    assert cli.main(["grade", "mine.py"]) == 1 and "diagnose:" not in capsys.readouterr().out
    assert cli.main(["grade", "mine.py", "--hint"]) == 1 and "diagnose:" in capsys.readouterr().out


@pytest.mark.parametrize("text, words", [
    ("x = 1\n", "the file defines no loss, no params, no data, no bptt"),
    ("from tinygrad_rnn.sources.elman import loss, example\nparams, data = example()\ndef bptt(params, x, y):\n    return 1 / 0\n",
     "line 4: ZeroDivisionError: division by zero"),
    ("from tinygrad_rnn.sources.elman import loss, example\nparams, data = example()\ndef bptt(params, x, y):\n    return 3\n", "cannot be graded"),
])
def test_a_file_that_cannot_be_graded_gets_a_report(files, capsys, text, words):
    (files / "mine.py").write_text(text)
    assert cli.main(["grade", "mine.py"]) == 1
    out, err = capsys.readouterr()
    assert words in out and "Traceback" not in out + err


def test_exercise_and_grade_refuse_what_is_not_there(refused):
    assert "there is no such exercise" in refused("exercise", "algebra")
    assert "gone.py: no such file" in refused("grade", "gone.py")


# ---- bench --------------------------------------------------------------------------------------------------


def test_bench_names_the_benchmarks(refused):
    assert "there is no benchmark 'nothing' (benchmarks " in refused("bench", "nothing")
    assert {"scan", "tape"} <= set(laboratory.benchmarks())


def test_bench_hands_on_options_and_the_exit_status(capfd):
    assert cli.main(["bench", "tape", "--options", "--help"]) == 0
    assert "--rounds" in capfd.readouterr().out
    assert cli.main(["bench", "tape", "--options", "--nonsense"]) == 2
