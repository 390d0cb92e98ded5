"""Predictions: a data set through a runner, in batches, resumable.

Outputs are memory-mapped .npy files next to progress.json. An interrupted run resumes
where it stopped, unless anything about it has changed: the model, its weights, the
runner, the list of images or their sizes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.evaluation.datasets import Dataset, EvaluationError
from builders.evaluation.runners import FloatArray, ModelRunner
from builders.images import Pixels, UnreadableImageError, read_crop
from builders.progress import Progress, no_progress
from builders.spec.model import Network
from builders.verify.inputs import Runner, flatten_rows
from personserve.internal.files import write_text

Inputs = dict[str, Pixels]
"""Crops by input name, UINT8 [batch, height, width, 3]."""

READER_THREADS = 2
"""Threads that decode images while the network runs."""

MAX_UNREADABLE = 0.01
"""Share of unreadable images above which a run says nothing about the model."""

LATENCY_CALLS, WARM_UP_CALLS = 30, 3


@dataclass
class Predictions:
    """Outputs of a model for all items of a data set.

    Attributes:
        outputs: FP32 [N, size] by output name, in the order of the data set; NaN where
            an image cannot be read.
        unreadable: Error message of each image that cannot be read.
        seconds: Time spent in the runner.
        latency_ms: Median time of one call with one item, in milliseconds.
    """

    outputs: Mapping[str, FloatArray]
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0
    latency_ms: float = float("nan")

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Items that have outputs, BOOL [N]."""
        first = next(iter(self.outputs.values()))
        return np.asarray(~np.isnan(first[:, 0]))


