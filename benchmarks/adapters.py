"""Three adapters on one real vLLM: one of them moves while load runs on the other two.

    python -m benchmarks.adapters --root FOLDER --venv FOLDER [--prompts NUMBER] [--tokens NUMBER] [--dtype bf16]
        [--neighbours]

Needs a finished run with ``merge.form: adapter`` in ``--root``, vLLM's build for CPUs in ``--venv``
(`python -m stages.tools.vllm VERSION --cpu`), two cores and 10 GB of memory.

The adapter of the run is the server's own. Two more are copies of it with another ``lora_alpha``, so that they answer
otherwise; the stage `probe` says how each answers offline. A first server has the names that a promotion gives them.
While two threads keep asking ``support`` and ``writer``, a second server starts with another release of ``router``; the
load goes over to it, and the first server ends, as in a surge update. Prints a row for each check, and exits with 1
when one fails:

* no request failed, and the tokens of the other two adapters are the same before, during and after the move;
* ``router`` answers otherwise after it, and its name by digest is that of the release: the old one is unknown;
* every name reports its own folder, and the server's ``-base`` answers as none of the adapters;
* the check `neighbours` of `lockstep verify --beside` passes on the first server, which has fewer slots than names. It
  fails for each of ``FAULTS``, adapters with other bytes than those that were evaluated. It also fails for an adapter
  whose file was replaced while it was loaded. With ``--neighbours`` only this check
  runs, and no second server starts.

In bf16 (vLLM 0.32 on two cores) all checks passed but those of tokens under load: of 200 requests none was lost, and 2
of 8 prompts had other tokens at times, as had one adapter that was asked by both of its names. So the default is fp32.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import httpx

from benchmarks import tables
from checks.config import params_file
from checks.config.params import Params
from checks.config.release_params import Serve, ServedAdapter
from checks.formats.serving import LoadedAdapter, ProbeReport, ServingCheck
from checks.storage import digest, files, layout
from release import runtimes
from release.image import weights
from release.overlay import adapter_component
from release.runtimes import Runtime
from release.serving import processes
from release.serving.beside import BesideAdapter, BesideServer
from release.serving.client import Client
from release.serving.probes import neighbours
from release.serving.probes.context import ProbeContext
from release.serving.server import Server, unwinding
from stages import probe

_TITLE = "Three adapters on one vLLM"
OTHERS = ("support", "writer")
# By name: what lora_alpha of the run's adapter is multiplied with.
SCALES = {"support": 1.0, "router": 0.5, "writer": 0.25}
MOVED = -0.5  # of router's next release
SWAPPED = "swapped"  # It is the router, until the server loads it again.
# What is in the folder of an adapter that is judged as the router: other bytes than those that were evaluated.
FAULTS = {"stale": "moved", "another": "writer", "base": "none"}

_CONFIG = f"{layout.SHIPPED_ADAPTER}/adapter_config.json"

Answers = dict[tuple[str, int], tuple[str, ...]]
Messages = list[dict[str, str]]


def main() -> None:
    """Start both servers, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--neighbours", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lockstep-adapters-") as temporary, unwinding():
        good = _run(options, Path(temporary))
    sys.exit(0 if good else 1)


