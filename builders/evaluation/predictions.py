"""Pictures through a backend: in batches, on disk as they come, resumable.

Answers lie in memory-mapped .npy files beside progress.json. A run that was broken off
goes on where it was, if nothing about it has changed: the model, its weights, what
runs it, the list of pictures and their sizes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from builders.build import ONNX_FILE, PLAN_FILE, load
from builders.evaluation.datasets import Dataset, EvaluationError
from builders.evaluation.pictures import UnreadablePictureError, read_crop
from builders.parity import FloatArray, Runner
from builders.repository import Repository
from builders.runtimes.cpu_session import ONNX_RUNTIME
from builders.server import Ports, TritonServer
from builders.spec import Model
from builders.verify import built_runner
from builders.weights import Origin
from personserve import Client, PersonServeError
from personserve._files import write_text

BACKENDS = ("torch", "onnx", "plan", "server")
TARGETS = {"onnx": ("cpu", ONNX_FILE), "plan": ("tensorrt", PLAN_FILE)}

READERS = 2
"""Threads that decode pictures while the network runs."""

MAX_UNREADABLE = 0.01
"""Above this share of unreadable pictures a run says nothing about the model."""

LATENCY_CALLS = 30

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Backend:
    """What runs the model: `label` names it in reports (with a plan's precision),
    `facts` are recorded with the run, `file_bytes` is the size of what is deployed.
    """

    label: str
    run: Runner
    facts: Mapping[str, Any]
    file_bytes: int | None = None


@dataclass
class Predictions:
    """`outputs` are FP32 [N, size] in the data set's order, NaN where a picture could
    not be read; `seconds` is the time in the backend alone.
    """

    outputs: Mapping[str, FloatArray]
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0
    latency_ms: float = float("nan")

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Which rows have answers, [N]."""
        first = next(iter(self.outputs.values()))
        return np.asarray(~np.isnan(first[:, 0]))


@contextmanager
def backend(
    name: str, model: Model, repository: Repository, address: str | None
) -> Iterator[Backend]:
    """Open backend `name`; "server" is the one at `address`, or started here.

    Raises EvaluationError, VerificationError or ServeError where it cannot run.
    """
    origin: Origin = repository.origin(model.name)
    facts: dict[str, Any] = {"weights": str(origin)}
    if name == "torch":
        from builders.ops.torch import Reference

        yield Backend("torch", Reference(model, load(model, origin).arrays), facts)
    elif name == "server":
        if address is not None:
            yield from _server(model, address, facts)
            return
        server = TritonServer(repository, models=[model.name], ports=Ports.free())
        with server:
            yield from _server(model, server.grpc_address, facts)
    else:
        target, file = TARGETS[name]
        run, record = built_runner(model, repository, target)
        # onnx is FP32 by ONNX Runtime, unless it says otherwise
        said = [record.get("precision", "fp32"), record.get("runtime", ONNX_RUNTIME)]
        usual = ["fp32", ONNX_RUNTIME] if name == "onnx" else [None, ONNX_RUNTIME]
        own = [a for a, b in zip(said, usual, strict=True) if a != b]
        label = "-".join([name, *own])
        facts |= {"weights": record["inputs"]["weights"], "sha256": record["sha256"]}
        size = repository.built(model.name, file).stat().st_size
        yield Backend(label, run, facts, size)


def _server(model: Model, address: str, facts: dict[str, Any]) -> Iterator[Backend]:
    with Client(address) as client:
        try:
            parameters = client.describe(model.name).parameters
            facts |= {"weights": parameters.get("weights", "unknown")}

            def run(**inputs: npt.NDArray[Any]) -> Mapping[str, FloatArray]:
                return client.infer(model.name, timeout_s=TIMEOUT_S, **inputs)

            yield Backend("server", run, facts)
        except PersonServeError as exc:
            raise EvaluationError(str(exc)) from exc


def predict(
    model: Model,
    data: Dataset,
    ran: Backend,
    folder: Path,
    *,
    flip: bool,
    batch: int,
    progress: Callable[[int], None],
) -> Predictions:
    """Answers of `model` for every item of `data`; with `flip` the mean of each
    picture's and its mirror image's (seed 001's test-time augmentation). `progress` is
    told how many items are done.

    Raises EvaluationError where more than MAX_UNREADABLE cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = _identity(model, data, ran, flip=flip)
    found = _Resumable(folder, identity, model, len(data.items))
    size = min(batch, model.batching.maximum)
    with ThreadPoolExecutor(READERS) as pool:
        for start, inputs, unreadable in _batches(model, data, found.done, size, pool):
            found.add(start, _answers(ran.run, inputs, unreadable, flip=flip))
            found.unreadable += unreadable.values()
            progress(found.save())
        latency_ms = _latency(ran.run, model, data, pool)
    if len(found.unreadable) > MAX_UNREADABLE * len(data.items):
        raise EvaluationError(
            f"{len(found.unreadable)} of {len(data.items)} pictures cannot be read; "
            f"the first: {found.unreadable[0]}"
        )
    return Predictions(found.outputs, found.unreadable, found.seconds, latency_ms)


class _Resumable:
    """What of a run is on disk."""

    def __init__(self, folder: Path, identity: str, model: Model, count: int) -> None:
        self._path = folder / "progress.json"
        self._identity = identity
        self.done, self.seconds, self.unreadable = self._progress()
        self.outputs: dict[str, FloatArray] = {}
        for output in model.outputs:
            path = folder / f"{output.name}.npy"
            mode = "r+" if self.done and path.is_file() else "w+"
            if mode == "w+":
                self.done, self.seconds, self.unreadable = 0, 0.0, []
            self.outputs[output.name] = np.lib.format.open_memmap(
                path, mode, np.dtype(np.float32), (count, output.size)
            )

    def _progress(self) -> tuple[int, float, list[str]]:
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            if saved["identity"] == self._identity:
                return int(saved["done"]), float(saved["seconds"]), saved["unreadable"]
        except (OSError, ValueError, KeyError):
            pass
        return 0, 0.0, []

    def add(self, start: int, answers: tuple[Mapping[str, FloatArray], float]) -> None:
        outputs, seconds = answers
        for name, rows in outputs.items():
            self.outputs[name][start : start + len(rows)] = rows
            self.done = start + len(rows)
        self.seconds += seconds

    def save(self) -> int:
        for array in self.outputs.values():
            if isinstance(array, np.memmap):
                array.flush()
        record = {
            "identity": self._identity,
            "done": self.done,
            "seconds": self.seconds,
            "unreadable": self.unreadable,
        }
        write_text(self._path, json.dumps(record))
        return self.done


def _identity(model: Model, data: Dataset, ran: Backend, *, flip: bool) -> str:
    digest = hashlib.sha256()
    about = [model.name, ran.label, dict(ran.facts), flip]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for item in data.items:
        for file in item:
            path = data.root / file
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{file}\0{size}\n".encode())
    return digest.hexdigest()


Inputs = dict[str, npt.NDArray[np.uint8]]


def _batches(
    model: Model, data: Dataset, start: int, size: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Inputs, dict[int, str]]]:
    """(first item, inputs, what could not be read by row), one batch read ahead."""

    def ask(first: int) -> list[Future[Any]]:
        return [
            pool.submit(_read_item, model, data.root, item)
            for item in data.items[first : first + size]
        ]

    waiting = ask(start)
    while waiting:
        ahead = ask(start + len(waiting))
        rows = [future.result() for future in waiting]
        unreadable = {i: row for i, row in enumerate(rows) if isinstance(row, str)}
        blank = [np.zeros(image.tensor.shape, np.uint8) for image in model.images]
        crops = [blank if isinstance(row, str) else row for row in rows]
        inputs = {
            image.name: np.stack([row[number] for row in crops])
            for number, image in enumerate(model.images)
        }
        yield start, inputs, unreadable
        start, waiting = start + len(rows), ahead


def _read_item(
    model: Model, root: Path, item: Sequence[str]
) -> list[npt.NDArray[np.uint8]] | str:
    try:
        return [
            read_crop(root / file, image.crop_shape)
            for file, image in zip(item, model.images, strict=True)
        ]
    except UnreadablePictureError as exc:
        return str(exc)


def _answers(
    run: Runner, inputs: Inputs, unreadable: Mapping[int, str], *, flip: bool
) -> tuple[dict[str, FloatArray], float]:
    """Outputs, and the seconds that the backend took for them."""
    began = time.perf_counter()
    answers = {name: np.array(array) for name, array in run(**inputs).items()}
    if flip:
        mirrored = {
            name: np.ascontiguousarray(array[:, :, ::-1])
            for name, array in inputs.items()
        }
        for name, array in run(**mirrored).items():
            answers[name] = (answers[name] + array) / 2
    seconds = time.perf_counter() - began
    for array in answers.values():
        array[list(unreadable)] = np.nan
    return answers, seconds


def _latency(
    run: Runner, model: Model, data: Dataset, pool: ThreadPoolExecutor
) -> float:
    """Median milliseconds of a call with one item, after three to warm up."""
    _, inputs, _ = next(_batches(model, data, 0, 1, pool))
    times = []
    for _ in range(LATENCY_CALLS + 3):
        began = time.perf_counter()
        run(**inputs)
        times.append(time.perf_counter() - began)
    return float(np.median(times[3:])) * 1e3
