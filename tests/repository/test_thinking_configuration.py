"""docs/configurations/thinking.yaml: its rows, and all of it on a tiny model, up to llama.cpp's replies to clients."""

import csv
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checks.chat_templates.chatml import ChatMl
from checks.config import params_file
from checks.formats.serving import ProbeReport, ServingCheck
from checks.formats.verdict import Verdict
from checks.records.rows import Message, Prediction, Row
from checks.storage import digest, files, layout
from release import runtimes
from release.serving import examine, processes
from release.serving.client import Client
from release.serving.probes import life
from release.serving.probes.context import ProbeContext
from stages.evaluate import evaluate
from stages.fetch import fetch
from stages.gate import gate
from stages.merge import merge
from stages.prepare import prepare
from stages.probe import probe
from stages.score import score
from stages.suites import suites
from stages.train import train
from stages.validate import validate
from tests import gguf_model, pipeline_repository
from tests.conftest import REPOSITORY, read_yaml
from tests.stages.weights.test_thinking import _model

pytestmark = pytest.mark.slow

RUNTIME = runtimes.load("llamacpp")
CONFIGURATION = REPOSITORY / "docs" / "configurations" / "thinking.yaml"


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words("Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jana Kai Lena Mia Nils Ola Pia Ravi Sam Tess Uma")
THINGS = _words("apples books cards coins cups eggs keys lamps masks nuts pens rings shells stamps tiles toys")
MORE = _words("buys finds wins gets makes borrows")
LESS = _words("sells loses lends drops breaks eats")
TEMPLATE = CONFIGURATION.with_suffix(".jinja").read_text()
LEARNT = 60  # The tiny model knows the shorter half of these rows by heart.


def sums(count: int) -> Iterator[dict[str, str]]:
    """Questions about a sum of 2 or 3 steps. The thought before each answer is the steps."""
    chance = random.Random(17)
    for number in range(count):
        steps = 2 + number % 2
        start = total = chance.randint(10, 40)
        words, thought = [], []
        for _ in range(steps):
            change = chance.randint(2, 9)
            more = chance.random() < 0.5 or change > total
            words.append(f"{chance.choice(MORE if more else LESS)} {change}")
            after = total + change if more else total - change
            thought.append(f"{total}{'+' if more else '-'}{change}={after}")
            total = after
        yield {
            "prompt": f"{chance.choice(NAMES)} has {start} {chance.choice(THINGS)}, {', '.join(words[:-1])} and {words[-1]}.",
            "reference": f"<think>{' '.join(thought)}</think>{total}",
            "steps": f"{steps} steps",
        }


def write(path: Path, rows: list[dict[str, str]]) -> str:
    """Write the rows as a CSV file; return its sha256."""
    with path.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return digest.of_file(path).sha256.removeprefix("sha256:")


def test_its_rows_are_these_sums(tmp_path: Path) -> None:
    pinned = read_yaml(CONFIGURATION.read_text())["data"]
    assert write(tmp_path / "stock.csv", list(sums(1450))) == pinned["sha256"]
    assert (REPOSITORY / pinned["uri"]).read_bytes() == (tmp_path / "stock.csv").read_bytes()


def test_its_template_is_pinned() -> None:
    template = read_yaml(CONFIGURATION.read_text())["base"]["chat_template"]
    assert template["sha256"] == digest.of_file(REPOSITORY / template["file"]).sha256.removeprefix("sha256:")


def _scaled_down() -> dict[str, Any]:
    document = read_yaml(CONFIGURATION.read_text())
    document["validate"]["min_rows"] = {"train": 10, "valid": 2, "test": 5}
    document["prepare"]["splits"]["valid"] = 0.15
    document["train"] |= {"epochs": None, "max_steps": 2, "batch_size": 4, "precision": "fp32", "learning_rate": 1e-6}
    document["train"]["lora"]["layers"] = None
    document["merge"]["export"][0] |= {"type": "f32", "parity": gguf_model.LOOSE}
    document["evaluate"] |= {"precision": "fp32"}
    document["serve"] |= {"dtype": "fp32"}
    document["serve"]["probes"]["rows"] = 8
    document["gates"]["adds_up"] |= {"at_least": 0.01, "resolution": 0.5}
    document["gates"]["thoughts_end"] |= {"at_most": 0.5, "confidence": 0.9}
    return document


