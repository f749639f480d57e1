"""Runs a gateway until SIGTERM or SIGINT: then it takes no more connections, ends what it has, and closes its files.

SIGHUP reads the file of keys again.
"""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from aiohttp import web

from checks.process.errors import MachineRefused, Refusal
from release.monitoring.gateway import sessions
from release.monitoring.gateway.app import Gateway
from release.monitoring.gateway.connections import Connections, most_connections
from release.monitoring.gateway.metrics import Metrics
from release.monitoring.gateway.options import GatewaySettings
from release.monitoring.gateway.store import CaptureWriter
from release.monitoring.gateway.upstreams import Upstreams

_FLUSH = 10.0  # seconds for the last rows, and for the last files to reach an object store
_CUT = 1.0  # seconds in which requests that are cut get their answer
_MOST_PRIVATE = 64  # connections of probes and Prometheus
_HALF = 64 << 20  # bytes of bodies that are not whole

Say = Callable[[str], None]


def run(settings: GatewaySettings, say: Say) -> None:
    """Serve until a signal comes. Raises MachineRefused if a port is taken or the folder cannot be written."""
    asyncio.run(_serve(settings, say))


async def _serve(settings: GatewaySettings, say: Say) -> None:
    most = most_connections(settings.max_concurrent)
    metrics = Metrics(settings)
    store = _store(settings, metrics, say)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(
        lambda _, context: say(_failure(context["message"], context.get("exception")))
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(sessions.sending())
        asking = await stack.enter_async_context(sessions.asking())
        upstreams = Upstreams(
            asking, settings.upstreams, settings.release, settings.weights, settings.stall, say
        )
        gateway = Gateway(settings, session, upstreams, metrics, store, say)
        stack.push_async_callback(asyncio.to_thread, metrics.stop)
        loop.add_signal_handler(signal.SIGHUP, _read_keys, gateway, say)
        if store:
            stack.push_async_callback(asyncio.to_thread, store.stop, _FLUSH)
        watching = asyncio.create_task(upstreams.watch())
        stack.callback(watching.cancel)

        def failed(status: int, error: BaseException | None) -> web.Response:
            if status >= 500:
                say(_failure("a bug", error))
            return gateway.failed(status)

        private = Connections(gateway.private, failed, _MOST_PRIVATE)
        public = Connections(gateway.public, failed, most, max(_HALF, 2 * settings.max_body))
        await _listen(stack, private, settings.host, settings.metrics_port)
        site = await _listen(stack, public, settings.host, settings.port)
        say(
            f"gateway: http://{settings.host}:{settings.port}/v1 before {', '.join(settings.upstreams)}; "
            f"metrics at http://{settings.host}:{settings.metrics_port}/metrics"
        )
        stopping = asyncio.create_task(ended.wait())
        await asyncio.wait({stopping, watching}, return_when=asyncio.FIRST_COMPLETED)
        gateway.ending = True
        say("gateway: ending: no more connections are taken")
        await site.stop()
        public.close_idle()
        if watching.done():
            watching.result()
        await gateway.drain(settings.drain)


def _read_keys(gateway: Gateway, say: Say) -> None:
    try:
        number = gateway.read_keys()
    except Refusal as refusal:
        say(f"gateway: the keys stay as they were: {refusal}")
    else:
        say(f"gateway: {number} keys" if number else "gateway: there is no file of keys")


def _failure(what: str, error: BaseException | None) -> str:
    """Return what broke here and where. The message is left out: it may have what a client sent."""
    at = error.__traceback__ if error else None
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f" in {at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else ""
    return f"gateway: {what}: {type(error).__name__}{place}"


def _store(settings: GatewaySettings, metrics: Metrics, say: Say) -> CaptureWriter | None:
    if settings.captures is None:
        return None
    url = settings.captures if "://" in settings.captures else None
    folder = settings.spool if url else settings.spool / settings.captures
    store = CaptureWriter(
        folder,
        settings.environment,
        settings.sample,
        metrics.count,
        say,
        url,
        settings.user_secret,
    )
    try:
        store.start()
    except OSError as error:
        raise MachineRefused(
            f"{folder}: captures cannot be written: {error.strerror or error}",
            "name another folder",
        ) from error
    return store


async def _listen(
    stack: AsyncExitStack, connections: Connections, host: str, port: int
) -> web.TCPSite:
    runner = web.ServerRunner(connections, shutdown_timeout=_CUT)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, host, port, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        with suppress(OSError):
            await runner.cleanup()
        raise MachineRefused(
            f"{host}:{port}: {error.strerror or error}", "choose another port"
        ) from error
    return site
