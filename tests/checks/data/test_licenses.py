"""The table of licences, how sources spell them, and the gate over base, data and adapter."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.config.params import Params
from checks.data import licenses
from checks.decision.judging import judge
from checks.evaluation import scoring
from checks.formats.data_reports import FetchReport
from checks.formats.evidence import Evidence
from checks.formats.verdict import Finding
from checks.gates.license import LicenseGate
from checks.gating import chain
from checks.storage import files, layout
from tests import evidence_tree, spoil
from tests.conftest import REPOSITORY, as_params, scaled_down

OPEN = ["Apache-2.0", "MIT", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "llama3.1", "gemma", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "mrl"]


# --- the table and the spellings ---------------------------------------------------------------------------------


def test_the_document_shows_the_table() -> None:
    """Licences that ask for the same are in one line."""
    names = dict[tuple[str, str, str], list[str]]()
    for row in licenses.TABLE:
        under = "any" if row.derivatives is None else " or ".join(row.derivatives) or "none"
        under = "the same" if under == row.name else under
        names.setdefault(("yes" if row.commercial else "no", under, row.duties), []).append(row.name)
    rows = ["| licence | commercial use | derivatives under | duties |", "| --- | --- | --- | --- |"]
    rows += [f"| {', '.join(alike)} | {' | '.join(asked)} |" for asked, alike in names.items()]
    assert "\n".join(rows) in (REPOSITORY / "docs/reference/licenses.md").read_text()


def test_every_row_has_its_own_name_and_reads_back_from_it() -> None:
    for row in licenses.TABLE:
        assert licenses.find(row.name.upper()) == row
        assert licenses.read(row.name) == {row.name}
        assert not licenses.says_nothing(row.name)
        assert all(licenses.find(name) for name in row.derivatives or ())
    assert len({row.name.casefold() for row in licenses.TABLE}) == len(licenses.TABLE)


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ("apache-2.0", {"Apache-2.0"}),
        ("Apache 2.0", {"Apache-2.0"}),
        ("Apache License, Version 2.0", {"Apache-2.0"}),
        ("License :: OSI Approved :: Apache Software License", {"Apache-2.0"}),
        ("MIT License", {"MIT"}),
        ("The MIT License (MIT)", {"MIT"}),
        ("License :: OSI Approved :: MIT License", {"MIT"}),
        ("BSD", {"BSD-2-Clause", "BSD-3-Clause"}),
        ("3-Clause BSD License", {"BSD-3-Clause"}),
        ("License :: CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", {"CC0-1.0"}),
        ("CC BY-SA 4.0", {"CC-BY-SA-4.0"}),
        ("Gemma Terms of Use", {"gemma"}),
        ("tongyi-qianwen-research", {"qwen-research"}),
        ("openrail++", {"openrail++"}),
        ("(MIT OR Apache-2.0)", {"MIT", "Apache-2.0"}),
        ("MIT AND BSD-3-Clause", set()),
        ("Apache-2.0 WITH LLVM-exception", set()),
        ("mit, cc-by-nc-4.0", set()),
        ("License :: OSI Approved :: MIT License, License :: OSI Approved :: Apache Software License", set()),
        ("Proprietary", set()),
        ("cc-by-nc-4.0-modified", set()),
    ],
)
def test_what_a_source_declares_is_read_as_the_licences_it_can_mean(declared: str, names: set[str]) -> None:
    assert licenses.read(declared) == names


@pytest.mark.parametrize("declared", ["other", "UNKNOWN", "LICENSE", "See LICENSE.txt", "License :: OSI Approved"])
def test_words_that_name_no_licence_say_nothing(declared: str) -> None:
    assert licenses.says_nothing(declared)
    assert licenses.read(declared) == set()


# --- the gate ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Evidence of a good run."""
    root, params = tmp_path_factory.mktemp("run"), as_params(scaled_down())
    evidence_tree.build(root, params)
    return chain.gather(root, scoring.digest_of(params.evaluate.scorers))


