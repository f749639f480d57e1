"""`lockstep gateway` beside nginx, LiteLLM's proxy and MLflow's gateway, before one server; and requests with faults.

In:  nothing. The server is a stand-in that answers after 5 ms, or streams 20 tokens 5 ms apart. Needs `.venv/bin/pip
     install -c constraints.txt -e '.[gateway]'`. nginx is measured where it is installed: one process that passes
     requests on and writes its access log. --litellm names the program `litellm` of another environment, because
     LiteLLM needs other versions of packages. --mlflow uses the pipeline's MLflow; its gateway records a trace of each
     request.
Out: a Markdown table. For whole answers and for streams: milliseconds of CPU of the proxy's processes for each request,
     and requests a second, 16 at once. Every side takes its turn in each round, the server alone too, and the best
     round counts: the machine may be busy. The gateway stores every request, redacted. For one request of 4 MiB that
     has a million parts: seconds of CPU until the proxy is idle again, the longest answer to other requests meanwhile,
     how much its memory grew, and how much of it is stored. Then how many requests with faults of the server got what
     they must.
Run: python -m benchmarks.gateway [--requests 2000] [--rounds 3] [--litellm FILE] [--mlflow] [--faults 10000]
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import requests
from aiohttp import web

from tests import mlflow_service
from tests.gateway_process import running
from tests.gateway_requests import CHAT, ask_all, mixed, wrong
from tests.model_standin import ModelStandIn
from tests.ports import unused_port

AT_ONCE = 16
PROMPT = {
    "role": "user",
    "content": "create a resource group in west europe and mail ada@mail.example.org",
}
_KEY = "sk-benchmark"
_NGINX = """daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 8m;
    location / {{ proxy_pass {url}; proxy_http_version 1.1; proxy_buffering off; }}
  }}
}}
"""
_WHOLE = json.dumps(
    {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "az group create"}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
    }
).encode()  # fmt: skip


class Side(NamedTuple):
    """What is measured: the server without a proxy, or one proxy. CPU time is that of ``pid`` and its children."""

    name: str
    url: str
    pid: int
    model: str = "m"


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litellm", type=Path)
    parser.add_argument("--mlflow", action="store_true")
    parser.add_argument("--faults", type=int, default=10000)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.serve)
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides = list(_sides(stack, Path(folder), given.litellm, given.mlflow))
        kinds = [(given.requests, False), (given.requests // 10, True)]
        rounds = [
            [[_measured(side, *kind) for kind in kinds] for side in sides]
            for _ in range(given.rounds)
        ]
        print(
            "| 16 at once; CPU ms a request, requests/s | whole answers | streams of 20 tokens | one request of 4 MiB |"
        )
        print("|---|---|---|---|")
        for number, side in enumerate(sides):
            cells = [
                (
                    min(each[number][kind][0] for each in rounds),
                    max(each[number][kind][1] for each in rounds),
                )
                for kind in range(len(kinds))
            ]
            speeds = " | ".join(f"{cpu:.2f} ms, {rate:,.0f}/s" for cpu, rate in cells)
            print(
                f"| {side.name} | {speeds} | {_large(side, cells[0][0], Path(folder) / 'captures')} |",
                flush=True,
            )
    if given.faults:
        _faults(given.faults)


def _sides(
    stack: contextlib.ExitStack, folder: Path, litellm: Path | None, mlflow: bool
) -> Iterator[Side]:
    port = unused_port()
    server = stack.enter_context(
        _process([sys.executable, "-m", "benchmarks.gateway", "--serve", str(port)])
    )
    url = f"http://127.0.0.1:{port}"
    _until(f"{url}/v1/models")
    yield Side("the server alone", url, server.pid)
    gateway = stack.enter_context(
        running(url, folder, "--captures", "captures", python=sys.executable)
    )
    yield Side("lockstep gateway", gateway.url, gateway.process.pid)
    if program := shutil.which("nginx"):
        port, config = unused_port(), folder / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, port=port, url=url))
        proxy = stack.enter_context(_process([program, "-p", str(folder), "-c", str(config)]))
        _until(f"http://127.0.0.1:{port}/v1/models")
        yield Side("nginx", f"http://127.0.0.1:{port}", proxy.pid)
    if litellm:
        config = folder / "litellm.yaml"
        settings = {"model": "openai/m", "api_base": f"{url}/v1", "api_key": "none"}
        config.write_text(
            json.dumps({"model_list": [{"model_name": "m", "litellm_params": settings}]})
        )
        port = unused_port()
        command = [
            str(litellm),
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        proxy = stack.enter_context(
            _process(command, LITELLM_MASTER_KEY=_KEY, LITELLM_TELEMETRY="False")
        )
        _until(f"http://127.0.0.1:{port}/health/liveliness")
        yield Side("LiteLLM's proxy", f"http://127.0.0.1:{port}", proxy.pid)
    if mlflow:
        port, store = unused_port(), f"sqlite:///{folder}/mlflow.db"
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        command += [
            "--backend-store-uri",
            store,
            "--artifacts-destination",
            str(folder / "artifacts"),
        ]
        traced = stack.enter_context(
            _process(command, **mlflow_service.QUIET, **mlflow_service.LOCAL_UPSTREAMS)
        )
        _until(f"http://127.0.0.1:{port}/health")
        yield Side(
            "MLflow's gateway",
            mlflow_service.add_endpoint(f"http://127.0.0.1:{port}", "m", url),
            traced.pid,
        )


def _measured(side: Side, number: int, streamed: bool) -> tuple[float, float]:
    """Milliseconds of CPU for each request, and requests a second."""
    asyncio.run(_ask(side, AT_ONCE, streamed))  # warm
    cpu, began = _cpu(side.pid), time.monotonic()
    asyncio.run(_ask(side, number, streamed))
    return (_cpu(side.pid) - cpu) / number * 1e3, number / (time.monotonic() - began)


async def _ask(side: Side, number: int, streamed: bool) -> None:
    body = {"model": side.model, "messages": [PROMPT], "stream": streamed}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as client:

        async def one() -> None:
            headers = {"Authorization": f"Bearer {_KEY}"}
            async with client.post(side.url + CHAT, json=body, headers=headers) as reply:
                data = await reply.read()
                assert reply.status == 200, (side.name, data[:300])

        await asyncio.gather(*(one() for _ in range(number)))


def _large(side: Side, usual: float, captures: Path) -> str:
    """What one request of 4 MiB with a million parts costs. ``usual``: ms of CPU of each of the other requests."""
    cpu, memory = _cpu(side.pid), _memory(side.pid)
    parts = b'{"model": "%s", "messages": [{"role": "user", "content": [' % side.model.encode()
    data = parts + b'"",' * (((4 << 20) - len(parts) - 8) // 3) + b'""]}]}'
    waits = asyncio.run(_beside(side, data))
    cpu += len(waits) * usual / 1e3
    latest = -1.0
    while (now := _cpu(side.pid)) > latest + 0.03:  # until it is idle
        latest = now
        time.sleep(1)
    grown = max(0, _memory(side.pid) - memory) >> 20
    kept = (
        f", {_stored(captures) / (1 << 20):.1f} MiB stored"
        if side.name == "lockstep gateway"
        else ""
    )
    seconds = max(0.0, _cpu(side.pid) - cpu)
    return f"{seconds:.1f} s of CPU, others wait {max(waits) * 1e3:.0f} ms at most, {grown} MiB more memory{kept}"


async def _beside(side: Side, data: bytes) -> list[float]:
    """The seconds of answers to other requests while ``data`` is answered, and for at least five seconds."""
    headers = {"Authorization": f"Bearer {_KEY}", "Content-Type": "application/json"}
    body = json.dumps({"model": side.model, "messages": [PROMPT]}).encode()
    async with aiohttp.ClientSession() as client:

        async def ask(sent: bytes) -> float:
            began = time.monotonic()
            async with client.post(side.url + CHAT, data=sent, headers=headers) as reply:
                await reply.read()
            return time.monotonic() - began

        await ask(body)
        large = asyncio.create_task(ask(data))
        waits, until = list[float](), time.monotonic() + 5
        while not large.done() or time.monotonic() < until:
            waits.append(await ask(body))
        await large
        return waits


def _stored(folder: Path) -> int:
    """The longest row."""
    rows = (row for path in folder.rglob("*.jsonl*") for row in path.read_bytes().split(b"\n"))
    return max(map(len, rows), default=0)


def _memory(pid: int) -> int:
    """The most bytes of memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _faults(number: int) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = stack.enter_context(ModelStandIn())
        gateway = stack.enter_context(
            running(
                model.url,
                folder,
                "--captures",
                "captures",
                "--deadline",
                "10",
                python=sys.executable,
            )
        )
        got = ask_all(gateway.url, mixed(number))
        dropped = gateway.total("lockstep_gateway_captures_dropped_total")
    faults = Counter(each.fault for each in got)
    bad = Counter((each.fault, problem) for each in got if (problem := wrong(each)))
    print(
        f"\n{number} requests, faults {dict(faults)}: wrong {dict(bad)}, captures dropped {dropped:.0f}"
    )


