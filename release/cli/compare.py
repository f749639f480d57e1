"""The command compare: two records side by side, as text, JSON, or a page."""

import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import refusing, to_json
from release.cli.tables import one_line, short
from release.cli.wrapping import is_terminal

if TYPE_CHECKING:
    from checks.formats.evaluation_reports import Interval
    from release.review.comparison import Answer, Comparison, Cost, Metric, SideFacts
    from release.review.pairs import Difference

_PIPE, _NARROWEST = 80, 60  # columns in a pipe or a log; fewest columns on a terminal
_SLICES, _ANSWERS = 12, 5  # in the text; JSON and the page have all
_COLOURS = {"better": "green", "worse": "red", "": None}
_MARKS = {"better": "▲", "worse": "▼", "": "≈"}


@click.command()
@click.argument("a")
@click.argument("b", default=".")
@click.option(
    "--search", metavar="TEXT", help="List only answers whose prompt, reference, answer, slice or id contains TEXT."
)
@click.option("--html", "page", metavar="FILE", type=click.Path(path_type=Path), help="Write a page of it to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
@refusing
def compare(root: Path, a: str, b: str, search: str | None, page: Path | None, as_json: bool) -> None:
    """Compare two models and how they were made: A, the earlier, with B (default: the work tree).

    A and B are each a commit, branch or tag, an environment, a version such as v1.4.0, the digest of a released image,
    or `.` for the work tree. Shows metrics, slices and suites on the rows that both answered, parameters, data, cost,
    and the answers that differ. It changes nothing and decides nothing. Exits with 0 whatever it finds, and with 8 if A
    or B is not known here or has no record.
    """
    from release.verbs import compare as verb

    found = verb.compare(root, a, b, search)
    if page is not None:
        from release.pages import html
        from release.review import page as pages

        html.write(page, pages.render(found))
    if as_json:
        click.echo(to_json(found.model_dump(mode="json")))
    elif page is not None:
        click.echo(f"{one_line(found.headline)}\n{one_line(str(page))}")
    else:
        click.echo("\n".join(_text(found, search)))


def _text(found: "Comparison", search: str | None) -> Iterator[str]:
    """The lines of the text, none of them wider than ``_columns()``."""
    yield from _side("A", found.a)
    yield from _side("B", found.b)
    yield from _wrapped(one_line(found.headline), bold=True)
    for note in found.notes:
        yield from _wrapped(f"note: {one_line(note)}", "      ")
    yield from _metrics(found)
    yield from _slices(found)
    yield from _changes("PARAMETERS", [(each.what, each.a, each.b) for each in found.parameters], "none differs")
    yield from _changes(
        "DATA", [(each.what, each.a, each.b) for each in found.data], "nothing differs",
        f"the same: {', '.join(found.same)}" if found.same else "",
    )  # fmt: skip
    if found.cost:
        yield from ("", _heading("COST"))
        rows = [(_unit(each), _number(each.a), _number(each.b), _times(each)) for each in found.cost]
        yield from _table(("", "A", "B", "B / A"), rows, "<>>>")
    yield from _differing(found, search)


def _side(letter: str, side: "SideFacts") -> Iterator[str]:
    about = [one_line(side.name), "the work tree" if side.commit is None else f"commit {side.commit[:12]}"]
    about += [side.version] if side.version and side.version != side.name else []
    about += [f"model {short(side.model)}"] if side.model else ["no model"]
    about += [f"verdict {side.verdict}"] if side.verdict else []
    yield _cut(f"{letter}  {'  '.join(about)}", _columns())


def _metrics(found: "Comparison") -> Iterator[str]:
    if not found.metrics:
        return
    yield from ("", _heading("METRICS"))
    if rows := found.rows:
        alone = [f"{count:,} only in {name}" for name, count in (("A", rows.only_a), ("B", rows.only_b)) if count]
        alone += [f"{rows.other:,} with the same id and another text"] if rows.other else []
        yield from _wrapped(f"  {', '.join([f'{rows.both:,} test rows in both', *alone])}", "  ")
    lines = []
    for each in found.metrics:
        lines.append(
            (_name(each), _score(each.a), _score(each.b), *_compared(each.difference, found.confidence, each.note))
        )
    yield from _table(("", "A", "B", "B - A", "better", "worse", "p"), lines, "<>><>>>")
    for each in found.metrics:
        if each.note and each.difference:
            yield from _wrapped(f"  {_name(each)}: {one_line(each.note)}", "    ")
    if any(each.difference for each in found.metrics):
        yield from _wrapped(
            f"  {found.confidence:.0%} intervals; p is two-sided, with Holm's correction over this table", "  "
        )


def _slices(found: "Comparison") -> Iterator[str]:
    first = next((each.metric for each in found.slices), None)
    slices = [each for each in found.slices if each.metric == first]
    if first is None or len(slices) < 2:
        return
    largest = f", the {_SLICES} largest of {len(slices)}" if len(slices) > _SLICES else ""
    yield from ("", _heading(f"SLICES by {one_line(first)}{largest}"))
    rows = [
        (one_line(each.name), _score(each.a), _score(each.b), *_compared(each.difference, found.confidence, ""))
        for each in slices[:_SLICES]
    ]
    yield from _table(("", "A", "B", "B - A", "better", "worse", "p"), rows, "<>><>>>")


def _changes(
    title: str, rows: Sequence[tuple[str, str | None, str | None]], nothing: str, after: str = ""
) -> Iterator[str]:
    yield from ("", _heading(title if rows else f"{title}: {nothing}"))
    for what, old, new in rows:
        yield from _wrapped(f"  {one_line(what)}: {_value(old)} → {_value(new)}", "      ")
    if after:
        yield from _wrapped(f"  {after}", "  ")


def _differing(found: "Comparison", search: str | None) -> Iterator[str]:
    if found.rows is None:
        return
    total = sum(found.tally.values())
    yield from ("", _heading(f"ANSWERS: {total:,} of {found.rows.both:,} differ"))
    if found.tally:
        words = {"A": "A alone is right", "B": "B alone is right", "both": "both are right", "neither": "neither is",
                 "A closer": "A is closer", "B closer": "B is closer", "unknown": "not scored alike"}  # fmt: skip
        yield from _wrapped(
            f"  {', '.join(f'{count:,}: {words[right]}' for right, count in found.tally.items())}", "  "
        )
    shown = found.answers if search is not None else found.answers[:_ANSWERS]
    if search is not None:
        yield from _wrapped(f"  {len(shown):,} of them contain {one_line(search)}", "  ")
    for each in shown:
        yield from _answer(each)
    if len(shown) < len(found.answers):
        yield from ("", f"  {len(found.answers) - len(shown):,} more: --search TEXT, --html FILE or --json")


def _answer(each: "Answer") -> Iterator[str]:
    right = {"A": "A is right", "B": "B is right", "both": "both are right", "neither": "neither is right",
             "A closer": "A is closer", "B closer": "B is closer", "unknown": "not scored alike"}  # fmt: skip
    yield from ("", _cut(f"  {one_line(each.id)}  {one_line(each.slice)}: {right[each.right]}", _columns()))
    for name, text in (("prompt", each.prompt), ("reference", each.reference), ("A", each.a), ("B", each.b)):
        yield _cut(f"    {name:<9}  {one_line(text) or '(empty)'}", _columns())


# --- text --------------------------------------------------------------------------------------------------------


def _compared(found: "Difference | None", confidence: float, note: str) -> tuple[str, str, str, str]:
    from release.pages.figures import signed
    from release.review.comparison import verdict

    if found is None:
        return one_line(note), "", "", ""
    value, low, high = (signed(figure, "+.3f") for figure in (found.value, found.low, found.high))
    return (
        f"{_MARKS[verdict(found, confidence)]} {value} [{low}, {high}]",
        f"{found.wins:,}",
        f"{found.losses:,}",
        f"{found.p_holm:.2g}",
    )


def _name(each: "Metric") -> str:
    return one_line(each.name if each.suite is None else f"{each.suite}: {each.name}")


def _score(value: "Interval | float | None") -> str:
    if value is None:
        return "-"
    return f"{value if isinstance(value, float | int) else value.value:.3f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def _unit(each: "Cost") -> str:
    return one_line(each.what if each.unit in each.what else f"{each.what}, {each.unit}")


def _times(each: "Cost") -> str:
    return f"{each.b / each.a:.2f}" if each.a and each.b is not None else ""


def _value(text: str | None) -> str:
    return "(none)" if text is None else f"sha256:{short(text)}" if text.startswith("sha256:") else one_line(text)


def _heading(text: str) -> str:
    return click.style(_cut(text, _columns()), bold=True)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> Iterator[str]:
    """Columns side by side. The first one is cut where a line would be too wide, then the last wide one."""
    widths = [max(map(_width, column)) for column in zip(header, *rows, strict=True)]
    for place in (0, 3):
        over = 2 * len(widths) + sum(widths) - _columns()
        if over > 0 and place < len(widths):
            widths[place] = max(10, widths[place] - over)
    for row in (header, *rows):
        cells = [_cut(cell, width) for cell, width in zip(row, widths, strict=True)]
        padded = [
            f"{' ' * (width - _width(cell))}{cell}" if side == ">" else f"{cell}{' ' * (width - _width(cell))}"
            for cell, width, side in zip(cells, widths, align, strict=True)
        ]
        line = f"  {'  '.join(padded)}".rstrip()
        colour = next(
            (_COLOURS[name] for name, mark in _MARKS.items() if any(c.startswith(f"{mark} ") for c in row)), None
        )
        yield click.style(line, fg=colour) if colour else line


def _wrapped(text: str, indent: str = "", bold: bool = False) -> Iterator[str]:
    """``text`` on lines of at most ``_columns()``; ``indent`` begins all but the first. Long words are broken."""
    line, start = "", True
    lead = text[: len(text) - len(text.lstrip(" "))]
    for word in text.split():
        if not start and _width(line) + 1 + _width(word) <= _columns():
            line = f"{line} {word}"
            continue
        if not start:
            yield click.style(line, bold=True) if bold else line
        line, start = f"{lead if start else indent}{word}", False
        while _width(line) > _columns():
            kept = _cut(line, _columns() + 1)[:-1]
            yield click.style(kept, bold=True) if bold else kept
            line = f"{indent}{line[len(kept) :]}"
    yield click.style(line, bold=True) if bold else line


def _cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns."""
    if _width(text) <= width:
        return text
    kept, used = "", 0
    for character in text:
        used += _width(character)
        if used > width - 1:
            break
        kept += character
    return f"{kept}…"


def _columns() -> int:
    """How wide the text may be: as wide as the terminal, but not too narrow for tables."""
    return max(shutil.get_terminal_size().columns, _NARROWEST) if is_terminal(sys.stdout) else _PIPE


def _width(text: str) -> int:
    """Columns of a terminal: an East Asian wide character takes two, a combining mark none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
