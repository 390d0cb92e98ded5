"""The training loop: one for all recipes, on Lightning Fabric.

Every random value is a function of the seed and the number of the step, so the state
that a resumed run needs is what the steps have changed: weights, statistics, the
optimiser, the schedule and counters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from builders.progress import Progress, no_progress
from builders.spec.model import Model
from builders.training.augmentation import augment
from builders.training.examples import Examples, IntArray, Pixels
from builders.training.network import (
    Answers,
    TrainedNetwork,
    find_used_keys,
    match_keys,
    run_inference,
)
from builders.training.optimisation import (
    RateSchedule,
    create_optimiser,
    update_average,
)
from builders.training.recipes import Recipe, TrainingError
from builders.training.run_folder import RunFolder
from builders.training.sampling import TaskMixer
from builders.training.tasks import Task
from builders.weights import read_checkpoint

LOG_EVERY = 10
"""Steps between looks at the losses, each of which waits for the GPU."""

VALIDATION_BATCH = 64
STEPS_TABLE, VALIDATION_TABLE = "steps.tsv", "validation.tsv"
MAX_STORE_SHARE = 0.5
"""Share of a GPU's free memory that a data set may take, to be cut into batches there.
"""


@dataclass
class Counters:
    """Progress of a run.

    Attributes:
        step: Number of finished steps.
        epoch: Number of finished epochs.
        batches: Number of finished batches of each task.
        best_loss: Smallest validation loss.
        best_epoch: Epoch that had it.
        is_finished: Whether the run has ended by itself.
    """

    step: int = 0
    epoch: int = 0
    batches: list[int] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    is_finished: bool = False


@dataclass(frozen=True)
class _Batch:
    step: int
    task: int
    rows: Sequence[IntArray]
    inputs: Mapping[str, Tensor]


class CropStore:
    """Crops that batches are cut from: on the GPU if they fit there.

    Args:
        crops: UINT8 [N, H, W, 3].
        device: Device of the batches.
    """

    def __init__(self, crops: Pixels, device: torch.device) -> None:
        self._crops, self._device = crops, device
        self._stored: Tensor | None = None
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if crops.nbytes < MAX_STORE_SHARE * free:
                self._stored = torch.from_numpy(np.array(crops)).to(device)

    def batch(self, rows: IntArray) -> Tensor:
        """Return crops on the device, UINT8 [len(rows), H, W, 3].

        Args:
            rows: Which ones.
        """
        if self._stored is not None:
            return self._stored[torch.from_numpy(rows).to(self._device)]
        crops = torch.from_numpy(self._crops[rows])
        if self._device.type == "cuda":
            return crops.pin_memory().to(self._device, non_blocking=True)
        return crops


class TrainingLoop:
    """A run of one recipe.

    Args:
        recipe: The recipe.
        model: The model.
        tasks: Its tasks, in the recipe's order.
        network: The weights to train, on the CPU.
        fabric: Devices and precision; launched.
        folder: Folder of the run.
        facts: What the record of the best weights says, JSON values.
        save_steps: Steps between saved states; every epoch is saved too.
        max_steps: Steps after which the run ends whatever the recipe says; 0 for none.
        progress: Callback for the current work.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        tasks: Sequence[Task],
        network: TrainedNetwork,
        fabric: Fabric,
        folder: RunFolder,
        facts: Mapping[str, Any],
        *,
        save_steps: int = 500,
        max_steps: int = 0,
        progress: Progress = no_progress,
    ) -> None:
        self.recipe, self.model, self.tasks, self.folder = recipe, model, tasks, folder
        self._fabric, self._facts, self._progress = fabric, dict(facts), progress
        self._save_steps, self._max_steps = save_steps, max_steps
        self._still = [self._find_still(network, task) for task in tasks]
        self._mixer = TaskMixer([task.how.weight for task in tasks], recipe.seed)
        passes = recipe.length.passes
        self.epoch_steps = passes * sum(task.sampler.batches for task in tasks)
        steps = self.epoch_steps * recipe.length.max_epochs
        self.total_steps = min(steps, max_steps or steps)
        self._schedule = RateSchedule(
            recipe.schedule, recipe.optimiser.learning_rate, self.total_steps
        )
        for key in match_keys(dict(network.named_parameters()), recipe.freezing.always):
            network.get_parameter(key).requires_grad = False
        trained = [p for p in network.parameters() if p.requires_grad]
        optimiser = create_optimiser(trained, recipe.optimiser)
        self._network, self._optimiser = fabric.setup(network, optimiser)
        self._plain: TrainedNetwork = self._network.module
        self._average = self._start_average()
        self.counters = Counters(batches=[0] * len(tasks))
        self._stores = [CropStore(t.split.train.crops, fabric.device) for t in tasks]
        self._pending: list[tuple[_Batch, Tensor]] = []
        self.images_per_s = 0.0

    def _find_still(self, network: TrainedNetwork, task: Task) -> list[str]:
        """Return the batch norms that a task's batches do not change."""
        norms = [
            key.rpartition(".")[0]
            for key, _ in network.named_buffers()
            if key.endswith(".running_mean")
        ]
        used = find_used_keys(network, task.how.output)
        frozen = set(match_keys(norms, self.recipe.freezing.statistics))
        return [n for n in norms if n in frozen or f"{n}.weight" not in used]

    def _start_average(self) -> dict[str, Tensor]:
        if not self.recipe.optimiser.average_decay:
            return {}
        return {k: v.detach().clone() for k, v in self._plain.tensors().items()}

    def run(self, *, resume: bool = False) -> None:
        """Train until the recipe's end, or from the last saved state on.

        Args:
            resume: Continue from the saved state, if there is one.

        Raises:
            TrainingError: The loss is not finite, memory does not suffice, or the
                folder has another run.
        """
        state = self.folder.load_state(resume=resume)
        if state is not None:
            self._restore(state)
        elif self._fabric.is_global_zero:
            self._save()
        started, first = time.perf_counter(), self.counters.step
        for batch in self._batches():
            self._step(batch)
            counters = self.counters
            if counters.step % LOG_EVERY == 0:
                self._flush()
                self._report_speed(started, first)
            if counters.step % self.epoch_steps == 0 or self._is_last():
                self._end_epoch()
            elif counters.step % self._save_steps == 0:
                self._flush()
                self._save()
            if counters.is_finished:
                break

    def _is_last(self) -> bool:
        return self.counters.step >= self.total_steps

    def _batches(self) -> Iterator[_Batch]:
        """Yield the batches from the present step on; the next one is prepared."""
        counts = list(self.counters.batches)
        if self.counters.is_finished:
            return
        ahead = 1 if self._fabric.device.type == "cuda" else 0
        with ThreadPoolExecutor(1) as pool:
            pending = []
            for step in range(self.counters.step, self.total_steps):
                task = self._mixer.task(step)
                number, counts[task] = counts[task], counts[task] + 1
                pending.append(pool.submit(self._prepare, step, task, number))
                if len(pending) > ahead:
                    yield pending.pop(0).result()
            for future in pending:
                yield future.result()

    def _prepare(self, step: int, task: int, number: int) -> _Batch:
        fabric = self._fabric
        part = slice(fabric.global_rank, None, fabric.world_size)
        if fabric.world_size > 1 and isinstance(self.tasks[task].how.images, int):
            # groups of one identity stay on one device
            part = self._device_part(self.tasks[task], fabric)
        rows = [each[part] for each in self.tasks[task].rows(number)]
        seed = [self.recipe.seed, step, fabric.global_rank]
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence(seed).generate_state(1)[0])
        )
        inputs = {}
        for image, each in zip(self.model.images, rows, strict=True):
            crops = self._stores[task].batch(each)
            mean = image.mean if max(image.mean) > 1 else (127.5,) * 3
            colour = torch.tensor(mean).round().to(torch.uint8)
            how = self.recipe.augmentation
            inputs[image.name] = augment(crops, how, colour, generator)
        return _Batch(step, task, rows, inputs)

    @staticmethod
    def _device_part(task: Task, fabric: Fabric) -> slice:
        if task.how.kind != "identity":
            return slice(fabric.global_rank, None, fabric.world_size)
        people = max(1, task.how.batch // task.how.images // fabric.world_size)
        size = people * task.how.images
        return slice(fabric.global_rank * size, (fabric.global_rank + 1) * size)

    def _step(self, batch: _Batch) -> None:
        recipe, counters = self.recipe, self.counters
        self._freeze(batch.step)
        for group in self._optimiser.param_groups:
            group["lr"] = self._schedule.rate(batch.step)
        task = self.tasks[batch.task]
        try:
            answers = self._network(batch.inputs, self._still[batch.task])
            loss = task.loss(answers, batch.rows, self._plain.tensors(), batch.inputs)
            self._optimiser.zero_grad()
            self._fabric.backward(loss)
            if recipe.optimiser.clip_norm:
                self._fabric.clip_gradients(
                    self._network,
                    self._optimiser,
                    max_norm=recipe.optimiser.clip_norm,
                    error_if_nonfinite=False,
                )
            self._optimiser.step()
        except torch.OutOfMemoryError as exc:
            size = task.how.batch
            raise TrainingError(
                f"the GPU's memory does not suffice for a batch of {size}; set "
                f"tasks.batch to {size // 2} in the recipe, or use --batch {size // 2}"
            ) from exc
        if self._average:
            decay = recipe.optimiser.average_decay
            update_average(self._average, self._plain.tensors(), decay)
        counters.step += 1
        counters.batches[batch.task] += 1
        self._pending.append((batch, loss.detach()))

    def _freeze(self, step: int) -> None:
        """Freeze or release the parameters that are not trained at first."""
        how = self.recipe.freezing
        if not how.at_first or step > how.steps:
            return
        named = dict(self._plain.named_parameters())
        always = set(match_keys(named, how.always))
        for key in match_keys(named, how.at_first):
            if key not in always:
                named[key].requires_grad_(step >= how.steps)

    def _flush(self) -> None:
        """Look at the losses since the last look, and enter them in the table."""
        for batch, loss in self._pending:
            value = float(loss)
            if not math.isfinite(value):
                self._stop_at(batch, value)
            self.folder.add_row(
                STEPS_TABLE,
                {
                    "step": batch.step,
                    "task": self.tasks[batch.task].how.output,
                    "loss": value,
                    "rate": self._schedule.rate(batch.step),
                },
            )
        self._pending.clear()

    def _stop_at(self, batch: _Batch, value: float) -> None:
        task = self.tasks[batch.task]
        files = [task.split.train.files[row] for row in batch.rows[0]]
        raise TrainingError(
            f"the loss is {value} at step {batch.step}, task {task.how.output}, "
            f"learning rate {self._schedule.rate(batch.step):g}; the batch has "
            f"{', '.join(files[:8])}{' and others' if len(files) > 8 else ''}. The "
            "last saved state is from before. Look at these images, lower "
            "optimiser.learning_rate, or set optimiser.clip_norm"
        )

    def _report_speed(self, started: float, first: int) -> None:
        steps, seconds = self.counters.step - first, time.perf_counter() - started
        images = sum(task.how.batch for task in self.tasks) / len(self.tasks)
        self.images_per_s = steps * images / seconds
        left_s = (self.total_steps - self.counters.step) * seconds / steps
        self._progress(
            f"training, {self.images_per_s:.0f} images/s, at most {left_s / 60:.0f} "
            "min left",
            self.counters.step,
            self.total_steps,
        )

    def served_tensors(self) -> dict[str, Tensor]:
        """Return the weights that are judged and kept: averages where there are any."""
        return self._average or {
            key: value.detach() for key, value in self._plain.tensors().items()
        }

    def predict(self, examples: Examples, rows: Sequence[IntArray]) -> Answers:
        """Return the answers of the present weights, as they will be served.

        Args:
            examples: The examples.
            rows: Rows for each of the model's images.
        """
        tensors, device = self.served_tensors(), self._fabric.device
        parts: list[dict[str, Tensor]] = []
        for start in range(0, len(rows[0]), VALIDATION_BATCH):
            block = [each[start : start + VALIDATION_BATCH] for each in rows]
            inputs = {
                image.name: torch.from_numpy(examples.crops[each]).to(device)
                for image, each in zip(self.model.images, block, strict=True)
            }
            answers = run_inference(self.model, tensors, inputs)
            logits = {f"logit {k}": v for k, v in answers.logits.items()}
            parts.append({k: v.cpu() for k, v in {**answers.outputs, **logits}.items()})
        joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return Answers(
            {k: v for k, v in joined.items() if not k.startswith("logit ")},
            {k[6:]: v for k, v in joined.items() if k.startswith("logit ")},
        )

    def measure_speed(self, steps: int, warm_up: int) -> float:
        """Return images per second of training steps, without validation or saving.

        The weights change. It is for benchmarks.

        Args:
            steps: Number of steps to time.
            warm_up: Number of steps before.
        """
        device, started = self._fabric.device, 0.0
        images = 0
        for number, batch in enumerate(self._batches()):
            if number == warm_up:
                _wait(device)
                started = time.perf_counter()
            if number == warm_up + steps:
                break
            self._step(batch)
            images += len(batch.rows[0]) * (number >= warm_up)
        _wait(device)
        return images / (time.perf_counter() - started)

    def load_best(self) -> None:
        """Judge and predict with the best weights from now on."""
        arrays = read_checkpoint(self.folder.best_path).arrays
        device = self._fabric.device
        self._average = {
            key: torch.from_numpy(np.array(arrays[key])).to(device)
            for key in self._plain.tensors()
        }

    def _end_epoch(self) -> None:
        self._flush()
        counters, length = self.counters, self.recipe.length
        counters.epoch += 1
        self._progress("validating")
        row: dict[str, float | int | str] = {
            "epoch": counters.epoch,
            "step": counters.step,
        }
        loss = 0.0
        for task in self.tasks:
            scores = task.validate(self.predict)
            loss += scores["loss"]
            row |= {f"{task.how.output} {name}": v for name, v in scores.items()}
        self.folder.add_row(VALIDATION_TABLE, row)
        self._schedule.end_epoch(loss)
        if loss < counters.best_loss:
            counters.best_loss, counters.best_epoch = loss, counters.epoch
            if self._fabric.is_global_zero:
                self._save_best(row)
        bad = counters.epoch - counters.best_epoch
        counters.is_finished = self._is_last() or (
            0 < length.stop_after_epochs <= bad and counters.epoch >= length.min_epochs
        )
        self._save()

    def _save_best(self, scores: Mapping[str, float | int | str]) -> None:
        arrays = {
            k: v.detach().cpu().numpy().copy() for k, v in self.served_tensors().items()
        }
        self.folder.save_best(arrays, {**self._facts, "validation": dict(scores)})

    def _save(self) -> None:
        self._fabric.barrier()
        if self._fabric.is_global_zero:
            self.folder.save_state(
                {
                    "network": dict(self._plain.state_dict()),
                    "optimiser": self._optimiser.state_dict(),
                    "schedule": self._schedule.state_dict(),
                    "average": self._average,
                    "counters": asdict(self.counters),
                }
            )

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._plain.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        device = self._fabric.device
        self._average = {k: v.to(device) for k, v in state["average"].items()}
        self.counters = Counters(**state["counters"])


def _wait(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
