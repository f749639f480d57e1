"""The adapters that share one server: which project lists which, and whether the server can take them.

An environment of the variant ``adapter`` runs on the server of the one project that lists its folder in ``adapters`` of
the environment of the same name. All of them are read from one commit of the ledger, and each release from the record
that its pointer names. The digest of a model covers its files, so that the base of an adapter is computed from it.
"""

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from checks.config.release_params import Serve
from checks.formats import pointer
from checks.formats.pointer import Pointer
from checks.formats.training_reports import ParityReport
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.rows import Record
from checks.storage import digest, layout, plain_yaml
from release.adapters import projects
from release.adapters.registry import reference
from release.image import weights
from release.ledger import Ledger
from release.overlay import adapter_component, environment_file, kustomization, overlays
from release.overlay.environment_file import EnvironmentFile
from release.record.records import Records

_PAGE = "docs/how-to/adapter.md#several-adapters-on-one-server"


class AdapterRelease(NamedTuple):
    """A release of one adapter and its base.

    ``project``: the folder below the git root; ``weights``: the digest of the base with its tokenizer; ``adapter``: of
    the adapter's folder; ``rank``: the largest of its modules; ``serve``: of the params.yaml that made it. ``canary``:
    behind its name, if it is to follow another release on the same server.
    """

    project: Path
    pointer: Pointer
    weights: str
    adapter: str
    rank: int
    serve: Serve
    canary: str = ""

    @property
    def path(self) -> str:
        """The path of the model in its image."""
        return weights.place(self.serve.name, self.pointer.model)

    @property
    def component(self) -> bytes:
        """The component that a promotion of the release writes."""
        image = reference.parse(self.pointer.image)._replace(tag=None)
        if image.host is None:  # No cluster can pull it.
            return adapter_component.NO_COMPONENT
        return adapter_component.component(self.serve.name, self.path, image, self.canary)

    @property
    def called(self) -> str:
        """The release's name and version, for a refusal."""
        return f"{self.serve.name}{self.canary} {self.pointer.version}"


class OnServer(Record):
    """An adapter on a server. Without ``version`` its project runs nothing; ``base``: the digest of what all share."""

    project: str
    version: str | None
    model: str | None
    base: str | None


class ListedAdapter(NamedTuple):
    """A project that an environment lists, as a commit has it. ``release``: None if nothing runs or can be read.

    ``problem``: why its files cannot be part of the server; empty if they can.
    """

    project: Path
    release: AdapterRelease | None
    problem: str = ""


def on_server(project: Path, release: AdapterRelease | None) -> OnServer:
    """Return what `lockstep status` shows of a release."""
    if release is None:
        return OnServer(project=str(project), version=None, model=None, base=None)
    return OnServer(
        project=f"{project}{release.canary}", version=release.pointer.version, model=release.pointer.model,
        base=release.weights,
    )  # fmt: skip


