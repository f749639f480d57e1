"""The check contract against llama.cpp's own server and a real small model, whose chat template decides how it reads answers."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from checks.chat_templates.chatml import ChatMl
from checks.chat_templates.hermes import Hermes
from checks.config.release_params import Reasoning, Serve, ServedDecoding, Tools
from checks.formats.serving import Probe, ProbeReport, ServingCheck
from checks.records.rows import Message
from checks.scorers.exact_match import ExactMatch
from release import runtimes
from release.runtimes import Runtime
from release.serving import processes, server
from release.serving.client import Client
from release.serving.probes.context import ProbeContext
from release.serving.probes.contract import contract
from tests import gguf_model, tuned
from tests.conftest import as_params
from tests.once import once
from tests.release.serving.test_containers import healthy
from tests.release.serving.test_verify_checks import DIGEST, END, token

pytestmark = pytest.mark.slow

RUNTIME = runtimes.load("llamacpp")
# As Qwen3 and others write thoughts.
THINKING = (
    "{%- for turn in messages %}{{- '<|im_start|>' + turn.role + '\\n' }}"
    "{%- if turn.role == 'assistant' and turn.reasoning_content %}"
    "{{- '<think>\\n' + turn.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}"
    "{{- turn.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def call(city: str) -> str:
    return f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


def thought(number: int) -> str:
    return f"<think>\nIt is {number}.\n</think>\n\n{number}"


def example(number: int, turns: Sequence[str], answer: str, tools: bool) -> Probe:
    """A prompt with examples, which the model goes on with; it was seen to answer it so."""
    roles = ("user", "assistant")
    return Probe(
        id=f"p{number}",
        messages=tuple(Message(role=roles[place % 2], content=text) for place, text in enumerate(turns)),
        prompt_tokens=(1,), tokens=(token(3, answer), END), ended=True, base_text="", tools=(WEATHER,) if tools else (),
    )  # fmt: skip


CALLS = (
    example(
        0,
        ["Weather in Rome?", call("Rome"), "Weather in Oslo?", call("Oslo"), "Weather in Paris?"],
        call("Paris"),
        True,
    ),
)
THOUGHTS = (example(0, ["2+2?", thought(4), "3+3?", thought(6), "4+4?"], thought(8), False),)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        gguf_model.server(tmp_path_factory, patch)
        yield patch


def model(factory: pytest.TempPathFactory, template: str, name: str) -> Path:
    """SmolLM2 with another chat template."""

    def write(folder: Path) -> None:
        (folder / "gguf").mkdir(parents=True)
        (folder / "chat_template.jinja").write_text(template)
        source = gguf_model.smollm2(factory)
        command = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--chat-template-file"]
        paths = [folder / "chat_template.jinja", source, folder / "gguf" / "model.gguf"]
        subprocess.run([*command, *map(str, paths)], check=True, capture_output=True)

    return once(factory, f"smollm2-{name}", write)


def check(
    folder: Path, probes: tuple[Probe, ...], runtime: Runtime = RUNTIME, tokens: int = 60, **promises: Any
) -> ServingCheck:
    """Start the server with these promises, and ask it."""
    plain = as_params(tuned.document()).serve
    serve = Serve.model_validate(
        plain.model_dump()
        | {
            "runtime": "llamacpp",
            "max_input_tokens": 512,
            "max_total_tokens": 768,
            "verify": plain.verify,
            "probes": plain.probes,
        }
        | promises
    )
    report = ProbeReport(
        merged=DIGEST, base=DIGEST, valid=DIGEST, max_new_tokens=tokens, precision="fp32", device="cpu", probes=probes,
        ends=(2,),
    )  # fmt: skip
    with closing(processes.start(runtime, serve, folder)) as started:
        server.wait_until(started, lambda: healthy(started), 120)
        with closing(Client(started.url)) as client:
            return contract(
                ProbeContext(
                    client=client, server=started, runtime=runtime, model=serve.name, serve=serve, probes=report,
                    rows=(), offline=(), scorer=ExactMatch(kind="exact-match"), limit=60,
                )
            )  # fmt: skip


TOOLS, DEEPSEEK = Tools(parser="auto"), Reasoning(parser="deepseek")
# The template, what is asked, what params.yaml promises; the verdict, and words of its reason.
CASES: dict[str, tuple[str, tuple[Probe, ...], dict[str, Any], str, str]] = {
    "calls and JSON": (
        Hermes.text, CALLS, {"tools": TOOLS, "json_schema": SCHEMA}, "pass",
        "1 answers, 1 with a call, have the same parts as offline, whole and streamed; 1 answers fit",
    ),
    "thoughts": (THINKING, THOUGHTS, {"reasoning": DEEPSEEK}, "pass", "1 with a thought, have the same parts"),
    "a template without calls": (
        ChatMl.text, CALLS, {"tools": TOOLS}, "fail", "p0: makes no call: content is “<tool_call>",
    ),
    "a template without thoughts": (
        Hermes.text, THOUGHTS, {"reasoning": DEEPSEEK}, "fail",
        "p0: reasoning_content is “”, and the offline thought “It is 8.”",
    ),
}  # fmt: skip


OF_CI = ("calls and JSON", "a template without calls")


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[] if name in OF_CI else [pytest.mark.exhaustive]) for name in CASES]
)
def test_the_template_must_fit_what_clients_are_promised(
    case: str, environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    template, probes, promises, status, says = CASES[case]
    names = {Hermes.text: "hermes", ChatMl.text: "chatml", THINKING: "thinking"}
    found = check(model(tmp_path_factory, template, names[template]), probes, **promises)
    assert found.status == status, found
    assert says in found.reason


QUESTIONS = tuple(
    example(number, [question], "?", False)
    for number, question in enumerate(("Name a river.", "Write a line about rain.", "What is a cloud?", "Name a song."))
)
WARM, GREEDY = ServedDecoding(temperature=0.7, top_p=0.9), ServedDecoding(temperature=0)
DIFFERS = "by the same seed"
# What params.yaml promises, the arguments with which the server is started; the verdict, and words of its reason.
SAMPLED: dict[str, tuple[ServedDecoding, list[str] | None, str, str]] = {
    "as judged": (WARM, None, "pass", "4 answers are sampled as serve.decoding says where a request does not"),
    "as judged, greedily": (GREEDY, None, "pass", "4 answers are sampled as serve.decoding says"),
    "llama.cpp's own defaults": (GREEDY, [], "fail", DIFFERS),
    "another temperature": (WARM, ["--temp=1.1", "--top-p=0.9"], "fail", DIFFERS),
    "another top_p": (WARM, ["--temp=0.7", "--top-p=0.5"], "fail", DIFFERS),
}


def started_with(runtime: Runtime, command: list[str] | None) -> Runtime:
    """Return the runtime with other arguments for serve.decoding; None: its own."""
    setting = runtime.settings.decoding
    assert setting is not None
    changed = setting if command is None else setting.model_copy(update={"command": command})
    return runtime.model_copy(update={"settings": runtime.settings.model_copy(update={"decoding": changed})})


@pytest.mark.parametrize("case", SAMPLED)
def test_a_request_that_does_not_say_how_to_sample_is_answered_as_the_gates_judged(
    case: str, environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    decoding, command, status, words = SAMPLED[case]
    folder = gguf_model.exported(tmp_path_factory, environment, gguf_model.base(tmp_path_factory))
    result = check(folder, QUESTIONS, started_with(RUNTIME, command), 24, decoding=decoding)
    assert result.status == status, result
    assert words in result.reason


def test_keys_and_values_in_8_bits_are_not_offered(environment: pytest.MonkeyPatch) -> None:
    """No check would find them: answers of the default model differ by 0.074 nats."""
    assert RUNTIME.own_environment is not None
    server_program = Path(os.environ[RUNTIME.own_environment.variable]).with_name("llama-server")
    filled = runtimes.fill(RUNTIME, as_params(tuned.document()).serve, "/models/x")
    words = [word.replace("=f32", "=q8_0") for word in filled.command]
    done = subprocess.run([str(server_program), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "argument --cache-type-k: invalid choice: 'q8_0'" in done.stderr
