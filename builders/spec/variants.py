"""Variants of a model: networks that its checkpoints cannot tell apart.

Two networks can have the same names and shapes of weights, and give other answers: a
max pool with or without padding, crops of another size, another filter for resizing.
A model declares each such difference as a `Choice` of options, the first of which is
the declared one. A variant takes one option of each choice; its name joins the options
that are not the declared ones, for example "padded-256x128".

A `Sign` is a name in a checkpoint that suggests another option than the declared one.
A build stops at a sign until the user has chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from builders.errors import BuildersError
from builders.tensors import Interpolation, require, require_name

if TYPE_CHECKING:
    from builders.spec.model import Model

DEFAULT_VARIANT = "default"
"""Name of the variant that is declared: the first option of each choice."""

SEPARATOR = "-"
"""Separator of options in the name of a variant; no option's name has one."""


class VariantError(BuildersError, ValueError):
    """A variant that a model does not have, or that has to be chosen first."""


@dataclass(frozen=True)
class Option:
    """One option of a choice.

    Attributes:
        name: Name for --variant: lower-case letters, digits and underscores.
        use: Which checkpoints it is for.
        change: Returns a model with this option; None for the declared option.
    """

    name: str
    use: str
    change: Callable[[Model], Model] | None = None

    def apply(self, model: Model) -> Model:
        """Return a model with this option.

        Args:
            model: The model.
        """
        return model if self.change is None else self.change(model)


@dataclass(frozen=True)
class Choice:
    """A difference between networks that the names and shapes of weights do not show.

    Attributes:
        name: What is chosen, for example "stem_pool".
        options: The options; the first is the declared one.
    """

    name: str
    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        require_name(self.name, "choice")
        require(
            len(self.options) > 1 and self.options[0].change is None,
            f"choice {self.name}: expected two options or more, the first of them "
            "without a change, because it is what the model declares",
        )


@dataclass(frozen=True)
class Sign:
    """Names in a checkpoint that suggest another option than the declared one.

    Attributes:
        keys: Patterns (fnmatch) of names in the file.
        option: The option that they suggest.
        reason: What the names say about the file, with its source and dates.
    """

    keys: tuple[str, ...]
    option: str
    reason: str

    def first_match(self, names: Iterable[str]) -> str | None:
        """Return the first name that is a sign, or None.

        Args:
            names: Names in a checkpoint.
        """
        patterns = self.keys
        matches = (n for n in names if any(fnmatchcase(n, p) for p in patterns))
        return next(matches, None)


def check_choices(choices: tuple[Choice, ...], signs: tuple[Sign, ...]) -> None:
    """Require that options can be told apart by name, and that signs suggest them.

    Args:
        choices: Choices of a model.
        signs: Signs of a model.

    Raises:
        SpecError: Two options share a name, or a sign suggests an unknown one.
    """
    names = [option.name for choice in choices for option in choice.options]
    require(
        len({*names, DEFAULT_VARIANT}) == len(names) + 1
        and all(name.replace("_", "").isalnum() and name.islower() for name in names),
        f"options {names}: expected different names of lower-case letters, digits and "
        f"underscores, none of them {DEFAULT_VARIANT!r}",
    )
    unknown = sorted({sign.option for sign in signs} - set(names))
    require(not unknown, f"signs suggest {unknown}, and the options are {names}")


def parse_variant(model: Model, text: str) -> tuple[Option, ...]:
    """Return the options that a text names, in the order of the model's choices.

    Args:
        model: The model.
        text: Names of options, separated by "-" or ","; "default" adds none.

    Raises:
        VariantError: The model has no such option, or the text names two options of
            one choice.
    """
    names = [name for name in text.replace(",", SEPARATOR).split(SEPARATOR) if name]
    known = [o.name for choice in model.choices for o in choice.options]
    for name in names:
        if name not in {*known, DEFAULT_VARIANT}:
            raise VariantError(
                f"{model.name} has no variant {name!r}; "
                + (f"it has {describe_choices(model)}" if known else "it has none")
            )
    options = []
    for choice in model.choices:
        chosen = [option for option in choice.options if option.name in names]
        if len(chosen) > 1:
            raise VariantError(
                f"{text}: expected one option of {choice.name}, got "
                f"{' and '.join(option.name for option in chosen)}"
            )
        options += chosen
    return tuple(options)


