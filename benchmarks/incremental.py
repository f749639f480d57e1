"""Counts how many answers are used again after test rows were added: those of prompts whose batch stayed the same.

    python -m benchmarks.incremental [--rows 1048] [--tokens 4096]

In:  models/base, for its tokenizer, and the splits that prepare wrote. New rows are taken from the train split.
Out: a Markdown table: the mean of several draws, with batches as on a CPU and ``--tokens`` as
     ``evaluate.batch_tokens``. No model is asked.
"""

import random
import statistics
from argparse import Namespace
from collections.abc import Iterator, Sequence

from transformers import AutoTokenizer

from benchmarks import tables
from checks.config import params_file
from checks.records.rows import Row
from checks.storage import files, layout
from stages.inference import batches, generate, prompts

DRAWS = 5


def main() -> None:
    """Print the table."""
    options = tables.numbers(__doc__, rows=1048, tokens=4096)
    tables.show(
        "Answers",
        ("batches", "rows in a batch", "rows more", "prompts that stay"),
        _shares(options),
    )


def _shares(options: Namespace) -> Iterator[tuple[object, ...]]:
    test, train = (
        files.read_jsonl(layout.SPLITS / f"{name}.jsonl", Row) for name in ("test", "train")
    )
    rows = [*test[: options.rows], *(row for row in train if not row.origin)]
    tokenizer = AutoTokenizer.from_pretrained(layout.BASE, local_files_only=True)
    tokens = prompts.tokens(tokenizer, [row.messages for row in rows], rows, None, layout.SPLITS)
    every = [tuple(ids) for ids in tokens]
    old, others = every[: options.rows], every[options.rows :]
    prefix, room = (
        generate.shared_prefix(sorted(set(every))),
        options.tokens // generate.PARTS,
    )
    longest = params_file.load(layout.PARAMS).evaluate.max_new_tokens

    def cut(given: Sequence[batches.Prompt], stable: bool) -> set[tuple[batches.Asked, ...]]:
        ordered = [
            batches.Asked(prompt)
            for prompt in sorted(set(given), key=lambda prompt: (-len(prompt), prompt))
        ]
        return {tuple(batch) for batch in batches.cut(ordered, prefix, longest, room, stable)}

    for stable, name in ((False, "by length"), (True, "stable")):
        before = cut(old, stable)
        size = statistics.mean(map(len, before))
        for count in (1, max(2, round(len(old) / 100))):
            after = [
                cut([*old, *random.Random(draw).sample(others, count)], stable)
                for draw in range(DRAWS)
            ]
            stays = statistics.mean(sum(map(len, before & cuts)) for cuts in after) / len(set(old))
            yield name, f"{size:.0f}", count, f"{stays:.0%}"


if __name__ == "__main__":
    main()
