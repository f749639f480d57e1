"""params.yaml as strict, frozen models; ``checks.config.params_file`` reads the file into them."""

import functools
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, create_model

from checks.config.data_sources import Data
from checks.config.monitor import Monitor
from checks.config.pipeline_params import Base, Evaluate, Merge, Prepare, Validate
from checks.config.release_params import EXCUSABLE, Promote, Serve, TrainBudget
from checks.evaluation import scoring
from checks.formats.decoding import draws
from checks.formats.engines import LlamaCpp
from checks.formats.evaluation_reports import EARLIER
from checks.formats.report import UNQUANTISED
from checks.kinds.gate import Gate, GateParams, ScoreGate, decided_at
from checks.kinds.method import Train
from checks.kinds.section import SECTIONS
from checks.kinds.suite import Suite
from checks.process.errors import MachineRefused
from checks.records.sections import (
    Name,
    Positive,
    Section,
    problems,
    stricter,
)
from checks.records.sections import Source as Source
from checks.storage import layout
from checks.training import preferences, quantization, steps


class Tracking(Section):
    """Where MLflow stores runs, and who else gets their curves. It has no effect on results."""

    uri: Annotated[
        str,
        Field(
            min_length=1,
            description="address of the store; the variable MLFLOW_TRACKING_URI takes precedence",
        ),
    ] = "sqlite:///.lockstep/mlflow.db"
    experiment: Annotated[str, Field(min_length=1, description="name of the experiment")] = (
        "lockstep"
    )
    also: Annotated[
        tuple[Literal["tensorboard", "wandb"], ...],
        Field(
            strict=False,
            description="trackers beside MLflow, which get the curves of training; each is an extra",
        ),
    ] = ()

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        return problems(
            (
                len(set(self.also)) < len(self.also),
                f"also: {', '.join(self.also)} has one twice|name each tracker once",
            )
        )


class Sealed(Section):
    """Encrypted test rows, the gates that decide on them, and how many models they may judge
    (``checks.config.sealed``)."""

    sha256: Annotated[
        str,
        Field(
            pattern=r"^[0-9a-f]{64}$",
            description=f"SHA-256 of {layout.SEALED}, which `lockstep sealed new` writes",
        ),
    ]
    rows: Annotated[Positive, Field(description="how many rows that file has")]
    # No direction is stricter, as for looks.most.
    max_looks: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="models that it may judge; each gets that share of a gate's error",
        ),
    ]
    gates: Annotated[
        dict[Name, Gate],
        Field(
            min_length=1, description="as the section gates, of its rows; one of kind contamination"
        ),
    ]

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        for name, gate in self.gates.items():
            against = getattr(gate, "against", None)
            yield from problems(
                (
                    gate.reads == "no rows"
                    or (isinstance(gate, ScoreGate) and gate.suite is not None),
                    f"gates.{name}: asks nothing of these rows|move it to the section gates",
                ),
                (
                    against is not None and against not in EARLIER,
                    f"gates.{name}.against: {against!r} does not answer these rows|use one of {', '.join(EARLIER)}",
                ),
            )
        yield from problems(
            (
                all(gate.kind != "contamination" for gate in self.gates.values()),
                "gates: none is of kind contamination|add one: training may not have seen these rows",
            ),
        )
        for name, gate in self.decided.items():
            needed = getattr(
                gate, "rows_needed", 0
            )  # A threshold needs rows for its share of the error.
            if needed > self.rows:
                yield (
                    f"gates.{name}.resolution: {self.rows} rows cannot give it for {self.max_looks} looks|"
                    f"widen it, or seal {needed} rows"
                )

    @property
    def decided(self) -> dict[str, Gate]:
        """Return the gates at the confidence at which they decide: equal shares of their error, as for a test split."""
        return decided_at(self.gates, self.max_looks)


