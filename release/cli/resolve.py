"""The command resolve."""

from pathlib import Path

import click

from release.cli.common import JSON, refusing, show


@click.command()
@JSON
@click.pass_obj
@refusing
def resolve(root: Path, as_json: bool) -> None:
    """Settle a merge's conflicts in code.lock, dvc.lock and reports/: take the record of one side whole.

    For a merge, rebase or cherry-pick that stopped. Settle the other files first, such as params.yaml. The record is
    taken whose run fits the merged parameters and code. If neither does, `lockstep run` must make it anew, and
    `lockstep gate` and `lockstep promote` refuse until then. Nothing is committed. Exits with 8 if no merge is at work,
    or another file still has a conflict.
    """
    from release.verbs import resolve as verb

    resolved = verb.resolve(root)
    taken = f"the record of {resolved.commit[:12]}"
    if not resolved.differences:
        text = (
            f"{taken} fits what was merged, and is taken whole. Now `{resolved.ends}`, then "
            "`lockstep dvc pull` and `lockstep run`: it trains nothing, and judges the model again, because git now "
            "names that of the other side too."
        )
    else:
        text = (
            f"neither record fits what was merged: {resolved.differences[0]}. {taken.capitalize()} is taken whole. Now "
            f"`{resolved.ends}`, then `lockstep run`, which makes it anew from {resolved.stale[0]} on. Until then "
            "`lockstep gate` and `lockstep promote` refuse."
        )
    show(resolved, as_json, text)
