"""Finds the releases that the ledger knows, each with its signed statement, held against the record of its commit.

What a page says of a release comes from files of that commit, and the signed statement names those files by digest. A
file that is another one refuses.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from checks.formats.pointer import Pointer
from checks.formats.signers import Signers
from checks.formats.statement import Release
from checks.process.errors import EvidenceRefused, MachineRefused
from checks.records.record import Digest
from checks.storage import digest, layout
from release.adapters import commits
from release.evidence import trust
from release.ledger import Ledger, Move, released_pointers
from release.ledger.moves import ran, recorded
from release.record.records import Records


class Released(NamedTuple):
    """One image that ran. ``moves``: those of all environments to it, the newest first, each with its own pointer."""

    pointer: Pointer
    moves: tuple[Move, ...]
    envelope: released_pointers.Envelope | None

    @property
    def names(self) -> tuple[str, str, str]:
        """The names that people give it."""
        return self.pointer.version, self.pointer.digest, self.pointer.image

    @property
    def evidence(self) -> released_pointers.Envelope:
        """Its signed statement. Raises EvidenceRefused if the pointer does not name one that can be read."""
        if self.envelope is None:
            path = released_pointers.path(self.moves[0].environment)
            raise EvidenceRefused(
                f"{self.pointer.version}: {path} at {self.moves[0].commit[:12]} is not the signed statement that the "
                "pointer names",
                "restore it from git's history: only a promotion or a rollback writes it",
            )
        return self.envelope

    @property
    def first(self) -> Move:
        """The move that deployed it first."""
        return self.moves[-1]


def moves(ledger: Ledger, tip: str, environments: tuple[str, ...]) -> list[Move]:
    """Every move that ran in one of ``environments``, the newest first. Raises as ``Ledger.moves``."""
    places = ledger.places(tip)
    return sorted(
        (
            move
            for name in environments
            for move in ran(tuple(entry for entry in ledger.moves(tip, name) if entry.ran))
        ),
        # Moves that one merge brought are in the order in which a release goes from environment to environment.
        key=lambda move: (places[move.landed], environments.index(move.environment), move.number),
        reverse=True,
    )


def every(ledger: Ledger, tip: str, environments: tuple[str, ...]) -> tuple[Released, ...]:
    """Every image that ran in one of ``environments``, the last that came first. Raises as ``moves``."""
    known = released_pointers.releases(ledger, tip, environments)
    deployed = moves(ledger, tip, environments)
    places = ledger.places(tip)
    releases = [
        Released(
            pointer,
            tuple(move for move in deployed if move.after and move.after.image == image),
            envelope,
        )
        for image, (pointer, envelope) in known.items()
    ]
    return tuple(
        sorted(
            releases,
            key=lambda release: (places[release.first.landed], release.first.number),
            reverse=True,
        )
    )


def at(ledger: Ledger, tip: str, environments: tuple[str, ...], name: str) -> Released:
    """Return the release that ``name`` means at the commit ``tip``: an environment, a version or an image's digest.

    Raises EvidenceRefused if there is none, or more than one.
    """
    by_environment = {place: ran(ledger.moves(tip, place)) for place in environments}
    return named(every(ledger, tip, environments), by_environment, name)


def named(
    releases: Sequence[Released], by_environment: Mapping[str, Sequence[Move]], name: str
) -> Released:
    """The one of ``releases`` that ``name`` means.

    ``by_environment``: the moves of each environment, newest first. Raises as ``at``.
    """
    if name in by_environment:
        last = by_environment[name][0].after if by_environment[name] else None
        matching = [release for release in releases if last and release.pointer.image == last.image]
        why = f"{name} runs nothing"
    else:
        matching = [release for release in releases if name in release.names]
        why = f"{name[:100]!r} is no release that ran"
    if not matching:
        known = (
            ", ".join(dict.fromkeys(release.pointer.version for release in releases)) or "none yet"
        )
        raise EvidenceRefused(
            why,
            f"name an environment ({', '.join(by_environment)}), or a release of `lockstep history`: {known}",
        )
    if len(matching) > 1:
        raise EvidenceRefused(
            f"{name}: {len(matching)} images have this version",
            f"name one: {', '.join(release.pointer.digest for release in matching)}",
        )
    return matching[0]


def stated(records: Records, release: Released) -> Release:
    """Return what the statement of ``release`` says, if the record of its commit is the one that it names.

    Raises EvidenceRefused with every file that is another one, if the commit is not in this clone, or if there is no
    statement that can be read.
    """
    pointer, name = release.pointer, release.pointer.version
    statement = release.evidence.statement.predicate
    if commits.resolve(records.root, pointer.commit) != pointer.commit:
        raise EvidenceRefused(
            f"{name}: commit {pointer.commit[:12]}, whose record made it, is not in this clone",
            "git fetch the branch that it was merged to",
        )
    EvidenceRefused.raise_for(
        (f"{name}: {line}" for line in _differences(records, pointer, statement)),
        "do not trust it: `lockstep status` and `lockstep history` say more",
    )
    return statement


def _differences(records: Records, pointer: Pointer, statement: Release) -> Iterator[str]:
    """One line for each thing that the signed statement says otherwise than the pointer or the commit."""
    for what, named, signed in (
        ("image", pointer.digest, statement.image.image), ("model", pointer.model, statement.image.model),
        ("commit", pointer.commit, statement.commit),
    ):  # fmt: skip
        if named != signed:
            yield f"the pointer names the {what} {named}, the signed statement {signed}"
    wanted = record_files(statement)
    commit = records.at(pointer.commit)
    commit.bring(list(wanted))
    for path, value in wanted.items():
        data = commit.data(path)
        if data is None:
            yield f"commit {pointer.commit[:12]} has no {path}, and the signed statement names it"
        elif (here := digest.of_bytes(data)) != value:
            yield f"{path} at {pointer.commit[:12]} is {here}, the signed statement names {value}"


def record_files(statement: Release) -> dict[Path, Digest]:
    """Return the files of the record that a signed statement names, each with its digest."""
    made = statement.materials
    return {
        layout.PARAMS: made.params, layout.LOCK: made.lock, layout.VERDICT: made.verdict,
        **{Path(name): value for name, value in made.reports.items()},
    }  # fmt: skip


def signed_by(release: Released, known: Signers) -> str:
    """As ``signer``. Raises EvidenceRefused, with the reason, if none of ``known`` signed it."""
    name, why = signer(release, known)
    if name is None:
        raise EvidenceRefused(
            f"{release.pointer.version}: no current signer signed it: {why}",
            "`lockstep sign`, then promote it",
        )
    return name


def signer(release: Released, known: Signers) -> tuple[str | None, str]:
    """Who signed it, of the signers that count now or did when it first ran; else None and the reason."""
    path = str(released_pointers.path(release.moves[0].environment))
    try:
        return trust.verify(
            release.evidence.data,
            known,
            "release",
            path,
            offline=True,
            at=recorded(release.moves, release.pointer),
        ).signer, ""
    except (EvidenceRefused, MachineRefused) as refused:
        return None, refused.what
