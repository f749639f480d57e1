"""Commands about signed evidence: evidence recheck, evidence show."""

from pathlib import Path

import click

from release.cli import common, tables


@click.group(cls=common.Group)
def evidence() -> None:
    """Inspect the signed evidence of a release."""


@evidence.command("recheck")
@click.argument("names", metavar="[COMMIT]...", nargs=-1)
@common.JSON
@click.pass_obj
@common.refusing
def recheck(root: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Check whether fetching the data of a release could have written files beside data and models.

    Checks all releases that ever ran in an environment, or the commits given. For releases that were signed before
    Lockstep limited what DVC may write: docs/explanation/advisory-2026-11.md.
    """
    from release.verbs import recheck as verb

    checked = verb.recheck(root, names)
    common.show(checked, as_json, tables.rechecked)
    common.refuse(verb.refusal(checked))


@evidence.command("show")
@click.argument("image")
@click.option(
    "--target",
    metavar="REF",
    help="The branch whose signers count. Default: origin's default branch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the provenance as JSON.")
@click.pass_obj
@common.refusing
def show(root: Path, image: str, target: str | None, as_json: bool) -> None:
    """Trace IMAGE back to the rows it was trained on, and say of each step how it was checked.

    IMAGE is HOST/NAME@sha256:…, oci:FOLDER@sha256:… or a digest alone.
    """
    from release.verbs import evidence as verb

    common.show(verb.show(root, image, target), as_json, tables.walk)
