"""report: the pull request's comment, as Markdown that GitHub renders.

First what was decided and why, then what to do, then everything that a reviewer would ask for; digests last. It never
exceeds what GitHub takes: whole sections are left out, the least needed first, and the comment names them.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import requests

from checks import layout
from checks.rows import Record
from checks.verdict import Status
from release.record import committed
from release.record.records import Records
from release.review import facts, metrics, sections, verdicts
from release.review.facts import State
from release.review.sections import Section

LIMIT = 65_536  # characters of a comment, https://docs.github.com/rest/issues/comments
_RESERVED = 1_000  # for the watermark, and for saying what was left out
_PLOTS = ("confusion", "scores", "slices")
_SECONDS = 10  # for a plot to answer


class Options(NamedTuple):
    """``target``: the branch that this one is held against; None: as ``commits.target`` finds it.

    ``assets``: the address below which ``reports/plots`` was published, by the same paths. ``links``: more places to
    look, as labels and addresses. ``number``: the pull request's. ``commit``: the full hash of the commit that is to
    pass: it must hold the record; None: nothing is said of any. ``limit``: characters of the Markdown.
    """

    target: str | None = None
    assets: str | None = None
    links: tuple[tuple[str, str], ...] = ()
    number: int | None = None
    commit: str | None = None
    limit: int = LIMIT


class Part(Record):
    """One section."""

    name: str
    markdown: str


class Report(Record):
    """``status`` is what was decided, None where nothing holds.

    ``passes`` is what a check says: held, a pass, and in the commit that was named. ``whole`` is the Markdown without a
    limit, ``markdown`` what GitHub takes of it: ``parts`` without those ``left_out``.
    """

    state: State
    status: Status | None
    passes: bool
    title: str
    markdown: str
    whole: str
    parts: tuple[Part, ...]
    left_out: tuple[str, ...]


def report(root: Path, options: Options | None = None) -> Report:
    """Render the record below ``root``. A verdict that does not hold is reported as void, and is no refusal.

    Raises EvidenceRefused for a target that git does not know and an address that cannot be linked, MachineRefused
    when there is no git.
    """
    options = options or Options()
    images = _published(options.assets) if options.assets else {}
    records = Records(root)
    found = facts.gather(records, options.target)
    if options.commit is not None and found.state == "held":
        found = dataclasses.replace(found, not_in_commit=committed.missing(records, options.commit))
    every = sections.sections(records, found, options.links, images, options.number)
    kept = _fitting(every, options.limit - _RESERVED)
    left_out = tuple(each.name for each in every if each not in kept)
    if left_out:
        kept.append(sections.left_out(left_out))
    return Report(
        state=found.state,
        status=found.status if found.state in ("held", "recorded") else None,
        passes=found.state == "held" and found.status == "pass" and found.not_in_commit is None,
        title=verdicts.title(found, metrics.uncompared(found)),
        markdown="\n\n".join(each.markdown for each in kept) + "\n",
        whole="\n\n".join(each.markdown for each in every) + "\n",
        parts=tuple(Part(name=each.name, markdown=each.markdown) for each in kept),
        left_out=left_out,
    )


def size(text: str) -> int:
    """Characters as GitHub counts them at most: UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _fitting(every: Sequence[Section], room: int) -> list[Section]:
    """The sections that fit, in their order; the verdict always does."""
    kept = list(every)
    for each in sorted(every, key=lambda section: section.keep)[:-1]:
        if sum(size(one.markdown) + 2 for one in kept) <= room:
            break
        kept.remove(each)
    return kept


def _published(assets: str) -> dict[str, str]:
    """The plots that answer to anybody with a picture, as GitHub's image proxy asks: never a broken one."""
    base = sections.address(assets).rstrip("/")
    paths = [(layout.PLOTS / f"{name}.png").as_posix() for name in _PLOTS]
    with ThreadPoolExecutor(len(paths)) as pool:
        seen = list(pool.map(lambda path: _answers(f"{base}/{path}"), paths))
    return {Path(path).stem: f"{base}/{path}" for path, there in zip(paths, seen, strict=True) if there}


def _answers(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False  # no login of this machine: readers have none
            with session.get(url, timeout=_SECONDS, stream=True) as response:
                return response.status_code == 200 and response.headers.get("Content-Type", "").startswith("image/")
    except requests.RequestException:
        return False
