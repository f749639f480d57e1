"""The fetch stage: pinned sources to models/base, data/raw and the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.formats.data_reports import FetchReport
from checks.process.errors import MachineRefused, SourceRefused
from checks.storage import digest, files, layout
from stages.fetch import fetch
from stages.weights import base_model, gguf
from tests import spoil
from tests.conftest import CHAT_TEMPLATE, REPOSITORY, as_params
from tests.stages.sources.test_sources import BIG, sha256
from tests.web import Web

pytestmark = pytest.mark.slow


def manifest(folder: Path) -> str:
    return digest.of_tree(folder).digest.removeprefix("sha256:")


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder whose weights nobody reads here."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture
def document(document: dict, tmp_path: Path, model: Path) -> dict[str, Any]:
    """Parameters whose sources are the local model and one file of rows."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    document["base"] |= {"uri": "model", "sha256": manifest(model)}
    document["data"] |= {"uri": "rows.jsonl", "sha256": sha256(b"{}\n")}
    return document


def run(document: dict[str, Any], root: Path) -> str:
    return fetch(as_params(document), root)


def outputs(root: Path) -> list[str]:
    """Everything that fetch could leave where other stages look."""
    return [str(p) for p in (layout.BASE, layout.RAW, layout.FETCH_REPORT) if (root / p).exists()]


def test_both_sources_become_outputs_and_a_report(document: dict, tmp_path: Path, tiny_base: Path) -> None:
    document["base"] |= {"uri": str(tiny_base), "sha256": manifest(tiny_base)}
    (tmp_path / "rows/ü b").mkdir(parents=True)
    (tmp_path / "rows/ü b/c.csv").write_text("a,b\n")
    (tmp_path / "rows/d.csv").write_text("a,b\n")
    document["data"] |= {"uri": "rows", "sha256": manifest(tmp_path / "rows")}
    line = run(document, tmp_path)
    base, raw = digest.of_tree(tmp_path / layout.BASE), digest.of_tree(tmp_path / layout.RAW)
    assert list(raw.files) == ["d.csv", "ü b/c.csv"]
    assert base.files.items() <= digest.of_tree(tiny_base).files.items()
    report = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
    assert (report.base.sha256, report.base.digest) == (manifest(tiny_base), base.digest)
    assert (report.data.sha256, report.data.digest) == (manifest(tmp_path / "rows"), raw.digest)
    assert (report.data.uri, report.data.size, report.data.files) == ("rows", 8, 2)
    assert line == (
        f"base {len(base.files)} files, {base.size / 1e6:,.1f} MB, tree {base.digest}; "
        f"data 2 files, 0.0 MB, tree {raw.digest}"
    )


def test_one_file_is_told_in_the_singular(document: dict, tmp_path: Path) -> None:
    assert "; data 1 file, 0.0 MB, tree sha256:" in run(document, tmp_path)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("Apache-2.0", ""),
        ("MIT", "; base declares the licence 'apache-2.0', params.yaml states MIT"),
        (None, "; base declares the licence 'apache-2.0', params.yaml states nothing"),
    ],
)
def test_the_report_keeps_what_is_stated_and_declared_and_the_line_says_where_they_differ(
    document: dict, tmp_path: Path, model: Path, stated: str | None, said: str
) -> None:
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    document["base"] |= {"sha256": manifest(model), "license": stated}
    document["data"]["license"] = "MIT"
    line = run(document, tmp_path)
    report = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
    assert (report.base.license, report.base.declared) == (stated, "apache-2.0")
    assert (report.data.license, report.data.declared) == ("MIT", None)
    assert line.endswith(f"{digest.of_tree(tmp_path / layout.RAW).digest}{said}")


def test_outputs_are_replaced_as_a_whole(document: dict, tmp_path: Path) -> None:
    for stale in (layout.BASE / "old.safetensors", layout.RAW / "old/rows", Path("models/.base.new/x")):
        (tmp_path / stale).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / stale).write_text("stale")
    run(document, tmp_path)
    assert names(tmp_path / "data") == ["raw/rows.jsonl"]
    assert "base/old.safetensors" not in names(tmp_path / "models")
    assert all(name.startswith("base/") for name in names(tmp_path / "models"))
    first = names(tmp_path)
    run(document, tmp_path)
    assert names(tmp_path) == first


@pytest.mark.parametrize("section", ["base", "data"])
def test_a_refusal_leaves_no_output_of_an_earlier_run(document: dict, tmp_path: Path, section: str) -> None:
    run(document, tmp_path)
    document[section]["sha256"] = "0" * 64
    with pytest.raises(SourceRefused, match=f"params.yaml: {section}.sha256"):
        run(document, tmp_path)
    assert outputs(tmp_path) == []
    assert names(tmp_path / "models") == names(tmp_path / "data") == []


