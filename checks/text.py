"""Makes untrusted text safe to print: text of a remote, a commit, a file or a model."""

import re

_AT = re.compile(r"@(?!sha256:)")  # ends a login; an image has a digest
_LONGEST = 400  # characters


def escape(text: str) -> str:
    """``text`` with U+FFFD for each unprintable character, so that it cannot imitate, move or hide a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def redact(text: str, longest: int = _LONGEST) -> str:
    """``text`` as one printable line of at most ``longest`` characters, without the credentials and queries of URLs."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    words = " ".join(_redacted(word) for word in shown.split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _redacted(word: str) -> str:
    """A word without the credentials and the query of a URL in it. Takes time in proportion to its length."""
    scheme, separator, rest = word.partition("://")
    ends = [found.end() for found in _AT.finditer(rest)]  # the last one counts: a password may hold a slash or an @
    return scheme + separator + rest[ends[-1] if ends else 0 :].partition("?")[0]
