"""Divides what models wrote into thoughts and answers, so that only the answers are scored (``base.thinking``)."""

from pathlib import Path

from checks.formats import thinking
from checks.records.rows import Thought
from stages.inference.answers import Answered


def divided(answered: Answered, folder: Path) -> Answered:
    """Return ``answered`` with the answers alone as texts, and with the thoughts of each row's draws.

    ``folder``: the candidate's directory, which says how thoughts are marked, and by whose tokenizer they are counted.
    An answer whose thought never ended is empty. Returns ``answered`` itself if it is divided, or if no model thinks.
    """
    marked = thinking.of_model(folder)
    if marked is None or answered.thoughts:
        return answered
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    rows = [[marked.divide(text) for text in draws] for draws in answered.draws]
    thoughts = tuple(
        tuple(
            Thought(
                text=parts.thought,
                tokens=len(tokenizer.encode(parts.thought, add_special_tokens=False)),
                closed=parts.closed,
            )
            for parts in draws
        )
        for draws in rows
    )
    first, *others = zip(*([parts.answer for parts in draws] for draws in rows), strict=True)
    further = tuple(zip(*others, strict=True))
    return answered._replace(texts=list(first), further=further, thoughts=thoughts)
