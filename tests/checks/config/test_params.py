"""params.yaml: strict, and every refusal names the line, the path, the value and the fix."""

import contextlib
import json
import re
import string
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checks.config import params_file
from checks.process.errors import ParamsRefused
from tests.conftest import REPOSITORY, ROUTER, read_yaml, written

TEXT = ROUTER.read_text()

FAULTS = {
    "a word for a number": ("r: 16", "r: sixteen", r"params.yaml:\d+: train.lora.r: 'sixteen'"),
    "a fraction for an integer": ("batch_size: 16", "batch_size: 16.5", r"train.batch_size: 16.5"),
    "a key of another section": (
        "  batch_tokens:",
        "  batch_size: 8\n  batch_tokens:",
        r"evaluate.batch_size: unknown key; did you mean batch_tokens\?",
    ),
    "a misspelt key": ("alpha: 32", "alhpa: 32", r"train.lora.alhpa: unknown key; did you mean alpha"),
    "a misspelt key that must be there": (
        "  learning_rate: 0.004", "  learning_rat: 0.004",
        r"^\S+:\d+: train.learning_rat: unknown key; did you mean learning_rate\?$",
    ),
    "an unknown section": ("tracking:", "trackign:", r"trackign: unknown key"),
    "a missing key": ("  learning_rate: 0.004\n", "", r"train.learning_rate: missing"),
    "a key twice": ("  precision: bf16\n\nmerge", "  precision: bf16\n  precision: fp32\n\nmerge", "precision is written twice"),
    "not a number": ("learning_rate: 0.004", "learning_rate: .nan", "train.learning_rate: nan"),
    "out of range": ("dropout: 0.0", "dropout: 1.0", "train.lora.dropout: 1.0"),
    "an unknown precision": ("precision: bf16\n\nmerge", "precision: int3\n\nmerge", "train.precision: 'int3'"),
    "an unknown loader": ("kind: azure-cli", "kind: azurecli", r"prepare.loader.kind: unknown loader 'azurecli'; one of: canaries, documents, table, azure-cli"),
    "an unknown rule": ("- drop-duplicates", "- drop-duplicats", "drop-duplicats"),
    "an unknown scorer": (
        "- kind: exact-match",
        "- kind: accuracy",
        r"evaluate.scorers.0.kind: unknown scorer 'accuracy'; one of: exact-match, token-f1, .*, regex$",
    ),
    "a scorer without a kind": ("- kind: exact-match", "- pattern: x", "evaluate.scorers.0.kind: missing"),
    "a hash that is none": ("sha256: bcc", "sha256: xcc", "base.sha256"),
    "a start that changes the base": (
        "dropout: 0.0",
        "dropout: 0.0\n    init: pissa_niter_4",
        "train.lora.init: pissa_niter_4 starts by taking the largest directions out of the base",
    ),
    "an orthogonal start of odd rank": (
        "r: 16",
        "r: 15\n    init: orthogonal",
        "train.lora: r: 15 is odd, and init orthogonal needs an even rank; use 16",
    ),
    "an orthogonal start beside 4 bits": (
        "  seed: 17\n  lora:",
        "  seed: 17\n  quantization: {kind: nf4, double: true}\n  lora:\n    init: orthogonal",
        "train: lora.init: orthogonal cannot start beside 4-bit weights",
    ),
    "an adapter and full fine-tuning": (
        "  seed: 17\n  lora:",
        "  seed: 17\n  full: {layers: null}\n  lora:",
        "train: lora and full are both written; write lora for an adapter, or full for the base's own weights",
    ),
    "an adapter that no server has room for": (
        "\nmerge:\n",
        "\nmerge:\n  form: adapter\n",
        "serve.adapter: is null, and merge.form adapter ships one; write {max_rank: 16}",
    ),
    "room for an adapter that does not ship": (
        "\nserve:\n",
        "\nserve:\n  adapter: {max_rank: 16}\n",
        "serve.adapter: merge.form is merged, so no adapter ships; remove it, or set merge.form to adapter",
    ),
    "another form than adapter or merged": ("\nmerge:\n", "\nmerge:\n  form: lora\n", "merge.form: 'lora'"),
    "fp16 beside 4 bits": (
        "  precision: bf16\n\nmerge",
        "  precision: fp16\n  quantization: {kind: nf4, double: true}\n\nmerge",
        "train: precision: fp16 is not offered with a 4-bit base",
    ),
    "4 bits of an unknown kind": (
        "  seed: 17\n  lora:",
        "  seed: 17\n  quantization: {kind: int4, double: true}\n  lora:",
        "train.quantization.kind: 'int4'",
    ),
    "an end of a schedule that has none": (
        "schedule: cosine",
        "schedule: cosine\n  min_learning_rate: 0.0001",
        "schedule is cosine and min_learning_rate is 0.0001; write min_learning_rate with",
    ),
    "a schedule without its end": (
        "schedule: cosine",
        "schedule: cosine_with_min_lr",
        "schedule is cosine_with_min_lr and min_learning_rate is null",
    ),
    "a schedule that would rise": (
        "schedule: cosine",
        "schedule: cosine_with_min_lr\n  min_learning_rate: 0.004",
        "min_learning_rate: 0.004 is not below learning_rate 0.004; set it to 0.0004",
    ),
    "no memory": ("max_length: 128", "max_length: 128\n  max_memory_gb: 0", "train.max_memory_gb: 0"),
    "no patience": (
        "max_length: 128",
        "max_length: 128\n  early_stopping: {patience: 0, per_epoch: 1}",
        "train.early_stopping.patience: 0",
    ),
    "both lengths": ("max_steps: null", "max_steps: 10", "set exactly one"),
    "no length": ("epochs: 2", "epochs: null", "set exactly one"),
    "a longest prompt without words": ("max_prompt_words: 45", "max_prompt_words: 0", "prepare.max_prompt_words: 0"),
    "no longest prompt": ("  max_prompt_words: 45", "  #", "prepare.max_prompt_words: missing"),
    "nothing to train on": ("valid: 0.06", "valid: 0.9", "leave rows to train on"),
    "rows that would be cut": ("max_length: 128", "max_length: 64", "train.max_length: 64 would cut"),
    "answers that cannot be reached": ("max_new_tokens: 8", "max_new_tokens: 2", "evaluate.max_new_tokens: 2 cannot reach"),
    "a server without room for an answer": ("max_total_tokens: 1280", "max_total_tokens: 1024", "serve: max_total_tokens: 1024 leaves no room"),
    "a server without room for the probes' answers": ("max_total_tokens: 1280", "max_total_tokens: 1040", "answers of 24 are asked for"),
    "a server without room for the prompts": ("max_input_tokens: 1024", "max_input_tokens: 64", "serve.max_input_tokens: 64 is below prompts"),
    "a name that is no folder": ("name: azure-cli-router", "name: ../router", "serve.name: '../router'"),
    "an environment after one that there is not": (
        "      after: staging\n",
        "      after: canary\n",
        "environments.production.after: 'canary' leads to no first environment",
    ),
    "environments that come after one another": (
        "    staging:\n      after: null",
        "    staging:\n      after: production",
        "leads to no first environment",
    ),
    "an environment of the name of a shared folder": ("    staging:\n", "    base:\n", "environments.base: is a folder that environments share"),
    "an environment that no tag can name": ("    staging:\n", "    staging-:\n", "environments.staging-: cannot be in a tag"),
    "an environment that soaks in none": (
        "      after: null\n      soak_hours: 0",
        "      after: null\n      soak_hours: 4",
        "environments.staging.soak_hours: nothing to soak in",
    ),
    "too few rows for a gate": ("test: 385", "test: 100", "raise it to 385, or widen gates.routes_well.resolution"),
    "a resolution that no rows give": (
        "resolution: 0.05",
        "resolution: 1.0e-300",
        "gates.routes_well.resolution: 1e-300; input should be greater than or equal to 0.0001",
    ),
    "too certain a gate for its rows": (
        "confidence: 0.95\n    resolution",
        "confidence: 0.9999999999999999\n    resolution",
        "cannot give gate 'routes_well' its resolution",
    ),
    "a gate on nothing scored": ("metric: exact-match", "metric: bleu", "gates.routes_well.metric: 'bleu' is not scored"),
    "a gate on draws that nobody makes": (
        "metric: exact-match",
        "metric: exact-match in all draws",
        "gates.routes_well.metric: 'exact-match in all draws' is not scored; use one of exact-match, or add it",
    ),
    "an answer's schema that is no JSON": (
        "  batch_tokens: 2048\n",
        "  batch_tokens: 2048\n  json_schema: 'type: object'\n",
        r"evaluate: json_schema: is no JSON object; write the schema as JSON text, such as '{\"type\": \"object\"}'",
    ),
    "an answer's schema that is none": (
        "  batch_tokens: 2048\n",
        "  batch_tokens: 2048\n  json_schema: '{\"type\": 3}'\n",
        r"evaluate: json_schema: \$\.type: 3 is not valid",
    ),
    "an answer's schema that the server does not promise": (
        "  batch_tokens: 2048\n",
        "  batch_tokens: 2048\n  json_schema: '{}'\n",
        "evaluate.json_schema: the server is asked for it, and serve.json_schema is null; write it there",
    ),
    "a temperature of nothing": (
        "  batch_tokens: 2048\n",
        "  batch_tokens: 2048\n  decoding: {temperature: 0, top_p: 1, draws: 2, seed: 1}\n",
        "evaluate.decoding.temperature: 0; input should be greater than or equal to 0.001",
    ),
    "a gate with two bounds": ("at_least: 0.6", "at_least: 0.6\n    at_most: 0.9", "exactly one of at_least and at_most"),
    "a gate without a bound": ("    at_least: 0.6\n", "", "exactly one of at_least and at_most"),
    "a bound that is no number": ("at_least: 0.6", "at_least: .nan", "gates.routes_well.at_least: nan"),
    "a bound without end": ("max_logprob_diff: 0.4", "max_logprob_diff: .inf", "max_logprob_diff: inf"),
    "an alias": ("epochs: 2", "epochs: &x 2\n  seed2: *x", "an alias: write the value out"),
    "a tag": ("epochs: 2", "epochs: !!bool x", "a tag: write the value plainly"),
    "a date out of the calendar": ("epochs: 2", "epochs: 2001-99-99", "not YAML: month must be in 1..12"),
    "a number without end": ("epochs: 2", f"epochs: {'9' * 5000}", "not YAML"),
    "a key that is a list": ("epochs: 2", "? [a]\n  : 2", "a key that is not text"),
    "half a character": ("instruction: Name", 'instruction: "\\ud800" # Name', "surrogates not allowed|invalid Unicode character"),
    "a gate against nothing evaluated": ("against: base", "against: oracle", "gates.beats_the_base.against: 'oracle'"),
    "a budget that asks nothing": ("    parameters_millions: 150\n    artifact_mb: 450\n", "", "asks nothing"),
    "a gate on the time of training": (
        "    artifact_mb: 450\n",
        "    artifact_mb: 450\n    train_minutes: 60\n",
        r"gates.fits_the_budget.train_minutes: is no longer a parameter; move it to the section train_budget",
    ),
    "a gate on money": (
        "    artifact_mb: 450\n",
        "    artifact_mb: 450\n    cost: 1\n    hourly_price: 2\n",
        r"gates.fits_the_budget.cost: is no longer a parameter; move it to the section train_budget",
    ),
    "a gate on the time of answers": (
        "    artifact_mb: 450\n",
        "    artifact_mb: 450\n    latency_p95_seconds: 30\n",
        r"gates.fits_the_budget.latency_p95_seconds: is no longer a parameter; remove it: no gate asks the latency",
    ),
    "a bound on the time of whatever machine verifies": (
        "    margin: 0.01\n",
        "    margin: 0.01\n    p95_seconds: 5\n",
        r"serve.verify.p95_seconds: is no longer a parameter; remove it: `lockstep verify` measures and shows",
    ),
    "a cost without a price": (
        "  gpu_hours: 1\n",
        "  gpu_hours: 1\n  cost: 5\n",
        r"train_budget: cost: cannot be estimated without hourly_price; write hourly_price too",
    ),
    "a confidence that is a coin's": ("confidence: 0.95\n    resolution", "confidence: 0.5\n    resolution", "gates.routes_well.confidence: 0.5"),
    "a confidence below the floor": ("confidence: 0.95\n    resolution", "confidence: 0.79\n    resolution", "gates.routes_well.confidence: 0.79"),
    "a margin that allows nearly all": ("margin: 0.1\n", "margin: 0.51\n", r"gates\.[a-z_]+\.margin: 0\.51"),
    "a test split without models": ("kind: budget", "kind: looks\n    most: 0\n  more:\n    kind: budget", r"gates\..*\.most: 0"),
    "a share above 1": ("at_least: 0.6", "at_least: 1.5", r"gates.routes_well.at_least: .*less than or equal to 1"),
    "an unknown gate": ("kind: parity", "kind: vibes", r"gates.merge_is_faithful.kind: unknown kind of gate 'vibes'; one of: threshold, .*, budget$"),
    "broken YAML": ("targets: [", "targets: [[", r"params.yaml:\d+: not YAML"),
    "a tab": ("  seed: 17\n  lora", "\tseed: 17\n  lora", r"params.yaml:\d+: not YAML"),
}  # fmt: skip


