"""Commands about environments: promote, rollback, approve, quarantine, drill, status, history, reconcile."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import environment_tables
from release.cli.common import refusing, to_json

if TYPE_CHECKING:
    from typing import Literal

TARGET = click.option("--target", metavar="REF", help="The branch with rules and signers; else origin's default.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
KEY = click.option(
    "--key", metavar="FILE", type=click.Path(path_type=Path), help="The private key; else .lockstep/keys/lockstep.key."
)


@click.command()
@click.argument("environment")
@click.option(
    "--image", metavar="IMAGE", help="HOST/NAME@sha256:…; else what the environment before runs, or what was built."
)
@click.option("--why", metavar="TEXT", help="For the history; else the subject of the record's commit.")
@click.option("--version", metavar="vX.Y.Z", help="Another version than the next one.")
@click.option(
    "--bump", type=click.Choice(["major", "minor"]), default="minor", show_default=True, help="For a new model."
)
@click.option("--dry-run", is_flag=True, help="Ask everything, show the change, write nothing.")
@click.option("--pr", is_flag=True, help="Propose the commit in a pull request instead of pushing it.")
@TARGET
@JSON
@click.pass_obj
@refusing
def promote(
    root: Path,
    environment: str,
    image: str | None,
    why: str | None,
    version: str | None,
    bump: "Literal['major', 'minor']",
    dry_run: bool,
    pr: bool,
    target: str | None,
    as_json: bool,
) -> None:
    """Move ENVIRONMENT to an image by one commit, when nothing at all is lacking; else list what is.

    Layers, evidence, signatures, record, policy, soak, approvals and quarantine are all asked anew; the verdict is
    judged again before the first environment, and later where the policy became stricter.
    """
    from release.verbs import promote as verb

    done = verb.promote(
        root,
        environment,
        verb.Options(image=image, why=why, version=version, bump=bump, dry_run=dry_run, pr=pr, target=target),
    )
    click.echo(to_json(done.model_dump(mode="json")) if as_json else environment_tables.moved(done))
    if dry_run and (refusal := verb.refusal(done)):
        raise refusal


@click.command()
@click.argument("environment")
@click.option("--why", required=True, metavar="TEXT", help="What was wrong: for the history and the quarantine.")
@click.option(
    "--to",
    metavar="RELEASE",
    help="A version, digest or image that ran there, or none: run nothing. Default: the last other good one.",
)
@click.option("--ask", is_flag=True, help="Start the old image, too, and ask it something.")
@click.option("--dry-run", is_flag=True, help="Ask everything, show the change, write nothing.")
@TARGET
@JSON
@click.pass_obj
@refusing
def rollback(
    root: Path, environment: str, why: str, to: str | None, ask: bool, dry_run: bool, target: str | None, as_json: bool
) -> None:
    """Move ENVIRONMENT back to a release that ran there, or to nothing (--to none), and quarantine what it ran."""
    from release.verbs import rollback as verb

    done = verb.rollback(root, environment, verb.Options(why=why, to=to, ask=ask, dry_run=dry_run, target=target))
    click.echo(to_json(done.model_dump(mode="json")) if as_json else environment_tables.moved(done))
    if dry_run and (refusal := verb.refusal(done)):
        raise refusal


@click.command()
@click.argument("environment")
@click.option("--why", required=True, metavar="TEXT", help="What was looked at.")
@click.option("--image", metavar="IMAGE", help="Another image than the one that would be promoted.")
@KEY
@TARGET
@JSON
@click.pass_obj
@refusing
def approve(
    root: Path, environment: str, why: str, image: str | None, key: Path | None, target: str | None, as_json: bool
) -> None:
    """Sign that an image may move to ENVIRONMENT."""
    from release.evidence import keys
    from release.verbs import approve as verb

    done = verb.approve(root, environment, key or root / keys.KEY, why, image, target)
    if as_json:
        click.echo(to_json(done.model_dump(mode="json")))
    else:
        click.echo(f"{environment}: {done.image} is approved by {done.signer}; {done.asked} asked for")


@click.command()
@click.argument("name", required=False)
@click.option("--release", metavar="RELEASE", help="Let this version, image or model move again.")
@click.option("--why", metavar="TEXT", help="What is wrong with it, or why it may move again.")
@KEY
@TARGET
@JSON
@click.pass_obj
@refusing
def quarantine(
    root: Path,
    name: str | None,
    release: str | None,
    why: str | None,
    key: Path | None,
    target: str | None,
    as_json: bool,
) -> None:
    """List what no promotion moves anywhere; add NAME (a version, or the digest of an image or model); or release one.

    A release is signed where an environment asks for approvals, by one who may approve.
    """
    from release.verbs import quarantine as verb

    if name is not None and release is not None:
        raise click.UsageError("NAME is held back and --release lets one go: give one of them")
    if (name is None and release is None) != (why is None):
        raise click.UsageError("NAME or --release goes together with --why")
    notes = list[str]()
    if name is not None and why is not None:
        added = verb.add(root, name, why, target)
        left = added.left
        notes = [f"note: {each} runs it: `lockstep rollback {each} --why …`" for each in added.runs]
    elif release is not None and why is not None:
        left = verb.release(root, release, why, key, target).left
    else:
        left = verb.held(root, target)
    if as_json:
        click.echo(to_json([entry.model_dump(mode="json") for entry in left]))
        return
    click.echo("\n".join([*environment_tables.held(left), *notes]))


@click.command()
@click.argument("environment")
@TARGET
@JSON
@click.pass_obj
@refusing
def drill(root: Path, environment: str, target: str | None, as_json: bool) -> None:
    """Roll ENVIRONMENT back and forth in a scratch clone, and print the seconds. Nothing real moves."""
    from release.verbs import drill as verb

    done = verb.drill(root, environment, target)
    if as_json:
        click.echo(to_json(done.model_dump(mode="json")))
        return
    for step in done.steps:
        click.echo(f"{step.seconds:7.2f} s  {step.what}")
    to = done.to.version if done.to else "nothing"
    click.echo(f"{done.seconds:7.2f} s  in all: {done.before.version} to {to} and back")


@click.command()
@JSON
@click.pass_obj
@refusing
def status(root: Path, as_json: bool) -> None:
    """Say what runs where, since when, by which verdict, and what would be next.

    Ends with 19 where git contradicts itself, or an environment runs what is held back.
    """
    from release.verbs import status as verb

    found = verb.status(root)
    click.echo(to_json(found.model_dump(mode="json")) if as_json else environment_tables.status(found))
    if refusal := verb.refusal(found):
        raise refusal


@click.command()
@click.argument("environment", required=False)
@click.option("--on", metavar="DATE", help="What ran then: 2026-03-14, or 2026-03-14T09:30 (UTC).")
@JSON
@click.pass_obj
@refusing
def history(root: Path, environment: str | None, on: str | None, as_json: bool) -> None:
    """List every move: who, when, from, to, why; of ENVIRONMENT, or of all."""
    from release.verbs import history as verb

    found = verb.history(root, environment, on)
    click.echo(to_json(found.model_dump(mode="json")) if as_json else environment_tables.history(found))


@click.command()
@click.option("--fix", is_flag=True, help="Write mirrors again from git; git is never written from a mirror.")
@JSON
@click.pass_obj
@refusing
def reconcile(root: Path, fix: bool, as_json: bool) -> None:
    """Compare git with MLflow, tags, registries, overlays and, where it can be reached, the cluster."""
    from release.verbs import reconcile as verb

    found = verb.reconcile(root, fix)
    click.echo(to_json(found.model_dump(mode="json")) if as_json else environment_tables.reconciled(found))
    if refusal := verb.refusal(found):
        raise refusal
