"""gate: judges the evidence under the policy. It does not import torch, and takes a second.

In: the reports of every stage, which earlier models there are, the measured noise, the splits, the predictions, the
gates of params.yaml.
Out: reports/verdict.json and, for people, data/comparison/. A failed verdict is a result and exits 0;
`lockstep gate` and every later verb enforce it.

    python -m stages.gate
"""

from pathlib import Path

from checks.config.params import Params
from checks.decision import judging
from checks.evaluation import scoring
from checks.gating import chain
from checks.storage import files, layout
from stages import entry
from stages.reporting import plots


def gate(params: Params, root: Path) -> str:
    """Judge the evidence below ``root`` and write the verdict."""
    verdict = judging.judge(params, chain.gather(root, scoring.digest_of(params.evaluate.scorers)))
    with files.replacing_folder(root / layout.COMPARISON) as folder:
        plots.draw_differences(folder, verdict)
    files.write_json(root / layout.VERDICT, verdict)
    undone = [f"{f.gate}: {f.reason}" for f in verdict.findings if f.status != "pass"]
    return f"{verdict.status}{': ' if undone else ''}{'; '.join(undone)}"


if __name__ == "__main__":
    entry.run("gate", gate)
