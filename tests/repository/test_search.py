"""What people ask the site's search leads them to the page that answers it: its first result is that page.

The site is built as CI builds it, a browser opens it from its folder, without a server, and each question is typed into its
search box.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import browser
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow

QUESTIONS = {
    "add my own gate": "how-to/kinds",
    "approve a promotion": "how-to/promotion",
    "canary": "how-to/rollout",
    "CI dies half-way through a promotion": "how-to/promotion",
    "deploy to Kubernetes": "how-to/environments",
    "does it work with GitLab": "how-to/gitlab",
    "how many test rows do I need": "how-to/data",
    "how much does training cost": "how-to/cost",
    "install without internet access": "how-to/offline",
    "LLM as a judge": "how-to/suites",
    "merge conflict in dvc.lock": "how-to/merges",
    "my own vLLM image": "how-to/images",
    "personal data": "how-to/privacy",
    "pull request from a fork": "how-to/github",
    "resume a killed training": "reference/pipeline",
    "roll back": "how-to/promotion",
    "rotate a signing key": "explanation/evidence",
    "several models in one repository": "how-to/projects",
    "supported versions of Python, vLLM and Kubernetes": "reference/compatibility",
    "the same model scores differently": "explanation/noise",
    "train again when traffic drifts": "how-to/monitoring",
    "train on my own data": "how-to/data",
    "train on Slurm": "how-to/clusters",
    "train with QLoRA in 4 bits": "how-to/training",
    "upgrade Lockstep": "how-to/upgrade",
    "use another base model": "how-to/data",
    "verdict does not hold": "reference/comment",
    "what does exit code 7 mean": "reference/exit-codes",
    "which GPU do I need": "how-to/cost",
    "why is a gate inconclusive": "reference/gates",
}
PAGE = "explanation/code.html"  # where the questions are asked: a page in a subfolder
# Each gives up after a minute. FIRST: the first result, once there is one. EMPTY: the text of the emptied search box, once
# the results of the last question are gone.
FIRST = """new Promise((resolve) => {
  const look = () => {
    const result = document.querySelector(".md-search-result__link");
    if (result) resolve(result.href);
    else setTimeout(look, 20);
  };
  look();
  setTimeout(() => resolve(""), 60000);
})"""
EMPTY = """new Promise((resolve) => {
  const box = document.querySelector(".md-search__input");
  const look = () => {
    if (document.querySelector(".md-search-result__link")) setTimeout(look, 20);
    else resolve(box.value);
  };
  box.focus();
  box.value = "";
  box.dispatchEvent(new Event("keyup"));
  look();
  setTimeout(() => resolve("results of the last question"), 60000);
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's folder, built as CI builds it."""
    folder = tmp_path_factory.mktemp("site") / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ".ci/mkdocs.yml", "-d", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(build, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tab(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    """A page of the site, opened from its folder."""
    tab = browser.Tab(tmp_path_factory.mktemp("browser"))
    tab.open((site / PAGE).as_uri())
    yield tab
    tab.close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_result_answers(question: str, site: Path, tab: browser.Tab) -> None:
    assert tab.value(EMPTY) == ""
    tab.type(question)
    assert tab.value("document.querySelector('.md-search__input').value") == question
    page = re.sub(r"\.html([?#].*)?$", "", tab.value(FIRST))
    assert page == (site / QUESTIONS[question]).as_uri(), "mend the titles and headings of both pages"


def test_the_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert (site / PAGE) in pages
    loading = re.compile(
        r"<(?:script|img|iframe)[^>]* src=[^ >]*//|<link[^>]* rel=.?(?:stylesheet|preconnect|icon)[^>]* href=[^ >]*//"
    )
    assert {page.name: loading.findall(page.read_text()) for page in pages if loading.search(page.read_text())} == {}


def test_each_answer_is_a_page() -> None:
    missing = [page for page in QUESTIONS.values() if not (REPOSITORY / "docs" / f"{page}.md").is_file()]
    assert missing == []
