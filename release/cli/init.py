"""The command init: asks, or takes from flags, what params.yaml needs to know of a team's own data."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from release.cli.common import FILE, JSON, Number, refusing, to_json
from release.cli.tables import one_line
from release.cli.wrapping import hanging

if TYPE_CHECKING:
    from checks.config.starting import Choice
    from checks.formats.survey import Contents, Role
    from release.adapters.team_folder import TeamFolder
    from release.adapters.thin_files import Plan
    from release.verbs.init import Begun, Written

_SERVERS = ("vllm", "sglang", "llamacpp", "tgi", "transformers")  # the first is proposed


class _Flags(NamedTuple):
    """The values of the flags; None where a question is left. ``ask`` is False for --yes.

    ``answers_so_far``: what was answered, by flag, so that a refusal loses no answer.
    """

    columns: dict["Role", str]
    answers: str | None
    instruction: str | None
    license: str | None
    name: str | None
    margin: float | None
    looks: int | None
    base: str | None
    base_license: str | None
    runtime: str | None
    ask: bool
    answers_so_far: dict[str, str]


@click.command()
@click.argument("file", type=FILE)
@click.option("--prompt", metavar="COLUMN", help="Column with the prompt.")
@click.option("--reference", metavar="COLUMN", help="Column with the expected answer.")
@click.option(
    "--messages", metavar="COLUMN", help="Column with chats, in place of --prompt and --reference."
)
@click.option(
    "--system", metavar="COLUMN", help="Column with the system message of each row; '' for none."
)
@click.option(
    "--slice",
    "part",
    metavar="COLUMN",
    help="Column by whose values results are also judged; '' for none.",
)
@click.option(
    "--group", metavar="COLUMN", help="Column whose equal values stay in one split; '' for none."
)
@click.option("--id", "row_id", metavar="COLUMN", help="Column with unique ids; '' for none.")
@click.option(
    "--answers", type=click.Choice(["labels", "text"]), help="A closed set of labels, or free text."
)
@click.option(
    "--instruction", metavar="TEXT", help="System message of rows without one; '' for none."
)
@click.option(
    "--license",
    "licence",
    metavar="NAME",
    help="Licence of the data; LicenseRef-Own for rows of your own.",
)
@click.option(
    "--margin", type=Number(0.005, 0.25), help="Loss that the gates rule out. Default: 0.05."
)
@click.option(
    "--looks",
    type=click.IntRange(1, 1000),
    help="Models that one test split may judge: fewer need fewer rows. Default in a new repository: 20.",
)
@click.option("--name", metavar="NAME", help="Name of the model. Default: the repository's folder.")
@click.option("--base", metavar="ADDRESS", help="Another base model than that of params.yaml.")
@click.option("--base-license", metavar="NAME", help="Licence of --base.")
@click.option(
    "--runtime",
    type=click.Choice(_SERVERS),
    help="Server that will run the model. Default in a new repository: vllm.",
)
@click.option(
    "--max-prompt-words", "words", type=click.IntRange(min=1), help="Drop rows with longer prompts."
)
@click.option(
    "--workflows",
    metavar="OWNER/lockstep[@COMMIT]",
    help="Add workflows that call those of this repository on GitHub. Default commit: its tag of this version.",
)
@click.option(
    "--yes", is_flag=True, help="Ask nothing: take what is proposed. --license is then needed."
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace a params.yaml that is your own, or has uncommitted changes.",
)
@JSON
@click.pass_obj
@refusing
def init(
    root: Path, file: Path, prompt: str | None, reference: str | None, messages: str | None, system: str | None,
    part: str | None, group: str | None, row_id: str | None, answers: str | None, instruction: str | None,
    licence: str | None, margin: float | None, looks: int | None, name: str | None, base: str | None,
    base_license: str | None, runtime: str | None, words: int | None, workflows: str | None, yes: bool, force: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a params.yaml for your own data in FILE: JSONL, CSV or Parquet.

    In an empty folder, at the top of a git repository, or in a folder projects/NAME of one, it also adds the launcher
    ./lockstep, the pinned version, dvc.yaml and the environments: 19 small files, 25 with --workflows. In a copy of
    Lockstep's own repository, it replaces the example's configuration by yours. It replaces none of your files and
    commits nothing.

    It proposes the columns, asks what it cannot know, pins the file by its SHA-256, prepares the rows to see how many
    stay, and makes the test split large enough for the margin, or says which margin the file allows. Then
    `./lockstep run` works.

    Keeps the sections base, train, merge, suites, serve and promote of the old params.yaml. Refuses to replace one that
    is about your own data, or that git does not have, without --force.
    """
    from checks.config import starting
    from checks.process import distribution
    from checks.process.errors import ParamsRefused, Refusal
    from release.adapters import team_folder, workflow_pin
    from release.verbs import init as verb

    given: dict[Role, str | None] = {
        "prompt": prompt, "reference": reference, "messages": messages, "system": system, "slice": part, "group": group,
        "id": row_id,
    }  # fmt: skip
    flags = _Flags(
        {role: column for role, column in given.items() if column is not None},
        answers,
        instruction,
        licence,
        name,
        margin,
        looks,
        base,
        base_license,
        runtime,
        not yes,
        {},
    )
    if (base is None) != (base_license is None):
        raise click.UsageError("--base and --base-license need each other: give both")
    if workflows and force:
        raise click.UsageError(
            "--workflows excludes --force: `./lockstep upgrade --workflows` adds them later"
        )
    called = workflow_pin.of(workflows, distribution.version()) if workflows else None
    folder = team_folder.find(root, file, force=force, workflows=called)
    if folder.plan:
        _show_plan(folder.plan)
    address, contents = verb.read_columns(folder, file)
    try:
        choice = _chosen(folder, address, contents, flags)
        chosen = margin is not None or choice.margin != starting.MARGIN
        server = _server(folder, flags)
        begun = verb.begin(folder, choice, margin_given=chosen, words=words, runtime=server)
    except click.Abort as error:
        click.echo(err=True)  # The question has no line of its own.
        raise ParamsRefused(
            "a question got no answer",
            "answer it, or give --yes, --license, and the columns that it does not find: --prompt, --reference",
            _flags_so_far(flags),
        ) from error
    except Refusal as refused:
        refused.others += _flags_so_far(flags)
        raise
    written = verb.write(folder, begun)
    if as_json:
        plan = {
            "needed_test_rows": begun.needed, "measured": begun.measured.model_dump(mode="json"),
            "left_out": begun.left_out, "placeholders": [str(card) for card in begun.cards],
        }  # fmt: skip
        click.echo(to_json({**begun.choice._asdict(), **plan, **written._asdict()}))
    else:
        _show(begun, choice.margin, pinned=begun.measured.base_sha256 is not None or base is None)
        _show_next(written, folder, begun.cards)


