"""The record that a card is made of: of the work tree, if its verdict still holds, or of a release that was signed.

Figures come from the record alone. Prose comes from files that people own: ``docs/cards/model.md`` and
``docs/cards/data.md``, with front matter that may say what no record knows.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from checks import digest, layout, plain_yaml
from checks.config.params import Params
from checks.errors import EvidenceRefused
from checks.formats.data_reports import DataReport, FetchReport, PrepareReport
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.suite_report import SuitesReport
from checks.formats.training_reports import TrainMeasured, TrainReport
from checks.formats.verdict import Verdict
from release.cards import carbon, released
from release.cards.carbon import Carbon
from release.cards.released import Released
from release.image import image as images
from release.ledger import Ledger
from release.record import held
from release.record.named import Named
from release.record.records import Records
from release.review.sides import CANDIDATE, Side

MODEL, DATA = Path("docs/cards/model.md"), Path("docs/cards/data.md")
SECTIONS = {MODEL: ("Intended use", "Limits"), DATA: ("Where it comes from", "Limits")}
CATALOGUE = ("creator", "url", "date_published", "cite_as")  # for croissant.json alone
_SAYS = {  # keys of the front matter
    MODEL: ("language", "tags", carbon.KEY),
    DATA: ("language", "tags", "pretty_name", *CATALOGUE),
}
_HEAVY = (layout.BASE, layout.RAW, layout.ADAPTER, layout.MERGED)
_FRONT = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)


class Prose(NamedTuple):
    """What people wrote: ``front`` for the metadata, ``text`` for the card."""

    front: Mapping[str, Any]
    text: str


class CardFacts(NamedTuple):
    """``version`` None: the work tree. ``digests``: the reports that the figures come from, by path.

    ``sizes``: bytes of each split's file, by its name. Empty for a release: its record has no sizes of splits.
    """

    name: str
    version: str | None
    image: str | None
    license: str | None
    params: Params
    fetch: FetchReport
    prepare: PrepareReport
    data: DataReport
    train: TrainReport
    took: TrainMeasured | None
    evaluation: EvaluationReport
    suites: SuitesReport | None
    verdict: Verdict
    digests: Mapping[str, str]
    sizes: Mapping[str, int]
    model_prose: Prose
    data_prose: Prose
    carbon: Carbon | None


def gather(root: Path, name: str | None) -> CardFacts:
    """The facts of the work tree, or of the release that ``name`` means: an environment, a version, or an image.

    Raises EvidenceRefused if the verdict does not hold, if the release's evidence does not, or if prose is missing;
    as ``released.find`` for a name.
    """
    records = Records(root)
    if name is None:
        held.hold(records, trusting=_HEAVY)
        return _facts(records, None)
    release = released.find(records, Ledger.open(root, records.work_tree.params.promote), name)
    return of_release(records, release)


def of_release(records: Records, release: Released) -> CardFacts:
    """The facts of a release. Raises EvidenceRefused if its evidence does not hold, or if prose is missing."""
    released.stated(records, release)
    return _facts(records, release)


def _facts(records: Records, release: Released | None) -> CardFacts:
    its = release.pointer if release else None
    commit = records.at(its.commit) if its else None
    side = Side(records, Named(its.version if its else ".", its.commit if its else None, its), "the record")

    def data(path: Path) -> bytes | None:
        if commit is not None:
            return commit.data(path)
        found = records.root / path
        return found.read_bytes() if found.is_file() else None

    reports = (layout.FETCH_REPORT, layout.PREPARE_REPORT, layout.DATA_REPORT, layout.TRAIN_REPORT, layout.EVALUATION)
    verdict = commit.report(layout.VERDICT, Verdict) if commit else records.work_tree.report(layout.VERDICT, Verdict)
    found = (
        commit.report(layout.DATA_REPORT, DataReport) if commit
        else records.work_tree.report(layout.DATA_REPORT, DataReport)
    )  # fmt: skip
    read = (side.fetch, side.prepare, found, side.train, side.evaluation)
    missing = [str(path) for path, each in zip(reports, read, strict=True) if each is None]
    fetch, prepare, _, train, evaluation = read
    if not (fetch and prepare and found and train and evaluation and verdict) or CANDIDATE not in evaluation.models:
        why = ", ".join(missing) or f"the candidate of {layout.EVALUATION}"
        raise EvidenceRefused(f"{why}: is missing, or cannot be read by this version", "run `./lockstep run`")
    params = commit.params(f"{layout.PARAMS} of {its.version}") if commit and its else records.work_tree.params
    told = (layout.VERDICT, *reports, layout.SUITES_REPORT, *([layout.TRAIN_MEASURED] if side.took else []))
    digests = {str(path): digest.of_bytes(text) for path in told if (text := data(path))}
    prose = _prose(MODEL, data(MODEL))
    return CardFacts(
        name=params.serve.name, version=its.version if its else None, image=its.image if its else None,
        license=images.spdx(params), params=params, fetch=fetch, prepare=prepare, data=found, train=train,
        took=side.took, evaluation=evaluation, suites=side.suites, verdict=verdict, digests=digests,
        sizes={} if its else {each.name: each.stat().st_size for each in (records.root / layout.SPLITS).glob("*")},
        model_prose=prose, data_prose=_prose(DATA, data(DATA)),
        carbon=carbon.of(prose.front, MODEL, side.took.energy if side.took else None),
    )  # fmt: skip


def _prose(path: Path, data: bytes | None) -> Prose:
    """What people wrote at ``path``. Raises EvidenceRefused if it lacks a section, or says what the record says."""
    wanted = " and ".join(f"`## {each}`" for each in SECTIONS[path])
    todo = f"write {path} with the sections {wanted}, and commit it"
    if data is None:
        raise EvidenceRefused(f"{path}: is missing: a card needs words of a person", todo)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EvidenceRefused(f"{path}: is not UTF-8", todo) from error
    front: Any = {}
    if found := _FRONT.match(text):
        try:
            front = plain_yaml.load(found[1]) or {}
        except (ValueError, yaml.YAMLError) as error:
            raise EvidenceRefused(f"{path}: {str(error).splitlines()[0]}", "fix its front matter") from error
        text = text[found.end() :]
    known = _SAYS[path]
    if not isinstance(front, dict) or (others := sorted(map(str, front.keys() - set(known)))):
        said = ", ".join(others) if isinstance(front, dict) else "no mapping"
        raise EvidenceRefused(
            f"{path}: its front matter has {said}", f"keep {', '.join(known)}: the rest comes from the record"
        )
    for section in SECTIONS[path]:
        body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        if body is None or not body[1].strip():
            raise EvidenceRefused(f"{path}: has no section `## {section}` with text", todo)
    return Prose(front, text.strip())
