"""The chain of digests from the sources to the predictions: reads it, and says where it breaks.

Every report has the digests of what it was made from. They are compared with one another and with the files on disk, so
that evidence about other bytes cannot be judged.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from checks.data.documents import asked
from checks.data.personal_data import strings
from checks.evaluation import baselines
from checks.formats.data_reports import DataReport, FetchReport, PrepareReport
from checks.formats.engines import LlamaCpp
from checks.formats.evaluation_reports import (
    EvaluationReport,
    NoiseReport,
    ReferencesReport,
)
from checks.formats.evidence import Evidence, Reports
from checks.formats.looks import LooksReport
from checks.formats.report import UNQUANTISED, Report
from checks.formats.suite_report import Judgement, SuiteAnswer, SuiteLine, SuitesReport
from checks.formats.training_reports import ParityReport, TrainReport
from checks.process.errors import EvidenceRefused
from checks.records.rows import Learned, Prediction, Row, earlier_requests, request
from checks.storage import digest, files, layout

R = TypeVar("R", bound=Report)
L = TypeVar("L", Row, Prediction, SuiteLine, SuiteAnswer, Judgement)
K = TypeVar("K")
Named = tuple[str, str | None]  # who names it, the digest it is given

_FEW = 3  # files that are missing, each with a line of its own
_SPLIT_FILES = {name: layout.SPLITS / f"{name}.jsonl" for name in layout.SPLIT_NAMES}
# How a model was made and measured, and what it is compared with: without one of them there is nothing to judge.
MAKING = (
    layout.FETCH_REPORT,
    layout.PREPARE_REPORT,
    layout.DATA_REPORT,
    layout.TRAIN_REPORT,
    layout.PARITY_REPORT,
    layout.EVALUATION,
    layout.METRICS,
    layout.REFERENCES,
)
_REPORT_FILES = (*MAKING, layout.LOOKS, layout.NOISE)


class Reader(Protocol):
    """Reads a report at a path relative to the root. Raises EvidenceRefused as ``files.read_json``."""

    def __call__(self, path: Path, model: type[R], /) -> R: ...


class _Disk:
    """Reads what is below a folder. ``gaps``: by path, why a file is missing or unreadable."""

    def __init__(self, root: Path, reader: Reader | None) -> None:
        self._root, self._reader = root, reader
        self.gaps: dict[str, str] = {}

    def report(self, path: Path, model: type[R]) -> R | None:
        """A report; None, and a gap, if it cannot be read."""
        try:
            return (
                self._reader(path, model)
                if self._reader
                else files.read_json(self._root / path, model)
            )
        except EvidenceRefused as refusal:
            self.gaps[path.as_posix()] = self._without_root(refusal)
            return None

    def digests(self, paths: Iterable[Path]) -> dict[str, str]:
        """Return the digest of each file that can be read."""
        digests = {}
        for path in paths:
            try:
                digests[path.as_posix()] = digest.of_file(self._root / path).sha256
            except EvidenceRefused as refusal:
                self.gaps.setdefault(path.as_posix(), self._without_root(refusal))
        return digests

    def lines(self, path: Path, model: type[L]) -> tuple[L, ...]:
        """Return the lines of a file; none, and a gap, if it cannot be read."""
        return self.parts(path, model, lambda line: line)

    def parts(self, path: Path, model: type[L], part: Callable[[L], K]) -> tuple[K, ...]:
        """As ``lines``, but only ``part`` of each line is kept in memory."""
        try:
            return tuple(map(part, files.each_of_jsonl(self._root / path, model)))
        except EvidenceRefused as refusal:
            self.gaps.setdefault(path.as_posix(), self._without_root(refusal))
            return ()

    def _without_root(self, refusal: EvidenceRefused) -> str:
        """A message without the folder's name: the same evidence elsewhere must give the same verdict."""
        return str(refusal).removeprefix(f"{self._root.as_posix()}/")