def test_the_report_hides_a_urls_secrets(document: dict, tmp_path: Path) -> None:
    with Web() as web:
        web.content["/rows.jsonl"] = b"{}\n"
        document["data"]["uri"] = web.url.replace("//", "//me:password@") + "/rows.jsonl?sig=signature"
        run(document, tmp_path)
        report = files.read_json(tmp_path / layout.FETCH_REPORT, FetchReport)
        assert report.data.uri == f"{web.url}/rows.jsonl?sig=***"
    assert (tmp_path / layout.RAW / "rows.jsonl").read_bytes() == b"{}\n"


@pytest.mark.parametrize("uri", [".", "data", "data/raw", "models/base/model.safetensors", ".lockstep/downloads"])
def test_a_source_among_the_outputs_is_refused_and_not_removed(document: dict, tmp_path: Path, uri: str) -> None:
    run(document, tmp_path)
    before = names(tmp_path)
    document["data"]["uri"] = uri
    with pytest.raises(SourceRefused, match=r"overlaps .*, which fetch replaces; move the source"):
        run(document, tmp_path)
    assert names(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_refused(document: dict, tmp_path: Path) -> None:
    (tmp_path / layout.STATE).write_text("a file where a folder belongs")
    with pytest.raises(MachineRefused, match=r"\.lockstep.*; free the disk or grant access"):
        run(document, tmp_path)


def test_a_source_that_changes_while_it_is_copied_is_refused(
    document: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def change_and_copy(source: Path, target: Path) -> None:
        source.write_bytes(source.read_bytes() + b" ")
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", change_and_copy)
    with pytest.raises(SourceRefused, match=r"base.uri: .* changed while it was copied; let nothing write to it"):
        run(document, tmp_path)
    assert outputs(tmp_path) == []


# --- the base model --------------------------------------------------------------------------------------------------


def test_only_what_later_stages_read_is_copied(document: dict, tmp_path: Path, model: Path) -> None:
    kept = ["LICENSE", "NOTICE", "README.md", "generation_config.json", "merges.txt", "tokenizer.model"]
    for name in [
        *kept,
        "pytorch_model.bin",
        "tokenizer_code.py",
        "optimizer.pt",
        "onnx/model.onnx",
        "other.safetensors",
    ]:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("x")
    document["base"]["sha256"] = manifest(model)
    run(document, tmp_path)
    always = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert names(tmp_path / layout.BASE) == sorted(kept + always)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (lambda model: (model / "model.safetensors").rename(model / "pytorch_model.bin"), r"has its weights as pickle \(pytorch_model.bin\)"),
        (spoil.remove("model.safetensors"), "holds neither model.safetensors nor one .gguf"),
        (spoil.remove("config.json"), "config.json: No such file"),
        (spoil.write("config.json", "{"), "config.json: is not JSON"),
        (spoil.write("config.json", "[]"), "config.json: is not a JSON object"),
        (spoil.write("config.json", '{"auto_map": {"AutoModel": "code.Model"}}'), "runs code of its own"),
        (spoil.write("tokenizer_config.json", '{"auto_map": {}}'), "runs code of its own"),
        (spoil.remove("tokenizer.json"), "holds no tokenizer"),
        (spoil.write("model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}'), "b.safetensors, which is absent"),
        (spoil.write("model.safetensors.index.json", '{"weight_map": {"a": "../b.safetensors"}}'), "no usable weight_map"),
        (spoil.write("model.safetensors.index.json", "{}"), "no usable weight_map"),
    ],
)  # fmt: skip
def test_an_unusable_model_is_refused(document: dict, tmp_path: Path, model: Path, fault: Any, problem: str) -> None:
    fault(model)
    document["base"]["sha256"] = manifest(model)
    with pytest.raises(SourceRefused, match=rf"^params.yaml: base.uri: model: .*{problem}"):
        run(document, tmp_path)
    assert outputs(tmp_path) == []


def test_a_chat_template_inside_the_tokenizers_settings_counts(model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    (tmp_path / "out").mkdir()
    base_model.copy(model, tmp_path / "out", "model")
    assert "tokenizer_config.json" in names(tmp_path / "out")


def test_a_file_that_is_not_gguf_is_refused_as_a_base(document: dict, tmp_path: Path) -> None:
    document["base"] = document["data"]
    with pytest.raises(SourceRefused, match=r"base.uri: rows.jsonl is a file, but not GGUF"):
        run(document, tmp_path)


def test_several_gguf_files_are_refused_until_one_is_named(document: dict, tmp_path: Path) -> None:
    (tmp_path / "ggufs").mkdir()
    for name in ("q4.gguf", "q8.gguf"):
        (tmp_path / "ggufs" / name).write_bytes(b"GGUF")
    document["base"] |= {"uri": "ggufs", "sha256": manifest(tmp_path / "ggufs")}
    with pytest.raises(SourceRefused, match=r"holds 2 .gguf files; name one of them in the URI, such as q4.gguf"):
        run(document, tmp_path)


def test_a_damaged_gguf_is_refused(document: dict, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(100))
    document["base"] |= {"uri": "a.gguf", "sha256": sha256(b"GGUF" + bytes(100))}
    with pytest.raises(
        SourceRefused, match=r"base.uri: a.gguf: transformers cannot read this GGUF: .*; use the model's"
    ):
        run(document, tmp_path)
    assert outputs(tmp_path) == []


def write_gguf(source: Path, target: Path, template: str | None) -> None:
    """A Llama in safetensors to GGUF as llama.cpp writes it: Q8_0 matrices, q and k rows in its own order."""
    import gguf as writer
    import numpy as np
    from transformers import AutoConfig, AutoModelForCausalLM

    config, model = AutoConfig.from_pretrained(source), AutoModelForCausalLM.from_pretrained(source)
    bpe = json.loads((source / "tokenizer.json").read_text())["model"]
    out = writer.GGUFWriter(target, "llama")
    out.add_name("Tiny")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10000.0)
    out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(sorted(bpe["vocab"], key=bpe["vocab"].__getitem__))
    out.add_token_types([3 if token < 3 else 1 for token in range(config.vocab_size)])
    out.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    if template:
        out.add_chat_template(template)
    renamed = writer.get_tensor_name_map(writer.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        value = weight.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = value.reshape(heads, 2, value.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(value.shape)
        kind = writer.GGMLQuantizationType.Q8_0 if value.ndim == 2 else writer.GGMLQuantizationType.F32
        place = renamed.get_name(name, try_suffixes=(".weight",))
        out.add_tensor(f"{place}", writer.quantize(np.ascontiguousarray(value), kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def dense_tensors(path: Path, heads: int, kv_heads: int) -> dict[str, Any]:
    """A GGUF file's tensors by llama.cpp's own package: de-quantised, and in the order of transformers' rows."""
    import gguf as reader

    tensors = {}
    for tensor in reader.GGUFReader(path).tensors:
        value = reader.dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            count = heads if ".attn_q." in tensor.name else kv_heads
            value = value.reshape(count, value.shape[0] // count // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)
        tensors[tensor.name] = value
    return tensors


def assert_dense(folder: Path, source: Path) -> int:
    """The written safetensors are the file's weights, rounded once to bfloat16; return how many were compared."""
    import gguf as reader
    import torch
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    written = load_file(folder / "model.safetensors")
    expected = dense_tensors(source, config["num_attention_heads"], config["num_key_value_heads"])
    renamed = reader.get_tensor_name_map(reader.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in written.items():
        value = expected[f"{renamed.get_name(name, try_suffixes=('.weight',))}"]
        assert weight.dtype == torch.bfloat16, name
        assert torch.equal(weight, torch.tensor(value, dtype=torch.float32).to(torch.bfloat16)), name
    return len(written)


def test_gguf_becomes_dense_safetensors_with_tokenizer_and_template(
    document: dict, tmp_path: Path, tiny_base: Path
) -> None:
    from transformers import AutoTokenizer

    write_gguf(tiny_base, tmp_path / "tiny.gguf", CHAT_TEMPLATE)
    document["base"] |= {"uri": "tiny.gguf", "sha256": sha256((tmp_path / "tiny.gguf").read_bytes())}
    run(document, tmp_path)
    base = tmp_path / layout.BASE
    assert assert_dense(base, tmp_path / "tiny.gguf") == 21
    assert not {"_model_name_or_path", "_name_or_path"} & set(json.loads((base / "config.json").read_text()))
    assert len({path.stat().st_mode for path in base.iterdir()}) == 1
    ours, original = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(tiny_base)
    chat = [{"role": "user", "content": "show the queue"}]
    assert ours.apply_chat_template(chat, tokenize=False) == original.apply_chat_template(chat, tokenize=False)
    assert ours("show the queue").input_ids == original("show the queue").input_ids
    first = digest.of_tree(base).digest
    run(document, tmp_path)
    assert digest.of_tree(base).digest == first


def test_gguf_without_a_chat_template_is_refused(document: dict, tmp_path: Path, tiny_base: Path) -> None:
    write_gguf(tiny_base, tmp_path / "tiny.gguf", None)
    document["base"] |= {"uri": "tiny.gguf", "sha256": sha256((tmp_path / "tiny.gguf").read_bytes())}
    with pytest.raises(SourceRefused, match=r"tiny.gguf: has no chat template; .* to chatml or hermes or plain"):
        run(document, tmp_path)
    assert outputs(tmp_path) == []


def test_a_machine_without_transformers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MachineRefused, match=r"transformers is not installed; pip install "):
        gguf.convert(tmp_path / "a.gguf", tmp_path, "a.gguf")


def test_weights_that_stayed_quantised_are_refused() -> None:
    import torch

    weights = {"norm": torch.ones(2), "packed": torch.ones(2, dtype=torch.uint8)}
    with pytest.raises(SourceRefused, match=r"base: 1 weights stayed quantised, such as packed; use the model's"):
        gguf.refuse_packed(weights, "base")


# --- runs that are killed, and runs at once --------------------------------------------------------------------------


def start(document: dict[str, Any], root: Path) -> "subprocess.Popen[str]":
    (root / layout.PARAMS).write_text(yaml.safe_dump(document, sort_keys=False))
    return subprocess.Popen(
        [sys.executable, "-m", "stages.fetch"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def test_a_killed_run_leaves_nothing_that_passes_for_complete_and_the_next_goes_on(
    document: dict, tmp_path: Path
) -> None:
    with Web() as web:
        web.content["/rows"], web.stall_after = BIG, 7_000_000
        document["data"] |= {"uri": f"{web.url}/rows", "sha256": sha256(BIG)}
        process = start(document, tmp_path)
        partial = tmp_path / layout.DOWNLOADS / f"{sha256(BIG)}.part/partial"
        until = time.monotonic() + 30
        while time.monotonic() < until and sum(p.stat().st_size for p in partial.glob("*")) < 5_000_000:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert outputs(tmp_path) == []
        assert not (tmp_path / layout.DOWNLOADS / sha256(BIG)).exists()
        web.heal()
        web.asked.clear()
        assert finish(start(document, tmp_path)).splitlines()[-1].startswith("fetch: base 5 files")
        assert all(wanted and not wanted.startswith("bytes=0-") for _, wanted in web.asked)
    assert (tmp_path / layout.RAW / "rows").read_bytes() == BIG


def test_of_two_runs_at_once_one_downloads_and_the_other_is_refused(document: dict, tmp_path: Path) -> None:
    with Web() as web:
        web.content["/rows"], web.stall_after = BIG, 1_000_000
        document["data"] |= {"uri": f"{web.url}/rows", "sha256": sha256(BIG)}
        first, second = start(document, tmp_path), start(document, tmp_path)
        # The download stalls until the other run has ended, however late that began.
        until = time.monotonic() + 30
        while time.monotonic() < until and (web.sent < 1_000_000 or first.poll() == second.poll()):
            time.sleep(0.05)
        web.heal()
        ended = [process.communicate(timeout=60)[1].splitlines()[-1] for process in (first, second)]
        assert sorted(process.returncode for process in (first, second)) == [0, MachineRefused.exit_code]
        assert any("another process runs this stage" in line for line in ended)
        assert web.sent < 1.5 * len(BIG)
    assert (tmp_path / layout.RAW / "rows").read_bytes() == BIG


def test_two_projects_below_one_cache_download_their_base_once(
    document: dict, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top/.dvc").mkdir(parents=True)
    projects = [tmp_path / "top" / name for name in ("router", "writer")]
    rows = str(tmp_path / "rows.jsonl")
    with Web() as web:
        monkeypatch.setenv("HF_ENDPOINT", web.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        web.repositories["models/org/base"] = {path.name: path.read_bytes() for path in model.iterdir()}
        document["base"] |= {"uri": "hf://org/base@v1"}
        document["data"] |= {"uri": rows}
        for project in projects:
            project.mkdir()
            finish(start(document, project))
        weights = [path for path, _ in web.asked if path.endswith("model.safetensors")]
        assert len(weights) == 1
    router, writer = (manifest(project / layout.BASE) for project in projects)
    assert router == writer
    store = tmp_path / "top" / layout.DOWNLOADS
    assert (store / ".gitignore").read_text() == "*\n"
    assert [project for project in projects if (project / layout.DOWNLOADS).exists()] == []


def test_the_stage_refuses_with_its_exit_code_and_one_line(document: dict, tmp_path: Path) -> None:
    document["data"]["sha256"] = None
    process = start(document, tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == SourceRefused.exit_code
    assert said == (
        f"fetch: params.yaml: data.sha256: rows.jsonl is not pinned; pin it: sha256: {sha256(b'{}' + bytes([10]))}\n"
    )
