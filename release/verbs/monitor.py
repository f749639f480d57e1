"""monitor: writes the rules, their tests and the dashboard of an environment, and runs them on this machine."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from checks.config import params_file
from checks.config.monitor import Monitor
from checks.process.errors import ServingRefused
from checks.process.text import redact
from checks.storage import files, layout, plain_yaml
from release.adapters.registry import addresses
from release.monitoring import component, local, releases, rules
from release.monitoring.gateway.options import ENVIRONMENT
from release.monitoring.objectives import Scope
from release.overlay import environment_file, kustomization, scaling
from release.runtimes import Metrics, lookup

HAND_OVER_PAGE = scaling.PAGE
_WRITTEN = re.compile(
    r"https?://(?:(?:[\w.~!$&'()*+,;=:-]|%[\da-f]{2})*@)?[\w.:\[\]-]+(?:[/?#](?:[!#$&-\[\]-~]|%[\da-f]{2})*)?",
    re.A | re.I,
)
_TARGET = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")


def write_rules(root: Path, environment: str, output: Path | None) -> tuple[Path, ...]:
    """Write the three files to ``output`` (default: reports/monitoring/ENV below ``root``); their paths.

    Raises ParamsRefused if there is no such environment, or an objective cannot be a rule.
    """
    return _write(output or root / layout.MONITORING / environment, *_settings(root, environment))


def write_component(root: Path, environment: str) -> tuple[Path, str | None]:
    """Write the kustomize component of ``environment``, and return its folder in release/environments.

    Also return the command to run before a scaler that it newly has is applied; None: there is no new one.

    Files there that the component no longer has are removed. Raises as ``write_rules``.
    """
    made = component.files(*_settings(root, environment))
    folder = root / layout.ENVIRONMENTS / environment / kustomization.MONITORING
    own = environment_file.path(environment)
    command = None
    if (
        component.SCALER in made
        and not (folder / component.SCALER).exists()
        and (root / own).is_file()
    ):
        namespace = environment_file.namespace(environment, {own: (root / own).read_bytes()})
        command = scaling.hand_over(namespace) if namespace else None
    with files.replacing_folder(folder) as fresh:
        for name, data in made.items():
            (fresh / name).write_bytes(data)
    return folder, command


def _settings(root: Path, environment: str) -> tuple[Scope, Monitor, Metrics | None]:
    params = params_file.load(root / layout.PARAMS)
    releases.check_known(params, environment)
    for key in ("scaling", "alerts", "gpus"):
        for name in getattr(params.monitor, key):
            releases.check_known(params, name, f"monitor.{key}: ")
    metrics = lookup.here(root, params.serve.runtime).metrics
    return Scope(params.serve.name, environment), params.monitor, metrics


def up(root: Path, options: local.LocalOptions, say: Callable[[str], None]) -> None:
    """Run Prometheus and Alertmanager with the rules until a signal comes; ``say`` gets a line now and then.

    Raises ServingRefused for options that cannot be, ParamsRefused as ``write_rules``, MachineRefused as ``local.run``.
    """
    known = ENVIRONMENT.fullmatch(options.environment)
    for is_wrong, what, todo in (
        (not known, f"--environment: {options.environment!r}", "name that of the gateway"),
        *(
            (
                not _TARGET.fullmatch(target), f"TARGET: {redact(target)!r} is no HOST:PORT",
                "name where /metrics is, without a path",
            )
            for target in (*options.targets, *options.servers)
        ),
        (
            options.webhook is not None and not _is_address(options.webhook), "--webhook: is no address",
            "write it as https://HOST/PATH",
        ),
        (
            options.port == options.alertmanager_port,
            f"--alertmanager-port: {options.port} is the port of Prometheus", "choose another",
        ),
    ):  # fmt: skip
        if is_wrong:
            raise ServingRefused(what, todo)
    folder = (root / layout.LOCAL_MONITOR).resolve()
    params = params_file.load(root / layout.PARAMS)
    scope = Scope(params.serve.name, options.environment)
    metrics = lookup.here(root, params.serve.runtime).metrics if options.servers else None
    _write(folder, scope, params.monitor, metrics)
    local.run(folder, scope, options, say)


def _is_address(text: str) -> bool:
    """Whether Alertmanager takes it too: of an address that it cannot read, it would print the secret part."""
    return _WRITTEN.fullmatch(text) is not None and addresses.http_parts(text) is not None


def _write(
    folder: Path, scope: Scope, monitor: Monitor, metrics: Metrics | None
) -> tuple[Path, ...]:
    texts = {
        rules.RULES: plain_yaml.dump(rules.rules(scope, monitor, metrics)),
        "rules_test.yaml": plain_yaml.dump(rules.tests(scope, monitor, metrics)),
        "dashboard.json": json.dumps(rules.dashboard(scope, monitor, metrics), indent=2) + "\n",
    }
    for name, text in texts.items():
        files.write_text(folder / name, text)
    return tuple(folder / name for name in texts)
