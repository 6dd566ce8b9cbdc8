"""What is trained on, what is kept on disk, and that a run which was cut off ends in the same bits."""

import gc
import os
import tracemalloc

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.training import corpus as corpora
from tinygrad_rnn.training import snapshot

# ---- corpus -------------------------------------------------------------------------------------------------


def test_a_text_is_the_numbers_of_its_characters(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes("\ufeffβaβ\r\n🙂".encode())
    text = corpora.read_text(file)
    assert text.symbols == "\naβ🙂" and text.values.tolist() == [2, 1, 2, 0, 3] and text.name == str(file)


def test_pythons_own_help_is_a_text():
    text = corpora.topics()
    assert len(text.values) > 100_000 and {"a", "\n"} <= set(text.symbols)


@pytest.mark.parametrize("content, words", [(b"", "the file is empty"), (b"abc\xff\xfe", "not UTF-8 text: byte 3 is 0xff")])
def test_a_file_that_is_no_text_is_refused(tmp_path, content, words):
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(tg.errors.DomainError, match=words):
        corpora.read_text(file)


def test_a_column_is_scaled_by_the_part_that_is_trained_on(tmp_path):
    file = tmp_path / "table.csv"
    rows = [f"{t},{3 * t + 5}" for t in range(20)]
    file.write_text("day, degrees\n" + "\n".join(rows) + "\n\n")
    series = corpora.read_series(file, "degrees")
    start = corpora.parted(series, 4)
    seen, held_out = series.values[:start], series.values[start:]
    assert len(seen) == 18 and len(held_out) == 2
    assert seen.mean() == pytest.approx(0) and seen.std() == pytest.approx(1)
    np.testing.assert_allclose(series.values * series.deviation + series.mean, 3 * np.arange(20) + 5)


@pytest.mark.parametrize("content, column, words", [
    ("", "y", "the file is empty"),
    ("x,y\n", "y", "column 'y' has no entries"),
    ("x,y\n1,2\n", "z", "there is no column 'z'"),
    ("x,y\n1,2\n3,four\n", "y", "column 'y' holds 'four' in line 3"),
    ("x,y\n1,2\n3\n", "y", "column 'y' holds '' in line 3"),
    ("x,y\n1,nan\n", "y", "column 'y' holds 'nan' in line 2"),
    ("x;y\n1;2,5\n", "y", "column 'y' holds '2,5' in line 2, which is no finite number\nFill the gap, write a decimal point"),
    ("y,x,y\n1,2,3\n", "y", "there are 2 columns 'y'\n  columns  y, x, y\nGive each"),
    ("x,y\n1,1e300\n2,-1e300\n3,1e300\n4,-1e300\n", "y", "the numbers of column 'y' are too large to be scaled\n  largest  1e[+]300"),
])
def test_a_table_that_does_not_fit_is_refused(tmp_path, content, column, words):
    file = tmp_path / "table.csv"
    file.write_text(content)
    with pytest.raises(tg.errors.DomainError, match=words):
        corpora.read_series(file, column)


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_columns_are_parted_by_what_the_header_has_most_of(tmp_path, sign):
    file = tmp_path / "table.csv"
    rows = [("day", "y"), *(("x", str(t)) for t in range(9))]
    file.write_text("\ufeff" + "\n".join(sign.join(row) for row in rows), encoding="utf-8")
    series = corpora.read_series(file, "y")
    np.testing.assert_allclose(series.values * series.deviation + series.mean, np.arange(9))


def test_a_constant_column_has_a_scale():
    assert corpora.series(np.full(30, 4.0)).deviation == 1.0


def test_streams_and_chunks_lose_nothing():
    stream = corpora.streams(np.arange(23), 3)
    assert stream.shape == (7, 3)
    pieces = corpora.chunks(stream, 4)
    assert [len(x) for x, _ in pieces] == [4, 2]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in pieces]), stream[:-1])
    np.testing.assert_array_equal(np.concatenate([y for _, y in pieces]), stream[1:])


def test_a_chunk_longer_than_the_text_is_refused():
    text = corpora.text("abcdefghij" * 2)
    assert corpora.parted(text, 17) == 18
    with pytest.raises(tg.errors.DomainError, match="a chunk of 18 steps is longer than the text"):
        corpora.parted(text, 18)
    with pytest.raises(tg.errors.DomainError, match="(?s)a chunk of 1 steps is longer than the text.*\nPass a longer text[.]$"):
        corpora.parted(corpora.text("abc"), 1)


# ---- snapshot -----------------------------------------------------------------------------------------------

ARRAYS = {"w": np.arange(6.0).reshape(2, 3), "counts": np.array([1, 2], np.int64), "half": np.ones(3, np.float32), "empty": np.zeros((0, 2))}
FACTS = {"step": 7, "rate": 0.1 + 0.2, "rng": {"state": 2**127 + 1}, "name": "β"}


