"""What retrieval costs for a suite of kind rag: CPU seconds and memory of exact search, and of both kinds of encoder.

    python -m benchmarks.retrieval [--passages 50000 200000 1000000] [--questions 500] [--kinds dense bm25 models]

Passages are random: vectors of 384 numbers for ``dense``, 120 words for ``bm25``. The models have the size of MiniLM
with six layers, and random weights, which change no time. Each row is of a process of its own, which has one thread.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from checks.retriever_kind import Embed, Search, no_encoder
from checks.retrievers.bm25 import Bm25
from checks.retrievers.dense import Dense

WIDTH, WORDS, KNOWN = 384, 120, 200_000  # numbers of a vector, words of a passage, different words
FOUND = 50
MODEL = {"uri": "model", "sha256": None, "license": None}


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--kinds", nargs="+", choices=("dense", "bm25", "models"), default=["dense", "bm25", "models"])
    asked = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # of the processes that measure
    print(f"| what | passages | CPU seconds, {asked.questions} questions | MiB of passages | peak, MiB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, measure in (("dense", dense), ("bm25", bm25)):
        for count in asked.passages if name in asked.kinds else ():
            seconds, before, peak = _alone(measure, count, asked.questions)
            print(f"| `{name}` | {count:,} | {seconds:.1f} | {before:.0f} | {peak:.0f} |", flush=True)
    if "models" in asked.kinds:
        for name, seconds in _alone(models, 64).items():
            print(f"\n{name}: {1000 * seconds:.1f} ms of CPU each", flush=True)


def _alone(measure: Callable[..., Any], *arguments: int) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def dense(passages: int, questions: int) -> tuple[float, float, float]:
    """Search by random vectors of length 1."""
    draw = np.random.default_rng(0)
    vectors = np.empty((passages + questions, WIDTH), np.float32)
    for start in range(0, len(vectors), 10_000):
        block = draw.standard_normal(vectors[start : start + 10_000].shape, dtype=np.float32)
        vectors[start : start + 10_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    retriever = Dense.model_validate({"kind": "dense", "model": MODEL, "pooling": "mean"})
    return _searched(retriever.ranked(_search([""] * passages, [""] * questions, lambda *_: vectors), FOUND))


def bm25(passages: int, questions: int) -> tuple[float, float, float]:
    """Index and search random words, few of which are frequent."""
    draw = np.random.default_rng(0)

    def texts(count: int, words: int) -> Iterator[str]:
        for _ in range(count):
            yield " ".join(f"w{word}" for word in np.minimum(draw.pareto(0.9, words) * 5, KNOWN).astype(int))

    retriever = Bm25(kind="bm25", k1=1.5, b=0.75, stopwords=None)
    return _searched(retriever.ranked(_search(texts(passages, WORDS), texts(questions, 8), no_encoder), FOUND))


def _search(passages: Iterable[str], questions: Iterable[str], embed: Embed) -> Search:
    texts, asked = ({str(n): text for n, text in enumerate(each)} for each in (passages, questions))
    return Search("", texts, asked, embed, {})


def _searched(found: Iterator[Any]) -> tuple[float, float, float]:
    """CPU seconds, and the peak of memory before and after."""
    before, started = _peak(), time.process_time()
    for _ in found:
        pass
    return time.process_time() - started, before, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def models(texts: int) -> dict[str, float]:
    """CPU seconds of a text of 120 words by an encoder, and of a question and such a text by a cross-encoder."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    from stages.inference import encoders

    config = BertConfig(
        vocab_size=30_522,
        hidden_size=WIDTH,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
    )
    text = " ".join(["word"] * WORDS)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "word": 1}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(scratch)
        for kind in (BertModel, BertForSequenceClassification):
            kind(config).save_pretrained(scratch)
            encode, pair = kind is BertModel, ("word " * 10, text)
            for count in (1, texts):  # the first time imports and loads, too
                started = time.process_time()
                if encode:
                    encoders.embed(Path(scratch), [text] * count, "mean", None, "benchmark")
                else:
                    encoders.relevance(Path(scratch), [pair] * count, None, "benchmark")
                seconds = time.process_time() - started
            found["encoder" if encode else "cross-encoder"] = seconds / texts
    return found


if __name__ == "__main__":
    main()