def _run(options: argparse.Namespace, temporary: Path) -> bool:
    params = params_file.load(options.root / layout.PARAMS)
    settings = {
        "name": "support",
        "dtype": options.dtype,
        "adapter": ServedAdapter(max_rank=16, most=3),
    }
    serve = params.serve.model_copy(update=settings)
    scales = SCALES | {"moved": MOVED, "none": 0.0, SWAPPED: SCALES["router"]}
    models = {name: scaled(options.root, temporary / name, scale) for name, scale in scales.items()}
    rows = params.serve.probes.model_copy(
        update={"rows": options.prompts, "max_new_tokens": options.tokens}
    )
    probed = params.model_copy(update={"serve": serve.model_copy(update={"probes": rows})})
    for name in ("router", "writer"):
        print(f"{name} offline: {probe.probe(probed, temporary / name)}", flush=True)
    probes = files.read_json(temporary / "router" / layout.PROBES, ProbeReport)
    prompts = [[message.model_dump() for message in asked.messages] for asked in probes.probes]
    others = (
        _beside(serve, "router", models["router"]),
        _beside(serve, "writer", models["writer"]),
    )
    old = _modules(models, {"router": "router", "writer": "writer"})
    new = _modules(models, {"router": "moved", "writer": "writer"})
    planted = {
        fault: others[0]._replace(names=(fault,), folder=models[model] / layout.SHIPPED_ADAPTER)
        for fault, model in {**FAULTS, SWAPPED: SWAPPED}.items()
    }
    swapped = planted.pop(SWAPPED)
    runtime = runtime_in(options.venv)

    began = time.monotonic()
    loaded = BesideServer("production", "support", serve, (), (*others, *planted.values(), swapped))
    with closing(
        processes.start(loaded.loaded(runtime, "process"), serve, models["support"])
    ) as first:
        wait_until_ready(first.url)
        first_up = time.monotonic() - began
        context = _context(params, serve, first, probes)
        verdicts = [_neighbours(context, *others)]
        verdicts += [_neighbours(context, adapter) for adapter in planted.values()]
        _answers(first.url, SWAPPED, prompts[:1], 1)
        shutil.copy(models["writer"] / _CONFIG, models[SWAPPED] / _CONFIG)
        reloaded = _neighbours(context, swapped, *others)
        found_by_neighbours = (
            ("neighbours", verdicts[0].status == "pass", verdicts[0].reason),
            *(
                (f"neighbours finds {fault}", check.status == "fail", check.reason)
                for fault, check in zip(FAULTS, verdicts[1:], strict=True)
            ),
            (
                f"neighbours finds {SWAPPED}",
                reloaded.reason.startswith(f"loaded again, {SWAPPED}: "),
                reloaded.reason,
            ),
        )
        good = shown("The check neighbours on one vLLM", found_by_neighbours)
        if options.neighbours:
            return good
        before = {
            name: _answers(first.url, name, prompts, options.tokens)
            for name in (*SCALES, "support-base")
        }
        load = _Load(first.url, prompts, options.tokens)
        began = time.monotonic()
        with (
            load.running(),
            closing(
                processes.start(with_modules(runtime, new), serve, models["support"])
            ) as second,
        ):
            wait_until_ready(second.url)
            second_up = time.monotonic() - began
            load.url = second.url
            time.sleep(10)
            first.terminate(60)
            load.end()
            after = {name: _answers(second.url, name, prompts, options.tokens) for name in SCALES}
            roots = _roots(second.url)
            unknown = _status(second.url, next(iter(old)), prompts[0])
            known = _answers(second.url, next(iter(new)), prompts, options.tokens)
    under_load = sum(
        load.answers[name, number] != {before[name][number]: load.total((name, number))}
        for name, number in load.answers
    )
    moved = _differing(after["router"], before["router"])
    apart = len({tuple(answers.items()) for answers in before.values()})
    folders = all(roots.get(name) == folder for name, folder in new.items())
    checks = (
        ("no request failed", not load.failures, f"{load.failures[:1] or load.count} requests"),
        (
            "the others' tokens under load",
            load.count > 0 and not under_load,
            f"{under_load} prompts differ",
        ),
        ("the others' tokens after it", all(after[name] == before[name] for name in OTHERS), ""),
        ("router answers otherwise", moved > 0, f"{moved} of {options.prompts} prompts differ"),
        ("by its digest as by its name", known == after["router"], next(iter(new))),
        ("the old digest is unknown", unknown == 404, f"status {unknown}"),
        ("each name reports its folder", folders, ", ".join(sorted(roots))),
        ("three adapters and the base differ", apart == len(before), f"{apart} answers"),
    )
    print(f"first server {first_up:.0f} s, second under load {second_up:.0f} s")
    return shown(_TITLE, checks) and good


def shown(title: str, checks: Sequence[tuple[str, bool, str]]) -> bool:
    """Print a row for each check, and return whether all passed."""
    rows = ((name, "pass" if good else "fail", what) for name, good, what in checks)
    tables.show(title, ("check", "", ""), rows)
    return all(good for _, good, _ in checks)


def scaled(run: Path, root: Path, scale: float) -> Path:
    """Copy what ships and what `probe` reads to ``root``, with an adapter that is ``scale`` times as strong."""
    for path in (layout.MERGED, layout.BASE, layout.SPLITS):
        shutil.copytree(run / path, root / path)
    folder = root / layout.MERGED
    path = folder / _CONFIG
    config = json.loads(path.read_bytes())
    path.write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] * scale}))
    return folder


def _modules(models: Mapping[str, Path], releases: Mapping[str, str]) -> dict[str, str]:
    """Return the folders by the names that a promotion gives the releases of projects beside the server's own."""
    modules = dict[str, str]()
    for name, release in releases.items():
        path = weights.place(name, digest.of_tree(models[release]).digest)
        adapter = str(models[release].resolve() / layout.SHIPPED_ADAPTER)
        modules |= dict.fromkeys(adapter_component.names(name, path), adapter)
    return modules


