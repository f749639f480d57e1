"""Answers of the reference models: from their record if it applies, else from their weights.

In:  an entry of reports/references.json, the rows of the test split, what they are judged by now.
Out: the model's answers to exactly those rows, how they were obtained, and a sentence that says so.

Recorded answers are used if test split, scorers and prompt have the same digests. Otherwise the model's weights answer
this test split, through their own chat template. Of another test split some rows may be train rows of that model: these
are named, so that no comparison counts them. DVC fetches answers, weights and train split, as of that commit, from its
cache or any remote. They must have the digests in git, or they are not used.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from checks.config.pipeline_params import Evaluate
from checks.data.similar import normalised
from checks.formats.evaluation_reports import Reference, ReferenceUse
from checks.process.errors import EvidenceRefused, Refusal
from checks.records.rows import Prediction, Row, earlier_requests, request
from checks.storage import digest, files, layout
from stages import progress
from stages.earlier_records import REMEDY, brought, committed
from stages.inference import answers
from stages.inference.answers import Answered

_ANSWERS = layout.PREDICTIONS / "candidate.jsonl"
_TRAIN = layout.SPLITS / "train.jsonl"
# DVC sees no reason of its own to evaluate again.
_AGAIN = "then `./lockstep dvc repro --force --single-item evaluate`"


class Judged(NamedTuple):
    """The candidate and what it is judged by: digests of merged model, test split, scorers and prompt format."""

    merged: str
    test: str
    scorers: str
    prompt_format: str


class Had(NamedTuple):
    """How a reference's answers were obtained, and the answers; None if they were not.

    ``learned``: the ids of the rows that the reference's own train split asks too.
    """

    use: ReferenceUse
    answered: Answered | None
    learned: frozenset[str] = frozenset()


def have(
    root: Path,
    settings: Evaluate,
    name: str,
    reference: Reference,
    judged: Judged,
    rows: Sequence[Row],
    candidate: Answered,
) -> Had:
    """The answers of ``reference`` to ``rows``; ``candidate`` are those of the model that ``judged`` names.

    Unavailable answers are no error here: the use says why, and a gate that names the model fails.
    """
    at = f"commit {reference.commit[:12]}"
    if reference.merged == judged.merged:
        return Had(
            ReferenceUse(how="same-model", merged=reference.merged, note="it is this model"),
            candidate,
        )
    other = [
        what
        for what, then, now in (
            ("another test split", reference.test, judged.test),
            ("other scorers", reference.scorers, judged.scorers),
            ("another prompt format", reference.prompt_format, judged.prompt_format),
        )
        if then != now
    ]
    if other:
        why = f"they are of {' and '.join(other)}"
    else:
        try:
            recorded = _recorded(root, name, reference, rows)
            note = (
                f"its own answers, recorded in {at}: the same test split, scorers and prompt format"
            )
            return Had(ReferenceUse(how="stored", merged=reference.merged, note=note), recorded)
        except Refusal as refusal:
            why = refusal.what
    try:
        learned = (
            _learned(root, name, reference, judged.test, rows)
            if reference.test != judged.test
            else frozenset()
        )
        recorded = _evaluated(root, settings, name, reference, rows)
    except Refusal as refusal:
        note = f"the recorded answers of {at} were not used ({why}), and its weights could not be ({refusal.what})"
        note = f"{note}; {refusal.todo}, {_AGAIN}"
        return Had(ReferenceUse(how="unavailable", merged=reference.merged, note=note), None)
    note = (
        f"its weights of {at} answered this test split; its recorded answers were not used: {why}"
    )
    if learned:
        note += f"; comparisons leave out {len(learned):,} of the {len(rows):,} rows: its own train split asks them too"
    return Had(ReferenceUse(how="evaluated", merged=reference.merged, note=note), recorded, learned)


def _recorded(root: Path, name: str, reference: Reference, rows: Sequence[Row]) -> Answered:
    with brought(root, name, reference.commit, _ANSWERS) as path:
        if digest.of_file(path).sha256 != reference.predictions:
            raise EvidenceRefused(f"{_ANSWERS} is not what the record names", REMEDY)
        predictions = files.read_jsonl(path, Prediction)
    if [(p.id, p.reference, p.group, p.slice) for p in predictions] != [
        (r.id, r.reference, r.group, r.slice) for r in rows
    ]:
        raise EvidenceRefused(f"{_ANSWERS} is of other rows than the test split", REMEDY)
    further = tuple(p.further for p in predictions)
    thoughts = (
        tuple(p.thoughts for p in predictions) if any(p.thoughts for p in predictions) else ()
    )
    return Answered([p.prediction for p in predictions], [], None, further, thoughts)


def _learned(
    root: Path, name: str, reference: Reference, test: str, rows: Sequence[Row]
) -> frozenset[str]:
    """Return the ids of the rows that ask what the reference learned from, or an earlier turn of it.

    That are its train rows, and the rows that it started with. The ids are kept on this machine, as answers are.
    ``test`` is the digest of ``rows``.
    """
    report = committed(root, reference.commit, layout.PREPARE_REPORT)
    trained = committed(root, reference.commit, layout.TRAIN_REPORT)
    try:
        recorded = {_TRAIN: json.loads(report or "")["splits"]["train"]["sha256"]}
        if start := json.loads(trained or "{}").get("start"):
            recorded[layout.LEARNED_BEFORE] = start["learned"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceRefused(
            f"{layout.PREPARE_REPORT} of that commit names no train split", REMEDY
        ) from error
    key = digest.of_json([*recorded.values(), test]).removeprefix("sha256:")
    kept = root / layout.LEARNED / f"{key}.json"
    with suppress(OSError, ValueError):
        return frozenset(json.loads(kept.read_text()))
    learned = set[str]()
    for wanted, expected in recorded.items():
        with brought(root, name, reference.commit, wanted) as path:
            if digest.of_file(path).sha256 != expected:
                raise EvidenceRefused(f"{wanted} is not what the record names", REMEDY)
            learned |= {
                normalised(text)
                for row in files.each_of_jsonl(path, Row)
                for text in (request(row.messages), *earlier_requests(row.messages))
            }
    row_ids = [row.id for row in rows if normalised(request(row.messages)) in learned]
    files.write_json(kept, row_ids)
    return frozenset(row_ids)


def _evaluated(
    root: Path, settings: Evaluate, name: str, reference: Reference, rows: Sequence[Row]
) -> Answered:
    conversations = [row.messages for row in rows]
    if (known := answers.known(root, settings, reference.merged, rows, conversations)) is not None:
        return known
    with brought(root, name, reference.commit, layout.MERGED) as folder:
        actual = progress.tree_digest(folder, name)
        if actual != reference.merged:
            raise EvidenceRefused(f"{layout.MERGED} is not what the record names", REMEDY)
        return answers.ask(root, settings, folder, actual, rows, conversations, name)
