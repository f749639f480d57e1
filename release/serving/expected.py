"""The evidence that a server is compared with: verdict, offline answers and image, checked against one another."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checks.config.params import Params
from checks.formats.serving import ImageReport, ProbeReport
from checks.process.errors import EvidenceRefused
from checks.records.rows import Prediction, Row
from checks.storage import digest, files, layout
from release.image import weights
from release.record.records import Records
from release.record.verdict_check import WEIGHTS, passing
from release.serving.suite_questions import Served, served

_AGAIN = "run `./lockstep run`, then ask again"


class Expected(NamedTuple):
    """Checked evidence. ``offline``: the merged model's predictions of ``rows``, in their order. ``suites``: what the
    server is asked beside the test rows.

    ``path``: the folder of the weights in the image; ``image``: None if nothing was built yet.
    """

    params: Params
    model: str
    verdict: str
    probes: ProbeReport
    probes_digest: str
    rows: Sequence[Row]
    offline: Sequence[Prediction]
    image: ImageReport | None
    path: str
    suites: Sequence[Served] = ()

    @property
    def mounted(self) -> str:
        """The folder of the weights as a server in a container or a cluster sees it: weights alone are a volume."""
        alone = self.image is not None and self.image.base is None
        return weights.mounted(self.path) if alone else self.path


def expected(root: Path, image: bool) -> Expected:
    """Read the evidence in ``root``; ``image``: there must be a built image.

    Raises as ``held.passing``, and EvidenceRefused if probes or image are
    missing or about another model.
    """
    # The server has its own weights, and reports cover how they were made. A process's weights are hashed.
    record = passing(Records(root), trusting=WEIGHTS)
    judged, verdict = record.verdict.judged, digest.of_file(root / layout.VERDICT).sha256
    model = record.verdict.model
    if model is None:
        raise EvidenceRefused(f"{layout.VERDICT}: is about no model", _AGAIN)
    probes = files.read_json(root / layout.PROBES, ProbeReport)
    _same(layout.PROBES, "the merged model", probes.merged, model)
    _same(layout.PROBES, "the base", probes.base, judged[layout.BASE.as_posix()])
    _same(
        layout.PROBES,
        "the valid split",
        probes.valid,
        judged[(layout.SPLITS / "valid.jsonl").as_posix()],
    )
    if (
        probes.max_new_tokens != record.params.serve.probes.max_new_tokens
        or probes.precision != record.params.serve.dtype
    ):
        raise EvidenceRefused(
            f"{layout.PROBES}: made with other settings than serve.probes and serve.dtype", _AGAIN
        )
    rows, offline = record.evidence.test, record.evidence.answers["candidate"]
    if not rows or [row.id for row in rows] != [one.id for one in offline]:
        raise EvidenceRefused(
            f"{layout.PREDICTIONS}/candidate.jsonl: does not answer the test rows, in order", _AGAIN
        )
    report = (
        _image(root, model, verdict) if image or (root / layout.IMAGE_REPORT).exists() else None
    )
    return Expected(
        params=record.params,
        model=model,
        verdict=verdict,
        probes=probes,
        probes_digest=digest.of_file(root / layout.PROBES).sha256,
        rows=rows,
        offline=offline,
        image=report,
        path=report.path if report else weights.place(record.params.serve.name, model),
        suites=served(record.params.suites, record.evidence, model),
    )


def _image(root: Path, model: str, verdict: str) -> ImageReport:
    try:
        report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    except EvidenceRefused as refusal:
        raise EvidenceRefused(refusal.what, "run `lockstep build`") from refusal
    _same(layout.IMAGE_REPORT, "the model", report.model, model, "run `lockstep build`")
    _same(layout.IMAGE_REPORT, "the verdict", report.verdict, verdict, "run `lockstep build`")
    return report


def _same(path: Path, what: str, said: str, there: str, todo: str = _AGAIN) -> None:
    if said != there:
        raise EvidenceRefused(
            f"{path}: is about another digest of {what}, {said} and not {there}", todo
        )
