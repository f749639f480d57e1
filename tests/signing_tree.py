"""A committed record with its image in an OCI layout, its probes, a serving report that passes, and who may sign."""

import json
from pathlib import Path
from typing import Any, get_args

from checks.formats.serving import OPTIONAL, CheckName, ImageReport, ServingCheck, ServingReport, combine
from checks.formats.signers import Role
from checks.storage import digest, files, layout
from release.evidence import verification
from release.evidence.keys import KEY
from release.verbs import keys as key_verbs
from release.verbs.build import BuildOptions, build
from tests import build_tree
from tests.release.serving.test_verify_evidence import probed

SIGNER = "ada"
ROLES: tuple[Role, ...] = ("verify", "release", "approve")


def make(root: Path) -> Path:
    """Lay it out below ``root``; return the private key of ``SIGNER``, who may do everything."""
    params = build_tree.make(root)
    made = key_verbs.new(root, SIGNER, ROLES)
    key_verbs.add_signer(root, SIGNER, ROLES)
    probed(root, params)
    build_tree.commit(root, "signers")
    served(root, build(root, BuildOptions()))
    return made.private


def served(root: Path, image: ImageReport, key: Path = KEY, **facts: Any) -> ServingReport:
    """Write the report of a server of ``image`` that passed everything, and sign that by ``key``, a path below ``root``.

    ``facts``: other fields of the report.
    """
    asked = {"neighbours"} if facts.get("beside") else set()
    names = [name for name in get_args(CheckName) if name not in OPTIONAL or name in asked]
    checks = tuple(ServingCheck(name=name, status="pass", reason="as it should") for name in names)
    plain: dict[str, Any] = {
        "image": image.image, "model": image.model, "verdict": image.verdict,
        "probes": digest.of_file(root / layout.PROBES).sha256, "runtime": "transformers", "how": "process",
        "device": "cpu", "checks": checks, "load": (), "status": combine(checks), "tool": "0.1.0",
    }  # fmt: skip
    report = ServingReport(**(plain | facts))
    files.write_json(root / layout.SERVING_REPORT, report)
    attest(root, key)
    return report


def attest(root: Path, key: Path = KEY) -> None:
    """Sign the serving report that lies in ``root`` as whoever verified."""
    by, why = verification.verifier(root, root / key)
    assert by is not None, why
    verification.write(root, files.read_json(root / layout.SERVING_REPORT, ServingReport), by)


def edit(path: Path, **change: object) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