def test_the_file_of_the_repository_reads_well() -> None:
    assert params_file.load(REPOSITORY / "params.yaml").gates


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs" / "configurations").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_that_is_shipped_reads_well(path: Path) -> None:
    assert params_file.load(path).gates


# What ships an adapter and cannot be served as one: what params.yaml says beside it, and words of the refusal.
NO_ADAPTER: list[tuple[dict[str, Any], str]] = [
    ({"serve": {"adapter": {"max_rank": 8}}}, "serve.adapter.max_rank: 8 is below train.lora.r; raise it to 16 or more"),
    ({"train": {"lora": {"variant": "dora"}}}, "train.lora.variant: dora: servers add plain LoRA to a base"),
    ({"train": {"lora": {"modules_to_save": ["lm_head"]}}}, "train.lora.modules_to_save: servers add plain LoRA"),
    ({"train": {"full": {"layers": None}}}, "merge.form: adapter ships LoRA, and train.full trains the base itself"),
    ({"merge": {"quantization": {"kind": "int8", "parity": {"max_logprob_diff": 1.0, "min_top1": 0.9}}}},
     "merge: quantization: is made of one merged model, and form is adapter"),
]  # fmt: skip


@pytest.mark.parametrize(("beside", "words"), NO_ADAPTER)
def test_an_adapter_that_no_server_could_add_is_refused(beside: dict[str, Any], words: str) -> None:
    document = read_yaml(TEXT)
    document["merge"]["form"] = "adapter"
    document["serve"]["adapter"] = {"max_rank": 16}
    assert params_file.parse(json.dumps(document)).serve.adapter
    for section, values in beside.items():
        for key, value in values.items():
            old = document[section].get(key)
            document[section][key] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    if "full" in beside.get("train", {}):
        del document["train"]["lora"]
    with pytest.raises(ParamsRefused) as caught:
        params_file.parse(json.dumps(document))
    assert any(words in line for line in (str(caught.value), *caught.value.others)), caught.value


