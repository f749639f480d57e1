"""Verbs that installed packages add to ``lockstep``: entry points of the group ``lockstep.verbs``.

Each is a click command:

    [project.entry-points."lockstep.verbs"]
    notify = "acme_notify.cli:notify"

Their names come from the metadata of the packages. A package is imported when its verb is called, and never for a verb
of Lockstep, which none can replace. ``context.obj`` is the repository's folder, as for Lockstep's own verbs.
"""

from importlib import metadata

import click

from release.cli.common import Group, end

_GROUP = "lockstep.verbs"


class WithPackages(Group):
    """A group of Lockstep's commands, and after them those of packages."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return Lockstep's command, or else a package's. A package that cannot be used is refused in one line."""
        if command := super().get_command(ctx, cmd_name):
            return command
        points = [point for point in _entry_points() if point.name == cmd_name]
        return _loaded(points) if points else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, and the verbs of packages in one of their own, without importing them."""
        super().format_commands(ctx, formatter)
        if points := [point for point in _entry_points() if point.name not in self.commands]:
            from checks.kinds import plugins

            widest = max(map(len, self.list_commands(ctx)))
            with formatter.section("From packages"):
                formatter.write_dl(
                    [(point.name.ljust(widest), plugins.who(point)) for point in points]
                )


def _entry_points() -> tuple[metadata.EntryPoint, ...]:
    """Return the verbs of packages, in order. ``checks.kinds`` takes a while to import, and not without need."""
    if not metadata.entry_points(group=_GROUP):
        return ()
    from checks.kinds import plugins

    return plugins.entry_points(_GROUP)


def _loaded(points: list[metadata.EntryPoint]) -> click.Command:
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
