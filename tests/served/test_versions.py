"""Rollout and rollback on the real server: no failed request, no unverified answer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.build.build import build
from builders.build.source import load_arrays
from builders.build.weights_choice import choose_weights
from builders.repository.layout import Repository
from builders.repository.render import render_repository
from builders.rollout.control import ModelControl, RolloutError, ServerAccess
from builders.rollout.rollout import VersionChange, roll_back, roll_out
from builders.serve.health import Health
from builders.serve.probes import Canaries
from builders.serve.processes import CANDIDATE, name_stubs
from builders.serve.supervisor import Supervisor
from builders.serve.tritonserver import Ports, TritonServer
from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.verify.reference import (
    ReferenceAnswers,
    VerificationError,
    compute_reference,
)
from builders.weights import Origin, stand_in_weights, write_checkpoint
from personserve import Client, Retry

PAIR, GENDER = models(["kinship_pair", "person_gender"])
MODELS = ("kinship_pair", "person_attributes", "person_attributes_crops")
PARTS = ("person_gender", "person_reid_kd_r18", "person_preprocess")

PATIENCE_S = 120.0
"""Time for a restart, which takes seconds on an idle machine."""

FRAME = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
BOXES = [[0, 0, 32, 64]]


@pytest.fixture(scope="module")
def own(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A copy of some models, because the tests change it."""
    own = Repository(tmp_path_factory.mktemp("versions") / "models")
    for name in (*MODELS, *PARTS):
        shutil.copytree(repository.folder(name), own.folder(name))
    render_repository(own)
    return own


@pytest.fixture(scope="module")
def versioned(own: Repository) -> Iterator[TritonServer]:
    with TritonServer(own, models=MODELS, ports=Ports.free(), cores=1) as server:
        yield server


class Watch(Health):
    """Keeps what a supervisor has found, and counts its canaries."""

    def __init__(self) -> None:
        self.symptoms: list[str] = []
        self.canaries = 0
        super().__init__()
        self.symptoms.clear()

    def set_unready(self, reason: str) -> None:
        self.symptoms.append(reason)
        super().set_unready(reason)


@pytest.fixture(scope="module")
def watch(versioned: TritonServer) -> Iterator[Watch]:
    """A supervisor, as `serve` has it.

    One thread for all tests: a server ends with the thread that has started it.
    """
    watch, stop = Watch(), threading.Event()
    send = Canaries.send

    def count(canaries: Canaries, timeout_s: float) -> None:
        send(canaries, timeout_s)
        watch.canaries += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Canaries, "send", count)
        supervisor = Supervisor(versioned, lambda _line: None, watch)
        thread = threading.Thread(target=supervisor.run, args=(stop,))
        thread.start()
        yield watch
        stop.set()
        thread.join()


@pytest.fixture
def supervised(watch: Watch) -> Watch:
    """The supervisor of this module, without its findings in other tests."""
    _wait_until(lambda: watch.is_ready)
    watch.symptoms.clear()
    watch.canaries = 0
    return watch


def _build(model: Model, seed: int, own: Repository) -> int:
    """Build a version from a checkpoint of other weights; its number."""
    path = own.root.parent / f"{model.name}-{seed}.npz"
    write_checkpoint(path, ".npz", stand_in_weights(model, seed).arrays)
    origin = choose_weights(model, own, path, stand_in=False)
    assert build("cpu", model, origin, own).rebuilt
    return own.version(model.name)


def _roll_out(model: Model, own: Repository, server: TritonServer) -> VersionChange:
    def compute(origin: Origin, _precision: str) -> ReferenceAnswers:
        return compute_reference(model, load_arrays(model, origin), origin)

    with ModelControl(ServerAccess(server.grpc_address)) as control:
        return roll_out(model, own, control, compute)


def _roll_back(model: Model, own: Repository, server: TritonServer) -> VersionChange:
    with ModelControl(ServerAccess(server.grpc_address)) as control:
        return roll_back(model, own, control)


def _served(server: TritonServer) -> dict[str, int]:
    with ModelControl(ServerAccess(server.grpc_address)) as control:
        return control.list_versions()


