"""license: base, all data and adapter may be shipped together, by the table in ``checks.data.licenses``
(docs/reference/licenses.md).

Whether a model's weights derive from the data they were trained on is disputed. This gate takes the cautious reading,
that they do: a share-alike licence of the data binds the adapter as one of the base does.
"""

from collections.abc import Container, Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from checks.data import licenses
from checks.data.licenses import License
from checks.formats.report import Fetched
from checks.formats.verdict import Finding, Verdict
from checks.kinds.gate import Case, Explained, GateKind, Reads
from checks.records.sections import Strings, problems, stricter
from checks.storage import layout

_DRAFT = "merge.draft"


class LicenseGate(GateKind):
    """Base, data and adapter may be shipped together."""

    reads: ClassVar[Reads] = "no rows"
    rank: ClassVar[int] = 80

    kind: Literal["license"]
    allow: Annotated[
        Strings,
        Field(min_length=1, description="SPDX identifiers, or the table's own names"),
        stricter("fewer"),
    ]
    adapter: Annotated[
        str, Field(description="the licence that the fine-tuned weights are shipped under")
    ]
    commercial: Annotated[
        bool, Field(description="whether the model is used commercially"), stricter("higher")
    ]

    def check(self, case: Case) -> Finding:
        """Pass when all licences are known, allowed and compatible, and the sources do not say otherwise."""
        report = case.evidence.need(case.evidence.reports.fetch, layout.FETCH_REPORT)
        fetched = {"base": report.base, "data": report.data}
        fetched |= {f"data.sources.{name}": source for name, source in report.sources.items()}
        sources = case.params.licenses
        stated = {**sources, "adapter": self.adapter}
        train = case.evidence.reports.train
        before = train.start.licenses if train and train.start else {}
        stated |= before
        parity = case.evidence.reports.parity
        # The draft's licence is the one that params.yaml stated when merge ran; another licence runs merge again.
        if parity and parity.draft:
            stated[_DRAFT] = parity.draft.license
        rows = {part: licenses.find(value) if value else None for part, value in stated.items()}
        known = {part: row for part, row in rows.items() if row}
        problems = [
            *(
                problem
                for part, row in rows.items()
                if not row
                for problem in _unknown(_place(case.name, part, before), stated[part])
            ),
            *(
                problem
                for part in sources
                for problem in _source_problems(part, stated[part], fetched.get(part))
            ),
            *(
                _source_problems(_DRAFT, stated[_DRAFT], parity.draft)
                if parity and parity.draft
                else ()
            ),
            *_not_allowed(known, self.allow),
            *_not_compatible(known, commercial=self.commercial),
        ]
        shown = ", ".join(f"{part} {row.name}" for part, row in known.items())
        duties = "; ".join(f"{part}: {row.duties}" for part, row in known.items())
        use = "commercial use" if self.commercial else "use that is not commercial"
        return Finding(
            gate=case.name,
            kind=self.kind,
            status="fail" if problems else "pass",
            reason="; ".join(problems)
            or f"{shown}: may be shipped together for {use}. Duties: {duties}",
        )

    def explain(self, place: str, finding: Finding, verdict: Verdict) -> Explained:
        """Which licences are allowed, and for which use."""
        use = "used commercially" if self.commercial else "used, though not commercially"
        return Explained(
            f"may base, data and an adapter under {self.adapter} be shipped together and {use}, each under one of "
            f"{', '.join(self.allow)}?",
            "by rule: each is known, allowed and compatible with the others, and no source says otherwise",
            f"another base or other data, or what {place} says of adapter, allow and commercial",
            f"{layout.FETCH_REPORT}, docs/reference/licenses.md",
        )


def _place(name: str, part: str, before: Container[str]) -> str:
    """Return where a licence is stated. ``before``: the parts that training started with."""
    if part in before:
        return f"{layout.TRAIN_REPORT}: {part}"
    place = f"gates.{name}.adapter" if part == "adapter" else f"{part}.license"
    return f"{layout.PARAMS}: {place}"


def _unknown(place: str, stated: str | None) -> Iterator[str]:
    if stated is None:
        yield f"{place}: no licence is stated"
    else:
        meant = " or ".join(sorted(licenses.read(stated)))
        yield (
            f"{place}: {stated!r} is not in the table of docs/reference/licenses.md"
            + (f", which has {meant}" if meant else f"; what is your own is {licenses.OWN}")
        )


def _source_problems(part: str, stated: str | None, fetched: Fetched | None) -> Iterator[str]:
    """Where the fetched source is about another statement, or speaks against it."""
    place = f"{layout.PARAMS}: {part}.license"
    if fetched is None:
        yield f"{layout.FETCH_REPORT}: {part} was not fetched: run `./lockstep run fetch`"
        return
    row = licenses.find(stated) if stated else None
    declared = fetched.declared or ""
    names = licenses.read(declared)
    is_named = not licenses.says_nothing(declared)
    yield from problems(
        (
            fetched.license != stated,
            (
                f"{layout.FETCH_REPORT}: {part} was fetched when {place} was {fetched.license or 'null'}, "
                f"it is {stated or 'null'}: run `./lockstep run fetch`"
            ),
        ),
        (
            is_named and (row is None or row.name not in names),
            f"{place} is {stated or 'null'}, but the {part} declares {declared!r}",
        ),
    )


def _not_allowed(known: dict[str, License], allow: Sequence[str]) -> Iterator[str]:
    allowed = {name.strip().casefold() for name in allow}
    return (
        f"{part}: {row.name} is not allowed (allowed: {', '.join(allow)})"
        for part, row in known.items()
        if row.name.casefold() not in allowed
    )


def _not_compatible(known: dict[str, License], *, commercial: bool) -> Iterator[str]:
    adapter = known.get("adapter")
    for part, row in known.items():
        if commercial and not row.commercial:
            yield f"{part}: {row.name} does not permit commercial use"
        if part == "adapter":
            continue
        reading = "" if part == "base" else ", if weights derive from their data, which is disputed"
        if row.derivatives == ():
            yield f"{part}: {row.name} permits no derivative to be shared{reading}"
        elif adapter and row.derivatives is not None and adapter.name not in row.derivatives:
            wanted = " or ".join(row.derivatives)
            yield f"{part}: {row.name} wants derivatives under {wanted}, the adapter is {adapter.name}{reading}"
        elif adapter and adapter.commercial and not row.commercial:
            yield f"{part}: {row.name} does not permit commercial use, which the adapter's {adapter.name} would grant"
