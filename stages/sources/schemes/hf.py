"""``hf://org/model@revision`` and ``hf://datasets/org/name@revision``, each with an optional ``/path/inside``.

A snapshot of a model hub's repository, through huggingface_hub. A ``/`` inside a revision is written ``%2F``.
The hub's address and token come from the usual environment (HF_ENDPOINT, HF_TOKEN, or a stored login).
"""

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from checks.process import distribution
from checks.process.errors import SourceRefused
from checks.storage import layout
from stages.sources import uris
from stages.sources.location import Location, refused

_URI = re.compile(
    r"(datasets/)?([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)?)@([A-Za-z0-9._%-]+)(?:/(.+))?"
)


@dataclass(frozen=True)
class Hub(Location):
    """A repository of a model hub at a revision, or the file or folder at ``path`` in it."""

    kind = "hf"
    repository: str
    holds: str  # "model" or "dataset"
    revision: str
    path: str | None

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Read repository, revision and path."""
        match = _URI.fullmatch(rest)
        if match is None or (match[4] is not None and not uris.is_safe(match[4])):
            raise refused(
                uri,
                field,
                "is not hf://org/model@revision or hf://datasets/org/name@revision",
                "write the repository, @ and a commit, tag or branch, then at most a /path/inside",
            )
        return cls(match[2], "dataset" if match[1] else "model", unquote(match[3]), match[4])

    @property
    def name(self) -> str:
        """The last part of the path, or the repository's name."""
        return (self.path or self.repository).rpartition("/")[2]

    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """Bring the snapshot (or the file or folder inside it) below ``work``; return its path, and whether an
        earlier run's files were continued.

        Raises SourceRefused when the hub cannot be reached, or has no such repository, revision or path;
        MachineRefused without huggingface_hub.
        """
        with distribution.needed("huggingface_hub is not installed", "pipeline"):
            from huggingface_hub import HfApi, snapshot_download
        place = f"{layout.PARAMS}: {field}: {self.holds} {self.repository}@{self.revision}"
        content = work / "content"
        continued = content.exists()
        content.mkdir(exist_ok=True)
        try:
            # Asked first: without an answer snapshot_download would take an unfinished folder for the snapshot.
            ask = HfApi().dataset_info if self.holds == "dataset" else HfApi().model_info
            info = ask(self.repository, revision=self.revision)
            names = {sibling.rfilename for sibling in info.siblings or ()}
            wanted = {
                name
                for name in names
                if self.path is None or f"{name}/".startswith(f"{self.path}/")
            }
            if not wanted:
                raise SourceRefused(
                    f"{place}: holds no {self.path or 'file'}",
                    "name a path that the repository has",
                )
            if bad := sorted(name for name in wanted if not uris.is_safe(name)):
                raise SourceRefused(
                    f"{place}: holds {bad[0]!r}, which leaves its folder",
                    "choose another repository",
                )
            only = None
            if self.path is not None:
                only = [glob.escape(self.path), glob.escape(self.path) + "/*"]
            snapshot_download(
                self.repository,
                repo_type=self.holds,
                revision=info.sha,
                local_dir=content,
                allow_patterns=only,
            )
        except SourceRefused:
            raise
        except Exception as error:  # hub, HTTP client and transfer library raise anything
            raise SourceRefused(
                f"{place}: {uris.reason(error, '')}",
                "check name, revision and network, and HF_TOKEN for a private or gated one; then run it again to go on",
            ) from error
        if missing := sorted(name for name in wanted if not (content / name).is_file()):
            raise SourceRefused(
                f"{place}: {len(missing)} files did not arrive, such as {missing[0]}",
                "run it again",
            )
        for path in content.rglob("*"):  # An interrupted run may leave files of another revision.
            if path.is_file() and path.relative_to(content).as_posix() not in wanted:
                path.unlink()
        return (content if self.path is None else content / self.path), continued
