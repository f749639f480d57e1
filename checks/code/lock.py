"""code.lock: which code of Lockstep each stage runs with the parameters of a repository, one digest for each stage.

The stage ``code`` writes it at the beginning of every run, and in dvc.yaml each stage depends on its own digest there.
So a stage runs again where a module that it runs has changed, and nowhere else. The digest covers the paths and
contents of the modules that ``modules.of_stage`` finds, the code of the packages from outside whose kinds are named
(``plugins.identity``), the sections from outside that such a kind may read, and the parameters of the stage that
params.yaml leaves to their defaults. It does not cover Python itself and the libraries: reports name their versions.

It also has the defaults of all policy, so that a later version, with others, knows what this one judged by.
"""

import functools
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Protocol

import yaml
from pydantic import Field, JsonValue, ValidationError

from checks.code import modules
from checks.code.modules import Code
from checks.kinds import plugins
from checks.process import distribution
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.records.record import Digest, Record
from checks.storage import digest, files, layout, plain_yaml

# The stage that writes code.lock.
STAGE = "code"

# The keys of params.yaml that each stage reads. dvc.yaml must name them, which a thinner dvc.yaml cannot change.
READS: Mapping[str, tuple[str, ...]] = {
    "fetch": ("base", "data"),
    "prepare": ("data", "prepare", "train.method"),
    "validate": ("data", "validate", "prepare", "train.method"),
    "train": ("train",),
    "merge": ("merge",),
    "score": ("evaluate",),
    "evaluate": ("evaluate",),
    "suites": ("suites", "evaluate.batch_tokens", "evaluate.precision"),
    "probe": ("serve.probes", "serve.dtype", "serve.max_input_tokens"),
    "gate": ("gates", "suites", "evaluate.scorers", "base.license", "data"),
}

_TOLD = "# Written by the stage `code` at the beginning of each run: commit it with dvc.lock and reports/.\n"
_REMEDY = "run `lockstep run`"


class Parameters(Protocol):
    """The parameters of a repository: ``checks.config.params.Params``, which stands above this module."""

    def resolved(self) -> dict[str, Any]:
        """Return them with their defaults."""

    def written(self) -> dict[str, Any]:
        """Return them without their defaults."""

    def unwritten(self) -> dict[str, JsonValue]:
        """Return the defaults among them, each by its path."""


class Installed(Record):
    """The Lockstep that ran. ``wheel``: the SHA-256 of its wheel; None for an editable installation."""

    version: str
    wheel: Digest | None


class CodeLock(Record):
    """The content of code.lock.

    ``defaults``: ``checks.decision.policy.defaults`` of the parameters; None in a file of version 0.2.0.
    """

    lockstep: Installed
    stages: Annotated[dict[str, Digest], Field(min_length=1)]
    defaults: dict[str, JsonValue] | None = None


def key(stage: str) -> str:
    """Return the key in code.lock that a stage of dvc.yaml depends on."""
    return f"stages.{stage}"


def left_out(params: Parameters) -> dict[str, Any]:
    """Return the default of each key that dvc.yaml names and params.yaml does not write: DVC finds no value of it."""
    resolved, written = params.resolved(), params.written()
    paths = dict.fromkeys(path for paths in READS.values() for path in paths)
    return {path: value_at(resolved, path) for path in paths if not _has(written, path)}


def refuse_left_out(params: Parameters) -> None:
    """Raise ParamsRefused if DVC would find no value of a key, which it says only after it ran the key's stage."""
    lines = [
        (
            f"{layout.PARAMS}: {path}: is not written, and DVC tracks it",
            f"write `{path}: {plain_yaml.inline(value)}`, as `lockstep upgrade --files` does",
        )
        for path, value in left_out(params).items()
    ]
    if lines:
        raise ParamsRefused(*lines[0], tuple(f"{what}; {todo}" for what, todo in lines[1:]))


def of(params: Parameters, code: Code) -> dict[str, str]:
    """Return the digest of each stage's code.

    Raises MachineRefused if the code of a package from outside, which the parameters name, cannot be hashed.
    """
    resolved, unwritten = params.resolved(), params.unwritten()
    identify = functools.cache(plugins.identity)  # several stages run one package
    return {stage: _of_stage(stage, resolved, unwritten, code, identify) for stage in READS}


