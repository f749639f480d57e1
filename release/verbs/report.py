"""report: the pull request's comment, as Markdown that GitHub renders and as text for a terminal.

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
from checks.errors import EvidenceRefused
from checks.rows import Record
from checks.verdict import Status
from release.record import committed
from release.record.records import Records
from release.review import blocks, changes, facts, flips, metrics, places, quality, training, verdicts
from release.review.blocks import Section
from release.review.facts import Facts, State

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

    ``passes`` is what a check says: held, a pass, and in the commit that was named.
    """

    state: State
    status: Status | None
    passes: bool
    title: str
    markdown: str
    text: str
    parts: tuple[Part, ...]
    left_out: tuple[str, ...]


def report(root: Path, options: Options | None = None) -> Report:
    """Render the record below ``root``. A verdict that does not hold is reported as void, and is no refusal.

    Raises EvidenceRefused for a target that git does not know and an address that cannot be linked, MachineRefused
    when there is no git.
    """
    options = options or Options()
    links = [(_label(label), blocks.address(url)) for label, url in options.links]
    images = _published(options.assets) if options.assets else {}
    records = Records(root)
    found = facts.gather(records, options.target)
    if options.commit is not None and found.state == "held":
        found = dataclasses.replace(found, lacking=committed.lacking(records, options.commit))
    sections = [each for each in _sections(root, found, options, links, images) if each is not None]
    kept = _fitting(sections, options.limit - _RESERVED)
    left_out = tuple(each.name for each in sections if each not in kept)
    if left_out:
        kept = [*kept, _cut(left_out)]
    return Report(
        state=found.state,
        status=found.status if found.state in ("held", "recorded") else None,
        passes=found.state == "held" and found.status == "pass" and found.lacking is None,
        title=verdicts.title(found),
        markdown="\n\n".join(map(blocks.markdown, kept)) + "\n",
        text="\n\n".join(map(blocks.plain, sections)) + "\n",
        parts=tuple(Part(name=each.name, markdown=blocks.markdown(each)) for each in kept),
        left_out=left_out,
    )


def size(text: str) -> int:
    """Characters as GitHub counts them at most: UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _sections(
    root: Path, found: Facts, options: Options, links: Sequence[tuple[str, str]], images: dict[str, str]
) -> list[Section | None]:
    quality_first = [quality.data(found)] if found.state == "bad-data" else []
    quality_later = [] if quality_first else [quality.data(found) if found.state != "void" else None]
    return [
        verdicts.head(found),
        *quality_first,
        metrics.compared(found),
        verdicts.answers(found),
        changes.policy(found),
        changes.parameters(found),
        flips.flipped(found),
        metrics.slices(found),
        *quality_later,
        training.trained(found, training.loss(root), training.confusions(root), images),
        training.cost(found, root),
        places.look(found, links),
        places.again(found, options.number),
        places.digests(found),
    ]


def _fitting(sections: Sequence[Section], room: int) -> list[Section]:
    """The sections that fit, in their order; the verdict always does."""
    kept = list(sections)
    sizes = {each.name: size(blocks.markdown(each)) + 2 for each in sections}
    for each in sorted(sections, key=lambda section: section.keep):
        if sum(sizes[one.name] for one in kept) <= room or len(kept) == 1:
            break
        kept.remove(each)
    return kept


def _cut(names: Sequence[str]) -> Section:
    told = f"Left out, for want of room: {', '.join(names)}. `lockstep report --text` shows all of it."
    return Section("left-out", "", [blocks.Paragraph((told,))])


def _label(text: str) -> str:
    if 0 < len(text) <= 40 and all(each.isascii() and (each.isalnum() or each in " .-") for each in text):
        return text
    raise EvidenceRefused(f"{text!r}: is no label for a link", "write letters, digits, spaces, dots and hyphens")


def _published(assets: str) -> dict[str, str]:
    """The plots that answer to anybody with a picture, as GitHub's image proxy asks: never a broken one."""
    base = blocks.address(assets).rstrip("/")
    paths = [(layout.PLOTS / f"{name}.png").as_posix() for name in _PLOTS]
    with ThreadPoolExecutor(len(paths)) as pool:
        seen = list(pool.map(lambda path: _answers(f"{base}/{path}"), paths))
    return {path: blocks.address(f"{base}/{path}") for path, there in zip(paths, seen, strict=True) if there}


def _answers(url: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False  # no login of this machine: readers have none
            with session.get(url, timeout=_SECONDS, stream=True) as response:
                return response.status_code == 200 and response.headers.get("Content-Type", "").startswith("image/")
    except requests.RequestException:
        return False