def _chosen(folder: "TeamFolder", address: str, contents: "Contents", flags: _Flags) -> "Choice":
    """Flags first, then answers, then what is proposed."""
    from checks.config import starting
    from checks.config.starting import Choice
    from checks.data import licenses
    from checks.process.errors import ParamsRefused
    from release.cli import margins

    columns = _columns(contents, flags)
    answer = next(
        column
        for column in contents.columns
        if column.name == columns.get("reference", columns.get("messages"))
    )
    proposed = "labels" if answer.closed else "text"
    answers = flags.answers or _ask(
        flags, "answers", f"{answer.distinct:,} different answers in {contents.rows:,} rows: labels or text?", proposed,
        ["labels", "text"],
    )  # fmt: skip
    hint = f"Name the {answer.name}." if answers == "labels" and "reference" in columns else ""
    instruction = flags.instruction
    if instruction is None:
        instruction = _ask(
            flags, "instruction", "Instruction before each prompt (system message)", hint
        )
    if flags.license is None and not flags.ask:
        raise ParamsRefused(
            "the licence of the data is not known",
            f"give --license, {licenses.OWN} for rows of your own: docs/reference/licenses.md",
        )
    licence = flags.license or _ask(
        flags, "license", f"Licence of the data ({licenses.OWN}: your own rows)", licenses.OWN
    )
    # Refuse here, before more questions are asked.
    starting.adapter(flags.base_license or folder.params.base.license or "", licence)
    margin = flags.margin
    if margin is None and flags.ask:
        looks = flags.looks or starting.models(folder.params)
        click.echo(margins.table(contents.rows, looks), err=True)
    while margin is None:
        reply = _ask(
            flags,
            "margin",
            "Loss that a new model must be shown to stay below",
            f"{starting.MARGIN:g}",
        )
        margin = (
            float(reply)
            if re.fullmatch(r"0?\.\d+", reply) and 0.005 <= float(reply) <= 0.25
            else None
        )
        if margin is None:
            click.echo("a share between 0.005 and 0.25, such as 0.05", err=True)
        if margin in (None, starting.MARGIN):  # a margin that was only proposed may be widened
            flags.answers_so_far.pop("margin", None)
    name = flags.name or _ask(flags, "name", "Name of the model", _slug(folder.root.resolve().name))
    return Choice(
        uri=address, license=licence, name=name, labels=answers == "labels", columns=columns,
        instruction=instruction or None, margin=margin, looks=flags.looks, base=flags.base,
        base_license=flags.base_license,
    )  # fmt: skip


