"""The ledger's interface for the verbs."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from checks.config.release_params import Promote
from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from release.adapters import commits, projects
from release.ledger import (
    checkpoints,
    moves,
    place,
    push,
    quarantine,
    trees,
    walk,
    write,
)
from release.ledger.quarantine import Counts, Held
from release.ledger.types import Change, Move, Place, Tags

DEADLINE = 60.0  # seconds for one call of git, those that ask a remote included


class Ledger:
    """The environments on the branch that holds them. Create one with ``open``.

    ``shown``: its name in messages. ``untagged``: tags that the last ``commit`` could not create, one line each.
    """

    def __init__(self, where: Place, environments: Iterable[str]) -> None:
        self._place = where
        self._environments = tuple(environments)
        self._tags: Tags | None = None
        # A commit never changes, so that answers about one are kept.
        self._read = functools.cache(functools.partial(trees.read, where.git))
        self._files = functools.cache(functools.partial(trees.files, where.git))
        self._walk = functools.cache(self._walked)
        self._histories = functools.cache(self._history)
        self.shown = where.shown
        self.untagged: tuple[str, ...] = ()

    @classmethod
    def open(cls, root: Path, promote: Promote, deadline: float = DEADLINE) -> Self:
        """The ledger that ``promote`` names, for the clone in ``root``. Contacts no remote yet.

        Raises EvidenceRefused if ``root`` is not a git repository or it is unclear which remote has the branch,
        ParamsRefused if the address in params.yaml is invalid or contains a password, MachineRefused without git.
        """
        return cls(place.find(root, promote, deadline), promote.environments)

    def tip(self) -> str:
        """Fetch the branch's current commit with its history, and return it.

        Raises RemoteRefused if the remote does not answer in time or has reset what was there before, EvidenceRefused
        if there is no such branch.
        """
        if (tip := self.begun()) is None:
            place = self._place
            todo = (
                f"git push {place.remote} {place.branch}"
                if place.remote
                else f"git branch {place.branch}"
            )
            if not place.git.says("rev-parse", "--verify", "--quiet", "HEAD"):
                todo = "git add -A && git commit"  # the first
            raise EvidenceRefused(
                f"{self.shown}: there is no such branch", f"make it ({todo}), or fix promote.branch"
            )
        return tip

    def begun(self) -> str | None:
        """As ``tip``, but None if there is no such branch and there never was: nothing was promoted yet."""
        seen = place.still(self._place)
        if seen.tip is None:
            place.never_was(self._place)
            return None
        place.bring(self._place, seen.tip)
        self._tags = seen.tags
        return seen.tip

    def tags(self) -> Tags:
        """The ledger's tags as of the last ``tip``, which is fetched if it was not yet."""
        if self._tags is None:
            self.tip()
        assert self._tags is not None
        return self._tags

    def read(self, commit: str, path: Path) -> bytes | None:
        """The file at ``path`` in ``commit``; None if there is none. The answer is kept: a commit never changes.

        Raises EvidenceRefused if it, or a folder above it, is a link or anything else.
        """
        return self._read(commit, self._place.prefix + path.as_posix())

    def files(self, commit: str, folder: Path) -> dict[Path, bytes]:
        """Every file below ``folder`` in ``commit``, by its path, kept as by ``read``. Raises as ``read``."""
        prefix = self._place.prefix
        files = self._files(commit, prefix + folder.as_posix())
        return {Path(name.removeprefix(prefix)): data for name, data in files.items()}

    def regular(self, commit: str, folder: Path) -> dict[Path, bytes]:
        """The regular files below ``folder`` in ``commit``, which may be COMMIT^1; anything else is ignored."""
        prefix = self._place.prefix
        entries = trees.regular(self._place.git, commit, prefix + folder.as_posix())
        return {Path(name.removeprefix(prefix)): data for name, data in entries.items()}

    def gather(self, wanted: Sequence[tuple[str, Path]]) -> list[bytes | None]:
        """Files from many commits, read together; None if missing. A link is read as its text.

        For files that are identified by digest.
        """
        prefix = self._place.prefix
        return self._place.git.named(
            [f"{commit}:{prefix}{path.as_posix()}" for commit, path in wanted]
        )

    def versions(self, commit: str, folder: Path) -> list[bytes]:
        """Every content that a file below ``folder`` had in the history of ``commit``, each once, deleted ones too."""
        # The path counts from git's root and is no pattern.
        from_top = f":(top,literal){self._place.prefix}{folder.as_posix()}"
        return commits.versions(self._place.git.root, Path(from_top), commit)

    def pointer(self, commit: str, environment: str) -> Pointer | None:
        """Return what the environment runs, as of ``commit``. Raises EvidenceRefused if it cannot be read."""
        path = layout.ENVIRONMENTS / self._known(environment) / layout.POINTER
        text = self.read(commit, path)
        return None if text is None else pointer.parse(text, f"{path} at {commit[:12]}")

    def quarantine(self, commit: str, counts: Counts | None = None) -> Held:
        """The quarantine as of ``commit``, by the history of its file (``release.ledger.quarantine``).

        ``counts`` says of a release why it does not count; None: all count. Raises EvidenceRefused for a shallow clone.
        """
        path = f"{self._place.prefix}{layout.QUARANTINE}"
        return quarantine.history(
            self._place.git, self._walk(commit), path, str(layout.QUARANTINE), counts
        )

    def moves(self, commit: str, environment: str) -> tuple[Move, ...]:
        """Every move of the environment up to ``commit``, newest first (``release.ledger.moves``).

        The history of all environments is read at once and kept. Raises EvidenceRefused for a shallow clone.
        """
        return self._histories(commit)[self._known(environment)][::-1]

    def places(self, commit: str) -> dict[str, int]:
        """Return the place of each commit that a move can land with, in the branch's history up to ``commit``.

        Git counts seconds, so the times of moves cannot tell which came first. Raises as ``moves``.
        """
        return {name: place for place, (name, _) in enumerate(self._walk(commit).landings)}

    def since(self, commit: str, environment: str) -> datetime | None:
        """When the environment's current pointer was deployed (UTC); None if it runs nothing.

        It is the latest date of the commit that deployed it and of all its ancestors. Raises EvidenceRefused if that
        commit has a future date or none, or if the pointer cannot be read.
        """
        made = self.moves(commit, environment)
        if self.pointer(commit, environment) is None or not made:
            return None
        if todo := moves.unknown(made[0]):
            raise EvidenceRefused(
                f"since when {environment} runs what it runs is not known: {made[0].doubt}", todo
            )
        return made[0].at

    def recorded(self, commit: str, environment: str, pointer: Pointer) -> datetime | None:
        """When this ledger recorded the image on its evidence there (``moves.recorded``); None if it did not."""
        return moves.recorded(
            (move for move in self.moves(commit, environment) if move.ran), pointer
        )

    def commit(self, tip: str, change: Change) -> str:
        """Make one commit of ``change`` on ``tip``, and move the branch to it together with the tags.

        Returns its hash; if the files are unchanged, creates only the tags and returns ``tip``. See
        ``release.ledger.write``. A tag whose name is taken or that the remote refuses is skipped (``untagged``). Raises
        Outrun if the branch is no longer at ``tip``; RemoteRefused if the remote refuses, fails, or does not show what
        it accepted; PromotionRefused if git does not know who commits.
        """
        made, self.untagged = write.commit(self._place, tip, change, self._environments)
        self._tags = None
        return made

    def only_merged_since(self, commit: str) -> bool:
        """Whether the branch has another tip than ``commit``, without a difference below any release/environments.

        Raises as ``tip``.
        """
        now = self.tip()
        return now != commit and not projects.environments_differ(self._place.git, commit, now)

    def propose(self, tip: str, change: Change, branch: str) -> str:
        """Push one commit of ``change`` on ``tip`` to a new ``branch`` for a pull request, without its tags.

        Returns its hash; ``tip`` if the files are unchanged. An existing branch with the same change is accepted.
        Raises as ``commit``.
        """
        return write.propose(self._place, tip, change, branch)

    def model_name(self, name: str) -> str:
        """The name of the model ``name`` in tags."""
        return f"{self.folder}={name}" if self.folder else name

    @property
    def folder(self) -> str:
        """The project's folder below the git root; empty for the git root itself."""
        return self._place.prefix.rstrip("/")

    @property
    def branch(self) -> str:
        """The name of the branch."""
        return self._place.branch

    @property
    def remote(self) -> bool:
        """Whether the branch is that of a remote, not of this clone."""
        return self._place.remote is not None

    def checkpoint(self) -> checkpoints.Last | None:
        """The last signed checkpoint; None if there is none (``release.ledger.checkpoints``)."""
        return checkpoints.last(self._place)

    def add_checkpoint(self, head: str, signed: bytes, message: str) -> str:
        """Add a checkpoint of the commit ``head``. Raises as ``commit``."""
        return checkpoints.add(self._place, head, signed, message)

    def holds(self, head: str, tip: str) -> bool:
        """Whether the branch at ``tip`` contains the commit ``head``. Raises RemoteRefused if it moved meanwhile."""
        return checkpoints.holds(self._place, head, tip)

    def settle(self, tip: str) -> None:
        """For a ledger in this clone: finish a move that was killed, once ``tip`` is that move.

        Updates unmodified files of work trees that have the branch checked out. With a remote there is nothing to do.
        """
        if self._place.remote is None:
            push.follow(self._place, tip)

    def _pointers(self) -> dict[str, str]:
        """The path of each environment's pointer."""
        return {
            name: f"{self._place.prefix}{layout.ENVIRONMENTS}/{name}/{layout.POINTER}"
            for name in self._environments
        }

    def _walked(self, commit: str) -> walk.Walk:
        home = walk.literal(f"{self._place.prefix}{layout.ENVIRONMENTS}")
        name = self._environments[0] if len(self._environments) == 1 else "*"
        patterns = (f"{home}/{name}/{layout.POINTER}", f"{home}/{layout.QUARANTINE.name}")
        return walk.walk(self._place.git, commit, patterns)

    def _history(self, commit: str) -> Mapping[str, tuple[Move, ...]]:
        return moves.history(self._place.git, self._walk(commit), self._pointers())

    def _known(self, environment: str) -> str:
        if environment not in self._environments:
            raise EvidenceRefused(
                f"environment {environment[:60]!r}: params.yaml names no such one",
                f"use one of {', '.join(self._environments)}",
            )
        return environment
