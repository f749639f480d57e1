"""Adds the gallery to the site: pages of each entry of docs/gallery, which `python -m benchmarks.gallery` made.

MkDocs calls ``on_files`` once (`hooks` of .ci/mkdocs.yml). An entry's record is a bundle of git, and its files must
have the digests of its record.json. The bundle is cloned, and Lockstep makes the pages from the clone: a release has a
page only if the signatures and digests of its evidence hold.
"""

import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import picture  # The folder of a hook is searched for modules while it is loaded.
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from checks.formats.evaluation_reports import Interval
from checks.formats.watch_report import WatchReport
from checks.process.errors import Refusal
from checks.storage import digest, layout
from release.adapters.git import Git
from release.cards import card_record, release_page, writing
from release.ledger import DEADLINE
from release.promotion.incident_report import Incident
from release.verbs import page as pages

BUNDLE, ANSWERS, RECORD = "record.bundle", "record.tar.xz", "record.json"
MONTH, INCIDENT = layout.REPORTS / "month.json", layout.REPORTS / "incident.json"
_MARKS = {"pass": "pass", "fail": "**fail**", "inconclusive": "undecided"}
MARKER = "<!-- gallery: document -->"
LIST = "<!-- gallery: index -->"
# The site's search is about Lockstep, not about the entries. Tables need the place of the table of contents.
FRONT = "---\nsearch:\n  exclude: true\nhide: [toc]\n---\n"


class Entry(NamedTuple):
    """An entry: its name, its release, its month, the bad release, and its documents as HTML by name."""

    name: str
    release: release_page.ReleasePage
    windows: tuple[WatchReport, ...]
    days: list[dict[str, Any]]
    incident: Incident
    documents: dict[str, str]
    files: dict[str, str]

    @property
    def requests(self) -> int:
        """Return the requests of the month."""
        return sum(window.requests for window in self.windows)


def check(folder: Path) -> None:
    """Raise PluginError if a file of the entry is missing or has another digest than its record.json says."""
    for name, expected in json.loads((folder / RECORD).read_text(encoding="utf-8")).items():
        path = folder / name
        if not path.is_file() or digest.of_file(path).sha256 != expected:
            raise PluginError(
                f"{path}: is not the file that {RECORD} names; "
                f"restore it from git, or run `python -m benchmarks.gallery {folder.name}`"
            )


def read(folder: Path) -> Entry:
    """Make an entry of its record. Raises PluginError if the record or its evidence does not hold."""
    check(folder)
    with tempfile.TemporaryDirectory() as temporary:
        root, public = Path(temporary) / "work", Path(temporary) / "public"
        root.mkdir()
        Git(root, DEADLINE).line("clone", "--quiet", "--branch", "main", str(folder / BUNDLE), ".")
        Git(root, DEADLINE).line("remote", "remove", "origin")
        with tarfile.open(folder / ANSWERS) as archive:
            archive.extractall(root, filter="data")
        try:
            made = pages.page(root, public)
            release = next(release for release in made.site.pages if _serves_users(release))
            cards = writing.render(card_record.gather(root, release.version))
        except (Refusal, StopIteration) as why:
            raise PluginError(
                f"{folder}: {why}; run `python -m benchmarks.gallery {folder.name}`"
            ) from why
        documents = {"comment": picture.comment(root)}
        documents |= {
            key: picture.rendered(cards[name].partition("\n# ")[2].partition("\n")[2])
            for key, name in (
                ("report", writing.REPORT),
                ("model", writing.MODEL),
                ("data", writing.DATA),
            )
        }
        return Entry(
            folder.name, release, release.production.windows[::-1],
            json.loads((root / MONTH).read_text(encoding="utf-8")),
            Incident.model_validate_json((root / INCIDENT).read_text(encoding="utf-8")),
            documents, {path.name: path.read_text(encoding="utf-8") for path in made.files},
        )  # fmt: skip


def _serves_users(release: release_page.ReleasePage) -> bool:
    return any(home.environment == "production" for home in release.homes)


TITLES = {
    "comment": "The pull request's comment",
    "report": "REPORT.md",
    "model": "Model card",
    "data": "Dataset card",
}