@contextlib.contextmanager
def _process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(
        command, env=os.environ | environment, start_new_session=True, **quiet
    ) as process:
        try:
            yield process
        finally:
            os.killpg(
                process.pid, signal.SIGKILL
            )  # MLflow's command starts another process, which serves


def _until(url: str) -> None:
    until = time.monotonic() + 180
    while time.monotonic() < until:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=9).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")


def _cpu(pid: int) -> float:
    """Seconds of CPU that a process and those that it started have used."""
    started = (each.read_text().split() for each in Path(f"/proc/{pid}/task").glob("*/children"))
    return _cpu_alone(pid) + sum(_cpu(int(child)) for children in started for child in children)


def _cpu_alone(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve(port: int) -> None:
    """The stand-in of a server, in a process of its own."""

    async def chat(request: web.Request) -> web.StreamResponse:
        if b'"stream": true' not in (await request.read())[:4096]:
            await asyncio.sleep(0.005)
            return web.Response(body=_WHOLE, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(21):
            delta, finish = ({"content": f"w{number} "}, None) if number < 20 else ({}, "stop")
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            chunk |= {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await asyncio.sleep(0.005)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "root": "/models/m-0123456789ab"}]})

    app = web.Application(client_max_size=8 << 20)
    app.add_routes([web.post(CHAT, chat), web.get("/v1/models", models)])
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main()
