"""Training and validation examples: crops in one array, with labels.

Images are decoded once, into a memory-mapped array in the run's folder; every later
pass reads pixels at the speed of memory. What a data set publishes as training and
validation part is used as such; otherwise identities (or images, where none are known)
are held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from builders.evaluation import layouts
from builders.evaluation.datasets import (
    IDENTITY_COLUMN,
    UNKNOWN,
    Dataset,
    ImagePairs,
    LabelledImages,
    RetrievalImages,
)
from builders.evaluation.layouts.fiw import read_families
from builders.evaluation.layouts.market1501 import parse_name
from builders.evaluation.layouts.zero_shot import PARTITION, has_zero_shot_split
from builders.images import UnreadableImageError, read_crop
from builders.progress import Progress, no_progress
from builders.tensors import Image
from builders.training.recipes import TaskRecipe, TrainingError

IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

PARTS: Mapping[str, tuple[str, str | None]] = {
    "pa100k": ("train", "val"),
    "peta": ("train", "val"),
    "rap": ("train", None),
    "market-attributes": ("train", None),
    "image-folder": ("all", None),
    "market1501": ("train", None),
    "imagenet": ("train", "val"),
    "fiw": ("train", "val"),
}
"""Training part and validation part of each layout; None where one is held out."""

LAYOUTS_OF_TASKS: Mapping[str, tuple[str, ...]] = {
    "attribute": ("pa100k", "peta", "rap", "market-attributes", "image-folder"),
    "identity": ("market1501",),
    "kinship": ("fiw",),
    "classes": ("imagenet",),
}

MAX_UNREADABLE = 0.01
"""Largest share of images that cannot be decoded."""

EMPTY: IntArray = np.empty(0, np.int64)


@dataclass(frozen=True)
class Examples:
    """Crops with labels.

    Attributes:
        name: Data set and part, for people.
        root: Folder of the data set.
        files: Image file of each crop, relative to `root`.
        crops: RGB pixels, UINT8 [N, H, W, 3].
        labels: Class, or UNKNOWN, INT64 [N].
        identities: Person (kinship: family), or UNKNOWN, INT64 [N].
        cameras: Camera of each crop, INT64 [N].
        names: Names of the classes.
        groups: Further columns by name, one value for each crop.
        members: Kinship: member of each crop, INT64 [N].
        pairs: Kinship: related members (training) or rows (validation), INT64 [P, 2].
        related: Kinship, validation: 1 for related, 0 for not, INT64 [P].
        unreadable: Images that were left out.
    """

    name: str
    root: Path
    files: tuple[str, ...]
    crops: Pixels
    labels: IntArray
    identities: IntArray
    cameras: IntArray
    names: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    members: IntArray = field(default_factory=lambda: EMPTY)
    pairs: IntArray = field(default_factory=lambda: EMPTY.reshape(0, 2))
    related: IntArray = field(default_factory=lambda: EMPTY)
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def select(self, rows: IntArray) -> Examples:
        """Return some of the examples; pairs are not supported.

        Args:
            rows: Which ones, INT64 [M].
        """
        return replace(
            self,
            files=tuple(self.files[row] for row in rows),
            crops=self.crops[rows],
            labels=self.labels[rows],
            identities=self.identities[rows],
            cameras=self.cameras[rows],
            groups={
                k: tuple(column[row] for row in rows)
                for k, column in self.groups.items()
            },
        )


@dataclass(frozen=True)
class Split:
    """The two parts of a task's data.

    Attributes:
        train: What is learnt.
        validation: What it is judged by; no identity of `train`.
        how: How the parts were made, for the report.
    """

    train: Examples
    validation: Examples
    how: str


def read_split(
    task: TaskRecipe,
    image: Image,
    root: Path,
    cache: Path,
    *,
    layout: str | None = None,
    partition: int = 0,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Split:
    """Read the data set of a task.

    Args:
        task: The task.
        image: The model's input, for the size of the crops.
        root: Folder of the data set.
        cache: Folder for the decoded crops.
        layout: Layout of the data set; None to detect it.
        partition: Random partition of PETA and RAP.
        seed: Seed of the choice of held-out identities.
        progress: Callback for the current work.

    Raises:
        TrainingError: The data set has no labels for the task, or a part is empty.
        EvaluationError: The data set cannot be read.
    """
    layout = layout or _detect_layout(root)
    suitable = LAYOUTS_OF_TASKS[task.kind]
    if layout not in suitable:
        raise TrainingError(
            f"{root} is of the layout {layout}, which has no labels for the task "
            f"{task.kind!r}; expected one of {', '.join(suitable)}"
        )
    if task.kind == "kinship":
        return _read_families(image, root, cache, progress)
    train_part, validation_part = PARTS[layout]
    how = "published training parts"
    if has_zero_shot_split(root, layout):
        validation_part, how = "val", "zero-shot split"
    dataset = layouts.read_dataset(root, layout, train_part, partition)
    train = _decode(dataset, image, cache / f"{root.name}-{train_part}.npy", progress)
    if validation_part is not None:
        dataset = layouts.read_dataset(root, layout, validation_part, partition)
        path = cache / f"{root.name}-{validation_part}.npy"
        return Split(train, _decode(dataset, image, path, progress), how)
    return hold_out(train, task.validation_share, seed)


def _detect_layout(root: Path) -> str:
    # a training set of the form of Market-1501 may have no test part
    if (root / "bounding_box_train").is_dir():
        has_attributes = (root / "market_attribute.mat").is_file()
        return "market-attributes" if has_attributes else "market1501"
    return layouts.detect_layout(root)


def hold_out(examples: Examples, share: float, seed: int) -> Split:
    """Split examples by identity, or by image where identities are unknown.

    Args:
        examples: All of them.
        share: Share of the identities (or images) that validate.
        seed: Seed of the choice.

    Raises:
        TrainingError: A part would be empty.
    """
    identities = examples.identities
    is_known = bool((identities != UNKNOWN).all())
    units = identities if is_known else np.arange(len(examples))
    names = np.unique(units)
    count = round(share * len(names))
    if not 0 < count < len(names):
        what = "identities" if is_known else "images"
        raise TrainingError(
            f"{examples.name}: {len(names)} {what}, of which {share:.0%} would "
            f"validate; both parts need at least one. Add data, or change "
            "tasks.validation_share"
        )
    chosen = np.random.default_rng(seed).permutation(names)[:count]
    is_validation = np.isin(units, chosen)
    parts = [
        replace(examples.select(np.flatnonzero(mask)), name=f"{examples.name}, {part}")
        for mask, part in ((~is_validation, "train"), (is_validation, "held out"))
    ]
    how = f"{count} of {len(names)} {'identities' if is_known else 'images'} held out"
    return Split(parts[0], parts[1], how + ("" if is_known else " (unknown people)"))


def _decode(dataset: Dataset, image: Image, path: Path, progress: Progress) -> Examples:
    if isinstance(dataset, ImagePairs):
        raise TypeError("pairs are read by _read_families")
    crops, readable, unreadable = decode_images(
        dataset.root, dataset.files, image, path, progress
    )
    rows = np.flatnonzero(readable)
    count = len(dataset.files)
    unknown = np.full(count, UNKNOWN, np.int64)
    name = f"{dataset.root.name}, {dataset.facts['part']}"
    if isinstance(dataset, RetrievalImages):
        all_examples = Examples(
            name,
            dataset.root,
            dataset.files,
            crops,
            unknown,
            dataset.identities,
            dataset.cameras,
        )
    else:
        identities, cameras = _find_people(dataset)
        all_examples = Examples(
            name,
            dataset.root,
            dataset.files,
            crops,
            dataset.labels,
            identities,
            cameras,
            dataset.names,
            dataset.groups,
        )
    if len(rows) < count:
        all_examples = replace(all_examples.select(rows), unreadable=unreadable)
    return all_examples


def _find_people(dataset: LabelledImages) -> tuple[IntArray, IntArray]:
    """Return person and camera of each image where names or columns tell them."""
    count = len(dataset.files)
    if dataset.facts["layout"] == "market-attributes":
        both = np.array([parse_name(file) for file in dataset.files], np.int64)
        return both[:, 0], both[:, 1]
    column = dataset.groups.get(IDENTITY_COLUMN)
    cameras = np.arange(count)
    if column is not None and dataset.facts["partition"] == PARTITION:
        # numbers of the file, which are the same in all parts
        people = [int(person) if person else UNKNOWN for person in column]
        return np.array(people, np.int64), cameras
    if column is None or "" in column:
        return np.full(count, UNKNOWN, np.int64), cameras
    return np.unique(column, return_inverse=True)[1].astype(np.int64), cameras


def decode_images(
    root: Path,
    files: Sequence[str],
    image: Image,
    path: Path,
    progress: Progress = no_progress,
) -> tuple[Pixels, npt.NDArray[np.bool_], tuple[str, ...]]:
    """Decode images as crops of a model's input, into a memory-mapped file.

    Args:
        root: Folder of the data set.
        files: Image files, relative to `root`.
        image: The model's input.
        path: The .npy file to write.
        progress: Callback for the current work.

    Returns:
        Crops UINT8 [N, H, W, 3], which of them are readable, BOOL [N], and messages
        about the others.

    Raises:
        TrainingError: More than MAX_UNREADABLE of the images cannot be decoded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(files), image.height, image.width, 3)
    crops = np.lib.format.open_memmap(path, "w+", np.dtype("u1"), shape)
    readable = np.ones(len(files), np.bool_)
    messages = []

    def read(row: int) -> str:
        try:
            crops[row] = read_crop(root / files[row], image.crop_shape)
        except UnreadableImageError as exc:
            return str(exc)
        return ""

    with ThreadPoolExecutor() as pool:
        for row, message in enumerate(pool.map(read, range(len(files)))):
            if message:
                readable[row] = False
                messages.append(message)
            progress(f"decoding {root.name}", row + 1, len(files))
    if len(messages) > MAX_UNREADABLE * len(files):
        raise TrainingError(
            f"{len(messages)} of {len(files)} images cannot be read; the first: "
            f"{messages[0]}"
        )
    return crops, readable, tuple(messages)