def gather(root: Path, scorers: str, reader: Reader | None = None) -> Evidence:
    """Read the evidence below ``root``; ``scorers`` is the digest of the scorers in params.yaml.

    ``reader`` provides reports that were read before; None: they are read here. Hashes reports, splits and predictions.
    The digests of weights are taken from the reports; ``compare`` hashes the weights too.
    """
    disk = _Disk(root, reader)
    reports = Reports(
        fetch=disk.report(layout.FETCH_REPORT, FetchReport),
        prepare=disk.report(layout.PREPARE_REPORT, PrepareReport),
        data=disk.report(layout.DATA_REPORT, DataReport),
        train=disk.report(layout.TRAIN_REPORT, TrainReport),
        parity=disk.report(layout.PARITY_REPORT, ParityReport),
        evaluation=disk.report(layout.EVALUATION, EvaluationReport),
        references=disk.report(layout.REFERENCES, ReferencesReport),
        noise=disk.report(layout.NOISE, NoiseReport),
        looks=disk.report(layout.LOOKS, LooksReport),
        suites=disk.report(layout.SUITES_REPORT, SuitesReport),
    )
    models = dict.fromkeys(
        ("candidate", *(reports.evaluation.models if reports.evaluation else ()))
    )
    answer_files = {name: layout.PREDICTIONS / f"{name}.jsonl" for name in models}
    suites = reports.suites.suites if reports.suites else {}
    line_files = {name: layout.SUITES / f"{name}.jsonl" for name in suites}
    given_files = {
        name: layout.suite_answers(name) for name, suite in suites.items() if suite.given
    }
    judgement_files = {
        name: layout.JUDGEMENTS / f"{name}.jsonl"
        for name, suite in suites.items()
        if suite.judgements
    }
    of_suites = [*line_files.values(), *given_files.values(), *judgement_files.values()]
    if suites:
        of_suites.append(layout.SUITES_REPORT)
    judged = disk.digests(
        [*_REPORT_FILES, *_SPLIT_FILES.values(), *answer_files.values(), *of_suites]
    )
    judged |= _digests_of_folders(reports)
    train = disk.parts(_SPLIT_FILES["train"], Row, _learned)
    if reports.train and reports.train.start:
        judged |= disk.digests([layout.LEARNED_BEFORE])
        train += disk.parts(layout.LEARNED_BEFORE, Row, _learned)
    test = disk.lines(_SPLIT_FILES["test"], Row)
    answers = {name: disk.lines(path, Prediction) for name, path in answer_files.items()}
    breaks = [
        *_breaks(reports, judged, scorers),
        *_reference_breaks(reports),
        *_model_breaks(reports),
    ]
    for name, predictions in answers.items():
        drawn = reports.evaluation if name not in baselines.NAMES else None
        breaks += _row_breaks(test, predictions, answer_files[name], drawn.draws if drawn else 1)
    return Evidence(
        reports, train, test, answers, disk.gaps, tuple(breaks), dict(sorted(judged.items())),
        {name: disk.lines(path, SuiteLine) for name, path in line_files.items()},
        {name: disk.lines(path, Judgement) for name, path in judgement_files.items()},
        {name: disk.lines(path, SuiteAnswer) for name, path in given_files.items()},
    )  # fmt: skip


def _digests_of_folders(reports: Reports) -> dict[str, str]:
    """Return those of weights and raw data, which the reports name; hashing gigabytes is left to ``compare``."""
    fetch, train, parity = reports.fetch, reports.train, reports.parity
    digests = {
        layout.BASE: fetch.base.digest if fetch else None,
        layout.RAW: fetch.data.digest if fetch else None,
        layout.ADAPTER: train.adapter if train else None,
        layout.MERGED: parity.merged if parity else None,
    }
    return {path.as_posix(): value for path, value in digests.items() if value}


def _learned(row: Row) -> Learned:
    if row.document:
        text, *others = asked(row)
        return Learned(text, row.source, earlier=tuple(others), document=True)
    # Many rows share one instruction.
    system = (sys.intern(message.content) for message in row.messages if message.role == "system")
    further = (
        *system,
        *(text for tool in row.tools for text in strings(tool)),
        row.reference,
        *strings(row.extra),
    )
    return Learned(request(row.messages), row.source, further, earlier_requests(row.messages))


def compare(root: Path, judged: dict[str, str]) -> list[str]:
    """Hash every judged path again, weights included.

    Returns one line for each path that differs, and one for each that is missing, or for all if they are many.
    """
    differences, missing = list[str](), list[str]()
    for name, expected in judged.items():
        path = root / name
        try:
            if not path.exists():
                missing.append(name)
                continue
            here = digest.of_tree(path).digest if path.is_dir() else digest.of_file(path).sha256
        except EvidenceRefused as refusal:
            differences.append(str(refusal))
            continue
        except OSError as error:
            differences.append(f"{name}: {error.strerror}")
            continue
        if here != expected:
            differences.append(f"{name}: is {short(here)}, the verdict is about {short(expected)}")
    fix = "(`./lockstep dvc pull` fetches {}, if a remote has {})"
    if len(missing) > _FEW:
        others = (
            f"{missing[0]} and {len(missing) - 1} others are missing {fix.format('them', 'them')}"
        )
        return [others, *differences]
    return [*(f"{name}: is missing {fix.format('it', 'it')}" for name in missing), *differences]


