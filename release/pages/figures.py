"""Writes figures for people: U+2212 for a minus, shares in points, no p-values where a first screen quotes a gate."""

import re

MINUS = "\N{MINUS SIGN}"
_HYPHEN = re.compile(r"(?<![\w./-])-(?=\.?\d)")
_COUNT = re.compile(r"(?<![\w.,-])\d{4,15}(?= (?:test |train )?(?:rows|groups|samples|texts)\b)")
_P_VALUE = re.compile(r",? ?\bp \d[\d.e+-]*(?=[,);]|$)")
_NO_WORDS = re.compile(r" \(\)")


def signed(value: float, how: str) -> str:
    """``value`` in the format ``how``, with the sign U+2212 for less than 0."""
    text = f"{value:{how}}"
    return f"{MINUS}{text[1:]}" if text.startswith("-") else text


def typeset(reason: str) -> str:
    """A gate's reason with U+2212 before the figures that are below 0, and with commas in its counts of rows."""
    return _COUNT.sub(lambda match: f"{int(match[0]):,}", _HYPHEN.sub(MINUS, reason))


def without_p(reason: str) -> str:
    """A gate's reason without p-values: a first screen has none."""
    return _NO_WORDS.sub("", _P_VALUE.sub("", typeset(reason)))


def points(value: float) -> str:
    """A share as points: +1.5."""
    return signed(100 * value, "+.1f")


def whole(value: float | None) -> str:
    """A count or a measurement with thousands separators; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