def _server(folder: "TeamFolder", flags: _Flags) -> str | None:
    """The runtime of the server; None keeps the one of params.yaml, except in a new repository."""
    if flags.runtime or not folder.plan:
        return flags.runtime
    known = ", ".join(_SERVERS)
    return _ask(flags, "runtime", f"Server that will run it: {known}", _SERVERS[0], list(_SERVERS))


def _columns(contents: "Contents", flags: _Flags) -> Mapping["Role", str]:
    """The column of each role. Raises ParamsRefused for a column that is not there, or a role that none fits."""
    from checks.formats import survey
    from checks.process.errors import ParamsRefused

    there = [column.name for column in contents.columns]
    listed = one_line(", ".join(there))
    for offered in contents.columns:
        shown = f"{offered.distinct:>9,} different   {one_line(offered.sample)}"
        click.echo(hanging(f"  {one_line(offered.name):<20} {shown}", sys.stderr), err=True)
    guessed = survey.guess(contents.columns)
    if "messages" in flags.columns or (
        "messages" in guessed and not {"prompt", "reference"} & set(flags.columns)
    ):
        roles: tuple[Role, ...] = ("messages",)
    else:
        roles = ("prompt", "reference")
    chosen: dict[Role, str] = {}
    for role in (*roles, "system", "slice", "group", "id"):
        column = flags.columns.get(role)
        needed = role in roles
        if column is None:
            column = guessed.get(role, "")
            if needed or column:
                column = _ask(
                    flags,
                    role,
                    f"Column of the {role}",
                    column,
                    there if needed else [*there, "none"],
                )
        if column in ("", "none") and needed:
            raise ParamsRefused(
                f"no column looks like the {role}", f"give --{role}: one of {listed}"
            )
        if column and column not in there and column != "none":
            raise ParamsRefused(f"--{role}: there is no column {column!r}", f"give one of {listed}")
        if column and column in there:
            chosen[role] = column
    return chosen


def _ask(
    flags: _Flags, flag: str, question: str, proposed: str, known: list[str] | None = None
) -> str:
    """Ask the user for the value of ``--flag``. With --yes, return the proposal without asking."""
    if not flags.ask:
        return proposed
    kind = click.Choice(known) if known else str
    default = proposed if proposed or not known else None
    answer = str(
        click.prompt(one_line(question), default=default, type=kind, show_choices=False, err=True)
    )
    flags.answers_so_far[flag] = "" if known and answer == "none" else answer
    return answer


def _flags_so_far(flags: _Flags) -> tuple[str, ...]:
    """A line with the flags for what was answered; none if nothing was."""
    given = " ".join(
        f"--{flag} {shlex.quote(answer)}" for flag, answer in flags.answers_so_far.items()
    )
    return (f"your answers so far, as flags for the same command: {given}",) if given else ()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "model"


