"""The command comment."""

from pathlib import Path

import click

from release.cli.common import JSON, PROJECTS, TARGET_BRANCH, checked_projects, refusing, show
from release.cli.report import LINKS, NUMBER, pairs


@click.command()
@TARGET_BRANCH
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
    "--close",
    metavar="ACCOUNT",
    help="Close a pull request of `lockstep harvest --pr` that ACCOUNT opened, if its model is no better.",
)
@click.option(
    "--no-cml", is_flag=True, help="Post through GitHub's API even if the command cml is installed."
)
@PROJECTS
@JSON
@click.pass_obj
@refusing
def comment(
    root: Path,
    target: str | None,
    links: tuple[str, ...],
    number: int | None,
    commit: str | None,
    author: str | None,
    title: str,
    check: str,
    close: str | None,
    no_cml: bool,
    projects: tuple[str, ...],
    as_json: bool,
) -> None:
    """Post or update the pull request's comment and check.

    The check follows from the verdict. Several projects are one comment and one check. Reads GITHUB_TOKEN,
    GITHUB_REPOSITORY and GITHUB_API_URL. In a GitLab pipeline it is a note of the merge request and a commit status; it
    reads GITLAB_TOKEN, CI_API_V4_URL, CI_PROJECT_ID and CI_MERGE_REQUEST_IID. Elsewhere, post what `lockstep report`
    prints.

    With --close, the pull request of a harvest is closed on GitHub if its verdict is no pass, or shows no gain over
    main. A comment has the reason. It stays open without a verdict or a comparison with main, if its branch has more
    than the harvest, its signature and the record, or several authors, and if somebody opened it again.

    Exits with 0 once it is posted, whatever the verdict.
    """
    from release.adapters import commits
    from release.review.posting import CommentOptions
    from release.verbs import comment as verb

    options = CommentOptions(
        target=target,
        links=pairs(links),
        number=number,
        commit=(commits.resolve(root, commit) or commit) if commit else None,
        title=title,
        check=None if check == "none" else check,
        author=author,
        close=close,
        use_cml=not no_cml,
        projects=checked_projects(root, projects),
    )
    posted = verb.comment(root, options)
    check = f"the check says {posted.conclusion}" if posted.check else "no check was asked for"
    result = f"{'posted' if posted.created else 'updated'} {posted.comment}; {check}"
    show(posted, as_json, "\n  note: ".join([result, *posted.notes]))
