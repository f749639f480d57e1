"""A Store in a folder: an OCI image layout (OCI image specification 1.1, image-layout.md).

A reader sees the old or the new index, and every blob that an index names is complete: a blob gets its name when all
its bytes are on disk, and the index is replaced after that. One builder at a time has the lock; a second one waits. The
system releases the lock if the builder is killed.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from checks.process.errors import BuildRefused, Refusal, RegistryRefused
from checks.storage import files
from checks.storage.digest import canonical_json
from release.adapters.registry import documents
from release.adapters.registry.documents import (
    INDEX,
    Blob,
    Descriptor,
    Document,
    Entry,
    Index,
    Manifest,
    Seen,
    StoreUnavailable,
    checked,
)
from release.image.hash_cache import Known, state

REF_NAME = "org.opencontainers.image.ref.name"
MODEL = "lockstep.model"  # the annotation of manifests that this tool made
_MARK = b'{"imageLayoutVersion":"1.0.0"}'
_PARTIAL = ".partial-"
_BLOCK = 1 << 20
_AGAIN = "make the layout again"


class Layout:
    """The images in ``folder``, which is created by the first ``held``; write only within ``held``.

    ``memory``: where ``known.Known`` remembers hashed blobs; None: ``has`` hashes every blob.
    """

    def __init__(self, folder: Path, memory: Path | None = None) -> None:
        self.name = str(folder)
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._known = Known(memory)

    # -- what a Store can do

    def has(self, digest: str, size: int) -> bool:
        """Whether the blob is there with this size, and had this digest when it was last changed.

        Its bytes are hashed once. After that its inode, size and change time stand for them, so that a rebuild reads
        nothing. Every write changes these. What they do not show (a failing disk, a clock set back by an administrator)
        is found by every reader of the image, because ``blob``, registries and engines hash again.
        """
        path = self._path(digest)
        before = state(path)
        if before is None or before[2] != size:
            return False
        if self._known.has(path):
            return True
        try:
            for _ in self.blob(digest, size):
                pass
        except RegistryRefused:
            return False
        self._known.note(path, before)
        return True

    def add(self, blob: Blob, digest: str | None, seen: Seen) -> str:
        """Write the blob to a temporary file, and name it by its digest once it is complete and on disk."""
        partial = self.folder / f"{_PARTIAL}{secrets.token_hex(8)}"
        hasher, size = hashlib.sha256(), 0
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(handle, "wb", buffering=0) as stream:
                for block in blob.blocks():
                    hasher.update(block)
                    stream.write(block)
                    size += len(block)
                    seen(len(block))
                os.fsync(stream.fileno())
            digest_read = f"sha256:{hasher.hexdigest()}"
            if size != blob.size or digest not in (None, digest_read):
                raise RegistryRefused(
                    f"{self.name}: was given {digest_read} of {size} bytes, not {digest or 'a blob'} of {blob.size}",
                    "try again; when it happens again, the source is damaged",
                )
            partial.replace(self._path(digest_read))
            self._known.note(self._path(digest_read), state(self._path(digest_read)))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        finally:
            partial.unlink(missing_ok=True)
        return digest_read

    def blob(self, digest: str, size: int) -> Iterator[bytes]:
        """The blob's bytes; the last block is given only if digest and size are right."""
        path = self._path(digest)
        if path.exists() and not path.is_file():  # a pipe would keep a reader waiting
            raise _damaged(path, "is not a regular file")
        try:
            with path.open("rb", buffering=0) as stream:
                actual = os.fstat(stream.fileno()).st_size
                if actual != size:
                    raise _damaged(path, f"has {actual} bytes and not {size}")
                blocks = iter(functools.partial(stream.read, _BLOCK), b"")
                other = _damaged(path, "has other bytes than its name says")
                yield from checked(blocks, digest, size, lambda *_: other)
        except FileNotFoundError as error:
            raise _absent(path, str(error.strerror)) from error
        except OSError as error:
            raise _damaged(path, error.strerror or str(error)) from error

    def document(self, reference: str) -> Document:
        """The manifest or index by digest, by tag, or for an empty reference the only one."""
        index = self._index()
        if reference.startswith("sha256:"):
            names = {reference}
        else:
            named = [
                e
                for e in index.manifests
                if not reference or (e.annotations or {}).get(REF_NAME) == reference
            ]
            names = {entry.digest for entry in named if reference or not self._attached(entry)}
        if len(names) != 1:
            wanted = f"tag {reference!r}" if reference else "its only image"
            kind = RegistryRefused if names else StoreUnavailable
            raise kind(f"{self.name}: {len(names)} images match {wanted}", "name one by its digest")
        (digest,) = names
        path = self._path(digest)
        there = state(path)
        if there is None or there[2] > documents.LARGEST:
            raise (_damaged if os.path.lexists(path) else _absent)(
                path, "is absent, or is not a manifest"
            )
        data = b"".join(self.blob(digest, there[2]))
        return Document(data, documents.guess(data, str(path)), digest)

    def put(self, data: bytes, media_type: str, tag: str | None) -> str:
        """Store a manifest and add it to the index. A manifest that had the tag stays, by digest, until ``keep``."""
        digest = self.add(Bytes(data), None, lambda _: None)
        index = self._index()
        entry = Entry(
            media_type=media_type,
            digest=digest,
            size=len(data),
            annotations={REF_NAME: tag} if tag else None,
        )
        kept = [
            e
            for e in index.manifests
            if not (tag and _tag(e) == tag) and (e.digest, _tag(e)) != (digest, None)
        ]
        lost = [
            e
            for e in index.manifests
            if e.digest not in {digest, *(other.digest for other in kept)}
        ]
        kept += [e.model_copy(update={"annotations": None}) for e in lost]
        if tag or all(e.digest != digest for e in kept):
            self._write_index(index, [*kept, entry])
        return digest

    def referrers(self, digest: str) -> list[Descriptor]:
        """The manifests of this folder whose subject is ``digest``."""
        entries = []
        for entry in self._index().manifests:
            manifest = self._manifest(entry)
            if manifest and manifest.subject and manifest.subject.digest == digest:
                entries.append(documents.referrer(manifest, entry))
        return entries

    # -- what only a folder can do

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create the layout and lock it until the block ends; leftovers of killed builders are deleted.

        Raises BuildRefused if the folder has other contents, RegistryRefused if it cannot be written.
        """
        mark = self.folder / "oci-layout"
        try:
            # The mark is written first and checked last, so that a builder who finds blobs finds their mark as well.
            if self.folder.exists() and any(self.folder.iterdir()) and not mark.exists():
                raise BuildRefused(
                    f"{self.folder}: is not empty and is not an OCI layout",
                    "name a folder that is new, empty, or a layout",
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            try:
                self._blobs.mkdir(parents=True, exist_ok=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not os.fstat(handle).st_size:
                    os.write(handle, _MARK)
                for partial in (
                    *self.folder.glob(f"{_PARTIAL}*"),
                    *self.folder.glob(".index.json.*"),
                ):
                    partial.unlink(missing_ok=True)
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            self._index()
            yield
        finally:
            os.close(handle)

    def keep(self, *digests: str) -> None:
        """Delete the other images that this tool made here, with artifacts attached only to them.

        Images of others stay, with what is attached to them. If there are none, unreferenced blobs are deleted too.
        Anything that cannot be read is left alone. Call it within ``held``.
        """
        index = self._index()
        manifests = {entry.digest: self._manifest(entry) for entry in index.manifests}
        subjects = {
            name: manifest.subject.digest
            for name, manifest in manifests.items()
            if manifest and manifest.subject
        }
        made = {
            name
            for name, manifest in manifests.items()
            if manifest and MODEL in (manifest.annotations or {})
        }
        gone = made - subjects.keys() - {*digests}
        dropped = [e for e in index.manifests if e.digest in gone or subjects.get(e.digest) in gone]
        kept = [e for e in index.manifests if e not in dropped]
        if dropped:
            self._write_index(index, kept)
        needed: set[str] = set()
        for entry in kept:
            if (reached := self._reached(entry)) is None:
                return
            needed |= reached
        if all({entry.digest, subjects.get(entry.digest)} & {*digests} for entry in kept):
            spare = {f"sha256:{path.name}" for path in self._blobs.iterdir()} - needed
        else:
            spare = {blob for entry in dropped for blob in self._reached(entry) or ()} - needed
        for blob in spare:
            with contextlib.suppress(OSError):
                self._path(blob).unlink()

    # -- the folder's files

    def _path(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def _index(self) -> Index:
        """The folder's index. If there is none, it is made of the blobs."""
        mark, path = self.folder / "oci-layout", self.folder / "index.json"
        for file in (mark, path):
            if file.exists() and not file.is_file():
                raise _misplaced(file, "is not a regular file")
        try:
            version = json.loads(mark.read_bytes())
            if not isinstance(version, dict) or version.get("imageLayoutVersion") != "1.0.0":
                raise RegistryRefused(
                    f"{mark}: is of another version than 1.0.0", "copy the image to a new layout"
                )
            return Index.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            if error.filename == str(mark):
                raise StoreUnavailable(
                    f"{self.folder}: is not an OCI layout",
                    "name the folder that holds the file oci-layout",
                ) from error
            return Index(schema_version=2, manifests=self._unlisted())
        except OSError as error:
            raise RegistryRefused(
                f"{error.filename}: {error.strerror}", "make it readable"
            ) from error
        except ValidationError as error:
            raise _misplaced(path, files.first(error)) from error
        except (ValueError, RecursionError) as error:
            raise _misplaced(mark, "is not JSON") from error

    def _unlisted(self) -> tuple[Entry, ...]:
        """Entries without tags for the manifests and indexes among the blobs, but for the parts of such an index."""
        entries, parts = [], set[str]()
        for path in sorted(self._blobs.glob("*")):
            before = state(path)
            if before is None or before[2] > documents.LARGEST:
                continue
            digest = f"sha256:{path.name}"
            try:
                data = b"".join(self.blob(digest, before[2]))
                media_type = documents.guess(data, str(path))
                document = documents.read(Document(data, media_type, digest), str(path))
            except Refusal:
                continue
            entries.append(Entry(media_type=media_type, digest=digest, size=len(data)))
            if isinstance(document, Index):
                parts |= {entry.digest for entry in document.manifests}
        return tuple(entry for entry in entries if entry.digest not in parts)

    def _write_index(self, index: Index, entries: list[Entry]) -> None:
        value = index.model_dump(mode="json", by_alias=True, exclude_none=True)
        value |= {"mediaType": INDEX, "manifests": [entry.plain() for entry in entries]}
        try:
            _sync(self._blobs)
            with files.replacing(self.folder / "index.json") as stream:
                stream.write(canonical_json(value))
            _sync(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def _manifest(self, entry: Entry) -> Manifest | None:
        """The manifest of an index entry; None if it is an index or cannot be read."""
        try:
            manifest = documents.read(self.document(entry.digest), self.name)
        except Refusal:
            return None
        return manifest if isinstance(manifest, Manifest) else None

    def _attached(self, entry: Entry) -> bool:
        """Whether it is an artifact attached to an image, not an image."""
        manifest = self._manifest(entry)
        return manifest is not None and manifest.subject is not None

    def _reached(self, entry: Entry) -> set[str] | None:
        """Every blob that an index entry needs, itself included; None if that cannot be read."""
        try:
            manifest = documents.read(self.document(entry.digest), self.name)
        except Refusal:
            return None
        if isinstance(manifest, Manifest):
            return {
                entry.digest,
                manifest.config.digest,
                *(layer.digest for layer in manifest.layers),
            }
        below = [
            self._reached(child)
            for child in manifest.manifests
            if self._path(child.digest).exists()
        ]
        return None if None in below else {entry.digest}.union(*(blobs for blobs in below if blobs))


class Bytes:
    """A Blob of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def blocks(self) -> Iterator[bytes]:
        """All bytes in one block."""
        yield self._data


def _tag(entry: Entry) -> str | None:
    return (entry.annotations or {}).get(REF_NAME)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _absent(path: Path, what: str) -> StoreUnavailable:
    return StoreUnavailable(f"{path}: {what}", _AGAIN)


def _damaged(path: Path, what: str) -> RegistryRefused:
    return RegistryRefused(f"{path}: {what}", _AGAIN)


def _misplaced(path: Path, what: str) -> RegistryRefused:
    """The refusal of a damaged oci-layout or index.json: the images are in the other files of the folder."""
    command = f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')}"
    if path.name == "oci-layout":
        command += f" && echo {shlex.quote(_MARK.decode())} > {shlex.quote(str(path))}"
        return RegistryRefused(f"{path}: {what}", f"run `{command}`")
    return RegistryRefused(
        f"{path}: {what}",
        f"run `{command}`: its images are then found by their digests, and a build adds the tag",
    )


def _unwritable(folder: Path, error: OSError) -> RegistryRefused:
    return RegistryRefused(
        f"{folder}: {error.strerror or error}", "free some space there, or make it writable"
    )
