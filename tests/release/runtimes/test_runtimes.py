"""The runtimes' files: what they say is possible, complete, and what the servers take."""

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from checks.config.params import Params
from checks.process.errors import ParamsRefused
from checks.storage import layout
from release import runtimes
from release.runtimes import Runtime
from release.runtimes.compatibility import unfit
from stages.tools import llamacpp
from tests.conftest import REPOSITORY, as_params

ALL = runtimes.names()
PATH = "/models/router-0123456789ab"


def test_there_are_five_runtimes_and_each_file_loads() -> None:
    assert ALL == ["llamacpp", "sglang", "tgi", "transformers", "vllm"]
    assert [runtimes.load(name).name for name in ALL] == ALL


@pytest.mark.parametrize("name", ALL)
def test_every_placeholder_is_replaced(name: str, params: Params) -> None:
    filled = runtimes.fill(runtimes.load(name), params.serve, PATH)
    texts = [*(filled.entrypoint or ()), *filled.command, *filled.environment.values(), filled.model_field]
    assert not [text for text in texts if "{" in text or "}" in text]
    assert {PATH, f"--model-path={PATH}", f"--model={PATH}/{layout.GGUF}"} & set(texts)


@pytest.mark.parametrize("name", ALL)
def test_every_number_of_params_that_a_server_can_be_held_to_reaches_it(name: str, document: dict) -> None:
    document["serve"] |= {"max_input_tokens": 7001, "max_total_tokens": 7936, "max_concurrent_requests": 7003}
    filled = runtimes.fill(runtimes.load(name), as_params(document).serve, PATH)
    text = " ".join([*filled.command, *filled.environment.values()])
    reached = {number for number in ("7001", "7936", "7003") if number in text}
    # vLLM and SGLang bound prompt and answer together, llama.cpp (4 * 7936) those of its four slots; transformers serve nothing.
    right = {"tgi": {"7001", "7936", "7003"}, "vllm": {"7936", "7003"}, "sglang": {"7936", "7003"}}
    assert reached == right.get(name, set())
    assert ("--ctx-size=31744" in filled.command) is (name == "llamacpp")


def test_a_value_that_looks_like_a_placeholder_stays_as_it_is(params: Params) -> None:
    filled = runtimes.fill(runtimes.load("tgi"), params.serve, "/models/{port}{name}")
    assert filled.environment["MODEL_ID"] == "/models/{port}{name}"


@pytest.mark.parametrize("name", ALL)
def test_no_runtime_asks_a_hub_or_reports_home(name: str) -> None:
    environment = runtimes.load(name).environment
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_tgi_is_configured_by_its_environment_alone(params: Params) -> None:
    runtime = runtimes.load("tgi")
    filled = runtimes.fill(runtime, params.serve, PATH)
    assert filled.entrypoint is None
    assert filled.command == ()
    assert "REVISION" not in filled.environment
    assert "QUANTIZE" not in filled.environment
    assert filled.environment["MODEL_ID"] == PATH
    assert filled.environment["PORT"] == str(runtime.port)
    assert filled.environment["USAGE_STATS"] == "off"
    assert int(filled.environment["MAX_BATCH_PREFILL_TOKENS"]) >= int(filled.environment["MAX_INPUT_TOKENS"])


def test_tgi_does_not_compute_in_fp32(document: dict) -> None:
    document["serve"]["dtype"] = "fp32"
    with pytest.raises(ParamsRefused, match=r"serve\.dtype: fp32: tgi .*; use bf16 or fp16"):
        runtimes.fill(runtimes.load("tgi"), as_params(document).serve, PATH)


def test_vllm_is_given_its_whole_command_and_time_to_drain(params: Params) -> None:
    filled = runtimes.fill(runtimes.load("vllm"), params.serve, PATH)
    assert filled.entrypoint == ("vllm", "serve")
    assert filled.command[0] == PATH
    assert "--shutdown-timeout=30" in filled.command
    assert f"--served-model-name={params.serve.name}" in filled.command
    assert filled.model_field == params.serve.name


