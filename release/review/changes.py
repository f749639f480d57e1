"""What the pull request changes: parameters against the target's, and above all what it is judged by."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from checks import layout
from release.review.blocks import Block, Bold, Bullets, Code, Data, Line, Paragraph, Piece, Said, Section, capped, row
from release.review.facts import Facts

_MOST = 40
_ABSENT = object()


def policy(facts: Facts) -> Section | None:
    """Changes of what decides: those that need approval in bold, and what an approval is written like."""
    if not facts.changes:
        return None
    lines: list[Line] = []
    for change in facts.changes[:_MOST]:
        told: tuple[Piece, ...] = (change.kind, ": ", Said(change.text))
        lines.append((Bold(told),) if change.needs_approval else told)
    if len(facts.changes) > _MOST:
        lines.append((f"…and {len(facts.changes) - _MOST} more",))
    blocks: list[Block] = []
    judgement = facts.judgement
    if judgement:
        blocks.append(Paragraph((Bold((Said(judgement.headline),)),)))
    blocks.append(Bullets(lines))
    if judgement and judgement.approval:
        blocks.append(Paragraph(("Approved by ", Data(judgement.approval.by), ": ", Data(judgement.approval.why))))
    elif judgement and any(change.needs_approval for change in facts.changes):
        blocks.append(Paragraph((f"To approve it, code owners add to `{layout.APPROVALS}`:",)))
        blocks.append(Code([f"- policy: {judgement.policy}", "  by: NAME", "  why: REASON"]))
    return Section("policy", "Policy", blocks, keep=92)


def parameters(facts: Facts) -> Section | None:
    """params.yaml against the target's, a line for each value that differs."""
    here, there = facts.document, facts.target.document
    if here is None or there is None:
        return None
    ours, theirs = dict(_leaves(here)), dict(_leaves(there))
    judged = {change.path for change in facts.changes if change.needs_approval}
    rows = []
    for path in dict.fromkeys((*theirs, *ours)):
        old, new = theirs.get(path, _ABSENT), ours.get(path, _ABSENT)
        if old == new and type(old) is type(new):
            continue
        name: Piece = Data(path)
        if any(path == each or path.startswith(f"{each}.") for each in judged):
            name = Bold((name,))
        rows.append(row(name, _shown(old), _shown(new)))
    if not rows:
        return Section("parameters", "Parameters", [Paragraph(("As in ", Data(facts.target.ref), "."))], keep=20)
    table = capped(row("parameter", Data(facts.target.ref), "here"), rows, _MOST)
    return Section("parameters", "Parameters", [table], keep=80)


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        path = f"{prefix}{key}"
        if isinstance(each, Mapping) and each:
            yield from _leaves(each, f"{path}.")
        else:
            yield path, each


def _shown(value: Any) -> Piece:
    if value is _ABSENT:
        return "–"
    return Data(value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str))