def modules_of(stage: str, params: Mapping[str, Any], code: Code) -> list[str]:
    """Return the paths of the modules that a stage runs with these parameters, sorted."""
    return modules.of_stage(stage, _names(stage, params), code, _sections(params))


def _sections(params: Mapping[str, Any]) -> list[str]:
    return [name for name, value in params.items() if value is not None]


def _names(stage: str, params: Mapping[str, Any]) -> frozenset[str]:
    return modules.names_in([value_at(params, path) for path in READS[stage]])


def _of_stage(
    stage: str,
    params: Mapping[str, Any],
    unwritten: Mapping[str, JsonValue],
    code: Code,
    identify: Callable[[EntryPoint], plugins.Plugin] = plugins.identity,
) -> str:
    contents = {path: digest.of_bytes(code[path]) for path in modules_of(stage, params, code)}
    packages = plugins.named(_names(stage, params), modules.groups(contents), identify)
    if packages:  # A kind of a package may read a section of a package.
        packages |= plugins.named(_sections(params), {modules.SECTIONS}, identify)
    outside = {kind: plugin.sha256 for kind, plugin in packages.items()}
    read = tuple(f"{path}." for path in READS[stage])
    # What is off by default is left out: a parameter that a version adds, and that is off, changes nothing.
    defaults = {
        path: value for path, value in unwritten.items() if value and f"{path}.".startswith(read)
    }
    return digest.of_json({"modules": contents, "plugins": outside, "defaults": defaults})


def running() -> Code:
    """Read the code that runs here. Folders of these names in a repository of another's are not it."""
    return modules.below(distribution.home())


def at(root: Path) -> Code:
    """Read the code that the stages of a repository run: the running Lockstep, and the team's own kinds."""
    return {**running(), **modules.of_team(root)}


def write(root: Path, params: Parameters, defaults: dict[str, JsonValue]) -> CodeLock:
    """Write code.lock of the code that runs in ``root``, with the policy's defaults; return it. Raises as ``of``."""
    made = CodeLock(lockstep=installed(), stages=of(params, at(root)), defaults=defaults)
    document = yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False)
    files.write_text(root / layout.CODE_LOCK, _TOLD + document)
    return made


def read(root: Path) -> CodeLock:
    """Read code.lock. Raises EvidenceRefused if it is missing or is no such file."""
    try:
        data = (root / layout.CODE_LOCK).read_bytes()
    except FileNotFoundError as error:
        raise EvidenceRefused(f"{layout.CODE_LOCK}: is missing", _REMEDY) from error
    except OSError as error:
        raise EvidenceRefused(f"{layout.CODE_LOCK}: {error}", _REMEDY) from error
    return parse(data)


def parse(data: bytes) -> CodeLock:
    """Parse the content of a code.lock. Raises EvidenceRefused if it is none."""
    try:
        return CodeLock.model_validate(plain_yaml.load(data.decode()))
    except (ValueError, yaml.YAMLError) as error:
        why = (
            files.first(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
        )
        raise EvidenceRefused(f"{layout.CODE_LOCK}: {why}", _REMEDY) from error


def hold(root: Path, stage: str, params: Parameters) -> None:
    """Check that code.lock names the code that this stage is about to run. Raises EvidenceRefused, or as ``of``."""
    here = _of_stage(stage, params.resolved(), params.unwritten(), at(root))
    if read(root).stages.get(stage) != here:
        raise EvidenceRefused(
            f"{layout.CODE_LOCK}: names other code for {stage} than the code here", _REMEDY
        )


def installed() -> Installed:
    """Return which Lockstep runs here."""
    wheel = distribution.origin().get("archive_info", {}).get("hashes", {}).get("sha256")
    return Installed(version=distribution.version(), wheel=f"sha256:{wheel}" if wheel else None)


def _has(document: Any, path: str) -> bool:
    above, _, key = path.rpartition(".")
    section = value_at(document, above) if above else document
    return isinstance(section, dict) and key in section


def value_at(document: Any, path: str) -> Any:
    """Return the value at a dotted path; None if there is none."""
    for part in path.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document