def _read_families(image: Image, root: Path, cache: Path, progress: Progress) -> Split:
    members, relations = read_families(root, held_out=False)
    names = sorted(members)
    files = tuple(file for name in names for file in members[name])
    member = np.repeat(np.arange(len(names)), [len(members[name]) for name in names])
    families = np.unique(
        [name.partition("/")[0] for name in names], return_inverse=True
    )[1].astype(np.int64)
    index = {name: number for number, name in enumerate(names)}
    pairs = np.array([[index[m] for m in pair] for pair in relations], np.int64)
    crops, readable, messages = decode_images(
        root, files, image, cache / "families.npy", progress
    )
    if not readable.all():
        raise TrainingError(f"{messages[0]}; remove the file and its name")
    train = Examples(
        f"{root.name}, families of training",
        root,
        files,
        crops,
        labels=np.full(len(files), UNKNOWN, np.int64),
        identities=families[member],
        cameras=np.arange(len(files)),
        members=member.astype(np.int64),
        pairs=pairs.reshape(-1, 2),
    )
    return Split(train, _read_pairs(image, root, cache, progress), "held-out families")


def _read_pairs(image: Image, root: Path, cache: Path, progress: Progress) -> Examples:
    dataset = layouts.read_dataset(root, "fiw", "val")
    if not isinstance(dataset, ImagePairs):
        raise TypeError("the layout fiw has pairs")
    files = tuple(sorted({file for item in dataset.items for file in item}))
    index = {file: row for row, file in enumerate(files)}
    crops, readable, messages = decode_images(
        root, files, image, cache / "held-out-families.npy", progress
    )
    if not readable.all():
        raise TrainingError(f"{messages[0]}; remove the file and its name")
    families = [Path(file).parts[1] for file in files]
    return Examples(
        f"{root.name}, held-out families",
        root,
        files,
        crops,
        labels=np.full(len(files), UNKNOWN, np.int64),
        # negative, so that they are none of the families of training
        identities=-2 - np.unique(families, return_inverse=True)[1].astype(np.int64),
        cameras=np.arange(len(files)),
        pairs=np.array([[index[f] for f in item] for item in dataset.items], np.int64),
        related=dataset.related,
    )
