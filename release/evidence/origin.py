"""Where the weights of a release came from: its statement, the commit that it names, and the files on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from checks.formats.data_reports import FetchReport, PrepareReport
from checks.formats.report import Report
from checks.formats.statement import Release
from checks.formats.training_reports import ParityReport, TrainReport
from checks.process.errors import EvidenceRefused
from checks.records.record import Digest
from checks.records.rows import Record
from checks.storage import digest, files, layout
from release.adapters import commits
from release.evidence import weights
from release.evidence.statement import TEMPLATE, tokenizer

How = Literal[
    "store",  # the bytes are in the image's store and have this digest
    "here",  # the file is on this machine and has this digest
    "commit",  # the file is in the commit that the statement names and has this digest
    "follows",  # named by something that was checked
    "signed",  # only the signed statement says so
]
_R = TypeVar("_R", bound=Report)


class Step(Record):
    """One step. ``note`` is for a person; ``digest`` is None if the thing is named by another hash than SHA-256."""

    what: str
    digest: Digest | None
    checked: How
    note: str


class Origin:
    """The origin of ``release``'s weights, as far as the repository in ``root`` can check it."""

    def __init__(self, root: Path, release: Release) -> None:
        self._root, self._release = root, release
        here = commits.has_repository(root) and commits.resolve(root, release.commit)
        self._commit = release.commit if here == release.commit else None

    def steps(self) -> list[Step]:
        """Return the steps from the weights to the rows, then the verdict and its reports.

        Raises EvidenceRefused if a report or the commit contradicts the statement.
        """
        release, made = self._release, self._release.materials
        parity = self._report(layout.PARITY_REPORT, ParityReport)
        train = self._report(layout.TRAIN_REPORT, TrainReport)
        fetch = self._report(layout.FETCH_REPORT, FetchReport)
        prepare = self._report(layout.PREPARE_REPORT, PrepareReport)
        _agree(release, parity, train, fetch, prepare)
        absent = "" if self._commit else ", which this clone does not have"
        model = release.image.model
        base = fetch.base.uri if fetch else ""
        data = fetch.data.uri if fetch else ""
        return [
            self._folder("weights", layout.MERGED, model, parity, _size(parity)),
            self._folder("adapter", layout.ADAPTER, made.adapter, train, _trained(train)),
            self._folder("base", layout.BASE, made.base, fetch, base),
            *self._tokens(parity),
            *(self._split(name, value, prepare) for name, value in made.splits.items()),
            self._folder("raw data", layout.RAW, made.raw, fetch, data),
            *_rows(prepare, made.reports.get(layout.PREPARE_REPORT.as_posix())),
            self._file("parameters", layout.PARAMS, made.params, str(layout.PARAMS)),
            self._file("pipeline", layout.LOCK, made.lock, str(layout.LOCK)),
            *(
                self._file("report", Path(path), value, path)
                for path, value in made.reports.items()
            ),
            self._file("probes", layout.PROBES, made.probes, "what the model answers offline"),
            self._file("verdict", layout.VERDICT, made.verdict, f"policy {release.policy[7:19]}"),
            Step(
                what="commit",
                digest=None,
                checked="commit" if self._commit else "signed",
                note=f"{release.commit}{absent}",
            ),
        ]

    def _split(self, name: str, value: str, prepare: PrepareReport | None) -> Step:
        counted = prepare.splits.get(name) if prepare else None
        rows = f"{counted.rows} rows" if counted else "rows"
        return self._file(f"{name} split", layout.SPLITS / f"{name}.jsonl", value, rows)

    def _tokens(self, parity: ParityReport | None) -> Iterator[Step]:
        """Yield the tokenizer and the chat template, which are files of the weights."""
        made, note = self._release.materials, "among the weights' files"
        how: How = "follows" if parity else "signed"
        yield Step(what="tokenizer", digest=made.tokenizer, checked=how, note=note)
        if made.chat_template:
            file = parity.files.get(TEMPLATE) if parity else None
            how = "follows" if file and file.sha256 == made.chat_template else "signed"
            yield Step(what="chat template", digest=made.chat_template, checked=how, note=note)

    def _folder(self, what: str, path: Path, value: str, report: Report | None, note: str) -> Step:
        """Return a directory. It is hashed if it is here; ``report`` is the checked one that names its digest."""
        how: How = "follows" if report else "signed"
        if (self._root / path).is_dir():
            with tqdm(desc=str(path), unit="B", unit_scale=True, disable=None, leave=False) as bar:
                if digest.of_tree(self._root / path, bar.update).digest == value:
                    how = "here"
        return Step(what=what, digest=value, checked=how, note=note)

    def _file(self, what: str, path: Path, value: str, note: str) -> Step:
        how, _ = self._read(path, value)
        return Step(what=what, digest=value, checked=how, note=note)

    def _read(self, path: Path, value: str) -> tuple[How, bytes | None]:
        """The file with this digest, from disk or the commit. Raises EvidenceRefused if the commit has other bytes."""
        here = self._root / path
        if here.is_file() and digest.of_file(here).sha256 == value:
            return "here", here.read_bytes()
        data = commits.read(self._root, self._commit, path) if self._commit else None
        if data is None:
            return "signed", None
        if digest.of_bytes(data) != value:
            raise EvidenceRefused(
                f"{path} at {self._release.commit[:12]}: is not what the signed statement names",
                "ask who signed it",
            )
        return "commit", data

    def _report(self, path: Path, kind: type[_R]) -> _R | None:
        value = self._release.materials.reports.get(path.as_posix())
        data = self._read(path, value)[1] if value else None
        try:
            return None if data is None else kind.model_validate_json(data)
        except ValidationError as error:
            raise files.unfit(str(path), error, "use the version that signed it") from error


