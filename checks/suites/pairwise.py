"""pairwise: which of two models' answers to a row is better, as people say of some rows and a judge of all.

Gates ask people's labels (metric ``human``), alone or assisted by the judge, and never the judge's mean: a judge that
likes long answers lets a worse model pass (docs/measurements/judges.md). ``lockstep label`` draws the rows and makes
the page that people label on. Rows are those of the test split, or the samples of ``suite``. All comparisons are
recorded in ``data/judgements/NAME.jsonl``, each with the digests of both answers. The lines of the suite have the
metric ``judge``, or ``differs`` where there is no judge: figures to read.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from checks.evaluation import comparisons
from checks.evaluation.answered import RatingSuite
from checks.evaluation.comparisons import Comparisons
from checks.formats import judgements, labels
from checks.formats.evaluation_reports import RELEASED
from checks.formats.labels import Verdict
from checks.formats.suite_report import (
    Anchored,
    Compared,
    Judgement,
    Role,
    Scale,
    Scored,
    SourceClass,
    asked_sha,
)
from checks.kinds.judge import Asked, Judge
from checks.kinds.suite import Draw, Made, Material, SuiteKind
from checks.process.errors import EvidenceRefused
from checks.records.rows import Message, Row
from checks.records.sections import Log, Share, Source, problems, stricter
from checks.storage import digest, files, layout

_LEAST = 100
_SCALE = Scale(low=0.0, high=1.0)


class Pairwise(RatingSuite):
    """Which of the answers of the candidate and of ``against`` is better: people say so of ``rows`` rows."""

    kind: Literal["pairwise"]
    question: Annotated[
        str, Field(min_length=1, description="what people are asked about two answers")
    ]
    against: Annotated[
        Literal["base", "main", "production", "best"],
        Field(description="whose answers are compared with the candidate's"),
    ]
    rows: Annotated[
        int, Field(ge=_LEAST, description="rows that people label, drawn at random; equal answers are a tie"),
        stricter("higher"),
    ]  # fmt: skip
    seed: Annotated[int, Field(ge=0, description="of the draw")]
    labels: Annotated[
        Log | None, Field(description="people's labels, from `lockstep label`; null: none yet")
    ]
    judge: Annotated[
        Judge | None,
        Field(description="compares all answers that differ; null: people alone"),
    ] = None
    anchor: Annotated[
        Log | None,
        Field(
            description="pairs of answers with people's label that the judge answers at each release"
        ),
    ] = None
    max_unparsed: Annotated[
        Share,
        Field(description="share of comparisons that the judge may leave without a verdict"),
        stricter("lower"),
    ] = 0.02

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                self.judge is not None and not self.judge.compares,
                "judge: says what one answer is worth|show it both: $left and $right in its prompt",
            ),
            (
                self.anchor is not None and self.judge is None,
                "anchor: there is no judge to answer it|add judge, or remove anchor",
            ),
        )

    @property
    def scales(self) -> Mapping[str, Scale]:
        """Figures to read; no gate asks them."""
        return {"judge" if self.judge else "differs": _SCALE}

    @property
    def evidence(self) -> SourceClass:
        """That of the lines."""
        return "judge" if self.judge else "pure"

    @property
    def sources(self) -> Mapping[str, Source]:
        """Return the labels, the anchor, and the judge's files."""
        own = {
            name: source
            for name, source in (("labels", self.labels), ("anchor", self.anchor))
            if source
        }
        return own | {
            f"judge.{name}": source
            for name, source in (self.judge.sources if self.judge else {}).items()
        }

    @property
    def scores_of(self) -> Sequence[Role]:
        """Return the two models."""
        return "candidate", self.against

    @property
    def judged_by(self) -> str | None:
        """Return the kind of ``judge``."""
        return self.judge.kind if self.judge else None

    @property
    def draw(self) -> Draw:
        """As it is declared."""
        return Draw(self.seed, self.rows)

    def impossible(self, name: str, suites: Mapping[str, SuiteKind]) -> str | None:
        """Return the other suite must have the rows that are drawn, too."""
        if problem := super().impossible(name, suites):
            return problem
        if self.suite is None or (size := suites[self.suite].size(0)) >= self.rows:
            return None
        return (
            f"suites.{name}.rows: suite {self.suite} has {size} samples, and people label {self.rows}|"
            f"add {self.rows - size} to it" + (f", or set rows to {size}" if size >= _LEAST else "")
        )

    def other(self, answered: Collection[str]) -> Role | None:
        """Return the model that the candidate is compared with; None: it has no answers.

        As for gates, main stands in for production until something runs there.
        """
        stands_in: tuple[Role, ...] = (
            (self.against, "main") if self.against in RELEASED else (self.against,)
        )
        return next((role for role in stands_in if role in answered), None)

    def scored(self, material: Material) -> Made:
        """Take the labels that are about these answers, and ask the judge about all answers that differ."""
        role = self.other(material.answers)
        ours, theirs = (material.answers[model or "candidate"] for model in ("candidate", role))
        our_shas, their_shas = (
            {row: judgements.answer_sha(text) for row, text in texts.items()}
            for texts in (ours, theirs)
        )
        people = self._people(material, our_shas, their_shas)
        asked = [
            pair
            for row in material.rows
            for pair in _both_orders(row, ours[row.id], theirs[row.id])
        ]
        anchor = self._anchor(material)
        verdicts = self._ask(
            [*asked, *(question for pair, _ in anchor for question in pair)], material
        )
        judged = [*people, *verdicts[: len(asked)]]
        if wrong := judgements.problem(judged, material.answers):
            raise EvidenceRefused(
                f"{self._at(material)}.judge: judgement {wrong}", "let it compare these answers"
            )
        compared = comparisons.of(material.rows, our_shas, their_shas, judged, self.draw)
        self._hold(material, compared.unparsed, compared.differ, "comparisons")
        several = comparisons.several(people)
        alpha = comparisons.alpha(several)
        return Made(
            self._figures(material, role, compared, [ours[row.id] != theirs[row.id] for row in material.rows]),
            judged,
            compared=Compared(
                against=role or self.against, differ=compared.differ, drawn=compared.drawn,
                labelled=compared.drawn - len(compared.missing), flips=compared.flips, unparsed=compared.unparsed,
                several=len(several), alpha=None if alpha is None else round(alpha, 6),
                anchor=self._anchored(material, anchor, verdicts[len(asked) :]),
            ),
        )  # fmt: skip

    def _figures(
        self, material: Material, role: Role | None, compared: Comparisons, differ: Sequence[bool]
    ) -> dict[Role, list[Scored]]:
        """Return the lines: the judge's mean of each model, or the share of answers that differ."""
        (metric,) = self.scales
        models: list[tuple[Role, int]] = [("candidate", 1), *([(role, -1)] if role else [])]
        return {
            model: [
                Scored(
                    sample=row.id, sample_sha=asked_sha(row.messages, row.reference, row.tools),
                    model=material.models[model], metric=metric, group=row.group, slice=row.slice,
                    value=(1 + sign * float(compared.judge[at])) / 2 if self.judge else float(differ[at]),
                )
                for at, row in enumerate(material.rows)
            ]
            for model, sign in models
        }  # fmt: skip

    def _at(self, material: Material) -> str:
        return f"{layout.PARAMS}: suites.{material.name}"

    def _people(
        self, material: Material, ours: Mapping[str, str], theirs: Mapping[str, str]
    ) -> list[Judgement]:
        """Return the labels that are about these answers. Those of earlier answers count for nothing."""
        given = (
            labels.read(material.files["labels"], f"{self._at(material)}.labels")
            if self.labels
            else ()
        )
        return [
            label.judgement
            for label in given
            if {label.left_sha, label.right_sha} == {ours.get(label.row), theirs.get(label.row)}
        ]

    def _ask(self, asked: Sequence[Asked], material: Material) -> list[Judgement]:
        """A judgement for each of ``asked``, in order; one without a value where the judge gave none."""
        if self.judge is None:
            return []
        given = {
            (judgement.sample, judgement.answer_sha, judgement.other_sha): judgement
            for judgement in self.judge.judge(asked, _SCALE, material)
        }
        judgements = []
        for question in asked:
            if (
                judgement := given.get((question.row.id, question.sha, question.other_sha))
            ) is None:
                raise EvidenceRefused(
                    f"{self._at(material)}.judge: compares no answers to row {question.row.id!r}",
                    "repair the judge: it must return one judgement for each question",
                )
            judgements.append(judgement.model_copy(update={"by": "judge"}))
        return judgements

    def _hold(self, material: Material, unparsed: int, of: int, what: str) -> None:
        if unparsed > self.max_unparsed * of:
            raise EvidenceRefused(
                f"{self._at(material)}.judge: {unparsed} of {of} {what} have no verdict, at most "
                f"{self.max_unparsed:.1%} may",
                f"see what it said in {layout.JUDGED}, and correct its prompt or its value",
            )

    def _anchor(self, material: Material) -> list[tuple[list[Asked], Verdict]]:
        """Return the questions of each line of the anchor, and people's label."""
        if self.anchor is None:
            return []
        path, key = material.files["anchor"], f"{self._at(material)}.anchor"
        lines = files.read_pinned(
            path, labels.Anchor, key, "pin lines with id, prompt, left, right and label"
        )
        pairs = []
        for number, line in enumerate(lines, 1):
            row = Row(
                id=f"anchor {number}", messages=(Message(role="user", content=line.prompt),), reference=line.reference,
                group="anchor", slice="anchor", source="",
            )  # fmt: skip
            if not (pair := _both_orders(row, line.left, line.right)):
                raise EvidenceRefused(
                    f"{key}: {number}: both answers are the same", "remove the line"
                )
            pairs.append((pair, line.label))
        if not pairs:
            raise EvidenceRefused(
                f"{key}: has no lines", "pin some 200 pairs of answers with people's label"
            )
        return pairs

    def _anchored(
        self,
        material: Material,
        anchor: Sequence[tuple[Sequence[Asked], Verdict]],
        verdicts: Sequence[Judgement],
    ) -> Anchored | None:
        """How often the judge agrees with people on the anchor, now and in main's last record."""
        if not anchor:
            return None
        agrees, flips, unparsed = "", 0, 0
        for number, (_, label) in enumerate(anchor):
            first, second = (judgement.value for judgement in verdicts[2 * number : 2 * number + 2])
            if first is None or second is None:
                unparsed += 1
                verdict = None
            else:
                flips += first != 1 - second
                verdict = first if first == 1 - second else 0.5
            agrees += "1" if verdict == labels.VALUES[label] else "0"
        self._hold(material, unparsed, len(anchor), "pairs of the anchor")
        assert self.judge is not None  # else there is no anchor
        sha = digest.of_file(material.files["anchor"]).sha256
        judge = digest.of_json(self.judge.model_dump(mode="json"))
        last = material.earlier.get(material.name)
        before = last.compared.anchor if last and last.compared else None
        same = before if before and (before.anchor, before.judge) == (sha, judge) else None
        return Anchored(
            anchor=sha, judge=judge, agrees=agrees, flips=flips, unparsed=unparsed,
            before=same.agrees if same else None, commit=material.earlier_commit if same else None,
        )  # fmt: skip


def _both_orders(row: Row, one: str, two: str) -> list[Asked]:
    """Return the two questions about two answers; none where they are equal."""
    if one == two:
        return []
    first, second = judgements.answer_sha(one), judgements.answer_sha(two)
    return [Asked(row, one, first, two, second), Asked(row, two, second, one, first)]
