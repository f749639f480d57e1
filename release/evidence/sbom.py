"""The bill of materials of a release: CycloneDX 1.6 with a model card (ECMA-424).

The same evidence gives the same bytes on every machine: the serial number is derived from the image, and the time is
that of the record's commit. The library writes everything except the model card, which it does not support.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import License
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6

from checks.decision.held import HeldVerdict
from checks.formats.data_reports import MAIN_SOURCE, FetchReport, PrepareReport
from checks.formats.evaluation_reports import EvaluationReport, Interval
from checks.formats.report import Fetched
from checks.formats.serving import ImageReport
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvidenceRefused
from checks.storage import layout
from checks.storage.digest import canonical_json
from release.image import image as images

TREE = "lockstep:tree"  # property: the digest of a directory, as checks.storage.digest defines it
_MODEL = "model"


def make(held: HeldVerdict, image: ImageReport, created: datetime) -> bytes:
    """Return the bill of materials of ``image``; ``created`` is the time of its record's commit.

    Raises EvidenceRefused if a report that it needs is missing.
    """
    reports = held.evidence.reports
    fetch, parity, evaluation = reports.fetch, reports.parity, reports.evaluation
    if fetch is None or parity is None or evaluation is None:
        raise EvidenceRefused(
            f"{layout.REPORTS}: fetch, parity or evaluation is missing", "run `./lockstep run`"
        )
    model, data = _model(held, image, fetch.base, parity), _data(fetch, reports.prepare)
    tool = Component(
        name="lockstep", version=image.tool, type=ComponentType.APPLICATION, bom_ref="lockstep"
    )
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"lockstep {image.image}"),
        metadata=BomMetaData(
            timestamp=created, component=model, tools=ToolRepository(components=[tool])
        ),
        components=[*data, *_container(image)],
    )
    bom.register_dependency(model, data)
    plain = json.loads(JsonV1Dot6(bom).output_as_string())
    plain["metadata"]["component"]["modelCard"] = _card(held, fetch, evaluation)
    return canonical_json(plain)


def _model(held: HeldVerdict, image: ImageReport, base: Fetched, parity: ParityReport) -> Component:
    """Return the merged model with its files and draft, and the base and adapter that it was made of."""
    train = held.evidence.reports.train
    full = train is not None and train.full
    made = f"{'trained weights' if full else 'LoRA adapter'} {parity.adapter}, merged into the base"
    if shipped := parity.shipped_adapter:
        made = f"LoRA adapter {parity.adapter} beside the base's weights {shipped.weights}, which a server adds"
    if exported := parity.exported:
        made += f", and that 16-bit model {exported.unquantised} quantised to {exported.kind}"
    files = [
        Component(
            name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=[_hash(file.sha256)],
            properties=[Property(name="lockstep:size", value=str(file.size))],
        )
        for name, file in parity.files.items()
    ]  # fmt: skip
    return Component(
        name=held.params.serve.name, version=image.model.removeprefix("sha256:")[:12], bom_ref=_MODEL,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        components=[*files, _weights("draft", parity.draft)] if parity.draft else files,
        licenses=_license(images.spdx(held.params)),
        pedigree=Pedigree(ancestors=[_weights("base", base)], notes=made),
        properties=[
            _tree(image.model),
            Property(name="lockstep:adapter", value=parity.adapter),
            Property(name="lockstep:commit", value=image.commit),
            Property(name="lockstep:image", value=image.image),
            Property(name="lockstep:verdict", value=image.verdict),
        ],
    )  # fmt: skip


def _weights(ref: str, fetched: Fetched) -> Component:
    return Component(
        name=fetched.uri, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=ref, hashes=[_hash(fetched.sha256)],
        licenses=_license(fetched.license), properties=[_tree(fetched.digest)],
    )  # fmt: skip


def _data(fetch: FetchReport, prepare: PrepareReport | None) -> list[Component]:
    """Return the raw data of each source, and each split of it."""
    sources = fetch.all_data
    raw = [
        Component(
            name=fetched.uri, type=ComponentType.DATA, bom_ref=_data_ref(name),
            hashes=[_hash(fetched.sha256)], licenses=_license(fetched.license), properties=[_tree(fetched.digest)],
        )
        for name, fetched in sources.items()
    ]  # fmt: skip
    splits = prepare.splits if prepare else {}
    named = dict.fromkeys(fetched.license for fetched in sources.values())
    stated = [
        f"({name})" if " " in name and len(named) > 1 else name for name in filter(None, named)
    ]
    both = None if None in named else " AND ".join(stated)
    return [
        *raw,
        *(
            Component(
                name=(layout.SPLITS / f"{name}.jsonl").as_posix(), type=ComponentType.DATA, bom_ref=f"split:{name}",
                hashes=[_hash(split.sha256)], licenses=_license(both),
                properties=[Property(name="lockstep:rows", value=str(split.rows))],
            )
            for name, split in splits.items()
        ),
    ]  # fmt: skip


def _data_ref(source: str) -> str:
    return "data" if source == MAIN_SOURCE else f"data:{source}"


def _container(image: ImageReport) -> Iterator[Component]:
    if image.base:
        yield Component(
            name=image.base.name, type=ComponentType.CONTAINER, bom_ref="base-image",
            hashes=[_hash(image.base.manifest)],
            properties=[Property(name="lockstep:platform", value=image.base.platform)],
        )  # fmt: skip


def _card(held: HeldVerdict, fetch: FetchReport, evaluation: EvaluationReport) -> dict[str, Any]:
    """Return the model card: how and on what it was trained, and its scores with confidence intervals."""
    result = evaluation.models.get("candidate")
    if result is None:
        raise EvidenceRefused(
            f"{layout.EVALUATION}: has no candidate", "run `./lockstep run evaluate`"
        )
    metrics = [_metric(name, interval, None) for name, interval in sorted(result.metrics.items())]
    for part, slice_result in sorted(result.slices.items()):
        metrics += [
            _metric(name, interval, part) for name, interval in sorted(slice_result.items())
        ]
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "text-generation",
            "datasets": [{"ref": _data_ref(name)} for name in fetch.all_data],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "properties": [
            {"name": "lockstep:confidence", "value": str(evaluation.confidence)},
            {"name": "lockstep:test-rows", "value": str(evaluation.rows)},
            {"name": "lockstep:verdict", "value": held.verdict.status},
        ],
    }


def _metric(name: str, interval: Interval, part: str | None) -> dict[str, Any]:
    metric: dict[str, Any] = {
        "type": name,
        "value": str(interval.value),
        "confidenceInterval": {"lowerBound": str(interval.low), "upperBound": str(interval.high)},
    }
    return metric if part is None else metric | {"slice": part}


def _hash(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))


def _tree(digest: str) -> Property:
    return Property(name=TREE, value=digest)


def _license(name: str | None) -> list[License]:
    """Return a licence by its SPDX identifier or expression if it has one, else by its name."""
    return [] if name is None else [LicenseFactory().make_from_string(name)]
