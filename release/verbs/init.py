"""init: writes params.yaml for a team's own data, in a clone or in a folder into which it first copies Lockstep."""

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from checks.config import params_file, starting
from checks.config.params import Params
from checks.config.starting import Choice
from checks.formats.placeholder_cards import PLACEHOLDERS
from checks.formats.survey import SURVEY, Contents, Measured, Request
from checks.process.errors import DataRefused, ParamsRefused
from checks.storage import files, layout
from release.adapters import commits, dvc, git, tool_files
from release.adapters.tool_files import Plan

_EXAMPLE = "azure-cli"  # the loader of the configurations that come with the repository
_NEEDED = (layout.PIPELINE, Path(".dvc/config"))
# Folders that the pipeline writes; git ignores most of them.
_WRITTEN = (Path("data"), Path("models"), layout.REPORTS, Path(".lockstep"))
_WORDS = 1_000_000  # before the longest prompt is known, none is dropped
# The tokens of a prompt. Longer ones need a person's decision about memory and the base.
_LONGEST = 2048


class Begun(NamedTuple):
    """A new params.yaml: its text, the choice behind it, what the rows are, and the test rows that the margin needs.

    ``left_out``: sections and gates of the old one that the new one lacks. ``cards``: files that describe the example,
    and get placeholders.
    """

    text: str
    choice: Choice
    measured: Measured
    needed: int
    left_out: tuple[str, ...]
    cards: tuple[Path, ...]


class Place(NamedTuple):
    """The folder ``root`` where init works. ``plan``: the files of Lockstep to copy there; None if they are there.

    ``old``: the text of the params.yaml that is adapted to the data; ``params``: the same, parsed.
    """

    root: Path
    plan: Plan | None
    old: str
    params: Params

    @property
    def tool(self) -> Path:
        """The folder whose stages read the data."""
        return self.plan.clone if self.plan else self.root


def find_place(root: Path, file: Path, *, force: bool) -> Place:
    """Decide where to work, with rows in ``file``. Writes nothing.

    Raises ParamsRefused as ``tool_files.plan``, and for a params.yaml that may not be replaced or a clone without git;
    DataRefused if ``file`` is not a file.
    """
    if not tool_files.exist_in(root):
        _check_file(file)  # before anything else is reported
        plan = tool_files.plan(root, file)
        text = plan.contents[layout.PARAMS.as_posix()].decode()
        params = params_file.parse(text)
        if not _is_example(params):
            fix = "use an unchanged clone of Lockstep"
            raise ParamsRefused(f"{plan.clone}: its {layout.PARAMS} is not the example's", fix)
        return Place(root, plan, text, params)
    if missing := [path for path in _NEEDED if not (root / path).is_file()]:
        raise ParamsRefused(
            f"{root.resolve()}: has no {missing[0]}",
            f"git checkout -- {missing[0]}, or a new clone",
        )
    if not git.has_repository(root):
        raise ParamsRefused(
            f"{root.resolve()}: is not in a git repository", "git init && git add -A && git commit"
        )
    params = params_file.load(root / layout.PARAMS)
    _refuse_to_replace(root, params, force=force)
    return Place(root, None, (root / layout.PARAMS).read_text(encoding="utf-8"), params)


def read_columns(place: Place, file: Path) -> tuple[str, Contents]:
    """The address of ``file`` for params.yaml, and its columns.

    Raises DataRefused for a file that cannot be read, or that the pipeline would overwrite; and as ``dvc.python``.
    """
    _check_file(file)
    path, top = file.resolve(), place.root.resolve()
    within = path.relative_to(top) if path.is_relative_to(top) else None
    if within and (
        folder := next(
            (folder_written for folder_written in _WRITTEN if folder_written in within.parents),
            None,
        )
    ):
        raise DataRefused(
            f"{within}: the pipeline writes {folder}/ itself",
            f"mkdir -p datasets && mv {within} datasets/ && ./lockstep init datasets/{within.name}",
        )
    dvc.python(place.tool, ["-m", "stages.survey", str(path)], "the look at the data", aside=True)
    return within.as_posix() if within else str(path), files.read_json(
        place.tool / SURVEY, Contents
    )


def _check_file(file: Path) -> None:
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise DataRefused(
            f"{file}: {what}",
            "give one file in JSONL, CSV or Parquet; for others: docs/how-to/data.md",
        )


