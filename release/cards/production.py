"""Defines what production did with a release: the signed windows of `lockstep watch`, and rollbacks away from it."""

from collections.abc import Iterable
from pathlib import Path

from checks.formats.signers import Signers
from checks.formats.watch_report import WatchReport
from checks.records.rows import Record
from release.evidence import windows
from release.ledger import Move
from release.pages import templates


class Production(Record):
    """``windows``: those that a current signer signed, the latest first. ``rollbacks``: moves away from the release.

    ``rollbacks`` None: the record is of no release, so that nothing can have moved away from it.
    """

    windows: tuple[WatchReport, ...]
    rollbacks: tuple[Move, ...] | None = None


def gather(
    root: Path, known: Signers | str, model: str, rollbacks: Iterable[Move] | None = None
) -> tuple[Production, list[str]]:
    """Return what the windows below ``root`` say of the weights ``model``, and why files do not count.

    ``known``: the signers that count now, or why that is not known.
    """
    kept = None if rollbacks is None else tuple(rollbacks)
    if isinstance(known, str):
        return Production(windows=(), rollbacks=kept), []
    reports, problems = windows.read(root, known, model)
    return Production(windows=reports, rollbacks=kept), problems


def away(moves: Iterable[Move], image: str) -> list[Move]:
    """Return the rollbacks among ``moves`` that took the image with the digest ``image`` away."""
    return [
        move
        for move in moves
        if move.kind == "rollback" and move.before and move.before.digest == image
    ]


def written(production: Production) -> str:
    """Return it as Markdown."""
    values = {"production": production}
    return templates.render("release.cards", "production.md.jinja", "shown", values)
