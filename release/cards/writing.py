"""The cards and the write-up of a record: rendered, written, and compared with what was written."""

import re
from pathlib import Path

from markupsafe import Markup

from checks import files, layout
from checks.errors import EvidenceRefused, MachineRefused
from release.cards import croissant, hub_metadata
from release.cards.card_facts import CardFacts, Prose
from release.review import templates

FOLDER = layout.REPORTS / "cards"
MODEL, DATA, REPORT, CROISSANT = "model.md", "data.md", "REPORT.md", "croissant.json"


def render(facts: CardFacts) -> dict[str, str]:
    """Each file's name and text. The same record and prose give the same bytes. Raises as ``hub_metadata``."""
    return {
        MODEL: hub_metadata.model(facts, _body("model_card", facts, facts.model_prose)),
        DATA: hub_metadata.dataset(facts, _body("data_card", facts, facts.data_prose)),
        REPORT: f"{_body('report', facts, facts.model_prose)}\n",
        CROISSANT: croissant.dataset(facts),
    }


def readable(facts: CardFacts) -> dict[str, str]:
    """The cards of the model and of the data as Markdown without metadata and title, by their names on a page."""
    bodies = {
        "Model card": _body("model_card", facts, facts.model_prose),
        "Data card": _body("data_card", facts, facts.data_prose),
    }
    return {name: body.partition("\n# ")[2].partition("\n")[2].strip() for name, body in bodies.items()}


def write(folder: Path, cards: dict[str, str]) -> list[Path]:
    """Write the files; their paths. Raises MachineRefused if one cannot be written."""
    for name, text in cards.items():
        try:
            files.write_text(folder / name, text)
        except OSError as error:
            raise MachineRefused(f"{folder / name}: {error.strerror}", "name a folder that you may write") from error
    return [folder / name for name in cards]


def check(folder: Path, cards: dict[str, str]) -> list[Path]:
    """The files, if they are what the record and the prose say now. Raises EvidenceRefused with each that is not."""
    wrong = []
    for name, text in cards.items():
        path = folder / name
        try:
            here = path.read_bytes()
        except OSError:
            wrong.append(f"{path}: is missing")
            continue
        if here != text.encode():
            wrong.append(f"{path}: is older than its record or its prose, or was changed by hand")
    if wrong:
        raise EvidenceRefused(wrong[0], "run `lockstep card`, and commit what it writes", tuple(wrong[1:]))
    return [folder / name for name in cards]


def _body(macro: str, facts: CardFacts, prose: Prose) -> str:
    methods = [step.method for step in facts.train.chain] or [facts.params.train.method]
    module = templates.environment("release.cards").get_template("cards.md.jinja").make_module({})
    text = getattr(module, macro)(facts, methods, Markup(prose.text))  # noqa: S704  # people wrote it as Markdown
    return re.sub(r"\n{3,}", "\n\n", text).strip()
