"""Files: what is saved comes back; what is damaged, cut short, mismatched or malicious is refused and changes nothing."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

import tinygrad_rnn as tg

STATE = {"weight": np.arange(6.0).reshape(2, 3), "file": np.array(7), "half": np.ones(3, np.float32), "empty": np.zeros((0, 2)),
         "bool": np.array([True, False]),
         "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "strided": np.arange(10)[::2]}


def npz(members):
    """The bytes of an archive of these members, in order; the names may repeat."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name + ".npy"), data)
    return out.getvalue()


def npy(array, **options):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), **options)
    return out.getvalue()


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == np.asarray(b[k]).dtype for k in a)


@pytest.fixture
def model():
    return tg.nn.GRU(3, 4, num_layers=2, rng=0)


def refused(path, model, *words):
    """`load` says these words and leaves the model as it was."""
    before = model.state_dict()
    with pytest.raises((tg.errors.StateError, tg.errors.ShapeError, tg.errors.DtypeError)) as found:
        tg.files.load(path, model)
    assert all(word in str(found.value) for word in words), str(found.value)
    assert same(model.state_dict(), before)


def test_what_is_saved_comes_back(tmp_path):
    path, facts = tmp_path / "state.npz", {"epochs": 3, "text": "ünïcode", "nested": {"lr": [0.1, None]}}
    tg.files.save(path, STATE, facts)
    arrays, metadata = tg.files.read(str(path))
    assert same(arrays, STATE) and metadata == facts and os.listdir(tmp_path) == ["state.npz"]
    arrays["weight"][0] = 1  # what is read is the reader's own
    with np.load(path) as plain:
        assert np.array_equal(plain["weight"], STATE["weight"])
    first = path.read_bytes()
    tg.files.save(path, STATE, facts)
    assert path.read_bytes() == first


def test_files_of_numpy_are_read(tmp_path, model):
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "numpy.npz", **model.state_dict())
        other = tg.nn.GRU(3, 4, num_layers=2, rng=1)
        assert tg.files.load(tmp_path / "numpy.npz", other) == {}
        assert same(other.state_dict(), model.state_dict())


def test_a_failed_save_leaves_the_old_file(tmp_path, model, monkeypatch):
    path = tmp_path / "model.npz"
    tg.files.save(path, model)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            tg.files.save(path, tg.nn.GRU(3, 4))
    for state, metadata in (({"a": np.array([object()])}, None), ({"a": np.ones(2)}, {"f": object()}), ({"__metadata__": np.ones(2)}, None),
                            ({"a": np.array(["x"])}, None), ({"a\0b": np.ones(2)}, None), ({"\ud800": np.ones(2)}, None), ({1: np.ones(2)}, None)):
        with pytest.raises(tg.errors.StateError, match="cannot be stored"):
            tg.files.save(path, state, metadata)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.npz"]


def test_cut_short_anywhere(tmp_path, model):
    path = tmp_path / "model.npz"
    tg.files.save(path, model, {"a": 1})
    whole = path.read_bytes()
    for length in {0, 1, *range(2, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, model, "this file cannot be used")


def test_a_flipped_bit_is_found_or_harmless(tmp_path, model):
    """The archive has checksums: a flip is refused, or it hit a byte that says nothing and the arrays are as they were."""
    path = tmp_path / "model.npz"
    tg.files.save(path, model)
    whole, rng, harmless = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(300):
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(broken))
        other = tg.nn.GRU(3, 4, num_layers=2, rng=1)
        before = other.state_dict()
        try:
            tg.files.load(path, other)
        except (tg.errors.StateError, tg.errors.ShapeError, tg.errors.DtypeError):
            assert same(other.state_dict(), before)
        else:
            assert same(other.state_dict(), model.state_dict())
            harmless += 1
    assert harmless < 60


