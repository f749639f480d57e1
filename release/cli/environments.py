"""Commands about environments: render, promote, rollback, approve, quarantine, status, history, reconcile."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from release.cli import environment_tables
from release.cli.common import JSON, TARGET, refusing, to_json
from release.cli.tables import one_line
from release.cli.wrapping import hanging

if TYPE_CHECKING:
    from typing import Literal

KEY = click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The private key. Default: .lockstep/keys/lockstep.key.",
)


@click.command()
@click.argument("environment")
@click.pass_obj
@refusing
def render(root: Path, environment: str) -> None:
    """Write the kustomization.yaml of ENVIRONMENT from its environment.yaml. Commit both.

    `lockstep promote`, `rollback` and `status` refuse or report a kustomization.yaml that differs.
    """
    from release.verbs import render as verb

    click.echo(f"wrote {one_line(str(verb.render(root, environment)))}")


@click.command()
@click.argument("environment")
@click.option(
    "--image",
    metavar="IMAGE",
    help="The image, as HOST/NAME@sha256:…. Default: what the previous environment runs, else the built image.",
)
@click.option(
    "--why",
    metavar="TEXT",
    help="The reason, for the history. Default: the subject of the record's commit.",
)
@click.option(
    "--version", metavar="vX.Y.Z", help="The version of the release. Default: the next one."
)
@click.option(
    "--bump",
    type=click.Choice(["major", "minor"]),
    default="minor",
    show_default=True,
    help="Which part of the version a new model increases.",
)
@click.option(
    "--dry-run", is_flag=True, help="Run all checks and show the change, but write nothing."
)
@click.option(
    "--pr", is_flag=True, help="Open a pull request with the commit instead of pushing it."
)
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
    """Move ENVIRONMENT to an image by one commit.

    If a check fails, nothing moves, and all failures are listed. Checks layers, evidence, signatures, record,
    policy, soak time, approvals and quarantine. The verdict is judged again before the first environment, and
    before later ones if the policy became stricter.
    """
    from release.verbs import promote as verb

    done = verb.promote(
        root,
        environment,
        verb.PromoteOptions(
            image=image, why=why, version=version, bump=bump, dry_run=dry_run, pr=pr, target=target
        ),
    )
    click.echo(
        to_json(done.model_dump(mode="json"))
        if as_json
        else hanging(environment_tables.moved(done))
    )
    if dry_run and (refusal := verb.refusal(done)):
        raise refusal


@click.command()
@click.argument("environment")
@click.option(
    "--why",
    required=True,
    metavar="TEXT",
    help="What was wrong, for the history and the quarantine.",
)
@click.option(
    "--to",
    metavar="RELEASE",
    help="A version, digest or image that ran there; `none` empties the environment. Default: the last good release.",
)
@click.option("--ask", is_flag=True, help="Also start the old image and send it a request.")
@click.option(
    "--dry-run", is_flag=True, help="Run all checks and show the change, but write nothing."
)
@TARGET
@JSON
@click.pass_obj
@refusing
def rollback(
    root: Path,
    environment: str,
    why: str,
    to: str | None,
    ask: bool,
    dry_run: bool,
    target: str | None,
    as_json: bool,
) -> None:
    """Move ENVIRONMENT back to an earlier release.

    The release that it ran is put into quarantine. --to none empties the environment.
    """
    from release.verbs import rollback as verb

    done = verb.rollback(
        root,
        environment,
        verb.RollbackOptions(why=why, to=to, ask=ask, dry_run=dry_run, target=target),
    )
    click.echo(
        to_json(done.model_dump(mode="json"))
        if as_json
        else hanging(environment_tables.moved(done))
    )
    if dry_run and (refusal := verb.refusal(done)):
        raise refusal


@click.command()
@click.argument("environment")
@click.option("--why", required=True, metavar="TEXT", help="What you looked at.")
@click.option(
    "--image",
    metavar="IMAGE",
    help="The image. Default: the one that `lockstep promote` would take.",
)
@KEY
@TARGET
@JSON
@click.pass_obj
@refusing
def approve(
    root: Path,
    environment: str,
    why: str,
    image: str | None,
    key: Path | None,
    target: str | None,
    as_json: bool,
) -> None:
    """Approve an image for ENVIRONMENT. The approval is signed and committed."""
    from release.evidence import keys
    from release.verbs import approve as verb

    done = verb.approve(root, environment, key or root / keys.KEY, why, image, target)
    if as_json:
        click.echo(to_json(done.model_dump(mode="json")))
    else:
        click.echo(
            f"{environment}: {done.image} is approved by {done.signer}; approvals needed: {done.required}"
        )


@click.command()
@click.argument("name", required=False)
@click.option(
    "--release", metavar="RELEASE", help="Remove this version, image or model from quarantine."
)
@click.option(
    "--why", metavar="TEXT", help="What is wrong with it, or why it may be promoted again."
)
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
    """List the releases in quarantine, add NAME, or remove one.

    No promotion may deploy a release in quarantine. NAME is a version, or the digest of an image or model. If any
    environment requires approvals, only a signer with the role `approve` can remove an entry.
    """
    from release.verbs import quarantine as verb

    if name is not None and release is not None:
        raise click.UsageError(
            "NAME adds to the quarantine and --release removes from it: give one of them"
        )
    if (name is None and release is None) != (why is None):
        raise click.UsageError("NAME and --release need --why, and --why needs one of them")
    notes = list[str]()
    if name is not None and why is not None:
        added = verb.add(root, name, why, target)
        left = added.left
        notes = [
            f"note: {environment} runs it: `lockstep rollback {environment} --why …`"
            for environment in added.runs
        ]
    elif release is not None and why is not None:
        left = verb.release(root, release, why, key, target).left
    else:
        left = verb.held(root, target)
    if as_json:
        click.echo(to_json([entry.model_dump(mode="json") for entry in left]))
        return
    click.echo(hanging("\n".join([*environment_tables.held(left), *notes])))


@click.command()
@JSON
@click.pass_obj
@refusing
def status(root: Path, as_json: bool) -> None:
    """Print what each environment runs.

    Also since when, by which verdict, and what would be promoted next. Exits with 19 if git contradicts itself or
    an environment runs a quarantined release.
    """
    from release.verbs import status as verb

    state = verb.status(root)
    click.echo(
        to_json(state.model_dump(mode="json"))
        if as_json
        else hanging(environment_tables.status(state))
    )
    if refusal := verb.refusal(state):
        raise refusal


@click.command()
@click.argument("environment", required=False)
@click.option(
    "--on", metavar="DATE", help="Show what ran on 2026-03-14, or at 2026-03-14T09:30 (UTC)."
)
@JSON
@click.pass_obj
@refusing
def history(root: Path, environment: str | None, on: str | None, as_json: bool) -> None:
    """List every move of ENVIRONMENT, or of all environments.

    Each with who moved it, when, from which release to which, and why.
    """
    from release.verbs import history as verb

    moves = verb.history(root, environment, on)
    click.echo(
        to_json(moves.model_dump(mode="json"))
        if as_json
        else hanging(environment_tables.history(moves))
    )


@click.command()
@click.option(
    "--fix", is_flag=True, help="Update the mirrors from git. Git is never changed from a mirror."
)
@JSON
@click.pass_obj
@refusing
def reconcile(root: Path, fix: bool, as_json: bool) -> None:
    """Compare git with its mirrors, and with --fix update them.

    Mirrors are MLflow, tags, registries, overlays and, if it can be reached, the cluster.
    """
    from release.verbs import reconcile as verb

    drift = verb.reconcile(root, fix)
    click.echo(
        to_json(drift.model_dump(mode="json"))
        if as_json
        else hanging(environment_tables.reconciled(drift))
    )
    if refusal := verb.refusal(drift):
        raise refusal


@click.command()
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The private key of a signer with the role checkpoint.",
)
@click.option(
    "--keyless", is_flag=True, help="Sign with the identity of this CI job, certified by Sigstore."
)
@TARGET
@JSON
@click.pass_obj
@refusing
def checkpoint(
    root: Path, key: Path | None, keyless: bool, target: str | None, as_json: bool
) -> None:
    """Sign which commit the branch of the environments is at, and push the signature.

    Where promote.checkpoint_hours is set, commands refuse a branch that lacks the commit of the last checkpoint, and a
    checkpoint that is too old. Run it on a schedule.
    """
    from release.verbs import checkpoint as verb

    if (key is None) != keyless:
        raise click.UsageError(
            "a checkpoint is signed by a key or by an identity: give one of --key and --keyless"
        )
    made = verb.checkpoint(root, key, keyless=keyless, target=target)
    text = f"checkpoint {made.number} of {made.branch} at {made.head[:12]}, signed by {made.signer}"
    click.echo(to_json(made.model_dump(mode="json")) if as_json else text)


@click.command()
@click.argument("environment")
@click.option(
    "--for",
    "controller",
    type=click.Choice(["kubernetes", "kyverno"]),
    required=True,
    help="Who evaluates the policy: Kubernetes itself (digests alone), or the cluster's admission controller.",
)
@TARGET
@click.pass_obj
@refusing
def admission(root: Path, environment: str, controller: str, target: str | None) -> None:
    """Print a policy with which the cluster itself refuses what was not promoted to ENVIRONMENT.

    It admits the releases that ENVIRONMENT runs or ran, that are not in quarantine, and that as many signers signed as
    its `signatures` asks for. Comments at its top say what is not checked: Kubernetes itself reads no signatures.

    Apply it again after each promotion, rollback, quarantine and change of signers.
    """
    from release.verbs import admission as verb

    click.echo(verb.admission(root, environment, controller, target), nl=False)
