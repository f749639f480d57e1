"""The DVC remote as a place for checkpoints, beside its cache, through DVC's file system object.

So any kind of remote works, with DVC's credentials. Nothing is listed, because not every kind of remote can list: a
manifest, which is written last, names the folder with the checkpoint.
"""

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checks.process.errors import RemoteRefused

SWITCH = "LOCKSTEP_REMOTE"  # `lockstep run --remote` sets it to 1
_MANIFEST = "manifest.json"
_PATIENCE = 120.0  # seconds for the file that is being uploaded when the training ends


class Remote:
    """A folder on the DVC remote. Any failure is raised as RemoteRefused."""

    def __init__(self, name: str, fs: Any, path: str) -> None:
        self.name = name
        self._fs, self._path = fs, path
        self.newest: str | None = None  # folder of the checkpoint that the manifest names
        self._old: str | None = None  # the one that it named before
        self._removes = True

    @classmethod
    def of(cls, root: Path, folder: str) -> "Remote | None":
        """``folder`` on the repository's default remote; None unless LOCKSTEP_REMOTE is 1 and there is one."""
        if os.environ.get(SWITCH) != "1":
            return None
        with _refusing():
            from dvc.config import Config
            from dvc.fs import get_cloud_fs

            config = Config(str(root / ".dvc"))
            name = config["core"].get("remote")
            if not name:
                return None
            # Not Repo.cloud.get_remote(): it opens the index that the `dvc repro` around this stage has open.
            kind, settings, path = get_cloud_fs(config, name=name)
            fs = kind(**settings)
            return cls(name, fs, fs.join(path, *folder.split("/")))

    def manifest(self, target: Path) -> bool:
        """Download the manifest to ``target``; returns whether there is one."""
        with _refusing():
            try:
                self._fs.get_file(self._fs.join(self._path, _MANIFEST), str(target))
            except FileNotFoundError:
                return False
        return True

    def fetch(self, folder: str, names: Iterable[str], target: Path) -> None:
        """Download files of a checkpoint into the folder ``target``."""
        with _refusing():
            for name in names:
                self._fs.get_file(self._fs.join(self._path, folder, name), str(target / name))

    def put(
        self,
        source: Path,
        folder: str,
        names: Iterable[str],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Upload files of ``source`` to ``folder``, then the manifest; stop early if ``stopped``."""
        with _refusing():
            self._fs.makedirs(self._fs.join(self._path, folder))
            for name in names:
                if stopped():
                    return
                self._fs.put_file(str(source / name), self._fs.join(self._path, folder, name))
            self._fs.put_file(str(source / _MANIFEST), self._fs.join(self._path, _MANIFEST))
            self._old, self.newest = self.newest, folder

    def drop(self) -> None:
        """Delete what the last upload replaced. A remote that cannot delete (HTTP) is tried only once."""
        old, self._old = self._old, None
        if self._removes and old not in (None, self.newest):
            self._removes = False
            with _refusing():
                self._fs.rm(self._fs.join(self._path, old), recursive=True)
            self._removes = True

    def remove(self) -> None:
        """Delete the whole folder, with leftovers of killed uploads."""
        manifest = self._fs.join(self._path, _MANIFEST)
        with _refusing():
            if self._fs.exists(self._path):
                self._fs.rm(self._path, recursive=True)
            if self._fs.exists(manifest):
                raise NotImplementedError(
                    f"{manifest} stays, since this kind of remote removes nothing"
                )


class Upload:
    """At most one upload at a time, in a thread: neither the GPU nor the end of a killed training waits for it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._folder: Path | None = None

    @property
    def busy(self) -> bool:
        """Whether an upload is running."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def folder(self) -> Path | None:
        """Return the folder that is being uploaded, which must not be deleted."""
        return self._folder if self.busy else None

    def start(self, remote: Remote, source: Path, step: int, folder: str, names: list[str]) -> None:
        """Upload the checkpoint of ``step`` in the background; a failure is printed on one line."""
        self._folder = source
        self._thread = threading.Thread(
            target=self._work,
            args=(remote, source, step, folder, names),
            name="checkpoint",
            daemon=True,
        )
        self._thread.start()

    def _work(self, remote: Remote, source: Path, step: int, folder: str, names: list[str]) -> None:
        failure = f"the checkpoint of step {step} is not on the remote"
        try:
            remote.put(source, folder, names, self._stop.is_set)
            failure = "older checkpoints stay on the remote"
            remote.drop()
        except RemoteRefused as refusal:
            self._say(f"{failure}: {refusal.what}")

    def ended(self) -> bool:
        """Stop after the current file; returns whether the upload ended within two minutes."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
        return not self.busy


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn any error of a remote, or of a missing DVC, into RemoteRefused on one line."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        # Show no user and no password of an address.
        reason = re.sub(r"://[^\s/]*@", "://", lines[0])[:300]
        raise RemoteRefused(
            f"{type(error).__name__}: {reason}",
            "see `./lockstep dvc remote list` and `./lockstep dvc doctor`",
        ) from error
