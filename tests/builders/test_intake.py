"""Untrusted files: each ends in one message and exit code 1, in bounded time."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.numpy import save_file

from builders.build import build as building
from builders.build import onnx_check, onnx_import
from builders.build.onnx_check import OnnxImportError
from builders.build.source import load_arrays
from builders.build.weights_choice import choose_weights
from builders.commands.app import run
from builders.repository import layout
from builders.repository.layout import Repository
from builders.spec.catalogue import models
from builders.weights import (
    CheckpointError,
    intake,
    load_weights,
    pickles,
    read_checkpoint,
    stand_in_weights,
    write_checkpoint,
)

(PAIR,) = models(["kinship_pair"])
KEY = "head.2.bias"
"""A key of the model, with a shape of one value."""

MAX_SECONDS = 60
"""Longest time for the commands on one file; the clock of a busy machine."""


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End a test that hangs."""
    before = signal.signal(signal.SIGALRM, _raise_timeout)
    signal.alarm(MAX_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _raise_timeout(_number: int, _frame: Any) -> None:
    raise AssertionError(f"hangs for {MAX_SECONDS} s")


@pytest.fixture(autouse=True)
def empty_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands work on a repository of this test's own."""
    defaults = (tmp_path / "repository",)
    monkeypatch.setattr(layout.Repository.__init__, "__defaults__", defaults)
    monkeypatch.setattr(onnx_import.import_model, "__defaults__", (tmp_path,))
    return defaults[0]


def _arrays() -> dict[str, Any]:
    return dict(stand_in_weights(PAIR, seed=4).arrays)


def _torch(make: Callable[[], Any], key: Any = KEY) -> Callable[[Path], None]:
    """Return a writer of a .pth file with one further or changed entry."""

    def write(path: Path) -> None:
        state: dict[Any, Any] = {k: torch.from_numpy(a) for k, a in _arrays().items()}
        torch.save(state | {key: make()}, path)

    return write


def _one() -> Any:
    return torch.ones(1)


def _quantised_tensor() -> Any:
    with warnings.catch_warnings():  # deprecated in torch 2.13
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)


def _expanded_tensor() -> Any:
    return torch.zeros(1, dtype=torch.float16).expand(1 << 40)


def _flip_bit(path: Path) -> None:
    """Damage one value in the largest member."""
    _torch(_one)(path)
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[member.header_offset + 1000] ^= 0x40
    path.write_bytes(data)