def test_vllm_takes_no_defaults_for_choosing_tokens_from_the_models_files(params: Params) -> None:
    """With `auto`, its default, a repetition_penalty of generation_config.json changes what is served."""
    assert "--generation-config=vllm" in runtimes.fill(runtimes.load("vllm"), params.serve, PATH).command


def test_vllm_on_a_processor_does_not_take_nine_tenths_of_the_machines_memory() -> None:
    """There --gpu-memory-utilization means RAM, unless this is set; GPUs ignore it."""
    assert 1 <= int(runtimes.load("vllm").environment["VLLM_CPU_KVCACHE_SPACE"]) <= 4


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(
        ParamsRefused, match="'tgi2' is not a runtime; use one of llamacpp, sglang, tgi, transformers, vllm, or"
    ):
        runtimes.load("tgi2")


@pytest.mark.parametrize(
    ("name", "shards", "setting"),
    [
        ("tgi", None, "NUM_SHARD=1"),
        ("tgi", 4, "NUM_SHARD=4"),
        ("vllm", None, "--tensor-parallel-size=1"),
        ("vllm", 4, "--tensor-parallel-size=4"),
        ("sglang", None, "--tp-size=1"),
        ("sglang", 4, "--tp-size=4"),
        ("transformers", 1, "OMP_NUM_THREADS=1"),
    ],
)
def test_a_server_spreads_the_weights_over_as_many_gpus_as_params_say(
    name: str, shards: int | None, setting: str, params: Params
) -> None:
    filled = runtimes.fill(runtimes.load(name), params.serve.model_copy(update={"shards": shards}), PATH)
    assert setting in [*filled.command, *(f"{key}={value}" for key, value in filled.environment.items())]


def test_a_runtime_for_one_device_refuses_shards(params: Params) -> None:
    with pytest.raises(ParamsRefused, match=r"serve\.shards: 2: transformers computes on one device; use null, or"):
        runtimes.fill(runtimes.load("transformers"), params.serve.model_copy(update={"shards": 2}), PATH)


def test_a_length_that_the_server_rounds_up_is_refused(params: Params) -> None:
    odd = params.serve.model_copy(update={"max_total_tokens": 1281})
    with pytest.raises(ParamsRefused, match=r"1281: llamacpp rounds it up to a multiple of 256, and .*; write 1536$"):
        runtimes.fill(runtimes.load("llamacpp"), odd, PATH)
    assert runtimes.fill(runtimes.load("vllm"), odd, PATH)


