"""Commands about a pull request: record, report, comment."""

from pathlib import Path

import click

from release.cli import terminal
from release.cli.common import refusing, to_json
from release.cli.wrapping import hanging

TARGET = click.option(
    "--target", metavar="REF", help="The target branch. Default: origin's default branch."
)
ASSETS = click.option(
    "--assets", metavar="URL", help="Where reports/plots is published, under the same file names."
)
LINKS = click.option(
    "--link",
    "links",
    metavar="LABEL=URL",
    multiple=True,
    help="A link to add to the comment. Can be repeated.",
)
NUMBER = click.option(
    "--number",
    type=int,
    help="Number of the pull request or merge request. Default: taken from the workflow.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.command()
@TARGET
@click.option(
    "--push",
    metavar="BRANCH",
    help="Push the commit to this branch of origin, if that is still at HEAD.",
)
@JSON
@click.pass_obj
@refusing
def record(root: Path, target: str | None, push: str | None, as_json: bool) -> None:
    """Commit the record of a run, and print the commit.

    The commit contains code.lock, dvc.lock and reports/, and nothing else. The record is committed whatever the
    verdict. With --push the look at the test split is counted first, on the branch lockstep/looks. Exits with 8 if
    there is no record, with 16 if the branch moved.
    """
    from release.verbs import record as verb

    made = verb.commit_record(root, push, target)
    click.echo(to_json(made.model_dump(mode="json")) if as_json else made.commit)


@click.command()
@TARGET
@ASSETS
@LINKS
@NUMBER
@click.option("--text", is_flag=True, help="Print plain text instead of Markdown.")
@JSON
@click.pass_obj
@refusing
def report(
    root: Path,
    target: str | None,
    assets: str | None,
    links: tuple[str, ...],
    number: int | None,
    text: bool,
    as_json: bool,
) -> None:
    """Print the pull request's comment as Markdown.

    It has the verdict, metrics, changes and how to reproduce it. Exits with 0 whatever the verdict; `lockstep gate`
    enforces it.
    """
    from release.verbs import report as verb

    made = verb.report(
        root, verb.ReportOptions(target=target, assets=assets, links=_pairs(links), number=number)
    )
    if as_json:
        answer = made.model_dump(mode="json").items()
        shown = ("text", terminal.text(made.whole))
        click.echo(
            to_json(dict(shown if name == "whole" else (name, part) for name, part in answer))
        )
    else:
        click.echo(hanging(terminal.text(made.whole)) if text else made.markdown)


@click.command()
@TARGET
@ASSETS
@LINKS
@NUMBER
@click.option(
    "--commit",
    metavar="SHA",
    help="The commit that gets the check, such as HEAD. Default: taken from the workflow.",
)
@click.option(
    "--author", metavar="NAME", help="The account that the token belongs to. Default: the API says."
)
@click.option(
    "--title",
    default="lockstep",
    show_default=True,
    help="Distinguishes this comment from similar ones.",
)
@click.option(
    "--check",
    default="lockstep",
    show_default=True,
    help="Name of the check; `none` sets no check.",
)
@click.option(
    "--no-cml", is_flag=True, help="Post through GitHub's API even if the command cml is installed."
)
@JSON
@click.pass_obj
@refusing
def comment(
    root: Path,
    target: str | None,
    assets: str | None,
    links: tuple[str, ...],
    number: int | None,
    commit: str | None,
    author: str | None,
    title: str,
    check: str,
    no_cml: bool,
    as_json: bool,
) -> None:
    """Post or update the pull request's comment and check.

    The check follows from the verdict. Reads GITHUB_TOKEN, GITHUB_REPOSITORY and GITHUB_API_URL. In a GitLab pipeline
    it is a note of the merge request and a commit status; it reads GITLAB_TOKEN, CI_API_V4_URL, CI_PROJECT_ID and
    CI_MERGE_REQUEST_IID. Elsewhere, post what `lockstep report` prints. Exits with 0 once it is posted, whatever the
    verdict.
    """
    from release.adapters import commits, gitlab
    from release.review.posting import CommentOptions
    from release.verbs import comment as verb
    from release.verbs import note

    options = CommentOptions(
        target=target,
        assets=assets,
        links=_pairs(links),
        number=number,
        commit=(commits.resolve(root, commit) or commit) if commit else None,
        title=title,
        check=None if check == "none" else check,
        author=author,
        use_cml=not no_cml,
    )
    posted = note.note(root, options) if gitlab.is_here() else verb.comment(root, options)
    if as_json:
        click.echo(to_json(posted.model_dump(mode="json")))
        return
    check = f"the check says {posted.conclusion}" if posted.check else "no check was asked for"
    click.echo(f"{'posted' if posted.created else 'updated'} {posted.comment}; {check}")
    for line in posted.notes:
        click.echo(hanging(f"  note: {line}"))


def _pairs(links: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Split each LABEL=URL into its parts. Raises UsageError for anything else."""
    pairs = []
    for link in links:
        label, equals, url = link.partition("=")
        if not label or not equals or not url.startswith(("https://", "http://")):
            raise click.UsageError(f"--link {link!r}: write it as LABEL=https://…")
        pairs.append((label, url))
    return tuple(pairs)
