"""train and sample: what they print, what they keep, and that bad input gets one clear line and exit status 2."""

import os
import re
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from cli_cases import SMALL, run

import tinygrad_rnn as tg
from tinygrad_rnn import cli


def test_train_reports_writes_and_draws(poem, here, capsys):
    assert cli.main(["train", poem, *map(str, SMALL), "--updates", "60"]) == 0
    text = capsys.readouterr().out
    assert "poem.txt: 1,230 characters, 28 chunks of 4 × 10 an epoch" in text and "GRUCell(8, 8)" in text
    lines = [line for line in text.splitlines() if line.startswith("update")]
    assert [line.split()[1] for line in lines] == ["0", "20", "40", "60"]
    bits = [float(line.split("held out: ")[1].split()[0]) for line in lines]
    assert bits == sorted(bits, reverse=True) and "perplexity" in lines[0] and "    | " in text
    assert not lines[0].endswith("/s") and all(re.search(r"  [\d,]+ characters/s$", line) for line in lines[1:])
    assert text.endswith("wrote out/poem.npz after 60 updates\n") and os.listdir("out") == ["poem.npz"]


def test_the_speed_is_that_of_the_chunks_that_were_read(poem, here, capsys, monkeypatch):
    from tinygrad_rnn.training import loop

    seconds = iter(range(1000))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(seconds))  # a second passes whenever somebody looks
    assert cli.main(["train", poem, *map(str, SMALL), "--updates", "28"]) == 0
    speeds = [line.rsplit("  ", 1)[1] for line in capsys.readouterr().out.splitlines() if line.startswith("update")]
    assert speeds[1:] == ["800 characters/s", f"{4 * 7 * 10 + 4 * 5:,} characters/s"]  # the last of an epoch's chunks is shorter


def test_train_without_a_file_reads_pythons_own_help(here, capsys):
    assert cli.main(["train", "--updates", "2", "--hidden", "8", "--tbptt", "8", "--batch", "2048"]) == 0
    assert "pydoc_data.topics: " in capsys.readouterr().out and os.listdir("out") == ["pydoc_topics.npz"]


def test_an_earlier_snapshot_is_kept(poem, here, capsys):
    for updates in (1, 2):
        assert cli.main(["train", poem, *map(str, SMALL), "--updates", str(updates)]) == 0
    assert "the earlier out/poem.npz is now out/poem.previous.npz" in capsys.readouterr().out
    assert [int(tg.training.load(f"out/poem{part}.npz").facts["updates"]) for part in ("", ".previous")] == [2, 1]


def test_train_draws_its_losses(poem, here, capsys):
    pytest.importorskip("matplotlib")
    assert cli.main(["train", poem, *map(str, SMALL), "--updates", "40", "--plot", "pictures/losses.png"]) == 0
    assert (here / "pictures" / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "mgu", "indrnn", "lnlstm"])
def test_every_built_in_cell_trains_in_layers_and_writes(poem, here, capsys, cell):
    options = ("--cell", cell, "--layers", 2, "--dropout", 0.1, "--optimizer", "rmsprop", "--updates", 3, "--save", "run.npz")
    assert cli.main(["train", poem, *map(str, SMALL + options)]) == 0
    capsys.readouterr()
    written = []
    for seed in (1, 1, 2):
        assert cli.main(["sample", "run.npz", "--length", "50", "--seed", str(seed), "--prompt", "to be"]) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] != written[2] and len(written[0]) == 51
    assert set(written[0]) <= set("to be or not to be, that is the question\n")


def test_temperature_zero_takes_the_likeliest(poem, here, capsys):
    cli.main(["train", poem, *map(str, SMALL), "--updates", "300", "--hidden", "32", "--save", "run.npz"])
    capsys.readouterr()
    cli.main(["sample", "run.npz", "--length", "36", "--prompt", "to be", "--temperature", "0"])
    assert capsys.readouterr().out == " or not to be, that is the question\n\n"


def test_temperatures_at_the_ends(poem, here, capsys):
    cli.main(["train", poem, *map(str, SMALL), "--updates", "40", "--save", "run.npz"])
    capsys.readouterr()
    written = {}
    for temperature in ("0", "1e-308", "1e308", "inf"):
        assert cli.main(["sample", "run.npz", "--length", "200", "--prompt", "to be", "--temperature", temperature]) == 0
        written[temperature] = capsys.readouterr().out
    assert written["0"] == written["1e-308"] and written["1e308"] == written["inf"]
    assert set(written["inf"]) == set("to be or not to be, that is the question\n")  # each as likely as the other