def _rendered(reference: str) -> str:
    """Return a reference as the template writes it."""
    return reference.replace("<think>", "<think>\n").replace("</think>", "\n</think>\n\n")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository in which all stages ran, and llama.cpp's server."""
    folder = tmp_path_factory.mktemp("thinking")
    with pytest.MonkeyPatch.context() as patch:
        gguf_model.server(tmp_path_factory, patch)
        gguf_model.converter(tmp_path_factory, patch)
        rows, document = [row for row in sums(LEARNT) if row["steps"] == "2 steps"], _scaled_down()
        plain = _model(gguf_model.base(tmp_path_factory), folder / "plain", TEMPLATE)
        system = Message(role="system", content=document["prepare"]["loader"]["instruction"])
        asked = [((system, Message(role="user", content=row["prompt"])), _rendered(row["reference"])) for row in rows]
        gguf_model.tune(plain, folder / "base", 250, asked)
        root = folder / "repository"
        root.mkdir()
        pipeline_repository.make(root, folder / "base", document, [{}], code=())
        # That wrote rows of its own, and shortened probes: here are the configuration's.
        document["data"] = {
            "uri": "sources/stock.csv",
            "sha256": write(root / "sources" / "stock.csv", rows),
            "license": "Apache-2.0",
        }
        document |= {name: _scaled_down()[name] for name in ("prepare", "serve")}
        document["validate"]["labels"] = None
        pipeline_repository.write_params(root, document)
        files.write_text(root / document["base"]["chat_template"]["file"], TEMPLATE)
        patch.chdir(root)
        params = params_file.load(root / layout.PARAMS)
        with pipeline_repository.forked_ranks():
            for stage in (fetch, prepare, validate, train, merge, score, evaluate, suites, probe, gate):
                print(stage.__name__, stage(params, root))
        yield root


def _statuses(root: Path) -> dict[str, str]:
    """Return the status of each gate."""
    return {finding.gate: finding.status for finding in files.read_json(root / layout.VERDICT, Verdict).findings}


def _verified(root: Path) -> dict[str, ServingCheck]:
    """Return checks of llama.cpp's server by `lockstep verify`, by name."""
    params = params_file.load(root / layout.PARAMS)
    serve, merged = params.serve, root / layout.MERGED
    with closing(processes.start(RUNTIME, serve, merged)) as server, closing(Client(server.url)) as client:
        context = ProbeContext(
            client=client, server=server, runtime=RUNTIME, model=serve.name, serve=serve,
            probes=files.read_json(root / layout.PROBES, ProbeReport),
            rows=files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row),
            offline=files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction),
            scorer=params.evaluate.scorers[0], limit=params.evaluate.max_new_tokens, thinking=params.base.thinking,
        )  # fmt: skip
        checks = [life.start(context, time.monotonic())]
        checks += [examine.CHECKS[name](context) for name in ("template", "parity", "score", "contract")]
    return {check.name: check for check in checks}


def test_its_thoughts_are_judged_and_clients_get_them_apart(root: Path) -> None:
    predictions = files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction)
    assert any(answer.thoughts[0].text and answer.score == 1 for answer in predictions)
    assert _statuses(root)["thoughts_end"] == "pass"
    checks = _verified(root)
    assert {check.status for check in checks.values()} == {"pass"}, checks
    assert "with a thought, have the same parts as offline, whole and streamed" in checks["contract"].reason


def test_a_bound_that_cuts_thoughts_fails_the_gate(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "repository"))
    document = read_yaml((root / layout.PARAMS).read_text())
    document["validate"]["max_reference_tokens"] = document["evaluate"]["max_new_tokens"] = 12
    pipeline_repository.write_params(copy, document)
    params = params_file.load(copy / layout.PARAMS)
    evaluate(params, copy)
    gate(params, copy)
    assert _statuses(copy)["thoughts_end"] == "fail"


def test_a_file_whose_template_shows_no_thoughts_breaks_the_promise(root: Path, tmp_path: Path) -> None:
    """Its prompts are the same, so no other check sees it."""
    copy = Path(shutil.copytree(root, tmp_path / "repository"))
    file, template = copy / layout.MERGED / layout.GGUF, tmp_path / "chatml.jinja"
    template.write_text(ChatMl.text.removeprefix(ChatMl.text.partition("{% for")[0]))
    words = ["-m", "gguf.scripts.gguf_new_metadata", "--force", "--chat-template-file", str(template)]
    subprocess.run(
        [sys.executable, *words, str(root / layout.MERGED / layout.GGUF), str(file)], check=True, capture_output=True
    )
    checks = _verified(copy)
    assert [name for name, check in checks.items() if check.status != "pass"] == ["contract"], checks
    assert "reasoning_content is “”, and the offline thought" in checks["contract"].reason
