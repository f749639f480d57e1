"""What every benchmark needs: numbers from the command line, and Markdown tables that grow row by row."""

import argparse
from collections.abc import Iterable, Sequence


def numbers(purpose: str, **defaults: float) -> argparse.Namespace:
    """Parse an option of the default's type for each of ``defaults``."""
    parser = argparse.ArgumentParser(description=purpose.splitlines()[0])
    for name, default in defaults.items():
        parser.add_argument(
            f"--{name}", type=type(default), default=default, help=f"default: {default}"
        )
    return parser.parse_args()


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table. Each row is printed as soon as it is known."""
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
