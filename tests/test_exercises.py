"""Exercises: what is written can be graded; every planted mistake is found and named; bad files get a report."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import exercises


@pytest.fixture
def graded(tmp_path):
    def grade(text, **options):
        path = tmp_path / "answer.py"
        path.write_text(text, encoding="utf-8")
        return exercises.grade(path, **options)

    return grade


@pytest.mark.parametrize("name", exercises.names())
def test_the_solution_passes(graded, name):
    report = graded(exercises.solution(name))
    assert report.ok and report and not report.wrong, str(report)


@pytest.mark.parametrize("name", exercises.names())
def test_the_skeleton_runs_and_is_all_wrong(tmp_path, name):
    path = exercises.write(name, path=tmp_path / "mine.py", seed=1)
    report = exercises.grade(path)
    assert {f.bug for f in exercises.grade(path, hint=True).diagnosis.findings} <= {"gradient is zero", "initial state's gradient lost"}
    assert not report and not report.right and not report.problem and "grade mine.py" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name, number", [(name, i) for name, row in exercises.EXERCISES.items() for i in range(len(row[3]))])
def test_every_planted_mistake_is_found_and_named(graded, name, number):
    right, wrong = exercises.EXERCISES[name][3][number]
    text = exercises.solution(name)
    assert text.count(right) >= 1
    report = graded(text.replace(right, wrong, 1), hint=True)
    assert not report.ok and report.wrong and not report.problem
    assert report.diagnosis.findings and not report.diagnosis.unnamed, str(report)
    assert str(report.diagnosis) in str(report)


def test_a_bug_exercise_has_exactly_one_mistake():
    for name in exercises.names():
        right = exercises.solution(name).splitlines()[17:]
        for seed in range(5):
            text = exercises.text(name, "bug", seed=seed)
            assert text == exercises.text(name, "bug", seed=seed) and len(set(right) - set(text.splitlines())) in (1, 2)


def test_without_a_hint_the_mistake_is_not_told(graded):
    report = graded(exercises.solution("elman").replace("dh = Whh.T @ da", "dh = Whh @ da"))
    assert "transpose" not in str(report) and "--hint" in str(report)
    assert str(report).startswith("answer.py: 2 of 6 gradients right\n  right    Wyh, by\n  wrong    Whx, Whh, bh, h0")


def test_a_file_is_read_again_after_it_was_edited(graded):
    assert not graded(exercises.solution("counting").replace("2 / N", "1 / N"))
    assert graded(exercises.solution("counting"))


@pytest.mark.parametrize("change, words", [
    (lambda t: t.replace("def bptt", "def mine"), "the file defines no bptt"),
    (lambda t: t.replace("def bptt", "bptt = 3\n\n\ndef mine"), "bptt is not a function"),
    (lambda t: t.replace("    # backward\n", "    1 / 0\n"), "ZeroDivisionError"),
    (lambda t: t + "\n(", "SyntaxError"),
    (lambda t: t.replace("return value, grads", "return None"), "the gradients are not a dict"),
    (lambda t: t.replace("da @ h[t].T", "da @ h[t]"), "ValueError"),
    (lambda t: "import nonsense_that_is_not_there\n" + t, "ModuleNotFoundError"),
])
def test_bad_files_get_a_report(graded, change, words):
    report = graded(change(exercises.solution("elman")), hint=True)
    assert not report.ok and words in str(report) and "Traceback" not in str(report), str(report)


def test_an_exception_tells_its_line(graded):
    text = exercises.solution("elman").replace("    # backward\n", "    1 / 0\n")
    line = text.splitlines().index("    1 / 0") + 1
    assert f"answer.py, line {line}: ZeroDivisionError" in str(graded(text))


def test_a_gradient_of_the_wrong_shape_is_wrong_not_a_crash(graded):
    report = graded(exercises.solution("elman").replace('grads["h0"] = dh', 'grads["h0"] = dh[0]'), hint=True)
    assert report.wrong == ("h0",) and "h0" in str(report)


def test_a_missing_gradient_counts(graded):
    report = graded(exercises.solution("elman").replace("    return value, grads", '    del grads["by"]\n    return value, grads'))
    assert not report.ok and report.missing == ("by",) and "missing  by" in str(report)


def test_nothing_is_overwritten_unasked(tmp_path):
    path = exercises.write("elman", path=tmp_path / "mine.py")
    with pytest.raises(tg.errors.ArgumentError, match="the file exists already"):
        exercises.write("elman", path=path)
    assert exercises.write("elman", "bug", path=path, overwrite=True) == path


def test_unknown_exercises():
    with pytest.raises(tg.errors.ArgumentError, match="exercises  elman, counting, classifier, step_by_step"):
        exercises.text("lstm")
    with pytest.raises(tg.errors.ArgumentError, match="kinds"):
        exercises.text("elman", "riddle")


def test_the_sources_agree_with_the_solutions():
    scope = {}
    exec(compile(exercises.solution("classifier"), "solution", "exec"), scope)
    value, grads = scope["bptt"](scope["params"], *scope["data"])
    right = tg.sources.classifier.bptt(scope["params"], *scope["data"])
    assert np.isclose(value, right[0]) and all(np.allclose(grads[name], right[1][name]) for name in grads)
