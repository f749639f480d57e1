"""Untrusted text is safe to print, and scripts that need joiners stay whole."""

import pytest

from checks.text import escape, redact

WHOLE = [
    "می‌خواهم",  # Persian: the non-joiner ends a prefix
    "क्‍ष",  # Hindi: the joiner asks for a half form
    "👩‍💻 👨🏽‍🚀 🏳️‍🌈",  # emoji that are joined, with a skin tone and a variation selector
]
HIDDEN = {
    "a joiner between Latin letters": "pa\u200dss",
    "a joiner at an end": "\u200dक",
    "two joiners": "क\u200d\u200dष",
    "an override of the direction": "\u202ekcatta",
    "a line break": "one\ntwo",
    "an escape sequence": "\x1b[2J",
}


@pytest.mark.parametrize("text", WHOLE)
def test_joined_text_stays_as_it_is(text: str) -> None:
    assert escape(text) == text
    assert redact(text) == text


@pytest.mark.parametrize("case", HIDDEN)
def test_what_nothing_shows_is_replaced(case: str) -> None:
    text = HIDDEN[case]
    shown = escape(text)
    assert shown != text
    assert "\N{REPLACEMENT CHARACTER}" in shown
    assert all(letter.isprintable() for letter in shown + redact(text))
