"""comment: posts the report on its pull or merge request, or updates it, and sets the check."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from release.adapters.github import Conclusion, GitHub
from release.adapters.retries import RequestError
from release.pages.text import cell, prose
from release.review import forge_comment, harvest_close, posting
from release.verbs import report as renderer

# Characters for a project's row, its heading, and its folder in commands.
_HEADING = 2_000


def comment(root: Path, options: posting.CommentOptions | None = None) -> posting.Posted:
    """Post the report of ``root``, whatever its verdict: on GitLab in a pipeline of GitLab, else on GitHub.

    Of several projects it is one comment and one check, which passes if each of them does. The check is ``success``
    only for a pass that still holds, on a commit with its record byte for byte. Otherwise it is ``failure``: GitHub
    accepts a neutral result for a required check. With ``options.close``, a harvest that makes no better model is
    closed (``harvest_close``). Raises RemoteRefused if the forge refuses or does not answer, and as ``report.report``.
    """
    options = options or posting.CommentOptions()
    posting.hold_title(options.title)
    request = forge_comment.request(options)
    limit = renderer.LIMIT
    if options.projects:
        limit = limit // len(options.projects) - _HEADING
    reports = {
        folder: renderer.report(
            root / folder,
            target=options.target,
            links=request.links,
            # With a number, the report says how to fetch a pull request of GitHub.
            number=request.number if isinstance(request.client, GitHub) else None,
            commit=request.commit if options.check is not None else None,
            limit=limit,
            web=request.web,
        )
        for folder in options.projects or ("",)
    }
    draft = _of_projects(reports) if options.projects else _draft(reports[""])
    try:
        posted = forge_comment.post(request, draft, options)
        if not options.close:
            return posted
        reasons = {root / folder: report.not_better for folder, report in reports.items()}
        closed, notes = harvest_close.close(request, reasons, options, options.close)
        return posted.model_copy(update={"closed": closed, "notes": (*posted.notes, *notes)})
    except RequestError as trouble:
        raise request.client.refused(trouble) from None


def _draft(report: renderer.Report) -> posting.Draft:
    conclusion: Conclusion = "success" if report.passes else "failure"
    return posting.Draft(
        report.markdown, report.title, _summary(report), report.state, report.status, conclusion
    )


def _of_projects(reports: Mapping[str, renderer.Report]) -> posting.Draft:
    """Return one draft of the reports of projects, by folder. What does not pass comes first, and decides."""
    ordered = sorted(reports.items(), key=lambda item: item[1].passes)
    folder, first = ordered[0]
    count = f"{sum(report.passes for report in reports.values())} of {len(ordered)} projects pass"
    lines = [
        f"| {cell(folder)} | {report.mark} {prose(report.headline)} |" for folder, report in ordered
    ]
    table = "\n".join(["| project | verdict |", "| --- | --- |", *lines])
    parts = [
        f"## {cell(folder)}\n\n{_with_folder(report.markdown, folder)}"
        for folder, report in ordered
    ]
    heading = f"### {first.mark} {count}"
    return _draft(first)._replace(
        markdown="\n\n".join([heading, table, *parts]), title=f"{count}; {folder}: {first.title}",
        summary=f"{heading}\n\n{table}",
    )  # fmt: skip


def _with_folder(text: str, folder: str) -> str:
    """Return ``text`` with the project's folder in each command."""
    name = shlex.quote(folder)
    text = re.sub(r"\./lockstep (?!dvc )", lambda _: f"./lockstep -C {name} ", text)
    return text.replace("./lockstep dvc ", f"./lockstep dvc --cd {name} ")


def _summary(report: renderer.Report) -> str:
    """Return the verdict and the gates for the page of the check, as far as they fit there."""
    summary = report.parts[0].markdown
    gates = next((part.markdown for part in report.parts if part.name == "gates"), "")
    if renderer.size(summary) + renderer.size(gates) < renderer.LIMIT - 100:
        summary = f"{summary}\n\n{gates}".strip()
    # A title is no Markdown.
    return summary if renderer.size(summary) < renderer.LIMIT else prose(report.title)
