"""What a model knows of its task, and what it kept of its base, when a part of what it learnt is added to the base.

    python -m benchmarks.remembering [--model models/merged] [--scales 1.0 0.8 0.6 0.5 0.4] [--plot FILE.svg]

Prints a Markdown table: rows of the valid split that are answered right, everyday questions whose answer has the
reference, bits per byte of everyday English. Needs models/base, data/splits and the model: `./lockstep run`. Some two
minutes a scale on one core.

The weights are base + scale x (model - base), in bf16: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models",
which forgets less without another training. Compare with rows of replay: docs/measurements/forgetting.md.
"""

import argparse
import itertools
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file, save_file

from checks import files, layout
from checks.evaluation import scoring
from checks.rows import Message, Row
from checks.scorer_kind import ScorerKind
from checks.scorers.contains import Contains
from checks.scorers.exact_match import ExactMatch
from stages.inference import generate, loss, prompts

_TEXTS = Path("stages/texts")


def interpolated(base: Path, model: Path, scale: float, out: Path) -> None:
    """Write ``model`` to ``out`` with that share of what it learnt."""
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    before, after = (
        {name: each for path in sorted(folder.glob("*.safetensors")) for name, each in load_file(path).items()}
        for folder in (base, model)
    )
    mixed = {
        name: (before[name].float() + scale * (each.float() - before[name].float())) for name, each in after.items()
    }
    save_file(
        {name: each.to(after[name].dtype) for name, each in mixed.items()}, out / "model.safetensors", {"format": "pt"}
    )


def right(folder: Path, rows: Sequence[Row], scorer: ScorerKind, length: int) -> float:
    """The sum of the scores of the model's greedy answers."""
    model, tokenizer = generate.load(folder, "bf16")
    asked = prompts.tokens(tokenizer, [row.messages for row in rows], rows, None, folder)
    found = generate.generate(model, asked, generate.end_tokens(model, tokenizer), length, 4096, folder.name)
    texts = [tokenizer.decode(each.tokens, skip_special_tokens=True) for each in found]
    return sum(scoring.score(scorer, text, row.reference) for text, row in zip(texts, rows, strict=True))


class Point(NamedTuple):
    """Shares of valid rows and of everyday questions that are answered right, and what says which point it is."""

    task: float
    kept: float
    said: str


def plot(series: Mapping[str, Sequence[Point]], out: Path) -> None:
    """Draw every point with its name into ``out``, without its suffix; the points of a series are joined."""
    from matplotlib.figure import Figure

    from stages.reporting import plots

    with plots.style():
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        axes = figure.subplots()
        for (name, points), marker in zip(series.items(), "os^Dv", strict=False):
            axes.plot([each.task for each in points], [each.kept for each in points], marker=marker, label=name)
            for each in points:
                axes.annotate(each.said, (each.task, each.kept), textcoords="offset points", xytext=(6, 4))
        axes.set_xlabel("valid rows answered right")
        axes.set_ylabel("everyday questions answered right")
        axes.legend(loc="lower left")
        axes.spines[["top", "right"]].set_visible(False)
        plots.save(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", default=[layout.MERGED], help="each is a line of the plot")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 0.8, 0.6, 0.5, 0.4])
    parser.add_argument("--plot", type=Path, help="write FILE.svg and FILE.png")
    options = parser.parse_args()
    valid = files.read_jsonl(layout.SPLITS / "valid.jsonl", Row)
    asked = [json.loads(line) for line in (_TEXTS / "everyday.jsonl").read_text().splitlines()]
    everyday = [
        Row(id=each["id"], messages=(Message(role="user", content=each["prompt"]),), reference=each["reference"],
            group=each["id"], slice=each["slice"], source="everyday")
        for each in asked
    ]  # fmt: skip
    texts = [json.loads(line)["text"] for line in (_TEXTS / "english.jsonl").read_text().splitlines()]
    size = sum(len(text.encode()) for text in texts) * math.log(2)
    print(
        f"| model x scale | valid rows right, of {len(valid)} | everyday questions, of {len(everyday)} | bits a byte |"
    )
    print("| --- | ---: | ---: | ---: |")
    series: dict[str, list[Point]] = {str(model): [] for model in options.model}
    for model, scale in itertools.product(options.model, options.scales):
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / f"scale {scale:g}"
            interpolated(layout.BASE, model, scale, folder)
            task = right(folder, valid, ExactMatch(kind="exact-match"), 20)
            kept = right(folder, everyday, Contains(kind="contains", separator="|"), 16)
            bits = sum(loss.nats(folder, "bf16", texts, folder.name)) / size
        point = Point(task / len(valid), kept / len(everyday), f"{scale:g}")
        series[str(model)].append(point)
        print(f"| {model} x {scale:g} | {task:.0f} ({point.task:.1%}) | {kept:.0f} ({point.kept:.1%}) | {bits:.3f} |")
    if options.plot:
        plot(series, options.plot)


if __name__ == "__main__":
    main()