BY_VLLM = {
    "kind": "vllm", "version": "0.32.0", "max_rows": 8, "kv_cache_gb": 1, "gpus": 1, "compiled": False,
    "batch_invariant": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("evaluate", {"engine": BY_VLLM}, "evaluate.json_schema: only transformers answers by one; remove it, or evaluate.engine"),
        ("base", {"thinking": {"mode": "mixed"}}, "evaluate.json_schema: a thought is no JSON; remove it, or set base.thinking"),
        ("serve", {"json_schema": {"type": "array"}}, "evaluate.json_schema: is not serve.json_schema, so gates would judge"),
        ("base", {"thinking": {"mode": "never"}}, None),
    ],
)  # fmt: skip
def test_answers_under_a_schema_are_those_that_clients_get(
    section: str, change: dict[str, Any], words: str | None
) -> None:
    document = read_yaml(TEXT)
    document["evaluate"]["json_schema"] = '{"type": "object"}'
    document["serve"] |= {"runtime": "vllm", "json_schema": {"type": "object"}}
    document[section] |= change
    if words is None:
        assert params_file.parse(json.dumps(document)).evaluate.json_schema
        return
    with pytest.raises(ParamsRefused) as caught:
        params_file.parse(json.dumps(document))
    assert any(words in line for line in (str(caught.value), *caught.value.others)), caught.value


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_on_one_line(fault: str) -> None:
    before, after, message = FAULTS[fault]
    assert before in TEXT, "the table is stale"
    with pytest.raises(ParamsRefused) as caught:
        params_file.parse(TEXT.replace(before, after, 1))
    lines = (str(caught.value), *caught.value.others)
    assert any(re.search(message, line) for line in lines), lines
    for line in lines:
        assert "\n" not in line
        assert line.startswith("params.yaml:")
        assert "; " in line
    assert caught.value.exit_code == 2