CACHED, UNCACHED = {"prefix_caching": True}, {"prefix_caching": False}
GUESSING = {"speculation": {"kind": "ngram", "tokens": 3}}
NGRAM = (
    '--speculative-config={"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 2, '
    '"prompt_lookup_max": 5}'
)
DRAFTING = {"speculation": {"kind": "draft", "tokens": 3}}
DRAFT = (
    f'--speculative-config={{"method": "draft_model", "model": "{PATH}/draft", "num_speculative_tokens": 3, '
    '"draft_tensor_parallel_size": 1}'
)
CALLING = {"tools": {"parser": "hermes"}}
THINKING = {"reasoning": {"parser": "deepseek"}}
JSON = {"json_schema": {"type": "object", "required": ["label"]}}
SAMPLED = {"decoding": {"temperature": 0}}
ADAPTER = {"adapter": {"max_rank": 32}}
ADDED: list[tuple[str, dict[str, Any], set[str], set[str]]] = [
    # the runtime, what params.yaml says, what that adds, and what it replaces
    ("llamacpp", CACHED, {"--cache-prompt"}, set()),
    ("llamacpp", UNCACHED, {"--no-cache-prompt"}, set()),
    ("vllm", CACHED, {"--enable-prefix-caching"}, set()),
    ("vllm", UNCACHED, {"--no-enable-prefix-caching"}, set()),
    ("vllm", GUESSING, {NGRAM}, set()),
    ("vllm", DRAFTING, {DRAFT}, set()),
    ("vllm", CACHED | GUESSING, {"--enable-prefix-caching", NGRAM}, set()),
    ("sglang", CACHED, set(), set()),
    ("sglang", UNCACHED, {"--disable-radix-cache"}, set()),
    ("tgi", CACHED, set(), set()),
    ("tgi", UNCACHED, {"PREFIX_CACHING=0"}, {"PREFIX_CACHING=true"}),
    ("tgi", GUESSING, {"SPECULATE=3"}, set()),
    ("vllm", CALLING, {"--enable-auto-tool-choice", "--tool-call-parser=hermes"}, set()),
    ("vllm", THINKING, {"--reasoning-parser=deepseek"}, set()),
    ("sglang", THINKING, {"--reasoning-parser=deepseek"}, set()),
    ("llamacpp", {"tools": {"parser": "auto"}}, set(), set()),
    ("llamacpp", THINKING, {"--reasoning-format=deepseek"}, set()),
    ("vllm", JSON, set(), set()),
    ("llamacpp", SAMPLED, {"--temp=0", "--top-p=1"}, set()),
    ("vllm", SAMPLED, {'--override-generation-config={"temperature": 0, "top_p": 1}'}, set()),
    (
        "vllm",
        ADAPTER,
        {"--enable-lora", "--max-loras=1", "--max-lora-rank=32", "--lora-modules"}
        | {f"azure-cli-router={PATH}/adapter", "--served-model-name=azure-cli-router-base"},
        set(),
    ),
]


def say(document: dict[str, Any], said: dict[str, Any]) -> None:
    document["serve"] |= said
    if said is DRAFTING:
        document["merge"]["draft"] = {"uri": "small", "sha256": "0" * 64, "license": "MIT"}
    if said is ADAPTER:
        document["merge"]["form"] = "adapter"


@pytest.mark.parametrize(("name", "said", "added", "replaced"), ADDED)
def test_a_setting_adds_what_its_server_takes_and_changes_nothing_else(
    name: str, said: dict[str, Any], added: set[str], replaced: set[str], document: dict
) -> None:
    def settings() -> list[str]:
        filled = runtimes.fill(runtimes.load(name), as_params(document).serve, PATH)
        return [*filled.command, *(f"{key}={value}" for key, value in filled.environment.items())]

    plain = settings()
    say(document, said)
    now = settings()
    assert (set(now) - set(plain), set(plain) - set(now)) == (added, replaced)
    assert len(now) == len(set(now))


@pytest.mark.parametrize(
    ("said", "refusal"),
    [
        (
            CACHED,
            "serve.prefix_caching: true: the runtime transformers does not offer it; use null, or another serve.runtime",
        ),
        (UNCACHED, "serve.prefix_caching: false: the runtime transformers does not offer it; use null"),
        (
            GUESSING,
            "serve.speculation.kind: ngram: the runtime transformers does not offer it; use serve.speculation: null, or",
        ),
        (DRAFTING, "serve.speculation.kind: draft: the runtime transformers does not offer it"),
        (
            ADAPTER,
            "serve.adapter: the runtime transformers serves no adapter beside its base; use merge.form merged, or another",
        ),
    ],
)
def test_a_runtime_without_a_setting_refuses_it(said: dict[str, Any], refusal: str, document: dict) -> None:
    say(document, said)
    with pytest.raises(ParamsRefused, match=re.escape(refusal)):
        runtimes.fill(runtimes.load("transformers"), as_params(document).serve, PATH)


REFUSED = [
    ("tgi", CALLING, "serve.tools: the runtime tgi does not offer it; use null, or another serve.runtime"),
    ("tgi", THINKING, "serve.reasoning: the runtime tgi does not offer it"),
    ("tgi", JSON, "serve.json_schema: the runtime tgi does not offer it"),
    ("tgi", SAMPLED, "serve.decoding: the runtime tgi does not offer it; use null, or another serve.runtime"),
    ("sglang", SAMPLED, "serve.decoding: the runtime sglang does not offer it"),
    ("transformers", SAMPLED, "serve.decoding: the runtime transformers does not offer it"),
    ("transformers", CALLING, "serve.tools: the runtime transformers does not offer it"),
    ("sglang", CALLING, "serve.tools: the runtime sglang does not offer it"),
    ("llamacpp", CALLING, "serve.tools.parser: hermes: the runtime llamacpp does not have it; use auto"),
]


