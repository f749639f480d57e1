"""lockstep server: another server in params.yaml; what llama.cpp needs comes with it, and goes with it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from checks.config import params_file
from checks.config.release_params import ServedDecoding
from checks.formats.engines import LlamaCpp
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release.cli import main
from release.verbs import server as verb
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY, scaled_down


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with this repository's own params.yaml, comments included."""
    (tmp_path / layout.PARAMS).write_bytes((REPOSITORY / layout.PARAMS).read_bytes())
    return tmp_path


def server(root: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["-C", str(root), "server", *words])


def test_for_llama_cpp_comes_its_file_and_what_judges_it(root: Path) -> None:
    done = server(root, "llamacpp")
    assert (done.exit_code, done.stdout) == (0, "llamacpp serves\n")
    params = params_file.load(root / layout.PARAMS)
    (export,) = params.merge.export or ()
    gate: Any = params.gates["file_loses_nothing"]
    main_gate: Any = params.gates["keeps_up_with_main"]
    assert (params.serve.runtime, export.type) == ("llamacpp", "q8_0")
    assert isinstance(params.evaluate.engine, LlamaCpp)
    assert (gate.kind, gate.against, gate.metric) == ("non_inferior", "unquantised", main_gate.metric)
    assert gate.margin == main_gate.margin
    assert params.serve.decoding == ServedDecoding(temperature=0)
    text = (root / layout.PARAMS).read_text()
    assert "runtime: llamacpp # a file of release/runtimes" in text  # Comments stay.
    again = server(root, "llamacpp")
    assert (again.exit_code, again.stdout) == (0, "llamacpp serves, as before\n")
    assert (root / layout.PARAMS).read_text() == text


@pytest.mark.parametrize("runtime", ["llamacpp", "vllm"])
def test_a_server_with_sampling_of_its_own_samples_as_the_gates_judge(root: Path, runtime: str) -> None:
    path = root / layout.PARAMS
    sampled = "evaluate:\n  decoding: {temperature: 0.7, top_p: 0.9, draws: 2, seed: 3}\n"
    path.write_text(path.read_text().replace("evaluate:\n", sampled, 1))
    assert server(root, runtime).exit_code == 0
    assert params_file.load(path).serve.decoding == ServedDecoding(temperature=0.7, top_p=0.9)


def test_what_a_team_wrote_for_llama_cpp_stays(root: Path) -> None:
    assert server(root, "llamacpp").exit_code == 0
    path = root / layout.PARAMS
    own = path.read_text()
    for ours, theirs in (
        ("type: q8_0", "type: f16"),
        ("min_top1: 0.95}}", "min_top1: 0.99}}"),
        ("threads: 1", "threads: 8"),
    ):
        assert ours in own
        own = own.replace(ours, theirs)
    own = re.sub(r"(file_loses_nothing: .* margin:) [0-9.]+", r"\1 0.021", own)
    path.write_text(own)
    done = server(root, "llamacpp")
    assert (done.exit_code, done.stdout) == (0, "llamacpp serves, as before\n")
    assert path.read_text() == own


def test_a_params_yaml_that_is_no_text_is_refused_in_one_line(root: Path) -> None:
    (root / layout.PARAMS).write_bytes(b"\xff\xfe")
    done = server(root, "vllm")
    assert done.exit_code == ParamsRefused.exit_code
    assert len(done.stderr.splitlines()) == 1


def test_with_another_server_all_of_it_goes(root: Path) -> None:
    before = (root / layout.PARAMS).read_text()
    assert server(root, "llamacpp").exit_code == 0
    assert server(root, "tgi").exit_code == 0
    assert (root / layout.PARAMS).read_text() == before


def test_vllm_gets_the_sampling_that_the_gates_judge_and_keeps_it(root: Path) -> None:
    before = (root / layout.PARAMS).read_text()
    for runtime in ("vllm", "llamacpp", "vllm"):
        assert server(root, runtime).exit_code == 0
        assert params_file.load(root / layout.PARAMS).serve.decoding == ServedDecoding(temperature=0)
    assert server(root, "tgi").exit_code == 0
    assert (root / layout.PARAMS).read_text() == before


def test_an_engine_that_is_not_llama_cpps_stays(root: Path) -> None:
    document = scaled_down()
    document["evaluate"]["engine"] = {
        "kind": "vllm", "version": "0.32.0", "gpus": 1, "compiled": False, "batch_invariant": False, "kv_cache_gb": 1.0,
        "max_rows": 8,
    }  # fmt: skip
    document["serve"]["runtime"] = "tgi"
    repository.write_params(root, document)
    engine = params_file.load(root / layout.PARAMS).evaluate.engine
    assert verb.server(root, "vllm").changed
    params = params_file.load(root / layout.PARAMS)
    assert (params.serve.runtime, params.evaluate.engine) == ("vllm", engine)


def test_an_environment_whose_policy_does_not_take_it_is_named(root: Path) -> None:
    path = root / layout.PARAMS
    path.write_text(
        path.read_text().replace("runtimes: [transformers, tgi, vllm, sglang, llamacpp]", "runtimes: [tgi]", 1)
    )
    done = server(root, "vllm", "--json")
    assert json.loads(done.stdout) == {"runtime": "vllm", "changed": True, "closed": ["staging"]}
    done = server(root, "vllm")
    assert done.stdout.splitlines()[1] == (
        "promote.environments.staging.runtimes does not list vllm, so staging refuses it"
    )


MERGE = "{shard_mb: 2000, parity: {prompts: 128, max_logprob_diff: 1.0, min_top1: 0.95}}"
REFUSED = {
    "an unknown server": ("vlm", r"^$", "", "vlm"),
    "a section on one line": (
        "llamacpp", r"^merge:\n(  .*\n)+", f"merge: {MERGE}\n", "merge is written on one line; write it over several lines"
    ),
    "no key": ("vllm", r"^  runtime: .*\n", "", "serve.runtime: missing; add it"),
}  # fmt: skip


@pytest.mark.parametrize(("runtime", "pattern", "text", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_changes_nothing(root: Path, runtime: str, pattern: str, text: str, says: str) -> None:
    path = root / layout.PARAMS
    path.write_text(re.sub(pattern, text, path.read_text(), count=1, flags=re.MULTILINE))
    before = path.read_text()
    done = server(root, runtime)
    assert done.exit_code == ParamsRefused.exit_code
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert path.read_text() == before
