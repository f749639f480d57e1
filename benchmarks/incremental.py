"""What a few test rows more cost: how many answers stay kept, and a model that is asked again.

In:  a model directory, and the splits that prepare wrote. New rows are taken from the train split.
Out: two Markdown tables. The first needs no model. It has the share of the old prompts whose batch did not change when
     the new rows came; only their answers can be used again. It is the mean of several draws, with batches as on a CPU.
     The second asks the model. It has the share of prompts whose answers were used again, CPU seconds and wall seconds.
     The command fails if an answer differs from that of a run that uses no answer again.
Run: python -m benchmarks.incremental [--model models/base] [--rows 400] [--batch-tokens 4096] [--shares]
"""

import argparse
import contextlib
import io
import random
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from checks import digest, files, layout
from checks.config import params_file
from checks.config.params import Evaluate
from checks.rows import Row
from stages.inference import answers

DRAWS = 5
NAMES = {False: "by length", True: "stable"}


def main() -> None:
    """Print the tables; fail if an answer differs from that of a run from scratch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=layout.BASE, help="the model's directory")
    parser.add_argument("--rows", type=int, help="test rows before; without it all")
    parser.add_argument("--batch-tokens", type=int, help="instead of evaluate.batch_tokens")
    parser.add_argument("--shares", action="store_true", help="only the first table")
    options = parser.parse_args()
    settings = params_file.load(layout.PARAMS).evaluate
    settings = settings.model_copy(update={"batch_tokens": options.batch_tokens or settings.batch_tokens})
    test, train = (files.read_jsonl(layout.SPLITS / f"{name}.jsonl", Row) for name in ("test", "train"))
    before, new = test[: options.rows], [row for row in train if not row.origin]
    percent = max(1, round(len(before) / 100))
    counts = sorted({1, percent})
    _shares(settings, options.model, before, new, counts)
    if not options.shares:
        _ask(settings, options.model, before, new, counts)


def _shares(settings: Evaluate, folder: Path, before: Sequence[Row], new: Sequence[Row], counts: list[int]) -> None:
    from transformers import AutoTokenizer

    from stages.inference import batches, generate, prompts

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = [*before, *new]
    found = prompts.tokens(tokenizer, [row.messages for row in rows], rows, None, layout.SPLITS)
    asked = [tuple(each) for each in found]
    old, others = asked[: len(before)], asked[len(before) :]
    prefix, room = generate.shared_prefix(sorted(set(asked))), settings.batch_tokens // generate.lanes("cpu")[0]

    def cut(given: Sequence[batches.Prompt], stable: bool) -> set[tuple[batches.Prompt, ...]]:
        ordered = sorted(set(given), key=lambda prompt: (-len(prompt), prompt))
        return {tuple(each) for each in batches.cut(ordered, prefix, settings.max_new_tokens, room, stable)}

    print("| batches | rows | rows in a batch | rows more | prompts that stay |\n| --- | ---: | ---: | ---: | ---: |")
    for stable, name in NAMES.items():
        was = cut(old, stable)
        size = statistics.mean(map(len, was))
        for count in counts:
            after = [cut([*old, *random.Random(draw).sample(others, count)], stable) for draw in range(DRAWS)]
            stays = statistics.mean(sum(map(len, was & each)) for each in after) / len(set(old))
            print(f"| {name} | {len(old):,} | {size:.0f} | {count} | {stays:.0%} |")
    print()


def _ask(settings: Evaluate, folder: Path, before: Sequence[Row], new: Sequence[Row], counts: list[int]) -> None:
    model = digest.of_tree(folder).digest
    print("| batches | asked | prompts answered before | CPU s | s |\n| --- | --- | ---: | ---: | ---: |")
    for stable, name in NAMES.items():
        how = settings.model_copy(update={"stable_batches": stable})
        with tempfile.TemporaryDirectory(prefix="lockstep-incremental-") as home:
            root = Path(home)
            _asked(f"| {name} | {len(before):,} rows", root, how, folder, model, before)
            for count in counts:
                rows = [*before, *new[-count:]]
                found = _asked(f"| {name} | {count} more", root, how, folder, model, rows)
                if count == counts[-1]:
                    fresh = _asked(f"| {name} | {len(rows):,} rows", root / "fresh", how, folder, model, rows)
                    if found != fresh:
                        raise SystemExit(f"{name}: answers differ from those of a run from scratch")


def _asked(what: str, root: Path, how: Evaluate, folder: Path, model: str, rows: Sequence[Row]) -> list[str]:
    started, cpu, printed = time.perf_counter(), time.process_time(), io.StringIO()
    with contextlib.redirect_stderr(printed):  # it says there how many answers were kept
        found = answers.ask(root, how, folder, model, rows, [row.messages for row in rows], "model")
    kept = re.search(r"(\d+) of (\d+) prompts answered before", printed.getvalue())
    share = f"{int(kept[1]) / int(kept[2]):.0%}" if kept else "none"
    print(f"{what} | {share} | {time.process_time() - cpu:.1f} | {time.perf_counter() - started:.1f} |", flush=True)
    return found.texts


if __name__ == "__main__":
    main()