def short(value: str) -> str:
    """Return the first 12 hex digits of a digest, for messages."""
    return value.removeprefix("sha256:")[:12]


def _breaks(reports: Reports, judged: dict[str, str], scorers: str) -> Iterator[str]:
    """Each pair of digests that must be equal and is not."""
    for what, (one, one_value), (two, two_value) in _pairs(reports, judged, scorers):
        if one_value is not None and two_value is not None and one_value != two_value:
            yield f"{what}: {one} says {short(one_value)}, {two} says {short(two_value)}"


def _pairs(
    reports: Reports, judged: dict[str, str], scorers: str
) -> Iterator[tuple[str, Named, Named]]:
    fetch, prepare, data, train = reports.fetch, reports.prepare, reports.data, reports.train
    parity, evaluation = reports.parity, reports.evaluation
    raw = ("fetch", fetch.data.digest if fetch else None)
    base = ("fetch", fetch.base.digest if fetch else None)
    merged = ("merge", parity.merged if parity else None)
    exported = parity.exported if parity else None
    full = written = None
    if parity and evaluation:
        by_file = isinstance(evaluation.engine, LlamaCpp)
        full = exported.unquantised if exported else parity.merged if by_file else ""
        gguf = parity.files.get(layout.GGUF) if by_file else None
        written = gguf.sha256 if gguf else "no file" if by_file else ""
    yield from (
        ("raw data", raw, ("prepare", prepare.raw if prepare else None)),
        ("base", base, ("train", train.base if train else None)),
        ("base", base, ("merge", parity.base if parity else None)),
        ("base", base, ("evaluate", evaluation.base if evaluation else None)),
        (
            "adapter",
            ("train", train.adapter if train else None),
            ("merge", parity.adapter if parity else None),
        ),
        ("merged", merged, ("evaluate", evaluation.merged if evaluation else None)),
        (
            "unquantised",
            ("merge", full),
            ("evaluate", (evaluation.unquantised or "") if evaluation else None),
        ),
        (
            layout.GGUF,
            ("merge", written),
            ("evaluate", (evaluation.gguf or "") if evaluation else None),
        ),
        (
            "scorers",
            ("params.yaml", scorers),
            ("evaluate", evaluation.scorers if evaluation else None),
        ),
    )
    for name, path in _SPLIT_FILES.items():
        disk = (path.as_posix(), judged.get(path.as_posix()))
        split = prepare.splits.get(name) if prepare else None
        yield f"{name} split", disk, ("prepare", split.sha256 if split else None)
        yield f"{name} split", disk, ("validate", data.splits.get(name, "") if data else None)
        if name != "test":
            yield f"{name} split", disk, ("train", train.splits.get(name, "") if train else None)
    if train and train.start:
        before = layout.LEARNED_BEFORE.as_posix()
        learned = ("train", train.start.learned)
        yield "rows learned before", (before, judged.get(before, "")), learned
    if exported and exported.calibration:
        rows = _SPLIT_FILES["train"].as_posix()
        yield "train split", (rows, judged.get(rows)), ("merge", exported.calibration.train)
    test = _SPLIT_FILES["test"].as_posix()
    yield (
        "test split",
        (test, judged.get(test)),
        ("evaluate", evaluation.test if evaluation else None),
    )
    for name, model in evaluation.models.items() if evaluation else ():
        file = (layout.PREDICTIONS / f"{name}.jsonl").as_posix()
        yield f"{name} predictions", (file, judged.get(file)), ("evaluate", model.predictions)
    yield from _suite_pairs(reports, judged)


def _suite_pairs(reports: Reports, judged: dict[str, str]) -> Iterator[tuple[str, Named, Named]]:
    """Yield what each suite names: its files, and the models and answers that its scores are about."""
    parity, evaluation, references = reports.parity, reports.evaluation, reports.references
    known: dict[str, str] = {"candidate": parity.merged, "base": parity.base} if parity else {}
    known |= {name: model.merged for name, model in references.found.items()} if references else {}
    known |= {UNQUANTISED: parity.exported.unquantised} if parity and parity.exported else {}
    for name, suite in reports.suites.suites.items() if reports.suites else ():
        for path, recorded in (
            (layout.SUITES / f"{name}.jsonl", suite.lines),
            (layout.suite_answers(name), suite.given),
            (layout.JUDGEMENTS / f"{name}.jsonl", suite.judgements),
        ):
            yield (
                f"suite {name}",
                (path.as_posix(), judged.get(path.as_posix())),
                ("suites", recorded),
            )
        for role, model in suite.models.items():
            who = "merge" if role in ("candidate", "base") else layout.REFERENCES.as_posix()
            # A model that nothing names is another one.
            about = known.get(role, "") if parity and references else None
            yield f"{role} of suite {name}", ("suites", model), (who, about)
        for role, answers in suite.answers.items():
            if suite.answers_of is not None:
                asked = reports.suites.suites.get(suite.answers_of) if reports.suites else None
                other = (f"suite {suite.answers_of}", (asked.given if asked else None) or "")
                yield f"answers that suite {name} is about", ("suites", answers), other
                continue
            result = evaluation.models.get(role) if evaluation else None
            evaluated = result.predictions if result else "" if evaluation else None
            yield (
                f"{role} predictions of suite {name}",
                ("suites", answers),
                ("evaluate", evaluated),
            )


