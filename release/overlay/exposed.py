"""Routes of the Gateway API by which clients outside a cluster reach an environment's gateway. Pure functions.

A route leads to the gateway alone, where API keys are asked for. It may give a share of the requests to the gateway of
another environment, as a canary: that environment's ReferenceGrant agrees, and its gateway counts and captures them as
requests to the environment that has the route.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from release.overlay import gateway
from release.overlay.allowed import group_and_kind, shown
from release.overlay.overlays import LABEL

GROUP = "gateway.networking.k8s.io"
_NOWHERE = "lockstep.invalid"  # the component's host, which a patch replaces
_ROUTE = {"hostnames", "parentRefs", "rules"}
_RULE = {"name", "matches", "timeouts", "backendRefs"}  # filters change requests, copy them or send them elsewhere
_BACKEND = {"group", "kind", "name", "namespace", "port", "weight"}


def failures(
    environment: str,
    objects: Sequence[Mapping[str, Any]],
    namespace: str,
    others: Mapping[str, str] | None,
    build: Callable[[str], Sequence[Mapping[str, Any]] | str],
) -> Iterator[str]:
    """What is wrong with the routes and grants among ``objects``, all that ``environment`` builds to.

    Also compares for which environment its gateway counts requests, and refuses a Service that leads past the gateway.

    ``others``: the namespaces of the other environments, by their names. None: which they are is not compared, so that
    another environment blocks no rollback. ``build`` gives the objects of another environment, or why they are not
    known; it is called if ``environment`` has a route.
    """
    settings = gateway.variables_of(objects)
    if any(map(gateway.is_one, objects)):
        yield from _past_the_gateway(objects)
    if others is not None:
        yield from _shared_hosts(objects, others, build)
    granted = set()
    for item in objects:
        spec = item.get("spec")
        spec = spec if isinstance(spec, dict) else {}
        if group_and_kind(item) == (GROUP, "ReferenceGrant"):
            granted |= {str(each.get("namespace")) for each in _dicts(spec, "from")}
            found = _grant(spec, others)
        elif group_and_kind(item) == (GROUP, "HTTPRoute"):
            found = _route(spec, settings, namespace, others)
        else:
            continue
        yield from (f"{item['kind']} {item['metadata'].get('name')}: {failure}" for failure in found)
    counted = settings.get(gateway.ENVIRONMENT, environment)
    if counted != environment and others is not None and others.get(counted) not in granted:
        yield (
            f"ConfigMap gateway: {gateway.ENVIRONMENT} is {shown(counted)}: only a gateway that another environment's "
            f"route leads to, by a ReferenceGrant, counts for it: write {gateway.ENVIRONMENT}={environment}"
        )


def _past_the_gateway(objects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Services by which clients outside of the cluster would reach the server itself, where no API key is asked for."""
    for item in objects:
        if group_and_kind(item) != ("", "Service") or item["spec"]["selector"].get(LABEL) == gateway.NAME:
            continue
        kind = item["spec"].get("type")
        if kind not in (None, "ClusterIP"):
            yield (
                f"Service {item['metadata'].get('name')}: spec.type: is {shown(kind)}, which would lead past the "
                f"gateway: set the type of the Service {gateway.NAME}"
            )


def _shared_hosts(
    objects: Sequence[Mapping[str, Any]],
    others: Mapping[str, str],
    build: Callable[[str], Sequence[Mapping[str, Any]] | str],
) -> Iterator[str]:
    """Host names of routes that another environment has too: both would get the requests of either."""
    own = _hosts(objects)
    for other in others if own else ():
        built = build(other)
        if isinstance(built, str):
            yield f"HTTPRoute: spec.hostnames: cannot be compared with those of {other}: {built}"
            continue
        for name, host in own:
            for _, taken in _hosts(built):
                if _covers(host, taken) or _covers(taken, host):
                    yield (
                        f"HTTPRoute {name}: spec.hostnames: {host} overlaps with {taken} of {other}: give each "
                        "environment hosts of its own"
                    )


