"""gate: checks the verdict against its evidence again, and evaluates the gates again; also under another policy."""

from pathlib import Path

from checks.decision.policy_judgement import PolicyJudgement
from checks.formats.verdict import Verdict
from release.record import held, target_policy
from release.record.records import Records


def gate(root: Path) -> Verdict:
    """Return the verdict in ``root`` if it still holds. Raises as ``release.record.held.hold``."""
    return held.hold(Records(root)).verdict


def judge_from(root: Path, ref: str) -> PolicyJudgement:
    """Judge the verdict in ``root`` under the policy of ``ref`` too. Raises as ``gate`` and ``target_policy`` do."""
    records = Records(root)
    records.target(ref)  # an unknown name is refused before anything is hashed
    return target_policy.judge_from(records, held.hold(records, ref), ref)
