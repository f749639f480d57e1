"""The command label: pages for people who say which of two answers is better, and what they said."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import JSON, exclusive, refusing, show
from release.cli.tables import one_line

if TYPE_CHECKING:
    from release.review.label_plan import LabelPlan


@click.command()
@click.argument("suite")
@click.option(
    "--annotator",
    metavar="NAME",
    default="me",
    show_default=True,
    help="Who labels; a tenth is labelled by two people.",
)
@click.option(
    "--import",
    "source",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take in labels that the page saved, or an export of Label Studio in JSON.",
)
@click.option(
    "--anchor",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the labelled pairs to FILE, for the judge to answer at each release.",
)
@JSON
@click.pass_obj
@refusing
def label(
    root: Path, suite: str, annotator: str, source: Path | None, anchor: Path | None, as_json: bool
) -> None:
    """Let people say which of two answers is better, for SUITE of kind pairwise.

    Says first how many labels each gate needs. Then draws rows at random, as the suite's seed and number of rows say,
    and writes a page that works offline and on a
    phone, with the tasks beside it as JSON for Label Studio. Neither shows which model gave an answer. The rows are
    those of the test split, or of another suite if SUITE names one: run `lockstep run suites` first. A label counts
    only for the answers that it was given for: after another training, people label only what changed.
    """
    from release.verbs import label as verb

    exclusive({"--import": source, "--anchor": anchor})
    if source is not None:
        done = verb.take_in(root, suite, source)
        agree = "not known" if done.alpha is None else f"{done.alpha:.2f}"
        path = one_line(str(done.path))
        text = (
            f"{done.added} labels added, {done.replaced} replaced; {done.other} are of other answers\n"
            f"agreement of people: Krippendorff's alpha {agree}, of {done.several} rows that several labelled\n"
            + (
                f"wrote {path} and its digest in params.yaml; commit both\nthen: ./lockstep run"
                if done.pinned
                else f"wrote {path}: set suites.{suite}.labels in params.yaml to\n"
                f"  {{uri: {path}, sha256: {done.sha256}, license: null}}"
            )
        )
        show({**done._asdict(), "path": str(done.path)}, as_json, text)
    elif anchor is not None:
        count, sha256 = verb.anchor(root, suite, anchor)
        text = (
            f"wrote {count} pairs: set suites.{suite}.anchor in params.yaml to\n"
            f"  {{uri: {one_line(str(anchor))}, sha256: {sha256}, license: null}}"
        )
        show({"path": str(anchor), "sha256": sha256, "pairs": count}, as_json, text)
    else:
        page, tasks, asked, plan = verb.tasks(root, suite, annotator)
        figures = {
            "tasks": len(asked.tasks),
            "drawn": asked.drawn,
            "labelled": asked.labelled,
            "twice": asked.doubled,
            "needed": [planned.model_dump() for planned in plan.gates],
        }
        if not as_json:
            click.echo(_needed(suite, plan, asked.drawn), err=True)
        text = (
            f"{asked.labelled} of {asked.drawn} drawn rows have a label, or two equal answers\n"
            f"{len(asked.tasks)} for {one_line(annotator)}; {asked.doubled} rows are labelled by two people\n"
            f"  page   {one_line(str(page))}\n"
            f"  tasks  {one_line(str(tasks))}, for Label Studio\n"
            f"then: ./lockstep label {suite} --import FILE"
        )
        show({"page": str(page), "data": str(tasks), **figures}, as_json, text)


def _needed(suite: str, plan: "LabelPlan", drawn: int) -> str:
    """Write the labels that each gate needs, by how often the judge says what people say."""
    share = plan.differ / max(plan.rows, 1)
    head = f"answers to {plan.differ:,} of {plan.rows:,} rows differ ({share:.0%}); the others are ties without a label"
    if not plan.gates:
        return f"{head}\nno gate asks people: add one with suite: {suite}, metric: human"
    judges = next((list(gate.assisted) for gate in plan.gates if gate.assisted), [])
    lines = [
        head, "rows to draw, for 80 % power, by how often the judge says what people say:",
        _line("gate, and the true gain", ["no judge", *judges]),
    ]  # fmt: skip
    for gate in plan.gates:
        counts = [gate.people, *(gate.assisted.get(judge) for judge in judges)]
        cells = [f">{plan.rows:,}" if count is None else f"{count:,}" for count in counts]
        lines.append(_line(f"{one_line(gate.gate)}, {100 * gate.gain:+.0f} points", cells))
    return "\n".join([*lines, f"suites.{suite}.rows draws {drawn:,}"])


def _line(name: str, cells: list[str]) -> str:
    return f"  {name:<36}" + "".join(f"{cell:>10}" for cell in cells)
