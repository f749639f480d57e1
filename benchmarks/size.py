"""What does a model of 7 or 70 billion parameters take, step by step, from the merge to the pull?

    python -m benchmarks.size [--billions 7] [--layers N]
    python -m benchmarks.size --billions 70 --layers 1

In:  nothing; a base of the shape of Llama 2 (bf16, zeros, in sparse files) and a random LoRA of rank 16 on all its
     linear layers, in a temporary directory. Disk: twice the merged model, 27 GB for 7 billion parameters. With fewer
     ``--layers`` than the model has, the first column says by how much the figures are to be multiplied.
Out: a Markdown table: seconds, processor seconds, bytes read and written, and the most anonymous memory (RssAnon) of
     one process a step. The registry is a stand-in that checks the digest of each layer and does not keep it. For a
     pull it makes the bytes again from the merged files. No model is loaded: neither parity nor answers are computed.
"""

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from benchmarks import build, processes, tables
from checks.config import params_file
from checks.formats.serving import ImageReport
from checks.formats.training_reports import ParityReport
from checks.storage import digest, files, layout
from checks.storage.digest import FileDigest
from release.image import weights
from release.image.weights import Layer
from tests import build_tree
from tests import promotion_tree as tree
from tests.http_standin import Handler, StandIn
from tests.ledger_tree import CLEAN, keep
from tests.release.serving.test_verify_evidence import probed

RANK, VOCABULARY, KEPT = 16, 32_000, 1 << 22
_TIMED = """
import json, os, resource, sys, time
from pathlib import Path
from release.cli import main
root, command = Path(sys.argv[1]), sys.argv[2:]
begun = time.perf_counter()
{}
seconds = time.perf_counter() - begun
used = resource.getrusage(resource.RUSAGE_SELF)
counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
print()
print(json.dumps([seconds, used.ru_utime + used.ru_stime, int(counts["rchar"]), int(counts["wchar"])]))
"""
_MERGE = """
from stages import merge
base, adapter = root.parent / "base", root.parent / "adapter"
merge.merge_weights(base, adapter, root / "models/merged", 2 * 10**9)
"""
_LOCKSTEP = 'main(["-C", str(root), *command], standalone_mode=False)'
_PULL = """
from checks.formats.serving import ImageReport
from checks.storage import files, layout
from release.adapters.registry import reference
from release.image import stores
from release.serving import weights
report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
store = stores.open_store(reference.parse(f"{report.place}@{report.image}"), root)
with weights.unpacked(root, store, report):
    pass
"""


