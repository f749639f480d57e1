"""What a model knows of its task, and what it kept of its base, when a part of what it learnt is added to the base.

    python -m benchmarks.remembering

Prints how many rows of the valid split are answered right, how many answers to everyday questions have the reference,
and the bits per byte of everyday English. Needs models/base, models/merged and data/splits: `./lockstep run`. It takes
some two minutes a scale on one core.

The weights are base + scale x (model - base), in bf16: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models",
which forgets less without another training. Compare with rows of replay: docs/measurements/forgetting.md.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks import tables
from checks.evaluation import scoring
from checks.kinds.scorer import ScorerKind
from checks.records.rows import Message, Row
from checks.scorers.contains import Contains
from checks.scorers.exact_match import ExactMatch
from checks.storage import files, layout
from stages.inference import generate, loss, prompts

SCALES = (1.0, 0.8, 0.6, 0.5, 0.4)
_TEXTS = Path("stages/texts")


def interpolated(scale: float, out: Path) -> None:
    """Write the model to ``out`` with that share of what it learnt."""
    shutil.copytree(layout.MERGED, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    before, after = (
        {
            name: tensor
            for path in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(path).items()
        }
        for folder in (layout.BASE, layout.MERGED)
    )
    mixed = {
        name: (before[name].float() + scale * (tensor.float() - before[name].float())).to(
            tensor.dtype
        )
        for name, tensor in after.items()
    }
    save_file(mixed, out / "model.safetensors", {"format": "pt"})


def right(folder: Path, rows: Sequence[Row], scorer: ScorerKind, length: int) -> float:
    """Return the sum of the scores of the model's greedy answers."""
    model, tokenizer = generate.load(folder, "bf16")
    asked = prompts.tokens(tokenizer, [row.messages for row in rows], rows, None, folder)
    answers = generate.generate(
        model, asked, generate.end_tokens(model, tokenizer), length, 4096, folder.name
    )
    texts = [tokenizer.decode(answer.tokens, skip_special_tokens=True) for answer in answers]
    return sum(
        scoring.score(scorer, text, row.reference) for text, row in zip(texts, rows, strict=True)
    )


def scales() -> Iterator[tuple[object, ...]]:
    """Measure the model at each scale."""
    valid = files.read_jsonl(layout.SPLITS / "valid.jsonl", Row)
    questions = [json.loads(line) for line in (_TEXTS / "everyday.jsonl").read_text().splitlines()]
    everyday = [
        Row(id=line["id"], messages=(Message(role="user", content=line["prompt"]),), reference=line["reference"],
            group=line["id"], slice=line["slice"], source="everyday")
        for line in questions
    ]  # fmt: skip
    texts = [
        json.loads(line)["text"] for line in (_TEXTS / "english.jsonl").read_text().splitlines()
    ]
    size = sum(len(text.encode()) for text in texts) * math.log(2)
    for scale in SCALES:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / f"scale {scale:g}"
            interpolated(scale, folder)
            task = right(folder, valid, ExactMatch(kind="exact-match"), 20)
            kept = right(folder, everyday, Contains(kind="contains", separator="|"), 16)
            bits = sum(loss.nats(folder, "bf16", texts, folder.name)) / size
        yield (
            f"{scale:g}",
            f"{task:.0f} of {len(valid)}",
            f"{kept:.0f} of {len(everyday)}",
            f"{bits:.3f}",
        )


def main() -> None:
    """Print the table."""
    columns = ("scale", "valid rows right", "everyday questions", "bits per byte")
    tables.show("What keeps answers", columns, scales())


if __name__ == "__main__":
    main()
