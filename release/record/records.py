"""The record of the work tree, and those of commits. Each file is read and parsed once and then passed on.

A command creates one ``Records`` and passes it down. It does not see what a stage writes later: after a run of the
pipeline, create a new one.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from checks.config import params_file
from checks.config.release_params import ReleaseParams, Serve
from checks.formats.pointer import Pointer
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import files, layout
from release.adapters import commits, merge_conflicts
from release.adapters.git import Git
from release.record import pipeline_lock

if TYPE_CHECKING:
    from checks.config.params import Params
    from checks.formats.evidence import Evidence
    from release.runtimes import Runtime

M = TypeVar("M", bound=BaseModel)
# Files of a commit that are read together with the first of them.
_TOGETHER = (
    layout.PARAMS, layout.LOCK, layout.PREPARE_REPORT, layout.TRAIN_REPORT, layout.TRAIN_MEASURED, layout.METRICS,
    layout.EVALUATION, layout.EVALUATE_MEASURED, layout.REFERENCES, layout.VERDICT, layout.QUARANTINE,
    layout.CODE_LOCK,
)  # fmt: skip


class _Served(BaseModel):
    serve: Serve


class Named(NamedTuple):
    """A record that a person named. ``commit``: its full hash; None: the work tree. ``release``: of the ledger."""

    name: str
    commit: str | None
    release: Pointer | None = None


class WorkTree:
    """The record below ``root``. A property that refuses does so at each access.

    The lock and the reports also raise EvidenceRefused while a merge has left conflict markers in one of them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._reports: dict[tuple[Path, type[BaseModel]], BaseModel] = {}

    @functools.cached_property
    def _parsed(self) -> params_file.Parsed:
        return params_file.read(self.root / layout.PARAMS)

    @property
    def document(self) -> Mapping[str, Any]:
        """The plain values of params.yaml, as DVC records them. Raises ParamsRefused if it is not a YAML mapping."""
        return self._parsed.value

    @functools.cached_property
    def params(self) -> "Params":
        """The parameters. Raises ParamsRefused with every problem of params.yaml."""
        return params_file.check(self._parsed)

    @functools.cached_property
    def release_params(self) -> ReleaseParams:
        """The sections that say how a model is served and promoted. Raises ParamsRefused with every problem of them."""
        return params_file.check_release(self._parsed)

    @functools.cached_property
    def code(self) -> dict[str, str]:
        """The digest of each stage's code here. Raises as ``params`` and ``checks.code.lock.of``."""
        from checks.code import lock  # It imports all kinds of parameters.

        return lock.of(self.params, lock.at(self.root))

    @functools.cached_property
    def pipeline(self) -> pipeline_lock.Stages:
        """The stages of dvc.yaml. Raises EvidenceRefused if it is missing or invalid."""
        return pipeline_lock.stages(self._bytes(layout.PIPELINE), str(layout.PIPELINE))

    @functools.cached_property
    def _is_merged(self) -> bool:
        merge_conflicts.check(self.root)
        return True

    @functools.cached_property
    def lock(self) -> pipeline_lock.Stages:
        """The stages of dvc.lock. Raises EvidenceRefused if it is missing or invalid."""
        assert self._is_merged
        return pipeline_lock.stages(self._bytes(layout.LOCK), str(layout.LOCK))

    def report(self, path: Path, model: type[M]) -> M:
        """The report at ``path``, relative to ``root``. Raises EvidenceRefused if it is missing or not valid."""
        if (path, model) not in self._reports:
            assert self._is_merged
            if not (self.root / path).exists():
                raise EvidenceRefused(f"{path}: is missing", "run `./lockstep run`, which makes it")
            self._reports[path, model] = files.read_json(self.root / path, model)
        report = self._reports[path, model]
        assert isinstance(report, model)
        return report

    def readable(self, path: Path, model: type[M]) -> M | None:
        """As ``report``; None if it is missing or not a valid ``model``."""
        try:
            return self.report(path, model)
        except EvidenceRefused:
            return None

    @functools.cached_property
    def evidence(self) -> "Evidence":
        """The evidence of the verdict. Raises as ``params`` and ``report``."""
        from checks.evaluation import scoring
        from checks.gating import chain

        scorers = scoring.digest_of(self.params.evaluate.scorers)
        return chain.gather(self.root, scorers, self.report)

    def _bytes(self, path: Path) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise EvidenceRefused(
                f"{path}: no record of this pipeline: {error.strerror}",
                "run `lockstep run`, or restore it from git",
            ) from error