class Shape(NamedTuple):
    """The sizes of a Llama 2."""

    layers: int
    hidden: int
    inner: int
    keys: int  # rows of the projections to keys and to values

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one block: name to rows and columns."""
        hidden, inner, keys = self.hidden, self.inner, self.keys
        return {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        }  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and shape of every tensor."""
        for name in ("lm_head", "model.embed_tokens"):
            yield f"{name}.weight", (VOCABULARY, self.hidden)
        yield "model.norm.weight", (self.hidden,)
        for layer in range(self.layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield f"model.layers.{layer}.{norm}.weight", (self.hidden,)
            for linear, size in self.linears.items():
                yield f"model.layers.{layer}.{linear}.weight", size

    @property
    def size(self) -> int:
        """Bytes in bf16."""
        return 2 * sum(math.prod(size) for _, size in self.tensors())


SHAPES = {7: Shape(32, 4096, 11_008, 4096), 70: Shape(80, 8192, 28_672, 1024)}


class Registry(StandIn):
    """A registry that keeps manifests and small blobs. ``layers`` are those that it makes again for a pull."""

    def __init__(self) -> None:
        super().__init__(_Requests)
        self.blobs = dict[str, bytes]()
        self.sizes = dict[str, int]()
        self.manifests = dict[str, tuple[str, bytes]]()
        self.uploads = dict[str, tuple[str, int, bytes]]()
        self.layers = dict[str, Layer]()
        self.received = self.sent = 0


class _Requests(Handler):
    protocol_version = "HTTP/1.1"
    server: Registry

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def serve(self) -> None:
        registry, url = self.server, urlsplit(self.path)
        *_, kind, name = ["", "", *url.path.strip("/").split("/")]
        if "uploads" in (kind, name):
            kind = "uploads"
        if kind == "uploads":
            self._upload(name, parse_qs(url.query))
        elif kind == "manifests" and self.command == "PUT":
            data = self.body()
            found = digest.of_bytes(data)
            kept = (self.headers["Content-Type"], data)
            registry.manifests |= {name: kept, found: kept}
            self.reply(201, headers={"Docker-Content-Digest": found})
        elif kind == "manifests" and name in registry.manifests:
            media_type, data = registry.manifests[name]
            found = digest.of_bytes(data)
            self.reply(200, data, {"Content-Type": media_type, "Docker-Content-Digest": found})
        elif kind == "blobs" and name in registry.sizes:
            self._blob(name)
        else:
            self.reply(200 if name == "v2" else 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def _upload(self, name: str, query: Mapping[str, list[str]]) -> None:
        registry = self.server
        if self.command == "POST":
            place = f"{urlsplit(self.path).path.rstrip('/')}/{len(registry.uploads)}"
            registry.uploads[str(len(registry.uploads))] = ("", 0, b"")
            self.reply(202, headers={"Location": f"{registry.url}{place}"})
        elif self.command == "PATCH":
            hashed, left, kept = hashlib.sha256(), int(self.headers["Content-Length"]), b""
            size = left
            while left:
                block = self.rfile.read(min(left, 1 << 20))
                hashed.update(block)
                left -= len(block)
                kept += block if size <= KEPT else b""
            registry.received += size
            registry.uploads[name] = (f"sha256:{hashed.hexdigest()}", size, kept)
            self.reply(202, headers={"Location": f"{registry.url}{self.path}"})
        else:
            found, size, kept = registry.uploads.pop(name)
            if self.command == "PUT" and query["digest"] == [found]:
                registry.sizes[found] = size
                registry.blobs[found] = kept
                self.reply(201, headers={"Docker-Content-Digest": found})
            else:
                self.reply(204 if self.command == "DELETE" else 400)

    def _blob(self, name: str) -> None:
        registry = self.server
        size = registry.sizes[name]
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.send_header("Docker-Content-Digest", name)
        self.end_headers()
        if self.command == "GET":
            blocks = registry.layers[name].tar.blocks() if size > KEPT else [registry.blobs[name]]
            for block in blocks:
                self.wfile.write(block)
                registry.sent += len(block)


def main() -> None:
    """Make the base, take every step in a process of its own, print."""
    options = tables.numbers(__doc__, billions=7, layers=0)
    shape = SHAPES[options.billions]
    used = shape._replace(layers=options.layers or shape.layers)
    times = shape.size / used.size
    os.environ.update(CLEAN)
    columns = ("step", "seconds", "CPU s", "GB read", "GB written", "peak MB")
    with tempfile.TemporaryDirectory(prefix="lockstep-size-") as name, Registry() as registry:
        title = f"{used.size / 1e9:.2f} GB, of {options.billions} billion parameters 1/{times:.1f}"
        tables.show(title, columns, _steps(Path(name, "work"), used, registry))


def _steps(root: Path, shape: Shape, registry: Registry) -> Iterator[tuple[object, ...]]:
    tree.prepare(root, lambda plain: plain["gates"].pop("fits_the_budget"))
    for path in (root / layout.MERGED).glob("*.safetensors*"):
        path.unlink()
    base, adapter = root.parent / "base", root.parent / "adapter"
    _make(base, adapter, shape)
    # The base is mapped, which /proc does not count.
    yield _step("merge", registry, root, _MERGE, mapped=shape.size)
    shutil.rmtree(base)
    build.record(root)
    params = params_file.load(root / layout.PARAMS)
    build_tree.judge(root, params)
    probed(root, params)
    keep(root, "record")
    image = f"{registry.host}/bench/router"
    yield _step("build --push", registry, root, _LOCKSTEP, "build", "--push", image)
    report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    described = files.read_json(root / layout.PARITY_REPORT, ParityReport).files
    found = {name: FileDigest(file.sha256, file.size) for name, file in described.items()}
    layers = weights.arranged(root / layout.MERGED, found, report.model, params.serve.name)
    registry.layers = dict(zip((layer.digest for layer in report.layers), layers, strict=True))
    tree.served(root, report)
    key = str(tree.key(root, "ada"))
    yield _step("sign", registry, root, _LOCKSTEP, "sign", "--key", key)
    yield _step("promote", registry, root, _LOCKSTEP, "promote", "staging", "--why", "a benchmark")
    yield _step("pull and check, as verify does", registry, root, _PULL)


def _step(
    name: str, registry: Registry, root: Path, work: str, *command: str, mapped: int = 0
) -> tuple[object, ...]:
    received, sent = registry.received, registry.sent
    took = processes.run(
        [sys.executable, "-c", _TIMED.format(work), str(root), *command], "RssAnon"
    )
    seconds, processor, read, written = json.loads(took.output.splitlines()[-1])
    read += mapped + registry.sent - sent
    written += registry.received - received
    return (
        name, f"{seconds:.1f}", f"{processor:.1f}", f"{read / 1e9:.2f}", f"{written / 1e9:.2f}",
        f"{took.peak / 1e6:.0f}",
    )  # fmt: skip


def _make(base: Path, adapter: Path, shape: Shape) -> None:
    """Write the base without its zeros, and the adapter."""
    import torch
    from safetensors.torch import save_file

    from stages.weights import lora, shards

    base.mkdir()
    adapter.mkdir()
    config = {"tie_word_embeddings": False, "vocab_size": VOCABULARY}
    (base / "config.json").write_text(json.dumps(config))
    plan = shards.plan(
        [shards.Tensor(name, "BF16", size, 2 * math.prod(size)) for name, size in shape.tensors()],
        2 * 10**9,
    )
    files.write_json(base / shards.INDEX, shards.index(plan))
    for shard in plan:
        offset, entries = 0, dict[str, object]()
        for tensor in shard.tensors:
            ends = [offset, offset + tensor.nbytes]
            entries[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": ends}
            offset += tensor.nbytes
        head = json.dumps(entries).encode()
        head += b" " * (-len(head) % 8)
        with (base / shard.file).open("wb") as stream:
            stream.write(len(head).to_bytes(8, "little") + head)
            stream.truncate(8 + len(head) + offset)
    torch.manual_seed(17)
    parts = dict[str, torch.Tensor]()
    for layer in range(shape.layers):
        for linear, (rows, columns) in shape.linears.items():
            name = f"base_model.model.model.layers.{layer}.{linear}"
            parts[f"{name}.lora_A.weight"] = torch.randn(RANK, columns)
            parts[f"{name}.lora_B.weight"] = torch.randn(rows, RANK)
    save_file(parts, adapter / lora.WEIGHTS)
    targets = [linear.rpartition(".")[2] for linear in shape.linears]
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK}
    (adapter / lora.CONFIG).write_text(json.dumps(settings | {"target_modules": targets}))


if __name__ == "__main__":
    main()