def test_a_snapshot_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "run.npz"
    snapshot.save(path, ARRAYS, FACTS)
    arrays, facts = snapshot.load(path)
    assert facts == FACTS and list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert os.listdir(path.parent) == ["run.npz"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupt_while_writing_leaves_the_old_snapshot(tmp_path, monkeypatch, moment):
    path = tmp_path / "run.npz"
    snapshot.save(path, ARRAYS, FACTS)

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, moment, interrupted)
    with pytest.raises(KeyboardInterrupt):
        snapshot.save(path, {"w": np.zeros(1)}, {"step": 8})
    monkeypatch.undo()
    assert snapshot.load(path)[1]["step"] == 7 and os.listdir(tmp_path) == ["run.npz"]


def test_a_snapshot_that_was_cut_short_or_damaged_anywhere_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    snapshot.save(path, ARRAYS, FACTS)
    whole = path.read_bytes()
    for length in {0, 1, 10, len(whole) // 4, len(whole) // 2, len(whole) - 30, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(tg.errors.StateError):
            snapshot.load(path)
    found = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:])
        try:
            arrays, facts = snapshot.load(path)
        except tg.errors.StateError:
            found += 1
        else:  # a byte that means nothing, such as a time stamp of the archive
            assert facts == FACTS and all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())
    assert found > 50


@pytest.mark.parametrize("metadata, words", [
    (None, "something else has written this file"),
    ([1, 2], "something else has written this file"),
    ({"kind": "another", "version": 1, "facts": {}}, "something else has written this file"),
    ({"kind": snapshot.KIND, "version": 1, "facts": 3}, "something else has written this file"),
    ({"kind": snapshot.KIND, "version": 1, "arrays": ["w"], "facts": {}}, "does not hold the arrays that it lists"),
    ({"kind": snapshot.KIND, "version": 99, "facts": {}}, "it is of version 99, this library reads 1"),
])
def test_a_file_of_arrays_that_is_no_snapshot_is_refused(tmp_path, metadata, words):
    tg.files.save(tmp_path / "run.npz", ARRAYS, metadata)
    with pytest.raises(tg.errors.StateError, match=words):
        snapshot.load(tmp_path / "run.npz")


# ---- network and run ----------------------------------------------------------------------------------------


def a_run(**changes):
    text = corpora.text("a man, a plan, a canal: panama\n" * 20)
    return tg.training.Run(text, tg.training.Settings(**{**dict(hidden=6, tbptt=7, batch=3, dtype="float64"), **changes}))


def test_the_gradient_of_a_chunk_is_that_of_differences():
    run = a_run(hidden=4, layers=2, cell="lstm")
    x, targets = run.chunks[0]
    run.network.loss(x, targets)[0].backward()
    rng = np.random.default_rng(0)
    for name, p in run.network.named_parameters():
        direction, values = rng.normal(size=p.shape), p.numpy().copy()
        losses = []
        for step in (1e-5, -1e-5):
            p.data = values + step * direction
            losses.append(run.network.loss(x, targets)[0].item())
        p.data = values
        assert np.sum(p.grad * direction) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "mgu", "indrnn", "lnlstm"])
