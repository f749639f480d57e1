"""The optional settings of ``serve`` in a runtime's file: prefix caching and speculation."""

from typing import Annotated

from pydantic import Field

from checks.config.release_params import Serve
from checks.process.errors import ParamsRefused
from checks.records.sections import Section, Strings


class Setting(Section):
    """The arguments that one value of a setting adds to the server, with placeholders.

    ``counters``: metrics that grow when the setting is used; empty if the server has none.
    """

    command: Strings
    environment: dict[str, str]
    counters: Strings


class Switch(Section):
    """A setting that ``params.yaml`` turns on or off."""

    enabled: Setting
    disabled: Setting


class Settings(Section):
    """Each optional setting by its key in ``serve``; null: the server does not offer it."""

    prefix_caching: Switch | None
    speculation: Annotated[
        dict[str, Setting] | None, Field(description="by serve.speculation.kind")
    ]

    def chosen(self, runtime: str, serve: Serve) -> dict[str, Setting]:
        """The settings that ``serve`` names, by their keys.

        Raises ParamsRefused if the server does not have one.
        """
        settings = {}
        if (caching := serve.prefix_caching) is not None:
            if self.prefix_caching is None:
                raise ParamsRefused(
                    f"serve.prefix_caching: {str(caching).lower()}: the runtime {runtime} does not offer it",
                    "use null, or another serve.runtime",
                )
            settings["prefix_caching"] = (
                self.prefix_caching.enabled if caching else self.prefix_caching.disabled
            )
        if (speculation := serve.speculation) is not None:
            setting = (self.speculation or {}).get(speculation.kind)
            if setting is None:
                raise ParamsRefused(
                    f"serve.speculation.kind: {speculation.kind}: the runtime {runtime} does not offer it",
                    "use serve.speculation: null, or another serve.runtime",
                )
            settings["speculation"] = setting
        return settings