def describe_choices(model: Model) -> str:
    """Return the choices of a model with their options, the declared ones first.

    Args:
        model: The model.
    """
    return "; ".join(
        f"{choice.name}: "
        + ", ".join(f"{option.name} ({option.use})" for option in choice.options)
        for choice in model.choices
    )


def find_signs(model: Model, names: Iterable[str]) -> tuple[Sign, ...]:
    """Return the signs of other options than the declared ones in a checkpoint.

    Args:
        model: The model.
        names: Names in the checkpoint.
    """
    names = list(names)
    return tuple(s for s in model.signs if s.first_match(names) is not None)


def require_chosen(model: Model, variant: str, names: Iterable[str], file: str) -> None:
    """Raise VariantError if a checkpoint has a sign and its choice was not made.

    Args:
        model: The model.
        variant: The user's choice, "" for none. Naming the declared option counts.
        names: Names in the checkpoint.
        file: Name or path of the checkpoint, for the message.

    Raises:
        VariantError: It says what the sign means, and how to choose.
    """
    chosen = {option.name for option in parse_variant(model, variant)}
    names = list(names)
    for sign in model.signs:
        choice = choice_of(model, sign.option)
        match = sign.first_match(names)
        if match is None or chosen & {option.name for option in choice.options}:
            continue
        declared = choice.options[0]
        raise VariantError(
            f"{file} does not say which {choice.name} of {model.name} it was trained "
            f"with, and the wrong one gives wrong answers without an error. It has "
            f"{match}: {sign.reason}. Choose with --variant: "
            + ", ".join(f"{o.name} ({o.use})" for o in choice.options)
            + f". Its names suggest {sign.option}; the declared one is "
            f"{declared.name}. To find out, compare them on your own crops: python -m "
            f"builders compare-variants {model.name} {file} CROPS; or build each and "
            "evaluate it on a labelled data set: python -m builders evaluate "
            f"{model.name} DATA"
        )


def choice_of(model: Model, option: str) -> Choice:
    """Return the choice that an option belongs to.

    Args:
        model: The model.
        option: Name of one of its options.
    """
    return next(c for c in model.choices if option in {o.name for o in c.options})


def size_choice(*sizes_hw: tuple[int, int], use: str) -> Choice:
    """Return the choice between sizes of all crops.

    Args:
        sizes_hw: Heights and widths in pixels; the first is the declared one.
        use: Which checkpoints the sizes are for.
    """
    options = [Option(f"{height}x{width}", use) for height, width in sizes_hw]
    for number, (height, width) in enumerate(sizes_hw[1:], start=1):
        change = _image_change(height=height, width=width)
        options[number] = replace(options[number], change=change)
    return Choice("size", tuple(options))


def interpolation_choice(
    declared: Interpolation, *others: Interpolation, use: str
) -> Choice:
    """Return the choice between interpolations for the resizing of crops.

    Args:
        declared: The declared interpolation.
        others: The others.
        use: What the others are for.
    """
    first = Option(declared, "the declared one")
    options = [Option(o, use, _image_change(interpolation=o)) for o in others]
    return Choice("interpolation", (first, *options))


def _image_change(**values: object) -> Callable[[Model], Model]:
    """Return a change of the same attributes in all images of a model."""

    def change(model: Model) -> Model:
        images = tuple(replace(image, **values) for image in model.images)  # type: ignore[arg-type]
        return replace(model, images=images)

    return change
