"""Shared parts of the tests: a tiny random Llama with a real tokenizer, and parameters that fit it."""

import contextlib
import ctypes
import functools
import gc
import json
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.config import params_file
from checks.config.params import Params
from stages import cpu_arithmetic
from tests import programs
from tests.effort import EXHAUSTIVE, LEFT_OUT
from tests.interrupt import pytest_keyboard_interrupt, pytest_sessionstart, pytest_unconfigure  # noqa: F401 # hooks
from tests.once import begin, once

# As the stages do, in other processes: read when torch is loaded.
cpu_arithmetic.settle()
# As many workers as cores and one more: more threads would wait for one another. Read when torch is loaded, here and in stages.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor are files forced to the disk: SQLite does it a thousand times to make the tables of one MLflow store. Processes that
# the tests start inherit this; pytest itself is one in its workers.
with contextlib.suppress(OSError):
    ctypes.CDLL(_NO_SYNC := "libeatmydata.so")  # of Debian's package; the tests run without it too, and wait more
    os.environ.setdefault("LD_PRELOAD", _NO_SYNC)

# In a repository without this one's .dvc/config, each command of DVC would start a process that reports its use.
os.environ.setdefault("DVC_NO_ANALYTICS", "true")

# git starts no process that might pack a repository after each commit.
_settings = int(os.environ.get("GIT_CONFIG_COUNT", "0"))
os.environ |= {
    "GIT_CONFIG_COUNT": str(_settings + 1),
    f"GIT_CONFIG_KEY_{_settings}": "maintenance.auto",
    f"GIT_CONFIG_VALUE_{_settings}": "false",
}

# Programs in Go (promtool, registries, skopeo) collect garbage for up to half of their time.
os.environ.setdefault("GOGC", "400")

# The tests start some thousand Python processes: each would compile every module of ours where bytecode may not be kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

REPOSITORY = Path(__file__).resolve().parent.parent
# The tiny model of most tests is asked for labels of one word, as the model of this configuration is.
ROUTER = REPOSITORY / "docs" / "configurations" / "service-router.yaml"

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = "queue table disk vault image key list show create delete the a of all in my with name and"

# Files that take a minute or more, by the list that CI prints: first, so that no worker ends with one of them while the other
# has nothing to do. Those that wait (for Docker, for an alert) do so while others work. Whatever needs the image that
# test_verify builds comes long after it.
_LONGEST = (
    "test_tutorials", "test_verify", "test_workflow_pull_request", "test_monitor_up", "test_pipeline",
    "test_contract_llamacpp", "test_promote_adapters", "test_ranks", "test_harvest", "test_steps", "test_sweep",
    "test_engine_llamacpp", "test_promote_together", "test_verify_against", "test_thinking_configuration",
    "test_target_policy", "test_verify_llamacpp", "test_workflow_projects", "test_verify_checks", "test_promote_ledger",
    "test_references_in_time", "test_gateway", "test_verify_alone", "test_calibrate", "test_rollback", "test_mirrors_mlflow",
    "test_doctor_github", "test_run_sources", "test_verify_team_runtime", "test_gateway_image", "test_rollout",
    "test_emergency", "test_containers",
)  # fmt: skip


