"""Shared by commands: their groups and common options, turning refusals into exit codes, and writing JSON."""

import functools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click

from checks.process import distribution
from release.cli.wrapping import hanging

if TYPE_CHECKING:
    from checks.process.errors import Refusal
    from release.adapters.listening import Listener

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGES = ("checks", "release", "stages")
FILE = click.Path(path_type=Path)
PORT = click.IntRange(1, 65535)
TARGET = click.option(
    "--target",
    metavar="REF",
    help="The branch whose rules and signers count. Default: origin's default branch.",
)
TARGET_BRANCH = click.option(
    "--target", metavar="REF", help="The target branch. Default: origin's default branch."
)
PROJECTS = click.option(
    "--project",
    "projects",
    metavar="FOLDER",
    multiple=True,
    help="A project below the current folder. Can be repeated. Default: the current folder.",
)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ARTIFACT = click.option(
    "--artifact",
    metavar="FOLDER",
    type=FOLDER,
    help="First take the record that another job made from here. Paths in FOLDER begin at the git root.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
KEY = click.option(
    "--key",
    metavar="FILE",
    type=FILE,
    help="The private key. Default: .lockstep/keys/lockstep.key.",
)
KEYLESS = click.option(
    "--keyless", is_flag=True, help="Sign with the identity of this CI job, certified by Sigstore."
)
OTLP = click.option(
    "--otlp", metavar="URL",
    help="An OpenTelemetry collector that gets the result as events, by OTLP over HTTP. Default: none.",
)  # fmt: skip
SINCE = click.option(
    "--from",
    "since",
    metavar="TIME",
    help="Only requests from this time on: 2026-03-14 or 2026-03-14T15:09+01:00.",
)
UNTIL = click.option("--to", "until", metavar="TIME", help="Only requests before this time.")
CAPTURES = click.option(
    "--captures",
    metavar="FOLDER",
    help="Folder or address (s3://…) of the gateway's captures. Default: .lockstep/captures.",
)
VERBOSE = click.option(
    "-v", "--verbose", is_flag=True, help="Print everything that DVC and the stages print."
)


class Number(click.FloatRange):
    """A number within bounds. ``nan`` is within any for click, and ``inf`` within open ones; both are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class _LinkedHelp(click.HelpFormatter):
    """Help in which pages of the documentation are addresses, as in all other output."""

    def getvalue(self) -> str:
        """Return the help. Addresses are put in after the lines were wrapped, so that none is broken."""
        return distribution.linked(super().getvalue())


class _Context(click.Context):
    formatter_class = _LinkedHelp


class Group(click.Group):
    """List commands by section in the help, each with its whole first sentence, which click would shorten."""

    context_class = _Context

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command, whose help links pages too."""
        super().add_command(cmd, name)
        cmd.context_class = _Context

    def sections(self) -> Mapping[str, Iterable[str]]:
        """Return the names of the commands by title, in the order in which they were added."""
        return {"Commands": self.commands}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, in the same order."""
        return [name for names in self.sections().values() for name in names]

    def sentence(self, name: str) -> str:
        """Return the first sentence of a command's help."""
        return self.commands[name].get_short_help_str(limit=1000)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; long sentences go on below their beginning, in one column for all."""
        widest = max(map(len, self.list_commands(ctx)))
        for title, names in self.sections().items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), self.sentence(name)) for name in names])


def refusing(command: Callable[P, None]) -> Callable[P, None]:
    """Decorate a command: a Refusal or a full disk is printed to standard error and exits with its code.

    So does a module of Lockstep that cannot be imported. An interrupt (Ctrl-C) exits with 130.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            from checks.machine import disk
            from checks.process.errors import MachineRefused, Refusal

            command(*args, **kwargs)
        except ImportError as error:
            if str(error.name).partition(".")[0] not in _PACKAGES:
                raise
            _end_without_module(error)
        except Refusal as refusal:
            end(refusal)
        except OSError as error:
            if refused := disk.full(error, [arg for arg in args if isinstance(arg, Path)]):
                end(refused)
            if error.filename is None:
                raise
            end(
                MachineRefused(
                    f"{error.filename}: {error.strerror}", "see what is there, then run this again"
                )
            )
        except KeyboardInterrupt:
            click.echo("lockstep: interrupted", err=True)
            sys.exit(130)

    return wrapped


def use_kinds(root: Path) -> None:
    """Let the kinds of the repository ``root`` be found. Exits with a line if a module of Lockstep is missing."""
    try:
        from checks.kinds import team_kinds
    except ImportError as error:
        _end_without_module(error)
    team_kinds.use(root)


def listener(root: Path, verb: str, verbose: bool) -> "Listener | None":
    """Shows each stage as one line, and writes all output to .lockstep/VERB.log. None if ``verbose``: it is printed."""
    from release.cli.stage_lines import StageLines

    return None if verbose else StageLines(root, verb)


def end(refusal: "Refusal") -> NoReturn:
    """Print a refusal to standard error and exit with its code."""
    from checks.process.text import escape

    for line in (str(refusal), *refusal.others):
        click.secho(hanging(f"lockstep: {escape(line)}", sys.stderr), err=True, fg="red")
    sys.exit(refusal.exit_code)


def _end_without_module(error: ImportError) -> NoReturn:
    todo = f"install it again, or restore its files: `git status -- {' '.join(_PACKAGES)}`"
    line = f"lockstep: Lockstep is not whole here: {error.msg}; {todo}"
    click.secho(hanging(line, sys.stderr), err=True, fg="red")
    # The code of MachineRefused, whose own module may be missing.
    sys.exit(9)


def exclusive(options: Mapping[str, object]) -> None:
    """Raise UsageError if all of these options are given. A flag that is off, or a value of None, is not given."""
    if all(value is not None and value is not False for value in options.values()):
        raise click.UsageError(f"{' and '.join(options)} exclude each other: give one of them")


def checked_projects(root: Path, projects: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders below ``root``; none if that is the only one. Raises UsageError for what is no such folder."""
    for folder in projects:
        path = Path(folder)
        inside = not path.is_absolute() and ".." not in path.parts
        if not inside or not (root / path / "params.yaml").is_file() or projects.count(folder) > 1:
            raise click.UsageError(
                f"--project {folder!r}: give each folder below this one with a params.yaml once"
            )
    return () if projects == (".",) else projects


def to_json(value: object) -> str:
    """Return a value as indented JSON; non-ASCII text is kept. A record becomes an object of its fields."""
    return json.dumps(
        value, indent=2, ensure_ascii=False, default=lambda record: record.model_dump(mode="json")
    )


def show(result: R, as_json: bool, text: str | Callable[[R], str]) -> None:
    """Print a result as JSON; else its text, or what ``text`` makes of it, wrapped for the terminal."""
    if as_json:
        click.echo(to_json(result))
    else:
        click.echo(hanging(text if isinstance(text, str) else text(result)))


def tell_of_exception(root: Path) -> None:
    """Say on standard error if the verdict in ``root`` is not ``pass``: what was made of it needs an exception."""
    from checks.formats.verdict import Verdict
    from checks.storage import layout
    from release.record.records import WorkTree

    verdict = WorkTree(root).readable(layout.VERDICT, Verdict)
    if verdict is not None and verdict.status != "pass":
        line = f"lockstep: the verdict is {verdict.status}: only `lockstep promote ENV --emergency` moves to this"
        click.secho(hanging(line, sys.stderr), err=True, fg="yellow")


def refuse(refusal: "Refusal | None") -> None:
    """Raise the refusal of a result that was printed. Do nothing for None."""
    if refusal:
        raise refusal
