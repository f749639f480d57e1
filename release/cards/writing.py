"""The cards and the write-up of a record: rendered, written, and compared with what was written."""

from pathlib import Path

from markupsafe import Markup

from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.cards import croissant, hub_metadata, production
from release.cards.card_facts import CardFacts, Prose
from release.pages import html, templates

FOLDER = layout.REPORTS / "cards"
MODEL, DATA, REPORT, CROISSANT = "model.md", "data.md", "REPORT.md", "croissant.json"


def render(facts: CardFacts) -> dict[str, str]:
    """Return each file's text by name. The same record and prose give the same bytes. Raises as ``hub_metadata``."""
    return {
        MODEL: hub_metadata.model(facts, _body("model_card", facts, facts.model_prose)),
        DATA: hub_metadata.dataset(facts, _body("data_card", facts, facts.data_prose)),
        REPORT: f"{_body('report', facts, facts.model_prose)}\n",
        CROISSANT: croissant.dataset(facts),
    }


def readable(facts: CardFacts) -> dict[str, str]:
    """Return the cards of the model and of its data, without metadata and title, by their names on a page."""
    bodies = {
        "Model card": _body("model_card", facts, facts.model_prose),
        "Data card": _body("data_card", facts, facts.data_prose),
    }
    return {
        name: body.partition("\n# ")[2].partition("\n")[2].strip() for name, body in bodies.items()
    }


def write(folder: Path, cards: dict[str, str]) -> list[Path]:
    """Write the files and return their paths. Raises MachineRefused if one cannot be written."""
    for name, text in cards.items():
        html.write(folder / name, text)
    return [folder / name for name in cards]


def check(folder: Path, cards: dict[str, str]) -> list[Path]:
    """Return the files if they are what the record and the prose say now. Raises EvidenceRefused with all others."""
    wrong = []
    for name, text in cards.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: is missing")
        elif path.read_bytes() != text.encode():
            wrong.append(f"{path}: is older than its record or its prose, or was changed by hand")
    EvidenceRefused.raise_for(wrong, "run `lockstep card`, and commit what it writes")
    return [folder / name for name in cards]


def _body(macro: str, facts: CardFacts, prose: Prose) -> str:
    methods = [step.method for step in facts.train.chain] or [facts.params.train.method]
    written = Markup(prose.text)  # noqa: S704  # people wrote it as Markdown
    shown = Markup(production.written(facts.production))  # noqa: S704  # Markdown of a template
    values = {"facts": facts, "methods": methods, "prose": written, "production": shown}
    return templates.render("release.cards", "cards.md.jinja", macro, values)
