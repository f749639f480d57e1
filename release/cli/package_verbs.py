"""The verbs of ``lockstep``: its own, and those that installed packages add.

The verb NAME of Lockstep is the command NAME of ``release/cli/NAME.py``. Packages add entry points of the group
``lockstep.verbs``, each a click command:

    [project.entry-points."lockstep.verbs"]
    notify = "acme_notify.cli:notify"

Their names come from the metadata of the packages. A package is imported when its verb is called, and never for a verb
of Lockstep, which none can replace. ``context.obj`` is the repository's folder, as for Lockstep's own verbs.
"""

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from release.cli.common import Group, end

if TYPE_CHECKING:
    from importlib import metadata

_GROUP = "lockstep.verbs"


class Verbs(Group):
    """The verbs of Lockstep, each imported when it is called, and after them those of packages.

    ``sections``: title to names.
    """

    def __init__(self, *args: Any, sections: Mapping[str, tuple[str, ...]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def sections(self) -> Mapping[str, tuple[str, ...]]:
        """Return the names of Lockstep's verbs by title."""
        return self._sections

    def sentence(self, name: str) -> str:
        """Return the first sentence of a verb's help, read from its module's text: to import all takes 0.05 s."""
        text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        docstring = text.partition(f"\ndef {name}(")[2].split('"""')[1]
        return click.Command(name, help=docstring).get_short_help_str(limit=1000)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return Lockstep's command, or else a package's. One that cannot be used is refused in one line."""
        if cmd_name not in self.commands and cmd_name in self.list_commands(ctx):
            self.add_command(getattr(import_module(f"release.cli.{cmd_name}"), cmd_name))
        if command := super().get_command(ctx, cmd_name):
            return command
        points = [point for point in _entry_points() if point.name == cmd_name]
        return _loaded(points) if points else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, and the verbs of packages in one of their own, without importing them."""
        super().format_commands(ctx, formatter)
        names = self.list_commands(ctx)
        if points := [point for point in _entry_points() if point.name not in names]:
            from checks.kinds import plugins

            widest = max(map(len, names))
            with formatter.section("From packages"):
                formatter.write_dl(
                    [(point.name.ljust(widest), plugins.who(point)) for point in points]
                )


def _entry_points() -> "tuple[metadata.EntryPoint, ...]":
    """Return the verbs of packages, in order. What reads them takes as long to import as all the rest of --help."""
    files = (path for folder in sys.path for path in Path(folder).glob("*-info/entry_points.txt"))
    if not any(_GROUP.encode() in path.read_bytes() for path in files):
        return ()
    from checks.kinds import plugins

    return plugins.entry_points(_GROUP)


def _loaded(points: "list[metadata.EntryPoint]") -> click.Command:
    from checks.kinds import plugins
    from checks.process.errors import MachineRefused

    first, *others = points
    start, project = (
        f"package {plugins.who(first)} adds the verb {first.name!r}",
        plugins.project(first),
    )
    if others:
        who = plugins.who(others[0])
        end(MachineRefused(f"{start}, which package {who} adds too", f"uninstall {project}"))
    try:
        command = first.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - end raises SystemExit
        why = f"cannot be imported: {type(error).__name__}: {plugins.one_line(error)}"
        end(MachineRefused(f"{start}, which {why}", f"repair {project}, or uninstall it"))
    if not isinstance(command, click.Command):
        end(
            MachineRefused(
                f"{start}, which is no click command", f"repair {project}, or uninstall it"
            )
        )
    return command