def begin(place: Place, choice: Choice, *, margin_given: bool, words: int | None = None) -> Begun:
    """Prepare the rows as ``choice`` says, plan the test split, and make the new text. Writes no params.yaml.

    ``words``: longer prompts are dropped; None: none are. Raises ParamsRefused for licences that do not fit or a choice
    that params.yaml cannot express, DataRefused for too few rows, and as ``dvc.python``.
    """
    params = place.params
    starting.adapter(choice.base_license or params.base.license or "", choice.license)
    shares = starting.models(params)
    needed = starting.rows_needed(choice.margin, shares)
    name = Path(choice.uri).name
    request = Request(
        file=_path(place, choice.uri), prepare=starting.prepare(choice, name, words or _WORDS, (0.1, 0.1)),
        labels=choice.labels, test_rows=needed, max_test_share=starting.MOST_TEST, longest=_LONGEST,
        base=choice.base and _path(place, choice.base),
    )  # fmt: skip
    arguments = ["-m", "stages.survey", "--request", request.model_dump_json()]
    dvc.python(place.tool, arguments, "the look at the data", aside=True)
    measured = files.read_json(place.tool / SURVEY, Measured)
    margin = starting.held_margin(measured, choice.margin, shares, given=margin_given)
    choice = choice._replace(margin=margin)
    prepared: dict[str, Any] = starting.prepare(
        choice, name, words or _words(measured), (measured.valid, measured.test)
    )
    text = starting.written(place.old, params, choice, prepared, measured)
    needed = starting.rows_needed(margin, shares)
    cards = tuple(PLACEHOLDERS) if place.plan else cards_of_example(place)
    return Begun(text, choice, measured, needed, left_out(params, params_file.parse(text)), cards)


def cards_of_example(place: Place) -> tuple[Path, ...]:
    """The files for the cards that describe the example, by its tag, and that git has as they are."""
    root, tag = place.root, f"tags: [{_EXAMPLE}]".encode()
    if not _is_example(place.params) or commits.resolve(root, "HEAD") is None:
        return ()
    there = [
        card for card in PLACEHOLDERS if (root / card).is_file() and not (root / card).is_symlink()
    ]
    changed = commits.uncommitted(root, "HEAD", there)
    return tuple(
        card for card in there if card not in changed and tag in (root / card).read_bytes()
    )


def left_out(old: Params, new: Params) -> tuple[str, ...]:
    """Sections and gates that protect the old model or its data, and that the new params.yaml lacks."""
    sections = {
        "prepare.personal_data": (old.prepare.personal_data, new.prepare.personal_data),
        "data.sources": (old.data.sources, new.data.sources),
        "data.contract": (old.data.contract, new.data.contract),
        "validate.languages": (old.validate_.languages, new.validate_.languages),
        "validate.semantic_duplicates": (
            old.validate_.semantic_duplicates,
            new.validate_.semantic_duplicates,
        ),
        "validate.preferences": (old.validate_.preferences, new.validate_.preferences),
    }
    gates = (f"gates.{name}" for name in old.gates if name not in new.gates)
    return (*(name for name, (before, after) in sections.items() if before and not after), *gates)


def _path(place: Place, address: str) -> str:
    """The address for stages that run elsewhere; one that is no path in ``place.root`` stays as it is."""
    path = place.root / address
    return str(path.resolve()) if path.exists() else address


def _words(measured: Measured) -> int:
    """Half as many words again as the longest prompt has: later rows may be longer."""
    return math.ceil(1.5 * measured.words / 10) * 10


def write(place: Place, begun: Begun) -> bool:
    """Write params.yaml, and Lockstep's files if they are missing. Return whether the example's record was removed.

    Where the cards would describe the example, they get placeholders, which `lockstep card` refuses.

    Once the removal is committed to the target branch, no gate compares a model of the team's task with the example's.
    Raises as ``tool_files.install``.
    """
    if place.plan:
        tool_files.install(place.plan, {layout.PARAMS: begun.text} | PLACEHOLDERS)
        return False
    root = place.root
    foreign = _is_example(place.params)
    if foreign:  # first: if this command is killed here, the next one does the rest
        (root / layout.LOCK).unlink(missing_ok=True)
        (root / layout.CODE_LOCK).unlink(missing_ok=True)
        for path in (root / layout.REPORTS).glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif (
                path.name != layout.NOISE.name
            ):  # The noise is copied: see release.adapters.tool_files.
                path.unlink()
    for card in begun.cards:
        files.write_text(root / card, PLACEHOLDERS[card])
    files.write_text(root / layout.PARAMS, begun.text)
    return foreign


def _is_example(params: Params) -> bool:
    return params.prepare.loader.kind == _EXAMPLE


def _refuse_to_replace(root: Path, params: Params, *, force: bool) -> None:
    """Only an example's params.yaml that git has may be replaced without ``force``."""
    if force:
        return
    if not _is_example(params):
        raise ParamsRefused(
            f"{layout.PARAMS}: is about data of your own already", "give --force to replace it"
        )
    if commits.resolve(root, "HEAD") is None or commits.uncommitted(root, "HEAD", [layout.PARAMS]):
        raise ParamsRefused(
            f"{layout.PARAMS}: has changes that git does not have",
            "commit them, or give --force to replace them",
        )