def test_a_column_is_forecast_better_than_by_its_last_value(table, here, capsys, refused):
    assert cli.main(["train", table, "--csv", "degrees", "--hidden", "16", "--tbptt", "20", "--batch", "4", "--updates", "250", "--save", "run.npz"]) == 0
    text = capsys.readouterr().out
    beat = float(text.split("to beat, held out: rmse ")[1].split()[0])
    rmse = float([line for line in text.splitlines() if line.startswith("update")][-1].split("held out: rmse ")[1].split()[0])
    assert rmse < beat / 4
    assert cli.main(["sample", "run.npz", "--length", "5"]) == 0
    numbers = [float(line) for line in capsys.readouterr().out.split()]
    np.testing.assert_allclose(numbers, 20 + 5 * np.sin(np.arange(300, 305) / 3), atol=0.5)
    for option in (("--prompt", "2"), ("--temperature", "0.5")):
        assert "a prompt and a temperature are for texts; this network forecasts numbers" in refused("sample", "run.npz", *option)


def test_a_cell_of_ones_own_trains_and_is_asked_for_again(poem, here, capsys, refused):
    (here / "mine.py").write_text("""
import numpy as np
import tinygrad_rnn as tg

class Leaky(tg.nn.Module):
    def __init__(self, input_size, hidden_size):
        rng = np.random.default_rng(0)
        self.W = tg.tensor(rng.normal(0, 0.3, (input_size, hidden_size)), requires_grad=True)
        self.U = tg.tensor(rng.normal(0, 0.3, (hidden_size, hidden_size)), requires_grad=True)
    def __call__(self, h, x):
        h = 0.5 * h + 0.5 * tg.tanh(x @ self.W + h @ self.U)
        return h, h
    def initial_state(self, batch):
        return np.zeros((*batch, self.U.shape[0]), self.U.dtype)

number = 3

def bare(input_size, hidden_size):
    return lambda h, x: (h, h)

def faulty(input_size, hidden_size):
    return 1 / 0

class Alone(tg.nn.Module):
    def __init__(self):
        pass
""")
    own = ["--cell", "mine.py:Leaky"]
    assert cli.main(["train", poem, *own, *map(str, SMALL), "--updates", "20", "--save", "run.npz"]) == 0
    assert "Leaky(" in capsys.readouterr().out
    assert "pass --cell mine.py:Leaky" in refused("sample", "run.npz")
    assert "pass --cell mine.py:Leaky" in refused("train", "--resume", "run.npz")
    assert "--cell lstm does not fit: run.npz was made with cell mine.py:Leaky" in refused("sample", "run.npz", "--cell", "lstm")
    assert cli.main(["sample", "run.npz", *own, "--length", "9"]) == 0 and len(capsys.readouterr().out) == 10
    moved = ["--cell", f"{here}/mine.py:Leaky"]
    assert cli.main(["sample", "run.npz", *moved, "--length", "9"]) == 0 and len(capsys.readouterr().out) == 10
    assert cli.main(["train", "--resume", "run.npz", *moved, "--updates", "22"]) == 0
    assert cli.main(["train", "--resume", "run.npz", *own, "--updates", "25"]) == 0
    assert "after 25 updates" in capsys.readouterr().out
    assert "this cannot be called (type int)" in refused("train", poem, "--cell", "mine.py:number", *SMALL)
    assert "no parameters that could be trained" in refused("train", poem, "--cell", "mine.py:bare", *SMALL)
    assert "mine.py:Alone: it cannot be called with (8, 8): too many" in refused("train", poem, "--cell", "mine.py:Alone", *SMALL)
    line = refused("train", poem, "--cell", "mine.py:faulty", *SMALL)
    assert "mine.py, line 22: ZeroDivisionError: division by zero" in line


