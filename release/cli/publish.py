"""The command publish: a promoted release on the Hugging Face Hub."""

from pathlib import Path

import click

from release.cli.common import JSON, refusing, show
from release.cli.tables import one_line

_DONE = {
    "published": "published",
    "already": "was published already",
    "planned": "would be published",
}


@click.command()
@click.argument("repository", metavar="hf://ORGANISATION/NAME")
@click.argument("name", metavar="[ENVIRONMENT|VERSION]", required=False)
@click.option("--dry-run", is_flag=True, help="List the files. Needs no token and asks no hub.")
@JSON
@click.pass_obj
@refusing
def publish(root: Path, repository: str, name: str | None, dry_run: bool, as_json: bool) -> None:
    """Publish a promoted release on the Hugging Face Hub.

    One commit has the merged weights, the adapter, the cards with croissant.json and the signed statement, and nothing
    else; a tag has the version. Default: what the last environment runs. Only a release that was promoted, that is not
    in quarantine and that a current signer signed. The repository must exist, so that you decide who sees it. A
    version that was published is not changed. The token is HF_TOKEN or that of `hf auth login`.
    """
    from release.verbs import publish as verb

    published = verb.publish(root, repository, name, dry_run=dry_run)
    at = f" at {published.commit}" if published.commit else ""
    lines = [
        *(f"{size:>14,}  {one_line(path)}" for path, size in published.files.items()),
        *(f"{'removed':>14}  {one_line(path)}" for path in published.removed),
        f"{published.version} {_DONE[published.done]} as {published.repository}{at}",
    ]
    show(published, as_json, "\n".join(lines))
