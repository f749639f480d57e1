"""Makes untrusted text safe to print: text of a remote, a commit, a file or a model."""

import re
import unicodedata

_AT = re.compile(r"@(?!sha256:)")  # ends a login; an image has a digest
_LONGEST = 400  # characters
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_JOINED = re.compile(f"(?<=([^\x00-\x7f]))[{_JOINERS}](?=([^\x00-\x7f]))")


def escape(text: str) -> str:
    """Return ``text`` with U+FFFD for each unprintable character, so that it cannot imitate, move or hide a line.

    A zero-width joiner or non-joiner stays between two letters or symbols of scripts that need it, such as Persian,
    Hindi and emoji.
    """
    return _printable(text, "\N{REPLACEMENT CHARACTER}")


def redact(text: str, longest: int = _LONGEST) -> str:
    """Return ``text`` as one line of at most ``longest`` characters, without the credentials and queries of URLs.

    The line is printable as ``escape`` has it, with spaces for other characters.
    """
    words = " ".join(_redacted(word) for word in _printable(text, " ").split())
    return words if len(words) <= longest else words[: longest - 1] + "…"


def _printable(text: str, other: str) -> str:
    """Return ``text`` with ``other`` for each unprintable character that joins nothing."""
    if text.isprintable():
        return text
    joining = {found.start() for found in _JOINED.finditer(text) if all(map(_is_joined, found.groups()))}
    return "".join(c if c.isprintable() or at in joining else other for at, c in enumerate(text))


def _is_joined(character: str) -> bool:
    """Whether a joiner beside this character can change how it looks: a letter, a mark, or a part of an emoji."""
    return unicodedata.category(character)[0] in "LM" or unicodedata.category(character) in ("So", "Sk")


def _redacted(word: str) -> str:
    """A word without the credentials and the query of a URL in it. Takes time in proportion to its length."""
    scheme, separator, rest = word.partition("://")
    ends = [found.end() for found in _AT.finditer(rest)]  # the last one counts: a password may hold a slash or an @
    return scheme + separator + rest[ends[-1] if ends else 0 :].partition("?")[0]