_WHOLLY_SLOW = re.compile(r"^pytestmark = (\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)
_imported = 0  # modules, at the last freeze
_FAST = 3.0  # seconds, all cases of a test together


def is_slow(file: Path) -> bool:
    """Whether all tests of a file are marked slow, by its text."""
    return _WHOLLY_SLOW.search(file.read_text()) is not None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what ``-m "not slow"`` would deselect: each worker would import torch and more for it, for seconds."""
    named = config.option.markexpr == "not slow" and collection_path.suffix == ".py"
    return True if named and is_slow(collection_path) else None


def pytest_configure(config: pytest.Config) -> None:
    """Collect no garbage while the tests are: all that is made then stays. Start to collect elsewhere in each worker.

    On a new clone a worker would otherwise compile every module at the same time as the others.
    """
    gc.disable()
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" in os.environ:
        tests = REPOSITORY / "tests"
        folders = sorted({str(tests / path.relative_to(tests).parts[0]) for path in tests.rglob("test_*.py")})
        number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(folders)
        config.args[:] = [*folders[number:], *folders[:number], *config.args[1:]]


def pytest_collection_finish() -> None:
    """Leave what the tests are made of out of later collections."""
    gc.freeze()
    gc.enable()


def pytest_runtest_logfinish() -> None:
    """Leave what a test imported out of later collections: with torch's objects, each takes half a second."""
    global _imported
    if len(sys.modules) > _imported + 200:
        gc.collect()
        gc.freeze()
        _imported = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Functions that are no fixtures know where they find what is made once for all workers."""
    begin(tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def _no_test_cuts_the_power() -> Iterator[None]:
    """Files are not forced to the disk, also without libeatmydata: what a process wrote outlives it, even when it is killed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _handle: None)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest; all others by name. Skip what only an exhaustive run runs."""
    for item in [] if EXHAUSTIVE else items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.skip(reason=LEFT_OUT))
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: (places.get(item.path.stem, len(places)), item.path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    """Skip a test whose fixtures run a program that is not installed (tests/programs.py)."""
    return (yield from _skipped_without_programs())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """Skip a test that runs a program that is not installed (tests/programs.py)."""
    return (yield from _skipped_without_programs())


def _skipped_without_programs() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except FileNotFoundError as error:
        if name := programs.without(error):
            programs.missing(name, "not on PATH")
        raise


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which programs were missing, how many tests that cost, and how to get them."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = [report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)]
    if lines := programs.summary(reasons):
        terminalreporter.section("programs missing here")
        for line in lines:
            terminalreporter.write_line(line)
    if programs.REQUIRE in os.environ:  # CI
        reports = [
            report
            for some in terminalreporter.stats.values()
            for report in some
            if isinstance(report, pytest.TestReport)
        ]
        _show_the_longest_files(terminalreporter, reports)
        _show_the_fast_tier(terminalreporter, reports)


def _show_the_longest_files(terminalreporter: pytest.TerminalReporter, reports: list[pytest.TestReport]) -> None:
    """Say which files took a worker longest, set-up included: those to make faster, and to start with (``_LONGEST``)."""
    took = defaultdict[str, float](float)
    for report in reports:
        took[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("the longest files")
    for name, seconds in sorted(took.items(), key=lambda item: -item[1])[:60]:
        terminalreporter.write_line(f"{seconds:.0f}s {name}")
    terminalreporter.write_line(f"{sum(took.values()):.0f}s of one worker for all")


def _show_the_fast_tier(terminalreporter: pytest.TerminalReporter, reports: list[pytest.TestReport]) -> None:
    """Say how long the tests without the mark took, and which of them should have it. Time of a busy machine fails none."""
    took = defaultdict[str, float](float)
    for report in reports:
        if "slow" not in report.keywords:
            took[report.nodeid.partition("[")[0]] += report.duration
    terminalreporter.section("the fast tier")
    for name, seconds in sorted(took.items(), key=lambda each: -each[1]):
        if seconds < _FAST:
            break
        terminalreporter.write_line(f"{seconds:.1f}s {name}: mark it slow, or make it faster")
    terminalreporter.write_line(f"{sum(took.values()):.0f}s of one worker for all tests that are not marked slow")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (2 layers, 32 wide) in shards, and a byte-level BPE tokenizer. Read-only by custom."""
    return once(tmp_path_factory, "tiny-base", _make_tiny_base)