def _reference_breaks(reports: Reports) -> Iterator[str]:
    """Yield the evaluation must have used the reference models in reports/references.json."""
    if reports.references is None or reports.evaluation is None:
        return
    uses = reports.evaluation.references
    named = {name: model.merged for name, model in reports.references.found.items()}
    for name in sorted({*named, *reports.references.absent, *uses}):
        one, two = named.get(name), uses[name].merged if name in uses else None
        if name not in named and name not in reports.references.absent:
            yield f"{name}: evaluate asked for it, {layout.REFERENCES} does not name it"
        elif name not in uses:
            yield f"{name}: {layout.REFERENCES} names it, evaluate did not ask for it"
        elif one != two:
            shown = [short(value) if value else "none" for value in (one, two)]
            yield f"{name}: {layout.REFERENCES} says {shown[0]}, evaluate says {shown[1]}"


def _model_breaks(reports: Reports) -> Iterator[str]:
    """Yield the evaluation must have the answers of every evaluated model, and parity the files that it is about."""
    parity, evaluation = reports.parity, reports.evaluation
    if parity is not None:
        files_ = {
            name: digest.FileDigest(file.sha256, file.size) for name, file in parity.files.items()
        }
        if (listed := digest.of_manifest(files_)) != parity.merged:
            yield f"merged: merge says {short(parity.merged)}, its own list of files makes {short(listed)}"
    if evaluation is None:
        return
    models, named = evaluation.models, reports.references.found if reports.references else {}
    had = [
        name
        for name, use in evaluation.references.items()
        if use.how not in ("absent", "unavailable")
    ]
    for name in ("candidate", "base", *((UNQUANTISED,) if evaluation.unquantised else ()), *had):
        if name not in models:
            yield f"{name} predictions: {layout.EVALUATION} does not name them"
    for name, use in evaluation.references.items():
        if name not in models:
            continue
        if use.how == "same-model" and (use.merged, models[name].predictions) != (
            evaluation.merged,
            models["candidate"].predictions if "candidate" in models else None,
        ):
            yield f"{name}: evaluate takes it for the candidate, and it is another model or answered otherwise"
        if (
            use.how == "stored"
            and name in named
            and models[name].predictions != named[name].predictions
        ):
            yield (
                f"{name} predictions: evaluate says {short(models[name].predictions)}, the record of "
                f"{named[name].commit[:12]} says {short(named[name].predictions)}"
            )


def _row_breaks(
    test: tuple[Row, ...], predictions: tuple[Prediction, ...], path: Path, times: int
) -> Iterator[str]:
    """Predictions must be of exactly the test rows, in order, with the same references and ``times`` draws of each."""
    if not test and predictions:
        yield f"{_SPLIT_FILES['test']}: has no rows, {path} has {len(predictions)}"
    if not test or not predictions:
        return
    if len({row.id for row in test}) < len(test):
        yield f"{_SPLIT_FILES['test']}: holds a row twice"
    wanted, answered = [row.id for row in test], [prediction.id for prediction in predictions]
    if wanted != answered:
        missing, extra = len(set(wanted) - set(answered)), len(set(answered) - set(wanted))
        repeated = len(answered) - len(set(answered))
        yield (
            f"{path}: {len(answered)} predictions for {len(wanted)} test rows "
            f"({missing} missing, {extra} of other rows, {repeated} repeated, or in another order)"
        )
        return
    for number, (row, prediction) in enumerate(zip(test, predictions, strict=True), 1):
        if (row.reference, row.group, row.slice) != (
            prediction.reference,
            prediction.group,
            prediction.slice,
        ):
            yield f"{path}:{number}: row {row.id} has another reference, group or slice than the test split"
        if len(prediction.draws) != times:
            yield f"{path}:{number}: row {row.id} has {len(prediction.draws)} draws, {layout.EVALUATION} says {times}"
