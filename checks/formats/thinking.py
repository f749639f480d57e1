"""Divides what a model wrote into its thought and its answer, and says whether it is asked to think."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from checks.records.sections import Section, problems
from checks.storage import files, layout

Mark = Annotated[str, Field(min_length=1, max_length=60)]


class Parts(NamedTuple):
    """The two parts of what a model wrote. ``closed``: whether the thought ended; without a thought there is none."""

    thought: str
    answer: str
    closed: bool


class Thinking(Section):
    """``base.thinking``. Without it, all that a model writes is its answer.

    ``fetch`` writes the mode into the base's chat template, so it also holds in training and in the server.
    """

    mode: Annotated[
        Literal["always", "never", "mixed"],
        Field(
            description="always, never: the chat template is asked so; mixed: the template as it is, and an answer may "
            "have a thought or none"
        ),
    ]
    marks: Annotated[
        tuple[Mark, Mark],
        Field(strict=False, description="what the model writes before and after a thought"),
    ] = ("<think>", "</think>")

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        opening, closing = self.marks
        return problems(
            (
                opening == closing,
                f"marks are both {opening}|name what begins a thought, then what ends it",
            )
        )

    def divide(self, text: str) -> Parts:
        """Divide what a model wrote at the marks.

        The rule is that of vLLM's BaseThinkingReasoningParser, which its parser deepseek_r1 uses: what precedes the
        opening mark is dropped, the answer follows the first closing mark, and without a closing mark all is thought,
        because a template may write the opening mark itself. Where thoughts are not always asked for, a text without
        marks is an answer.
        """
        opening, closing = self.marks
        if self.mode != "always" and opening not in text and closing not in text:
            return Parts("", text.strip(), True)
        before, opened, after = text.partition(opening)
        thought, closed, answer = (after if opened else before).partition(closing)
        return Parts(thought.strip(), answer.strip(), bool(closed))


def of_model(folder: Path) -> Thinking | None:
    """Return how the model in ``folder`` thinks; None if all that it writes is its answer."""
    path = folder / layout.THINKING
    return files.read_json(path, Thinking) if path.is_file() else None


def answer_in(reference: str, thinking: Thinking | None) -> str:
    """Return a reference without its thought, if it has one and the model thinks."""
    if thinking is None or thinking.marks[1] not in reference:
        return reference
    return thinking.divide(reference).answer