def test_ctrl_c_ends_with_a_snapshot_from_which_the_run_goes_on_bit_for_bit(poem, here):
    options = [*map(str, SMALL), "--layers", "2", "--dropout", "0.2", "--cell", "lstm", "--save"]
    process = subprocess.Popen([sys.executable, "-m", "tinygrad_rnn", "train", poem, *options, "cut.npz", "--updates", "1000000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("update     20"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err == "tinygrad-rnn train: interrupted; go on with --resume cut.npz\n", err
    done = tg.training.load("cut.npz").facts["updates"]
    total = str(40 + 20 * (done // 20))
    assert run("train", "--resume", "cut.npz", "--every", 20, "--updates", total).returncode == 0
    assert run("train", poem, *options, "whole.npz", "--updates", total).returncode == 0
    with np.load("cut.npz") as cut, np.load("whole.npz") as whole:
        assert cut.files == whole.files
        assert all(cut[name].tobytes() == whole[name].tobytes() for name in whole.files)


def test_ctrl_c_at_once_leaves_a_snapshot_too(poem, here):
    """Before the first update there is no state to carry, and none is asked for."""
    options = [*map(str, SMALL), "--cell", "lstm", "--save"]
    process = subprocess.Popen([sys.executable, "-m", "tinygrad_rnn", "train", poem, *options, "cut.npz", "--updates", "1000000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err.count("\n") == 1 and "interrupted" in err, err
    if not os.path.exists("cut.npz"):  # the signal was faster than the first snapshot
        assert err == "tinygrad-rnn train: interrupted\n"
    assert run("train", poem, *options, "zero.npz", "--updates", 1).returncode == 0
    whole = tg.training.load("zero.npz").arrays
    corpus = tg.training.corpus.read_text(poem)
    fresh = tg.training.Run(corpus, tg.training.Settings(cell="lstm", hidden=8, tbptt=10, batch=4))
    fresh.report()
    fresh.save("zero.npz")
    assert run("train", "--resume", "zero.npz", "--updates", 1).returncode == 0
    again = tg.training.load("zero.npz").arrays
    assert all(again[name].tobytes() == whole[name].tobytes() for name in whole)


def test_a_disk_that_is_full_leaves_the_last_snapshot(poem, here):
    """The kernel refuses to let a file grow: the snapshot is the one from before, and nothing lies beside it."""
    assert run("train", poem, *SMALL, "--updates", 1, "--save", "run.npz").returncode == 0
    before = (here / "run.npz").read_bytes()
    found = run("train", "--resume", "run.npz", "--updates", 3, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    assert (found.returncode, found.stderr) == (2, "tinygrad-rnn train: run.npz: File too large\n")
    assert (here / "run.npz").read_bytes() == before and sorted(os.listdir()) == ["poem.txt", "run.npz"]


@pytest.mark.parametrize("name", ["poem.txt", "mine.npz", "folder.npz", "folder", ""])
def test_what_is_no_snapshot_is_not_moved_aside(poem, here, refused, name):
    np.savez("mine.npz", x=np.ones(3))
    (here / "folder.npz").mkdir()
    (here / "folder").mkdir()
    before = sorted(os.listdir())
    refused("train", poem, *SMALL, "--save", name)
    assert sorted(os.listdir()) == before


def test_a_diverging_run_says_so_and_keeps_its_snapshot(poem, here, capsys):
    assert cli.main(["train", poem, *map(str, SMALL), "--cell", "indrnn", "--optimizer", "sgd", "--lr", "1e30", "--clip", "1e30", "--updates", "50"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("is nan" in err or "is inf" in err or "is not finite" in err)
    assert re.search(r"first \w+\([\w, ]+\): .*(a nan|an infinity) .*, at step \d", err)
    assert tg.training.load("out/poem.npz").facts["updates"] == 0


@pytest.mark.parametrize("content, options, words", [
    (None, (), "file.txt: No such file or directory"),
    (b"", (), "the file is empty"),
    (b"caf\xe9 " * 100, (), "not UTF-8 text: byte 3 is 0xe9"),
    (b"short", (), "a chunk of 64 steps is longer than the text"),
    (b"words " * 50, ("--tbptt", 500),
     "a chunk of 500 steps is longer than the text (characters to train on 270, needed 501). Pass a longer text, or --tbptt 269 or less."),
    (b"words " * 50, ("--tbptt", 10, "--batch", 200), "200 streams are more than the text has room for"),
    (b"words " * 50, ("--tbptt", 10, "--cell", "gruu"), "there is no cell 'gruu'"),
    (b"words " * 50, ("--tbptt", 10, "--cell", "nowhere.py:Cell"), "nowhere.py: no such file"),
    (b"words " * 50, ("--tbptt", 10, "--optimizer", "magic"), "there is no optimiser 'magic'"),
    (b"words " * 50, ("--tbptt", 10, "--dtype", "float31"), "there is no dtype 'float31'"),
    (b"words " * 50, ("--tbptt", 10, "--dropout", 0.5), "dropout acts between layers, and there is only one"),
    (b"words " * 50, ("--tbptt", 10, "--layers", 2, "--dropout", 1.5), "dropout"),
    (b"words " * 50, ("--csv", "y"), "there is no column 'y'"),
    (b"x,y\n1,2\n2,three\n", ("--csv", "y"), "column 'y' holds 'three' in line 3"),
    (b"x,y\n1,2\n2,3\n", ("--csv", "y"), "a chunk of 64 steps is longer than the series (numbers to train on 0, needed 65). Pass a longer series."),
    (b"words " * 50, ("--tbptt", 10, "--save", "/proc/run.npz"), "/proc/run.npz: No such file"),
    (b"words " * 50, ("--tbptt", 10, "--save", "file.txt/run.npz"), "file.txt"),
    (b"words " * 50, ("--resume", "file.txt"), "the ending of the name says no format"),
    (b"words " * 50, ("--save", "run.zip"), "the ending of the name says no format"),
    (b"words " * 50, ("--resume", "nothing.npz"), "nothing.npz: No such file or directory"),
])
def test_train_refuses_bad_input_in_one_line(here, refused, content, options, words):
    if content is not None:
        (here / "file.txt").write_bytes(content)
    assert words in refused("train", "file.txt", *options)


def test_train_refuses_a_picture_that_it_could_not_draw(poem, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    assert "matplotlib is not installed" in refused("train", poem, *SMALL, "--plot", "losses.png")
    monkeypatch.undo()


@pytest.mark.parametrize("place", ["/proc/losses.png", "poem.txt/losses.png", "folder.png"])
def test_train_refuses_a_picture_before_it_trains(poem, here, refused, place):
    pytest.importorskip("matplotlib")
    (here / "folder.png").mkdir()
    assert place.split("/losses")[0] in refused("train", poem, *SMALL, "--plot", place)
    refused("train", poem, *SMALL, "--plot", "other.png", "--save", "poem.txt")
    assert not os.path.exists("out") and not os.path.exists("other.png")
    assert cli.main(["train", poem, *map(str, SMALL), "--updates", "1", "--plot", "new/losses.png"]) == 0


def test_train_refuses_a_picture_of_no_kind(poem, refused):
    pytest.importorskip("matplotlib")
    assert "the ending of the name is no kind of picture" in refused("train", poem, *SMALL, "--plot", "losses.text")


@pytest.mark.parametrize("error, words", [
    (OSError(28, "No space left on device"), "No space left on device"),
    (MemoryError("Unable to allocate 9 EiB"), "there is not enough memory: Unable to allocate 9 EiB"),
])
def test_a_machine_that_gives_out_is_told_in_one_line(poem, refused, monkeypatch, error, words):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(tg.files, "save", fails)
    assert words in refused("train", poem, *SMALL)


def test_a_fault_of_the_library_itself_is_shown_in_full(poem, monkeypatch):
    def fails(*arguments, **options):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(tg.files, "save", fails)
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["train", poem, *map(str, SMALL)])


def test_train_refuses_a_folder_and_csv_without_a_file(here, refused):
    assert "Is a directory" in refused("train", here)
    assert "--csv needs a file" in refused("train", "--csv", "y")


def test_resume_and_sample_refuse_what_does_not_fit(poem, here, refused, capsys):
    cli.main(["train", poem, *map(str, SMALL), "--updates", "1", "--save", "run.npz"])
    capsys.readouterr()
    assert "--hidden 9 does not fit --resume: run.npz was made with hidden 8" in refused("train", "--resume", "run.npz", "--hidden", 9)
    assert "has no 'X'" in refused("sample", "run.npz", "--prompt", "X")
    assert "the prompt is empty" in refused("sample", "run.npz", "--prompt", "")
    assert "-1.0 is not a temperature" in refused("sample", "run.npz", "--temperature", -1)
    assert "nan is not a temperature" in refused("sample", "run.npz", "--temperature", "nan")
    assert "--cell lstm does not fit: run.npz was made with cell gru" in refused("sample", "run.npz", "--cell", "lstm")
    assert "No such file" in refused("sample", "none.npz")
    (here / "other.txt").write_text("another text altogether " * 60)
    assert "the snapshot is not of this text" in refused("train", "other.txt", "--resume", "run.npz")
    whole = (here / "run.npz").read_bytes()
    (here / "run.npz").write_bytes(whole[: len(whole) // 2])
    assert "this file cannot be used" in refused("sample", "run.npz")
    (here / "poem.txt").unlink()
    (here / "run.npz").write_bytes(whole)
    assert "poem.txt: No such file or directory" in refused("train", "--resume", "run.npz")


@pytest.mark.parametrize("damage", ["missing parameter", "shape", "settings", "no settings", "optimizer", "state", "rng", "corpus"])
def test_a_snapshot_that_contradicts_itself_is_refused(poem, here, refused, capsys, damage):
    from tinygrad_rnn.training import snapshot

    cli.main(["train", poem, *map(str, SMALL), "--updates", "1", "--save", "run.npz"])
    capsys.readouterr()
    arrays, facts = snapshot.load("run.npz")
    if damage == "missing parameter":
        del arrays["parameter readout.bias"]
    elif damage == "shape":
        arrays["parameter readout.bias"] = np.zeros(3, np.float32)
    elif damage == "settings":
        facts["settings"]["hidden"] = 16
    elif damage == "no settings":
        del facts["settings"]
    elif damage == "optimizer":
        arrays["optimizer elsewhere/mean"] = np.zeros(3)
    elif damage == "state":
        arrays["state 0"] = np.zeros((2, 2), np.float32)
    elif damage == "rng":
        facts["rng"]["bit_generator"] = "Dice"
    elif damage == "corpus":
        facts["corpus"]["kind"] = "picture"
    snapshot.save("run.npz", arrays, facts)
    assert "run.npz" in refused("train", "--resume", "run.npz")
