"""gateway: stands before a model's server, passes requests on, and stores a redacted sample of them."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from checks.process import distribution
from checks.process.errors import MachineRefused, ServingRefused
from release.monitoring.gateway import options as gateway_options


def gateway(root: Path, options: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``say`` gets a line now and then. ``options``: see ``gateway.options.read``.

    Raises ServingRefused for options that cannot be, MachineRefused if a package is missing, a port is taken or the
    captures cannot be written.
    """
    settings = gateway_options.read(root, options)
    if settings.otlp is not None:
        exporter = "opentelemetry.exporter.otlp.proto.http.metric_exporter"
        _installed(exporter, "gateway,otel", "--otlp: ")
    run = installed()
    if settings.captures and "://" in settings.captures:
        _has_file_system(settings.captures)
    run.run(settings, say)


def installed() -> ModuleType:
    """Return the module that runs a gateway. Raises MachineRefused if a package that it needs is missing."""
    return _installed("release.monitoring.gateway.run", "gateway", "")


def _installed(module: str, extra: str, needed_for: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        what = f"{needed_for}the package {error.name} is not installed"
        raise MachineRefused(what, distribution.install(extra)) from error


def _has_file_system(url: str) -> None:
    """Refuse before anything starts if fsspec, or its package for this kind of store, is missing."""
    kind = url.partition("://")[0]
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(kind)
    except ImportError as error:
        kind = kind.replace("gcs", "gs")
        extra = f"gateway,{kind}" if kind in ("s3", "gs") else "gateway"
        raise MachineRefused(
            f"{kind}://: a package is missing", distribution.install(extra)
        ) from error
    except ValueError as error:
        raise ServingRefused(
            f"--captures: {url}: no such kind of store", "name a folder, s3://… or gs://…"
        ) from error