class SharedServer(NamedTuple):
    """The environments of one name in all projects of the commit ``tip``, seen from the project ``own``.

    ``planned``: files below the git root, as a commit on ``tip`` writes them. ``canary``: behind the name of the
    project's adapter, if that moves as the canary of ``environment``.
    """

    records: Records
    tip: str
    own: Path
    environment: str
    planned: Mapping[Path, bytes | None] = MappingProxyType({})
    canary: str = ""

    def file(self, project: Path) -> EnvironmentFile | None:
        """Return the environment.yaml of a project; None if it is missing or invalid."""
        name = environment_file.path(self.environment)
        return environment_file.readable(self.environment, {name: self._data(project, name)})

    def moving(self, released: Pointer) -> AdapterRelease:
        """Return the release to which this project's own adapter moves. Raises as ``of``."""
        return self.of(self.own, released)._replace(canary=self.canary)

    def listing(self) -> tuple[Path, ...]:
        """Return the projects that list this one."""
        listed_projects = projects.folders(self.records.git, self.tip)
        return tuple(
            project
            for project in listed_projects
            if (file := self.file(project)) and self.own in _projects(project, file)
        )

    def not_one(self, listing: Sequence[Path]) -> tuple[str, str]:
        """Return why ``listing`` name no server for this project, and what to do."""
        names = ", ".join(map(str, listing)) or "no project"
        return (
            f"{names} lists {self.own} in `adapters` of {self.environment}, it must be one",
            f"list it in the environment.yaml of the server that runs it, and render that: {_PAGE}",
        )

    def adapters_of(self, project: Path) -> tuple[ListedAdapter, ...]:
        """Return the adapters that the environment of a project lists, each with its canary."""
        guests = self.guests(project)
        return tuple(listed for guest in guests for listed in self._with_canary(guest))

    def guests(self, project: Path) -> tuple[Path, ...]:
        """Return the projects that the environment of a project lists."""
        file = self.file(project)
        return _projects(project, file) if file else ()

    def host(self) -> Path:
        """Return the project that has the server. Raises EvidenceRefused if no project has, or several have."""
        file = self.file(self.own)
        hosts = (self.own,) if file and file.variant != "adapter" else self.listing()
        if len(hosts) != 1:
            raise EvidenceRefused(*self.not_one(hosts))
        return hosts[0]

    def others(self) -> tuple[AdapterRelease, ...]:
        """Return what runs on the server beside the adapter that moves, canaries too. Raises as ``host`` and ``of``."""
        host = self.host()
        releases = [self.release(host)]
        for project in self.guests(host):
            releases.append(self.release(project))
            if at_canary := self._at_canary(project):
                following = at_canary.release(project)
                releases.append(following and following._replace(canary=at_canary.canary))
        moves = (self.own, self.canary)
        return tuple(
            release
            for release in releases
            if release and (release.project, release.canary) != moves
        )

    def environment_of(self, release: AdapterRelease) -> str:
        """Return the environment in which the project of a release of ``others`` has it."""
        at_canary = self._at_canary(release.project) if release.canary else None
        return at_canary.environment if at_canary else self.environment

    def release(self, project: Path) -> AdapterRelease | None:
        """Return what a project runs; None if that is nothing. Raises as ``of``."""
        path = layout.ENVIRONMENTS / self.environment / layout.POINTER
        text = self._data(project, path)
        if text is None:
            return None
        return self.of(project, pointer.parse(text, str(project / path)))

    def of(self, project: Path, released: Pointer) -> AdapterRelease:
        """Return the release of ``released``. Raises EvidenceRefused if its record is not one of an adapter."""
        records = self.records
        if project != self.own:
            records = Records(projects.top(self.records.root) / project)
        commit = records.at(released.commit)
        again = f"fetch the commit {released.commit[:12]}"
        parity = commit.needed(layout.PARITY_REPORT, ParityReport, again, again)
        described = {
            name: digest.FileDigest(file.sha256, file.size) for name, file in parity.files.items()
        }
        if digest.of_manifest(described) != released.model:
            raise EvidenceRefused(
                f"{project / layout.PARITY_REPORT} at {released.commit[:12]}: is not about the model {released.model}",
                "see who moved it: `lockstep history`",
            )
        if parity.shipped_adapter is None:
            raise EvidenceRefused(
                f"{commit.serve.name} {released.version}: is one merged model, which shares no server",
                "release one with merge.form: adapter",
            )
        inside = f"{layout.SHIPPED_ADAPTER}/"
        base = {name: file for name, file in described.items() if not name.startswith(inside)}
        adapter = {
            name.removeprefix(inside): file
            for name, file in described.items()
            if name.startswith(inside)
        }
        return AdapterRelease(
            project, released, digest.of_manifest(base), digest.of_manifest(adapter),
            parity.shipped_adapter.rank, commit.serve,
        )  # fmt: skip

    def patch(self, project: Path) -> Any:
        """Return the patch of the Deployment that the last move of a project wrote; None if there is none.

        Raises EvidenceRefused if the file is no such patch.
        """
        path = layout.ENVIRONMENTS / self.environment / overlays.SERVER
        try:
            patch = plain_yaml.load((self._data(project, path) or b"").decode())
            _arguments(patch)
        except (yaml.YAMLError, ValueError, AttributeError, LookupError, TypeError) as error:
            raise EvidenceRefused(
                f"{project / path}: is not the patch that a move writes",
                f"restore it from git's history, or `lockstep -C {project} promote {self.environment}`",
            ) from error
        return patch

    def runs_here(self, project: Path) -> bool:
        """Return whether the server of a project runs all that its environment lists. Raises as ``of``."""
        file = self.file(project)
        path = layout.ENVIRONMENTS / self.environment / kustomization.NAME
        return (
            file is not None
            and self._data(project, path) == kustomization.render(self.environment, file)
            and self.release(project) is not None
        )

    def _with_canary(self, project: Path) -> Iterator[ListedAdapter]:
        listed = self._listed(project)
        yield listed
        if not listed.problem and (at_canary := self._at_canary(project)):
            yield at_canary._listed(project)

    def _at_canary(self, project: Path) -> "SharedServer | None":
        """Return where the canary of a listed project is; None if it has none."""
        file = self.file(project)
        if file is None or file.canary is None:
            return None
        return self._replace(environment=file.canary, canary=adapter_component.CANARY)

    def _listed(self, project: Path) -> ListedAdapter:
        if project.parts[:1] == ("..",):  # Git reads nothing there.
            return ListedAdapter(project, None, "is outside of the repository")
        file = self.file(project)
        file_path = project / environment_file.path(self.environment)
        if file is None or file.variant != "adapter":
            return ListedAdapter(project, None, f"{file_path}: is not of the variant adapter")
        try:
            release = self.release(project)
        except (EvidenceRefused, ParamsRefused) as refused:
            return ListedAdapter(project, None, refused.what)
        # Whatever else these files said would be built into the server, too.
        release = release._replace(canary=self.canary) if release else None
        written = release.component if release else adapter_component.NO_COMPONENT
        home = layout.ENVIRONMENTS / self.environment
        wanted = {
            home / kustomization.NAME: kustomization.render(self.environment, file),
            home / (overlays.CANARY if self.canary else overlays.ADAPTER): written,
        }
        edited = [str(path) for path, data in wanted.items() if self._data(project, path) != data]
        problem = "not what `lockstep render` and a promotion write"
        return ListedAdapter(project, release, f"{', '.join(edited)}: {problem}" if edited else "")

    def _data(self, project: Path, path: Path) -> bytes | None:
        full = project / path
        if full in self.planned:
            return self.planned[full]
        (data,) = self.records.git.named([f"{self.tip}:{full.as_posix()}"])
        return data


