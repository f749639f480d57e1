"""Gathers details for a reviewer: changed parameters, changed rows, and offending rows."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from checks.formats.data_reports import Expectation
from checks.records.rows import Prediction
from release.review.comparison import Changed
from release.review.facts import EARLIER, Facts

# The columns of an offending row, as validate names them.
_COLUMNS = ("where", "id", "prompt", "reference", "source")
_ABSENT = object()
# The answers of the candidate and of the other model to one row.
Pair = tuple[Prediction, Prediction]


class Flips(NamedTuple):
    """Of ``rows``, those that only the other model or only the candidate answers rightly.

    None: the other model's predictions are missing.
    """

    name: str
    rows: int | None
    lost: list[Pair]
    gained: list[Pair]


def parameters(facts: Facts) -> list[Changed] | None:
    """Return each value of params.yaml that differs from the target's; None if one of them cannot be read."""
    here, there = facts.document, facts.target.document
    return None if here is None or there is None else list(differing(there, here))


def needs_approval(facts: Facts, path: str) -> bool:
    """Tell whether somebody must approve the change of a parameter, because it changes the policy."""
    judged = tuple(f"{change.path}." for change in facts.changes if change.needs_approval)
    return f"{path}.".startswith(judged)


def needs_seeds(facts: Facts) -> bool:
    """Tell whether a parameter of training changed: one verdict does not say that the new value is better."""
    changed = parameters(facts) or ()
    return facts.evidence is not None and any(row.what.startswith("train.") for row in changed)


def differing(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[Changed]:
    """Yield each value that differs, below ``prefix``. A side that lacks it, or a whole section, is None."""
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differing(old, new, f"{prefix}{key}.")
        elif old != new or type(old) is not type(new):
            yield Changed(
                what=f"{prefix}{key}",
                a=None if old is _ABSENT else shown(old),
                b=None if new is _ABSENT else shown(new),
            )


def splits(facts: Facts) -> list[str]:
    """Splits whose rows are not the target's; empty if a side is not known."""
    here, there = facts.prepare, facts.target.prepare
    if here is None or there is None:
        return []
    return [
        name
        for name, split in here.splits.items()
        if name not in there.splits or there.splits[name].sha256 != split.sha256
    ]


def flips(facts: Facts) -> list[Flips]:
    """Flips against main, production and the base, if they were evaluated and are other models."""
    evaluation = facts.evaluation
    if evaluation is None or facts.evidence is None:
        return []
    answers, flipped_rows = facts.evidence.answers, []
    for name in EARLIER:
        use = evaluation.references.get(name)  # type: ignore[call-overload]  # "base" is not in it
        same = (use is not None and use.how == "same-model") or (
            name == "main" and facts.same_as_main
        )
        if name in evaluation.models and not same:
            flipped_rows.append(flipped(name, answers.get("candidate", ()), answers.get(name, ())))
    return flipped_rows


def flipped(name: str, ours: Any, theirs: Any) -> Flips:
    """Return the rows whose score differs, without those that the other model learned."""
    if not ours or [answer.id for answer in ours] != [answer.id for answer in theirs]:
        return Flips(name, None, [], [])
    pairs = [pair for pair in zip(ours, theirs, strict=True) if not pair[1].learned]
    lost = [pair for pair in pairs if pair[0].score < pair[1].score]
    return Flips(name, len(pairs), lost, [pair for pair in pairs if pair[0].score > pair[1].score])


def failed_expectations(facts: Facts) -> list[tuple[Expectation, float | None]]:
    """Return the expectations that fail, each with the share of offending rows in the split that its name begins with.

    The share is None for an expectation that is about no rows.
    """
    if facts.data is None:
        return []
    rows_of = facts.data.rows
    failed = [
        (expectation, rows_of.get(expectation.name.partition(":")[0], 0))
        for expectation in facts.data.expectations
        if not expectation.success
    ]
    return [
        (expectation, expectation.unexpected / rows if expectation.unexpected and rows else None)
        for expectation, rows in failed
    ]


def columns(expectation: Expectation) -> list[str]:
    """The first five columns of offending rows: those that all rows have, then those of this expectation."""
    names = dict.fromkeys(name for row in expectation.rows for name in row)
    known = [name for name in _COLUMNS if name in names]
    return [*known, *(name for name in names if name not in _COLUMNS)][:5]


def shown(value: Any) -> str:
    """Text unchanged, anything else as JSON."""
    return (
        value
        if isinstance(value, str) and value
        else json.dumps(value, ensure_ascii=False, default=str)
    )