@contextmanager
def _under_load(
    server: TritonServer, call: Callable[[Client], np.ndarray]
) -> Iterator[list[np.ndarray]]:
    """Call the server in a loop, without retries, until the block ends."""
    answers: list[np.ndarray] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def loop() -> None:
        with Client(
            server.grpc_address, timeout_s=60, retry=Retry(attempts=1)
        ) as client:
            while not stop.is_set():
                try:
                    answers.append(call(client))
                except Exception as exc:  # noqa: BLE001 - each one fails the test
                    errors.append(exc)
                    stop.set()
                time.sleep(0.02)  # some calls in flight at any time, not all cores

    threads = [threading.Thread(target=loop) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
        count = len(answers)
        while len(answers) < count + 4 and not errors:  # of the state at the end
            time.sleep(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []


def _wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _relate(client: Client) -> np.ndarray:
    inputs = {
        tensor.name: np.full((1, *tensor.shape), 0.5, np.float32)
        for tensor in client.describe(PAIR.name).inputs
    }
    (answer,) = client.infer(PAIR.name, inputs).values()
    return answer[0]


def _gender(client: Client) -> np.ndarray:
    return client.attributes(FRAME, BOXES).female_probabilities


def _count_distinct(answers: list[np.ndarray]) -> int:
    return len({round(float(answer[0]), 4) for answer in answers})


def test_an_ensemble_follows_a_rollout_and_a_rollback_without_a_failed_request(
    own: Repository, versioned: TritonServer, supervised: Watch
) -> None:
    with Client(versioned.grpc_address, timeout_s=60) as client:

        def untrained(name: str) -> str:
            return client.describe(name).parameters["stand_in_weights"]

        before = _gender(client)
        assert untrained("person_attributes") == "person_gender,person_reid_kd_r18"
        version = _build(GENDER, 5, own)
        with _under_load(versioned, _gender) as answers:
            change = _roll_out(GENDER, own, versioned)
            assert (change.before, change.after) == (version - 1, version)
            assert all(comparison.passed for comparison in change.comparisons)
            for name in ("person_attributes", "person_attributes_crops"):
                assert untrained(name) == "person_reid_kd_r18"
        assert _count_distinct(answers) == 2
        assert answers[-1] != pytest.approx(before)

        with _under_load(versioned, _gender) as answers:
            change = _roll_back(GENDER, own, versioned)
            assert (change.before, change.after) == (version, version - 1)
        assert answers[-1] == pytest.approx(before)
        assert untrained("person_attributes") == "person_gender,person_reid_kd_r18"
    assert own.version(GENDER.name) == version - 1, "the next start serves it, too"
    assert supervised.symptoms == []
    assert supervised.canaries > 0


def test_rolling_out_what_is_served_changes_nothing(
    own: Repository, versioned: TritonServer
) -> None:
    change = _roll_out(PAIR, own, versioned)
    assert change.before == change.after == own.version(PAIR.name)
    with pytest.raises(RolloutError, match=r"no version before 1 that is built"):
        _roll_back(PAIR, own, versioned)


def _store_other_file(own: Repository) -> None:
    """A sound file of other outputs with a record of its own."""
    other = own.artefact_path(GENDER.name, "model.onnx")
    _replace(own, other.read_bytes())


def _store_cut_file(own: Repository) -> None:
    _replace(own, own.artefact_path(PAIR.name, "model.onnx").read_bytes()[:5000])


def _store_wrong_answers(own: Repository) -> None:
    """The first version's file under the record of the second one."""
    _replace(own, own.artefact_path(PAIR.name, "model.onnx", 1).read_bytes())


def _end_at_load(own: Repository) -> None:
    path = own.artefact_path(PAIR.name, "cpu_model.py")
    text = path.read_text()
    path.unlink()  # it shares its content with the version before
    path.write_text(text.replace("import json", "import os; os._exit(3)", 1))


def _replace(own: Repository, data: bytes) -> None:
    path = own.artefact_path(PAIR.name, "model.onnx")
    record = json.loads(path.with_name("model.onnx.json").read_text())
    path.unlink()
    path.write_bytes(data)
    own.write_record(path, record)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_store_cut_file, RolloutError, "cannot load kinship_pair.candidate"),
        (_store_other_file, RolloutError, "as before"),
        (_store_wrong_answers, VerificationError, "outside its tolerance"),
        (_end_at_load, RolloutError, "Stub process"),
    ],
)
def test_a_bad_version_is_withdrawn_and_the_good_one_goes_on(
    damage: Callable[[Repository], None],
    error: type[Exception],
    message: str,
    own: Repository,
    versioned: TritonServer,
    supervised: Watch,
) -> None:
    good = own.version(PAIR.name)
    with Client(versioned.grpc_address) as client:
        expected = _relate(client)
    bad = _build(PAIR, 100 + good, own)
    damage(own)
    with (
        _under_load(versioned, _relate) as answers,
        pytest.raises(error, match=message) as caught,
    ):
        _roll_out(PAIR, own, versioned)
    assert f"is served in version {good} as before" in str(caught.value)
    assert f"version {bad} is withdrawn" in str(caught.value)
    assert answers
    assert all(answer == expected for answer in answers), "no client met the bad one"
    assert own.version(PAIR.name) == good
    served = _served(versioned)
    assert served[PAIR.name] == good
    assert not any("candidate" in name for name in served)
    config = own.folder(PAIR.name) / "configs" / "cpu.pbtxt"
    assert str(own.origin(PAIR.name)) in config.read_text()
    assert supervised.symptoms == [], "no process of a good model has ended"


