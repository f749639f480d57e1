"""The release as SLSA provenance v1 (https://slsa.dev/spec/v1.0/provenance), for tools that do not know Lockstep.

It is computed from the signed statement of the release and the digest of the image's ModelPack, which follows from the
image. So the same release gives the same bytes. Lockstep itself never reads it: a promotion checks the statement.
"""

from typing import Any, Final

from checks.formats.signers import Signer
from checks.formats.statement import STATEMENT, TREE, Release, Statement
from checks.storage import layout
from checks.storage.digest import canonical_json

PREDICATE: Final = "https://slsa.dev/provenance/v1"
# docs/explanation/evidence.md says what a build of this type is.
BUILD: Final = "urn:lockstep:build:v1"
_BUILDER = "urn:lockstep:builder:"


def make(release: Statement, signer: Signer, pack: str) -> bytes:
    """Return the provenance of ``release``, which ``signer`` signed; an in-toto statement in canonical JSON.

    ``pack``: the digest of the ModelPack of its image.
    """
    predicate = release.predicate
    base = predicate.image.base
    return canonical_json(
        {
            "_type": STATEMENT,
            "subject": [
                *(subject.model_dump(mode="json") for subject in release.subject),
                _file("modelpack", pack),
            ],
            "predicateType": PREDICATE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD,
                    "externalParameters": {
                        "commit": predicate.commit,
                        "params": layout.PARAMS.as_posix(),
                        "runtime": predicate.image.runtime,
                        "base": base.name if base else None,
                    },
                    "resolvedDependencies": _dependencies(predicate),
                },
                "runDetails": {
                    # A certified identity names the platform. A key proves only whose it is.
                    "builder": {
                        "id": signer.identity or f"{_BUILDER}{signer.name}",
                        "version": {"lockstep": predicate.tool.removeprefix("lockstep ")},
                    },
                    "byproducts": [
                        _tree(layout.ADAPTER.as_posix(), predicate.materials.adapter),
                        _file(layout.VERDICT.as_posix(), predicate.materials.verdict),
                        *(
                            _file(path, value)
                            for path, value in sorted(predicate.materials.reports.items())
                        ),
                        _file("sbom.cdx.json", predicate.sbom),
                    ],
                },
            },
        }
    )


def _dependencies(its: Release) -> list[dict[str, Any]]:
    made, image = its.materials, its.image
    return [
        {"name": "source", "digest": {"gitCommit": its.commit}},
        _file(layout.PARAMS.as_posix(), made.params),
        _file(layout.LOCK.as_posix(), made.lock),
        _tree(layout.BASE.as_posix(), made.base),
        *(
            [_tree(f"{layout.ADAPTER} of {made.start.commit}", made.start.adapter)]
            if made.start
            else []
        ),
        _tree(layout.RAW.as_posix(), made.raw),
        *(
            _file((layout.SPLITS / f"{name}.jsonl").as_posix(), value)
            for name, value in sorted(made.splits.items())
        ),
        _file(layout.PROBES.as_posix(), made.probes),
        _tree("tokenizer", made.tokenizer),
        *([_file("chat template", made.chat_template)] if made.chat_template else []),
        *([_file("base image", image.base.manifest)] if image.base else []),
    ]


def _file(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}


def _tree(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {TREE: digest.removeprefix("sha256:")}}
