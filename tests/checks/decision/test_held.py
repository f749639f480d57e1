"""The one place that decides whether an exception excuses a verdict."""

import copy
from typing import Any

import pytest
import yaml

from checks.config import params_file
from checks.config.release_params import EXCUSABLE
from checks.decision import held, policy_judgement
from checks.formats.verdict import Finding, Status, Verdict, combine
from checks.kinds.gate import GATES
from checks.process.errors import ParamsRefused, VerdictFailed, VerdictInconclusive
from tests.conftest import ROUTER

SHA = "sha256:" + "1" * 64
NAMES = {"slow", "bad", "data", "late", "new", "none"}


def finding(gate: str, status: Status = "fail", kind: str = "threshold", value: float | None = 0.5) -> Finding:
    return Finding(gate=gate, kind=kind, status=status, reason="because", value=value)


def verdict(*findings: Finding, status: Status | None = None) -> Verdict:
    return Verdict(status=status or combine(findings), model=SHA, policy=SHA, judged={}, findings=findings)


PASSES = finding("fine", "pass")
BAD = finding("bad")


def test_an_exception_that_names_every_gate_that_did_not_pass_excuses_it() -> None:
    judged = verdict(PASSES, BAD, finding("late", "inconclusive", "improves"))
    assert isinstance(held.refusal(judged), VerdictFailed)
    assert isinstance(held.refusal(judged, {"bad"}), VerdictFailed)
    assert held.refusal(judged, {"bad", "late", "fine"}) is None
    unsure = verdict(finding("late", "inconclusive"))
    assert isinstance(held.refusal(unsure), VerdictInconclusive)
    assert held.refusal(unsure, {"late"}) is None


@pytest.mark.parametrize(
    "judged",
    [
        verdict(),  # no gate was asked
        verdict(status="fail"),
        verdict(PASSES, status="fail"),  # it contradicts itself
        verdict(BAD, finding("data", kind="data")),
        verdict(BAD, finding("data", kind="contamination")),
        verdict(BAD, finding("new", kind="a-kind-of-a-team")),
        verdict(finding("none", value=None)),  # its evidence is missing, or about other bytes
        verdict(BAD, finding("unnamed")),
    ],
)
def test_no_exception_excuses_what_was_not_measured_or_nobody_may_except(judged: Verdict) -> None:
    refused = held.refusal(judged, NAMES)
    assert refused is not None
    assert str(refused) == str(held.refusal(judged))


def test_every_kind_of_gate_is_one_that_may_be_excepted_or_one_that_may_not() -> None:
    never = {
        "budget", "contamination", "data", "exposure", "judge", "license", "looks", "parity", "privacy", "regurgitation",
    }  # fmt: skip
    assert {*GATES.names} >= EXCUSABLE | never
    assert not EXCUSABLE & never


def test_both_policies_must_excuse_it() -> None:
    own, target = verdict(BAD), verdict(BAD, finding("slow"))
    decided = policy_judgement.decided("main", own, target, (), None, False, excepted={"bad"})
    assert decided == ("fail", "fail under that of main")
    decided = policy_judgement.decided("main", own, target, (), None, False, excepted={"bad", "slow"})
    assert decided == ("pass", "fail, and an exception names every gate that did not pass")
    assert policy_judgement.decided("main", own, target, (), None, False)[0] == "fail"


@pytest.mark.parametrize(
    ("emergency", "reason"),
    [
        ({"gates": ["test_is_unseen"], "hours": 72}, "test_is_unseen: nobody may except kind contamination"),
        ({"gates": ["improves"], "hours": 72}, "improves: there is no such gate"),
        ({"gates": ["routes_well"], "hours": 72, "signers": 1}, "signers"),
        ({"gates": ["routes_well"], "hours": 169}, "hours"),
        ({"gates": ["routes_well"], "hours": 0}, "hours"),
        ({"gates": ["routes_well"]}, "hours"),
        ({"gates": [], "hours": 72}, "gates"),
        ({"gates": "routes_well", "hours": 72}, "gates"),
        ({"gates": ["routes_well"], "hours": "72"}, "hours"),
        ({"gates": ["routes_well"], "hours": 72, "for": "all"}, "for"),
        (True, "emergency"),
    ],
)
def test_a_policy_that_would_except_too_much_is_refused(emergency: Any, reason: str) -> None:
    plain = copy.deepcopy(yaml.safe_load(ROUTER.read_text()))
    plain["promote"]["environments"]["production"]["emergency"] = emergency
    with pytest.raises(ParamsRefused) as refused:
        params_file.check(params_file.read_text(yaml.safe_dump(plain), "params.yaml"))
    lines = [str(refused.value), *refused.value.others]
    assert any("promote.environments.production.emergency" in line and reason in line for line in lines)
