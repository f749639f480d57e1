"""init: writes params.yaml for a team's own data, and the other files of a repository that has none of them."""

import math
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, JsonValue

from checks.config import params_edit, params_file, starting
from checks.config.starting import Choice
from checks.formats.placeholder_cards import PLACEHOLDERS
from checks.formats.survey import SURVEY, Contents, Measured, Request
from checks.process.errors import ParamsRefused
from checks.storage import files, layout
from release.adapters import dvc, pin, thin_files
from release.adapters.team_folder import TeamFolder
from release.overlay import edits, environment_file, kustomization
from release.verbs import server

M = TypeVar("M", bound=BaseModel)

_ENVIRONMENTS = ("staging", "production")
_WORDS = 1_000_000  # before the longest prompt is known, none is dropped
# Tokens of a prompt. Longer ones need a person's decision about memory and the base.
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


def read_columns(folder: TeamFolder, file: Path) -> tuple[str, Contents]:
    """Return the address of ``file`` for params.yaml, and its columns.

    Raises DataRefused for a file that cannot be read, or that the pipeline would overwrite; and as ``dvc.python``.
    """
    return folder.address(file), _survey(folder, Contents, str(file.resolve()))


def begin(
    folder: TeamFolder,
    choice: Choice,
    *,
    margin_given: bool,
    words: int | None = None,
    runtime: str | None = None,
) -> Begun:
    """Prepare the rows as ``choice`` says, plan the test split, and make the new text. Writes no params.yaml.

    ``words``: longer prompts are dropped; None: none are. ``runtime``: of the server; None: that of params.yaml.

    Raises ParamsRefused for licences that do not fit or a choice that params.yaml cannot express, DataRefused for too
    few rows, and as ``dvc.python``.
    """
    params = folder.params
    starting.adapter(choice.base_license or params.base.license or "", choice.license)
    looks_gates = [name for name, gate in params.gates.items() if gate.kind == "looks"]
    if choice.looks and not looks_gates:
        raise ParamsRefused(
            "--looks: params.yaml has no gate of kind looks", "add one: docs/reference/gates.md"
        )
    shares = choice.looks or starting.models(params)
    name = Path(choice.uri).name
    request = Request(
        file=folder.path(choice.uri), prepare=starting.prepare(choice, name, words or _WORDS, (0.1, 0.1)),
        labels=choice.labels, test_rows=starting.rows_needed(choice.margin, shares),
        max_test_share=starting.MOST_TEST, longest=_LONGEST, base=choice.base and folder.path(choice.base),
    )  # fmt: skip
    measured = _survey(folder, Measured, "--request", request.model_dump_json())
    margin = starting.held_margin(measured, choice.margin, shares, given=margin_given)
    choice = choice._replace(margin=margin)
    # Half as many words again as the longest prompt has, because later rows may be longer.
    most = math.ceil(1.5 * measured.words / 10) * 10
    prepared: dict[str, Any] = starting.prepare(
        choice, name, words or most, (measured.valid, measured.test)
    )
    text = starting.written(folder.old, params, choice, prepared, measured)
    if choice.looks:
        looks: dict[str, JsonValue] = {f"gates.{name}.most": choice.looks for name in looks_gates}
        text = params_edit.with_values(text, looks)
    if runtime:
        text = server.with_runtime(folder.root, text, runtime)
    needed = starting.rows_needed(margin, shares)
    cards = tuple(PLACEHOLDERS) if folder.plan else folder.example_cards()
    left_out = starting.left_out(params, params_file.parse(text))
    return Begun(text, choice, measured, needed, left_out, cards)


class Written(NamedTuple):
    """The new files of a thin repository by path, and whether the example's record was removed from a clone."""

    files: tuple[str, ...]
    removed_record: bool


def write(folder: TeamFolder, begun: Begun) -> Written:
    """Write params.yaml, and the other files if they are missing.

    Where the cards would describe the example, they get placeholders, which `lockstep card` refuses.

    Once the removal is committed to the target branch, no gate compares a model of the team's task with the example's.
    Raises as ``thin_files.install``.
    """
    if folder.plan:
        texts = {layout.PARAMS: begun.text, pin.PATH: folder.pin} | PLACEHOLDERS
        for environment in _ENVIRONMENTS:
            texts |= _environment(environment, begun.choice.name)
        named = {path.as_posix(): text for path, text in texts.items()}
        return Written(thin_files.install(folder.plan, named), removed_record=False)
    root = folder.root
    if folder.is_example:  # first: if this command is killed here, the next one does the rest
        folder.remove_record()
    for card in begun.cards:
        files.write_text(root / card, PLACEHOLDERS[card])
    files.write_text(root / layout.PARAMS, begun.text)
    return Written((), removed_record=folder.is_example)


def _environment(environment: str, model: str) -> dict[Path, str]:
    """Return the files of an environment, in a namespace of the model's."""
    path = environment_file.path(environment)
    template = thin_files.templates()[path.as_posix()].decode()
    namespace = f"{model.replace('_', '-')[:50]}-{environment}"
    text = re.sub(
        r"^namespace: .*$", f"namespace: {namespace}", template, count=1, flags=re.MULTILINE
    )
    file = environment_file.read(environment, {path: text.encode()})
    rendered = {path.with_name(kustomization.NAME): kustomization.render(environment, file)}
    rendered |= edits.shared_files(file)
    return {path: text} | {name: data.decode() for name, data in rendered.items()}


def _survey(folder: TeamFolder, contents: type[M], *arguments: str) -> M:
    """Let the stages look at the data, in a folder of its own, and return what they wrote to ``SURVEY``."""
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        files.write_text(aside / layout.PARAMS, folder.old)
        dvc.python(aside, ["-m", "stages.survey", *arguments], "the look at the data", aside=True)
        return files.read_json(aside / SURVEY, contents)