def _zip(members: dict[str, bytes], **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return write


def _nested_key() -> bytes:
    """A pickle of {((..), (..)): None}, 60 levels deep: 2^60 steps to hash."""
    levels = b"q\0h\0\x86" * 60
    return b"\x80\x02})" + levels + b"Ns."


def _npy(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"
    start = b"\x93NUMPY\x01\0" + struct.pack("<H", len(header))
    return start + header.encode() + data


def _npz(**arrays: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **arrays)

    return write


def _safetensors(header: bytes, data: bytes = b"") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)

    return write


def _write_many_keys(path: Path) -> None:
    """Write the file when its test runs: it takes longer than all other files."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(map(str, range(200_000)), entry))
    _safetensors(header.encode())(path)


def _entry(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes
    return json.dumps({"x": entry}).encode()


def _sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    # no regular file
    "fifo.pth": (".pth", os.mkfifo, "expected a regular file, got a pipe"),
    "fifo.npz": (".npz", os.mkfifo, "expected a regular file, got a pipe"),
    "fifo.wts": (".wts", os.mkfifo, "expected a regular file, got a pipe"),
    "directory": (".safetensors", Path.mkdir, "regular file, got a directory"),
    "device": (".wts", lambda p: p.symlink_to("/dev/zero"), "got a device"),
    "empty": (".pth", Path.touch, "expected a file of 1 to"),
    "1 TiB": (".npz", _sparse_file, "expected a file of 1 to"),
    # torch
    "damaged": (".pth", _flip_bit, r"damaged: its checksum \(CRC-32\) is wrong"),
    "integer key": (".pth", _torch(_one, 7), "names that are not text"),
    "control characters": (".pth", _torch(_one, "\x1b[2J"), "not text"),
    "meta": (".pth", _torch(lambda: _one().to("meta")), f"{KEY} .*on meta"),
    "sparse": (".pth", _torch(lambda: _one().to_sparse()), f"{KEY} .*sparse_coo"),
    "complex": (".pth", _torch(lambda: _one() * 1j), f"{KEY} .*complex64"),
    "quantised": (".pth", _torch(_quantised_tensor), f"{KEY} .*qint8"),
    "expanded to 4 TiB": (
        ".pth",
        _torch(_expanded_tensor),
        "bytes of arrays in a file of",
    ),
    "twice": (".pth", _torch(_one, f"module.{KEY}"), "occurs twice"),
    "a tensor": (".pth", lambda p: torch.save(_one(), p), "got Tensor"),
    "a nested key": (".pth", lambda p: p.write_bytes(_nested_key()), "could run code"),
    "a nested key in a zip": (
        ".pth",
        _zip({"a/data.pkl": _nested_key(), "a/version": b"3\n"}),
        "could run code",
    ),
    "many operations": (
        ".pth",
        _zip({"a/data.pkl": b"\x80\x02]" + b"N" * 20_000 + b"."}),
        "could run code",
    ),
    "no pickle": (".pth", _zip({"a/b": b""}), "no data.pkl"),
    "compressed": (
        ".pth",
        _zip({"a/data.pkl": bytes(99)}, compression=zipfile.ZIP_DEFLATED),
        "compressed by a method",
    ),
    "two names": (".pth", _zip({"a/data.pkl": b"", "A/data.pkl": b""}), "share a name"),
    # NumPy
    "4 TiB": (".npz", _zip({"x.npy": _npy("(1099511627776,)")}), "claims 4,398,046"),
    "negative": (".npz", _zip({"x.npy": _npy("(-1,)")}), "x: "),
    "objects": (".npz", _npz(x=np.array([None])), "could run code"),
    "text": (".npz", _npz(x=np.array(["a"])), r"x \(<U1\)"),
    "dates": (".npz", _npz(x=np.zeros(1, "M8[s]")), r"x \(datetime64"),
    "extended": (".npz", _npz(x=np.ones(1, np.longdouble)), r"x \(float128\)"),
    "complex array": (".npz", _npz(x=np.ones(1, np.complex64)), r"x \(complex64\)"),
    "bomb": (
        ".npz",
        _zip(
            {"x.npy": _npy("(18874368,)", bytes(72 << 20))},
            compression=zipfile.ZIP_DEFLATED,
        ),
        "bytes of arrays in a file of",
    ),
    "header": (".npz", _zip({"x.npy": _npy("(" * 999)}), "x: not an .npy array"),
    "no array": (".npz", _zip({"x": b""}), "is not an array"),
    "many members": (
        ".npz",
        _zip({f"{i}.npy": b"" for i in range(intake.MAX_ARRAYS + 1)}),
        "members, over the limit",
    ),
    # safetensors
    "200,000 keys": (".safetensors", _write_many_keys, "over the limit"),
    "deep JSON": (".safetensors", _safetensors(b"[" * 100_000), "not valid JSON"),
    "a list": (".safetensors", _safetensors(b"[1]"), "not a JSON object"),
    "overlap": (".safetensors", _safetensors(_entry(), bytes(8)), "edited: 4 bytes"),
    "gap": (
        ".safetensors",
        _safetensors(_entry(data_offsets=[4, 8]), bytes(8)),
        "overlap or leave a gap",
    ),
    "shape": (".safetensors", _safetensors(_entry(shape=[2]), bytes(4)), "4 bytes for"),
    "negative shape": (
        ".safetensors",
        _safetensors(_entry(shape=[-1]), bytes(4)),
        "expected dtype",
    ),
    "C64": (".safetensors", _safetensors(_entry(dtype="C64"), bytes(4)), r"x \(C64\)"),
    "no names": (".safetensors", _safetensors(b'{"": 1}'), "not text"),
    # .wts
    "a million tensors": (
        ".wts",
        lambda p: p.write_text("1000000\n"),
        "over the limit",
    ),
    "blank lines": (
        ".wts",
        lambda p: p.write_text("1\n" + "\n" * 100_000),
        "most of them blank",
    ),
}


def _run(
    arguments: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Any, str]:
    """Run `python -m builders` in this process: (exit code, standard error)."""
    monkeypatch.setattr(sys, "argv", ["builders", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        run()
    return exit_info.value.code, capfd.readouterr().err


def _try_in_process(command: list[str], **options: Any) -> Any:
    """Parse a file that is not ONNX in this process instead of a child."""
    with pytest.raises(OnnxImportError) as caught:
        onnx_check.parse_onnx(options["input"], command[-1])
    output = json.dumps({"error": str(caught.value)}).encode()
    return subprocess.CompletedProcess(command, 0, output, b"")


def _is_refusal(text: str) -> bool:
    """Whether a command printed one message, and nothing else."""
    return text.startswith("error: ") and "Traceback" not in text and text.isascii()


@pytest.mark.parametrize(("suffix", "write", "message"), BAD.values(), ids=BAD)
def test_every_command_refuses_a_bad_checkpoint_with_one_message(
    tmp_path: Path,
    suffix: str,
    write: Callable[[Path], object],
    message: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # starting a child for each of these files would take a minute in all, and rendering
    # the repository half a minute
    monkeypatch.setattr(onnx_import.subprocess, "run", _try_in_process)
    monkeypatch.setattr(building, "render_repository", lambda _repository: None)
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 10_000)
    path = tmp_path / f"bad{suffix}"
    write(path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)
    for arguments in (
        ["inspect", str(path)],
        ["convert", str(path), str(tmp_path / "out.npz")],
        ["build", PAIR.name, "--weights", str(path)],
        ["import", str(path), "--name", "new"],
    ):
        code, text = _run(arguments, capfd, monkeypatch)
        assert (code, _is_refusal(text)) == (1, True), (arguments, text)
    assert not (tmp_path / "out.npz").exists()
    assert not (tmp_path / "new.py").exists()


UNFIT = {
    "integers": (np.ones(1, np.int32), "not floats  head.2.bias: int32"),
    "quantised": (np.ones(1, np.int8), "not floats  head.2.bias: int8"),
    "bool": (np.ones(1, np.bool_), "not floats  head.2.bias: bool"),
    "nan": (np.full(1, np.nan, np.float32), "not finite  head.2.bias: 1 of 1"),
    "over FP32": (np.full(1, 1e300), "not finite  head.2.bias: 1 of 1"),
}


@pytest.mark.parametrize(("array", "message"), UNFIT.values(), ids=UNFIT)
def test_weights_that_are_no_finite_floats_are_refused_by_name(
    tmp_path: Path, array: Any, message: str
) -> None:
    path = tmp_path / "pair.npz"
    np.savez(path, **(_arrays() | {KEY: array}))
    with pytest.raises(CheckpointError, match=message):
        load_weights(PAIR, path)


def test_integers_in_a_raw_wts_file_stay_integers(tmp_path: Path) -> None:
    path = tmp_path / "x.wts"
    path.write_bytes(b"1\nx 3 (1,) \x01\0\0\0\n")
    assert read_checkpoint(path).arrays["x"].dtype == np.int32


def test_nothing_that_is_not_finite_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"NaN or infinite: x;"):
        write_checkpoint(tmp_path / "a.npz", ".npz", {"x": np.array([np.inf])})


@pytest.mark.parametrize("suffix", [".wts", ".safetensors"])
def test_a_name_that_a_format_cannot_store_is_a_message(
    tmp_path: Path,
    suffix: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = tmp_path / "a.npz", tmp_path / f"a{suffix}"
    name = "a b" if suffix == ".wts" else "__metadata__"
    write_checkpoint(source, ".npz", {name: np.ones(1, np.float32)})
    arguments = ["convert", str(source), str(target)]
    code, text = _run(arguments, capfd, monkeypatch)
    assert (code, _is_refusal(text)) == (1, True), text
    assert f"cannot be written as {suffix}" in text
    assert not target.exists()


def test_names_and_byte_orders_of_npz_files(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.npz", tmp_path / "b.pth"
    arrays = {"file": np.arange(3, dtype=">f4"), "File": np.ones((2, 3), order="F")}
    write_checkpoint(path, ".npz", arrays)
    write_checkpoint(copy, ".pth", read_checkpoint(path).arrays)
    loaded = read_checkpoint(copy).arrays
    assert {name: array.tolist() for name, array in loaded.items()} == {
        "file": [0.0, 1.0, 2.0],
        "File": [[1.0, 1.0, 1.0]] * 2,
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_floats_become_fp32(tmp_path: Path, dtype: Any, suffix: str) -> None:
    from safetensors.torch import save_file as save_tensors

    state = {k: torch.from_numpy(a).to(dtype) for k, a in _arrays().items()}
    path = tmp_path / f"half{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_tensors(state, path)
    loaded = load_weights(PAIR, path).arrays
    for key, tensor in state.items():
        assert loaded[key].dtype == np.float32
        np.testing.assert_array_equal(loaded[key], tensor.float().numpy())


def test_parameters_and_small_expanded_tensors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    parameter = torch.nn.Parameter(torch.ones(2))
    torch.save({"a": parameter, "b": torch.ones(1).expand(3)}, path)
    arrays = read_checkpoint(path).arrays
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "a": [1.0, 1.0],
        "b": [1.0, 1.0, 1.0],
    }


def test_a_name_with_markup_is_listed_as_it_is(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"[/red]": np.ones(1, np.float32)}, path)
    monkeypatch.setattr(sys, "argv", ["builders", "inspect", str(path)])
    with pytest.raises(SystemExit) as exit_info:
        run()
    assert exit_info.value.code == 0
    assert "[/red]" in capfd.readouterr().out


def test_a_checkpoint_that_changes_during_the_build_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pair.npz"
    np.savez(path, **_arrays())
    origin = choose_weights(PAIR, Repository(), path, stand_in=False)
    np.savez(path, **(_arrays() | {KEY: np.ones(1, np.float32)}))
    with pytest.raises(CheckpointError, match="changed since it was chosen"):
        load_arrays(PAIR, origin)


def test_a_pickle_is_scanned_before_torch_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan knows every operation that torch writes, and no others."""
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=4))
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("torch.load"))
    with pytest.raises(CheckpointError, match="could run code"):
        read_checkpoint(path)


