"""report: the pull request's comment, as GitHub-flavoured Markdown.

The verdict and its reason come first, then what to do, then the details for a reviewer, and digests last. If the
comment would exceed GitHub's limit, whole sections are left out, the least important first, and the comment says which.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from checks.formats.verdict import Status, Verdict
from checks.process.errors import EvidenceRefused
from checks.records.rows import Record
from checks.storage import layout
from release.record import committed
from release.record.records import Records
from release.review import advice, gathering, metrics, sections, situations
from release.review.facts import State

LIMIT = 65_536  # characters of a comment, https://docs.github.com/rest/issues/comments
_RESERVED = 1_000  # Characters for the watermark, and for saying what was left out.


class Report(Record):
    """``status``: the verdict; None if no verdict holds.

    ``situation``, ``mark``, ``headline``, ``why``, ``todo`` and ``not_better``: as ``release.review.advice`` has them.
    ``passes``: the value of the check. ``whole``: the full Markdown; ``markdown``: what fits GitHub's limit, that is
    ``parts`` without ``left_out``.
    """

    state: State
    status: Status | None
    situation: advice.Name
    mark: advice.Mark
    headline: str
    why: str
    todo: str
    not_better: str
    passes: bool
    title: str
    markdown: str
    whole: str
    parts: tuple[sections.Section, ...]
    left_out: tuple[str, ...]


def report(
    root: Path,
    *,
    target: str | None = None,
    links: tuple[tuple[str, str], ...] = (),
    number: int | None = None,
    commit: str | None = None,
    limit: int = LIMIT,
    web: str | None = None,
) -> Report:
    """Render the record below ``root``. A verdict that does not hold is reported, and is no refusal.

    ``target``: the target branch; None: ``commits.target``. ``links``: further links, as labels and addresses.
    ``number``: of the pull request. ``commit``: full hash of the commit that must contain the record for the check to
    pass; None: no check is made. ``limit``: characters of the Markdown. ``web``: where the forge shows the repository,
    for links to the commit and its files.

    Raises EvidenceRefused for an unknown target or an address that cannot be linked, MachineRefused without git.
    """
    records = Records(root)
    facts = gathering.gather(records, target)
    if commit is not None and facts.state == "held":
        facts = dataclasses.replace(facts, not_in_commit=committed.missing(records, commit))
    situation = situations.of_facts(facts, metrics.against(facts), metrics.uncompared(facts))
    advised = advice.advise(situation)
    every = sections.sections(records, facts, advised, links, number, web)
    kept = _fitting(every, limit - _RESERVED)
    left_out = tuple(section.name for section in every if section not in kept)
    if left_out:
        kept.append(sections.left_out(left_out))
    return Report(
        state=facts.state, status=facts.status if facts.state in ("held", "recorded") else None,
        situation=advised.name, **dict(advised.plain), not_better=advice.not_better(situation, advised),
        passes=advised.success, title=advised.title,
        markdown="\n\n".join(section.markdown for section in kept) + "\n",
        whole="\n\n".join(section.markdown for section in every) + "\n",
        parts=tuple(kept), left_out=left_out,
    )  # fmt: skip


def send(root: Path, report: Report, otlp: str) -> int:
    """Send the findings of the verdict that ``report`` is about to a collector, and return their number.

    Raises EvidenceRefused if no verdict holds, and RemoteRefused as ``evaluation_events.send``.
    """
    from release.monitoring import evaluation_events  # It imports requests.

    if report.state != "held":
        raise EvidenceRefused(
            "--otlp: no verdict holds here", "run `lockstep gate`, which says why"
        )
    data = (root / layout.VERDICT).read_bytes()
    verdict = Verdict.model_validate_json(data)
    return evaluation_events.send(otlp, evaluation_events.of_verdict(verdict, data))


def size(text: str) -> int:
    """The length as GitHub counts it at most: in UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _fitting(every: Sequence[sections.Section], room: int) -> list[sections.Section]:
    """The sections that fit, in order; the verdict is always among them."""
    kept = list(every)
    for section in sorted(every, key=lambda section: section.keep)[:-1]:
        if sum(size(one.markdown) + 2 for one in kept) <= room:
            break
        kept.remove(section)
    return kept