class Trap:
    """Unpickling this would leave a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def test_pickles_are_never_loaded(tmp_path, model):
    path, mark = tmp_path / "trap.npz", tmp_path / "mark"
    state = model.state_dict()
    np.savez(path, **{**state, "bias_ih_l0": np.array([Trap(mark)], dtype=object)})
    refused(path, model, "pickled objects")
    path.write_bytes(pickle.dumps(Trap(mark)))
    refused(path, model, "this file cannot be used")
    assert not mark.exists()


def test_sizes_are_checked_before_memory_is_asked_for(tmp_path, model):
    path = tmp_path / "huge.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 1000), }"
    huge = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path.write_bytes(npz([("w", huge + bytes(16))]))
    refused(path, model, "does not have the bytes of its shape")
    np.savez_compressed(path, w=np.zeros(1 << 20))
    with pytest.raises(tg.errors.StateError, match="its arrays take 8,388,608 bytes, more than max_bytes=1,000,000"):
        tg.files.read(path, max_bytes=1_000_000)
    out = io.BytesIO()  # a header of 64 MB, which takes 64 kB in the file
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x02\x00" + (1 << 26).to_bytes(4, "little") + bytes(1 << 26))
    path.write_bytes(out.getvalue())
    del out, archive
    tracemalloc.start()
    try:
        refused(path, model, "format version (2, 0)")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room on the disk
    refused(path, model, "it is larger than max_bytes=4,294,967,296", "1,099,511,627,776 bytes")


def test_many_names_take_linear_time():
    """Each name is compared with the others by its hash."""
    class Counted(str):
        compared = 0

        def __eq__(self, other):
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    tg.files._once([Counted(f"n{i}") for i in range(1000)])
    assert Counted.compared < 1000


def test_names_that_repeat_and_members_that_are_no_arrays(tmp_path, model):
    path = tmp_path / "bad.npz"
    with pytest.warns(UserWarning, match="Duplicate name"):
        path.write_bytes(npz([("w", npy(np.ones(2))), ("w", npy(np.zeros(2)))]))
    refused(path, model, "two arrays are called w")
    path.write_bytes(npz([("w", b"hello")]))
    refused(path, model, "this file cannot be used")
    path.write_bytes(npz([("w", npy(np.array(["text"])))]))
    refused(path, model, "not numbers")
    path.write_bytes(npz([("w", npy(np.ones(2), version=(3, 0)))]))
    refused(path, model, "format version (3, 0)")
    path.write_bytes(npz([("__metadata__", npy(np.frombuffer(b"{", np.uint8)))]))
    refused(path, model, "this file cannot be used")


def test_a_state_of_another_model(tmp_path, model):
    path, state = tmp_path / "model.npz", model.state_dict()
    missing = {k: v for k, v in state.items() if k != "weight_hh_l1"}
    for bad, word in ((missing, "missing     weight_hh_l1"), ({**state, "extra": np.ones(2)}, "unexpected  extra"),
                      ({**state, "bias_hh_l1": np.ones(11)}, "another shape"),
                      ({**state, "bias_hh_l1": np.ones(12, complex)}, "cannot be stored without loss")):
        tg.files.save(path, bad)
        refused(path, model, word)
    tg.files.save(path, missing)
    assert tg.files.load(path, model, strict=False) == {}


def test_endings_and_missing_files(tmp_path, model):
    with pytest.raises(tg.errors.ArgumentError) as found:
        tg.files.save(tmp_path / "model.pkl", model)
    assert str(found.value) == """\
save(path, state): the ending of the name says no format
  path     model.pkl
  endings  .npz, .safetensors
Name the file *.npz or *.safetensors."""
    with pytest.raises(FileNotFoundError):
        tg.files.read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(tg.errors.StateError) as found:
        tg.files.read(tmp_path / "text.npz")
    assert str(found.value) == """\
read('text.npz'): this file cannot be used
  why   BadZipFile: File is not a zip file
  size  10 bytes
