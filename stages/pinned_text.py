"""A text file of this repository that params.yaml names and pins by its SHA-256."""

from pathlib import Path

from checks.process.errors import SourceRefused
from checks.storage import digest


def read(root: Path, file: str, sha256: str | None, place: str, what: str) -> bytes:
    """The bytes of ``file``; ``place`` is that of the section in params.yaml, ``what`` the kind of text, in messages.

    Raises SourceRefused if it cannot be read, is not pinned (the message has the digest to pin), or has other bytes.
    """
    if not digest.is_name(file):
        raise SourceRefused(
            f"{place}.file: {file!r} is not in this repository",
            "write its path from the repository's root, without . or .. in it",
        )
    try:
        text = (root / file).read_bytes()
        text.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise SourceRefused(
            f"{place}.file: {file}: {reason}", f"name a text file in {what}"
        ) from error
    actual = digest.of_bytes(text).removeprefix("sha256:")
    if sha256 is None:
        raise SourceRefused(f"{place}.sha256: {file} is not pinned", f"pin it: sha256: {actual}")
    if sha256 != actual:
        raise SourceRefused(
            f"{place}.sha256: {sha256} is pinned, but {file} is {actual}",
            f"restore it, or only if the new text is right pin sha256: {actual}",
        )
    return text
