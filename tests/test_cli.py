"""The command line: help, the demo, files of one's own, progress; and that bad input gets one clear line and exit status 2."""

import importlib.util
import io
import os
from pathlib import Path

import pytest
from cli_cases import run

import tinygrad_rnn as tg
from tinygrad_rnn import cli, progress, userfile

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
    (("train", "--hidden", "-3"), "argument --hidden: '-3' is not a positive whole number"),
    (("train", "--hidden", "1e3"), "argument --hidden: '1e3' is not a positive whole number"),
    (("train", "--seed", "-1"), "argument --seed: '-1' is not a whole number of at least 0"),
    (("train", "--lr", "nan"), "argument --lr: 'nan' is not a positive number"),
    (("train", "--dropout", "1"), "argument --dropout: '1' is not a share of at least 0 and below 1"),
    (("derive", "gru", "--steps", "no"), "argument --steps: 'no' is not a positive whole number"),
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


def test_the_demo_refuses_a_place_for_its_pictures_before_it_trains(here, refused, capsys):
    (here / "file.txt").write_text("not a folder")
    assert "file.txt: File exists" in refused("demo", "--out", "file.txt")


# ---- files of one's own -------------------------------------------------------------------------------------


def test_a_name_is_fetched_from_a_file_with_its_neighbours(here):
    (here / "neighbour.py").write_text("answer = 42\n")
    (here / "mine.py").write_text("from neighbour import answer\ndef twice(): return 2 * answer\n")
    assert userfile.fetch("mine.py:twice")() == 84
    assert userfile.fetch(f"{here}/mine.py:twice") is userfile.fetch("mine.py:twice")


def test_what_is_called_takes_what_it_is_called_with():
    assert userfile.call("f.py:f", lambda a, b, c=3: (a, b, c), 1, 2, c=4) == (1, 2, 4)
    with pytest.raises(tg.errors.ArgumentError) as error:
        userfile.call("f.py:f", lambda a: a, 1, 2, rng=3)
    assert str(error.value) == "f.py:f: it cannot be called with (1, 2, rng): too many positional arguments\nLet it take these arguments."
    with pytest.raises(TypeError, match="unsupported operand"):  # its own mistakes come through
        userfile.call("f.py:f", lambda a: a + None, 1)


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
