"""`rollback --ask` of images with a server in them: a real Docker Engine, and a small server in place of a large one.

The server speaks as much of OpenAI's chat as is asked for here; that the real one does is shown by test_containers.py.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checks.config import params_file
from checks.process.errors import MachineRefused, PromotionRefused
from checks.storage import layout
from release.promotion.rollback_plan import RolledBack
from release.verbs.rollback import rollback
from tests import build_tree, serving_base
from tests import promotion_tree as tree
from tests.ledger_tree import keep, refs
from tests.promotion_tree import Trio, move
from tests.release.serving.test_verify_evidence import probed

pytestmark = pytest.mark.slow

alone = tree.alone
SERVER = """#!/usr/bin/env python3
import json, pathlib, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

model, port = sys.argv[2], next(int(each.partition("=")[2]) for each in sys.argv if each.startswith("--port="))
if (pathlib.Path(model) / "broken.json").exists():
    sys.exit("these weights are broken")


class Chat(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = {"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}]}
        known = self.path == "/v1/chat/completions" and asked["model"] == model and asked["max_tokens"] == 1
        data = json.dumps(told).encode()
        self.send_response(200 if known else 400)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


HTTPServer(("", port), Chat).serve_forever()
"""
BROKEN, GOOD = "v0.1.0", "v0.2.0"


@pytest.fixture(scope="module")
def engine() -> Any:
    return serving_base.docker_engine()


@pytest.fixture(scope="module")
def moved(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Staging ran a release whose server ends at once, then one that answers, then a third. Read-only by custom."""
    folder = tmp_path_factory.mktemp("moved")
    (folder / "context").mkdir()
    (folder / "context" / "transformers").write_text(SERVER)
    made = serving_base.baked(
        serving_base.plain_image(), "COPY --chmod=755 transformers /usr/local/bin/transformers", folder / "context"
    )
    root = folder / "work"
    base = serving_base.layout(made, root / layout.STATE / "server")
    serving_base.remove(made)
    entry = json.loads((base / "index.json").read_text())["manifests"][0]
    pinned = f"oci:{base.relative_to(root)}@{entry['digest']}"
    tree.prepare(root, lambda plain: plain["serve"].update(base=pinned), base=False)
    build_tree.weigh(root, build_tree.shards() | {"broken.json": b"{}"})
    params = params_file.load(root / layout.PARAMS)
    build_tree.judge(root, params)
    probed(root, params)
    keep(root, "broken weights")
    releases = []
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        for number in range(3):
            releases.append(tree.next_model(root, 40 + number) if number else tree.release(root))
            move(root, "staging")
    return root, (releases[0], releases[1], releases[2])


@pytest.fixture
def root(moved: Trio, tmp_path: Path) -> Path:
    return tree.copy(moved[0], tmp_path / "work")


@pytest.fixture(autouse=True)
def _nothing_stays(moved: Trio) -> Iterator[None]:
    yield
    assert serving_base.left(*(release.report.model for release in moved[1])) == set()


def back(root: Path, **options: Any) -> RolledBack:
    return rollback(root, "staging", why="answers in French", ask=True, **options)


def test_the_old_image_is_started_in_a_container_and_asked(root: Path) -> None:
    for name in ("models", "data"):
        shutil.rmtree(root / name)
    done = back(root)
    assert (done.done, done.after and done.after.version) == ("moved", GOOD)
    (asked,) = [check for check in done.checks if check.about == "serving"]
    assert asked.note.startswith("it answered after ")
    assert asked.note.endswith(", as a container")


def test_an_old_image_whose_server_ends_is_not_gone_back_to(root: Path) -> None:
    before = refs(root)
    with pytest.raises(PromotionRefused, match="exit code 1; its log ends: these weights are broken"):
        back(root, to=BROKEN)
    assert refs(root) == before


def test_where_no_engine_answers_it_is_told_and_nothing_moves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    before = refs(root)
    with pytest.raises(MachineRefused, match="no Docker Engine answers"):
        back(root)
    assert refs(root) == before
