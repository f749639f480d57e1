"""The documentation: every link and path leads somewhere, and what the code says is said as the code says it."""

import re
import runpy
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from checks.kinds.gate import GATES
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(set(DOCS.rglob("*.md")) - set((DOCS / "cards").rglob("*.md")))  # prose of cards is no page
FRONT = [REPOSITORY / name for name in ("README.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md")]
SITE = REPOSITORY / ".ci" / "mkdocs.yml"
PATH = re.compile(r"\bdocs/[\w./-]*\.(?:md|json|yaml|svg|css)\b")
SECTION = re.compile(PATH.pattern + r"#([\w-]+)")
REFERENCE = runpy.run_path(str(REPOSITORY / ".ci" / "reference.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _inline(text: str) -> Iterator[tuple[str, str]]:
    """What follows a heading's opening, and every target of a link or picture."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if before is not None and before.type == "heading_open":
            yield "heading", "".join(child.content for child in token.children or ())
        for child in token.children or ():
            target = child.attrGet("href" if child.type == "link_open" else "src")
            if child.type in ("link_open", "image") and target:
                yield "target", str(target)


@cache
def _anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings on the site, generated parts included. GitHub opens the page without those."""
    built = REFERENCE["on_page_markdown"](page.read_text())
    headings = [text for kind, text in _inline(built) if kind == "heading"]
    return frozenset(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings)


@pytest.mark.parametrize("page", [*FRONT, *PAGES], ids=_name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for kind, target in _inline(page.read_text()):
        if kind == "target" and not re.match(r"https?:", target):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            if not file.is_file() or (anchor and file.suffix != ".png" and anchor not in _anchors(file)):
                broken.append(target)
    assert broken == []


@pytest.mark.slow
def test_every_page_that_a_file_of_the_repository_names_is_there() -> None:
    """Refusals, help, workflows, comments: all that git keeps, but what this very test has of paths."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    files = [REPOSITORY / name for name in listed.stdout.splitlines() if name != "tests/repository/test_docs.py"]
    broken = set()
    for file in (each for each in files if each.is_file()):
        text = file.read_bytes().decode(errors="ignore")
        text = re.sub(r"https?://\S+", "", text)
        broken |= {f"{_name(file)}: {path}" for path in PATH.findall(text) if not (REPOSITORY / path).is_file()}
        for found in SECTION.finditer(text):
            path, anchor = found[0].split("#")
            if anchor not in _anchors(REPOSITORY / path):
                broken.add(f"{_name(file)}: {found[0]}")
    assert broken == set()


def test_no_file_installs_the_other_project_that_has_the_name_lockstep_on_the_package_index() -> None:
    installs = r"\b(install|download|add)( -[^ ]+)* [\"']?lockstep([[<>=~!\"'` ]|$)"
    done = subprocess.run(
        ["git", "grep", "--untracked", "-nE", installs, "--", ".", ":!tests/repository/test_docs.py"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")


def test_every_generated_part_stands_on_one_page_and_has_lines() -> None:
    marked = [name for page in PAGES for name in REFERENCE["PART"].findall(page.read_text())]
    assert sorted(marked) == sorted(REFERENCE["PARTS"])
    assert all(len(list(lines())) > 30 for lines in REFERENCE["PARTS"].values())


def test_every_kind_of_gate_stands_in_the_table_of_what_it_asks() -> None:
    text = (DOCS / "reference" / "gates.md").read_text()
    assert [kind for kind in GATES.kinds if f"\n| `{kind}` |" not in text] == []


def test_each_threat_names_tests_that_there_are() -> None:
    """Its last column has names of test functions, with spaces, and their files."""
    wrong, rows, tested = [], 0, False
    tests = {path.name: path for path in (REPOSITORY / "tests").rglob("test_*.py")}
    for line in (DOCS / "explanation" / "threat-model.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            tested = False
        elif cells[-1] == "test":
            tested = True
        elif tested and not cells[-1].startswith("---"):
            rows += 1
            named = re.findall(r"([a-z0-9 ]+) \(`(test_\w+\.py)`\)", cells[-1])
            functions = [f"def test_{name.strip().replace(' ', '_')}(" for name, _ in named]
            wrong += [
                (cells[0], function)
                for function, (_, file) in zip(functions, named, strict=True)
                if file not in tests or function not in tests[file].read_text()
            ]
            if "; ".join(f"{name.strip()} (`{file}`)" for name, file in named) != cells[-1]:
                wrong.append((cells[0], cells[-1]))
    assert rows > 40
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_page_begins_with_a_title_and_a_sentence_about_its_purpose(page: Path) -> None:
    title, _, rest = page.read_text().partition("\n\n")
    assert re.fullmatch(r"# \S.*", title)
    assert re.match(r"[A-Z`]", rest), "a sentence comes before everything else"


def test_every_page_stands_in_the_navigation_once() -> None:
    text = SITE.read_text().partition("\nnav:\n")[2]

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, list | dict):
            for below in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(below)

    assert sorted(pages(yaml.safe_load(text))) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def test_the_site_loads_nothing_from_elsewhere() -> None:
    text = SITE.read_text()
    assert "font: false" in text
    assert not re.search(r"https?://", text)
    assert not [page for page in PAGES if re.search(r"<script|<link|```mermaid", page.read_text())]
