"""Untrusted text is safe to print, and scripts that need joiners stay whole."""

import pytest

from checks.process.text import escape, redact

WHOLE = [
    "می‌خواهم",  # Persian: the non-joiner ends a prefix
    "क्‍ष",  # Hindi: the joiner asks for a half form
    "👩‍💻 👨🏽‍🚀 🏳️‍🌈",  # emoji that are joined, with a skin tone and a variation selector
]
HIDDEN = {  # and how it is shown
    "pa\u200dss": "pa⟨U+200D ZERO WIDTH JOINER⟩ss",  # joins nothing
    "\u200dक": "⟨U+200D ZERO WIDTH JOINER⟩क",
    "क\u200d\u200dष": "क⟨U+200D ZERO WIDTH JOINER⟩⟨U+200D ZERO WIDTH JOINER⟩ष",
    "\u202ekcatta": "⟨U+202E RIGHT-TO-LEFT OVERRIDE⟩kcatta",
    "a\u200bb\u00adc\ufeff": "a⟨U+200B ZERO WIDTH SPACE⟩b⟨U+00AD SOFT HYPHEN⟩c⟨U+FEFF ZERO WIDTH NO-BREAK SPACE⟩",
    "one\u2028two": "one⟨U+2028 LINE SEPARATOR⟩two",
    "hid\U000e0041den": "hid⟨U+E0041 TAG LATIN CAPITAL LETTER A⟩den",
    "Bonjour\u00a0!\u3000": "Bonjour ! ",
    "one\ntwo": "one\ufffdtwo",
    "\x1b[2J\ud800\ue000": "\ufffd[2J\ufffd\ufffd",
}


@pytest.mark.parametrize("text", WHOLE)
def test_joined_text_stays_as_it_is(text: str) -> None:
    assert escape(text) == text
    assert redact(text) == text


@pytest.mark.parametrize("text", HIDDEN)
def test_what_nothing_shows_is_shown_by_its_name(text: str) -> None:
    assert escape(text) == HIDDEN[text]
    assert all(letter.isprintable() for letter in escape(text) + redact(text))


def test_a_hidden_character_hides_no_login() -> None:
    assert redact("git push https://ada:s\u200bec\x1bret@host/x?token=1 failed") == "git push https://host/x failed"
