"""init: turns the configuration of a clone into one for a team's own data."""

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from checks import files, layout
from checks.config import params_file, starting
from checks.config.params import Params
from checks.config.starting import Choice
from checks.errors import DataRefused, ParamsRefused
from checks.formats.survey import SURVEY, Contents, Measured, Request
from release.adapters import commits, dvc, git

_EXAMPLE = "azure-cli"  # the loader of the configurations that come with the repository
_NEEDED = (layout.PIPELINE, Path(".dvc/config"), Path("stages/prepare.py"), Path("checks/config/params.py"))
_WORDS = 1_000_000  # before the longest prompt is known, none is dropped
_LONGEST = 2048  # tokens of a prompt: longer ones need a person's decision about memory and the base


class Begun(NamedTuple):
    """A new params.yaml: its text, the choice behind it, what the rows are, and the test rows that the margin needs."""

    text: str
    choice: Choice
    measured: Measured
    needed: int


def look(root: Path, file: Path, *, force: bool) -> tuple[Params, str, Contents]:
    """The present parameters, the address of ``file`` for params.yaml, and its columns.

    Raises ParamsRefused for a folder without the pipeline or git, or a params.yaml that may not be replaced;
    DataRefused for no readable file; and as ``dvc.python``.
    """
    if missing := [path for path in _NEEDED if not (root / path).is_file()]:
        raise ParamsRefused(
            f"{root.resolve()}: has no {missing[0]}: the stages are part of this repository",
            "clone or fork the repository of Lockstep, and run ./lockstep init there",
        )
    if not git.has_repository(root):
        raise ParamsRefused(f"{root.resolve()}: is not in a git repository", "git init && git add -A && git commit")
    params = params_file.load(root / layout.PARAMS)
    _refuse_to_replace(root, params, force=force)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise DataRefused(f"{file}: {what}", "give one file in JSONL, CSV or Parquet; for others: docs/how-to/data.md")
    path, top = file.resolve(), root.resolve()
    address = path.relative_to(top).as_posix() if path.is_relative_to(top) else str(path)
    dvc.python(root, ["-m", "stages.survey", str(path)], "the look at the data", aside=True)
    return params, address, files.read_json(root / SURVEY, Contents)


def begin(root: Path, params: Params, choice: Choice, *, margin_given: bool, words: int | None = None) -> Begun:
    """Prepare the rows as ``choice`` says, plan the test split, and make the new text. Writes no params.yaml.

    ``words``: longer prompts are dropped; None: none are. Raises ParamsRefused for licences that do not fit or a choice
    that params.yaml cannot express, DataRefused for rows that are too long or too few, and as ``dvc.python``.
    """
    starting.adapter(choice.base_license or params.base.license or "", choice.license)
    shares = starting.models(params)
    needed = starting.rows_needed(choice.margin, shares)
    name = Path(choice.uri).name
    request = Request(
        file=choice.uri, prepare=starting.prepare(choice, name, words or _WORDS, (0.1, 0.1)), labels=choice.labels,
        test_rows=needed, max_test_share=starting.MOST_TEST, base=choice.base,
    )  # fmt: skip
    arguments = ["-m", "stages.survey", "--request", request.model_dump_json()]
    dvc.python(root, arguments, "the look at the data", aside=True)
    measured = files.read_json(root / SURVEY, Measured)
    if measured.prompt_tokens > _LONGEST:
        raise DataRefused(
            f"{name}: the longest prompt has {measured.words:,} words, about {measured.prompt_tokens:,} tokens; "
            f"{_LONGEST:,} are the most",
            "drop such rows with --max-prompt-words",
        )
    margin = starting.held_margin(measured, choice.margin, shares, given=margin_given)
    choice = choice._replace(margin=margin)
    prepared: dict[str, Any] = starting.prepare(
        choice, name, words or _words(measured), (measured.valid, measured.test)
    )
    text = starting.written((root / layout.PARAMS).read_text(encoding="utf-8"), params, choice, prepared, measured)
    return Begun(text, choice, measured, starting.rows_needed(margin, shares))


def _words(measured: Measured) -> int:
    """Half as many words again as the longest prompt has: later rows may be longer."""
    return math.ceil(1.5 * measured.words / 10) * 10


def write(root: Path, begun: Begun, params: Params) -> bool:
    """Write params.yaml; whether the record of the old one, ``params``, was removed, since it is the example's.

    Once the removal is committed to the target branch, no gate compares a model of the team's task with the example's.
    """
    foreign = _is_example(params)
    if foreign:  # first: if this command is killed here, the next one does the rest
        (root / layout.LOCK).unlink(missing_ok=True)
        if (root / layout.REPORTS).is_dir():
            shutil.rmtree(root / layout.REPORTS)
    files.write_text(root / layout.PARAMS, begun.text)
    return foreign


def _is_example(params: Params) -> bool:
    return params.prepare.loader.kind == _EXAMPLE


def _refuse_to_replace(root: Path, params: Params, *, force: bool) -> None:
    """Only an example's params.yaml that git has may be replaced without ``force``."""
    if force:
        return
    if not _is_example(params):
        raise ParamsRefused(f"{layout.PARAMS}: is about data of your own already", "give --force to replace it")
    if commits.resolve(root, "HEAD") is None or commits.uncommitted(root, "HEAD", [layout.PARAMS]):
        raise ParamsRefused(
            f"{layout.PARAMS}: has changes that git does not have", "commit them, or give --force to replace them"
        )
