"""A committed record with its image in an OCI layout, its probes, a serving report that passes, and who may sign."""

import json
from pathlib import Path
from typing import get_args

from checks import digest, files, layout
from checks.serving import CheckName, ImageReport, ServingCheck, ServingReport, combine
from release import keys as key_verbs
from release.build import Options, build
from tests import build_tree
from tests.test_verify_evidence import probed

SIGNER = "ada"


def make(root: Path) -> Path:
    """Lay it out below ``root``; return the private key of ``SIGNER``, who may release and approve."""
    params = build_tree.make(root)
    made = key_verbs.new(root, SIGNER, ("release", "approve"))
    key_verbs.add_signer(root, SIGNER, ("release", "approve"))
    probed(root, params)
    build_tree.commit(root, "signers")
    served(root, build(root, Options()))
    return made.private


def served(root: Path, image: ImageReport) -> ServingReport:
    """Write the report of a server of ``image`` that passed everything."""
    checks = tuple(ServingCheck(name=name, status="pass", reason="as it should") for name in get_args(CheckName))
    report = ServingReport(
        image=image.image, model=image.model, verdict=image.verdict,
        probes=digest.of_file(root / layout.PROBES).sha256, runtime="transformers", how="process", device="cpu",
        checks=checks, load=(), status=combine(checks), tool="0.1.0",
    )  # fmt: skip
    files.write_json(root / layout.SERVING_REPORT, report)
    return report


def edit(path: Path, **change: object) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