@pytest.fixture(scope="session")
def tuned_model(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """The tiny model, once it knows by heart the rows of a record (tests/tuned.py). Read-only by custom."""
    from tests import tuned

    return once(tmp_path_factory, "tuned-model", lambda folder: tuned.tune(tiny_base, folder))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's wheel, alone in its folder. Read-only by custom."""
    from tests import wheel_folder

    (path,) = once(tmp_path_factory, "wheel", wheel_folder.built).glob("wheel/*.whl")
    return path


def _make_tiny_base(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_WORDS] * 20, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="60KB")
    wrapped.save_pretrained(folder)
    assert len(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]) > 10


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A random BERT, one layer, 16 wide, with the tiny model's tokenizer. Read-only by custom."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=40,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def scaled_down() -> dict:
    """The configuration service-router as plain values, scaled down to the tiny model."""
    value: dict[str, Any] = json.loads(_default())
    value["validate"] |= {"min_rows": {"train": 20, "valid": 4, "test": 16}}
    value["train"] |= {"epochs": None, "max_steps": 4, "batch_size": 4, "precision": "fp32"}
    value["train"]["lora"] |= {"r": 4, "alpha": 8, "layers": None}
    value["evaluate"] |= {"precision": "fp32", "base_prompt": {"labels": True, "shots": 0}}
    value["merge"] |= {"shard_mb": 1}
    value["gates"]["routes_well"] |= {"at_least": 0.01, "resolution": 0.3}
    value["gates"]["test_is_unseen"] |= {"max_ngram_share": 1.0, "max_near_duplicate_share": 1.0}
    value["gates"]["no_slice_falls_behind"] |= {"margin": 0.4, "min_rows": 10}
    value["suites"] = {}  # the tiny model knows no English: tests/checks/suites/test_loss.py
    del value["gates"]["remembers_english"]
    return value


@functools.cache
def _default() -> str:
    """The configuration as JSON: a copy of it is a hundred times faster to read."""
    return json.dumps(read_yaml(ROUTER.read_text()))


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC, stages and verbs that this process starts are forked from one that has loaded their libraries (tests/warm.py)."""
    from tests import pipeline_repository, warm

    environment = pipeline_repository.environment()
    for name in ("HF_HUB_OFFLINE", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr(sys, "executable", str(warm.python(environment)))


@pytest.fixture(scope="module")
def forked_servers() -> Iterator[None]:
    """Servers of models that this process starts are forked from one that has loaded their libraries (tests/warm.py)."""
    from tests import warm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(warm.serving()))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of one MLflow store for all tests of a file, with its tables: making them takes seconds."""
    from tests import mlflow_service

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copyfile(mlflow_service.tables_of_this_run(tmp_path_factory), path)
    return f"sqlite:///{path}"


@pytest.fixture
def tracked(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are logged to the file's store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


@pytest.fixture
def forked_ranks() -> Iterator[None]:
    """Ranks of a training in this process are forked from one that has loaded torch: their hashes have one seed."""
    from tests import pipeline_repository

    with pipeline_repository.forked_ranks():
        yield


@pytest.fixture
def document() -> dict:
    """Plain values that fit the tiny model; change them, then give them to ``as_params``."""
    return scaled_down()


def as_params(document: dict) -> Params:
    """Plain values through the real reader."""
    return params_file.parse(written(document))


def written(document: dict) -> str:
    """Plain values as the text of a params.yaml, no value twice by an alias."""
    return _yaml_of(json.dumps(document))


@functools.lru_cache(maxsize=256)  # most tests write the same dvc.yaml, and nearly the same parameters
def _yaml_of(text: str) -> str:
    return str(yaml.dump(json.loads(text), Dumper=_DUMPER, sort_keys=False))


def dumped(value: Any) -> str:
    """A YAML text as of ``yaml.safe_dump``, six times as fast."""
    return str(yaml.dump(value, Dumper=_DUMPER))


def read_yaml(text: str | bytes) -> Any:
    """Plain values of a YAML text, ten times as fast as ``yaml.safe_load``."""
    return yaml.load(text, Loader=_LOADER)


@pytest.fixture
def params(document: dict) -> Params:
    """Parameters for the tiny model."""
    return as_params(document)