@pytest.mark.parametrize(("name", "said", "refusal"), REFUSED)
def test_a_promise_that_a_runtime_cannot_keep_is_refused(
    name: str, said: dict[str, Any], refusal: str, document: dict
) -> None:
    say(document, said)
    with pytest.raises(ParamsRefused, match=re.escape(refusal)):
        runtimes.fill(runtimes.load(name), as_params(document).serve, PATH)


WRONG = [
    ({"tools": {"parser": "--port=1"}}, r"serve\.tools\.parser"),
    ({"tools": {"parser": "a b"}}, r"serve\.tools\.parser"),
    ({"tools": {}}, r"serve\.tools\.parser"),
    ({"reasoning": {"parser": "qwen3", "ends": ""}}, r"serve\.reasoning\.ends"),
    (
        {"decoding": {"temperature": 0.7}},
        r"serve\.decoding: is not what the gates judged by evaluate\.decoding; write \{temperature: 0, top_p: 1\}",
    ),
    ({"json_schema": {"type": 3}}, r"serve.*json_schema: \$\.type: 3 is not valid.*; write a JSON Schema"),
    ({"json_schema": {"pattern": "("}}, r"serve.*json_schema: \$\.pattern: '\(' is not a 'regex'"),
    (
        {"json_schema": {"pattern": "(a|b"}},
        r"serve.*json_schema: \$\.pattern: '\(a\\x7cb' is not a 'regex'; write a JSON Sch",
    ),
    ({"json_schema": "schema.json"}, r"serve\.json_schema"),
]


@pytest.mark.parametrize(("said", "refusal"), WRONG)
def test_a_promise_that_no_server_could_keep_is_refused(said: dict[str, Any], refusal: str, document: dict) -> None:
    say(document, said)
    with pytest.raises(ParamsRefused, match=refusal):
        as_params(document)


