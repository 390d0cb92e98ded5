"""Plans in the repository: passports, verification, the doctor, and ONNX files."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from builders.build import BuildOptions, Built, build, render
from builders.catalogue import models
from builders.check import Check, VerificationError, reference_check
from builders.onnx_file import (
    OnnxFileError,
    declaration_of,
    declaration_text,
    sample_inputs,
)
from builders.ops.onnx import onnx_from_model
from builders.repository import ROOT, Repository
from builders.server import TritonServer
from builders.tensorrt import doctor
from builders.tensorrt.engine import Engine, EngineError, Gpu
from builders.tensorrt.library import PlanError, load_library
from builders.tensorrt.plan import PlanOptions, plan_from_onnx
from builders.verify import verify_built
from builders.weights import StandIn, stand_in_weights

pytest.importorskip("tensorrt_rtx")

(GENDER,) = models(["person_gender"])
FP16 = BuildOptions("fp16", ("sm_86",))


def _build(repository: Repository, options: BuildOptions = FP16) -> Built:
    return build("rtx", GENDER, StandIn(), repository, options, lambda _doing: None)


@pytest.fixture
def built(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path)
    render(repository)
    _build(repository)
    return repository


def _plan(repository: Repository) -> Path:
    return repository.built(GENDER.name, "model.plan")


def _edit_passport(repository: Repository, **changes: Any) -> None:
    path = _plan(repository).with_name("model.plan.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _found(repository: Repository, **options: Any) -> list[str]:
    texts = [str(finding) for finding in doctor.findings(repository, **options)]
    return [text for text in texts if text.startswith("person_gender/")]


def test_a_plan_has_a_passport_and_what_runs_it(built: Repository) -> None:
    passport = built.record(_plan(built))
    assert passport is not None
    expected = {
        "library": "TensorRT-RTX",
        "gpus": ["sm_86"],
        "precision": "fp16",
        "profile": [1, 64, 64],
        "convolutions": {"FP16": 22},
        "stand_in": True,
        "parity": None,
    }
    assert expected.items() <= passport.items()
    files = {path.name for path in _plan(built).parent.iterdir()}
    assert files == {"model.plan", "model.plan.json", "plan_model.py", "engine.py"}


def test_a_plan_is_built_again_only_for_a_reason(built: Repository) -> None:
    assert not _build(built).fresh
    assert _build(built, BuildOptions("fp32", ("sm_86",))).fresh
    assert _build(built, BuildOptions("fp32", ("sm_86", "sm_120"))).fresh


def test_a_full_disk_leaves_the_old_plan(
    built: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _plan(built).read_bytes()
    write_bytes = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write_bytes(self, data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        _build(built, BuildOptions("fp32", ("sm_86",)))
    assert _plan(built).read_bytes() == before
    assert not list(built.root.rglob("*.partial"))


def test_a_truncated_plan_is_noticed_before_it_is_loaded(built: Repository) -> None:
    _plan(built).write_bytes(_plan(built).read_bytes()[:5000])
    check = Check({}, {}, str(StandIn()))
    with pytest.raises(VerificationError, match="not the file that its record"):
        verify_built(GENDER, built, "rtx", None, check)
    assert any("was changed after it was built" in text for text in _found(built))


def test_without_a_gpu_plans_say_so(built: Repository) -> None:
    arrays = stand_in_weights(GENDER).arrays
    check = reference_check(GENDER, arrays, StandIn())
    with pytest.raises(EngineError, match=r"no NVIDIA GPU here .*cpu target"):
        verify_built(GENDER, built, "rtx", "fp16", check)
    with pytest.raises(VerificationError, match="is fp16, not fp32"):
        verify_built(GENDER, built, "rtx", "fp32", check)
    assert any("cannot run here: no NVIDIA GPU" in text for text in _found(built))


def test_a_plan_for_another_gpu(
    built: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "current_gpu", lambda: Gpu("NVIDIA H200", "sm_90", "CUDA 13.0")
    )
    (text,) = (t for t in _found(built) if "sm_90" in t)
    assert "was built for sm_86, and this NVIDIA H200 is sm_90" in text
    assert "one plan per GPU type" in text


def test_a_plan_of_another_tensorrt(
    built: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "current_gpu", lambda: Gpu("A", "sm_86", "CUDA 13.0"))
    _edit_passport(built, version="1.2.0")
    assert any(
        "was built by TensorRT-RTX 1.2.0, and 1.7.1.116 is installed" in text
        for text in _found(built)
    )


CONTAINERS = {
    "another": ("TensorRT", "10.16.1.11", "26.08", "has 11.2.1.2; use container 26.05"),
    "the same": ("TensorRT", "11.2.1.2", "26.08", None),
    "none has it": ("TensorRT", "8.6.0", "23.10", "has 8.6.1; build it inside"),
    "rtx": ("TensorRT-RTX", "1.7.1", "26.08", "no Triton container loads"),
    "unknown": ("TensorRT", "11.2.1.2", "25.01", None),
}


@pytest.mark.parametrize(
    ("library", "version", "container", "message"), CONTAINERS.values(), ids=CONTAINERS
)
def test_container_months(
    built: Repository, library: str, version: str, container: str, message: str | None
) -> None:
    _edit_passport(built, library=library, version=version)
    found = [t for t in _found(built, container=container) if "container" in t]
    if container in doctor.CONTAINERS:
        assert [message in t for t in found] == ([True] if message else [])
    texts = [str(f) for f in doctor.findings(built, container=container)]
    assert any("not confirmed" in t for t in texts) == (container == "25.01")


def test_config_and_declaration_against_the_plan(built: Repository) -> None:
    _edit_passport(built, tensors={}, profile=[1, 8, 8])
    found = " ".join(_found(built))
    assert "takes batches up to 8, the config says 64" in found
    assert "has tensors {}" in found


def test_parity_and_stale_inputs(built: Repository) -> None:
    assert any("never compared" in text for text in _found(built))
    _edit_passport(built, parity=[{"passed": False}])
    assert any("outside the model's tolerance" in text for text in _found(built))
    passport = built.record(_plan(built)) or {}
    _edit_passport(built, inputs=passport["inputs"] | {"graph": "old"})
    assert any("was built by other code" in text for text in _found(built))
    _edit_passport(built, inputs=passport["inputs"] | {"weights": "a.pth"})
    assert any("was built from a.pth" in text for text in _found(built))


def test_the_doctor_finds_nothing_wrong_with_the_running_server(
    repository: Repository, server: TritonServer
) -> None:
    texts = [str(f) for f in doctor.findings(repository, server=server.grpc_address)]
    assert texts
    assert all("stand-in weights" in text for text in texts)
    away = [str(f) for f in doctor.findings(repository, server="127.0.0.1:1")]
    assert any("does not answer" in text for text in away)


def test_the_engine_refuses_batches_over_its_profile() -> None:
    engine = object.__new__(Engine)
    engine.max_batch = 64
    with pytest.raises(
        EngineError, match=r"a batch of 65; the plan was built for 1 to"
    ):
        engine._check_count(0, 65)
    with pytest.raises(EngineError, match="a batch of 70"):
        engine._check_count(60, 10)


def test_verification_is_recorded(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    build("cpu", GENDER, StandIn(), repository, BuildOptions(), lambda _doing: None)
    arrays = stand_in_weights(GENDER).arrays
    check = reference_check(GENDER, arrays, StandIn())
    check.save(tmp_path / "check.npz")
    (measure,) = verify_built(
        GENDER, repository, "cpu", None, Check.load(tmp_path / "check.npz")
    )
    assert measure.passed
    assert measure.agreement == 1.0
    record = repository.record(repository.built(GENDER.name, "model.onnx")) or {}
    assert record["parity"][0]["passed"]

    wrong = {name: 1 - answer for name, answer in check.answers.items()}
    (measure,) = verify_built(
        GENDER, repository, "cpu", None, Check(check.inputs, wrong, check.origin)
    )
    assert not measure.passed
    with pytest.raises(VerificationError, match="not a saved check"):
        Check.load(repository.built(GENDER.name, "model.onnx"))
    with pytest.raises(VerificationError, match=r"the reference from other.wts"):
        verify_built(
            GENDER, repository, "cpu", None, Check({}, {}, "other.wts, sha256 1")
        )


def _onnx(path: Path, *, batch: Any = "N", **changes: Any) -> Path:
    """x [N, 4] -> twice [N, 4]."""
    x, y = (
        helper.make_tensor_value_info(
            name, changes.get("kind", TensorProto.FLOAT), [batch, 4]
        )
        for name in ("input.1", "twice")
    )
    node = helper.make_node("Add", ["input.1", "input.1"], ["twice"])
    graph = helper.make_graph([node], "g", [x], [y])
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(proto, path)
    return path


def test_onnx_files_are_declared_as_they_are(tmp_path: Path) -> None:
    model = declaration_of(_onnx(tmp_path / "m.onnx"), "doubler")
    (tensor,) = model.inputs
    assert (tensor.name, tensor.data_type, tensor.shape) == ("input.1", "FP32", (4,))
    scope: dict[str, Any] = {}
    exec(declaration_text(model), scope)  # noqa: S102 - it is our own text
    assert scope["MODEL"] == model
    assert sample_inputs(model, 3)["input.1"].shape == (3, 4)


def test_onnx_files_that_cannot_be_served(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(OnnxFileError, match="batch dimension that varies, got 2"):
        declaration_of(_onnx(path, batch=2), "m")
    path.write_bytes(b"\xff" * 99)
    with pytest.raises(OnnxFileError, match="not an ONNX file"):
        declaration_of(path, "m")
    with pytest.raises(OnnxFileError, match="cannot be read"):
        declaration_of(tmp_path / "no.onnx", "m")
    proto = onnx_from_model(GENDER, stand_in_weights(GENDER).arrays)
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin")
    with pytest.raises(OnnxFileError, match="in other files"):
        declaration_of(path, "m")


def test_the_parser_route_builds_our_own_networks() -> None:
    library = load_library("rtx")
    data = onnx_from_model(GENDER, stand_in_weights(GENDER).arrays).SerializeToString()
    arguments = (library, data, GENDER.inputs, GENDER.batching)
    plan = plan_from_onnx(*arguments, PlanOptions("fp32", ("sm_86",)), lambda _: None)
    assert plan.types == {"FP32": 16}
    with pytest.raises(PlanError, match="takes types from the ONNX file"):
        plan_from_onnx(*arguments, PlanOptions("fp16", ("sm_86",)), lambda _: None)
    with pytest.raises(PlanError, match="cannot parse"):
        plan_from_onnx(
            library, b"junk", (), GENDER.batching, PlanOptions(), lambda _: None
        )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, for commands that write into them."""
    for folder in ("builders", "ensembles", "client"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    return tmp_path


def test_import_makes_a_model_of_any_onnx_file(tree: Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "builders", *arguments],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    _onnx(tree / "m.onnx")
    assert "wrote builders/models/doubler.py" in run(
        "import", "m.onnx", "--name", "doubler"
    )
    assert "is there already" in run("import", "m.onnx", "--name", "doubler")
    folder = tree / "model_repository" / "doubler"
    assert (folder / "1" / "model.onnx").is_file()
    assert 'name: "input.1"' in (folder / "configs" / "cpu.pbtxt").read_text()
    printed = run("build", "doubler", "--target", "rtx", "--gpu", "sm_86")
    assert "built      doubler: TensorRT-RTX" in printed, printed
    assert (folder / "1" / "model.plan").is_file()
    assert 'pip install "personserve[tensorrt]"' in run(
        "build", "doubler", "--target", "tensorrt"
    )
