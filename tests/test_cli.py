"""The command line: what each command prints, and that bad input gets one clear line and exit status 2."""

import importlib.util
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import cli, progress, userfile


def run(*arguments, **options):
    """The command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "tinygrad_rnn", *map(str, arguments)], capture_output=True, text=True, timeout=300, **options)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of its own to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Call the command line with bad input; returns its one line."""
    def call(*arguments):
        try:
            status = cli.main([str(a) for a in arguments])
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        assert status == 2 and err.count("\n") == 1 and err.endswith("\n"), (status, err)
        return err.strip()

    return call


# ---- help ---------------------------------------------------------------------------------------------------

COMMANDS = ("demo", "train", "sample", "derive", "check", "diagnose", "exercise", "grade", "bench")


def test_help_names_every_command():
    found = run("--help")
    assert found.returncode == 0 and found.stderr == ""
    assert all(command in found.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and f"tinygrad-rnn {command}" in text and len(text.splitlines()) > 5


@pytest.mark.parametrize("arguments, words", [
    ((), "the following arguments are required: COMMAND"),
    (("dance",), "invalid choice: 'dance'"),
    (("train", "--hidden", "-3"), "argument --hidden: -3 is not a positive number"),
    (("train", "--seed", "-1"), "argument --seed: -1 is below 0"),
    (("train", "--lr", "nan"), "argument --lr: nan is not a positive number"),
    (("train", "--hiden", "3"), "unrecognized arguments: --hiden"),
    (("sample",), "the following arguments are required: SNAPSHOT"),
])
def test_a_mistyped_command_gets_one_line(refused, arguments, words):
    assert words in refused(*arguments)


def test_the_readme_sets_up_with_exactly_two_commands():
    readme = (Path(tg.__file__).parent.parent / "README.md").read_text("utf-8")
    found = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    assert [line.split(".venv/bin/python -m ")[1] for line in found] == ["tinygrad_rnn demo", "pytest"]


# ---- demo ---------------------------------------------------------------------------------------------------


def test_the_demo_compares_corrects_trains_and_draws(here, capsys):
    assert cli.main(["demo", "--quick", "--out", "pictures"]) == 0
    text = capsys.readouterr().out
    for title in ("000 sine wave", "001 counting, linear", "001 counting, logistic", "002 elman", "003 classifier", "004 step by step"):
        assert title in text
    assert "DIFFERS" not in text and text.count("agrees") == 2 * 34 + 2 and text.endswith("Every gradient agrees.\n")
    assert "loss 132219.50990087, validation 66107.73179593" in text  # what the first source prints at its own start
    assert "[0.79494228 0.81839002 0.83939649 0.85584174]" in text  # and the fourth
    for bug in ("does not depend on the error", "broadcasting in the loss", "transpose missing", "weights returned in place of their gradient",
                "activation derivative taken of the previous step", "a layer's weights missing from the chain"):
        assert f"engine: {bug}" in text
    assert "dWhh = " in text and 'd["Whh"] += delta @ h[t].T' in text  # the derived code and the one by hand
    assert "relative error Whx 0.88, Whh 1.3, Wyh 0.84, bh 1.1, x 0.85; right: by" in text
    if importlib.util.find_spec("matplotlib"):
        assert sorted(os.listdir("pictures")) == ["gradient_norms.png", "loss.png", "sine.png"]
        assert all((here / "pictures" / name).read_bytes().startswith(b"\x89PNG") for name in os.listdir("pictures"))
    else:
        assert "No pictures: install matplotlib" in text
    assert text.count("erratum ") == sum(len(page.ERRATA) for page in vars(tg.sources).values() if hasattr(page, "ERRATA"))


def test_a_wrong_gradient_makes_the_demo_fail(here, capsys, monkeypatch):
    from tinygrad_rnn import demo

    (model,) = [m for m in demo.MODELS if m.page is tg.sources.elman]
    monkeypatch.setattr(demo, "MODELS", [demo.Model(**{**vars(model), "bptt": tg.sources.elman.bptt_as_written})])
    monkeypatch.setattr(demo, "pictures", lambda folder, histories: [])
    assert cli.main(["demo", "--quick"]) == 1
    text = capsys.readouterr().out
    assert text.count("DIFFERS") == 6 and "SOME GRADIENTS DO NOT AGREE" in text


# ---- train and sample ---------------------------------------------------------------------------------------

SMALL = ("--hidden", 8, "--tbptt", 10, "--batch", 4, "--every", 20)


@pytest.fixture
def poem(here):
    (here / "poem.txt").write_text("to be or not to be, that is the question\n" * 30)
    return "poem.txt"


@pytest.fixture
def table(here):
    rows = [f"{t},{20 + 5 * np.sin(t / 3):.6f}" for t in range(300)]
    (here / "table.csv").write_text("hour,degrees\n" + "\n".join(rows) + "\n")
    return "table.csv"


def test_train_reports_writes_and_draws(poem, here, capsys):
    assert cli.main(["train", poem, *map(str, SMALL), "--updates", "60"]) == 0
    text = capsys.readouterr().out
    assert "poem.txt: 1,230 characters, 28 chunks of 4 × 10 an epoch" in text and "GRUCell(8, 8)" in text
    lines = [line for line in text.splitlines() if line.startswith("update")]
    assert [line.split()[1] for line in lines] == ["0", "20", "40", "60"]
    bits = [float(line.split("held out: ")[1].split()[0]) for line in lines]
    assert bits == sorted(bits, reverse=True) and "perplexity" in lines[0] and "    | " in text
    assert text.endswith("wrote out/poem.npz after 60 updates\n") and os.listdir("out") == ["poem.npz"]


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


def test_a_column_is_forecast_better_than_by_its_last_value(table, here, capsys):
    assert cli.main(["train", table, "--csv", "degrees", "--hidden", "16", "--tbptt", "20", "--batch", "4", "--updates", "250", "--save", "run.npz"]) == 0
    text = capsys.readouterr().out
    beat = float(text.split("to beat, held out: rmse ")[1].split()[0])
    rmse = float([line for line in text.splitlines() if line.startswith("update")][-1].split("held out: rmse ")[1].split()[0])
    assert rmse < beat / 4
    assert cli.main(["sample", "run.npz", "--length", "5"]) == 0
    numbers = [float(line) for line in capsys.readouterr().out.split()]
    np.testing.assert_allclose(numbers, 20 + 5 * np.sin(np.arange(300, 305) / 3), atol=0.5)


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
""")
    own = ["--cell", "mine.py:Leaky"]
    assert cli.main(["train", poem, *own, *map(str, SMALL), "--updates", "20", "--save", "run.npz"]) == 0
    assert "Leaky(" in capsys.readouterr().out
    assert "pass --cell mine.py:Leaky" in refused("sample", "run.npz")
    assert "pass --cell mine.py:Leaky" in refused("train", "--resume", "run.npz")
    assert cli.main(["sample", "run.npz", *own, "--length", "9"]) == 0 and len(capsys.readouterr().out) == 10
    assert cli.main(["train", "--resume", "run.npz", *own, "--updates", "25"]) == 0
    assert "after 25 updates" in capsys.readouterr().out
    assert "this cannot be called (type int)" in refused("train", poem, "--cell", "mine.py:number", *SMALL)
    assert "no parameters that could be trained" in refused("train", poem, "--cell", "mine.py:bare", *SMALL)
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


def test_a_diverging_run_says_so_and_keeps_its_snapshot(poem, here, capsys):
    assert cli.main(["train", poem, *map(str, SMALL), "--cell", "indrnn", "--optimizer", "sgd", "--lr", "1e30", "--clip", "1e30", "--updates", "50"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("is nan" in err or "is inf" in err or "is not finite" in err)
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


# ---- files of one's own -------------------------------------------------------------------------------------


def test_a_name_is_fetched_from_a_file_with_its_neighbours(here):
    (here / "neighbour.py").write_text("answer = 42\n")
    (here / "mine.py").write_text("from neighbour import answer\ndef twice(): return 2 * answer\n")
    assert userfile.fetch("mine.py:twice")() == 84
    assert userfile.fetch(f"{here}/mine.py:twice") is userfile.fetch("mine.py:twice")


def test_a_line_of_a_message_keeps_its_facts_and_its_remedy():
    text = tg.errors.message("f(x)", "x is empty", {"x": (0, 3), "y": 2}, "Pass a row.")
    assert userfile.in_one_line(text) == "f(x): x is empty (x (0, 3), y 2). Pass a row."
    assert userfile.in_one_line("plain") == "plain" and userfile.in_one_line("") == ""


def test_an_exception_of_the_library_itself_is_not_blamed_on_anybody():
    try:
        raise ZeroDivisionError("ours")
    except ZeroDivisionError as error:
        assert userfile.blamed(error) is None


# ---- progress -----------------------------------------------------------------------------------------------


def test_a_bar_without_tqdm_is_one_line_that_rewrites_itself():
    stream = io.StringIO()
    bar = progress.Plain(4, desc="job", unit="step", stream=stream)
    for _ in range(4):
        bar.update()
    bar.close()
    last = stream.getvalue().rsplit("\r", 1)[1]
    assert "job [####################] 4/4" in last and last.endswith("\n") and stream.getvalue().count("\n") == 1


def test_a_bar_is_silent_where_nobody_looks(capsys):
    bar = progress.bar(4, desc="job")
    bar.update()
    bar.write("a line to keep")
    bar.close()
    assert capsys.readouterr() == ("a line to keep\n", "")
