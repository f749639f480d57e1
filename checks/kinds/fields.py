"""Types of fields in params.yaml that name a kind. Kinds are discovered, not listed (``checks.kinds.plugins``)."""

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from checks.kinds.plugins import Registry


class OneOf:
    """A section whose field ``tag`` selects a kind: ``Annotated[Loader, OneOf(LOADERS, "kind")]``.

    Without the tag, the first kind is used whose model has a default for it.
    """

    def __init__(self, registry: Registry[Any], tag: str) -> None:
        self._registry, self._tag = registry, tag

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        del source
        kinds = self._registry.kinds
        choices = {name: handler.generate_schema(kind) for name, kind in kinds.items()}
        union = core_schema.tagged_union_schema(choices, discriminator=self._tag)
        optional = (
            name for name, kind in kinds.items() if not kind.model_fields[self._tag].is_required()
        )
        default = next(optional, None)
        if default is None:
            return union

        def tagged(value: Any) -> Any:
            return {self._tag: default, **value} if isinstance(value, dict) else value

        return core_schema.no_info_before_validator_function(tagged, union)


class NameOf:
    """The name of a kind: ``Annotated[str, NameOf(RULES)]``."""

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        del source, handler
        return core_schema.literal_schema(list(self._registry.kinds))
