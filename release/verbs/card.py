"""card: the model card, the dataset card, croissant.json and the write-up of a record. It decides nothing."""

from pathlib import Path

from release.cards import card_record, writing


def card(
    root: Path, folder: Path, name: str | None = None, *, check: bool = False
) -> tuple[Path, ...]:
    """Write the cards of the work tree, or of the release ``name``, into ``folder``; their paths.

    ``check``: compare them with what lies in ``folder``, and write nothing. Raises as ``card_record.gather``, and
    EvidenceRefused for a card that is not the one that the record makes now.
    """
    made = writing.render(card_record.gather(root, name))
    return tuple(writing.check(folder, made) if check else writing.write(folder, made))
