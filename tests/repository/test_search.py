"""What people ask the site's search leads them to the page that answers it: its first result is that page.

The site is built as CI builds it, and its own search script is asked in a browser.
"""

import html
import json
import os
import re
import subprocess
import sys

import pytest

from tests import browser, programs
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
# The search script expects to be a worker. Here it is called in the page: a worker may not answer before a headless browser
# prints the page. The messages are those of https://github.com/squidfunk/mkdocs-material: 0 sets up, 2 asks, 3 answers.
ASK = """<!doctype html><meta charset=utf-8><body><script>
const found = [];
let listen;
new Function("addEventListener", "postMessage", SCRIPT)((name, listener) => { listen = listener; }, (message) => {
  if (message.type === 3) found.push(message.data.items.map((page) => page[0].location));
});
(async () => {
  await listen({data: {type: 0, data: {...INDEX, options: {suggest: false}}}});
  for (const question of QUESTIONS) await listen({data: {type: 2, data: question}});
  document.body.textContent = JSON.stringify(found);
})().catch((error) => { document.body.textContent = error.stack; });
</script>"""


@pytest.fixture(scope="module")
def first_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page of each question's first result; empty where nothing was found."""
    programs.require("chromium-headless-shell")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ".ci/mkdocs.yml", "-d", str(folder / "site")]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(build, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (script,) = (folder / "site" / "assets" / "javascripts" / "workers").glob("search.*.js")
    index = json.loads((folder / "site" / "search" / "search_index.json").read_text())
    values = {"SCRIPT": script.read_text(), "INDEX": index, "QUESTIONS": list(QUESTIONS)}
    written = {name: json.dumps(value).replace("</", "<\\/") for name, value in values.items()}
    page = re.sub("|".join(written), lambda name: written[name[0]], ASK)
    asking = folder / "ask.html"
    asking.write_text(page, encoding="utf-8")
    body = re.search("<body>(.*)</body>", browser.drawn(asking), re.DOTALL)
    assert body
    answers = json.loads(html.unescape(body[1]))
    pages = [[re.sub(r"\.html(#.*)?$", "", location) for location in found] for found in answers]
    return {question: next(iter(found), "") for question, found in zip(QUESTIONS, pages, strict=True)}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_result_answers(question: str, first_results: dict[str, str]) -> None:
    assert first_results[question] == QUESTIONS[question], "mend the titles and headings of both pages"


def test_each_answer_is_a_page() -> None:
    missing = [page for page in QUESTIONS.values() if not (REPOSITORY / "docs" / f"{page}.md").is_file()]
    assert missing == []
