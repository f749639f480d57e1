"""Makes untrusted text safe to print: text of a remote, a commit, a file or a model."""

import re

_CREDENTIALS = re.compile(r"(?<=://)\S*@(?!sha256:)")  # a password may hold a slash; an image has a digest
_QUERY = re.compile(r"(://[^\s?]*)\?\S*")
_LONGEST = 400  # characters


def escape(text: str) -> str:
    """``text`` with U+FFFD for each character that does not print, so that it cannot look like, move or hide a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def redact(text: str, longest: int = _LONGEST) -> str:
    """``text`` as one printable line of at most ``longest`` characters, without the credentials and queries of URLs."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    plain = _QUERY.sub(r"\1", _CREDENTIALS.sub("", shown))
    words = " ".join(plain.split())
    return words if len(words) <= longest else words[: longest - 1] + "…"
