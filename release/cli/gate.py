"""The command gate: the verdict, a gate explained, or the verdict under another policy too."""

import sys
from pathlib import Path

import click

from release.cli import tables
from release.cli.common import JSON, exclusive, refuse, refusing, show
from release.cli.wrapping import is_terminal


@click.command()
@click.option(
    "--policy-from",
    metavar="REF",
    help="Also judge under the policy of this commit, such as the target branch.",
)
@click.option(
    "--explain",
    metavar="NAME",
    help="Explain one gate: its condition, its finding, what would change it.",
)
@click.option(
    "-v", "--verbose", is_flag=True, help="On a terminal too, print why each gate passes in full."
)
@JSON
@click.pass_obj
@refusing
def gate(
    root: Path, policy_from: str | None, explain: str | None, verbose: bool, as_json: bool
) -> None:
    """Print the verdict if it still holds, the gates that fail last, and what to do.

    Exit codes: 0 pass, 10 fail, 11 inconclusive, 8 the verdict does not hold.

    The verdict is about these weights. For the parameters that made them: `lockstep sweep`.

    Hashes everything that was judged again, weights included, looks up the reference models in git again, and
    evaluates every gate again. With --explain the exit code is 0 whatever the gate says.
    """
    from checks.decision import held, policy_judgement
    from release.verbs import gate as verb

    exclusive({"--policy-from": policy_from, "--explain": explain})
    if explain is not None:
        explained = verb.explain(root, explain)._asdict()
        lines = (
            f"{click.style(f'{what:<9}', bold=True)}{line}" for what, line in explained.items()
        )
        show(explained, as_json, "\n".join(lines))
    elif policy_from is not None:
        judgement = verb.judge_from(root, policy_from)
        show(judgement, as_json, tables.policy)
        refuse(policy_judgement.refusal(judgement))
    else:
        verdict = verb.gate(root)
        whole = verbose or not is_terminal(sys.stdout)
        show(verdict, as_json, lambda verdict: tables.verdict(verdict, whole))
        refuse(held.refusal(verdict))