def predict(
    model: Network,
    dataset: Dataset,
    runner: ModelRunner,
    folder: Path,
    *,
    flip: bool = False,
    batch: int = 16,
    progress: Progress = no_progress,
) -> Predictions:
    """Run a model on every item of a data set.

    Args:
        model: The model, for its inputs and outputs.
        dataset: The data set.
        runner: Runner of the model.
        folder: Folder of the output files. A run that it holds is resumed.
        flip: Average the outputs of each image and its mirror image (test-time
            augmentation).
        batch: Items per call, at most; the model's largest batch is a limit too.
        progress: Callback, called after every batch.

    Returns:
        The outputs; the arrays are the memory-mapped files.

    Raises:
        EvaluationError: If more than MAX_UNREADABLE of the images cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total, size = len(dataset.items), min(batch, model.batching.max_batch_size)
    digest = _run_digest(model, dataset, runner, flip=flip)
    # an imported file may have outputs of varying size, which are not stored
    shapes = {o.name: (total, o.size) for o in model.outputs if o.size > 0}
    state = _RunState(folder, digest, shapes)
    with ThreadPoolExecutor(READER_THREADS) as pool:
        for first, inputs, errors in _read_batches(
            model, dataset, state.done, size, pool
        ):
            started = time.perf_counter()
            outputs = _run_batch(runner.run, inputs, flip=flip)
            seconds = time.perf_counter() - started
            for array in outputs.values():
                array[list(errors)] = np.nan
            state.add(first, outputs, errors.values(), seconds)
            state.save()
            progress(f"{model.name}, {runner.label}", state.done, total)
        latency_ms = _measure_latency(runner.run, model, dataset, pool)
    if len(state.unreadable) > MAX_UNREADABLE * total:
        raise EvaluationError(
            f"{len(state.unreadable)} of {total} images cannot be read; "
            f"the first: {state.unreadable[0]}"
        )
    return Predictions(state.outputs, state.unreadable, state.seconds, latency_ms)


class _RunState:
    """State of a run on disk: output arrays, progress and unreadable images.

    A run with another digest, or without its files, starts at the first item.
    """

    def __init__(
        self, folder: Path, digest: str, shapes: Mapping[str, tuple[int, int]]
    ) -> None:
        self._path, self._digest = folder / "progress.json", digest
        files = {name: folder / f"{name}.npy" for name in shapes}
        self.done, self.seconds = 0, 0.0
        self.unreadable: list[str] = []
        if all(path.is_file() for path in files.values()):
            self._load_progress()
        mode = "r+" if self.done else "w+"
        self.outputs: dict[str, FloatArray] = {
            name: np.lib.format.open_memmap(files[name], mode, np.dtype("f4"), shape)
            for name, shape in shapes.items()
        }

    def _load_progress(self) -> None:
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            if saved["digest"] == self._digest:
                self.unreadable = list(saved["unreadable"])
                self.seconds = float(saved["seconds"])
                self.done = int(saved["done"])
        except (OSError, ValueError, KeyError, TypeError):
            self.done, self.seconds, self.unreadable = 0, 0.0, []

    def add(
        self,
        first: int,
        outputs: Mapping[str, FloatArray],
        errors: Iterable[str],
        seconds: float,
    ) -> None:
        for name, array in self.outputs.items():
            rows = outputs[name]
            array[first : first + len(rows)] = rows
            self.done = first + len(rows)
        self.unreadable += errors
        self.seconds += seconds

    def save(self) -> None:
        for array in self.outputs.values():
            if isinstance(array, np.memmap):
                array.flush()
        record = {
            "digest": self._digest,
            "done": self.done,
            "seconds": self.seconds,
            "unreadable": self.unreadable,
        }
        write_text(self._path, json.dumps(record))


def _run_digest(
    model: Network, dataset: Dataset, runner: ModelRunner, *, flip: bool
) -> str:
    """Return a digest of all that the outputs depend on, except the pixels."""
    digest = hashlib.sha256()
    facts = [model.name, runner.label, dict(runner.facts), flip]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for item in dataset.items:
        for file in item:
            path = dataset.root / file
            size = path.stat().st_size if path.is_file() else -1
            digest.update(f"{file}\0{size}\n".encode())
    return digest.hexdigest()


def _read_batches(
    model: Network, dataset: Dataset, start: int, size: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Inputs, dict[int, str]]]:
    """Yield first item, inputs and {row: error} of each batch, one batch read ahead."""

    def submit(first: int) -> list[Future[list[Pixels] | str]]:
        return [
            pool.submit(_read_item, model, dataset.root, item)
            for item in dataset.items[first : first + size]
        ]

    blank = [np.zeros(image.tensor.shape, np.uint8) for image in model.images]
    pending = submit(start)
    while pending:
        next_pending = submit(start + len(pending))
        rows = [future.result() for future in pending]
        errors = {i: row for i, row in enumerate(rows) if isinstance(row, str)}
        crops = [blank if isinstance(row, str) else row for row in rows]
        inputs = {
            image.name: np.stack([row[number] for row in crops])
            for number, image in enumerate(model.images)
        }
        yield start, inputs, errors
        start, pending = start + len(rows), next_pending


def _read_item(model: Network, root: Path, item: Sequence[str]) -> list[Pixels] | str:
    """Return one crop per image input, or the error of the first unreadable image."""
    try:
        return [
            read_crop(root / file, image.crop_shape)
            for file, image in zip(item, model.images, strict=True)
        ]
    except UnreadableImageError as exc:
        return str(exc)


def _run_batch(run: Runner, inputs: Inputs, *, flip: bool) -> dict[str, FloatArray]:
    outputs = flatten_rows(run(**inputs))
    if flip:
        mirrored = {
            name: np.ascontiguousarray(array[:, :, ::-1])
            for name, array in inputs.items()
        }
        for name, array in flatten_rows(run(**mirrored)).items():
            outputs[name] = (outputs[name] + array) / 2
    return outputs


def _measure_latency(
    run: Runner, model: Network, dataset: Dataset, pool: ThreadPoolExecutor
) -> float:
    """Return the median milliseconds of a call with one item, after warming up."""
    _, inputs, _ = next(_read_batches(model, dataset, 0, 1, pool))
    times_s = []
    for _ in range(WARM_UP_CALLS + LATENCY_CALLS):
        started = time.perf_counter()
        run(**inputs)
        times_s.append(time.perf_counter() - started)
    return float(np.median(times_s[WARM_UP_CALLS:])) * 1e3
