"""The data: what came in and was kept, whether every expectation held, and the rows that broke one."""

import json
from collections.abc import Mapping
from typing import Any

from checks import chain
from checks.evidence import Expectation
from release.review.blocks import Block, Data, Folded, Paragraph, Piece, Section, Table, capped, row
from release.review.facts import Facts

_MOST = 20
_RULES = 12
_SHOWN = ("where", "id", "prompt", "reference", "source")  # columns of an offending row, as validate names them


def data(facts: Facts) -> Section | None:
    """The summary; where validate refused, what it refused first and in sight."""
    if facts.data is None and facts.prepare is None:
        return None
    blocks: list[Block] = []
    if facts.data is not None:
        failed = [each for each in facts.data.expectations if not each.success]
        if failed:
            rows = [row(Data(each.name), Data(each.observed), f"{each.unexpected:,}") for each in failed]
            blocks.append(capped(row("expectation", "seen", "rows"), rows, _MOST, figures=(2,)))
            blocks += [_offending(each) for each in failed[:_MOST] if each.rows]
        else:
            blocks.append(Paragraph((_all(len(facts.data.expectations)),)))
    if facts.prepare is not None:
        blocks += _prepared(facts)
    return Section("data", "Data", blocks, keep=88 if facts.state == "bad-data" else 60)


def _offending(expectation: Expectation) -> Block:
    names = [name for name in _SHOWN if any(name in each for each in expectation.rows)]
    names = names or list(dict.fromkeys(name for each in expectation.rows for name in each))[:5]
    rows = [row(*(_value(each, name) for name in names)) for each in expectation.rows]
    header = row(*(Data(name) for name in names))
    return Folded(
        f"{len(rows)} of {expectation.unexpected:,} offending rows",
        [Paragraph((Data(expectation.name), ":")), Table(header, rows)],
    )


def _value(found: Mapping[str, Any], name: str) -> Piece:
    value = found.get(name, "")
    return Data(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _prepared(facts: Facts) -> list[Block]:
    prepare, before = facts.prepare, facts.target.prepare
    assert prepare is not None  # else it is not asked
    rows = []
    for name, split in prepare.splits.items():
        old = before.splits.get(name) if before else None
        change: Piece = "–" if old is None else "as there" if old.sha256 == split.sha256 else f"{old.rows:,}"
        rows.append(row(Data(name), f"{split.rows:,}", change, Data(chain.short(split.sha256))))
    dropped = sorted((each for each in prepare.rules if each.rows), key=lambda each: -each.rows)
    told = f"{prepare.input_rows:,} rows came in, {prepare.kept_rows:,} stayed, rules dropped {prepare.dropped_rows:,}"
    rules = [row(Data(each.rule), each.kind, f"{each.rows:,}") for each in dropped]
    blocks: list[Block] = [
        Paragraph((f"{told}.",)),
        Table(row("split", "rows", ("in ", Data(facts.target.ref)), "digest"), rows, frozenset((1, 2))),
    ]
    if rules:
        blocks.append(
            Folded(
                f"Rules that mended or dropped rows: {len(rules)}",
                [capped(row("rule", "kind", "rows"), rules, _RULES, (2,))],
            )
        )
    return blocks


def _all(count: int) -> str:
    return "The one expectation holds." if count == 1 else f"All {count} expectations hold."
