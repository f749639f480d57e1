"""Draws the picture of the pull request comment that README and the site show, from the record in reports/.

It is the comment of this record as it was judged, beside a main without a model. Sections that list rows are left out,
because git does not keep the rows.
docs/comment.sha256 has the digests of the HTML that was drawn and of the pictures: a test says when these are of
another record or of an older comment.

    .venv/bin/python .ci/picture.py              write docs/comment-light.png, comment-dark.png and comment.sha256

It needs the program chromium-headless-shell (of Debian, which also has the packages fonts-dejavu-core and
fonts-noto-color-emoji).
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

from checks.formats.data_reports import DataReport, PrepareReport
from checks.formats.evaluation_reports import EvaluateMeasured, ValidScores
from checks.formats.suite_report import SuitesMeasured
from checks.formats.training_reports import TrainMeasured
from checks.formats.verdict import Verdict
from checks.process.errors import Refusal
from checks.storage import layout
from release.record.records import Records
from release.review import advice, metrics, sections, situations
from release.review.facts import Facts, Target

ROOT = Path(__file__).resolve().parent.parent
PICTURES = {
    "light": ROOT / "docs" / "comment-light.png",
    "dark": ROOT / "docs" / "comment-dark.png",
}
DIGESTS = ROOT / "docs" / "comment.sha256"
RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.CODE_LOCK, Path(layout.REPORTS))
SHOWN = ("verdict", "gates", "metrics", "slices", "data", "training", "reproduce", "digests")
WIDTH = 720  # CSS pixels
PREFERRED = {"light": "1", "dark": "0"}  # values of Chromium's preferredColorScheme
# As GitHub shows a comment: its sizes and colours.
STYLE = """
:root { --back: #ffffff; --text: #1f2328; --line: #d1d9e0; --quiet: #59636e; --code: #818b981f }
@media (prefers-color-scheme: dark) {
  :root { --back: #0d1117; --text: #f0f6fc; --line: #3d444d; --quiet: #9198a1; --code: #656c7633 } }
body { margin: 0; background: var(--back); color: var(--text);
  font: 14px/1.5 -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif }
main { border: 1px solid var(--line); border-radius: 6px; padding: 16px }
h3 { font-size: 1.25em; margin: 0 0 16px } ul { margin: 0 0 16px; padding-left: 2em } details { margin: 0 0 8px }
code { background: var(--code); border-radius: 6px; padding: .2em .4em; font-size: 85% }
summary { color: var(--quiet) }
"""


def html() -> str:
    """Return the page that is drawn. It depends on the committed record and on the code of the comment alone."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in RECORD:
            copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copyfile
            copy(ROOT / path, root / path)
        body = comment(root)
    return f"<!doctype html>\n<meta charset=utf-8>\n<style>{STYLE}</style>\n<main>\n{body}</main>\n"


def rendered(markdown: str) -> str:
    """Return GitHub's Markdown, with its tables and its HTML, as HTML."""
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


def comment(root: Path) -> str:
    """Return the comment of the record below ``root``, beside a main that has no record, as HTML."""
    return rendered("\n\n".join(_sections(root)))


def digests(page: str) -> str:
    """Return what docs/comment.sha256 has for this page and the pictures that are there, as `sha256sum` writes it."""
    contents = {"comment.html": page.encode()}
    contents |= {picture.name: picture.read_bytes() for picture in PICTURES.values()}
    return "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items()
    )


def draw(page: str) -> None:
    """Write both pictures, and their digests with that of the page."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "comment.html"
        script = "<script>document.title = document.documentElement.offsetHeight</script>"
        file.write_text(page + script, encoding="utf-8")
        found = re.search(
            r"<title>(\d+)</title>", _browse(folder, "light", "--dump-dom", file.as_uri())
        )
        if found is None:
            raise SystemExit(f"{file}: the browser says no height of the page")
        size = f"--window-size={WIDTH},{found[1]}"
        for mode, picture in PICTURES.items():
            _browse(folder, mode, size, f"--screenshot={picture}", file.as_uri())
    DIGESTS.write_text(digests(page), encoding="utf-8")


def _sections(root: Path) -> list[str]:
    """Render the comment of the record below ``root``, beside a main that has no record."""
    records = Records(root)
    tree = records.work_tree
    facts = Facts(
        "held", Target("main", None, None, None, None), None, tree.document, tree.params,
        verdict=tree.report(layout.VERDICT, Verdict),
        evidence=tree.evidence,
        training=tree.readable(layout.TRAIN_MEASURED, TrainMeasured),
        answering=tree.readable(layout.EVALUATE_MEASURED, EvaluateMeasured),
        scores=tree.report(layout.METRICS, ValidScores),
        suites=tree.readable(layout.SUITES_MEASURED, SuitesMeasured),
        data=tree.report(layout.DATA_REPORT, DataReport),
        prepare=tree.report(layout.PREPARE_REPORT, PrepareReport),
    )  # fmt: skip
    situation = situations.of_facts(facts, metrics.against(facts), metrics.uncompared(facts))
    rendered = sections.sections(records, facts, advice.advise(situation), (), None)
    return [section.markdown for section in rendered if section.name in SHOWN]


def _browse(folder: str, mode: str, *options: str) -> str:
    command = ["chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder}/user", "--force-device-scale-factor=2"]
    command += [
        f"--blink-settings=preferredColorScheme={PREFERRED[mode]}",
        f"--window-size={WIDTH},600",
    ]
    try:
        done = subprocess.run([*command, *options], check=True, capture_output=True, timeout=120)
    except FileNotFoundError as error:
        raise SystemExit(
            "chromium-headless-shell is missing: apt-get install chromium-headless-shell"
        ) from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"chromium-headless-shell failed: {error.stderr.decode(errors='replace')[-500:]}"
        ) from error
    return done.stdout.decode(errors="replace")


if __name__ == "__main__":
    try:
        draw(html())
    except Refusal as why:
        raise SystemExit(f"{why.what}; {why.todo}") from why
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}; restore it from git") from error
