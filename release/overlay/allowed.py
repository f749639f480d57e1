"""Rules for the fields that people may change. Each returns what is wrong with a value, or None. Pure functions."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from release.overlay.overlays import PREFIX

Rule = Callable[[Any], str | None]

# Tools that apply objects, or that write them again, and read from a label or annotation to leave one alone or to
# change it: `argocd.argoproj.io/hook: Skip`, `kustomize.toolkit.fluxcd.io/reconcile: disabled`, `keel.sh/policy`.
_TOOLS = ("argoproj.io", "fluxcd.io", "helm.sh", "kserve.io", "config.k8s.io", "config.kubernetes.io", "keel.sh")
_ORDER = "argocd.argoproj.io/sync-wave"  # when an object is applied, not whether
# Prefixes that no tool uses to change a pod. Others do: `instrumentation.opentelemetry.io/inject-python: "true"`
# puts code into the server, `sidecar.istio.io/inject` a container beside it.
_HARMLESS = ("app.kubernetes.io", "prometheus.io", "cluster-autoscaler.kubernetes.io", "karpenter.sh")
# Prefixes by which clouds set up the load balancer of a Service. By others tools give a Service or a route more names
# and addresses: `external-dns.alpha.kubernetes.io/hostname` could take the name of another environment.
_BALANCERS = ("service.beta.kubernetes.io", "cloud.google.com", "networking.gke.io")

_PERCENT = re.compile(r"[0-9]{1,3}%")


def group_and_kind(item: Mapping[str, Any]) -> tuple[str, str]:
    """The API group of an object, empty for the core's, and its kind."""
    group, slash, _ = str(item.get("apiVersion")).partition("/")
    return (group if slash else "", str(item.get("kind")))


def anything(_: Any) -> None:
    """Any value."""


def kind(*types: type) -> Rule:
    """A rule that accepts any value of one of these types."""
    return lambda value: None if type(value) in types else f"is {shown(value)}, of another type"


def one_of(*values: Any) -> Rule:
    """One of these values, of the same type: 1 does not count as True."""
    return lambda value: (
        None
        if any(type(value) is type(each) and value == each for each in values)
        else f"is {shown(value)}, allowed: {', '.join(map(str, values))}"
    )


def between(least: int, most: int) -> Rule:
    """A whole number within bounds, so that a rollout ends."""
    return lambda value: (
        None if type(value) is int and least <= value <= most else f"is {shown(value)}, allowed: {least} to {most}"
    )


def keys(needed: Mapping[str, str], *, server: bool) -> Rule:
    """Labels or annotations that include ``needed``. ``server``: they are of the server or its pods."""
    return _keys(needed, "change pods" if server else None, _HARMLESS)


def addressed() -> Rule:
    """Labels or annotations of a Service or a route, from which no tool takes another name or address."""
    return _keys({}, "send requests elsewhere", (*_HARMLESS, *_BALANCERS))


def _keys(needed: Mapping[str, str], tools: str | None, prefixes: tuple[str, ...]) -> Rule:
    """Labels or annotations that include ``needed``.

    ``tools``: what tools do by keys whose prefix is not one of ``prefixes``; None: every prefix is allowed.
    """

    def rule(value: Any) -> str | None:
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            return f"is {shown(value)}, which is not a mapping of texts"
        wrong = [key for key, each in needed.items() if value.get(key) != each]
        if wrong:
            return f"{wrong[0]} is {shown(value.get(wrong[0]))}, the release says {needed[wrong[0]]!r}"
        for key in (key for key in value if key not in needed):
            prefix, slash, _ = key.rpartition("/")
            if key.startswith(PREFIX):
                return f"{key}: only a promotion writes it"
            if _is_below(prefix, _TOOLS) and key != _ORDER:
                return f"{key}: a tool would leave the object as it is, or change it"
            if tools and slash and key != _ORDER and prefix not in prefixes:
                return f"{key}: tools {tools} by such keys; allowed prefixes: {', '.join(prefixes)}, or none"
        return None

    return rule


def rolls(value: Any) -> str | None:
    """A strategy that replaces old pods by new ones."""
    if value == {"type": "Recreate"}:
        return None
    if isinstance(value, dict) and value.keys() == {"type", "rollingUpdate"} and value["type"] == "RollingUpdate":
        counts = value["rollingUpdate"]
        if isinstance(counts, dict) and counts.keys() == {"maxSurge", "maxUnavailable"}:
            fine = all(_is_count(each) for each in counts.values())
            if fine and any(each not in (0, "0%") for each in counts.values()):
                return None
    return f"is {shown(value)}, which never replaces a pod"


def _is_count(value: Any) -> bool:
    return (type(value) is int and value >= 0) or (isinstance(value, str) and _PERCENT.fullmatch(value) is not None)


def _is_below(prefix: str, domains: tuple[str, ...]) -> bool:
    return any(prefix == each or prefix.endswith(f".{each}") for each in domains)


def shown(value: Any) -> str:
    """A value for a message: on one line, shortened."""
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:119]}…"
