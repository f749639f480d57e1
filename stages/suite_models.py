"""The models that suites ask: the candidate, its base, and the models of earlier commits, each by its digest.

In:  reports/parity.json and reports/references.json, which say which models there are; models/merged, models/base,
     models/unquantised, and the models of other commits, as DVC has them.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checks.config.pipeline_params import Evaluate
from checks.formats.evaluation_reports import ReferencesReport
from checks.formats.report import UNQUANTISED
from checks.formats.suite_report import Role
from checks.formats.training_reports import ParityReport
from checks.kinds.suite import Answered
from checks.process.errors import DataRefused, EvaluationRefused, EvidenceRefused
from checks.records.rows import Row
from checks.storage import files, layout
from stages import earlier_records, progress
from stages.inference import answers, thoughts
from stages.quality import chat_tokens


@dataclass(frozen=True)
class SuiteModels:
    """The models in ``root``; ``earlier`` has those that git names, ``digests`` the tree digest of each."""

    root: Path
    earlier: ReferencesReport
    digests: Mapping[Role, str]

    @classmethod
    def of(cls, root: Path) -> "SuiteModels":
        """Return the models that a suite can have scores of. Raises EvidenceRefused if a report is missing."""
        earlier = files.read_json(root / layout.REFERENCES, ReferencesReport)
        parity = files.read_json(root / layout.PARITY_REPORT, ParityReport)
        digests: dict[Role, str] = {"candidate": parity.merged, "base": parity.base}
        if parity.exported:
            digests[UNQUANTISED] = parity.exported.unquantised
        digests |= {name: reference.merged for name, reference in earlier.found.items()}
        return cls(root, earlier, digests)

    @contextmanager
    def weights(self, role: Role) -> Iterator[Path]:
        """Yield the model's directory, once it has its digest."""
        with self._folder(role) as folder:
            actual = progress.tree_digest(folder, role)
            if actual != self.digests[role]:
                raise EvidenceRefused(
                    f"{folder}: is {actual[:19]}…, the {role} is {self.digests[role][:19]}…",
                    "run `./lockstep run merge`",
                )
            yield folder

    @contextmanager
    def _folder(self, role: Role) -> Iterator[Path]:
        """Yield the model's directory; that of an earlier model as DVC has it."""
        if role == "candidate":
            yield self.root / layout.MERGED
        elif role == "base":
            yield self.root / layout.BASE
        elif role == UNQUANTISED:
            yield self.root / layout.UNQUANTISED
        else:
            commit = self.earlier.found[role].commit
            with earlier_records.brought(self.root, role, commit, layout.MERGED) as folder:
                yield folder


@dataclass(frozen=True)
class SuiteQuestions:
    """The questions of one suite, named ``suite``, to the models.

    ``before``: the seconds that answers of before took then.
    """

    models: SuiteModels
    evaluate: Evaluate
    suite: str
    before: list[float] = field(default_factory=list)
    _scored: dict[tuple[str, str], Any] = field(default_factory=dict)

    def nats(self, role: Role, texts: Sequence[str], precision: str) -> list[float]:
        """Return the nats of each text by the model of ``role``. A model with two names is asked once."""
        from stages.inference import loss

        nats: list[float] = self._once(loss.nats, role, texts, precision)
        return nats

    def answer_nats(
        self, role: Role, asked: Sequence[Answered], precision: str
    ) -> Sequence[Sequence[Sequence[float]]]:
        """Return the nats of each token of each answer, as ``nats``."""
        from stages.inference import likelihood

        nats: list[list[list[float]]] = self._once(likelihood.nats, role, asked, precision)
        return nats

    def _once(self, score: Callable[..., Any], role: Role, asked: Any, precision: str) -> Any:
        key = (score.__module__, self.models.digests[role])
        if key not in self._scored:
            with self.models.weights(role) as folder:
                self._scored[key] = score(folder, precision, asked, role)
        return self._scored[key]

    def ask(self, role: Role, rows: Sequence[Row], max_new_tokens: int) -> Sequence[str]:
        """Answer ``rows`` greedily with the model of ``role``, reusing kept answers. Thoughts are left out."""
        root = self.models.root
        model = self.models.digests[role]
        settings = self.evaluate.model_copy(
            update={"max_new_tokens": max_new_tokens, "decoding": None}
        )
        conversations = [row.messages for row in rows]
        known = answers.known(root, settings, model, rows, conversations)
        if known is not None:
            self.before.extend([len(rows) / known.speed] if known.speed else [])
            return thoughts.divided(known, root / layout.MERGED).texts
        key = f"suites.{self.suite}.file"
        label = f"{role}, {self.suite}"
        try:
            with self.models.weights(role) as folder:
                self._hold_template(folder, [row for row in rows if row.has_calls])
                answered = answers.ask(
                    root, settings, folder, model, rows, conversations, label, Path(key)
                )
            return thoughts.divided(answered, root / layout.MERGED).texts
        except EvaluationRefused as refused:
            if not refused.what.startswith(f"{key}:"):
                raise

            def line(match: re.Match[str]) -> str:
                return f"{key}:{rows[int(match[1]) - 1].source.removeprefix('line:')}:"

            # A row may be asked twice.
            what = re.sub(rf"^{re.escape(key)}:([0-9]+):", line, refused.what)
            raise EvaluationRefused(
                f"{layout.PARAMS}: {what}",
                f"shorten or drop that row, or lower suites.{self.suite}.max_new_tokens",
            ) from refused

    def _hold_template(self, folder: Path, calling: Sequence[Row]) -> None:
        """Raise EvaluationRefused if the template of the model in ``folder`` leaves out tools or calls of rows."""
        if not calling:
            return
        try:
            chat_tokens.counter(folder)(calling)
        except DataRefused as refusal:
            raise EvaluationRefused(
                f"{layout.PARAMS}: suites.{self.suite}.file: {refusal.what}", refusal.todo
            ) from refusal