# ONNX files


def _graph(*nodes: Any, weights: tuple[Any, ...] = (), **model: Any) -> bytes:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4])
        for name in ("x", "y")
    )
    graph = helper.make_graph(list(nodes), "g", [x], [y], initializer=list(weights))
    opsets = model.pop("opset_imports", [helper.make_opsetid("", 17)])
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, **model)
    data: bytes = proto.SerializeToString()
    return data


def _body() -> Any:
    """The body of a loop that adds x to itself."""
    count, go, value, go_out, value_out = (
        helper.make_tensor_value_info(*args)
        for args in (
            ("i", TensorProto.INT64, []),
            ("go", TensorProto.BOOL, []),
            ("v", TensorProto.FLOAT, ["N", 4]),
            ("go_out", TensorProto.BOOL, []),
            ("v_out", TensorProto.FLOAT, ["N", 4]),
        )
    )
    nodes = [
        helper.make_node("Identity", ["go"], ["go_out"]),
        helper.make_node("Identity", ["v"], ["v_out"]),
    ]
    return helper.make_graph(nodes, "body", [count, go, value], [go_out, value_out])


def _branch() -> Any:
    y = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 4])
    return helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "b", [], [y])


def _int64(name: str, values: list[int]) -> Any:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def _external(location: str) -> Any:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], [0.0] * 4)
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


