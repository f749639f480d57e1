"""The texts that `lockstep init` writes in place of the example's cards, and whether a card still has one."""

from collections.abc import Mapping
from pathlib import Path

from checks.process.errors import EvidenceRefused

MODEL, DATA = Path("docs/cards/model.md"), Path("docs/cards/data.md")
# What a person has not written yet begins so. `build` and `card` refuse a card that still has such a line.
_TODO = "TODO:"
PLACEHOLDERS = {
    MODEL: f"""{_TODO} what this model does, in one or two sentences.

## Intended use

{_TODO} who uses its answers, for what, and what a request looks like.

## Limits

{_TODO} what it gets wrong, what it was not tested for, and what it must not be used for.
""",
    DATA: f"""{_TODO} what a row is, in one or two sentences.

## Where it comes from

{_TODO} who wrote and labelled the rows, when, and whether they are about people.

## Limits

{_TODO} what these rows do not cover.
""",
}


def check(cards: Mapping[Path, bytes | None]) -> None:
    """Check that none of ``cards`` has a placeholder. Raises EvidenceRefused with the place of the first one."""
    for path, data in cards.items():
        asked = {
            line.encode() for line in PLACEHOLDERS[path].splitlines() if line.startswith(_TODO)
        }
        lines = enumerate((data or b"").splitlines(), 1)
        if number := next((number for number, line in lines if line in asked), None):
            raise EvidenceRefused(
                f"{path}:{number}: is a placeholder of `lockstep init`",
                f"write {path} and commit it before you release: the card of a release has the text of its commit",
            )
