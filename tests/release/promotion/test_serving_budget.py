"""A budget for 1,000 requests counts what a verifier measured on the named class of machine, and nothing else."""

from pathlib import Path
from typing import Any, get_args

import pytest

from checks.config.release_params import ServingBudget
from checks.formats.energy import Counted, Energy
from checks.formats.serving import OPTIONAL, CheckName, ImageReport, ServingCheck, ServingReport, Throughput
from checks.formats.training_reports import TrainMeasured
from checks.process.errors import PromotionRefused
from checks.storage import files, layout
from release.cli import environment_tables, tables
from release.cost.training_record import Took
from release.promotion import serving_checks
from release.verbs.build import BuildOptions, build
from release.verbs.status import status
from tests import promotion_tree as tree

L4 = "1 x NVIDIA L4"
# 400 requests in 10 s: 3600 s of 1 price an hour give 144,000, so 1,000 cost 0.00694; 36 kJ are 10 Wh, so 1,000 take 25.
GPU = Counted(kind="nvml", device="0: NVIDIA L4", joules=36_000)
PACKAGE = Counted(kind="rapl", device="package-0", joules=36_000)
MEASURED = Throughput(machine=L4, concurrency=16, requests=400, seconds=10.0, energy=Energy(counted=(GPU,)))


def _found(**change: Any) -> Throughput:
    return MEASURED.model_copy(update=change)


def _budget(**bounds: float | str) -> ServingBudget:
    return ServingBudget.model_validate({"machine": L4} | bounds)


