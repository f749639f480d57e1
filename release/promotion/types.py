"""The input of a move's checks: the context that decides it, and the record that the signed statement names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from checks.config.params import Params
from checks.config.release_params import Environment, Promote, Serve
from checks.formats.pointer import Pointer
from checks.formats.signers import Signers
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from checks.storage.digest import FileDigest
from release.adapters.registry.documents import Manifest
from release.adapters.registry.types import Store
from release.ledger import Change, Ledger, Move, Tag, missing, naming
from release.record.records import Records


class PromotionContext(NamedTuple):
    """Everything that decides a move.

    ``target``: the branch of this repository that rules and signers come from; ``trunk``: its commit. ``serve``: how
    its images are built. ``tip``: the commit of the ledger that all decisions are based on.
    """

    records: Records
    target: str
    trunk: str
    promote: Promote
    serve: Serve
    signers: Signers
    ledger: Ledger
    tip: str

    @property
    def root(self) -> Path:
        """The folder of the clone."""
        return self.records.root

    @property
    def name(self) -> str:
        """The name of the model in tags."""
        return self.ledger.model_name(self.serve.name)

    def rule(self, environment: str) -> Environment:
        """The rules of the environment. Raises EvidenceRefused if there is no such environment."""
        if environment not in self.promote.environments:
            raise EvidenceRefused(
                f"environment {environment[:60]!r}: {layout.PARAMS} of {self.target} names no such one",
                f"use one of {', '.join(self.promote.environments)}",
            )
        return self.promote.environments[environment]

    def moves(self) -> list[Move]:
        """The moves of all environments, which versions and tags are numbered by."""
        return naming(
            move for name in self.promote.ordered for move in self.ledger.moves(self.tip, name)
        )

    def runs(self, environment: str) -> Pointer | None:
        """Return what an environment runs after its last move; None also if its pointer cannot be read."""
        moves = self.ledger.moves(self.tip, environment)
        return moves[0].after if moves else None

    def made(self, change: Change) -> tuple[str, ...]:
        """The names of the tags of ``change`` that the last commit created, or would create."""
        lost = {line.split(": ")[0] for line in self.ledger.untagged}
        return tuple(tag.name for tag in change.tags if f"tag {tag.name}" not in lost)

    def missing_tags(self) -> tuple[Tag, ...]:
        """Tags that belong to past moves but do not exist, as after a merged pull request."""
        return missing(self.name, self.ledger.tags(), self.moves())


class ImageRecord(NamedTuple):
    """The parts of the commit's record that decide the image."""

    params: Params
    files: Mapping[str, FileDigest]  # Files of the model.


class StoredImage(NamedTuple):
    """An image in its store."""

    store: Store
    manifest: Manifest
    config: dict[str, Any]