WITHOUT = """
import sys
from importlib import metadata
from pathlib import Path
from checks.kinds import plugins
points = [point for group in metadata.entry_points().groups for point in metadata.entry_points(group=group)]
there = metadata.EntryPoints(tuple(point for point in points if point.dist.name != "lockstep-azure-cli"))
plugins._every_entry_point = lambda: there
from checks.config import params_file
from checks.process.errors import ParamsRefused
try:
    params_file.load(Path(sys.argv[1]))
except ParamsRefused as refused:
    print(refused, *refused.others, sep="\\n")
"""


def test_a_kind_of_a_package_that_is_not_installed_is_refused_with_the_package_and_the_command(tmp_path: Path) -> None:
    project = tomllib.loads((REPOSITORY / "examples/azure-cli/pyproject.toml").read_text())["project"]
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    document = read_yaml(TEXT)
    document["prepare"]["rules"] = list(project["entry-points"].pop("lockstep.rules"))
    ((_, loaders),) = project["entry-points"].items()
    assert list(loaders) == [document["prepare"]["loader"]["kind"]]
    (tmp_path / "params.yaml").write_text(json.dumps(document))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path / "params.yaml")],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    fix = f"needs the package {project['name']}; pip install -c constraints.txt -e '.[azure-cli]'"
    for name in (*loaders, *document["prepare"]["rules"]):
        assert f"{name!r} {fix}\n" in done.stdout
    assert [requirement.partition(">")[0] for requirement in extras["azure-cli"]] == [project["name"]]