UNMEASURED = Energy(missing=("GPUs: NVML: Not Supported",))
HELD: dict[str, tuple[ServingBudget, Throughput | None, str]] = {
    "within both": (_budget(watt_hours=25, price=0.01, hourly_price=1), MEASURED, ""),
    "too much energy": (_budget(watt_hours=24.9), MEASURED, "1,000 requests take 25 Wh, above 24.9"),
    "too dear": (_budget(price=0.006, hourly_price=1), MEASURED, "1,000 requests cost 0.006944, above 0.006"),
    "the price is of the hour that the policy states": (_budget(price=0.006, hourly_price=0.8), MEASURED, ""),
    "another machine, although it takes less": (
        _budget(watt_hours=99), _found(machine="1 x NVIDIA L40S"),
        "throughput was measured on 1 x NVIDIA L40S, but the budget of production is for 1 x NVIDIA L4",
    ),
    "two of them": (_budget(watt_hours=99), _found(machine="2 x NVIDIA L4"), "throughput was measured on 2 x NVIDIA L4"),
    "a machine that is not known": (
        _budget(price=9, hourly_price=1), _found(machine=None), "throughput was measured on a machine that is not known",
    ),
    "energy that was not measured": (
        _budget(watt_hours=99), _found(energy=UNMEASURED), "its energy was not measured: GPUs: NVML: Not Supported",
    ),
    "a price needs no energy": (_budget(price=1, hourly_price=1), _found(energy=UNMEASURED), ""),
    "a moment is no measurement": (
        _budget(price=1, hourly_price=1), _found(seconds=0.4), "its throughput was measured for 0.4 s",
    ),
    "an older report": (_budget(watt_hours=99), None, "the serving report has no throughput"),
    "processors beside GPUs are no part of it": (
        _budget(watt_hours=25), _found(energy=Energy(counted=(GPU, PACKAGE))), "",
    ),
    "where processors serve, they are": (
        _budget(watt_hours=24), _found(energy=Energy(counted=(PACKAGE,))), "1,000 requests take 25 Wh, above 24",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HELD.values(), ids=HELD)
def test_only_measured_figures_of_the_named_machine_count(case: tuple[ServingBudget, Throughput | None, str]) -> None:
    budget, found, says = case
    told = [what for what, _ in serving_checks.over_budget(budget, found, "production")]
    assert len(told) == bool(says)
    assert says in "".join(told)


def test_each_bound_that_is_exceeded_is_a_failure_of_its_own() -> None:
    found = list(serving_checks.over_budget(_budget(watt_hours=1, price=0.001, hourly_price=1), MEASURED, "staging"))
    assert len(found) == 2
    assert all("raise promote.environments.staging.budget" in todo for _, todo in found)


MEASURED_HERE = {
    "machine": L4, "concurrency": 16, "requests": 400, "seconds": 10.0,
    "energy": {"counted": [{"kind": "nvml", "device": "0: NVIDIA L4", "joules": 36000}]},
}  # fmt: skip


@pytest.mark.slow
def test_a_promotion_is_held_to_the_signed_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.leave_alone(monkeypatch)
    root = tmp_path / "work"
    budget = {"machine": L4, "watt_hours": 30, "price": 0.01, "hourly_price": 1}
    tree.prepare(root, lambda plain: plain["promote"]["environments"]["staging"].update(budget=budget))
    build(root, BuildOptions())
    report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    tree.served(root, report, throughput=MEASURED_HERE | {"machine": "AMD EPYC, 2 CPUs"})
    tree.signed(root, report)
    with pytest.raises(PromotionRefused) as refused:
        tree.move(root, "staging")
    assert f"throughput was measured on AMD EPYC, 2 CPUs, but the budget of staging is for {L4}" in "\n".join(
        [refused.value.what, *refused.value.others]
    )
    tree.served(root, report, throughput=MEASURED_HERE)
    tree.signed(root, report)
    done = tree.move(root, "staging")
    note = next(check.note for check in done.checks if check.about == "serving")
    assert f"; 1,000 requests on {L4}: 25 Wh, at most 30; price 0.006944, at most 0.01" in note

    commit = status(root).environments[0].runs
    assert commit is not None
    assert commit.took is not None
    assert commit.took.requests == Throughput.model_validate(MEASURED_HERE)
    told = environment_tables.status(status(root))
    assert "training 1 s on cpu\n" in told
    assert f"1,000 requests: 25 Wh, 16 at a time on {L4}\n" in told


VERIFIED: dict[str, tuple[Throughput | None, str]] = {
    "measured": (MEASURED, "    1 x NVIDIA L4: 1,000 requests take 25 Wh"),
    "no counter": (_found(energy=UNMEASURED), "    1 x NVIDIA L4: energy not measured: GPUs: NVML: Not Supported"),
    "too short": (
        _found(seconds=1.0),
        "    1 x NVIDIA L4: energy not measured: it took 1 s, too short for the counters",
    ),
    "not known": (_found(machine=None, energy=UNMEASURED), "    machine not known: energy not measured: GPUs: NVML"),
    "an older report": (None, ""),
}


@pytest.mark.parametrize("case", VERIFIED.values(), ids=VERIFIED)
def test_verify_says_what_1000_requests_take_or_why_nobody_knows(case: tuple[Throughput | None, str]) -> None:
    found, line = case
    checks = tuple(
        ServingCheck(name=name, status="pass", reason="as it should")
        for name in get_args(CheckName)
        if name not in OPTIONAL
    )
    one = f"sha256:{'0' * 64}"
    report = ServingReport(
        image=None, model=one, verdict=one, probes=one, runtime="tgi", how="container", device="GPU all", checks=checks,
        load=(), throughput=found, status="pass", tool="0.1.0",
    )  # fmt: skip
    told = tables.serving(report).splitlines()
    assert len(told) == 1 + len(checks) + bool(line)
    assert line in told[-1]
    assert ("throughput" in report.model_dump()) == bool(line)  # the bytes of an older report stay what was signed


def test_a_line_of_status_says_what_was_measured_and_what_it_costs() -> None:
    training = TrainMeasured(
        adapter=f"sha256:{'0' * 64}", git_commit=None, mlflow_run="r", seconds=7200, device="cuda (NVIDIA L4)",
        energy=Energy(counted=(GPU, PACKAGE)),
    )  # fmt: skip
    known = Took(training=training, training_price=5.0, requests=MEASURED, price_per_1000_requests=0.00694)
    assert environment_tables.took(known) == [
        "training 7,200 s on cuda (NVIDIA L4), 20 Wh (1 GPU, 1 processor), price 5.00",
        "1,000 requests: price 0.00694, 25 Wh, 16 at a time on 1 x NVIDIA L4",
    ]
    unmeasured = _found(energy=UNMEASURED, machine=None)
    training = training.model_copy(update={"energy": UNMEASURED})
    little = Took(training=training, training_price=None, requests=unmeasured, price_per_1000_requests=None)
    assert environment_tables.took(little) == ["training 7,200 s on cuda (NVIDIA L4)"]
    nothing = Took(training=None, training_price=None, requests=None, price_per_1000_requests=None)
    assert environment_tables.took(nothing) == []