def _hosts(objects: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The name of each route, with each of its hosts."""
    routes = [item for item in objects if group_and_kind(item) == (GROUP, "HTTPRoute")]
    return [
        (str(item["metadata"].get("name")), str(host).lower())
        for item in routes
        if isinstance(item.get("spec"), dict) and isinstance(item["spec"].get("hostnames"), list)
        for host in item["spec"]["hostnames"]
    ]


def _covers(host: str, other: str) -> bool:
    """Whether ``other`` is ``host``, or a name below the wildcard ``host``."""
    return host == other or (host.startswith("*.") and other.endswith(host[1:]))


def _route(
    spec: Mapping[str, Any], settings: Mapping[str, str], namespace: str, others: Mapping[str, str] | None
) -> Iterator[str]:
    if not settings.get("LOCKSTEP_GATEWAY_KEYS"):
        yield (
            f"everyone who knows the host could ask: name {gateway.COMPONENT}, with LOCKSTEP_GATEWAY_KEYS="
            "/etc/lockstep/keys in its settings"
        )
    for key in sorted(spec.keys() - _ROUTE):
        yield f"spec.{key}: a route has {', '.join(sorted(_ROUTE))}, and nothing else"
    hosts = spec.get("hostnames")
    if not isinstance(hosts, list) or not hosts or any(str(host).endswith(_NOWHERE) for host in hosts):
        yield f"spec.hostnames: is {shown(hosts)}: name the host that clients ask, by a patch of the environment"
    parents = spec.get("parentRefs")
    if not isinstance(parents, list) or not parents or not all(map(_is_listener, parents)):
        yield "spec.parentRefs: name a Gateway and, as sectionName, its listener with TLS: keys are sent over it"
    rules = _dicts(spec, "rules")
    if not rules or len(rules) != len(spec["rules"]):
        yield "spec.rules: lead nowhere: keep the component's"
    for number, rule in enumerate(rules):
        for problem in _rule(rule, namespace, others):
            yield f"spec.rules.{number}.{problem}"


def _is_listener(parent: object) -> bool:
    return (
        isinstance(parent, dict)
        and parent.get("group", GROUP) == GROUP
        and parent.get("kind", "Gateway") == "Gateway"
        and bool(parent.get("sectionName"))
    )


def _rule(rule: Mapping[str, Any], namespace: str, others: Mapping[str, str] | None) -> Iterator[str]:
    for key in sorted(rule.keys() - _RULE):
        yield f"{key}: would change requests or send them elsewhere; allowed: {', '.join(sorted(_RULE))}"
    backends, weights = rule.get("backendRefs"), {True: 0, False: 0}
    for each in backends if isinstance(backends, list) else []:
        home = each.get("namespace", namespace) if isinstance(each, dict) else None
        if not _is_gateway(each) or (others is not None and home not in (namespace, *others.values())):
            yield (
                f"backendRefs: {shown(each)}: leads elsewhere than to the Service {gateway.NAME} of this environment "
                "or another"
            )
            return
        weights[home == namespace] += each.get("weight", 1)
    if weights[True] == 0 or weights[True] < weights[False]:
        yield "backendRefs: weight: at least half of the requests go to this environment's own release"


def _is_gateway(backend: object) -> bool:
    return (
        isinstance(backend, dict)
        and backend.keys() <= _BACKEND
        and (backend.get("group", ""), backend.get("kind", "Service")) == ("", "Service")
        and backend.get("name") == gateway.NAME
        and type(weight := backend.get("weight", 1)) is int
        and weight >= 0
    )


def _grant(spec: Mapping[str, Any], others: Mapping[str, str] | None) -> Iterator[str]:
    """What is wrong with a ReferenceGrant, which lets the route of another environment lead here."""
    wanted = {"group": GROUP, "kind": "HTTPRoute"}
    allowed = None if others is None else [[{**wanted, "namespace": each}] for each in others.values()]
    if allowed is not None and spec.get("from") not in allowed:
        yield f"spec.from: is {shown(spec.get('from'))}: name HTTPRoute of {GROUP}, and another environment's namespace"
    if spec.get("to") != [{"group": "", "kind": "Service", "name": gateway.NAME}]:
        yield f"spec.to: is {shown(spec.get('to'))}: name the Service {gateway.NAME} alone"


def _dicts(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
