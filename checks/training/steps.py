"""Training in steps: methods that one adapter goes through, each going on from the adapter of the step before.

``train.steps`` of params.yaml lists them: ``[{method: sft, ...}, {method: dpo, ...}]``. What is written beside
``steps`` holds for all of them, and a step may write its own. ``train.method`` is then the list of the methods:
prepare and validate depend on that line alone, so that another learning rate does not make the data anew. A method
without steps is a training of one step, and ``of`` gives that for both forms.

All steps share the rows of the train split. A step learns from those rows that have its columns: where a column that
not every step needs is null, the row is of another step. Documents are for the methods that learn from them alone.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails

from checks.kinds.method import METHODS, AnyTrain, Train
from checks.records.rows import Row
from checks.records.sections import Section, problems

_ONE_BASE = "all steps train one adapter on one base"
_OF_ALL = {
    "lora": _ONE_BASE,
    "precision": _ONE_BASE,
    "quantization": _ONE_BASE,
    "devices": "all steps train on as many devices",
    "start": "only the first step starts from it",
}
_METHOD: TypeAdapter[Train] = TypeAdapter(AnyTrain)
_SHARED = {name: field for name, field in Train.model_fields.items() if name != "method"}


class Steps(Section):
    """Several methods on one adapter, one after the other.

    Beside ``steps`` stands what all steps share. A step has the keys of its method, and may write a shared one anew.
    ``lora``, ``precision``, ``quantization``, ``devices`` and ``start`` are shared by all; ``shard`` and ``full`` are
    not offered.
    """

    method: Annotated[
        tuple[str, ...],
        Field(
            strict=False,
            description="the methods of the steps, in order: prepare and validate depend on this line",
        ),
    ]
    steps: Annotated[tuple[SerializeAsAny[Train], ...], Field(strict=False)]

    @model_validator(mode="before")
    @classmethod
    def _with_shared(cls, value: Any) -> Any:
        """Give each step the keys beside ``steps``. Raises ValidationError whose places are those of the file."""
        if not isinstance(value, dict):
            return value
        steps = value.get("steps")
        if (
            not isinstance(steps, list)
            or len(steps) < 2
            or not all(isinstance(step, dict) for step in steps)
        ):
            raise ValueError(
                "steps: is not a list of two steps or more|"
                "write steps: [{method: sft}, {method: dpo, ...}], or one method without steps"
            )
        if problems := [*_misplaced(value), *_unfit(value)]:
            raise ValidationError.from_exception_data(cls.__name__, problems)
        return {
            "method": value["method"],
            "steps": tuple(_METHOD.validate_python(_merged(value, step)) for step in steps),
        }

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler.resolve_ref_schema(handler(_as_written().__pydantic_core_schema__))


def _form(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "in steps" if "steps" in value or isinstance(value.get("method"), list) else "at once"
        )
    return "in steps" if isinstance(value, Steps) else "at once"


Training = Annotated[
    Annotated[AnyTrain, Tag("at once")] | Annotated[Steps, Tag("in steps")],
    Discriminator(_form),
]
_READER: TypeAdapter[Train | Steps] = TypeAdapter(Training, config=ConfigDict(defer_build=True))


def read(section: object) -> Train | Steps:
    """Return the section train of a params.yaml, or of a record of one. Raises ValidationError."""
    return _READER.validate_python(section)


def of(train: Train | Steps) -> tuple[Train, ...]:
    """Return the steps in order, each with all of its parameters."""
    return train.steps if isinstance(train, Steps) else (train,)


def names(train: Train | Steps) -> tuple[str, ...]:
    """Return the methods of the steps, in order."""
    return tuple(step.method for step in of(train))


def named(train: Train | Steps) -> str:
    """``train.method`` as messages name it."""
    return " and ".join(repr(method) for method in names(train))


def columns(train: Train | Steps) -> tuple[str, ...]:
    """Return the columns of ``Row.extra`` that a step or more needs."""
    return tuple(dict.fromkeys(name for step in of(train) for name in step.extra()))


def in_some_rows(train: Train | Steps) -> tuple[str, ...]:
    """Return those of the columns that not every step needs. Where one is null, the row is of another step."""
    of_rows = [step for step in of(train) if not step.of_documents]
    return tuple(
        name for name in columns(train) if not all(name in step.extra() for step in of_rows)
    )


def rows_of(step: Train, some: Sequence[str], rows: Sequence[Row]) -> list[Row]:
    """Return the rows that a step learns from; ``some``: what ``in_some_rows`` gives."""
    needed = [name for name in step.extra() if name in some]
    of_its_kind = [row for row in rows if row.document == step.of_documents]
    return [
        row
        for row in of_its_kind
        if not needed or any(row.extra.get(name) is not None for name in needed)
    ]


def without_documents(train: Train | Steps, sources: Sequence[str]) -> str | None:
    """Return what is wrong where a step learns from documents and no source has any, or the other way about."""
    learning = [step.method for step in of(train) if step.of_documents]
    wrong = problems(
        (
            learning and not sources,
            (
                f"train.method: {', '.join(learning[:1])} learns from documents, and no source has any|add a source "
                "with loader.kind documents to data.sources"
            ),
        ),
        (
            sources and not learning,
            (
                f"data.sources.{', '.join(sources[:1])}: has documents, and no step of the training learns from "
                "them|write train.steps that begin with method: cpt, or remove the source"
            ),
        ),
    )
    return next(wrong, None)


def _merged(value: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in ("method", "steps")} | step


def _misplaced(value: dict[str, Any]) -> Iterator[InitErrorDetails]:
    """Keys that stand among all steps' and are one method's, or the other way about; and a wrong list of methods."""
    written = [step.get("method") for step in value["steps"]]
    if value.get("method") != written and all(isinstance(method, str) for method in written):
        listed = f"[{', '.join(written)}]"
        is_now = f"is {value['method']!r}" if "method" in value else "is not written"
        yield _problem(
            f"method: {is_now}, and the steps are {listed}|"
            f"write method: {listed}: prepare and validate depend on this line"
        )
    for place, keys in (
        ((), value),
        *((("steps", number), step) for number, step in enumerate(value["steps"])),
    ):
        lora = keys.get("lora")
        wholes = isinstance(lora, dict) and lora.get("modules_to_save")
        offered_never: tuple[tuple[Any, str, tuple[str, ...]], ...] = (
            (
                keys.get("shard"),
                f"{keys.get('shard')} is not offered with train.steps: it was never tried|use null",
                ("shard",),
            ),
            (
                wholes,
                "is not offered with train.steps: a later step would start from it in the base's precision|use []",
                ("lora", "modules_to_save"),
            ),
            (
                keys.get("full"),
                "is not offered with train.steps: each hands an adapter on|use lora",
                ("full",),
            ),
        )
        yield from (
            _problem(text, (*place, *path))
            for is_written, text, path in offered_never
            if is_written
        )
    of_method = _parameters(value)
    for key in value.keys() - _SHARED.keys() - {"method", "steps"}:
        if of_methods := sorted(
            name for name, parameters in of_method.items() if key in parameters
        ):
            yield _problem(
                f"{key}: is a parameter of {' and '.join(of_methods)}, not of every method|move it into that step"
            )
    for number, step in enumerate(value["steps"]):
        for key, why in _OF_ALL.items():
            if key in step:
                yield _problem(f"{why}|move it beside train.steps", ("steps", number, key))


def _parameters(value: dict[str, Any]) -> dict[str, frozenset[str]]:
    """Return the parameters of each method. A method of the team's counts, and is loaded, if a step names it."""
    for step in value["steps"]:
        METHODS.kinds.get(str(step.get("method")))
    return {name: frozenset(method.model_fields) for name, method in METHODS.kinds.items()}