def test_a_schema_needs_a_package_that_the_core_has_not(document: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    as_params(document)
    say(document, JSON)
    with pytest.raises(
        ParamsRefused, match=r"json_schema: needs the package jsonschema, which is not installed; .*json-schema"
    ):
        as_params(document)


@pytest.mark.parametrize(
    "speculation", [{"kind": "medusa", "tokens": 3}, {"kind": "ngram"}, {"kind": "ngram", "tokens": 0}]
)
def test_a_speculation_that_no_server_has_is_refused(speculation: dict[str, Any], document: dict) -> None:
    document["serve"]["speculation"] = speculation
    with pytest.raises(ParamsRefused, match=r"serve\.speculation\."):
        as_params(document)


@pytest.mark.parametrize("name", ["../tgi", "tgi.yaml", "", "recipes"])
def test_a_runtimes_name_is_no_path(name: str) -> None:
    with pytest.raises(ParamsRefused, match="is not a runtime"):
        runtimes.load(name)


CANNOT = dict.fromkeys(("errors.unknown_model", "metrics.cache", "metrics.first_token"), "x")
BROKEN = {
    "no reason for metrics": ({"metrics": None}, "no reason for metrics"),
    "no reason for an error": ({"errors": {"too_long": None, "malformed": [400], "unknown_model": None}}, "errors.too_long"),
    "no reason for a metric": ({"cannot": {"errors.unknown_model": "x"}}, "no reason for metrics.cache, metrics.first_token"),
    "a reason for a metric that is named": ({"cannot": CANNOT | {"metrics.waiting": "y"}}, "metrics.waiting: the file says"),
    "a reason for no check": ({"cannot": CANNOT | {"tempalte": "y"}}, "tempalte: there is no such"),
    "a reason for what is told": ({"cannot": CANNOT | {"identity": "y"}}, "identity: the file says"),
    "an unknown key": ({"gpus": 1}, "gpus"),
    "a privileged port": ({"port": 80}, "port"),
    "a number as a variable": ({"environment": {"PORT": 80}}, "environment.PORT"),
    "no word for any dtype": ({"dtypes": {}}, "dtypes"),
    "another name": ({"name": "tgi3"}, "is called 'tgi3'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_says_something_impossible_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said = BROKEN[case]
    document = yaml.safe_load((runtimes.FOLDER / "tgi.yaml").read_text()) | change
    (tmp_path / "tgi.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(runtimes, "FOLDER", tmp_path)
    with pytest.raises(ParamsRefused, match=re.escape(said)):
        runtimes.load("tgi")


@pytest.mark.parametrize("text", ["name: [", "", "- 1", "name: tgi\nname: tgi\n"])
def test_a_file_that_is_no_runtime_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tgi.yaml").write_text(text)
    monkeypatch.setattr(runtimes, "FOLDER", tmp_path)
    with pytest.raises(ParamsRefused, match="fix the file"):
        runtimes.load("tgi")


LLAMA: dict[str, Any] = {"hidden_size": 576, "num_attention_heads": 9}
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
QWEN2: dict[str, Any] = LLAMA | {
    "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 512, "max_window_layers": 2,
    "num_hidden_layers": 4,
}  # fmt: skip
GEMMA2: dict[str, Any] = LLAMA | {"model_type": "gemma2", "sliding_window": 512, "num_hidden_layers": 4}
FITS: dict[str, dict[str, Any]] = {
    "plain": LLAMA,
    "no scaling": LLAMA | {"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "head_dim of its own": {"hidden_size": 1000, "num_attention_heads": 3, "head_dim": 128},
    "llama3": LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    "yarn": LLAMA | {"rope_scaling": YARN},
    "yarn by its older key": LLAMA | {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "Qwen2 whose window is switched off": QWEN2 | {"use_sliding_window": False},
    "Qwen2 whose window is wider than anything served": QWEN2 | {"sliding_window": 1280},
    "Qwen2 whose layers all have the window": QWEN2 | {"max_window_layers": 0},
    "Mistral, every layer": LLAMA | {"model_type": "mistral", "sliding_window": 512, "num_hidden_layers": 4},
    "Gemma 2, every other layer": GEMMA2,
    "Gemma 2, the same said by layer": GEMMA2 | {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "full attention said by layer": LLAMA | {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
    "yarn with the fixed values": LLAMA | {"rope_scaling": YARN | {"beta_fast": 32.0, "beta_slow": 1, "truncate": True}},
}  # fmt: skip
UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "linear": (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
    "dynamic": (LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type 'dynamic'"),
    "longrope": (LLAMA | {"rope_scaling": {"rope_type": "longrope"}}, "rope_type 'longrope'"),
    "linear in the new spelling alone": (LLAMA | {"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear'"),
    "other betas": (LLAMA | {"rope_scaling": YARN | {"beta_fast": 16}}, "beta_fast 16: tgi takes 32"),
    "an attention factor": (LLAMA | {"rope_scaling": YARN | {"attention_factor": 1.2}}, "attention_factor 1.2: tgi ignores"),
    "no truncation": (LLAMA | {"rope_scaling": YARN | {"truncate": False}}, "truncate False"),
    "by layer": (LLAMA | {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ by layer"),
    "a kind that is no text": (LLAMA | {"rope_scaling": {"rope_type": ["yarn"]}}, "rope_type"),
    "no object": (LLAMA | {"rope_scaling": "yarn"}, "differ by layer"),
    "heads of 96": ({"hidden_size": 3072, "num_attention_heads": 32}, "attention heads of 96"),
    "Qwen2 whose first layers see everything": (QWEN2, "qwen2 attends to the last 512 tokens in 2 of 4 layers, tgi in 4"),
    "Qwen2 whose window no layer has": (QWEN2 | {"max_window_layers": 4}, "in 0 of 4 layers, tgi in 4"),
    "Qwen2 by layer": (QWEN2 | {"max_window_layers": 0, "layer_types": ["full_attention", "sliding_attention"] * 2}, "in 2 of 4"),
    "Qwen3, which it leaves to transformers 4.51": (QWEN2 | {"model_type": "qwen3"}, "tgi in 0"),
    "Phi-3, whose window it ignores": (LLAMA | {"model_type": "phi3", "sliding_window": 512, "num_hidden_layers": 4}, "in 4 of 4 layers, tgi in 0"),
    "Gemma 2 in another order": (GEMMA2 | {"layer_types": ["full_attention", "sliding_attention"] * 2}, "tgi in others"),
    "Gemma 3 with another pattern by layer": (GEMMA2 | {"model_type": "gemma3_text", "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}, "in 3 of 4 layers, tgi in 4"),
    "a kind of layer that is newer": (LLAMA | {"layer_types": ["chunked_attention"], "num_hidden_layers": 1}, "layer_types"),
    "a window that is no number": (LLAMA | {"sliding_window": "all", "num_hidden_layers": 1}, "no numbers"),
    "attention both ways": (LLAMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention True: tgi does not know"),
    "no heads": ({"hidden_size": 3072}, "does not give the size"),
}  # fmt: skip


@pytest.mark.parametrize("case", FITS)
def test_tgi_computes_these_as_transformers_does(case: str) -> None:
    assert unfit(runtimes.load("tgi"), FITS[case], 1280) is None


@pytest.mark.parametrize("case", UNFIT)
def test_what_tgi_computes_otherwise_is_told_before_it_is_served(case: str) -> None:
    config, said = UNFIT[case]
    reason = unfit(runtimes.load("tgi"), config, 1280)
    assert reason is not None
    assert said in reason
    assert "\n" not in reason


@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("name", ["llamacpp", "sglang", "transformers", "vllm"])
def test_the_others_are_told_of_nothing_that_they_compute_otherwise(name: str, case: str) -> None:
    assert unfit(runtimes.load(name), UNFIT[case][0]) is None


def test_the_recipe_installs_what_this_environment_was_measured_with() -> None:
    lines = (runtimes.FOLDER / "recipes/transformers/requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if not line.startswith("#")]
    assert {each.name for each in wanted} >= {"transformers", "torch"}
    assert all(each.specifier for each in wanted)
    wrong = [str(each) for each in wanted if not each.specifier.contains(metadata.version(each.name), prereleases=True)]
    assert not wrong


def test_llama_cpp_serves_the_exported_file_with_as_many_slots_as_verify_asks_at_once(params: Params) -> None:
    runtime = runtimes.load("llamacpp")
    assert runtime.identity is not None
    assert runtime.identity.file == layout.GGUF
    assert f"--parallel={runtime.concurrency}" in runtime.command
    recipe = (llamacpp.SERVER.parent / "requirements.txt").read_text()
    assert runtime.own_environment is not None
    assert f"xllamacpp=={runtime.own_environment.make.rpartition(' ')[2]}" in recipe


def test_every_setting_of_every_runtime_is_explained() -> None:
    text = (REPOSITORY / "docs/reference/runtimes.md").read_text()
    settings = set()
    for runtime in map(runtimes.load, ALL):
        settings |= set(runtime.environment) | {part.partition("=")[0] for part in runtime.command if part[:1] == "-"}
    assert not [name for name in sorted(settings) if f"`{name}" not in text]


def test_every_key_of_a_runtime_is_explained() -> None:
    text = (REPOSITORY / "docs/reference/runtimes.md").read_text()
    assert not [key for key in Runtime.model_fields if f"| `{key}` |" not in text]


def test_loading_a_runtime_imports_no_docker() -> None:
    import subprocess

    script = "import sys; from release import runtimes; runtimes.load('tgi'); print('docker' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False"
