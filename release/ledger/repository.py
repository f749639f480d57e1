"""The ledger as the verbs see it."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from checks import layout, pointer
from checks.errors import EvidenceRefused
from checks.pointer import Pointer
from checks.release_params import Promote
from release.ledger import held, here, moves, place, trees, walk, write
from release.ledger.held import Counts, Held
from release.ledger.place import Place
from release.ledger.types import Change, Move, Tags
from release.ledger.walk import Walk

DEADLINE = 60.0  # seconds for one call of git, those that ask a remote included


class Ledger:
    """The environments, as the branch that holds them says. Make one with ``open``.

    ``shown`` is what messages call it. ``untagged`` are the tags that the last ``commit`` could not make, a line each.
    """

    def __init__(self, where: Place, promote: Promote) -> None:
        self._place = where
        self._environments = tuple(promote.environments)
        self._tags: Tags | None = None
        self._walks: dict[str, Walk] = {}
        self._moves: dict[str, dict[str, tuple[Move, ...]]] = {}
        self.shown = where.shown
        self.untagged: tuple[str, ...] = ()

    @classmethod
    def open(cls, root: Path, promote: Promote, deadline: float = DEADLINE) -> Self:
        """The ledger that ``promote`` names, seen from the clone in ``root``. Asks no remote yet.

        Raises EvidenceRefused when ``root`` is no git repository, or it is not known which remote holds the branch;
        ParamsRefused when the address in params.yaml is none, or holds a password; MachineRefused without git.
        """
        return cls(place.find(root, promote, deadline), promote)

    def tip(self) -> str:
        """The branch's commit as it is now, brought here with its history.

        Raises RemoteRefused when the remote does not answer within the deadline, or has taken back what was seen there
        before; EvidenceRefused when there is no such branch.
        """
        if (tip := self.begun()) is None:
            where = self._place
            todo = f"git push {where.remote} {where.branch}" if where.remote else f"git branch {where.branch}"
            raise EvidenceRefused(f"{self.shown}: there is no such branch", f"make it ({todo}), or fix promote.branch")
        return tip

    def begun(self) -> str | None:
        """As ``tip``, but None where there is no such branch and none was seen: nothing was ever promoted there."""
        seen = place.still(self._place)
        if seen.tip is None:
            place.never_was(self._place)
            return None
        place.bring(self._place, seen.tip)
        self._tags = seen.tags
        return seen.tip

    def tags(self) -> Tags:
        """The ledger's tags as they were at the last ``tip``, which is asked if it was not yet."""
        if self._tags is None:
            self.tip()
        assert self._tags is not None
        return self._tags

    def read(self, commit: str, path: Path) -> bytes | None:
        """The file at ``path``, relative to the root, in ``commit``; None when there is none.

        Raises EvidenceRefused when it, or a folder on the way, is a link or anything else.
        """
        return trees.read(self._place.git, commit, self._place.prefix + path.as_posix())

    def files(self, commit: str, folder: Path) -> dict[Path, bytes]:
        """Every file below ``folder`` in ``commit``, by its path from the root. Raises as ``read``."""
        prefix = self._place.prefix
        found = trees.files(self._place.git, commit, prefix + folder.as_posix())
        return {Path(name.removeprefix(prefix)): data for name, data in found.items()}

    def regular(self, commit: str, folder: Path) -> dict[Path, bytes]:
        """The regular files below ``folder`` in ``commit``, which may be COMMIT^1; what is none is passed over."""
        prefix = self._place.prefix
        found = trees.regular(self._place.git, commit, prefix + folder.as_posix())
        return {Path(name.removeprefix(prefix)): data for name, data in found.items()}

    def gather(self, wanted: Sequence[tuple[str, Path]]) -> list[bytes | None]:
        """Files out of many commits, by two processes; None where there is none. A link is read as what it holds:
        for what is known by its digest.
        """
        prefix = self._place.prefix
        return self._place.git.named([f"{commit}:{prefix}{path.as_posix()}" for commit, path in wanted])

    def pointer(self, commit: str, environment: str) -> Pointer | None:
        """What the environment runs, as of ``commit``. Raises EvidenceRefused when it cannot be read."""
        path = layout.ENVIRONMENTS / self._known(environment) / layout.POINTER
        text = self.read(commit, path)
        return None if text is None else pointer.parse(text, f"{path} at {commit[:12]}")

    def quarantine(self, commit: str, counts: Counts | None = None) -> Held:
        """What no promotion may move, as of ``commit``: by the history of the file, so that only a release frees.

        ``release.ledger.held`` says how. ``counts`` says of a release why it does not count; None: each one does.
        Raises EvidenceRefused when the history is cut short.
        """
        path = f"{self._place.prefix}{layout.QUARANTINE}"
        return held.history(self._place.git, self._walk(commit), path, str(layout.QUARANTINE), counts)

    def moves(self, commit: str, environment: str) -> tuple[Move, ...]:
        """Every move of the environment up to ``commit``, newest first; ``release.ledger.moves`` says what counts.

        The history of all environments is read at once, and kept. Raises EvidenceRefused when it is cut short.
        """
        name = self._known(environment)
        if commit not in self._moves:
            self._moves[commit] = moves.history(self._place.git, self._walk(commit), self._pointers())
        return self._moves[commit][name][::-1]

    def since(self, commit: str, environment: str) -> datetime | None:
        """When the present pointer came to the environment, UTC; None when it runs nothing.

        The latest of the dates of the commit that landed it and of all that it follows. Raises EvidenceRefused when
        that commit is dated in the future or not at all, or the pointer cannot be read.
        """
        made = self.moves(commit, environment)
        if self.pointer(commit, environment) is None or not made:
            return None
        if todo := moves.unknown(made[0]):
            raise EvidenceRefused(f"since when {environment} runs what it runs is not known: {made[0].doubt}", todo)
        return made[0].at

    def commit(self, tip: str, change: Change) -> str:
        """Make one commit of ``change`` on ``tip``, and move the branch to it, together with the tags.

        Returns its hash; ``tip`` itself, with the tags made, when the files are so already. ``release.ledger.write``
        says how. A tag whose name is taken, or that the remote refuses, is left out: see ``untagged``. Raises Outrun
        when the branch is no longer at ``tip``; RemoteRefused when the remote refuses, fails, or does not show what it
        took; PromotionRefused when git knows nobody to commit as.
        """
        made, self.untagged = write.commit(self._place, tip, change, self._environments)
        self._tags = None
        return made

    def propose(self, tip: str, change: Change, branch: str) -> str:
        """Push one commit of ``change`` on ``tip`` to a new ``branch``, for a pull request; its tags are not made.

        Returns its hash; ``tip`` itself when the files are so already. A branch that is there with the same change is
        taken as it is. Raises as ``commit``.
        """
        return write.propose(self._place, tip, change, branch)

    def settle(self, tip: str) -> None:
        """Where the branch of this clone is the ledger: finish what a killed run left, once ``tip`` is its move.

        Files of a work tree that has the branch checked out, and that are as they were before the move, follow it.
        With a remote there is nothing to finish.
        """
        if self._place.remote is None:
            here.follow(self._place, tip)

    def _pointers(self) -> dict[str, str]:
        """Where the pointer of each environment lies, from the top."""
        return {
            name: f"{self._place.prefix}{layout.ENVIRONMENTS}/{name}/{layout.POINTER}" for name in self._environments
        }

    def _walk(self, commit: str) -> Walk:
        if commit not in self._walks:
            paths = [*self._pointers().values(), f"{self._place.prefix}{layout.QUARANTINE}"]
            self._walks[commit] = walk.walk(self._place.git, commit, paths)
        return self._walks[commit]

    def _known(self, environment: str) -> str:
        if environment not in self._environments:
            raise EvidenceRefused(
                f"environment {environment[:60]!r}: params.yaml names no such one",
                f"use one of {', '.join(self._environments)}",
            )
        return environment