def test_the_compiled_loop_trains_as_the_plain_one_does(cell):
    run = a_run(cell=cell, layers=2)
    grads = []
    for compiled in (True, False):
        run.network.zero_grad()
        ys, _ = run.network.recurrent(run.network.embedding(run.chunks[0][0]), compiled=compiled)
        tg.sum(ys * ys).backward()
        grads.append({name: p.grad for name, p in run.network.recurrent.named_parameters()})
    for name, grad in grads[0].items():
        np.testing.assert_allclose(grad, grads[1][name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_state_is_carried_over_chunks_and_the_gradient_is_not():
    run = a_run()
    run.update()
    carried = run.state[0]
    assert carried.requires_grad is False and np.any(carried.numpy())
    (x0, _), (x1, y1) = run.chunks[:2]
    whole, _ = run.network(np.concatenate([x0, x1]))
    _, state = run.network(x0)
    part, _ = run.network(x1, state)
    np.testing.assert_allclose(part.numpy(), whole.numpy()[len(x0):], rtol=1e-12)
    run.state = [state[0].detach()]
    before = [p.numpy().copy() for p in run.network.parameters()]
    run.update()
    assert all(np.any(p.numpy() != old) for p, old in zip(run.network.parameters(), before))


def test_what_is_not_finite_is_named_by_op_and_step():
    run = a_run()
    run.update()
    before = {name: p.numpy().copy() for name, p in run.network.named_parameters()}
    run.network.recurrent.cells[0].weight_hh.data = np.full(run.network.recurrent.cells[0].weight_hh.shape, np.inf)
    with pytest.raises(tg.errors.NonFiniteError) as error:
        run.update()
    assert str(error.value) == """\
train text: the loss of update 2 is nan
  lr     0.003
  first  matmul(a, b): self.weight_hh comes in with an infinity, at step 0
Pass a smaller --lr or --clip; the last snapshot is from before."""
    assert all(np.array_equal(p.numpy(), before[name]) for name, p in run.network.named_parameters() if "weight_hh" not in name) and run.updates == 1


def test_a_gradient_that_is_not_finite_is_named_by_op_and_step():
    run = a_run(hidden=2)
    run.network.recurrent.cells[0] = Edge(run.network.recurrent.cells[0])  # its value is finite, its derivative is not
    with pytest.raises(tg.errors.NonFiniteError, match=r"train text: update 1: the gradient of parameter \S+ is not finite\n  lr     0.003\n"
                                                       r"  first  sqrt\(x\): an infinity is born in the backward pass, in the cotangent of x, at step 6\n"):
        run.update()
    assert run.updates == 0


class Edge(tg.nn.Module):
    """A cell whose output has the square root of 0 in it."""

    def __init__(self, cell):
        self.cell = cell

    def __call__(self, state, x):
        state, y = self.cell(state, x)
        return state, y + tg.sqrt(y * 0.0)

    def initial_state(self, batch):
        return self.cell.initial_state(batch)


def test_an_epoch_starts_from_a_fresh_state():
    run, fresh = a_run(), a_run()
    while run.updates < len(run.chunks):
        run.update()
    for p, q in zip(fresh.network.parameters(), run.network.parameters()):
        p.data = q.numpy()
    assert run.update() == fresh.update()


def test_what_is_held_out_is_measured_as_one_sequence():
    run = a_run(batch=1)
    start = corpora.held_out_from(len(run.corpus.values))
    x = run.corpus.values[start - len(run.lead) - 1:, None]
    with tg.no_grad():
        scores, _ = run.network(x[:-1])
        expected = tg.nn.functional.cross_entropy(scores[len(run.lead):].reshape(-1, len(run.corpus.symbols)), x[len(run.lead) + 1:, 0]).item()
    assert run.evaluate() == pytest.approx(expected, rel=1e-12)
    assert sum(targets.size for _, targets in run.held_out) == len(run.corpus.values) - start


def test_memory_is_flat_over_chunks():
    run = a_run(hidden=64, batch=8)  # a state of 4 kB: kept by every chunk it would be 400 kB, the history of it ten times that
    for _ in range(10):
        run.update()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        run.update()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            run.update()
        assert tracemalloc.get_traced_memory()[0] - before < 150_000 and gc.collect() == 0
    finally:
        tracemalloc.stop()
        gc.enable()


def test_looking_at_a_run_changes_nothing():
    from tinygrad_rnn.training.report import example

    one, other = a_run(layers=2, dropout=0.3), a_run(layers=2, dropout=0.3)
    for _ in range(5):
        other.evaluate()
        example(other)
        assert one.update() == other.update()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "adagrad", "sgd"])
def test_a_run_from_a_snapshot_ends_in_the_same_bits(tmp_path, optimizer):
    settings = dict(layers=2, dropout=0.3, optimizer=optimizer, cell="lstm", dtype="float32")
    whole, cut = a_run(**settings), a_run(**settings)
    for _ in range(11):
        whole.update()
    for _ in range(4):
        cut.update()
    cut.save(tmp_path / "run.npz")
    again = a_run(**settings).restore(tg.training.load(tmp_path / "run.npz"))
    for _ in range(7):
        again.update()
    assert again.recent == whole.recent and again.evaluate() == whole.evaluate()
    for p, q in zip(again.network.parameters(), whole.network.parameters()):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_snapshot_without_the_carried_state_would_not_end_in_the_same_bits(tmp_path):
    """The check above can fail: each part of a snapshot matters."""
    for part in ("state", "optimizer", "rng"):
        whole, cut = a_run(layers=2, dropout=0.3), a_run(layers=2, dropout=0.3)
        for run in (whole, cut):
            for _ in range(4):
                run.update()
        cut.save(tmp_path / "run.npz")
        again = a_run(layers=2, dropout=0.3).restore(tg.training.load(tmp_path / "run.npz"))
        if part == "state":
            again.state = [tuple(np.zeros(leaf.shape) for leaf in state) if type(state) is tuple else np.zeros(state.shape) for state in again.state]
        elif part == "optimizer":
            again.optimizer.memory = {name: {} for name in again.optimizer.memory}
        else:
            again.rng.random()
        for run in (whole, again):
            for _ in range(2):
                run.update()
        assert again.recent != whole.recent, part
