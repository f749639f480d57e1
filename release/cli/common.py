"""What every command shares: how a refusal ends it, how JSON is written."""

import functools
import json
import sys
from collections.abc import Callable
from typing import ParamSpec

import click

P = ParamSpec("P")


def refusing(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a Refusal into its lines on standard error and its exit code, and an interrupt into 130."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from checks.errors import Refusal
        from release.printed import printed

        try:
            command(*args, **kwargs)
        except Refusal as refusal:
            for line in (str(refusal), *refusal.others):
                click.secho(f"lockstep: {printed(line)}", err=True, fg="red")
            sys.exit(refusal.exit_code)
        except KeyboardInterrupt:
            click.echo("lockstep: interrupted", err=True)
            sys.exit(130)

    return wrapped


def to_json(value: object) -> str:
    """A value as JSON for a person or a program."""
    return json.dumps(value, indent=2, ensure_ascii=False)
