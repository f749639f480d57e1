"""The other adapters that `lockstep verify --beside` starts a server with, as the environment has them in a cluster."""

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from checks.config.release_params import Serve
from checks.formats.serving import LoadedAdapter, Neighbours, ProbeReport
from checks.storage import layout
from release.runtimes import Runtime


class BesideAdapter(NamedTuple):
    """An adapter of another project. ``folder``: on this machine; ``mount``: in a container, the same for all names.

    ``names``: what clients call it; ``probes``: its own model's answers.
    """

    loaded: LoadedAdapter
    serve: Serve
    folder: Path
    mount: str
    names: tuple[str, ...]
    probes: ProbeReport


class BesideServer(NamedTuple):
    """The server of an environment with all its adapters, the verified one among them.

    ``host``: the project that has the server. ``serve``: how that starts it, with the name of the verified adapter.
    ``own``: what clients call the verified adapter beside that.
    """

    environment: str
    host: str
    serve: Serve
    own: tuple[str, ...]
    adapters: tuple[BesideAdapter, ...]

    @property
    def mounts(self) -> dict[str, Path]:
        """Return the folders on this machine by their paths in a container."""
        return {adapter.mount: adapter.folder for adapter in self.adapters}

    @property
    def recorded(self) -> Neighbours:
        """Return what the report names."""
        adapters = tuple(adapter.loaded for adapter in self.adapters)
        return Neighbours(environment=self.environment, server=self.host, adapters=adapters)

    def loaded(self, runtime: Runtime, how: str) -> Runtime:
        """Return the runtime with all adapters behind its last argument, where the components of a cluster put them."""
        setting = runtime.settings.adapter
        if setting is None:
            return runtime  # It is refused by the parameters of the server.
        folders: Mapping[str, str] = {
            name: adapter.mount if how == "container" else str(adapter.folder)
            for adapter in self.adapters
            for name in adapter.names
        }
        own = dict.fromkeys(self.own, posixpath.join("{model}", layout.SHIPPED_ADAPTER))
        added = (f"{name}={folder}" for name, folder in {**own, **folders}.items())
        setting = setting.model_copy(update={"command": (*setting.command, *added)})
        settings = runtime.settings.model_copy(update={"adapter": setting})
        return runtime.model_copy(update={"settings": settings})
