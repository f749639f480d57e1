"""Lengths, scripts and garbled text of the splits, for the data report. It judges nothing.

A length is an outlier if the logarithm of its tokens is further than 3.5 robust standard deviations from the median:
1.4826 times the median absolute deviation or, where more than half of the lengths are equal, 1.2533 times the mean one
(Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import numpy as np

from checks.formats.data_statistics import (
    Bin,
    Documents,
    LabelNoise,
    Languages,
    Lengths,
    LongRow,
    MarkedRow,
    Statistics,
    Writing,
)
from stages.quality.rows_frames import Read

SHOWN = 10  # rows of a list
_BINS = 16
_FAR = 3.5  # robust standard deviations
_RUN = re.compile(r"[^\x00-\x7f]{2,}")
# What UTF-8 that was read as Windows-1252 decodes to: Latin letters, Cyrillic, typographic marks. Others occur in sound
# text, such as "É»": a capital before a French quotation mark.
_LIKELY = re.compile(r"[\u00a0-\u017f\u0400-\u04ff\u2010-\u206f\u20a0-\u20bf]+")
_LOST = "\ufffd"  # Decoders write it for bytes that are no text.


def of(
    read: Mapping[str, Read],
    labels: LabelNoise | None,
    documents: Documents | None = None,
    languages: Languages | None = None,
) -> Statistics:
    """Return the statistics of all rows of all splits, and of documents."""
    places, ids, prompts, references = (
        [value for of_split in read.values() for value in of_split.columns[column]]
        for column in ("where", "id", "prompt_tokens", "reference_tokens")
    )
    texts = (
        f"{a}\n{b}"
        for split_read in read.values()
        for a, b in zip(split_read.requests, split_read.references, strict=True)
    )
    return Statistics(
        prompts=lengths(places, ids, prompts),
        references=lengths(places, ids, references),
        writing=writing(places, ids, texts),
        labels=labels,
        documents=documents,
        languages=languages,
    )


def lengths(places: Sequence[str], ids: Sequence[str], tokens: Sequence[int]) -> Lengths:
    """``tokens`` of the rows at ``places``, at least one."""
    counts = np.maximum(np.asarray(tokens, dtype=np.int64), 1)
    logs = np.log(counts)
    middle = float(np.median(logs))
    far = np.abs(logs - middle)
    unit = 1.4826 * float(np.median(far)) or 1.2533 * float(far.mean())
    low = int(np.ceil(np.exp(middle - _FAR * unit).round(6)))
    high = int(np.floor(np.exp(middle + _FAR * unit).round(6)))
    outside = np.flatnonzero((counts < low) | (counts > high))
    furthest = sorted(outside.tolist(), key=lambda place: (-round(float(far[place]), 6), place))[
        :SHOWN
    ]
    least, median, p95, most = (
        int(v) for v in np.quantile(counts, [0, 0.5, 0.95, 1], method="lower")
    )
    return Lengths(
        least=least, median=median, p95=p95, most=most, bins=_bins(counts, least, most), low=low, high=high,
        outliers=len(outside),
        rows=tuple(LongRow(where=places[place], id=ids[place], tokens=int(counts[place])) for place in furthest),
    )  # fmt: skip


def _bins(
    counts: "np.ndarray[tuple[int], np.dtype[np.int64]]", least: int, most: int
) -> tuple[Bin, ...]:
    """Bins that are as wide as each other in the logarithm, but for those that would hold no whole number."""
    edges = np.unique(np.geomspace(least, most + 1, _BINS + 1).round(6).astype(np.int64))
    counts_by_bin, _ = np.histogram(counts, edges)
    return tuple(
        Bin(low=int(a), high=int(b) - 1, rows=int(n))
        for a, b, n in zip(edges, edges[1:], counts_by_bin, strict=False)
    )


def writing(places: Sequence[str], ids: Sequence[str], texts: Iterable[str]) -> Writing:
    """Return the scripts and the garbled characters of ``texts``, those of the rows at ``places``."""
    scripts: Counter[str] = Counter()
    examples: dict[str, list[int]] = {}
    garbled, shown = 0, list[MarkedRow]()
    for place, text in enumerate(texts):
        script = _script_of(text)
        scripts[script] += 1
        if len(known := examples.setdefault(script, [])) < SHOWN:
            known.append(place)
        if not text.isascii() and (piece := _garbled(text)):
            garbled += 1
            if len(shown) < SHOWN:
                shown.append(MarkedRow(where=places[place], id=ids[place], shown=piece))
    ordered = sorted(scripts, key=lambda script: (-scripts[script], script))
    rare = [(script, place) for script in reversed(ordered[1:]) for place in examples[script]]
    return Writing(
        scripts={script: scripts[script] for script in ordered},
        others=tuple(
            MarkedRow(where=places[place], id=ids[place], shown=script)
            for script, place in rare[:SHOWN]
        ),
        garbled=garbled,
        garbled_rows=tuple(shown),
    )


def _script_of(text: str) -> str:
    """Return the script of most letters, as the first word of their names in Unicode; "none" without a letter."""
    if text.isascii():
        return "LATIN" if re.search("[A-Za-z]", text) else "none"
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if character.isalpha():
            scripts[_script(character)] += count
    return min(scripts, key=lambda script: (-scripts[script], script)) if scripts else "none"


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "unknown").split()[0].split("-")[0]


def _garbled(text: str) -> str | None:
    """Return the first characters that were decoded wrongly; None if there are none."""
    if (at := text.find(_LOST)) >= 0:
        return text[max(0, at - 10) : at + 10]
    for run in _RUN.findall(text):
        for code in ("cp1252", "latin-1"):
            try:
                meant = run.encode(code).decode("utf-8")
            except UnicodeError:
                continue
            if _LIKELY.fullmatch(meant):
                return str(run[:20])
    return None