def _projects(project: Path, file: EnvironmentFile) -> tuple[Path, ...]:
    """Return the projects that the environment of ``project`` lists, as folders below the git root."""
    return tuple(
        Path(posixpath.normpath(posixpath.join(project.as_posix(), listed)))
        for listed in file.adapters
    )


def of_environment(
    records: Records, ledger: Ledger, tip: str, environment: str, committed: Mapping[Path, bytes],
    planned: Mapping[Path, bytes | None] = MappingProxyType({}),
) -> SharedServer | None:  # fmt: skip
    """Return the server that an environment shares with other adapters; None if it shares none.

    ``committed``: the files of all environments at ``tip``; ``planned``: as in SharedServer.
    """
    file = environment_file.readable(environment, committed)
    is_adapter = file is not None and file.variant == "adapter"
    if file is None or not (file.adapters or is_adapter):
        return None
    own, names = Path(ledger.folder), {path.parent.name for path in committed}
    for name in sorted(names):
        other = environment_file.readable(name, committed)
        if is_adapter and other and other.canary == environment:
            return SharedServer(records, tip, own, name, planned, adapter_component.CANARY)
    return SharedServer(records, tip, own, environment, planned)


def of_adapter(
    shared: SharedServer, moving: AdapterRelease, *, as_verified: bool, rollback: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield why the server cannot take ``moving``, each with what to do.

    ``as_verified``: the server must be the image in which the adapter was verified. ``rollback``: a server that runs an
    adapter of the project already may take it, whatever else lists the project, and however many it lists.
    """
    listing = shared.listing()
    if len(listing) != 1:
        if rollback and any(_takes_back(shared, host, moving) for host in listing):
            return
        yield shared.not_one(listing)
        return
    (host,) = listing
    yield from _of_host(shared, host, moving, as_verified=as_verified)
    if not rollback and (server := shared.release(host)):
        yield from _has_room(server, len(shared.adapters_of(host)), shared.environment)


def _takes_back(shared: SharedServer, host: Path, moving: AdapterRelease) -> bool:
    """Return whether the server of ``host`` runs an adapter of the project already, and can take ``moving``."""
    try:
        return shared.runs_here(host) and not any(_of_host(shared, host, moving, as_verified=False))
    except (EvidenceRefused, ParamsRefused):
        return False


def _of_host(
    shared: SharedServer, host: Path, moving: AdapterRelease, *, as_verified: bool
) -> Iterator[tuple[str, str]]:
    """Yield why the server of ``host`` cannot take ``moving``, each with what to do."""
    server = shared.release(host)
    if server is None:
        yield (
            f"{host}: {shared.environment} runs nothing, so there is no server for {moving.called}",
            f"`lockstep -C {host} promote {shared.environment}` first",
        )
        return
    yield from _takes_more(server, shared.patch(host))
    yield from _fits(server, moving)
    file = shared.file(host)
    runs_in = server.serve.server or (file.server if file else None)
    if as_verified and _digest(moving.serve.server) != _digest(runs_in):
        yield (
            f"{moving.called}: was verified for the server {moving.serve.server}, {server.called} runs in {runs_in}",
            f"set serve.server to that, or promote {server.serve.name} in that server first",
        )
    for listed in shared.adapters_of(host):
        if listed.release is not None and listed.project != moving.project:
            yield from _same_names(listed.release, moving)


def of_server(
    shared: SharedServer, moving: AdapterRelease, patch: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    """Yield why ``moving``, with ``patch`` of the Deployment, cannot take the adapters that its environment lists."""
    listed_adapters = shared.adapters_of(shared.own)
    yield from _has_room(moving, len(listed_adapters), shared.environment)
    if listed_adapters:
        yield from _takes_more(moving, patch)
    for listed in listed_adapters:
        if listed.problem:
            yield (
                f"{listed.project}: {listed.problem}",
                f"correct it, or remove it from `adapters`: {_PAGE}",
            )
        if listed.release is not None:
            yield from _fits(moving, listed.release)
    running = [listed.release for listed in listed_adapters if listed.release is not None]
    for number, adapter in enumerate(running):
        for other in running[:number]:
            yield from _same_names(other, adapter)


def _has_room(server: AdapterRelease, listed: int, environment: str) -> Iterator[tuple[str, str]]:
    most = server.serve.adapter.most if server.serve.adapter else 0
    if listed >= most:
        yield (
            f"serve.adapter.most: {most}, and {environment} lists {listed} beside its own",
            f"raise it to {listed + 1} in {server.project}, and promote that; or list fewer",
        )


def _fits(server: AdapterRelease, adapter: AdapterRelease) -> Iterator[tuple[str, str]]:
    room = server.serve.adapter.max_rank if server.serve.adapter else 0
    if adapter.weights != server.weights:
        yield (
            f"{adapter.called}: its base is {adapter.weights}, that of {server.called} is {server.weights}",
            f"train it on that base, with that tokenizer and chat template; or move all to another base: {_PAGE}",
        )
    if adapter.rank > room:
        yield (
            f"{adapter.called}: its rank is {adapter.rank}, serve.adapter.max_rank of {server.called} is {room}",
            f"raise it in {server.project}, and promote that first",
        )
    yield from _same_names(server, adapter)


def _same_names(first: AdapterRelease, second: AdapterRelease) -> Iterator[tuple[str, str]]:
    """Yield a name by which clients, or the pod, would find two things."""
    names = _names(first) & _names(second)
    if names:
        yield (
            f"{first.called} and {second.called} on one server have the same name {', '.join(sorted(names))}",
            "give each project a serve.name of its own",
        )


def _names(release: AdapterRelease) -> set[str]:
    # vLLM calls the base so. A request for that name is answered without any adapter.
    base = f"{release.serve.name}{release.canary}-base"
    return {
        base,
        adapter_component.volume(release.path, release.canary),
        *adapter_component.names(release.serve.name, release.path, release.canary),
    }


def _takes_more(
    server: AdapterRelease, patch: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    """Yield why no adapter can be added to the arguments of a server."""
    if _arguments(patch)[-2:-1] != [adapter_component.MODULES]:
        yield (
            f"{server.called}: no adapter can be added: its arguments do not end in {adapter_component.MODULES}",
            "release it with serve.base: null, and promote it from a registry",
        )


def _arguments(patch: Mapping[str, Any] | None) -> list[str]:
    containers = patch["spec"]["template"]["spec"]["containers"] if patch else [{}]
    return list(containers[0].get("args", []))


def _digest(image: str | None) -> str:
    return (image or "").rpartition("@")[2]
