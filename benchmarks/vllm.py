"""A real vLLM on a processor, held to the default model by the checks of `lockstep verify`.

    python -m benchmarks.vllm [--root FOLDER] [--venv FOLDER] [--checks NAME ...]
        [--prefix-caching] [--speculate TOKENS [--draft FOLDER]] [--fault NAME]

Needs a finished run in ``--root``, two cores and 6 GB of memory. Without ``--venv`` it makes an
environment of its own in a temporary folder, as `python -m stages.tools.vllm VERSION --cpu` does. That takes about
100 s, and starting vLLM 100 s, too long for the tests.

Prints a row for each check. Exits with 1 when one fails. ``--prefix-caching`` and ``--speculate`` turn these settings
of ``serve`` on. The cache then has blocks of 32 tokens: a block of 128, as in vLLM's build for CPUs, is longer than the
prompts, and nothing would be found in it. ``--draft`` names a model with the same tokenizer. It is copied beside the
weights, as ``merge.draft`` is, and guesses the tokens.

``--fault`` plants a fault that deployments have in a copy of what is served, and exits with 1 when no check finds it.
Of a run with ``merge.form: adapter``, ``base`` asks for vLLM's own name of the base, and ``scale`` halves the adapter's
lora_alpha.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, get_args

from benchmarks import tables
from checks.config import params_file
from checks.config.params import Params
from checks.config.release_params import Speculation
from checks.formats.serving import CheckName, ProbeReport, ServingCheck
from checks.process.errors import ServingRefused
from checks.records.rows import Prediction, Row
from checks.storage import files, layout
from release import runtimes
from release.runtimes import Runtime
from release.serving import examine, processes
from release.serving.client import Client
from release.serving.probes.context import ProbeContext
from release.serving.server import unwinding
from stages.tools import vllm

VERSION = "0.32.0"
OTHER_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
FAULTS = ("template", "first-token", "base", "cache", "scale")


def main() -> None:
    """Install if need be, start, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--prefix-caching", action="store_true")
    parser.add_argument("--speculate", type=int, metavar="TOKENS")
    parser.add_argument("--draft", type=Path, metavar="FOLDER")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--checks", nargs="+", metavar="NAME", choices=get_args(CheckName))
    options = parser.parse_args()
    if options.draft and not options.speculate:
        parser.error("--draft needs --speculate TOKENS")
    with tempfile.TemporaryDirectory(prefix="lockstep-vllm-") as temporary, unwinding():
        home = options.venv or Path(temporary) / "venv"
        if not (home / "bin" / "vllm").exists():
            began = time.monotonic()
            vllm.make(home, VERSION, cpu=True)
            print(f"installed in {time.monotonic() - began:.0f} s")
        good = _run(options.root, home, Path(temporary), options)
    sys.exit(0 if good else 1)


def _with_settings(
    params: Params, runtime: Runtime, options: argparse.Namespace
) -> tuple[Params, Runtime]:
    """``serve`` and the runtime with the settings that are tried."""
    if options.prefix_caching:
        runtime = runtime.model_copy(update={"command": (*runtime.command, "--block-size=32")})
    kind: Literal["ngram", "draft"] = "draft" if options.draft else "ngram"
    settings = {
        "prefix_caching": options.prefix_caching or None,
        "speculation": Speculation(kind=kind, tokens=options.speculate)
        if options.speculate
        else None,
    }
    return params.model_copy(update={"serve": params.serve.model_copy(update=settings)}), runtime


def _run(root: Path, home: Path, temporary: Path, options: argparse.Namespace) -> bool:
    params = params_file.load(root / layout.PARAMS)
    probes = files.read_json(root / layout.PROBES, ProbeReport)
    runtime = runtimes.load("vllm").model_copy(
        update={
            "package": "pip",
            "own_environment": None,
            "entrypoint": (str(home.resolve() / "bin" / "vllm"), "serve"),
        }
    )
    params, runtime = _with_settings(params, runtime, options)
    ships = root / layout.MERGED
    if options.fault:
        ships = shutil.copytree(ships, temporary / "faulty")
        runtime = _plant(options.fault, ships, root / layout.BASE, runtime)
    if options.draft:
        ships = shutil.copytree(ships, temporary / "drafting")
        shutil.copytree(options.draft, ships / layout.DRAFT)
    try:
        checks = _asked(root, ships, runtime, params, probes, options.checks)
    except ServingRefused as refused:
        print(f"the server did not start: {refused.what}")
        return bool(options.fault)
    tables.show(
        "A real vLLM",
        ("check", "", ""),
        ((check.name, check.status, check.reason) for check in checks),
    )
    failed = any(check.status == "fail" for check in checks)
    return failed if options.fault else not failed


def _plant(fault: str, folder: Path, base: Path, runtime: Runtime) -> Runtime:
    """Spoil the weights in ``folder``, or return the runtime with the setting that spoils the answers."""
    template = folder / "chat_template.jinja"
    if fault == "template":
        template.write_text(OTHER_TEMPLATE)
    elif fault == "first-token":
        first = json.loads((folder / "tokenizer_config.json").read_text())["bos_token"]
        lost = f"{{% filter replace({first!r}, '', 1) %}}{template.read_text()}{{% endfilter %}}"
        template.write_text(lost)
    elif fault == "scale":
        path = folder / layout.SHIPPED_ADAPTER / "adapter_config.json"
        config = json.loads(path.read_bytes())
        path.write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] / 2}))
    elif (
        fault == "base"
        and (adapter := runtime.settings.adapter)
        and (folder / layout.SHIPPED_ADAPTER).exists()
    ):
        of_base = adapter.model_copy(update={"model_field": "{name}-base"})
        return runtime.model_copy(
            update={"settings": runtime.settings.model_copy(update={"adapter": of_base})}
        )
    elif fault == "base":
        for path in folder.glob("model*"):
            path.unlink()
        for path in base.glob("model*"):
            shutil.copyfile(path, folder / path.name)
    else:
        return runtime.model_copy(update={"command": (*runtime.command, "--kv-cache-dtype=fp8")})
    return runtime


def _asked(
    root: Path,
    folder: Path,
    runtime: Runtime,
    params: Params,
    probes: ProbeReport,
    only: Sequence[CheckName] | None,
) -> tuple[ServingCheck, ...]:
    """The checks of one server that is started for them; ``only`` those of these names."""
    began = time.monotonic()
    known = examine.CHECKS
    with (
        closing(processes.start(runtime, params.serve, folder)) as server,
        closing(Client(server.url)) as client,
    ):
        context = ProbeContext(
            client=client,
            server=server,
            runtime=runtime,
            model=runtimes.fill(runtime, params.serve, server.model).model_field,
            serve=params.serve,
            probes=probes,
            rows=files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row),
            offline=files.read_jsonl(root / layout.PREDICTIONS / "candidate.jsonl", Prediction),
            scorer=params.evaluate.scorers[0],
            limit=params.evaluate.max_new_tokens,
        )
        try:
            examine.CHECKS = {
                name: check for name, check in known.items() if only is None or name in only
            }
            found = examine.examine(context, began)
        finally:
            examine.CHECKS = known
    return found


if __name__ == "__main__":
    main()