ADD = helper.make_node("Add", ["x", "x"], ["y"])
ADD_W = helper.make_node("Add", ["x", "w"], ["y"])
TRUE = helper.make_tensor("c", TensorProto.BOOL, [], [True])
DOUBLER = helper.make_function(
    "f", "Double", ["x"], ["y"], [ADD], [helper.make_opsetid("", 17)]
)

BAD_ONNX: dict[str, tuple[Callable[[], bytes], str]] = {
    "a loop of 2^60": (
        lambda: _graph(
            helper.make_node("Loop", ["n", "c", "x"], ["y"], body=_body()),
            weights=(helper.make_tensor("n", TensorProto.INT64, [], [1 << 60]), TRUE),
        ),
        r"control flow \(Loop\)",
    ),
    "a branch": (
        lambda: _graph(
            helper.make_node(
                "If", ["c"], ["y"], then_branch=_branch(), else_branch=_branch()
            ),
            weights=(TRUE,),
        ),
        r"control flow \(If\)",
    ),
    "functions": (
        lambda: _graph(
            helper.make_node("Double", ["x"], ["y"], domain="f"),
            functions=[DOUBLER],
            opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("f", 1)],
        ),
        r"defines 1 functions \('Double'\)",
    ),
    "external data": (
        lambda: _graph(ADD_W, weights=(_external("../../etc/passwd"),)),
        r"keeps 1 tensors in other files",
    ),
    "external data of a constant": (
        lambda: _graph(
            helper.make_node("Constant", [], ["w"], value=_external("/etc/passwd")),
            ADD_W,
        ),
        r"keeps 1 tensors in other files",
    ),
    "nan": (
        lambda: _graph(
            ADD_W,
            weights=(helper.make_tensor("w", TensorProto.FLOAT, [4], [np.nan] * 4),),
        ),
        r"weights 'w' have values that are NaN",
    ),
    "1 TiB of zeros": (
        lambda: _graph(
            helper.make_node("ConstantOfShape", ["n"], ["big"]),
            helper.make_node("ReduceSum", ["big"], ["s"], keepdims=0),
            helper.make_node("Add", ["x", "s"], ["y"]),
            weights=(_int64("n", [1 << 38]),),
        ),
        r"does not run|process that checks",
    ),
    "an unknown operator": (
        lambda: _graph(helper.make_node("Nonsense", ["x"], ["y"])),
        r"not valid ONNX",
    ),
}