@pytest.mark.parametrize(
    ("victim", "comparison", "is_restarted"),
    [("candidate", 1, False), ("served", 1, True), ("switched to", 2, True)],
)
def test_a_process_killed_in_a_rollout_ends_in_the_version_before(
    victim: str,
    comparison: int,
    is_restarted: bool,
    own: Repository,
    versioned: TritonServer,
    supervised: Watch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from builders.rollout import rollout

    good = own.version(PAIR.name)
    with Client(versioned.grpc_address) as client:
        expected = _relate(client)
    version = _build(PAIR, 200 + good, own)
    compare, calls = rollout.compare_outputs, 0

    def compare_after_a_kill(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == comparison:
            names = name_stubs(versioned.list_pids())
            for pid, name in names.items():
                is_candidate = CANDIDATE in name
                if PAIR.name in name and is_candidate == (victim == "candidate"):
                    os.kill(pid, signal.SIGKILL)
            if is_restarted:
                _wait_until(lambda: supervised.symptoms)
        return compare(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "compare_outputs", compare_after_a_kill)
        with pytest.raises(RolloutError) as caught:
            _roll_out(PAIR, own, versioned)
    assert f"{PAIR.name} is served in version {good} as before" in str(caught.value)
    assert f"version {version} was not judged" in str(caught.value)
    assert own.version(PAIR.name) == good, "a restart serves it, too"
    _wait_until(lambda: supervised.is_ready)
    assert bool(supervised.symptoms) == is_restarted
    served = _served(versioned)
    assert served[PAIR.name] == good
    assert not any(CANDIDATE in name for name in served)
    with Client(versioned.grpc_address, timeout_s=60) as client:
        assert _relate(client) == expected
    assert _roll_out(PAIR, own, versioned).after == version, "it is tried again"


def test_a_version_that_fails_after_the_switch_is_rolled_back(
    own: Repository, versioned: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders.rollout import rollout

    good = own.version(PAIR.name)
    bad = _build(PAIR, 7, own)
    require = rollout.require_tolerance
    calls: list[int] = []

    def refuse_the_second(*arguments: object) -> str:
        calls.append(_served(versioned)[PAIR.name])
        if len(calls) == 2:
            raise VerificationError("differs")
        return require(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rollout, "require_tolerance", refuse_the_second)
    with pytest.raises(VerificationError, match="as before"):
        _roll_out(PAIR, own, versioned)
    assert calls == [good, bad]
    assert _served(versioned)[PAIR.name] == own.version(PAIR.name) == good


def test_an_interrupted_rollout_can_be_tried_again(
    own: Repository, versioned: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders.rollout import rollout

    before = own.version(PAIR.name)
    version = _build(PAIR, 9, own)
    with monkeypatch.context() as patch:

        def interrupt(*_arguments: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(rollout, "compare_outputs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            _roll_out(PAIR, own, versioned)
    assert own.version(PAIR.name) == _served(versioned)[PAIR.name] == before
    assert _roll_out(PAIR, own, versioned).after == version
    assert _served(versioned)[PAIR.name] == version


def test_what_a_rollout_needs_is_said(tmp_path: Path, versioned: TritonServer) -> None:
    def attempt(access: ServerAccess, model: Model = PAIR) -> None:
        repository = Repository(tmp_path)
        render_repository(repository)
        with ModelControl(access) as control:
            roll_back(model, repository, control)

    address = versioned.grpc_address
    with pytest.raises(RolloutError, match=r"demands a key .* --key-file"):
        attempt(ServerAccess(address, key="wrong"))
    with pytest.raises(RolloutError, match=r"127.0.0.1:9 does not list the models"):
        attempt(ServerAccess("127.0.0.1:9"))
    with pytest.raises(RolloutError, match="expected host:port"):
        attempt(ServerAccess("nowhere"))
    (other,) = models(["se_resnet50"])
    with pytest.raises(RolloutError, match="does not serve se_resnet50; start it"):
        attempt(ServerAccess(address), other)
