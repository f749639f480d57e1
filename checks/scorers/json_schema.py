"""json-schema: the prediction is JSON that fits a schema, and where asked the reference's value."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from checks.formats import json_schema as schemas
from checks.kinds.scorer import ScorerKind
from checks.process.errors import ParamsRefused
from checks.records import json_values


class JsonSchema(ScorerKind):
    """1 when the prediction is JSON that fits ``json_schema`` and, with ``equal``, says what the reference says."""

    rank: ClassVar[int] = 41

    kind: Literal["json-schema"]
    json_schema: Annotated[
        dict[str, JsonValue],
        Field(
            description="the JSON Schema (draft 2020-12), as serve.json_schema; needs the extra json-schema"
        ),
    ]
    equal: Annotated[
        bool,
        Field(
            description="whether it must also be the reference's value, in any order of keys; without it the scorer "
            "says nothing about what an answer says"
        ),
    ] = False

    def contradictions(self) -> Iterator[str]:
        """Yield each contradiction, as "problem|remedy"."""
        if problem := schemas.problem(self.json_schema):
            yield f"json_schema: {problem}"

    @cached_property
    def _validator(self) -> schemas.Validator:
        return schemas.validator(self.json_schema)

    def score(self, prediction: str, reference: str) -> float:
        """1 or 0. Raises ParamsRefused for a schema that refers to one elsewhere."""
        try:
            value = json_values.read(prediction)
            if schemas.unfit(self._validator, value) is not None:
                return 0.0
            if not self.equal:
                return 1.0
            wanted = json_values.comparable(json_values.read(reference))
            return float(json_values.comparable(value) == wanted)
        except (ValueError, RecursionError):
            return 0.0
        except LookupError as error:
            raise ParamsRefused(
                f"json-schema: json_schema refers to a schema that is not in it: {error}",
                "write that schema into $defs",
            ) from error
