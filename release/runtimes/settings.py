"""The optional settings of ``serve`` in a runtime's file: caching, speculation, and what clients are promised."""

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


class ParserSetting(Setting):
    """The arguments that a parser of answers adds. ``names``: its parsers; null: the server itself refuses others."""

    names: Strings | None = None


class Identity(Section):
    """Where the server names its model: GET ``path``, then the value at ``field``.

    Dots in ``field`` part its steps: a key, an index from 0, or ``key=value`` for the first entry of a list that has
    this value. ``file``: the path, in the model's folder, of what it names; null: it names the folder.
    """

    path: str
    field: str
    file: str | None


class AdapterSetting(Setting):
    """The arguments with which the server adds the adapter that ships, and what that changes.

    ``model_field`` and ``identity`` take the place of the runtime's: beside the adapter the server may name its base.
    """

    model_field: str
    identity: Identity


class Settings(Section):
    """Each optional setting by its key in ``serve``; null: the server does not offer it."""

    prefix_caching: Switch | None
    speculation: Annotated[
        dict[str, Setting] | None, Field(description="by serve.speculation.kind")
    ]
    adapter: AdapterSetting | None = None
    tools: ParserSetting | None = None
    reasoning: ParserSetting | None = None
    json_schema: Setting | None = None
    decoding: Setting | None = None

    def chosen(self, runtime: str, serve: Serve) -> dict[str, Setting]:
        """The settings that ``serve`` names, by their keys.

        Raises ParamsRefused if the server does not have one.
        """
        settings: dict[str, Setting] = {}
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
        for key in serve.promises:
            settings[key] = self._promised(runtime, serve, key)
        if serve.adapter is not None:
            if self.adapter is None:
                raise ParamsRefused(
                    f"serve.adapter: the runtime {runtime} serves no adapter beside its base",
                    "use merge.form merged, or another serve.runtime",
                )
            settings["adapter"] = self.adapter
        return settings

    def _promised(self, runtime: str, serve: Serve, key: str) -> Setting:
        setting: Setting | None = getattr(self, key)
        if setting is None:
            raise ParamsRefused(
                f"serve.{key}: the runtime {runtime} does not offer it",
                "use null, or another serve.runtime",
            )
        names = setting.names if isinstance(setting, ParserSetting) else None
        if names is not None and (parser := getattr(serve, key).parser) not in names:
            raise ParamsRefused(
                f"serve.{key}.parser: {parser}: the runtime {runtime} does not have it",
                f"use {' or '.join(names)}",
            )
        return setting
