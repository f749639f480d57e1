"""Which release an environment runs, and which one is to follow it."""

from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.formats.captures import release_named
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import layout
from release.ledger import Ledger


class Sides(NamedTuple):
    """The first 12 digits of both models. ``runs_in``: the environment that runs the candidate, if one was named."""

    production: str
    candidate: str
    runs_in: str | None


def check_known(params: Params, environment: str, key: str = "") -> None:
    """Raise ParamsRefused if there is no such environment. ``key``: of params.yaml, where that names it."""
    if environment not in params.promote.environments:
        raise ParamsRefused(
            f"{layout.PARAMS}: {key}promote.environments has no {environment!r}",
            f"use one of {', '.join(params.promote.ordered)}",
        )


def runs(root: Path, params: Params, environment: str, ledger: Ledger | None = None) -> Pointer:
    """Return what ``environment`` runs. ``ledger``: None: that of ``root``.

    Raises ParamsRefused if there is no such environment, EvidenceRefused if it runs nothing.
    """
    check_known(params, environment)
    ledger = ledger or Ledger.open(root, params.promote)
    tip = ledger.begun()
    release = None if tip is None else ledger.pointer(tip, environment)
    if release is None:
        raise EvidenceRefused(
            f"{environment}: runs no release", f"`lockstep promote {environment}` moves it to one"
        )
    return release


def both(
    root: Path, params: Params, environment: str, named: str | None, ledger: Ledger | None = None
) -> Sides:
    """Return the releases of ``environment`` and of the candidate that is to follow.

    ``named``: an environment that runs the candidate, or the digest of its model; None: the environment that must run
    it first. ``environment`` itself: its release is the candidate, and is compared with the one that it ran before.
    Raises as ``runs``, and EvidenceRefused if there is no candidate, or if both are the same.
    """
    now = runs(root, params, environment, ledger)
    production = short(now.model)
    named = named or params.promote.environments[environment].after
    if named == environment:
        ran = _before(ledger or Ledger.open(root, params.promote), environment, now)
        return Sides(short(ran.model), production, environment)
    todo = "name an environment, or the digest of a model, with --candidate-release"
    if named is None:
        raise EvidenceRefused(
            f"{environment}: no environment comes before it, so the candidate is not known", todo
        )
    if named in params.promote.environments:
        candidate = short(runs(root, params, named, ledger).model)
    elif digest_named := release_named(named):
        candidate = digest_named
    else:
        raise EvidenceRefused(
            f"{named[:80]!r}: is neither an environment nor the digest of a model", todo
        )
    if candidate == production:
        raise EvidenceRefused(f"{environment} runs the candidate {candidate} already", todo)
    return Sides(production, candidate, named if named in params.promote.environments else None)


def _before(ledger: Ledger, environment: str, now: Pointer) -> Pointer:
    for move in ledger.moves(ledger.begun() or "", environment):
        if move.kind == "rollback":
            raise EvidenceRefused(
                f"{environment}: was rolled back to {now.version}, so no candidate runs there",
                "promote another first",
            )
        if move.before is not None and move.before.model != now.model:
            return move.before
    raise EvidenceRefused(
        f"{environment}: ran no other model before {now.version}", "name another candidate"
    )


def short(model: str) -> str:
    """Return the first 12 digits of a model's digest, as the gateway names its release."""
    return model.removeprefix("sha256:")[:12]