@pytest.mark.parametrize(("write", "message"), BAD_ONNX.values(), ids=BAD_ONNX)
def test_import_refuses_a_bad_onnx_file_with_one_message(
    tmp_path: Path,
    write: Callable[[], bytes],
    message: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(write())
    code, text = _run(["import", str(path), "--name", "new"], capfd, monkeypatch)
    assert (code, _is_refusal(text)) == (1, True), text
    assert re.search(message, text), text
    assert not (tmp_path / "new.py").exists()


def test_a_trial_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_check, "TRIAL_TIMEOUT_S", 0.05)
    path = tmp_path / "m.onnx"
    path.write_bytes(_graph(ADD))
    with pytest.raises(OnnxImportError, match=r"not checked and run within 0.05 s"):
        onnx_import.declaration_from_onnx(path, "new")


def test_a_trial_that_crashes_is_a_message() -> None:
    done = subprocess.CompletedProcess([], -signal.SIGSEGV, b"", b"a\nlast\n")
    with pytest.raises(OnnxImportError, match=r"ended with SIGSEGV; .*: last"):
        onnx_import._require_success(done, "m.onnx", 99)


@pytest.mark.parametrize("name", ['a"b.onnx', "a\nb.onnx", "a|b.onnx", "<b>.onnx"])
def test_a_file_name_is_not_written_into_source_text(
    tmp_path: Path,
    name: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / name
    path.write_bytes(_graph(ADD))
    code, text = _run(["import", str(path), "--name", "new"], capfd, monkeypatch)
    assert (code, _is_refusal(text)) == (1, True), text
    assert "rename the file" in text
    code, text = _run(["import", str(path), "--name", name], capfd, monkeypatch)
    assert (code, _is_refusal(text)) == (1, True), text
    assert "expected lower-case letters" in text


def test_an_imported_name_is_not_that_of_another_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_bytes(_graph(ADD))
    arguments = ["import", str(tmp_path / "m.onnx"), "--name", "person_attributes"]
    code, text = _run(arguments, capfd, monkeypatch)
    assert (code, _is_refusal(text)) == (1, True), text
    assert "there already" in text