def _unfit(value: dict[str, Any]) -> Iterator[InitErrorDetails]:
    """Yield what each step's method says of its parameters, at the place where they are written, each once."""
    seen: set[tuple[Any, ...]] = set()
    owned = frozenset[str]().union(*_parameters(value).values())
    for number, step in enumerate(value["steps"]):
        if "method" not in step:
            yield InitErrorDetails(type="missing", loc=("steps", number, "method"), input=step)
            continue
        # ``_misplaced`` refuses the keys that no step may have.
        right = {key: item for key, item in step.items() if key not in _OF_ALL}
        merged = _merged(
            {key: item for key, item in value.items() if key in _SHARED or key not in owned}, right
        )
        if merged.get("shard"):
            del merged["shard"]
        try:
            _METHOD.validate_python(merged)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                inner = detail["loc"]
                mine = not inner or inner[0] in step or inner[0] not in value
                place = ("steps", number, *inner) if mine else inner
                if (place, detail["type"], detail["msg"]) not in seen:
                    seen.add((place, detail["type"], detail["msg"]))
                    yield InitErrorDetails(
                        type=detail["type"],
                        loc=place,
                        input=detail["input"],
                        ctx=detail.get("ctx", {}),
                    )


def _problem(text: str, place: tuple[str | int, ...] = ()) -> InitErrorDetails:
    return InitErrorDetails(
        type="value_error", loc=place, input=None, ctx={"error": ValueError(text)}
    )


def _as_written() -> Any:
    """Return the section as it is written, for the JSON schema: shared keys beside a list of steps."""
    methods: Any = Literal[METHODS.names]
    step: Any = create_model(
        "Step",
        __config__=ConfigDict(extra="allow"),
        __doc__="The keys of its method, and shared ones that it writes anew.",
        method=(methods, Field(description="the training method of this step")),
    )
    shared: dict[str, Any] = {
        name: (field.annotation, field)
        if name in _OF_ALL
        # mypy takes an annotation that is held in a variable for a plain object.
        else (field.annotation | None, Field(default=None, description=field.description))  # type: ignore[operator]
        for name, field in _SHARED.items()
    }
    described = Steps.model_fields["method"].description
    return create_model(
        "Steps",
        __config__=ConfigDict(extra="forbid"),
        __doc__=Steps.__doc__,
        method=(tuple[str, ...], Field(min_length=2, description=described)),
        steps=(tuple[step, ...], Field(min_length=2, description="the steps, in order")),
        **shared,
    )