def _beside(serve: Serve, name: str, model: Path) -> BesideAdapter:
    """Return an adapter as `lockstep verify --beside` brings it."""
    probes = files.read_json(model.parents[1] / layout.PROBES, ProbeReport)
    loaded = LoadedAdapter(
        project=name, version="v1.0.0", model=probes.merged, probes=digest.of_json(probes.model_dump(mode="json"))
    )  # fmt: skip
    names = tuple(adapter_component.names(name, weights.place(name, probes.merged)))
    folder = model.resolve() / layout.SHIPPED_ADAPTER
    return BesideAdapter(
        loaded, serve.model_copy(update={"name": name}), folder, str(folder), names, probes
    )


def _context(params: Params, serve: Serve, server: Server, probes: ProbeReport) -> ProbeContext:
    return ProbeContext(
        client=Client(server.url), server=server, runtime=runtimes.load("vllm"), model=serve.name, serve=serve,
        probes=probes, rows=(), offline=(),
        scorer=params.evaluate.scorers[0], limit=params.evaluate.max_new_tokens,
    )  # fmt: skip


def _neighbours(context: ProbeContext, *adapters: BesideAdapter) -> ServingCheck:
    """Return what the check says of some of the adapters on the server."""
    context.beside = BesideServer("production", "support", context.serve, (), adapters)
    return neighbours.neighbours(context)


def runtime_in(venv: Path) -> Runtime:
    changes = {
        "package": "pip", "own_environment": None,
        "entrypoint": (str(venv.resolve() / "bin" / "vllm"), "serve"),
    }  # fmt: skip
    runtime = runtimes.load("vllm").model_copy(update=changes)
    return runtime.model_copy(
        update={
            "command": (*runtime.command, "--enforce-eager"),
            "environment": {**runtime.environment, "VLLM_CPU_KVCACHE_SPACE": "1"},
        }
    )


def with_modules(runtime: Runtime, modules: Mapping[str, str]) -> Runtime:
    """Return the runtime with more adapters behind the last argument, where a component puts them."""
    adapter = runtime.settings.adapter
    assert adapter is not None
    words = (*adapter.command, *(f"{name}={folder}" for name, folder in modules.items()))
    settings = runtime.settings.model_copy(
        update={"adapter": adapter.model_copy(update={"command": words})}
    )
    return runtime.model_copy(update={"settings": settings})


def wait_until_ready(url: str) -> None:
    """Return when the server is ready; fail after twenty minutes."""
    for _ in range(1200):
        try:
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    raise TimeoutError(f"{url}: not ready")


def _ask(url: str, model: str, messages: Messages, tokens: int) -> httpx.Response:
    body = {
        "model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "logprobs": True, "seed": 0,
    }  # fmt: skip
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300)


def _tokens(answer: httpx.Response) -> tuple[str, ...]:
    answer.raise_for_status()
    return tuple(token["token"] for token in answer.json()["choices"][0]["logprobs"]["content"])


def _answers(
    url: str, model: str, prompts: list[Messages], tokens: int
) -> dict[int, tuple[str, ...]]:
    return {
        number: _tokens(_ask(url, model, messages, tokens))
        for number, messages in enumerate(prompts)
    }


def _status(url: str, model: str, messages: Messages) -> int:
    return _ask(url, model, messages, 1).status_code


def _roots(url: str) -> dict[str, str]:
    models = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
    return {model["id"]: model["root"] for model in models}


def _differing(first: Mapping[int, object], second: Mapping[int, object]) -> int:
    return sum(first[number] != second[number] for number in first)


class _Load:
    """One thread for each of ``OTHERS`` that asks all prompts again and again, at the server that ``url`` names."""

    def __init__(self, url: str, prompts: list[Messages], tokens: int) -> None:
        self.url = url
        self.failures = list[str]()
        self.answers: dict[tuple[str, int], Counter[tuple[str, ...]]] = {}
        self._prompts, self._tokens = prompts, tokens
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(name,), daemon=True) for name in OTHERS
        ]

    @property
    def count(self) -> int:
        return sum(map(self.total, self.answers))

    def total(self, key: tuple[str, int]) -> int:
        return self.answers[key].total()

    def running(self) -> "closing[_Load]":
        for thread in self._threads:
            thread.start()
        return closing(self)

    def end(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        self.end()

    def _loop(self, name: str) -> None:
        while not self._ends.is_set():
            for number, messages in enumerate(self._prompts):
                try:
                    tokens = _tokens(_ask(self.url, name, messages, self._tokens))
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                self.answers.setdefault((name, number), Counter())[tokens] += 1


if __name__ == "__main__":
    main()
