"""The command sweep."""

from pathlib import Path

import click

from release.cli import terminal
from release.cli.common import VERBOSE, listener, refusing, show


@click.command()
@click.argument("specs", nargs=-1, metavar="[PARAMETER=VALUE,VALUE]...")
@click.option(
    "--seed",
    "seeds",
    type=click.IntRange(min=0),
    multiple=True,
    help="Train each combination with this seed too; repeat it.",
)
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Refuse more trainings.",
)
@VERBOSE
@click.option("--json", "as_json", is_flag=True, help="Print reports/sweep.json.")
@click.pass_obj
@refusing
def sweep(
    root: Path,
    specs: tuple[str, ...],
    seeds: tuple[int, ...],
    most: int,
    verbose: bool,
    as_json: bool,
) -> None:
    """Train with each combination of values, and compare the models on the valid split.

    For example: ./lockstep sweep train.lora.r=8,16 train.learning_rate=0.002,0.004 --seed 17 --seed 18

    Trains one after the other, as experiments of DVC. Prints one line for each stage; what DVC and the stages print is
    in .lockstep/sweep.log. Run the same sweep again to go on after an interruption. Never
    asks the test split, so the gates' figures of the chosen model are honest. Settings are compared by their means over
    seeds. Without a PARAMETER, each seed trains params.yaml as it is. Writes reports/sweep.json, and a table in
    reports/sweep.md.
    """
    from checks.storage import layout
    from release.verbs import sweep as verb

    report = verb.sweep(root, specs, seeds, most, listener(root, "sweep", verbose))
    text = terminal.text((root / layout.SWEEP_TABLE).read_text(encoding="utf-8"))
    if specs:
        text += f"\nto take the best: write its values into {layout.PARAMS}, then ./lockstep run"
    show(report, as_json, text)
