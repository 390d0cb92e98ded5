"""Recipes: everything that a training run does, as one TOML file each.

A recipe is data. Its digest is recorded with the weights that it made, so that a reader
of a repository can tell how they were trained.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from builders.errors import BuildersError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 1 << 16

TASK_KINDS = ("attribute", "identity", "kinship", "classes")
OPTIMISERS = ("adam", "sgd")
SCHEDULES = ("constant", "plateau", "flat_cosine")
LOSSES = ("bce", "weighted_bce")
CLASSIFIERS = ("linear", "circle", "none")
TRIPLETS = ("soft", "none")
NECK_SIDES = ("before", "after")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")

T = TypeVar("T")


class TrainingError(BuildersError, ValueError):
    """A recipe, a data set or a run that cannot be trained."""


@dataclass(frozen=True)
class Optimiser:
    """How weights follow gradients.

    Attributes:
        kind: One of OPTIMISERS.
        learning_rate: Rate after the warm-up.
        betas: Adam's decay of both averages.
        momentum: SGD's momentum (Nesterov's form is not used).
        weight_decay: L2 penalty, added to the gradient.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        average_decay: Decay of the exponential average of the weights, which is then
            what is judged and kept; 0 for none.
    """

    kind: str = "adam"
    learning_rate: float = 3.5e-4
    betas: tuple[float, ...] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    average_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes.

    Attributes:
        kind: One of SCHEDULES.
        warmup_steps: Steps in which the rate rises linearly.
        warmup_start: Factor of the rate at the first step.
        flat_share: "flat_cosine": share of all steps before the cosine begins.
        floor_rate: Smallest rate.
        factor: "plateau": factor of the rate when the validation loss stops falling.
        patience_epochs: "plateau": epochs without progress before that.
    """

    kind: str = "constant"
    warmup_steps: int = 0
    warmup_start: float = 0.1
    flat_share: float = 0.5
    floor_rate: float = 0.0
    factor: float = 0.1
    patience_epochs: int = 4


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        max_epochs: Largest number of epochs.
        min_epochs: Epochs before an early stop.
        stop_after_epochs: Epochs without a better result that end the run; 0 for never.
        passes: Passes over the data in an epoch; more than 1 for small data sets, which
            would be validated too often.
    """

    max_epochs: int = 60
    min_epochs: int = 1
    stop_after_epochs: int = 0
    passes: int = 1


@dataclass(frozen=True)
class Augmentation:
    """How crops are varied in training.

    Attributes:
        flip: Probability of a mirror image.
        pad_px: Black border that a crop of the original size is cut from at random.
        erase: Probability that a rectangle is replaced by the mean colour.
    """

    flip: float = 0.5
    pad_px: int = 0
    erase: float = 0.0


@dataclass(frozen=True)
class Freezing:
    """What does not change. Patterns (fnmatch) are of checkpoint keys.

    Attributes:
        always: Parameters that are never trained.
        at_first: Parameters that are not trained in the first `steps` steps.
        steps: See `at_first`.
        statistics: Batch norms whose running statistics are used and kept.
        momentum: Weight of a batch in the running statistics.
    """

    always: tuple[str, ...] = ()
    at_first: tuple[str, ...] = ()
    steps: int = 0
    statistics: tuple[str, ...] = ()
    momentum: float = 0.1


@dataclass(frozen=True)
class TaskRecipe:
    """Task of a recipe: the answers that one data set teaches.

    Attributes:
        kind: One of TASK_KINDS.
        output: Name of the model's output.
        batch: Rows in a batch of all devices.
        weight: Relative frequency of the task's batches, where there are several tasks.
        loss: "attribute": one of LOSSES.
        images: "identity": images of each identity in a batch.
        classifier: "identity": one of CLASSIFIERS.
        label_smoothing: Probability that is spread over all classes.
        scale: "circle": factor of the cosines.
        margin: "circle": relaxation.
        triplet: "identity": one of TRIPLETS.
        triplet_side: "identity": the feature that triplets compare, before or after the
            batch-norm neck.
        distil: Weight of the divergence from a teacher's logits; 0 for no teacher.
        distil_temperature: Temperature of both logits.
        overhaul: Weight of the distance from a teacher's residual stages; 0 for none.
        validation_share: Share of the identities (or images) that validate, where the
            data set has no validation part.
    """

    kind: str
    output: str
    batch: int = 64
    weight: float = 1.0
    loss: str = "bce"
    images: int = 4
    classifier: str = "linear"
    label_smoothing: float = 0.0
    scale: float = 64.0
    margin: float = 0.35
    triplet: str = "none"
    triplet_side: str = "after"
    distil: float = 0.0
    distil_temperature: float = 16.0
    overhaul: float = 0.0
    validation_share: float = 0.2


@dataclass(frozen=True)
class Recipe:
    """One way of training.

    Attributes:
        name: Name of its file.
        sha256: SHA-256 of its file.
        summary: What it is, in one sentence.
        source: Where it was published.
        models: Models that it was written for; the first is the default.
        tasks: What is learnt.
        optimiser: How weights follow gradients.
        schedule: How the learning rate changes.
        length: How long it takes.
        augmentation: How crops are varied.
        freezing: What does not change.
        precision: Lightning Fabric's name of the precision on a GPU.
        seed: Seed of weights, order and augmentation.
    """

    name: str
    sha256: str
    summary: str
    source: str
    models: tuple[str, ...]
    tasks: tuple[TaskRecipe, ...]
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    length: Length = field(default_factory=Length)
    augmentation: Augmentation = field(default_factory=Augmentation)
    freezing: Freezing = field(default_factory=Freezing)
    precision: str = "bf16-mixed"
    seed: int = 0


def list_recipes() -> list[str]:
    """Return the names of the recipes of this project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_recipe(name: str) -> Recipe:
    """Read a recipe.

    Args:
        name: Name of a recipe of this project, or path of a TOML file.

    Raises:
        TrainingError: There is no such recipe, or the file is not a valid one.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file() or path.stat().st_size > MAX_RECIPE_BYTES:
        raise TrainingError(
            f"recipe {name}: expected the path of a TOML file of at most "
            f"{MAX_RECIPE_BYTES} bytes, or one of {', '.join(list_recipes())}"
        )
    data = path.read_bytes()
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise TrainingError(f"{path}: not a TOML file: {exc}") from exc
    return recipe_from_table(table, path.stem, hashlib.sha256(data).hexdigest())


def recipe_from_table(table: Mapping[str, Any], name: str, sha256: str) -> Recipe:
    """Return the recipe that a parsed file describes.

    Args:
        table: The parsed file.
        name: Name of the recipe.
        sha256: SHA-256 of the file.

    Raises:
        TrainingError: A key is unknown or missing, or a value is not allowed.
    """
    parts = {
        "optimiser": Optimiser,
        "schedule": Schedule,
        "length": Length,
        "augmentation": Augmentation,
        "freezing": Freezing,
    }
    values: dict[str, Any] = {**table, "name": name, "sha256": sha256}
    for key, kind in parts.items():
        if key in table:
            values[key] = _convert(kind, table[key], f"{name}, [{key}]")
    tasks = table.get("tasks", [])
    values["tasks"] = tuple(
        _convert(TaskRecipe, task, f"{name}, [[tasks]] {number}")
        for number, task in enumerate(tasks, start=1)
    )
    recipe = _convert(Recipe, values, name)
    _require_choices(recipe)
    return recipe


def _convert(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Return a dataclass from a table whose keys are its fields."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(known))
    missing = [
        key
        for key, f in known.items()
        if key not in table and f.default is MISSING and f.default_factory is MISSING
    ]
    if unknown or missing:
        raise TrainingError(
            f"recipe {where}: unknown keys {unknown}, missing keys {missing}; "
            f"expected some of {', '.join(known)}"
        )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    for key, value in values.items():
        expected = str(known[key].type)
        kinds = {"float": (int, float), "int": (int,), "str": (str,)}.get(expected)
        if kinds and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise TrainingError(
                f"recipe {where}: {key} is {value!r}; expected a value of type "
                f"{expected}"
            )
    return kind(**values)


def _require_choices(recipe: Recipe) -> None:
    chosen = [
        ("precision", recipe.precision, PRECISIONS),
        ("optimiser.kind", recipe.optimiser.kind, OPTIMISERS),
        ("schedule.kind", recipe.schedule.kind, SCHEDULES),
    ]
    for task in recipe.tasks:
        chosen += [
            ("tasks.kind", task.kind, TASK_KINDS),
            ("tasks.loss", task.loss, LOSSES),
            ("tasks.classifier", task.classifier, CLASSIFIERS),
            ("tasks.triplet", task.triplet, TRIPLETS),
            ("tasks.triplet_side", task.triplet_side, NECK_SIDES),
        ]
    for key, value, choice in chosen:
        if value not in choice:
            raise TrainingError(
                f"recipe {recipe.name}: {key} is {value!r}; expected one of "
                f"{', '.join(choice)}"
            )
    if not recipe.tasks or not recipe.models:
        raise TrainingError(f"recipe {recipe.name}: expected tasks and models")
    if min(task.batch for task in recipe.tasks) < 2:
        raise TrainingError(
            f"recipe {recipe.name}: a batch of less than 2 rows has no statistics for "
            "a batch norm; expected tasks.batch of 2 or more"
        )
