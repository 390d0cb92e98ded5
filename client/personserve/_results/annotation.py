"""Annotated frames."""

from __future__ import annotations

from collections.abc import Sequence

from personserve._errors import InvalidInputError
from personserve._results.people import People
from personserve._results.person import Person
from personserve.images.crops import Pixels
from personserve.images.drawing import Colour, LabelledBox, draw_labelled_boxes
from personserve.images.inputs import ImageInput, read_pixels

COLOURS = ((200, 120, 20), (113, 70, 230))
"""BGR colours of a female probability of 0 and of 1, interpolated in between."""

UNDECIDED_COLOUR = (90, 90, 90)
"""BGR colour of people whose gender is abstained, or not answered by the model."""

STAND_IN_NOTE = "stand-in weights: untrained, the results are meaningless"


def annotate(
    frame: ImageInput, people: People, labels: Sequence[str] | None = None
) -> Pixels:
    """Draw people into a copy of their frame: each box, and its label.

    Labels cover no other label. They have no numbers, because a number would look like
    an identity; to show identities, pass a tracker's ids as `labels`. If the results
    come from untrained weights, the image says so.

    Args:
        frame: The frame; see `ImageInput` for the accepted types.
        people: People with boxes in the frame's pixels.
        labels: Text of each person in ASCII; None for people.labels(), such as
            "female 0.91".

    Returns:
        The annotated copy, UINT8 [H, W, 3] in BGR order.

    Raises:
        InvalidInputError: If the frame is invalid, if a person has no box, or if the
            number of labels is not that of the people.
    """
    image = read_pixels(frame, "frame").copy()
    texts = people.labels() if labels is None else list(labels)
    if len(texts) != len(people):
        raise InvalidInputError(
            f"annotate: expected {len(people)} labels, one for each person, got "
            f"{len(texts)}"
        )
    boxes = []
    for index, (person, text) in enumerate(zip(people, texts, strict=True)):
        if person.box is None:
            raise InvalidInputError(
                f"annotate: person {index} has no box; people of crops cannot be drawn "
                "into a frame"
            )
        boxes.append(LabelledBox(person.box, text, blend_colour(person)))
    note = STAND_IN_NOTE if people.stand_in_weights else ""
    draw_labelled_boxes(image, boxes, note)
    return image


def blend_colour(person: Person) -> Colour:
    """Return the colour in which a person is drawn, by gender.

    Args:
        person: The person.

    Returns:
        Blue, green and red, 0 to 255.
    """
    if person.gender is None or person.gender.abstained:
        return UNDECIDED_COLOUR
    share = person.gender.female_probability
    blue, green, red = (
        round(a + share * (b - a)) for a, b in zip(*COLOURS, strict=True)
    )
    return blue, green, red
