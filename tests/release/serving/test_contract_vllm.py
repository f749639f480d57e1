"""The check contract against a real vLLM and a real small model: parsers that fit its answers, and parsers that do not.

LOCKSTEP_VLLM names its Python, as for tests/stages/inference/test_engine_vllm_real.py. Each start takes some 100 s.
"""

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checks.chat_templates.hermes import Hermes
from checks.config.release_params import Reasoning, Serve, Tools
from checks.formats.engines import PYTHON
from checks.formats.serving import Probe, ProbeReport
from checks.scorers.exact_match import ExactMatch
from release import runtimes
from release.serving import processes, server
from release.serving.client import Client
from release.serving.probes.context import ProbeContext
from release.serving.probes.contract import contract
from stages.weights import gguf
from tests import gguf_model, tuned
from tests.conftest import as_params
from tests.once import once
from tests.release.serving.test_containers import healthy
from tests.release.serving.test_contract_llamacpp import (
    CALLS,
    DIFFERS,
    QUESTIONS,
    SCHEMA,
    THINKING,
    THOUGHTS,
    WARM,
    started_with,
)
from tests.release.serving.test_verify_checks import DIGEST

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get(PYTHON), reason=f"{PYTHON} is not set: `python -m stages.tools.vllm 0.32.0 --cpu` makes one"
    ),
]
HERMES, PYTHONIC = Tools(parser="hermes"), Tools(parser="pythonic")
THINK, OTHER = Reasoning(parser="qwen3"), Reasoning(parser="granite")
# The template, what is asked, what params.yaml promises; the verdict, and words of its reason.
CASES: dict[str, tuple[str, tuple[Probe, ...], dict[str, Any], str, str]] = {
    "calls and JSON": (
        Hermes.text, CALLS, {"tools": HERMES, "json_schema": SCHEMA}, "pass",
        "1 answers, 1 with a call, have the same parts as offline, whole and streamed; 1 answers fit",
    ),
    "another parser of calls": (
        Hermes.text, CALLS, {"tools": PYTHONIC}, "fail", "p0: makes no call: content is “<tool_call>",
    ),
    "thoughts": (THINKING, THOUGHTS, {"reasoning": THINK}, "pass", "1 with a thought, have the same parts"),
    "another parser of thoughts": (
        THINKING, THOUGHTS, {"reasoning": OTHER}, "fail", "p0: reasoning_content is “”, and the offline thought “It is 8.”",
    ),
    "sampled as judged": (Hermes.text, QUESTIONS, {"decoding": WARM}, "pass", "4 answers are sampled as serve.decoding"),
    "vLLM's own defaults": (Hermes.text, QUESTIONS, {"decoding": WARM}, "fail", DIFFERS),
}  # fmt: skip


def model(factory: pytest.TempPathFactory, folder: Path, template: str) -> Path:
    """SmolLM2 as safetensors, with another chat template."""

    def convert(out: Path) -> None:
        out.mkdir()
        gguf.convert(gguf_model.smollm2(factory), out, "SmolLM2")

    shutil.copytree(once(factory, "smollm2-safetensors", convert), folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_parser_must_fit_what_the_model_writes(
    case: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    template, probes, promises, status, words = CASES[case]
    folder, runtime = model(tmp_path_factory, tmp_path / "model", template), runtimes.load("vllm")
    if case == "vLLM's own defaults":
        runtime = started_with(runtime, [])
    assert runtime.metrics is not None
    plain = as_params(tuned.document()).serve
    rooms = {"runtime": "vllm", "dtype": "bf16", "max_input_tokens": 512, "max_total_tokens": 640}
    kept = {"verify": plain.verify, "probes": plain.probes}
    serve = Serve.model_validate(plain.model_dump() | rooms | kept | promises)
    report = ProbeReport(
        merged=DIGEST, base=DIGEST, valid=DIGEST, max_new_tokens=60, precision="bf16", device="cpu", probes=probes, ends=(2,),
    )  # fmt: skip
    with closing(processes.start(runtime, serve, folder)) as started:
        server.wait_until(started, lambda: healthy(started), 400)
        with closing(Client(started.url)) as client:
            result = contract(
                ProbeContext(
                    client=client, server=started, runtime=runtime, model=serve.name, serve=serve, probes=report,
                    rows=(), offline=(), scorer=ExactMatch(kind="exact-match"), limit=60,
                )
            )  # fmt: skip
            exposed = client.get(runtime.metrics.path).good().body.decode()
    assert [name for name in runtime.metrics.watched.names if f"\n{name}" not in exposed] == []
    assert result.status == status, result
    assert words in result.reason
