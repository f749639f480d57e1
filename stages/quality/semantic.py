"""Finds rows of valid and test that mean the same as a train row in other words. Shingles do not find them.

Each held-out request is compared with every request that a train row answers, by the cosine of an encoder's vectors,
exactly and without an index. Close vectors prove nothing: "enable" and "disable" are close, too. So such rows are
counted, bounded and listed for people to look at. None is dropped or moved to another split.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from checks.config.pipeline_params import SemanticDuplicates
from checks.formats.data_statistics import Place
from checks.kinds.retriever import Pooling
from checks.process.errors import DataRefused, EvaluationRefused
from checks.storage import files, layout
from stages import progress
from stages.quality.expectations import Columns, Expected, Suite, great_expectations
from stages.quality.rows_frames import Read
from stages.sources import copies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = layout.DATA_DOCS / "semantic_duplicates.jsonl"
_HELD_OUT = ("valid", "test")
_SECTION = "validate.semantic_duplicates"
_COLUMN = "semantic_duplicate_of"
_SHOWN = 200  # characters of a request in an expectation's rows; the file has all


class Twin(Place):
    """A held-out row, and the train row whose request is closest to its own."""

    request: str
    train: str  # path:line of the train row
    train_request: str
    similarity: Annotated[float, Field(ge=-1, le=1)]


def twins(config: SemanticDuplicates | None, read: Mapping[str, Read], root: Path) -> list[Twin]:
    """Return the held-out rows with a semantic near-duplicate in train, the closest first; none if ``config`` is None.

    Raises SourceRefused if the encoder is not the pinned one, DataRefused if it cannot be used.
    """
    train = read["train"]
    known: dict[str, str] = {}
    for place_of_row, request, earlier in zip(
        train.columns["where"], train.requests, train.earlier, strict=True
    ):
        for text in (request, *earlier):
            known.setdefault(text, place_of_row)
    asked = [text for name in _HELD_OUT for text in read[name].requests]
    if config is None or not known or not asked:
        return []
    texts = list(known)
    with tempfile.TemporaryDirectory() as scratch:
        closest = list(
            _closest(
                config,
                texts,
                asked,
                (
                    copies.copy(
                        config.model,
                        f"{_SECTION}.model",
                        root,
                        Path(scratch) / "model",
                        is_folder=True,
                    )
                ),
            )
        )
    rows = (
        pair
        for name in _HELD_OUT
        for pair in zip(
            read[name].columns["where"], read[name].columns["id"], read[name].requests, strict=True
        )
    )
    pairs = [
        Twin(
            where=place_of_row,
            id=row_id,
            request=text,
            train=known[texts[place]],
            train_request=texts[place],
            similarity=cos,
        )
        for (place_of_row, row_id, text), (place, cos) in zip(rows, closest, strict=True)
        if cos >= config.similarity
    ]
    return sorted(pairs, key=lambda twin: -twin.similarity)


def _closest(
    config: SemanticDuplicates, known: Sequence[str], asked: Sequence[str], folder: Path
) -> Iterator[tuple[int, float]]:
    """For each of ``asked`` the place of the closest of ``known``, the first of equal ones, and their cosine."""
    scores = config.scores(known, asked, partial(_embed, folder))
    first = next(scores)  # encodes all texts, which has a bar of its own
    for cosines in progress.of_rows("compare meanings", chain([first], scores), len(asked)):
        place = int(cosines.argmax())
        yield place, min(1.0, float(cosines[place]))


def _embed(
    folder: Path, texts: Sequence[str], pooling: Pooling, most: int | None
) -> "NDArray[np.float32]":
    import numpy as np

    from stages.inference import encoders  # torch

    key = f"{layout.PARAMS}: {_SECTION}.model"
    try:
        vectors = encoders.embed(folder, texts, pooling, most, key)
    except EvaluationRefused as refused:
        raise DataRefused(
            refused.what,
            f"pin an encoder's folder, in safetensors; set {_SECTION}.max_tokens to what it holds",
        ) from refused
    if not np.isfinite(vectors).all():  # NaN is below every threshold
        raise DataRefused(f"{key}: gives a vector that is no number", "pin another encoder")
    return vectors


def frames(
    config: SemanticDuplicates | None, read: Mapping[str, Read], closest_twins: Sequence[Twin]
) -> dict[str, Columns]:
    """Make the frame of each held-out split. Its rows in ``closest_twins`` come first, so that a report shows them."""
    if config is None:
        return {}
    described = {twin.where: _said(twin) for twin in closest_twins}
    order = {place_of_row: place for place, place_of_row in enumerate(described)}
    made = {}
    for name in _HELD_OUT:
        columns = read[name].columns
        rows = sorted(
            zip(columns["where"], columns["id"], strict=True),
            key=lambda row: order.get(row[0], len(order)),
        )
        made[_frame(name)] = {
            "where": [place_of_row for place_of_row, _ in rows],
            "id": [row_id for _, row_id in rows],
            _COLUMN: [described.get(place_of_row) for place_of_row, _ in rows],
        }
    return made


def _said(twin: Twin) -> str:
    one, other = (text[:_SHOWN] for text in (twin.request, twin.train_request))
    return f"{twin.similarity:.3f} {twin.train} {other!r}, asked {one!r}"


def _frame(split: str) -> str:
    return f"{split} by meaning"


def suites(config: SemanticDuplicates | None) -> dict[str, Suite]:
    """Return the suite of each frame of ``frames``."""
    if config is None:
        return {}
    gxe = great_expectations().expectations
    words = (
        f"at most {config.max_share:.1%} of the rows are {config.similarity:g} or more like a train row, by the "
        f"encoder sha256:{config.model.sha256}"
    )
    todo = (
        f"look at {FILE}; drop such rows in the data source, or give a row and its twin one value in the column that "
        f"prepare.loader.columns.group names; if they are no duplicates raise {_SECTION}.similarity or max_share"
    )
    of = partial(
        gxe.ExpectColumnValuesToBeNull, column=_COLUMN, mostly=round(1 - config.max_share, 9)
    )
    return {_frame(name): {words: Expected(of(), todo)} for name in _HELD_OUT}


def write(config: SemanticDuplicates | None, closest_twins: Sequence[Twin], root: Path) -> None:
    """Write ``FILE``, with every row of ``closest_twins``."""
    if config is not None:
        files.write_jsonl(root / FILE, closest_twins)