def index(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a line for each entry, with its key figures."""
    yield "| entry | verdict and score | a month of production | a worse candidate |"
    yield "| --- | --- | --- | --- |"
    for entry in entries:
        verdict = f"{entry.release.advice.mark} {_scores(entry.release)}"
        failed = sum(window.status == "fail" for window in entry.windows)
        happened = f"{entry.requests:,} requests, {failed} of {len(entry.windows)} windows fail"
        yield f"| [{entry.name}]({entry.name}/index.md) | {verdict} | {happened} | {_rolled_back(entry.incident)} |"


def overview(entry: Entry) -> Iterator[str]:
    """Yield the page of an entry, as Markdown."""
    yield f"{FRONT}# {entry.name}\n\n{entry.release.advice.mark} {_scores(entry.release)}\n"
    yield f"* [The release's page](release/{entry.release.file})"
    yield from (f"* [{title}]({key}.md)" for key, title in TITLES.items())
    yield (
        "* [params.yaml](params.yaml), as it ran: the server was a process of one machine, so production's rule "
        "`served_as_verified` is off, and the hour's price is assumed\n"
    )
    yield f"```\npython -m benchmarks.gallery {entry.name}\n```\n"
    yield from _month(entry)
    yield from _incident(entry.incident)


def _scores(release: release_page.ReleasePage) -> str:
    """Return the release's score beside those of the models that its page compares it with."""
    compared = [against for against in release.against if against.ours is not None]
    scores = [f"{against.what} {_score(against.theirs)}" for against in compared]
    own = [f"{against.metric} **{_score(against.ours)}**" for against in compared[:1]]
    return "; ".join(own + scores)


def _score(value: Interval | float | None) -> str:
    return _number(value.value if isinstance(value, Interval) else value)


def _month(entry: Entry) -> Iterator[str]:
    seconds = sum(day["seconds"] for day in entry.days)
    shifted = [day["date"] for day in entry.days if day["shifted"]]
    most = max(day["shifted"] for day in entry.days)
    yield "## A month of operation\n"
    yield (
        f"{entry.requests:,} requests, drawn from the task's test and valid rows, went through the real gateway to a "
        f"real server. **The month is compressed**: a window was replayed in {seconds / len(entry.days):.0f} seconds "
        "on average, and its requests were then dated over its days. `p50` and `p95` are seconds, as measured. `cost` "
        "is of 1,000 requests: one server is paid for all day and night, at an assumed price.\n"
    )
    yield (
        f"**Drift was planted**: in {len(shifted)} windows a growing share of the sessions, up to {most:.0%}, was "
        "about one slice of the rows. `lockstep watch` judged and signed each window; the signatures were checked when "
        "this page was made. One request in five got a label.\n"
    )
    yield "| from | planted | verdict | requests | p50 | p95 | errors | cost | quality |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    planted = {day["date"]: day["shifted"] for day in entry.days}
    for window in entry.windows:
        date, service = f"{window.since:%Y-%m-%d}", window.service
        quality = [finding.value for finding in window.findings if finding.kind == "quality"]
        deciding = [finding.name for finding in window.findings if finding.status == window.status]
        verdict = _MARKS[window.status]
        if window.status != "pass":
            verdict += f": {', '.join(deciding)}"
        yield _row(
            f"{window.since:%-d&nbsp;%b}", f"{planted.get(date, 0):.0%}", verdict, f"{window.requests:,}",
            _number(service and service.p50), _number(service and service.p95), service.errors if service else "–",
            _number(window.costs and window.costs.per_1000_requests), _number(next(iter(quality), None)),
        )  # fmt: skip
    yield ""


def _incident(incident: Incident) -> Iterator[str]:
    yield "## A worse candidate\n"
    yield (
        f"`lockstep drill --incident` gave {incident.worse_from}, a worse model, {incident.share:.0%} of replayed "
        f"traffic in a clone of the repository: {_rolled_back(incident)}. It answered {incident.worse_requests:,} "
        f"requests until then, of which production would have answered about {incident.lost:g} more right. At most "
        f"{incident.false_rollbacks:.2%} of candidates that lose no more than {100 * incident.margin:g} points would "
        "be rolled back.\n"
    )
    yield "| after, s | requests | labelled pairs | decision |\n| ---: | ---: | ---: | --- |"
    for look in incident.looks:
        yield _row(f"{look.seconds:.0f}", f"{look.requests:,}", f"{look.labelled:,}", look.decision)
    yield "\nNot real in this drill:\n"
    yield from (f"* {line}" for line in incident.simulated)


def _rolled_back(incident: Incident) -> str:
    if incident.detected is None or incident.rolled_back_after is None:
        return f"not detected in {incident.requests:,} requests"
    after = f"{incident.detected.requests:,} requests, {incident.rolled_back_after:.0f} s"
    return f"rolled back after {after}"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


# --- the site ----------------------------------------------------------------------------------------------------

_entries: list[Entry] = []


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of every entry to the site."""
    records = sorted(Path(config.docs_dir).glob(f"gallery/*/{RECORD}"))
    _entries[:] = [read(record.parent) for record in records]
    for entry in _entries:
        texts = {"index.md": "\n".join(overview(entry))}
        back = f"[{entry.name}](index.md)"
        texts |= {
            f"{key}.md": f"{FRONT}# {TITLES[key]}\n\n{back}\n\n{MARKER}\n"
            for key in entry.documents
        }
        texts |= {f"release/{name}": text for name, text in entry.files.items()}
        for name, text in texts.items():
            files.append(File.generated(config, f"gallery/{entry.name}/{name}", content=text))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page's text with the list of the entries, if it has the marker of an index."""
    shown = "\n".join(index(_entries)) if _entries else "No entry has been recorded yet."
    return markdown.replace(LIST, shown)


def on_page_content(html: str, page: Any, **_: object) -> str:
    """Return a document's page with the document in the marker's place."""
    for entry in _entries:
        for key, document in entry.documents.items():
            if page.file.src_uri == f"gallery/{entry.name}/{key}.md":
                return html.replace(MARKER, document)
    return html