def _agree(
    release: Release,
    parity: ParityReport | None,
    train: TrainReport | None,
    fetch: FetchReport | None,
    prepare: PrepareReport | None,
) -> None:
    """Check that the reports and the statement agree on every digest. Raises EvidenceRefused with all that differ."""
    made, image = release.materials, release.image
    signed: dict[str, object] = {
        "the weights": image.model,
        "the files of the weights": weights.of_image(image),
        "the adapter": made.adapter,
        "the base": made.base,
        "the tokenizer": made.tokenizer,
        "the raw data": made.raw,
    }
    signed |= {f"the {name} split": value for name, value in made.splits.items()}
    named: list[tuple[str, object]] = []
    if parity:
        described = {
            path: digest.FileDigest(file.sha256, file.size) for path, file in parity.files.items()
        }
        named += [
            ("the weights", digest.of_manifest(described)),
            ("the files of the weights", {path: file.sha256 for path, file in described.items()}),
            ("the adapter", parity.adapter),
            ("the base", parity.base),
            ("the tokenizer", tokenizer(parity)),
        ]
    if train:
        named += [("the adapter", train.adapter), ("the base", train.base)]
        named += [(f"the {name} split", value) for name, value in train.splits.items()]
    if fetch:
        named += [("the base", fetch.base.digest), ("the raw data", fetch.data.digest)]
    if prepare:
        named += [("the raw data", prepare.raw)]
        named += [(f"the {name} split", split.sha256) for name, split in prepare.splits.items()]
    others = [
        f"the reports name another of {what} than the signed statement"
        for what, value in named
        if signed.get(what) != value
    ]
    EvidenceRefused.raise_for(others, "ask who signed it")


def _size(parity: ParityReport | None) -> str:
    if parity is None:
        return ""
    return f"{len(parity.files)} files, {sum(file.size for file in parity.files.values()):,} bytes"


def _trained(train: TrainReport | None) -> str:
    if train is None:
        return ""
    methods = f", {', then '.join(step.method for step in train.chain)}" if train.chain else ""
    return f"{train.rows} rows, {train.steps} steps{methods}"


def _rows(prepare: PrepareReport | None, report: str | None) -> Iterator[Step]:
    if prepare is None:
        return
    note = f"{prepare.input_rows} came in, {prepare.kept_rows} kept, {prepare.dropped_rows} dropped"
    yield Step(what="rows", digest=report, checked="follows", note=note)
    for rule in prepare.rules:
        if rule.rows:
            verb = "dropped" if rule.kind == "drop" else "fixed"
            note = f"{rule.rule} {verb} {rule.rows}"
            yield Step(what="rule", digest=report, checked="follows", note=note)
