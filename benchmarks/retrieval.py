"""What exact search costs for a suite of kind rag: CPU seconds and memory.

    python -m benchmarks.retrieval [--passages 200000] [--questions 500]

Passages are random: vectors of 384 numbers for ``dense``, 120 words for ``bm25``. Each row is of a process of its own,
which has one thread.
"""

import os
import resource
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks import tables
from checks.kinds.retriever import Embed, Search, no_model
from checks.retrievers.bm25 import Bm25
from checks.retrievers.dense import Dense

WIDTH, WORDS, KNOWN = 384, 120, 200_000  # Numbers of a vector, words of a passage, different words.
FOUND = 50
MODEL = {"uri": "model", "sha256": None, "license": None}


def main() -> None:
    """Measure and print."""
    options = tables.numbers(__doc__, passages=200_000, questions=500)
    os.environ |= dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
    )  # The processes inherit them.
    columns = ("what", "passages", "questions", "CPU seconds", "MiB of passages", "peak, MiB")
    tables.show("Retrieval", columns, _rows(options.passages, options.questions))


def _rows(passages: int, questions: int) -> Iterator[tuple[object, ...]]:
    for name, measure in (("`dense`", dense), ("`bm25`", bm25)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            figures = pool.submit(measure, passages, questions).result()
        yield name, f"{passages:,}", questions, *(f"{figure:.0f}" for figure in figures)


def dense(passages: int, questions: int) -> tuple[float, float, float]:
    """Search by random vectors of length 1."""
    draw = np.random.default_rng(0)
    vectors = np.empty((passages + questions, WIDTH), np.float32)
    for start in range(0, len(vectors), 10_000):
        block = draw.standard_normal(vectors[start : start + 10_000].shape, dtype=np.float32)
        vectors[start : start + 10_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    retriever = Dense.model_validate({"kind": "dense", "model": MODEL, "pooling": "mean"})
    return _searched(
        retriever.ranked(_search([""] * passages, [""] * questions, lambda *_: vectors), FOUND)
    )


def bm25(passages: int, questions: int) -> tuple[float, float, float]:
    """Index and search random words, few of which are frequent."""
    draw = np.random.default_rng(0)

    def texts(count: int, words: int) -> Iterator[str]:
        for _ in range(count):
            yield " ".join(
                f"w{word}" for word in np.minimum(draw.pareto(0.9, words) * 5, KNOWN).astype(int)
            )

    retriever = Bm25(kind="bm25", k1=1.5, b=0.75, stopwords=None)
    return _searched(
        retriever.ranked(_search(texts(passages, WORDS), texts(questions, 8), no_model), FOUND)
    )


def _search(passages: Iterable[str], questions: Iterable[str], embed: Embed) -> Search:
    texts, asked = ({str(n): text for n, text in enumerate(kind)} for kind in (passages, questions))
    return Search("", texts, asked, embed, {})


def _searched(results: Iterator[Any]) -> tuple[float, float, float]:
    """Return CPU seconds, and the peak of memory before and after."""
    before, started = _peak(), time.process_time()
    for _ in results:
        pass
    return time.process_time() - started, before, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