def asked(
    ground: Evidence, params: Params, adapter: str = "Apache-2.0", allow: list[str] | None = None, **stated: Any
) -> Finding:
    """The finding for base, data and draft as ``stated``, each (stated in params.yaml, stated when fetched, declared)."""
    sources: dict[str, Any] = {"base": ("Apache-2.0", "Apache-2.0", None), "data": ("MIT", "MIT", None)}
    sources |= {part: stated[part] for part in sources if part in stated}
    fetch = ground.reports.fetch
    assert fetch is not None
    update: dict[str, Any] = {}
    for part, (now, then, declared) in sources.items():
        changed = getattr(params, part).model_copy(update={"license": now})
        params = params.model_copy(update={part: changed})
        update[part] = getattr(fetch, part).model_copy(update={"license": then, "declared": declared})
    reports = replace(ground.reports, fetch=fetch.model_copy(update=update))
    if draft := stated.get("draft"):
        assert reports.parity is not None
        copied = fetch.base.model_copy(update={"license": draft[0], "declared": draft[2]})
        reports = replace(reports, parity=reports.parity.model_copy(update={"draft": copied}))
    gate = LicenseGate(
        kind="license", allow=tuple(allow or OPEN), adapter=adapter, commercial=stated.get("commercial", True)
    )
    return evidence_tree.asked("may_ship", gate, replace(ground, reports=reports), params)


def same(name: str | None, declared: str | None = None) -> tuple[str | None, str | None, str | None]:
    return name, name, declared


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"base": same("apache-2.0", "Apache License 2.0"), "data": same("MIT", "MIT License")},
        {"base": same("llama3.1", "llama3.1"), "adapter": "llama3.1"},
        {"base": same("MIT", "other")},
        {"base": same("MIT", "MIT OR Apache-2.0")},
        {"data": same("CC-BY-SA-3.0"), "adapter": "CC-BY-SA-4.0"},
        {"base": same("CC-BY-NC-4.0"), "adapter": "CC-BY-NC-4.0", "commercial": False},
        {"base": same("mrl"), "adapter": "mrl", "commercial": False},
        {"data": same(licenses.OWN), "allow": ["Apache-2.0", licenses.OWN], "adapter": licenses.OWN},
        {"draft": same("MIT", "mit")},
    ],
)
def test_what_is_known_allowed_and_compatible_passes(ground: Evidence, params: Params, case: dict[str, Any]) -> None:
    finding = asked(ground, params, **case)
    assert (finding.status, finding.kind) == ("pass", "license"), finding.reason


