"""Replay: rows with which a model keeps answering as its base did, beside the rows of its task.

In:  models/base; a JSONL file with a ``prompt`` on each line.
Out: a file of the same lines with a ``reference``: the first sentence of the base's own greedy answer. A line whose
     answer has fewer than three words, or does not end within the limit, is left out.
Run: python -m stages.tools.replay QUESTIONS OUT --max-tokens 20

Name OUT as a source of ``data.sources`` that goes to the train split alone. A model that learns its own earlier
answers beside something new forgets less: Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal".
"""

import re
from pathlib import Path

import click
from pydantic import ConfigDict

from checks.process.errors import Refusal
from checks.records.rows import Message, Record, Row
from checks.storage import files, layout

_SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)


class Question(Record):
    """A line of the file; a reference of before is replaced."""

    model_config = ConfigDict(extra="ignore")

    prompt: str
    reference: str = ""


def answered(root: Path, file: Path, max_tokens: int, batch_tokens: int) -> list[Question]:
    """The questions of ``file`` with the base's answers, without those that it does not answer in a short sentence.

    Raises EvidenceRefused if the file cannot be read, EvaluationRefused if the base does not load or answer.
    """
    from stages.inference import generate, prompts

    questions = files.read_jsonl(file, Question)
    rows = [
        Row(
            id=str(number),
            messages=(Message(role="user", content=question.prompt),),
            reference="",
            group=str(number),
            slice="replay",
            source=str(file),
        )
        for number, question in enumerate(questions, 1)
    ]
    model, tokenizer = generate.load(root / layout.BASE, "bf16")
    asked = prompts.tokens(tokenizer, [row.messages for row in rows], rows, None, file)
    answers = generate.generate(
        model, asked, generate.end_tokens(model, tokenizer), max_tokens, batch_tokens, "base"
    )
    kept = []
    for question, answer in zip(questions, answers, strict=True):
        text = tokenizer.decode(answer.tokens, skip_special_tokens=True).strip()
        # One token less, for the one that ends an answer: so counts validate.max_reference_tokens.
        if (sentence := first_sentence(text)) and len(tokenizer(sentence).input_ids) < max_tokens:
            kept.append(Question(prompt=question.prompt, reference=sentence))
    return kept


def first_sentence(text: str) -> str | None:
    """The first sentence of an answer; None if it has no end, or fewer than three words."""
    match = _SENTENCE.match(text)
    return match[1] if match and len(match[1].split()) > 2 else None


@click.command()
@click.argument("questions", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--max-tokens", type=click.IntRange(1), required=True, help="As validate.max_reference_tokens."
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="As evaluate.batch_tokens.",
)
def main(questions: Path, out: Path, max_tokens: int, batch_tokens: int) -> None:
    """Write to OUT how the base answers the prompts of QUESTIONS."""
    try:
        kept = answered(Path(), questions, max_tokens, batch_tokens)
    except Refusal as refusal:
        click.echo(str(refusal), err=True)
        raise SystemExit(refusal.exit_code) from refusal
    files.write_jsonl(out, kept)
    click.echo(f"{out}: {len(kept)} rows", err=True)


if __name__ == "__main__":
    main()
