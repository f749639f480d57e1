"""The labels of the splits: the frame that is checked, and the faults of each label."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from checks.config.data_sources import Part
from checks.formats.data_reports import Expectation
from checks.storage import layout
from stages.quality.expectations import SHOWN, Frame
from stages.quality.rows_frames import Read


def compared(read: Mapping[str, Read], parts: Sequence[Part]) -> dict[str, list[str]]:
    """Return the answers of each split whose labels must be the same, without sources for training alone.

    A source that is the whole test split may ask for a new label, which only such sources teach. So their train rows
    count if they have a label of the test split, and valid, which cannot have it, is left out.
    """
    only_train = {part.origin for part in parts if part.split == "train"}
    answers = {name: of_split.answers(only_train) for name, of_split in read.items()}
    if not any(part.split == "test" for part in parts):
        return answers
    train, asked = read["train"], set(answers["test"])
    taught = [
        answer
        for answer, origin in zip(train.references, train.origins, strict=True)
        if origin not in only_train or answer in asked
    ]
    return {"train": taught, "test": answers["test"]}


def frame(references: Mapping[str, Sequence[str]]) -> Frame:
    """One entry for each split and label, whether or not the split has the label."""
    counts = {name: Counter(of_split) for name, of_split in references.items()}
    return [
        {
            "where": f"{layout.SPLITS}/{name}.jsonl",
            "id": label,
            "split": name,
            "label": label,
            "rows": counted[label],
            "of": counted.total(),
            "share": counted[label] / max(1, counted.total()),
        }
        for name, counted in counts.items()
        for label in sorted(set().union(*counts.values()))
    ]


def describe(outcome: Expectation, label_frame: Frame) -> str:
    """Return the labels at fault and where, then labels that may be spellings of one; empty if no label is at fault."""
    if any("rows" in row for row in outcome.rows):
        missing = list(_missing(label_frame))
        faults = _some(missing, len(missing))
    else:
        faults = _some(
            list(_uneven(outcome, label_frame)), outcome.unexpected if outcome.rows else 0
        )
    alike = list(_alike(sorted({entry["label"] for entry in label_frame})))
    return "; ".join([*faults, *_some(alike, len(alike))])


def _some(lines: Sequence[str], count: int) -> list[str]:
    """Return the first lines, and how many of ``count`` are left out."""
    shown = list(lines[:SHOWN])
    return [*shown, f"and {count - len(shown):,} more"] if count > len(shown) else shown


def _uneven(outcome: Expectation, label_frame: Frame) -> Iterator[str]:
    entries = {(entry["where"], entry["id"]): entry for entry in label_frame}
    for row in outcome.rows:
        entry = entries[row["where"], row["id"]]
        share = (
            f"{entry['rows']:,} of {entry['of']:,} rows of {entry['split']} ({entry['share']:.1%})"
        )
        yield f"label {entry['label']!r} has {share}"


def _missing(label_frame: Frame) -> Iterator[str]:
    splits: defaultdict[str, list[str]] = defaultdict(list)
    for entry in label_frame:
        if not entry["rows"]:
            splits[entry["label"]].append(entry["split"])
    for label in sorted(splits):
        yield f"label {label!r} is missing in {', '.join(splits[label])}"


def _alike(labels: Sequence[str]) -> Iterator[str]:
    """Pairs of labels that may be meant as one."""
    same: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        same[" ".join(label.casefold().split())].append(label)
    for one, other in (pair for group in same.values() for pair in combinations(group, 2)):
        by = (
            "case" if one.casefold() == other.casefold()
            else "space" if one.split() == other.split()
            else "case and space"
        )  # fmt: skip
        yield f"{one!r} and {other!r} differ only by {by}"