def test_a_pass_states_the_three_licences_and_their_duties(ground: Evidence, params: Params) -> None:
    assert asked(ground, params).reason == (
        "base Apache-2.0, data MIT, adapter Apache-2.0: may be shipped together for commercial use. Duties: "
        "base: keep the licence's text, notices and NOTICE, say what was changed; "
        "data: keep the copyright notice and the licence's text; "
        "adapter: keep the licence's text, notices and NOTICE, say what was changed"
    )


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"base": same(None)}, ["params.yaml: base.license: no licence is stated"]),
        ({"base": same(None, "MIT")}, ["no licence is stated", "base.license is null, but the base declares 'MIT'"]),
        ({"data": same("Proprietary")}, ["'Proprietary' is not in the table of docs/reference/licenses.md; what is your own is"]),
        ({"data": same(licenses.OWN, "proprietary")}, ["is LicenseRef-Own, but the data declares 'proprietary'"]),
        ({"data": same(licenses.OWN)}, ["data: LicenseRef-Own is not allowed"]),
        ({"base": same("llama3.1"), "adapter": licenses.OWN}, ["under llama3.1, the adapter is LicenseRef-Own"]),
        ({"data": same("MIT License")}, ["'MIT License' is not in the table of docs/reference/licenses.md, which has MIT"]),
        ({"adapter": "mine"}, ["gates.may_ship.adapter: 'mine' is not in the table"]),
        ({"allow": ["MIT"]}, ["base: Apache-2.0 is not allowed (allowed: MIT)", "adapter: Apache-2.0 is not allowed"]),
        ({"base": same("llama3.1")}, ["base: llama3.1 wants derivatives under llama3.1, the adapter is Apache-2.0"]),
        ({"base": same("gemma"), "adapter": "llama3.1"}, ["base: gemma wants derivatives under gemma"]),
        ({"data": same("CC-BY-SA-4.0")}, ["data: CC-BY-SA-4.0 wants derivatives under CC-BY-SA-4.0", "is disputed"]),
        ({"data": same("CC-BY-ND-4.0")}, ["data: CC-BY-ND-4.0 permits no derivative to be shared", "is disputed"]),
        ({"base": same("CC-BY-NC-4.0")}, ["base: CC-BY-NC-4.0 does not permit commercial use"]),
        ({"adapter": "CC-BY-NC-4.0"}, ["adapter: CC-BY-NC-4.0 does not permit commercial use"]),
        (
            {"data": same("CC-BY-NC-4.0"), "commercial": False},
            ["data: CC-BY-NC-4.0 does not permit commercial use, which the adapter's Apache-2.0 would grant"],
        ),
        ({"base": same("MIT", "apache-2.0")}, ["base.license is MIT, but the base declares 'apache-2.0'"]),
        ({"base": same("MIT", "mit, cc-by-nc-4.0")}, ["but the base declares 'mit, cc-by-nc-4.0'"]),
        ({"base": same("MIT", "Proprietary")}, ["but the base declares 'Proprietary'"]),
        ({"base": ("Apache-2.0", "MIT", None)}, ["reports/fetch.json: base was fetched when params.yaml: base.license was MIT, it is Apache-2.0"]),
        ({"draft": same("CC-BY-NC-4.0")}, ["merge.draft: CC-BY-NC-4.0 does not permit commercial use"]),
        ({"draft": same("MIT", "gemma")}, ["merge.draft.license is MIT, but the merge.draft declares 'gemma'"]),
        ({"draft": same(None)}, ["params.yaml: merge.draft.license: no licence is stated"]),
        ({"data": ("MIT", None, None)}, ["data.license was null, it is MIT: run `./lockstep run fetch`"]),
        (
            {"base": same(None), "data": same("CC-BY-NC-4.0", "mit"), "allow": ["MIT"], "adapter": "none"},
            ["no licence is stated", "'none' is not in the table", "declares 'mit'", "not allowed", "commercial use"],
        ),
    ],
)  # fmt: skip
def test_each_problem_fails_the_gate_and_all_are_listed(
    ground: Evidence, params: Params, case: dict[str, Any], words: list[str]
) -> None:
    finding = asked(ground, params, **case)
    assert finding.status == "fail"
    for word in words:
        assert word in finding.reason


def _restate(path: Path) -> None:
    report = files.read_json(path, FetchReport)
    files.write_json(path, report.model_copy(update={"base": report.base.model_copy(update={"declared": "gemma"})}))


@pytest.mark.parametrize(
    ("change", "word"),
    [(spoil.remove(), "no evidence: "), (_restate, "base.license is Apache-2.0, but the base declares")],
)
def test_the_verdict_asks_the_gate(tmp_path: Path, document: dict, change: Callable[[Path], None], word: str) -> None:
    gate = {"kind": "license", "allow": ["Apache-2.0", "MIT"], "adapter": "Apache-2.0", "commercial": True}
    document["gates"] = {"may_ship": gate}
    params = as_params(document)
    evidence_tree.build(tmp_path, params)
    scorers = scoring.digest_of(params.evaluate.scorers)
    assert judge(params, chain.gather(tmp_path, scorers)).status == "pass"
    change(tmp_path / layout.FETCH_REPORT)
    verdict = judge(params, chain.gather(tmp_path, scorers))
    assert verdict.status == "fail"
    assert word in verdict.findings[0].reason
