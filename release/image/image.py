"""The config and manifest of an image: those of the base plus the weights (OCI image specification 1.1).

Pure functions. The result does not depend on the machine, the user or the time.
"""

import posixpath
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from checks.data import licenses
from checks.process.errors import BuildRefused
from checks.storage import digest
from release.adapters.registry.documents import CONFIG, LAYER, MANIFEST, Descriptor
from release.image.base import Base
from release.runtimes import Filled, Runtime

if TYPE_CHECKING:
    from checks.config.params import Params

OCI = "org.opencontainers.image."
# What a layer holds, for people. Not OCI's title: oras and others write a blob to a file of that name, and a layer is a
# tar, which `model.safetensors` is not. Images built before this had it; they are recognised by the second.
LAYER_NAMES = ("lockstep.layer", f"{OCI}title")


class About(NamedTuple):
    """The model's digest, the folder of its weights, and the commit of its record with its time."""

    model: str
    path: str
    evidence: str  # digest of reports/verdict.json
    commit: str
    created: datetime


class Added(NamedTuple):
    """One layer of the weights. It is uncompressed, so its digest is also its diff_id."""

    digest: str
    size: int
    title: str


def version(model: str) -> str:
    """The short name of a model: the first 12 hex digits of its digest."""
    return model.removeprefix("sha256:")[:12]


def annotations(
    about: About, params: "Params", runtime: Runtime, base: Base | None
) -> dict[str, str]:
    """Labels of the config and annotations of the manifest: OCI's keys, and those of this tool."""
    labels = {
        f"{OCI}title": params.serve.name,
        f"{OCI}version": version(about.model),
        f"{OCI}revision": about.commit,
        f"{OCI}created": _time(about.created),
        f"{OCI}source": params.serve.source,
        f"{OCI}licenses": spdx(params),
        # The name of a local folder would make the image's digest depend on it.
        f"{OCI}base.name": str(base.reference._replace(digest=None))
        if base and base.reference.host
        else None,
        f"{OCI}base.digest": base.image.manifest if base else None,
        "lockstep.model": about.model,
        "lockstep.evidence": about.evidence,
        "lockstep.runtime": runtime.name,
        "lockstep.server": None if base else params.serve.server,
        "lockstep.runtime.file": runtime.file,
    }
    return {key: value for key, value in sorted(labels.items()) if value is not None}


def spdx(params: "Params") -> str | None:
    """The SPDX licence expression of base, adapter and draft; None if none has one.

    Names without an SPDX identifier are written LicenseRef-NAME (SPDX specification 2.3, annex D).
    """
    from checks.gates.license import LicenseGate

    adapters = [gate.adapter for gate in params.gates.values() if isinstance(gate, LicenseGate)]
    draft = params.merge.draft.license if params.merge.draft else None
    names = [name for name in (params.base.license, *adapters, draft) if name]
    return " AND ".join(dict.fromkeys(map(_identifier, names))) or None


def config(about: About, runtime: Runtime, filled: Filled, base: Base | None, added: Sequence[Added],
           labels: dict[str, str]) -> bytes:  # fmt: skip
    """The image's config: the base's, with this server's settings and these layers.

    Raises BuildRefused if a volume of the base would hide the weights.
    """
    # Without a base it is a volume of weights, which is not started.
    bare = dict(zip(("os", "architecture", "variant"), filled.platform.split("/"), strict=False))
    document: dict[str, Any] = _base_config(base) if base else bare
    settings = dict(document.get("config") or {})
    kept = {
        key: value
        for key, value in (settings.get("Labels") or {}).items()
        if not key.startswith(OCI)
    }
    settings["Labels"] = dict(sorted((kept | labels).items()))
    if base:
        settings |= _server(runtime, filled, settings)
        for volume in settings.get("Volumes") or {}:
            if PurePosixPath(about.path).is_relative_to(posixpath.normpath(volume)):
                raise BuildRefused(
                    f"{base.image.name}: declares a volume at {volume}, over the weights at {about.path}",
                    "pin another image",
                )
    diff_ids = [
        *(document.get("rootfs") or {}).get("diff_ids", ()),
        *(layer.digest for layer in added),
    ]
    created = _time(about.created)
    history = [
        {"created": created, "created_by": "lockstep build", "comment": layer.title}
        for layer in added
    ]
    return digest.canonical_json(
        document
        | {
            "created": created,
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [*document.get("history", ()), *history],
        }
    )


def manifest(
    config: bytes, base: Base | None, added: Sequence[Added], labels: dict[str, str],
    named: str = LAYER_NAMES[0],
) -> bytes:  # fmt: skip
    """The image's manifest: the base's layers, then these. ``named`` is the annotation key for a layer's content."""
    described = Descriptor(media_type=CONFIG, digest=digest.of_bytes(config), size=len(config))
    below = [layer.plain() for layer in base.layers] if base else []
    ours = [
        {"mediaType": LAYER, "digest": sha256, "size": size, "annotations": {named: title}}
        for sha256, size, title in added
    ]
    return digest.canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described.plain(),
            "layers": [*below, *ours],
            "annotations": labels,
        }
    )


def _base_config(base: Base) -> dict[str, Any]:
    """The base's config with a history for all its layers: some readers refuse an incomplete one."""
    history = base.config.get("history") or []
    filled = [step for step in history if not (isinstance(step, dict) and step.get("empty_layer"))]
    if len(filled) != len(base.layers):
        history = [{"created_by": "the base image"}] * len(base.layers)
    return base.config | {"history": history}


def _server(runtime: Runtime, filled: Filled, settings: dict[str, Any]) -> dict[str, Any]:
    """How the server starts. As in Docker, a base's command is dropped if an entrypoint is set."""
    config: dict[str, Any] = {
        "Env": _environment(settings.get("Env") or [], filled.environment),
        "ExposedPorts": {f"{runtime.port}/tcp": {}},
        "StopSignal": "SIGTERM",
    }
    if filled.entrypoint is not None:
        config |= {"Entrypoint": [*filled.entrypoint], "Cmd": [*filled.command]}
    elif filled.command:
        config |= {"Cmd": [*filled.command]}
    if runtime.user is not None:
        config["User"] = runtime.user
    return config


def _environment(theirs: Sequence[str], ours: dict[str, str]) -> list[str]:
    """The base's variables in their order, replaced by ours of the same name; the rest of ours follows, sorted."""
    names = [entry.partition("=")[0] for entry in theirs]
    kept = [
        f"{name}={ours[name]}" if name in ours else entry
        for name, entry in zip(names, theirs, strict=True)
    ]
    return [
        *kept,
        *(f"{name}={value}" for name, value in sorted(ours.items()) if name not in names),
    ]


def _identifier(name: str) -> str:
    row = licenses.find(name)
    known = row.name if row else name
    # The table has SPDX's identifiers as SPDX spells them, and other names in lower case.
    if row and known != known.lower():
        return known
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", known.replace("+", "plus")).strip("-")


def _time(moment: datetime) -> str:
    """The time as RFC 3339 in UTC, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
