"""The section ``data`` of params.yaml: one source, and further ones that train and test the model with it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from checks.formats.data_reports import MAIN_SOURCE
from checks.kinds.loader import LOADERS, Loader
from checks.kinds.rule import RULES, RuleName
from checks.records.sections import Fraction, Name, Section, Source, problems


class ContractFile(Section):
    """A data contract in a file of this repository: the Open Data Contract Standard, in YAML."""

    file: Annotated[str, Field(min_length=1, description="path from the repository's root")]
    sha256: Annotated[
        str | None, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file")
    ]


Contract = Annotated[
    ContractFile | None,
    Field(
        description="what the data's owner says of the columns of a loader table; prepare holds the raw rows to it"
    ),
]


class FurtherSource(Source):
    """A source beside the one of ``data.uri``, with a loader of its own."""

    loader: Annotated[Loader, LOADERS, Field(description="how its raw data becomes rows")]
    skip_rules: Annotated[
        tuple[RuleName, ...],
        Field(
            strict=False,
            description="rules that do not apply to its rows, though prepare.rules names them",
        ),
    ] = ()
    splits: Annotated[
        Annotated[
            tuple[Literal["train", "test"], ...], Field(strict=False, min_length=1, max_length=1)
        ]
        | None,
        Field(
            description="[train]: its rows are for training alone, never for validation or test; [test]: they are the "
            "whole test split; null: all splits"
        ),
    ] = None
    share: Annotated[
        Fraction | None,
        Field(
            description="share of the train rows that are its rows; drawn by a hash of their ids. null: all its rows"
        ),
    ] = None
    contract: Contract = None
    review: Annotated[
        str | None,
        Field(
            pattern=r"^labels/harvest/[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\.json$",
            description="review of harvested rows, which a signer with the role harvest signed; null: they are no "
            "requests of users",
        ),
    ] = None

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        kind, shared, only_test = self.loader.kind, self.share is not None, self.splits == ("test",)
        tests, written = self.splits != ("train",), "[test]" if only_test else "null"
        return problems(
            (
                self.review is not None and self.splits is None,
                "splits: null, but harvested rows are for one split|write [train] or [test], as their review says",
            ),
            (
                self.loader.planted and tests,
                f"splits: {written}, but the rows of loader {kind} are for training only|write [train]",
            ),
            (
                only_test and shared,
                "share: counts train rows, and its rows are for testing|remove it",
            ),
            (
                self.loader.planted and shared,
                f"share: would drop rows that loader {kind} plants|remove it",
            ),
            (
                self.loader.of_documents and tests,
                (
                    f"splits: {written}, but documents are for training only: they ask nothing that could be tested|"
                    "write [train]"
                ),
            ),
            (
                self.loader.of_documents and shared,
                "share: counts rows of the task, and documents are none|remove it",
            ),
        )


class Data(Source):
    """The rows: a source, the digest that pins it, its licence, and further sources by name."""

    sources: Annotated[
        dict[Name, FurtherSource] | None,
        Field(
            min_length=1,
            description="further sources by name; the rows of each have this name as their slice",
        ),
    ] = None
    contract: Contract = None

    @property
    def pinned(self) -> dict[str, Source]:
        """Every source by its place in params.yaml: ``data``, then ``data.sources.NAME``."""
        return {
            "data": self,
            **{f"data.sources.{name}": source for name, source in (self.sources or {}).items()},
        }

    @property
    def documents(self) -> tuple[str, ...]:
        """Return the names of the sources whose rows are documents."""
        return tuple(
            name for name, source in (self.sources or {}).items() if source.loader.of_documents
        )

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        sources = self.sources or {}
        total = sum(source.share or 0 for source in sources.values())
        tests = [name for name, source in sources.items() if source.splits == ("test",)]
        return problems(
            (
                MAIN_SOURCE in sources,
                f"sources.{MAIN_SOURCE}: this name means the source of data.uri|choose another name",
            ),
            (
                len(tests) > 1,
                f"sources: {' and '.join(tests)} would each be the whole test split|leave [test] to one of them",
            ),
            (
                total >= 1,
                f"sources: their shares add up to {total:g}|leave rows to the sources without a share: a sum below 1",
            ),
        )


class Part(NamedTuple):
    """A source as prepare reads it. ``origin``: its name in data.sources; empty for data.uri."""

    origin: str
    folder: Path  # below data/raw
    loader: Loader
    skip_rules: frozenset[str]
    split: str | None  # the only split that its rows are for; None: all
    share: float | None
    contract: ContractFile | None = None

    @property
    def section(self) -> str:
        """Its place in params.yaml."""
        return f"data.sources.{self.origin}" if self.origin else "data"

    def skips(self, rule: str) -> bool:
        """Return whether the rule of this name is not applied to its rows."""
        if self.loader.of_documents and not RULES.kinds[rule].of_documents:
            return True
        return self.loader.planted or rule in self.skip_rules


def parts(data: Data, loader: Loader) -> tuple[Part, ...]:
    """Return the sources in one order: data.uri with ``loader``, then the others by name."""
    sources: Mapping[str, FurtherSource] = data.sources or {}
    first = Part(
        "", Path(MAIN_SOURCE if sources else "."), loader, frozenset(), None, None, data.contract
    )
    return (
        first,
        *(
            Part(
                name,
                Path(name),
                source_parts.loader,
                frozenset(source_parts.skip_rules),
                source_parts.splits[0] if source_parts.splits else None,
                source_parts.share,
                source_parts.contract,
            )
            for name, source_parts in sorted(sources.items())
        ),
    )
