"""Sentences of our own with values in them, for every renderer: Markdown, a terminal, HTML and JSON."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from release.pages.text import cell, prose, visible


class Prose(str):
    """A sentence that may quote untrusted text: ``text.prose`` escapes it. Any other text becomes a code span."""

    __slots__ = ()


class Words(NamedTuple):
    """A sentence in Markdown, with a value of ``values`` for each name in braces."""

    text: str
    values: Mapping[str, "str | int | Words"] = MappingProxyType({})

    @property
    def markdown(self) -> str:
        """The sentence, in which no value is markup."""
        return self.text.format_map({name: _markdown(value) for name, value in self.values.items()})

    @property
    def plain(self) -> str:
        """The sentence as one line of text; only our own words keep their backticks."""
        return self.text.format_map({name: _plain(value) for name, value in self.values.items()})

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return bool(self.text)


def _markdown(value: "str | int | Words") -> str:
    if isinstance(value, Words):
        return value.markdown
    if isinstance(value, Prose):
        return prose(value)
    return cell(value) if isinstance(value, str) else f"{value:,}"


def _plain(value: "str | int | Words") -> str:
    if isinstance(value, Words):
        return value.plain
    return visible(value, 2000) if isinstance(value, str) else f"{value:,}"
