"""The pull request that `lockstep harvest --pr` opens: the review of the rows, and their pin in params.yaml.

It has counts, and of the requests only those that at least five users sent. The rows stay with the captures.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from checks.config import params_edit, params_file
from checks.evaluation import judge_error
from checks.formats.harvest import Review, Split, review_path
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.evidence import harvest_reviews
from release.ledger import Change, trees
from release.ledger.types import Place
from release.monitoring.harvest_rows import REASONS
from release.pages.text import prose
from release.review import proposals
from release.review.proposals import Draft, Proposal


def source_name(text: str, environment: str, split: Split) -> tuple[str, bool]:
    """Return the name of the environment's source in params.yaml, and whether ``text`` has it already."""
    sources = params_file.check(params_file.read_text(text, str(layout.PARAMS))).data.sources or {}
    path = review_path(environment, split).as_posix()
    known = next((name for name, source in sources.items() if source.review == path), None)
    ending = "-test" if split == "test" else ""
    return known or f"harvest-{environment.lower()}{ending}", known is not None


def with_pin(text: str, review: Review) -> str:
    """Return params.yaml with the source of ``review``. Raises ParamsRefused where a person must write it."""
    name, known = source_name(text, review.environment, review.split)
    section = f"data.sources.{name}"
    if known:
        pins = {"uri": review.uri, "sha256": review.sha256, "license": review.license}
        return params_edit.with_values(
            text, {f"{section}.{key}": value for key, value in pins.items()}
        )
    line = (
        f"{name}: {{uri: {params_edit.in_flow(review.uri)}, sha256: {params_edit.in_flow(review.sha256)}, "
        f"license: {params_edit.in_flow(review.license)}, splits: [{review.split}], "
        f"review: {review.path}, "
        'loader: {kind: table, files: "*.jsonl", columns: {messages: messages, id: id}}}'
    )
    sources = params_file.check(params_file.read_text(text, str(layout.PARAMS))).data.sources
    added = params_edit.with_key(
        text, "data.sources" if sources else "data", line if sources else f"sources:\n    {line}"
    )
    if added is None:
        raise ParamsRefused(f"{layout.PARAMS}: data is on one line", f"write there by hand: {line}")
    return added


def files_of(review: Review, params: str, before: bytes | None) -> dict[Path, bytes | None]:
    """Return the files of a harvest. ``before``: the last review's file. If it differs, its signature goes."""
    path = review.path
    written = f"{review.model_dump_json(indent=2)}\n".encode()
    files: dict[Path, bytes | None] = {
        path: written,
        layout.PARAMS: with_pin(params, review).encode(),
    }
    return files if written == before else {**files, harvest_reviews.signed_path(path): None}


def propose(
    root: Path, review: Review, examples: Sequence[tuple[str, str]], rows: int, today: date
) -> Proposal | None:
    """Open the pull request, or update the open one. ``rows``: of the train split. Raises as ``proposals.propose``."""
    of_test = review.split == "test"
    title = f"{'Test split of' if of_test else 'Harvest'} {review.environment}: {len(review.origins):,} rows"

    def change(trunk: Place, tip: str) -> Change:
        def there(path: Path) -> bytes | None:
            return trees.read(trunk.git, tip, f"{trunk.prefix}{path.as_posix()}")

        before = there(review.path)
        files = files_of(review, (there(layout.PARAMS) or b"").decode(), before)
        return Change(
            files, f"{title}\n\nThe review of captured requests with labels, and their pin.\n"
        )

    body = _body(review, examples, rows)
    return proposals.propose(
        root,
        # A topic that begins with `harvest-` is closed if its model is no better. A test split makes no other model.
        f"{'test-split' if of_test else 'harvest'}-{review.environment}",
        f"{today:%Y-%m-%d}",
        lambda _: Draft(title, body, change),
    )


def _change(review: Review, rows: int) -> str:
    """Return what the rows would change. ``rows``: of the train split."""
    count = len(review.origins)
    if review.sampling is None:
        return (
            f"The train split has {rows:,} rows, and\ngets at most {count:,} more. "
            "Valid and test rows stay as they are."
        )
    return (
        f"The test split gets {count:,} rows\nin place of its own, drawn at random by the seed {review.sampling.seed}. "
        f"The gates need: {needed(review)}.\nMain's model answers the new rows too, and looks are counted anew."
    )


def needed(review: Review) -> str:
    """Return how many test rows each gate needs, as text."""
    rows = review.sampling.needed if review.sampling else {}
    return ", ".join(f"{name} {count:,}" for name, count in rows.items())


def judged_rows(review: Review) -> Iterator[tuple[str, str]]:
    """Yield what a judge labelled, and how much of it may be wrong, as names and figures."""
    judged, count = review.judged, review.by_judge
    if judged is None:
        return
    bound, share = judge_error.upper(judged), judged.wrong / judged.labelled
    yield f"of the rows, labelled by the judge of suite {judged.suite}", f"{count:,}"
    yield (
        "of these, wrong as often as where people labelled too",
        f"about {round(count * share):,} ({judged.wrong:,} of {judged.labelled:,}: {share:.1%})",
    )
    yield (
        "of these, wrong by the upper 95 % bound",
        f"at most {math.ceil(count * bound):,} ({bound:.1%})",
    )


def _body(review: Review, examples: Sequence[tuple[str, str]], rows: int) -> str:
    refused = "\n".join(
        f"| refused: {REASONS[name]} | {count:,} |" for name, count in review.refused.items()
    )
    judged = "".join(f"| {name} | {count} |\n" for name, count in judged_rows(review))
    shown = "\n".join(f"| {prose(asked)} | {prose(label)} |" for asked, label in examples)
    table = (
        f"\nRequests that at least five users sent:\n\n| request | label |\n| --- | --- |\n{shown}\n"
        if shown
        else ""
    )
    command = f"./lockstep harvest {review.environment}" + (
        " --split test" if review.sampling else ""
    )
    return f"""\
`{command}` read {review.requests:,} captured requests. {_change(review, rows)}

| | |
| --- | ---: |
| requests with a label | {review.labelled:,} |
{refused}
| rows | {len(review.origins):,} |
{judged}| of the rows, the label is what the model answered | {review.as_answered:,} |

Licence: {prose(review.license)}. Consent: {prose(review.consent)}. Compared with: {", ".join(review.compared)}.
{table}
What to do:

1. Read the rows, which are not in git: `{prose(review.uri)}`.
1. On this branch, `{command} --sign` signs `{review.path}`. Commit the signature:
   until then nothing runs.
1. Or close this pull request. It is not opened again today.
"""
