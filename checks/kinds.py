"""Types of fields in params.yaml that name a kind. Kinds are discovered, not listed (``checks.plugins``)."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class OneOf:
    """A section whose field ``tag`` selects one of ``kinds``: ``Annotated[Loader, OneOf(LOADERS.kinds, "kind")]``.

    Without the tag, the first kind is used whose model has a default for it.
    """

    def __init__(self, kinds: Mapping[str, type[BaseModel]], tag: str) -> None:
        self._kinds, self._tag = kinds, tag
        self._default = next(
            (name for name, kind in kinds.items() if not kind.model_fields[tag].is_required()), None
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        del source
        choices = {name: handler.generate_schema(kind) for name, kind in self._kinds.items()}
        union = core_schema.tagged_union_schema(choices, discriminator=self._tag)
        return core_schema.no_info_before_validator_function(self._tagged, union)

    def _tagged(self, value: Any) -> Any:
        if isinstance(value, dict) and self._default is not None:
            return {self._tag: self._default, **value}
        return value


class NameOf:
    """The name of one of ``kinds``: ``Annotated[str, NameOf(RULES.kinds)]``."""

    def __init__(self, kinds: Mapping[str, object]) -> None:
        self._kinds = kinds

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        del source, handler
        return core_schema.literal_schema(list(self._kinds))
