"""Loader of prepare: canaries of a pinned file, each as often as the file says. ``checks.data.canaries`` has its form.

It is for a source of ``data.sources`` with ``splits: [train]``. Rules of prepare.rules do not apply to its rows.
"""

from pathlib import Path
from typing import ClassVar, Literal

from checks.data import canaries
from checks.data.drafts import Draft
from checks.kinds.loader import Loader
from checks.process.errors import DataRefused, EvidenceRefused


class Canaries(Loader):
    """Canaries, to measure what a model memorises: see docs/how-to/privacy.md."""

    planted: ClassVar[bool] = True

    kind: Literal["canaries"]

    def load(self, folder: Path) -> list[Draft]:
        """Every canary, each time that it is planted."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if len(paths) != 1:
            raise DataRefused(
                f"loader canaries: found {len(paths)} files, but reads exactly one",
                "name the file in the source's uri",
            )
        (path,) = paths
        try:
            planted = canaries.read(path)
        except EvidenceRefused as refused:
            raise DataRefused(refused.what.removeprefix(f"{folder}/"), refused.todo) from refused
        return [
            Draft(
                before=(), prompt=canary.messages[0].content, reference=(answer := canary.reference), answer=answer,
                slice="all", source=f"{path.name}:{canary.line}", id=f"{canary.id}.{copy}",
                group=f"canary {canary.id}",
            )
            for canary in planted for copy in range(1, canary.family.repeats + 1)
        ]  # fmt: skip