def test_the_line_is_the_line_of_the_value() -> None:
    wanted = next(i for i, line in enumerate(TEXT.splitlines(), 1) if "  r: 16" in line)
    with pytest.raises(ParamsRefused, match=f"params.yaml:{wanted}: "):
        params_file.parse(TEXT.replace("r: 16", "r: -1"))


# What is wrong, and the line that names it as it then stands in the file.
LINES = {
    "rows for a gate": ("test: 385", "test: 100", "test: 100"),
    "a gate against nothing evaluated": ("against: production", "against: oracle", "against: oracle"),
    "a length": ("max_length: 128", "max_length: 64", "max_length: 64"),
    "a key that only the message of its section names": ("max_total_tokens: 1280", "max_total_tokens: 1024", "max_total_tokens: 1024"),
    "a name below a section": ("after: staging", "after: canary", "after: canary"),
    "a key without a colon after it": ("max_steps: null", "max_steps: 10", "epochs: 2"),
    "a key that is not there, in its section": ("  learning_rate: 0.004\n", "", "train:"),
    "a bound that is not there, in its gate": ("    at_least: 0.6\n", "", "routes_well:"),
    "an unknown key": ("  shard_mb: 2000", "  shard_mb: 2000\n  shards:\n    mb: 2000", "shards:"),
    "an unknown scorer": ("- kind: exact-match", "- pattern: x\n      kind: accuracy", "kind: accuracy"),
}  # fmt: skip


