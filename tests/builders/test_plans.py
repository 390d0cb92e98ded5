"""Plans in the repository: records, verification, the doctor, and ONNX files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from builders.build.build import BuildResult, build
from builders.build.onnx_check import OnnxImportError, sample_inputs
from builders.build.onnx_import import declaration_from_onnx, declaration_text
from builders.build.source import BuildOptions
from builders.doctor import find_problems, plans
from builders.ops.onnx import onnx_from_model
from builders.progress import no_progress
from builders.repository.layout import ROOT, Repository
from builders.repository.render import render_repository
from builders.serve.tritonserver import TritonServer
from builders.spec.catalogue import models
from builders.tensorrt.engine import Engine, EngineError, Gpu
from builders.tensorrt.library import PlanError, load_library
from builders.tensorrt.plan import PlanOptions, plan_from_onnx
from builders.verify.reference import (
    ReferenceAnswers,
    VerificationError,
    compute_reference,
)
from builders.verify.verification import verify_artefact
from builders.weights import StandIn, stand_in_weights

pytest.importorskip("tensorrt_rtx")

(GENDER,) = models(["person_gender"])
FP16 = BuildOptions("fp16", ("sm_86",))


def _build(repository: Repository, options: BuildOptions = FP16) -> BuildResult:
    return build("rtx", GENDER, StandIn(), repository, options)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = Repository(tmp_path_factory.mktemp("plans"))
    render_repository(repository)
    _build(repository)
    return repository


@pytest.fixture
def built(first: Repository, tmp_path: Path) -> Repository:
    """A copy of the built repository, which a test may change."""
    shutil.copytree(first.root, tmp_path, dirs_exist_ok=True)
    return Repository(tmp_path)


def _plan(repository: Repository) -> Path:
    return repository.artefact_path(GENDER.name, "model.plan")


def _edit_record(repository: Repository, **changes: Any) -> None:
    path = _plan(repository).with_name("model.plan.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _found(repository: Repository, **options: Any) -> list[str]:
    texts = [str(finding) for finding in find_problems(repository, **options)]
    return [text for text in texts if text.startswith("person_gender/")]


def test_a_plan_has_a_record_and_what_runs_it(built: Repository) -> None:
    record = built.record(_plan(built))
    assert record is not None
    expected = {
        "library": "TensorRT-RTX",
        "gpus": ["sm_86"],
        "precision": "fp16",
        "profile": [1, 64, 64],
        "convolutions": {"FP16": 22},
        "stand_in": True,
        "parity": None,
    }
    assert expected.items() <= record.items()
    files = {path.name for path in _plan(built).parent.iterdir()}
    rendered = {"plan_model.py", "engine.py", "cpu_model.py", "cpu_session.py"}
    rendered |= {"deadlines.py", "failures.py", "pause_watchdog.py", "refusals.py"}
    assert files == {"model.plan", "model.plan.json"} | rendered


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_a_network_without_convolutions_gets_a_plan(
    tmp_path: Path, precision: Any
) -> None:
    (pair,) = models(["kinship_pair"])
    repository = Repository(tmp_path)
    render_repository(repository)
    options = BuildOptions(precision, ("sm_86",))
    result = build("rtx", pair, StandIn(), repository, options)
    assert f"{precision}, matrix multiplications: 2 FP32 (" in result.summary
    record = repository.record(result.path) or {}
    assert record["matrix_multiplications"] == {"FP32": 2}
    assert record["profile"] == [1, 1024, 4096]
    assert record["tensors"]["embedding_a"] == ["FP32", 256]


def test_a_plan_is_built_again_only_for_a_reason(built: Repository) -> None:
    assert not _build(built).rebuilt
    assert _build(built, BuildOptions("fp32", ("sm_86",))).rebuilt
    assert _build(built, BuildOptions("fp32", ("sm_86", "sm_120"))).rebuilt


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
    check = ReferenceAnswers({}, {}, str(StandIn()))
    with pytest.raises(VerificationError, match="not the file that its record"):
        verify_artefact(GENDER, built, "rtx", None, check)
    assert any("was changed after it was built" in text for text in _found(built))


def test_without_a_gpu_plans_say_so(built: Repository) -> None:
    arrays = stand_in_weights(GENDER).arrays
    check = compute_reference(GENDER, arrays, StandIn())
    with pytest.raises(PlanError, match=r"no NVIDIA GPU here .*cpu target"):
        verify_artefact(GENDER, built, "rtx", "fp16", check)
    with pytest.raises(VerificationError, match="is fp16, not fp32"):
        verify_artefact(GENDER, built, "rtx", "fp32", check)
    assert any("cannot run here: no NVIDIA GPU" in text for text in _found(built))


def test_a_plan_for_another_gpu(
    built: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        plans, "current_gpu", lambda: Gpu("NVIDIA H200", "sm_90", "CUDA 13.0")
    )
    (text,) = (t for t in _found(built) if "sm_90" in t)
    assert "was built for sm_86, and this NVIDIA H200 is sm_90" in text
    assert "one plan per GPU type" in text


def test_a_plan_of_another_tensorrt(
    built: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "current_gpu", lambda: Gpu("A", "sm_86", "CUDA 13.0"))
    _edit_record(built, version="1.2.0")
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
    _edit_record(built, library=library, version=version)
    found = [t for t in _found(built, container=container) if "container" in t]
    if container in plans.CONTAINERS:
        assert [message in t for t in found] == ([True] if message else [])
    texts = [str(f) for f in find_problems(built, container=container)]
    assert any("not confirmed" in t for t in texts) == (container == "25.01")


def test_config_and_declaration_against_the_plan(built: Repository) -> None:
    _edit_record(built, tensors={}, profile=[1, 8, 8])
    found = " ".join(_found(built))
    assert "takes batches up to 8, the config says 64" in found
    assert "has tensors {}" in found


def test_parity_and_stale_inputs(built: Repository) -> None:
    assert any("never compared" in text for text in _found(built))
    _edit_record(built, parity=[{"passed": False}])
    assert any("outside the model's tolerance" in text for text in _found(built))
    record = built.record(_plan(built)) or {}
    _edit_record(built, inputs=record["inputs"] | {"graph": "old"})
    assert any("was built by other code" in text for text in _found(built))
    _edit_record(built, inputs=record["inputs"] | {"weights": "a.pth"})
    assert any("was built from a.pth" in text for text in _found(built))


def test_the_doctor_finds_nothing_wrong_with_the_running_server(
    repository: Repository, server: TritonServer
) -> None:
    texts = [str(f) for f in find_problems(repository, server=server.grpc_address)]
    assert texts
    known = ("stand-in weights", "published vulnerabilities")
    assert all(any(part in text for part in known) for text in texts)
    away = [str(f) for f in find_problems(repository, server="127.0.0.1:1")]
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
    build("cpu", GENDER, StandIn(), repository, BuildOptions())
    arrays = stand_in_weights(GENDER).arrays
    check = compute_reference(GENDER, arrays, StandIn())
    check.save(tmp_path / "check.npz")
    (measure,) = verify_artefact(
        GENDER, repository, "cpu", None, ReferenceAnswers.load(tmp_path / "check.npz")
    )
    assert measure.passed
    assert measure.agreement == 1.0
    record = (
        repository.record(repository.artefact_path(GENDER.name, "model.onnx")) or {}
    )
    assert record["parity"][0]["passed"]

    wrong = {name: 1 - answer for name, answer in check.answers.items()}
    (measure,) = verify_artefact(
        GENDER,
        repository,
        "cpu",
        None,
        ReferenceAnswers(check.inputs, wrong, check.origin),
    )
    assert not measure.passed
    with pytest.raises(VerificationError, match="not a saved reference"):
        ReferenceAnswers.load(repository.artefact_path(GENDER.name, "model.onnx"))
    with pytest.raises(VerificationError, match=r"the reference from other.wts"):
        verify_artefact(
            GENDER,
            repository,
            "cpu",
            None,
            ReferenceAnswers({}, {}, "other.wts, sha256 1"),
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
    model = declaration_from_onnx(_onnx(tmp_path / "m.onnx"), "doubler")
    (tensor,) = model.inputs
    assert (tensor.name, tensor.data_type, tensor.shape) == ("input.1", "FP32", (4,))
    scope: dict[str, Any] = {}
    exec(declaration_text(model), scope)  # noqa: S102 - it is our own text
    assert scope["MODEL"] == model
    assert sample_inputs(model, 3)["input.1"].shape == (3, 4)


def test_onnx_files_that_cannot_be_served(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(OnnxImportError, match="batch dimension that varies, got 2"):
        declaration_from_onnx(_onnx(path, batch=2), "m")
    path.write_bytes(b"\xff" * 99)
    with pytest.raises(OnnxImportError, match="not an ONNX file"):
        declaration_from_onnx(path, "m")
    with pytest.raises(OnnxImportError, match="cannot be read"):
        declaration_from_onnx(tmp_path / "no.onnx", "m")
    proto = onnx_from_model(GENDER, stand_in_weights(GENDER).arrays)
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin")
    with pytest.raises(OnnxImportError, match="in other files"):
        declaration_from_onnx(path, "m")


def test_the_parser_route_builds_our_own_networks() -> None:
    library = load_library("rtx")
    data = onnx_from_model(GENDER, stand_in_weights(GENDER).arrays).SerializeToString()
    arguments = (library, data, GENDER.inputs, GENDER.batching)
    plan = plan_from_onnx(*arguments, PlanOptions("fp32", ("sm_86",)), no_progress)
    assert plan.types == {"FP32": 16}
    with pytest.raises(PlanError, match="takes types from the ONNX file"):
        plan_from_onnx(*arguments, PlanOptions("fp16", ("sm_86",)), no_progress)
    with pytest.raises(PlanError, match="cannot parse"):
        plan_from_onnx(
            library, b"junk", (), GENDER.batching, PlanOptions(), no_progress
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
            env=os.environ | {"PYTHONPATH": str(tree / "client")},
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
    assert 'pip install -e ".[tensorrt]"' in run(
        "build", "doubler", "--target", "tensorrt"
    )