class Commit:
    """The record in the commit ``name``, a full hash."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self._read: dict[Path, bytes | None] = {}
        self._models: dict[tuple[Path, type[BaseModel]], BaseModel | None] = {}
        self._runtimes: dict[str, Runtime] = {}
        self._parsed: params_file.Parsed | None = None
        self._params: Params | None = None
        self._lock: pipeline_lock.Stages | None = None

    def data(self, path: Path) -> bytes | None:
        """The bytes of ``path``; None if the commit has no such file. Raises EvidenceRefused for a link."""
        if path not in self._read and path in _TOGETHER:
            with contextlib.suppress(EvidenceRefused):  # a clone may lack one that nobody asks for
                self.bring(_TOGETHER)
        if path not in self._read:
            self._read[path] = commits.read(self.root, self.name, path)
        return self._read[path]

    def bring(self, paths: Sequence[Path]) -> None:
        """Read many files at once, for ``data``."""
        self._read |= commits.read_many(
            self.root, self.name, [path for path in paths if path not in self._read]
        )

    def document(self, called: str) -> Mapping[str, Any]:
        """The plain values of params.yaml, named ``called`` in refusals. Raises ParamsRefused, also if missing."""
        return self._parse(called).value

    def _parse(self, called: str) -> params_file.Parsed:
        if self._parsed is None:
            text = self.data(layout.PARAMS)
            if text is None:
                raise ParamsRefused(
                    f"{called}: is not there", "name a commit of a repository that Lockstep runs in"
                )
            try:
                self._parsed = params_file.read_text(text.decode(), called)
            except UnicodeDecodeError as error:
                raise ParamsRefused(
                    f"{called}: is not UTF-8", "restore the file from git"
                ) from error
        return self._parsed._replace(name=called)

    def params(self, called: str) -> "Params":
        """The parameters. Raises as ``document``, and ParamsRefused with every problem."""
        if self._params is None:
            self._params = params_file.check(self._parse(called))
        return self._params

    def params_with(self, called: str, defaults: Mapping[str, JsonValue]) -> "Params":
        """The parameters, with other defaults, by path, where params.yaml writes nothing. Raises as ``params``."""
        from checks.decision import policy

        parsed = self._parse(called)
        try:
            value = policy.with_defaults(parsed.value, defaults)
        except (ValueError, LookupError) as error:
            raise ParamsRefused(
                f"{called}: has no place for the defaults in {layout.CODE_LOCK}: {error}",
                "run `lockstep run` there, and commit the record",
            ) from error
        return params_file.check(parsed._replace(value=value))

    def sections(self, kind: type[M], called: str, todo: str) -> M:
        """The sections of params.yaml that ``kind`` has; the others may be invalid or of another version.

        ``todo``: how to fix them. Raises ParamsRefused if they are invalid, EvidenceRefused for a link.
        """
        try:
            return kind.model_validate(self.document(called))
        except ValidationError as error:
            raise ParamsRefused(
                f"{called}: {files.first(error).partition('|')[0]}", todo
            ) from error
        except ParamsRefused as refused:
            raise ParamsRefused(refused.what, todo) from refused

    @functools.cached_property
    def serve(self) -> Serve:
        """The section serve of this record. Raises as ``sections``, or EvidenceRefused if the commit is missing."""
        return self.sections(
            _Served,
            f"{layout.PARAMS} at {self.name[:12]}",
            "fetch the commit that made the model, and use the version that wrote it",
        ).serve

    def runtime(self, name: str) -> "Runtime":
        """The runtime ``name`` as it was in this commit. Raises as ``lookup.at``."""
        from release.runtimes import lookup

        if name not in self._runtimes:
            self._runtimes[name] = lookup.at(self.root, self.name, name)
        return self._runtimes[name]

    def lock(self, called: str) -> pipeline_lock.Stages:
        """The stages of dvc.lock; empty if there is no such file. Raises EvidenceRefused if it is invalid."""
        if self._lock is None:
            data = self.data(layout.LOCK)
            self._lock = {} if data is None else pipeline_lock.stages(data, called)
        return self._lock

    def report(self, path: Path, model: type[M]) -> M | None:
        """The report at ``path``; None if there is none. Raises ValidationError if it is not a valid ``model``."""
        if (path, model) not in self._models:
            text = self.data(path)
            self._models[path, model] = None if text is None else model.model_validate_json(text)
        report = self._models[path, model]
        assert report is None or isinstance(report, model)
        return report

    def readable(self, path: Path, model: type[M]) -> M | None:
        """Return the report at ``path``; None if it is missing, no valid ``model``, or a link."""
        try:
            return self.report(path, model)
        except (EvidenceRefused, ValidationError):
            return None

    def needed(self, path: Path, model: type[M], unfit: str, missing: str) -> M:
        """As ``report``. Raises EvidenceRefused, with what fixes it, if it is not valid (``unfit``) or ``missing``."""
        called = f"{path} at {self.name[:12]}"
        try:
            report = self.report(path, model)
        except ValidationError as error:
            raise files.unfit(called, error, unfit) from error
        if report is None:
            raise EvidenceRefused(f"{called}: is missing", missing)
        return report


class Records:
    """The records of the clone at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work_tree = WorkTree(root)
        self.git = Git(root, None)
        self._commits: dict[str, Commit] = {}
        self._targets: dict[str | None, tuple[str, str | None]] = {}

    def target(self, name: str | None = None) -> tuple[str, str | None]:
        """As ``commits.target``, asked once: a branch that moves meanwhile does not change the answer."""
        if name not in self._targets:
            self._targets[name] = commits.target(self.root, name)
        return self._targets[name]

    @functools.cached_property
    def head(self) -> str | None:
        """The commit of HEAD, asked once; None before the first commit and without git."""
        return commits.resolve(self.root, "HEAD") if commits.has_repository(self.root) else None

    def at(self, commit: str) -> Commit:
        """The record in a commit, by its full hash."""
        return self._commits.setdefault(commit, Commit(self.root, commit))
