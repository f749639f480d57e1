"""Who may sign: no entry of the file may be met by somebody whom it does not name."""

import json
from typing import Any

import pytest

from checks.formats import signers
from checks.formats.signers import GITHUB, Source
from checks.process.errors import EvidenceRefused

REPOSITORY = "https://github.com/team/router"
SHARED = "https://github.com/tools/lockstep/.github/workflows/release.yml"
CALLER = f"{REPOSITORY}/.github/workflows/release.yml@refs/heads/main"
OLD, NEW = "0" * 40, "1" * 40
OWN = {"name": "ci", "may": ["release"], "identity": CALLER, "issuer": GITHUB}
PINNED = OWN | {"identity": SHARED, "commits": [OLD, NEW], "caller": CALLER}


def _parse(*entries: dict[str, Any]) -> signers.Signers:
    plain = [{name: value for name, value in entry.items() if value is not None} for entry in entries]
    return signers.parse(json.dumps(plain), "signers.yaml")


def test_a_workflow_says_whose_code_must_have_run() -> None:
    own, pinned = _parse(OWN, PINNED | {"name": "shared"})
    assert own.source == pinned.source == Source(REPOSITORY, "refs/heads/main")
    assert own.identities == (CALLER,)
    assert pinned.identities == (f"{SHARED}@{OLD}", f"{SHARED}@{NEW}")


def test_an_identity_that_is_no_workflow_has_no_source() -> None:
    (person,) = _parse({"name": "ops", "may": ["release"], "identity": "ops@acme.dev", "issuer": "https://acme.dev"})
    assert (person.source, person.identities) == (None, ("ops@acme.dev",))


@pytest.mark.parametrize(
    "change",
    [
        {"caller": None},
        {"commits": None},
        {"commits": []},
        {"commits": None, "caller": None},
        {"identity": f"{SHARED}@{OLD}"},
        {"identity": f"{SHARED}@{OLD}", "commits": None, "caller": None},
        {"identity": f"{SHARED}@{OLD}", "commits": None},
        {"identity": f"{SHARED}@refs/tags/v0.2.0", "commits": None},
        {"identity": f"{SHARED}@v0.2.0", "commits": None, "caller": None},
        {"identity": f"{REPOSITORY}/.github/workflows/a.yml@refs/pull/7/merge", "commits": None, "caller": None},
        {"identity": f"{REPOSITORY}/.github/workflows/a.yml@refs/tags/v1", "commits": None, "caller": None},
        {"issuer": "https://issuer.example"},
        {"issuer": f"{GITHUB}/acme", "caller": None},
    ],
)
def test_a_workflow_that_anybody_could_call_is_no_signer(change: dict[str, Any]) -> None:
    with pytest.raises(EvidenceRefused, match=r"ci: a workflow of GitHub has the issuer .* `commits` and `caller`"):
        _parse(PINNED | change)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"caller": f"{REPOSITORY}/.github/workflows/release.yml@refs/pull/7/merge"}, "caller"),
        ({"caller": f"{REPOSITORY}/.github/workflows/release.yml@refs/tags/main"}, "caller"),
        ({"caller": f"{REPOSITORY}/.github/workflows/release.yml"}, "caller"),
        ({"caller": REPOSITORY}, "caller"),
        ({"commits": ["main"]}, "commits"),
        ({"commits": [OLD[:12]]}, "commits"),
        ({"commits": [OLD, OLD]}, "a commit is written twice"),
    ],
)
def test_a_caller_is_a_workflow_at_a_branch_and_commits_are_whole(change: dict[str, Any], why: str) -> None:
    with pytest.raises(EvidenceRefused, match=why):
        _parse(PINNED | change)


@pytest.mark.parametrize(
    "other",
    [{}, {"commits": [NEW]}, {"commits": ["2" * 40]}, {"commits": [NEW], "until": "retired"}],
    ids=["the same", "one of its commits", "other commits", "one of its commits, retired"],
)
def test_two_names_of_one_workflow_would_count_as_two_people(other: dict[str, Any]) -> None:
    text = json.dumps([PINNED, PINNED | {"name": "second"} | other]).replace('"retired"', "2030-01-31")
    with pytest.raises(EvidenceRefused, match=r"two signers have the same (identity|workflow and caller)"):
        signers.parse(text, "signers.yaml")


def test_a_commit_that_is_no_longer_trusted_gets_an_entry_with_a_last_day() -> None:
    text = json.dumps([PINNED | {"commits": [NEW]}, PINNED | {"name": "old", "commits": [OLD], "until": "retired"}])
    assert [signer.name for signer in signers.parse(text.replace('"retired"', "2030-01-31"), "it")] == ["ci", "old"]


def test_an_upgrade_adds_its_commit_to_the_entries_of_its_workflows_and_changes_no_other_line() -> None:
    shared, last = (
        "identity: https://github.com/tools/lockstep/.github/workflows/",
        f"caller: {CALLER}\n  issuer: {GITHUB}",
    )
    text = f"""# Who may sign.
- name: ci
  may: [release]
  {shared}release.yml
  commits: ['{OLD}']  # of 0.2.0
  {last}
- name: stolen
  may: [release]
  {shared}release.yml
  commits: ['{"3" * 40}']
  until: 2026-12-31
  {last}
- name: other
  may: [verify]
  {shared.replace("tools/", "acme/")}verify.yml
  commits: ['{OLD}']
  {last}
"""
    new = signers.with_commit(text, "tools/lockstep", NEW)
    assert new == text.replace(f"['{OLD}']  #", f"['{OLD}', '{NEW}']  #")
    assert signers.parse(new, "it")[0].commits == (OLD, NEW)
    assert signers.with_commit(new, "tools/lockstep", NEW) == new
