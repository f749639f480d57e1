"""Runs a gateway until SIGTERM or SIGINT: then it takes no more connections, ends what it has, and closes its files."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from checks.errors import MachineRefused
from release.monitoring.gateway import forward
from release.monitoring.gateway.app import Gateway
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.settings import Settings
from release.monitoring.gateway.store import Store
from release.monitoring.gateway.upstreams import Upstreams

_FLUSH = 10.0  # seconds for the last rows, and for the last files to reach an object store


def run(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until a signal comes. Raises MachineRefused if a port is taken or the folder cannot be written."""
    asyncio.run(_serve(settings, say))


async def _serve(settings: Settings, say: Callable[[str], None]) -> None:
    metrics = Metrics(settings)
    store = _store(settings, metrics, say)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(forward.session())
        upstreams = Upstreams(session, settings.upstreams, settings.release)
        gateway = Gateway(settings, session, upstreams, metrics, store)
        if store:
            stack.push_async_callback(asyncio.to_thread, store.stop, _FLUSH)
        watching = asyncio.create_task(upstreams.watch())
        stack.callback(watching.cancel)
        await _listen(stack, gateway.private(), settings.host, settings.metrics_port, 1.0)
        await _listen(stack, gateway.public(), settings.host, settings.port, settings.drain)
        say(
            f"gateway: http://{settings.host}:{settings.port}/v1 before {', '.join(settings.upstreams)}; "
            f"metrics at http://{settings.host}:{settings.metrics_port}/metrics"
        )
        stopping = asyncio.create_task(ended.wait())
        await asyncio.wait({stopping, watching}, return_when=asyncio.FIRST_COMPLETED)
        gateway.ending = True
        say("gateway: ending: no more connections are taken")
        if watching.done():
            watching.result()


def _store(settings: Settings, metrics: Metrics, say: Callable[[str], None]) -> Store | None:
    if settings.captures is None:
        return None
    url = settings.captures if "://" in settings.captures else None
    folder = settings.spool if url else settings.spool / settings.captures
    store = Store(folder, settings.environment, settings.sample, metrics.dropped, metrics.stored, say, url)
    try:
        store.start()
    except OSError as error:
        raise MachineRefused(
            f"{folder}: captures cannot be written: {error.strerror or error}", "name another folder"
        ) from error
    return store


async def _listen(stack: AsyncExitStack, application: web.Application, host: str, port: int, drain: float) -> None:
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=drain,
        keepalive_timeout=75,
    )  # fmt: skip
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
    except OSError as error:
        with suppress(OSError):
            await runner.cleanup()
        raise MachineRefused(f"{host}:{port}: {error.strerror or error}", "choose another port") from error
