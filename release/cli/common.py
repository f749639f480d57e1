"""What every command shares: how a refusal ends it, how JSON is written."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, ParamSpec

import click

if TYPE_CHECKING:
    from checks.errors import Refusal

P = ParamSpec("P")


def refusing(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a Refusal and a full disk into lines on standard error and an exit code, and an interrupt into 130."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        from checks import disk
        from checks.errors import Refusal

        try:
            command(*args, **kwargs)
        except Refusal as refusal:
            _end(refusal)
        except OSError as error:
            if refused := disk.full(error, [arg for arg in args if isinstance(arg, Path)]):
                _end(refused)
            raise
        except KeyboardInterrupt:
            click.echo("lockstep: interrupted", err=True)
            sys.exit(130)

    return wrapped


def _end(refusal: "Refusal") -> NoReturn:
    from checks.text import escape

    for line in (str(refusal), *refusal.others):
        click.secho(f"lockstep: {escape(line)}", err=True, fg="red")
    sys.exit(refusal.exit_code)


def to_json(value: object) -> str:
    """A value as JSON for a person or a program."""
    return json.dumps(value, indent=2, ensure_ascii=False)
