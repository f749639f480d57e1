"""Rows that are newly wrong or newly right: what a figure stands for, in a few examples."""

from collections.abc import Sequence

from checks import layout
from checks.rows import Prediction
from release.review.blocks import Block, Data, Folded, Paragraph, Section, capped, row
from release.review.facts import Facts

_NAMES = {"main": "main", "champion": "production", "base": "the base model"}
_MOST = 5  # of each kind


def flipped(facts: Facts) -> Section | None:
    """Against main, production and the base: a few rows each, those lost first."""
    if facts.state not in ("held", "recorded") or facts.evidence is None or facts.evidence.reports.evaluation is None:
        return None
    evaluation, answers = facts.evidence.reports.evaluation, facts.evidence.answers
    blocks: list[Block] = []
    for name, called in _NAMES.items():
        use = evaluation.references.get(name)  # type: ignore[call-overload]  # "base" is not in it
        if name not in evaluation.models or (use is not None and use.how == "same-model"):
            continue
        ours, theirs = answers.get("candidate", ()), answers.get(name, ())
        if not ours or [each.id for each in ours] != [each.id for each in theirs]:
            what = f"Flipped rows against {called} are not listed: {layout.PREDICTIONS} is not all here "
            blocks.append(Paragraph((what, f"(`dvc pull {layout.PREDICTIONS}` brings it).")))
            continue
        blocks += _against(called, ours, theirs)
    return Section("flips", "Flipped rows", blocks, keep=50) if blocks else None


def _against(called: str, ours: Sequence[Prediction], theirs: Sequence[Prediction]) -> list[Block]:
    pairs = list(zip(ours, theirs, strict=True))
    lost = [pair for pair in pairs if pair[0].score < pair[1].score]
    gained = [pair for pair in pairs if pair[0].score > pair[1].score]
    if not lost and not gained:
        return [Paragraph((f"Against {called}: none of {len(pairs):,} rows.",))]
    inner: list[Block] = []
    for what, found in (("Newly wrong", lost), ("Newly right", gained)):
        if found:
            rows = [
                row(Data(new.prompt), Data(new.reference, 60), Data(old.prediction, 60), Data(new.prediction, 60))
                for new, old in found
            ]
            inner += [
                Paragraph((f"{what}: {len(found):,}",)),
                capped(row("prompt", "expected", called, "this change"), rows, _MOST),
            ]
    return [Folded(f"Against {called}: {len(lost):,} newly wrong, {len(gained):,} newly right", inner)]
