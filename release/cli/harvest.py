"""The command harvest, and its results as text."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli.common import CAPTURES, JSON, KEY, SINCE, UNTIL, exclusive, refusing, show
from release.cli.tables import one_line

if TYPE_CHECKING:
    from checks.formats.harvest import Review, Split
    from release.verbs.erase import Erasure


@click.command()
@click.argument("environment", metavar="ENV")
@click.option(
    "--split", type=click.Choice(["train", "test"]), default="train", show_default=True,
    help="What the rows are for. test: they replace the test split.",
)  # fmt: skip
@click.option(
    "--rows", type=click.IntRange(min=1), metavar="N",
    help="With --split test: draw so many rows at random. Default: as many as the gates need.",
)  # fmt: skip
@SINCE
@UNTIL
@CAPTURES
@click.option(
    "--license", "license_name", metavar="NAME",
    help="Licence of the requests: an SPDX identifier, or LicenseRef-Own. Default: as params.yaml says.",
)  # fmt: skip
@click.option(
    "--consent", metavar="TEXT",
    help="What allows training on them, such as a section of your terms. Default: as in the last review.",
)  # fmt: skip
@click.option(
    "--judge", metavar="SUITE",
    help="Let the judge of this suite label requests that people did not. It is sent these requests.",
)  # fmt: skip
@click.option("--pr", is_flag=True, help="Open a pull request with the review and the pin.")
@click.option("--sign", is_flag=True, help="Sign the review of the rows, which you have read.")
@KEY
@click.option(
    "--erase",
    metavar="REQUEST",
    help="Erase a request, of whichever environment, by its X-Request-Id or its digest in a review.",
)
@JSON
@click.pass_obj
@refusing
def harvest(
    root: Path, environment: str, split: "Split", rows: int | None, since: str | None, until: str | None,
    captures: str | None, license_name: str | None, consent: str | None, judge: str | None, pr: bool, sign: bool,
    key: Path | None, erase: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Turn the captured requests of ENV that have labels into a source of the next training, or into a test split.

    Leaves out requests that are equal or nearly equal to test and valid rows, requests with personal data, and those
    with contradictory labels. The rows lie beside the captures, never in git. Writes their review, which has counts and
    digests, and their pin in params.yaml. `lockstep run` and `lockstep promote` refuse them until
    somebody with the role `harvest` in release/policy/signers.yaml signed the review with --sign.

    --erase removes a request from captures, labels and sources, and lists the releases that learned it.
    """
    from release.verbs import erase as erasing
    from release.verbs import harvest as verb

    exclusive({"--sign": sign, "--erase": erase})
    exclusive({"--rows": rows is not None, "--split train": split == "train"})
    exclusive({"--pr": pr, "--sign or --erase": sign or erase})
    exclusive({"--judge": judge, "--split test": split == "test"})
    if erase is not None:
        show(erasing.erase(root, erase, captures), as_json, lambda done: "\n".join(_erased(done)))
    elif sign:
        path, signer = verb.sign(root, environment, captures, key, split=split)
        show({"path": str(path), "signer": signer}, as_json, f"{signer} signed: commit {path}")
    else:
        review, proposal = verb.harvest(
            root, environment, split=split, rows=rows, since=since, until=until, captures=captures,
            license_name=license_name, consent=consent, pr=pr, judge=judge,
        )  # fmt: skip
        show(review, as_json, lambda review: "\n".join(_shown(review)))
        if pr:
            done = f"{proposal.done} {one_line(proposal.url)}" if proposal else "none: it is merged"
            click.echo(f"pull request: {done}", err=as_json)
        elif not as_json:
            option = " --split test" if split == "test" else ""
            click.echo(f"read them, then: ./lockstep harvest {environment}{option} --sign")


def _shown(review: "Review") -> Iterator[str]:
    from release.monitoring.harvest_rows import REASONS
    from release.review import harvest_pull

    yield f"{len(review.origins):,} rows of {review.labelled:,} requests with a label: {one_line(review.uri)}"
    if review.sampling:
        needed = harvest_pull.needed(review)
        yield f"  drawn at random for the test split by the seed {review.sampling.seed}; needed: {needed}"
    for name, count in review.refused.items():
        yield f"  left out {count:>7,}  {REASONS[name]}"
    for name, figure in harvest_pull.judged_rows(review):
        yield f"  {name}: {figure}"
    yield f"  of the rows, {review.as_answered:,} have the label that the model answered"
    yield f"compared with {', '.join(review.compared)}"


def _erased(done: "Erasure") -> Iterator[str]:
    yield f"erased {done.lines:,} lines; commit labels/harvest/erased.jsonl ({done.request})"
    for path in done.queued:
        yield f"  earlier versions of {path} in git still have its text"
    if not done.sources:
        yield "no source of training data had it"
        return
    yield f"learned by: {', '.join(done.versions) or 'no release'}"
    for output in done.outputs:
        yield f"  still in DVC's caches and remotes: {one_line(output)}"
    yield "make the source anew: `lockstep harvest ENV`; releases that learned it are not changed"
