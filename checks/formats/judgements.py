"""Judgements held to the answers that they are about."""

from collections.abc import Mapping, Sequence

from checks.formats.suite_report import Judgement, Role
from checks.storage import digest


def answer_sha(answer: str) -> str:
    """The digest of an answer's text, as the model gave it."""
    return digest.of_bytes(answer.encode())


def problem(
    judgements: Sequence[Judgement], answers: Mapping[Role, Mapping[str, str]]
) -> str | None:
    """The first judgement that is about another answer than those here, or that is a second one; None: all hold.

    ``answers``: by model and row.
    """
    given: dict[str, dict[str, str]] = {}
    for role, answer_shas in answers.items():
        for row, answer in answer_shas.items():
            given.setdefault(row, {}).setdefault(answer_sha(answer), role)
    seen = set[tuple[str, ...]]()
    for number, judgement in enumerate(judgements, 1):
        here = given.get(judgement.sample)
        if here is None:
            return f"{number}: row {judgement.sample!r} was not answered"
        shas = [sha for sha in (judgement.answer_sha, judgement.other_sha) if sha is not None]
        if strange := [sha for sha in shas if sha not in here]:
            sha, answerer = next(iter(here.items()))
            difference = f"the judged answer is {strange[0][:19]}…, the {answerer}'s is {sha[:19]}…"
            return f"{number}: row {judgement.sample!r}: {difference}"
        # Several people may compare two answers; one answer has one judgement.
        once = (judgement.sample, *shas, *([judgement.judge] if judgement.other_sha else ()))
        if once in seen:
            return f"{number}: row {judgement.sample!r}: this answer is judged already"
        seen.add(once)
    return None
