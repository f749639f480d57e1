"""``s3://``, ``gs://``, ``https://`` and every other URL that fsspec opens: a file, or a folder of an object store.

An interrupted transfer is continued.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from checks.process import distribution
from checks.process.errors import MachineRefused, SourceRefused
from checks.storage import layout
from stages import progress
from stages.sources import uris
from stages.sources.location import Location

_BLOCK = 1 << 20
_ATTEMPTS = 3  # Attempts in a row that may bring no byte.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}


@dataclass(frozen=True)
class Remote(Location):
    """A URL for fsspec."""

    kind = "url"
    url: str

    @classmethod
    def parse(cls, uri: str, rest: str, field: str, root: Path) -> Self:
        """Take any URL; fsspec reads it when it is opened."""
        return cls(uri)

    @property
    def name(self) -> str:
        """The last part of the URL's path."""
        return file_name(self.url)

    def download(self, work: Path, field: str) -> tuple[Path, bool]:
        """Bring the file or folder below ``work``; return its path, and whether old bytes were continued.

        Bytes of an unfinished file lie below ``work/partial`` under a name that holds the file's size, and are
        continued by a later call when the size is still the same. Raises SourceRefused when the place cannot be
        read or the transfer breaks off for good, MachineRefused when the scheme needs a package.
        """
        fs, path = _file_system(self.url, field)
        shown = f"{layout.PARAMS}: {field}: {uris.redact(self.url)}"
        try:
            info = fs.info(path)
            is_file = info["type"] == "file"
            entries = {path: info} if is_file else fs.find(path, detail=True)
        except Exception as error:  # each backend raises its own
            raise SourceRefused(
                f"{shown}: {uris.reason(error, self.url)}",
                "check the URI, the credentials and the network",
            ) from error
        stem = path.rstrip("/") + "/"
        files = {
            file_name(self.url) if is_file else name.removeprefix(stem): name for name in entries
        }
        if not files or not all(uris.is_safe(name) for name in files):
            bad = next((name for name in files if not uris.is_safe(name)), "nothing")
            raise SourceRefused(
                f"{shown}: holds {bad!r}", "name a file, or a folder with files of plain names"
            )
        content, partial = work / "content", work / "partial"
        continued = content.exists()
        partial.mkdir(exist_ok=True)
        sizes = {name: entries[place].get("size") for name, place in files.items()}
        known = None if None in sizes.values() else sum(sizes.values())
        with progress.of_bytes(file_name(self.url), known) as bar:
            for name, place in sorted(files.items()):
                target = content / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_file() and target.stat().st_size == sizes[name]:
                    continued = True
                    bar.update(target.stat().st_size)
                    continue
                pending = (
                    partial / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{sizes[name]}"
                )
                try:
                    continued |= _transfer(fs, place, sizes[name], pending, bar)
                except _Interrupted as error:
                    raise SourceRefused(
                        f"{shown}: broke off after {pending.stat().st_size:,} bytes: "
                        f"{uris.reason(error.__cause__ or error, self.url)}",
                        "run it again to go on",
                    ) from error
                pending.replace(target)
        return (content / next(iter(files)) if is_file else content), continued


class _Interrupted(Exception):  # noqa: N818 - no error yet: the transfer is tried again
    """Reading from the other side failed; the cause says how."""


def file_name(url: str) -> str:
    """The last part of the URL's path, decoded; ``download`` when it has none."""
    parts = urlsplit(url)
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc.rpartition("@")[2]
    return name if uris.is_safe(name) and "/" not in name else "download"


def _file_system(url: str, field: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0].lower()
    try:
        import fsspec

        options: dict[str, Any] = {}
        if scheme in ("http", "https"):
            import aiohttp

            # fsspec's own limit of five minutes is for a whole file; trust_env honours proxies and ~/.netrc.
            limit = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            options = {"client_kwargs": {"trust_env": True, "timeout": limit}}
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        raise MachineRefused(
            f"{layout.PARAMS}: {field}: {scheme}:// needs a package that is absent",
            (
                distribution.install(extra)
                if extra
                else f"install what fsspec needs for it ({uris.reason(error, url)})"
            ),
        ) from error
    except Exception as error:  # unknown schemes, bad ports, absent credentials
        raise SourceRefused(
            f"{layout.PARAMS}: {field}: {uris.redact(url)}: {uris.reason(error, url)}",
            "use pypi://, hf://, s3://, gs://, https:// or a path",
        ) from error
    return fs, path


def _transfer(fs: Any, place: str, size: int | None, pending: Path, bar: Any) -> bool:
    """Read the whole of ``place`` into ``pending``; return whether it was read in more than one go."""
    if size is None:
        pending.unlink(missing_ok=True)
    done = pending.stat().st_size if pending.exists() else 0
    bar.update(done)
    pending.touch()
    continued, failures = done > 0, 0
    options: dict[str, int] = {}
    while done != size:
        before = done
        try:
            with pending.open("ab") as stream:
                for block in _blocks(fs, place, done, options):
                    stream.write(block)
                    done += len(block)
                    bar.update(len(block))
            if size is None or done > size:
                break  # where the size is unknown the end of the stream is the end; too many bytes fail by digest
            if done < size:
                raise _Interrupted from EOFError(f"{size:,} bytes were announced")
        except _Interrupted as error:
            # The server knows no ranges.
            from_start = size is None or isinstance(error.__cause__, ValueError)
            failures = 1 if done > before and not from_start else failures + 1
            if failures > _ATTEMPTS:
                raise
            if from_start:
                options = {"block_size": 0} if hasattr(fs, "encode_url") else {}
                bar.update(-done)
                done = 0
                pending.write_bytes(b"")
            continued = continued or done > 0
            time.sleep(0.2 * failures)
    return continued


def _blocks(fs: Any, place: str, start: int, options: dict[str, int]) -> Iterator[bytes]:
    try:
        with fs.open(place, "rb", **options) as stream:
            if start:
                stream.seek(start)
            while block := stream.read(_BLOCK):
                yield block
    except Exception as error:  # each backend raises its own
        raise _Interrupted from error
