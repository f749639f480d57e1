"""Two canaries between adapters on one real vLLM: a worse adapter is rolled back, and an equally good one stays.

    python -m benchmarks.adapter_canary --root FOLDER --venv FOLDER [--requests NUMBER] [--margin SHARE]

Needs what `benchmarks.adapters` needs. One server has the adapters ``support``, ``router``, ``writer`` and a canary of
the last two. All are the run's adapter; ``lora_alpha`` differs a little, so that each is a release of its own. That of
the router's canary is 0, so that it answers as the base. Before it runs `lockstep gateway` with
``--canary router=50 --canary writer=50``, and gets prompts of the test split for both names, eight at a time, while
other threads ask ``support``. Each prompt's label is its reference. The decisions are those of `lockstep canary`, as if
a day had passed since. Prints a row for each check, and exits with 1 when one fails.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from benchmarks import adapters
from checks.config import params_file
from checks.config.params import Params
from checks.config.release_params import ServedAdapter
from checks.formats.rollout_report import RolloutReport
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.monitoring import canary
from release.monitoring.releases import Sides, short
from release.monitoring.store import CaptureStore, Label
from release.overlay.adapter_component import CANARY
from release.serving import processes
from release.serving.server import unwinding

# By name: what lora_alpha of the run's adapter is multiplied with.
SCALES = {
    "support": 1.0, "router": 1.001, "writer": 0.999, f"router{CANARY}": 0.0, f"writer{CANARY}": 0.998,
}  # fmt: skip
ENVIRONMENT = "production"


def main() -> None:
    """Start the server and the gateway, ask, decide, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=500, help="for each of the two names")
    parser.add_argument("--margin", type=float, default=0.2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lockstep-canary-") as temporary, unwinding():
        good = _run(options, Path(temporary))
    sys.exit(0 if good else 1)


def _run(options: argparse.Namespace, temporary: Path) -> bool:
    params = params_file.load(options.root / layout.PARAMS)
    served = {
        "name": "support", "dtype": "bf16", "adapter": ServedAdapter(max_rank=16, most=len(SCALES)),
    }  # fmt: skip
    monitor = params.monitor.model_copy(update={"margin": options.margin})
    serve = params.serve.model_copy(update=served)
    params = params.model_copy(update={"serve": serve, "monitor": monitor})
    models = {
        name: adapters.scaled(options.root, temporary / name, scale)
        for name, scale in SCALES.items()
    }
    releases = {name: digest.of_tree(model).digest for name, model in models.items()}
    modules = dict[str, str]()
    for name, model in models.items():
        # The gateway reads the release from the folder's name.
        place = temporary / f"{name}-{short(releases[name])}"
        model.rename(place)
        if name != "support":
            modules[name] = str(place / layout.SHIPPED_ADAPTER)
    rows = files.read_jsonl(options.root / layout.SPLITS / "test.jsonl", Row)[: options.requests]
    runtime = adapters.with_modules(adapters.runtime_in(options.venv), modules)
    store = CaptureStore(str(temporary / layout.CAPTURES))
    place = temporary / f"support-{short(releases['support'])}"
    with (
        closing(processes.start(runtime, serve, place)) as server,
        _gateway(server.url, temporary) as gateway,
    ):
        adapters.wait_until_ready(server.url)
        began = time.monotonic()
        statuses = _ask(gateway, rows, serve.probes.max_new_tokens)
        seconds = time.monotonic() - began
    store.add(
        [
            Label(request_id=f"{name}-{row.id}", label=row.reference)
            for name in ("router", "writer")
            for row in rows
        ]
    )
    worse, good = (_decided(params, store, releases, name) for name in ("router", "writer"))
    answered = Counter(
        (request.model, request.release)
        for request in store.requests(ENVIRONMENT, _long_ago(), _later())
    )
    expected = {(name, short(release)) for name, release in releases.items()}
    checks = (
        ("no request failed", set(statuses) == {200}, f"{statuses} in {seconds:.0f} s"),
        ("captures name the adapter that answered", set(answered) == expected, _shares(answered)),
        ("the worse adapter", worse.decision == "roll back", _said(worse)),
        ("the good adapter", good.decision != "roll back", _said(good)),
    )
    return adapters.shown("Two canaries on one vLLM", checks)


def _decided(
    params: Params, store: CaptureStore, releases: dict[str, str], name: str
) -> RolloutReport:
    named = params.model_copy(update={"serve": params.serve.model_copy(update={"name": name})})
    sides = Sides(short(releases[name]), short(releases[f"{name}{CANARY}"]), None)
    report = canary.look(named, ENVIRONMENT, sides, store, _long_ago(), _later())
    assert report is not None
    return report


def _later() -> datetime:
    return datetime.now(UTC) + timedelta(days=2)


def _long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(days=2)


def _said(report: RolloutReport) -> str:
    reasons = "; ".join(
        f"{finding.name}: {finding.status}: {finding.reason}" for finding in report.findings
    )
    return f"{report.decision}: {report.pairs} pairs, {report.labelled} with labels: {reasons}"


def _shares(answered: Counter[Any]) -> str:
    return ", ".join(f"{name} {count}" for (name, _), count in sorted(answered.items(), key=str))


@contextmanager
def _gateway(upstream: str, folder: Path) -> Iterator[str]:
    port, probes = processes.free_port(), processes.free_port()
    command = [
        sys.executable, "-m", "release.cli", "-C", str(folder), "gateway", upstream, "--port", str(port),
        "--metrics-port", str(probes), "--environment", ENVIRONMENT, "--captures", str(folder / layout.CAPTURES),
        "--canary", "router=50", "--canary", "writer=50",
    ]  # fmt: skip
    gateway = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        gateway.terminate()
        gateway.wait()


def _ask(gateway: str, rows: Sequence[Row], tokens: int) -> Counter[int]:
    """Ask every prompt of both names, and a fifth of them of ``support``. Return how often each status came."""
    for _ in range(600):  # The gateway must have seen the server generate.
        if _post(gateway, "support", rows[0], 1, "ready") == 200:
            break
        time.sleep(1)
    asked = [
        (name, row)
        for number, row in enumerate(rows)
        for name in ("router", "writer", *(["support"] if number % 5 == 0 else []))
    ]
    with ThreadPoolExecutor(8) as pool:
        return Counter(
            pool.map(
                lambda pair: _post(gateway, pair[0], pair[1], tokens, f"{pair[0]}-{pair[1].id}"),
                asked,
            )
        )


def _post(gateway: str, name: str, row: Row, tokens: int, request_id: str) -> int:
    body = {
        "model": name, "messages": [message.model_dump() for message in row.messages], "max_tokens": tokens,
        "temperature": 0,
    }  # fmt: skip
    headers = {"X-Request-Id": request_id}
    return httpx.post(
        f"{gateway}/v1/chat/completions", json=body, headers=headers, timeout=600
    ).status_code


if __name__ == "__main__":
    main()