def _show(begun: "Begun", wanted: float, *, pinned: bool) -> None:
    """Print what was decided and why, and the next command."""
    measured, choice = begun.measured, begun.choice
    dropped = ", ".join(f"{rows:,} by {rule}" for rule, rows in measured.dropped.items()) or "none"
    splits = ", ".join(f"{name} {rows:,}" for name, rows in measured.split_rows.items())
    size = measured.test_size
    alike = (
        ""
        if size == measured.split_rows["test"]
        else f", which count as {size:,}: some are near-duplicates"
    )
    there = f"{measured.split_rows['test']:,}{alike}"
    lines = [
        ("data", f"{choice.uri}, {choice.license}, sha256 {measured.sha256[:12]}…"),
        ("columns", ", ".join(f"{role}: {column}" for role, column in choice.columns.items())),
        ("rows", f"{measured.rows:,}; dropped: {dropped}; {splits}"),
        (
            "answers",
            f"{measured.distinct:,} labels"
            if choice.labels
            else f"free text, {measured.distinct:,} different",
        ),
        (
            "margin",
            f"{choice.margin:g} needs about {begun.needed:,} test rows, and there are {there}",
        ),
    ]
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in measured.personal.items())
    personal = (
        f"{len(measured.personal_rows):,} rows, such as {', '.join(measured.personal_rows[:3])}"
    )
    left_out = f"of the old params.yaml: {', '.join(begun.left_out)}; write in what your task needs"
    # Each of these lines is shown if it applies.
    remarks = [
        (choice.margin > wanted, "", f"{wanted:g}, the default, needs more rows than the file has"),
        (
            bool(measured.personal),
            "personal",
            f"{kinds} in {personal}; take them out first, or let a rule: docs/how-to/privacy.md",
        ),
        (bool(begun.left_out), "left out", left_out),
        (
            "prepare.personal_data" in begun.left_out,
            "",
            "nothing looks for personal data in your rows until then: docs/how-to/privacy.md",
        ),
        (
            Path(choice.uri).is_absolute(),
            "note",
            "only this machine has the file: copy it to datasets/, or a bucket (docs/how-to/data.md)",
        ),
        (
            not pinned,
            "note",
            "the first run downloads the base, refuses, and prints the sha256 to write into base",
        ),
        (
            not choice.labels,
            "note",
            "no gate asks for a least score: add a threshold when you know one",
        ),
    ]
    lines += [(what, text) for applies, what, text in remarks if applies]
    click.echo("wrote params.yaml")
    for what, text in lines:
        click.echo(hanging(f"  {what:<9}{one_line(text)}"))


def _show_plan(plan: "Plan") -> None:
    """Where the files go, before the first question."""
    click.echo(hanging(one_line(f"Lockstep's files go into {plan.top}"), sys.stderr), err=True)
    if plan.kept:
        click.echo(
            hanging(one_line(f"your own stay: {', '.join(plan.kept)}"), sys.stderr), err=True
        )


def _show_next(written: "Written", folder: "TeamFolder", cards: tuple[Path, ...]) -> None:
    """The next commands."""
    plan, commit = folder.plan, "git add -A && git commit"
    # Each of these steps is shown if it applies.
    steps = [
        (
            plan is not None and folder.has_master_alone,
            "git branch -m master main",
            "here and on the server: Lockstep's workflows and rules are those of main",
        ),
        (
            written.removed_record,
            commit,
            "on main, and push it: main's model is what gates compare with",
        ),
        (
            True,
            "./lockstep run",
            "checks the data, trains, evaluates and judges; ./lockstep run validate only checks",
        ),
        (plan is not None, commit, "with the record of the run, on main"),
        (
            True,
            "./lockstep calibrate",
            "once, then commit reports/noise.json: a gate's margin must exceed this noise",
        ),
        (
            bool(cards),
            "$EDITOR docs/cards/*.md",
            "write the cards, and commit them: `build` refuses the placeholders",
        ),
    ]
    if plan:
        added = "".join(f", lines in {name}" for name in plan.added)
        click.echo(hanging(f"added {len(written.files):,} files{added}; nothing is committed"))
    if written.removed_record:
        click.echo(
            "removed code.lock, dvc.lock and what is in reports/: the record of the example's model"
        )
    commands = [(command, why) for applies, command, why in steps if applies]
    width = max(len(command) for command, _ in commands)
    for word, (command, why) in zip(("next:", *[""] * len(commands)), commands, strict=False):
        click.echo(hanging(f"{word:<6}{command:<{width}}  {why}"))
