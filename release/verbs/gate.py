"""gate: checks the verdict against its evidence again, and evaluates the gates again; also under another policy."""

from pathlib import Path

from checks.decision.policy_judgement import PolicyJudgement
from checks.formats.verdict import Verdict
from release.record import running_code, target_policy, verdict_check
from release.record.records import Records


def gate(root: Path, just_run: bool = False) -> Verdict:
    """Return the verdict in ``root`` if it still holds. Raises as ``release.record.verdict_check.hold``.

    ``just_run``: the pipeline has just reached it, maybe with code that nobody committed yet. Otherwise also raises as
    ``running_code.check``.
    """
    if not just_run:
        running_code.check(root)
    return verdict_check.hold(Records(root)).verdict


def judge_from(root: Path, ref: str) -> PolicyJudgement:
    """Judge the verdict in ``root`` under the policy of ``ref`` too. Raises as ``gate`` and ``target_policy`` do."""
    running_code.check(root)
    records = Records(root)
    records.target(ref)  # an unknown name is refused before anything is hashed
    return target_policy.judge_from(records, verdict_check.hold(records, ref), ref)