@pytest.mark.parametrize("fault", LINES)
def test_the_line_is_the_line_of_the_key_that_the_message_names(fault: str) -> None:
    before, after, named = LINES[fault]
    assert before in TEXT, "the table is stale"
    text = TEXT.replace(before, after, 1)
    (wanted,) = (i for i, line in enumerate(text.splitlines(), 1) if line.partition(" #")[0].strip() == named)
    with pytest.raises(ParamsRefused, match=rf"^params.yaml:{wanted}: "):
        params_file.parse(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [("- kind: exact-match", "- kind: accuracy"), (TEXT[TEXT.index("gates:") :], "gates:\n  a:\n    kind: vibes\n")],
    ids=["the only scorer", "the only gate"],
)
def test_what_only_follows_from_a_problem_is_not_told_as_another(before: str, after: str) -> None:
    with pytest.raises(ParamsRefused) as caught:
        params_file.parse(TEXT.replace(before, after, 1))
    assert caught.value.others == ()


def test_no_scorer_at_all_is_a_problem_of_its_own() -> None:
    with pytest.raises(ParamsRefused, match=r"evaluate.scorers: .*at least 1 item"):
        params_file.parse(TEXT.replace("scorers:\n    - kind: exact-match", "scorers: []"))


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ParamsRefused) as caught:
        params_file.parse(
            TEXT.replace("r: 16", "r: x").replace("dropout: 0.0", "dropout: 2").replace("shard_mb: 2000", "shard_mb: 0")
        )
    assert len(caught.value.others) == 2


def test_scientific_notation_is_a_number_as_dvc_reads_it() -> None:
    assert params_file.parse(TEXT.replace("learning_rate: 0.004", "learning_rate: 4e-3")).train.learning_rate == 0.004


@pytest.mark.parametrize(
    "content", [b"", b"- a list", b"\xff\xfe", b"a: " + b"[" * 3000, b"!!python/object:os.system {}"]
)
def test_a_file_that_holds_no_sections_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsRefused, match=r"params.yaml"):
        params_file.load(path)


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "params.yaml", tmp_path):
        with pytest.raises(ParamsRefused):
            params_file.load(path)


def test_parameters_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        params_file.parse(TEXT).train.seed = 8  # type: ignore[misc]  # mypy objects, as it should


@pytest.mark.slow
def test_the_schema_for_editors_is_current() -> None:
    kept = json.loads((REPOSITORY / "docs" / "params.schema.json").read_text())
    assert kept == params_file.schema(), "run `lockstep schema > docs/params.schema.json`"


_leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(string.printable, max_size=8))
_values = st.recursive(
    _leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=6
)


def _paths(value: Any, path: tuple = ()) -> list[tuple]:
    if not isinstance(value, dict):
        return [path]
    return [path, *(p for key, child in value.items() for p in _paths(child, (*path, key)))]


_PATHS = [path for path in _paths(read_yaml(TEXT)) if path]


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(path=st.sampled_from(_PATHS), value=_values)
def test_any_value_anywhere_is_read_or_refused_and_never_a_traceback(path: tuple, value: Any) -> None:
    document = read_yaml(TEXT)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with contextlib.suppress(ParamsRefused):
        assert params_file.parse(written(document)).gates


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(ParamsRefused):
        params_file.parse(text)