def _unwritten(path: str, value: Any, written: Any) -> Iterator[tuple[str, JsonValue]]:
    """Yield each value of a resolved document that ``written`` lacks, by path; None: it lacks all of it."""
    start = f"{path}." if path else ""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _unwritten(f"{start}{key}", part, (written or {}).get(key))
    elif isinstance(value, list) and isinstance(written, list):
        for index, pair in enumerate(zip(value, written, strict=True)):
            yield from _unwritten(f"{start}{index}", *pair)
    elif written is None:
        yield path, value


class Params(Section):
    """All of params.yaml."""

    base: Base
    data: Data
    prepare: Prepare
    validate_: Annotated[Validate, Field(alias="validate")]
    training: Annotated[steps.Training, Field(alias="train")]
    train_budget: TrainBudget = TrainBudget()
    merge: Merge = Merge(base="trained")
    evaluate: Evaluate
    suites: Annotated[
        dict[Name, Suite],
        Field(default_factory=dict, description="what a gate may name beside the test rows"),
    ]
    tracking: Tracking = Tracking()
    serve: Serve
    promote: Promote
    monitor: Monitor = Monitor()
    gates: Annotated[dict[Name, Gate], Field(min_length=1)]
    sealed: Annotated[
        Sealed | None,
        Field(
            description="an encrypted test split that nobody reads: docs/how-to/sealed.md; null: there are none"
        ),
        stricter("section"),
    ] = None

    @property
    def train(self) -> Train:
        """Return the section train of a training that has one step. What can be in several reads ``training``."""
        if isinstance(self.training, steps.Steps):
            raise TypeError(f"there are {len(self.training.steps)} steps")
        return self.training

    @property
    def for_gates(self) -> GateParams:
        """Return the parameters that say whether a gate can ever be decided."""
        return GateParams(
            suites=self.suites,
            scored=[*scoring.metrics(self.evaluate.scorers, draws(self.evaluate.decoding))],
            baselines=self.evaluate.baselines,
            test_rows=self.validate_.min_rows.test,
            personal_data=self.prepare.personal_data,
            quantised=self.merge.quantization is not None
            or isinstance(self.evaluate.engine, LlamaCpp),
            thinks=self.base.thinking is not None,
        )

    def resolved(self) -> dict[str, Any]:
        """Return the parameters with their defaults, as params.yaml would say them."""
        return self.model_dump(mode="json", by_alias=True, serialize_as_any=True)

    def written(self) -> dict[str, Any]:
        """Return the parameters without their defaults, as params.yaml says them."""
        return self.model_dump(
            mode="json", by_alias=True, serialize_as_any=True, exclude_unset=True
        )

    def unwritten(self) -> dict[str, JsonValue]:
        """Return the values that are defaults, because params.yaml does not write them, each by its path.

        What is off by default (null, false, 0, an empty list) is there too.
        """
        return dict(_unwritten("", self.resolved(), self.written()))

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        yield from self._contradicting_numbers()
        yield from self._contradicting_adapter()
        yield from self._contradicting_schemas()
        yield from filter(None, self._impossible())
        yield from self._contradicting_environments()

    def _contradicting_numbers(self) -> Iterator[str]:
        rows = self.validate_
        serve = self.serve
        room = rows.max_prompt_tokens + rows.max_reference_tokens
        of_rows = [step.max_length for step in steps.of(self.training) if not step.of_documents]
        shortest = min(of_rows, default=room)
        documents = steps.without_documents(self.training, self.data.documents)
        learned = preferences.learned(steps.columns(self.training))
        answer = serve.max_total_tokens - serve.max_input_tokens
        longest = max(self.evaluate.max_new_tokens, serve.probes.max_new_tokens)
        thinking, reasoning = self.base.thinking, serve.reasoning
        mark = reasoning and (reasoning.begins, reasoning.ends)
        served, judged = serve.decoding, self.evaluate.decoding
        sampling = (judged.temperature, judged.top_p) if judged else (0.0, 1.0)
        drafts = serve.speculation is not None and serve.speculation.kind == "draft"
        return problems(
            (
                shortest < room,
                (
                    f"train.max_length: {shortest} would cut rows that validate lets through (up to {room} "
                    f"tokens)|raise it to {room}, or lower validate.max_prompt_tokens or validate.max_reference_tokens"
                ),
            ),
            (documents, documents or ""),
            (
                learned and rows.preferences is None,
                (
                    f"validate.preferences: is not written, and train.method {steps.named(self.training)} learns from "
                    f"{' and '.join(learned)}|write validate.preferences: {{max_length_bias: 0.15, max_auc: 0.75}}"
                ),
            ),
            (
                self.evaluate.max_new_tokens < rows.max_reference_tokens,
                (
                    f"evaluate.max_new_tokens: {self.evaluate.max_new_tokens} cannot reach a reference of "
                    f"{rows.max_reference_tokens} tokens|raise it to validate.max_reference_tokens or more"
                ),
            ),
            (
                serve.max_input_tokens < rows.max_prompt_tokens,
                (
                    f"serve.max_input_tokens: {serve.max_input_tokens} is below prompts that validate lets through|"
                    f"raise it to validate.max_prompt_tokens, {rows.max_prompt_tokens}, or more"
                ),
            ),
            (
                answer < longest,
                (
                    f"serve.max_total_tokens: leaves {answer} tokens for an answer, and answers of {longest} are asked "
                    f"for|raise it to {serve.max_input_tokens + longest} or more"
                ),
            ),
            (
                reasoning and thinking is not None and thinking.mode == "never",
                "serve.reasoning: base.thinking.mode is never, so there is no thought|remove serve.reasoning",
            ),
            (
                mark is not None and thinking is not None and mark != thinking.marks,
                "serve.reasoning: its marks are not those of base.thinking|set begins and ends to base.thinking.marks",
            ),
            (
                served is not None and (served.temperature, served.top_p) != sampling,
                (
                    "serve.decoding: is not what the gates judged by evaluate.decoding|"
                    f"write {{temperature: {sampling[0]:g}, top_p: {sampling[1]:g}}}"
                ),
            ),
            (
                drafts and self.merge.draft is None,
                "serve.speculation.kind: draft needs a second model|write its uri, sha256 and license into merge.draft",
            ),
            (
                self.merge.draft is not None and not drafts,
                "merge.draft: nothing uses it|remove it, or set serve.speculation.kind to draft",
            ),
        )

    def _contradicting_adapter(self) -> Iterator[str]:
        room, ships = self.serve.adapter, self.merge.form == "adapter"
        if not ships or room is None:
            yield from problems(
                (
                    ships,
                    "serve.adapter: is null, and merge.form adapter ships one|write {max_rank: 16}",
                ),
                (
                    room is not None,
                    "serve.adapter: merge.form is merged, so no adapter ships|remove it, or set merge.form to adapter",
                ),
            )
            return
        for lora in (step.lora for step in steps.of(self.training)):
            if lora is None:
                yield "merge.form: adapter ships LoRA, and train.full trains the base itself|set it to merged"
                continue
            no_lora = "servers add plain LoRA to a base"
            yield from problems(
                (
                    lora.variant == "dora",
                    f"train.lora.variant: dora: {no_lora}|use lora or rslora, or set merge.form to merged",
                ),
                (
                    lora.modules_to_save,
                    f"train.lora.modules_to_save: {no_lora}|empty it, or set merge.form to merged",
                ),
                (
                    lora.r > room.max_rank,
                    f"serve.adapter.max_rank: {room.max_rank} is below train.lora.r|raise it to {lora.r} or more",
                ),
            )

    def _contradicting_schemas(self) -> Iterator[str]:
        """Yield why answers cannot be made to fit a JSON Schema, or would not be those that clients get."""
        schema, promised = self.evaluate.json_schema, self.serve.json_schema
        thinks = self.base.thinking is not None and self.base.thinking.mode != "never"
        served = {"evaluate": True} if schema is not None else {}
        for name, suite in self.suites.items():
            if suite.answer_schema is not None:
                served[f"suites.{name}"] = suite.served_tokens is not None
        for place, is_served in served.items():
            yield from problems(
                (
                    self.evaluate.engine,
                    f"{place}.json_schema: only transformers answers by one|remove it, or evaluate.engine",
                ),
                (
                    thinks,
                    f"{place}.json_schema: a thought is no JSON|remove it, or set base.thinking.mode to never",
                ),
                (
                    is_served and promised is None,
                    f"{place}.json_schema: the server is asked for it, and serve.json_schema is null|write it there",
                ),
            )
        if schema is not None and promised is not None and json.loads(schema) != promised:
            yield (
                "evaluate.json_schema: is not serve.json_schema, so gates would judge other answers than clients get|"
                "write the same schema in both"
            )

    def _impossible(self) -> Iterator[str | None]:
        """Yield why a suite or a gate can never be decided; None for one that can."""
        yield quantization.problem(self.merge.quantization, self.suites, self.gates)
        if isinstance(self.evaluate.engine, LlamaCpp):
            yield from self._contradicting_file()
        yield from (suite.impossible(name, self.suites) for name, suite in self.suites.items())
        decided = decided_at(self.gates)
        for name, gate in self.gates.items():
            # A policy of before the tests of suites were divided still loads: its gates say how many samples they need.
            of_suite = isinstance(gate, ScoreGate) and gate.suite is not None
            yield (gate if of_suite else decided[name]).impossible(name, self.for_gates)
        for name, gate in (self.sealed.gates if self.sealed else {}).items():
            problem = gate.impossible(name, self.for_gates) or ""
            # A gate's complaint about `validate` is reported there; the others are about the test rows.
            yield f"sealed.{problem}" if problem and not problem.startswith("validate.") else None

    def _contradicting_file(self) -> Iterator[str]:
        """Yield the contradictions of ``evaluate.engine.kind: llamacpp``, which answers from the GGUF file."""
        merge, start = self.merge, "evaluate.engine: llamacpp answers from the GGUF file"
        gate = f"{{kind: non_inferior, metric: METRIC, against: {UNQUANTISED}, margin: 0.02, confidence: 0.95}}"
        is_held = any(
            getattr(gate, "against", None) == UNQUANTISED
            for gate in self.gates.values()
            if gate.kind in ("non_inferior", "slice") and getattr(gate, "suite", None) is None
        )
        return problems(
            (
                not merge.export,
                (
                    f"{start}, and merge.export is null|"
                    "write merge.export (docs/how-to/gguf.md), or remove evaluate.engine"
                ),
            ),
            (
                merge.quantization,
                f"{start}, so no gate would judge the weights of merge.quantization|remove one of the two",
            ),
            (
                not is_held,
                (
                    "evaluate.engine: no gate rules out that the GGUF file lost on the test rows|"
                    f"add gates.file_loses_nothing: {gate}"
                ),
            ),
        )

    def _contradicting_environments(self) -> Iterator[str]:
        for name, environment in self.promote.environments.items():
            place = f"promote.environments.{name}"
            yield from problems(
                (
                    environment.sealed and self.sealed is None,
                    f"{place}.sealed: there is no sealed split|write the section sealed, or false",
                )
            )
            for gate in environment.emergency.gates if environment.emergency else ():
                kind = self.gates[gate].kind if gate in self.gates else None
                why = f"nobody may except kind {kind}" if kind else "there is no such gate"
                yield from problems(
                    (
                        kind not in EXCUSABLE,
                        f"{place}.emergency.gates: {gate}: {why}|name gates of kind {', '.join(sorted(EXCUSABLE))}",
                    )
                )


@functools.cache
def model() -> type[Params]:
    """Return the model of all of params.yaml, with the sections that packages and the team add.

    Raises MachineRefused if one is called like a section of Lockstep.
    """
    aliases = (field.alias for field in Params.model_fields.values())
    if twice := sorted({*SECTIONS.names} & {*dir(Params), *Params.model_fields, *aliases}):
        raise MachineRefused(
            f"a package or a file of {layout.KINDS}/ adds the section {twice[0]!r}, which Lockstep has",
            "rename it there",
        )
    added: dict[str, Any] = {
        name: (SECTIONS.annotation(name) | None, None) for name in SECTIONS.names
    }
    return create_model("Params", __base__=Params, **added) if added else Params
