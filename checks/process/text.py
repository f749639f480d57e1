"""Makes untrusted text safe to print: text of a remote, a commit, a file or a model."""

import re
import unicodedata

_AT = re.compile(r"@(?!sha256:)")  # ends a login; an image has a digest
_LONGEST = 400  # characters
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_JOINED = re.compile(f"(?<=([^\x00-\x7f]))[{_JOINERS}](?=([^\x00-\x7f]))")


def escape(text: str) -> str:
    """Return ``text`` so that no character of it can imitate, move or hide a line.

    An invisible character is written by its name, such as ``⟨U+202E RIGHT-TO-LEFT OVERRIDE⟩``, a control character and
    one without a name as U+FFFD, and an unusual space as a space. A zero-width joiner or non-joiner stays between two
    letters or symbols of scripts that need it, such as Persian, Hindi and emoji.
    """
    return _printable(text, "\N{REPLACEMENT CHARACTER}")


def redact(text: str, longest: int = _LONGEST) -> str:
    """Return ``text`` as one line of at most ``longest`` characters, without the credentials and queries of URLs.

    The line is printable as ``escape`` has it, with a space for a control character.
    """
    words = " ".join(_redacted(word) for word in text.split())
    line = " ".join(_printable(words, " ").split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _printable(text: str, nameless: str) -> str:
    """Return ``text`` with names for invisible characters that join nothing, and ``nameless`` for those without one."""
    if text.isprintable():
        return text
    joining = {
        match.start() for match in _JOINED.finditer(text) if all(map(_is_joined, match.groups()))
    }
    return "".join(
        c if c.isprintable() or at in joining else _named(c, nameless) for at, c in enumerate(text)
    )


def _named(character: str, nameless: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    name = unicodedata.name(character, "")
    return f"⟨U+{ord(character):04X} {name}⟩" if name else nameless


def _is_joined(character: str) -> bool:
    """Whether a joiner beside this character can change how it looks: a letter, a mark, or a part of an emoji."""
    return unicodedata.category(character)[0] in "LM" or unicodedata.category(character) in (
        "So",
        "Sk",
    )


def _redacted(word: str) -> str:
    """A word without the credentials and the query of a URL in it. Takes time in proportion to its length."""
    scheme, separator, rest = word.partition("://")
    # The last one counts, because a password may hold a slash or an @.
    ends = [match.end() for match in _AT.finditer(rest)]
    return scheme + separator + rest[ends[-1] if ends else 0 :].partition("?")[0]
