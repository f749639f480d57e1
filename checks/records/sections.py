"""Base classes and types of all sections of params.yaml: strict and frozen.

A validator's message is "problem|remedy". No field has a default that would change a result: what is not written in the
file is either refused or off (``null``), so that a change of a class never changes what a stage computes.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field

from checks.records.record import Consistent
from checks.records.record import problems as problems

# Which way a bound asks for more; "fewer" and "more" are of lists, a "section" is compared by its own fields.
Way = Literal["higher", "lower", "fewer", "more", "section"]


class Stricter(NamedTuple):
    """Metadata of a field: the direction in which it is stricter."""

    way: Way


def stricter(way: Way) -> Stricter:
    """For Annotated: the direction in which a field is stricter. A field without it can only change, which needs
    approval.

    A bound that becomes null is removed, one that was null is added.
    """
    return Stricter(way)


Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Bound = Annotated[float | None, Field(gt=0)]  # None: there is none
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)]


class Section(Consistent):
    """A section of params.yaml: strict types, frozen, no unknown keys. A contradiction is written "problem|remedy"."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True
    )


class Agreement(Section):
    """How closely two models must agree on the reference tokens of real prompts."""

    max_logprob_diff: Annotated[
        float,
        Field(gt=0, description="largest difference of a token's log-probability, nats"),
        stricter("lower"),
    ]
    min_top1: Annotated[
        float,
        Field(gt=0, le=1, description="share of positions with the same most likely token"),
        stricter("higher"),
    ]


class Source(Section):
    """A source, the digest that pins it, and its licence."""

    uri: Annotated[
        str,
        Field(
            min_length=1,
            description="address: pypi://, hf://, mlflow://, s3://, gs://, https:// or a local path; join:// and the "
            "addresses of a file's parts; for data sql://, delta:// and iceberg:// too",
        ),
    ]
    sha256: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9a-f]{64}$",
            description="SHA-256 of the file the URI names (for pypi:// the wheel, for join:// the joined file, for "
            "sql://, delta:// and iceberg:// the rows as JSON lines), or of the directory's manifest",
        ),
    ]
    license: Annotated[
        str | None,
        Field(
            min_length=1,
            description="SPDX identifier, or a name in docs/reference/licenses.md; null: unknown, no release",
        ),
    ]


class Log(Source):
    """A pinned file with scores or judgements."""

    license: Annotated[
        str | None,
        Field(
            min_length=1,
            description="SPDX identifier; null: not known. It is recorded; no gate asks it",
        ),
    ]


def sources_in(value: object, path: str = "") -> dict[str, Source]:
    """Return each source among the values of a section, and of the sections in it, by the path of its parameter."""
    if isinstance(value, Source):
        return {path: value}
    parts = (
        value.items() if isinstance(value, dict) else value if isinstance(value, Section) else ()
    )
    of_parts = [sources_in(part, f"{path}.{name}".lstrip(".")) for name, part in parts]
    return {place: source for sources in of_parts for place, source in sources.items()}


def directions(section: type[Section]) -> dict[str, Way]:
    """Return the fields of ``section`` with the direction in which each is stricter."""
    return {
        name: mark.way
        for name, field in section.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Stricter)
    }
