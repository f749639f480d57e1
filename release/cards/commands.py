"""The commands on the page of a release: try it, verify it, roll it back."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from checks.config.release_params import Serve
from checks.formats.pointer import Pointer
from checks.formats.quarantine import Entries, find
from checks.formats.serving import ImageReport
from checks.process.errors import Refusal
from checks.storage import layout
from release import runtimes
from release.adapters.registry import reference
from release.ledger import Move
from release.runtimes import lookup
from release.serving.dialects import CHAT

_PORT = 8000  # here


def tries(
    root: Path,
    pointer: Pointer,
    image: ImageReport,
    serve: Serve,
    environment: str,
    prompt: str | None,
) -> tuple[str, ...]:
    """Start the release and ask it ``prompt``, as lines of a shell. ``root``: the clone with its record."""
    try:
        runtime = lookup.at(root, image.commit, image.runtime)
        model = runtimes.fill(runtime, serve, image.path).model_field
    except Refusal as refused:
        return (f"# {refused.what}",)
    place, lines = pointer.image, list[str]()
    if place.startswith(reference.LAYOUT):
        place = f"HOST/{serve.name}@{pointer.digest}"
        lines += [
            "# it is in a folder of the machine that built it: push it from there, or build the same digest again",
            f"git switch --detach {pointer.commit[:12]}",
            f"./lockstep build --push HOST/{serve.name}",
        ]
    if image.base is None:
        lines += [
            f"# weights alone: the server is the one that {environment} names",
            f"kubectl apply -k {layout.ENVIRONMENTS / environment}",
            f"kubectl port-forward service/server {_PORT}:80  # in its namespace",
        ]
    else:
        lines.append(f"docker run --rm -p 127.0.0.1:{_PORT}:{runtime.port} {place}")
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": prompt or "Hello"}],
        "temperature": 0,
    }
    lines.append(
        f"curl http://127.0.0.1:{_PORT}{CHAT} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(json.dumps(asked, ensure_ascii=False))}"
    )
    return tuple(lines)


def checks(pointer: Pointer, before: str | None) -> tuple[str, ...]:
    """Verify the release on a machine of one's own."""
    lines = [
        f"./lockstep evidence show {pointer.image}  # signatures, layers, and the way back to the rows",
        f"git switch --detach {pointer.commit[:12]} && ./lockstep dvc pull  # data, weights and answers by digest",
        "./lockstep gate  # hashes all of it, and asks every gate again",
    ]
    if before is not None:
        lines.append(f"./lockstep compare {before} {pointer.version}  # the figures of this page")
    lines.append(
        f"./lockstep card {pointer.version} --out cards  # the model card, the dataset card and a report"
    )
    return tuple(lines)


def rollbacks(
    pointer: Pointer, environments: Mapping[str, Sequence[Move]], quarantine: Entries
) -> tuple[str, ...]:
    """Leave the release where it runs, and return to it where another ran after it. ``environments``: their moves."""
    lines = list[str]()
    for name, moves in environments.items():
        pointers = [move.after for move in moves if move.after]
        ran = [
            former for former in pointers if find(quarantine, former.digest, former.model) is None
        ]
        others = [former for former in ran if former.digest != pointer.digest]
        if moves and moves[0].after and moves[0].after.digest == pointer.digest:
            lines.append(
                f'./lockstep rollback {name} --to {others[0].version if others else "none"} --why "…"'
            )
        elif len(others) < len(ran):
            lines.append(
                f'./lockstep rollback {name} --to {pointer.version} --why "…"  # return to this release'
            )
    return tuple(lines)
