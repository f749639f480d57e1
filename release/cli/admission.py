"""The command admission."""

from pathlib import Path

import click

from release.cli.common import TARGET, refusing


@click.command()
@click.argument("environment")
@click.option(
    "--for",
    "controller",
    type=click.Choice(["kubernetes", "kyverno", "policy-controller"]),
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
