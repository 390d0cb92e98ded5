"""People as dicts for JSON, and as flat rows for tables and CSV files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personserve._errors import InvalidInputError
from personserve._results.person import dict_from_person, values_from_outputs
from personserve._results.roles import EMBEDDING_ROLE

if TYPE_CHECKING:
    from personserve._results.people import People

RECORD_COLUMNS = {
    "person": "int64",
    **dict.fromkeys(("x0", "y0", "x1", "y1"), "float64"),
    "gender": "object",
    **dict.fromkeys(("gender_probability", "female_probability"), "float64"),
    "abstained": "bool",
    "stand_in_weights": "object",
}
"""Columns of tables of people, and their pandas types, which hold for no people, too.
The names of models with untrained weights are joined by commas. Without a gender its
columns are empty, and `abstained` is false."""


def columns_of_people(people: People, *, embeddings: bool) -> dict[str, str]:
    """Return the columns of people's records, and their pandas types.

    Args:
        people: The people.
        embeddings: See People.to_records.

    Returns:
        RECORD_COLUMNS and a column for each further output, by role.
    """
    columns = dict(RECORD_COLUMNS)
    for name, values in people.outputs.items():
        if name not in columns and (embeddings or values.shape[1:] == (1,)):
            columns[name] = "float64" if values.shape[1:] == (1,) else "object"
    return columns


def dict_from_people(people: People, *, embeddings: bool) -> dict[str, Any]:
    """Implement People.to_dict.

    Args:
        people: The people.
        embeddings: See People.to_dict.

    Returns:
        The dict.
    """
    values: dict[str, Any] = {
        "people": [dict_from_person(each, embedding=embeddings) for each in people],
        "stand_in_weights": list(people.stand_in_weights),
    }
    sources = {EMBEDDING_ROLE: people.source} | {
        name: role.source
        for name, role in people.roles.items()
        if role.kind == "embedding"
    }
    for name, source in sources.items():
        if source is not None:
            values[f"{name}_source"] = {
                "model": source.model,
                "weights": source.weights,
            }
    return values


def records_from_people(people: People, *, embeddings: bool) -> list[dict[str, Any]]:
    """Implement People.to_records.

    Args:
        people: The people.
        embeddings: See People.to_records.

    Returns:
        The rows.
    """
    stand_ins = ",".join(people.stand_in_weights)
    records = []
    for index, person in enumerate(people):
        answers: tuple[Any, ...] = (None, None, None, False)
        if (gender := person.gender) is not None:
            answers = (
                *(gender.label, gender.probability, gender.female_probability),
                gender.abstained,
            )
        values = (index, *(person.box or (None,) * 4), *answers, stand_ins)
        record: dict[str, Any] = dict(zip(RECORD_COLUMNS, values, strict=True))
        outputs = {name: rows[index] for name, rows in people.outputs.items()}
        if person.embedding is not None:
            outputs[people.embedding_role] = person.embedding
        record |= values_from_outputs(outputs, vectors=embeddings)
        records.append(record)
    return records


def table_from_people(people: People, *, embeddings: bool) -> Any:
    """Implement People.to_pandas.

    Args:
        people: The people.
        embeddings: See People.to_pandas.

    Returns:
        A pandas.DataFrame.

    Raises:
        InvalidInputError: If pandas is not installed.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped, unused-ignore]
    except ImportError as exc:
        raise InvalidInputError("to_pandas needs pandas: pip install pandas") from exc
    columns = columns_of_people(people, embeddings=embeddings)
    records = records_from_people(people, embeddings=embeddings)
    table = pd.DataFrame.from_records(records, columns=list(columns))
    return table.astype(columns)