Pass a whole file of this format; nothing was changed."""


def test_a_place_that_cannot_be_read_or_written(tmp_path, model):
    (tmp_path / "folder.npz").mkdir()
    for call in (lambda: tg.files.load(tmp_path / "folder.npz", model), lambda: tg.files.save(tmp_path / "folder.npz", model),
                 lambda: tg.files.save(tmp_path / "none" / "model.npz", model)):
        with pytest.raises(OSError, match=r"folder\.npz|none"):
            call()
    assert os.listdir(tmp_path) == ["folder.npz"]


def test_names_are_keys_and_never_paths(tmp_path, model):
    os.mkdir(tmp_path / "here")
    (tmp_path / "here" / "model.npz").write_bytes(npz([("../outside", npy(np.ones(2))), ("/etc/passwd", npy(np.ones(2)))]))
    assert list(tg.files.read(tmp_path / "here" / "model.npz")[0]) == ["../outside", "/etc/passwd"]
    refused(tmp_path / "here" / "model.npz", model, "unexpected  ../outside, /etc/passwd")
    assert os.listdir(tmp_path) == ["here"] and os.listdir(tmp_path / "here") == ["model.npz"]


def test_other_numbers_than_a_model_has(tmp_path, model):
    path, state = tmp_path / "model.npz", {name: values.astype(np.float16) for name, values in model.state_dict().items()}
    for dtype in (np.float16, ">f2", np.float32, ">f8"):
        tg.files.save(path, {name: values.astype(dtype) for name, values in state.items()})
        other = tg.nn.GRU(3, 4, num_layers=2, rng=1)
        tg.files.load(path, other)
        assert same(other.state_dict(), {name: values.astype(float) for name, values in state.items()})
    for dtype in (bool, complex, "M8[s]", [("a", "f8")], "S2"):
        path.write_bytes(npz([(name, npy(values.astype(float).astype(dtype))) for name, values in state.items()]))
        refused(path, model, "without loss" if dtype in (bool, complex) else "not numbers")
    wide = tmp_path / "wide.npz"
    tg.files.save(wide, model)
    narrow = tg.nn.GRU(3, 4, num_layers=2, rng=1, dtype=np.float32)
    refused(wide, narrow, "Pass cast=True to round")
    tg.files.load(wide, narrow, cast=True)
    assert same(narrow.state_dict(), {name: values.astype(np.float32) for name, values in model.state_dict().items()})


def test_an_optimiser_in_a_file(tmp_path, model):
    first, second = tg.optim.Adam(model, lr=0.5), tg.optim.Adam(model)
    for p in model.parameters():
        p.grad = np.ones(p.shape)
    first.step()
    tg.files.save(tmp_path / "adam.npz", first)
    tg.files.load(tmp_path / "adam.npz", second)
    assert same(second.state_dict(), first.state_dict()) and second.lr == 0.5


def test_without_the_library(tmp_path, model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
    with pytest.raises(tg.errors.MissingExtraError, match=r'pip install "tinygrad-rnn\[files\]"'):
        tg.files.save(tmp_path / "model.safetensors", model)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(tg.errors.MissingExtraError):
        tg.files.load(tmp_path / "model.safetensors", model)
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_within_what_is_compressed(tmp_path, model, method):
    """Whatever the decompressor raises (OSError for bz2), it is the file that cannot be used."""
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, values in model.state_dict().items():
            archive.writestr(name + ".npy", npy(values))
    other = tg.nn.GRU(3, 4, num_layers=2, rng=1)
    tg.files.load(path, other)
    assert same(other.state_dict(), model.state_dict())
    whole = bytearray(path.read_bytes())
    whole[60:400] = bytes(340)
    path.write_bytes(whole)
    refused(path, model, "this file cannot be used")


@pytest.mark.oracle
def test_safetensors(tmp_path, model):
    """With the library: round trip, its own reader and writer, files cut short, names that repeat."""
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "model.safetensors"
    tg.files.save(path, STATE, {"epochs": 3})
    arrays, metadata = tg.files.read(path)
    assert same(arrays, STATE) and metadata == {"epochs": 3} and same(load_file(path), STATE)
    save_file(model.state_dict(), path, {"format": "pt"})
    other = tg.nn.GRU(3, 4, num_layers=2, rng=1)
    assert tg.files.load(path, other) == {"format": "pt"} and same(other.state_dict(), model.state_dict())
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 9, *range(10, len(whole), len(whole) // 50), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, model, "this file cannot be used")
    header = json.dumps({"w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}})
    header = header[:-1] + ", " + header[1:]
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
    refused(path, model, "two arrays are called w")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    refused(path, model, "w is of BF16, which NumPy does not have")
    path.write_bytes((1 << 62).to_bytes(8, "little") + whole)
    refused(path, model, "this file cannot be used")
    with pytest.raises(tg.errors.StateError, match="no form for z"):
        tg.files.save(path, {"z": np.ones(2, complex)})


@pytest.mark.oracle
def test_safetensors_of_pytorch(tmp_path):
    from safetensors.torch import save_file
    from torch import nn, tensor

    theirs = nn.LSTM(3, 4, bidirectional=True).double()
    save_file(theirs.state_dict(), tmp_path / "lstm.safetensors")
    ours, x = tg.nn.LSTM(3, 4, bidirectional=True), np.random.default_rng(0).normal(size=(5, 2, 3))
    tg.files.load(tmp_path / "lstm.safetensors", ours)
    np.testing.assert_allclose(ours(x)[0].numpy(), theirs(tensor(x))[0].detach().numpy(), rtol=1e-10, atol=1e-12)


def test_onnx_without_the_library(tmp_path, model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(tg.errors.MissingExtraError, match="the onnx library is not installed"):
        tg.onnx.export(model, tmp_path / "model.onnx")
    assert not os.listdir(tmp_path)
