"""Synthetic people: identity by clothes, gender by one colour, families of faces."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from builders.spec.catalogue import models
from builders.spec.model import Model
from builders.training.examples import Examples, Split
from builders.training.recipes import (
    Augmentation,
    Length,
    Recipe,
    Schedule,
    read_recipe,
)

UNKNOWN = -1


def small_model(name: str, height: int = 64, width: int = 32) -> Model:
    """Return a model at a size that trains in seconds; its layers are the same."""
    (model,) = models([name])
    images = tuple(replace(i, height=height, width=width) for i in model.images)
    return replace(model, images=images)


def draw_person(rng: np.random.Generator, seed: int, *, is_female: bool) -> np.ndarray:
    """Return an RGB crop: clothes by the seed, a bag whose colour is the gender's."""
    clothes = np.random.default_rng(seed).integers(0, 256, (6, 3, 3), np.uint8)
    crop = cv2.resize(clothes, (32, 64), interpolation=cv2.INTER_CUBIC).astype(float)
    crop = np.roll(crop, rng.integers(-3, 4), axis=0) + rng.normal(0, 10, crop.shape)
    crop[30:50, 8:24] = (220, 40, 40) if is_female else (40, 60, 220)
    return np.clip(crop + rng.normal(0, 8), 0, 255).astype(np.uint8)


def people(count: int, images: int, model: Model, first: int = 0) -> Examples:
    """Return examples of people, every second one female, each image its own camera."""
    rng = np.random.default_rng(first)
    numbers = np.repeat(np.arange(first, first + count), images)
    image = model.images[0]
    size = (image.width, image.height)
    crops = [draw_person(rng, n, is_female=bool(n % 2)) for n in numbers.tolist()]
    total = len(numbers)
    return Examples(
        f"people {first}",
        Path(),
        tuple(f"{n}-{i}" for i, n in enumerate(numbers)),
        np.stack([cv2.resize(crop, size) for crop in crops]),
        labels=numbers % 2,
        identities=numbers,
        cameras=np.arange(total),
        names=("male", "female"),
    )


def split_of_people(model: Model, count: int = 8, images: int = 4) -> Split:
    """Return people to learn and other people to validate."""
    train = people(count, images, model)
    return Split(train, people(4, images, model, first=1000), "synthetic")


def split_of_families(model: Model) -> Split:
    """Return faces of families: both members have the same colours."""

    def faces(first: int) -> Examples:
        members = np.repeat(np.arange(8), 3)
        families = first + members // 2
        rng = np.random.default_rng(first)
        size = (model.images[0].width, model.images[0].height)
        crops = [
            cv2.resize(draw_person(rng, int(f), is_female=False), size)
            for f in families
        ]
        pairs = np.array([[2 * f, 2 * f + 1] for f in range(4)])
        rows = np.array([[6 * f, 6 * f + 3] for f in range(4)])
        strangers = np.array([[6 * f, (6 * f + 9) % 24] for f in range(4)])
        is_training = first == 0
        return Examples(
            f"families {first}",
            Path(),
            tuple(map(str, range(24))),
            np.stack(crops),
            labels=np.full(24, UNKNOWN),
            identities=families,
            cameras=np.arange(24),
            members=members,
            pairs=pairs if is_training else np.concatenate((rows, strangers)),
            related=np.repeat([1, 0], 4),
        )

    return Split(faces(0), faces(100), "synthetic families")


def quick_recipe(name: str, *, batch: int, rate: float, epochs: int) -> Recipe:
    """Return a recipe without augmentation, warm-up and frozen layers."""
    recipe = read_recipe(name)
    tasks = tuple(replace(task, batch=batch) for task in recipe.tasks)
    return replace(
        recipe,
        tasks=tasks,
        optimiser=replace(
            recipe.optimiser, learning_rate=rate, average_decay=0.0, weight_decay=0.0
        ),
        schedule=Schedule(),
        length=Length(max_epochs=epochs),
        augmentation=Augmentation(flip=0.0),
        freezing=replace(recipe.freezing, at_first=(), steps=0),
    )


def write_gender_folder(root: Path, count: int = 24, images: int = 6) -> Path:
    """Write male/, female/ and groups.csv of synthetic people; return the folder."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        name = ("male", "female")[number % 2]
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            crop = draw_person(rng, number, is_female=bool(number % 2))
            file = f"{name}/{number:03}_{index}.png"
            cv2.imwrite(str(root / file), crop[..., ::-1])
            rows.append((file, f"person {number}"))
    with (root / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "identity"), *rows])
    return root
