"""`lockstep verify --against`: two servers of the same weights, row by row, against labelled stand-ins."""

from collections.abc import Callable
from typing import Any

import pytest

from checks.config.params import Params
from checks.formats.serving import ServerComparison, combine
from checks.process.errors import ServingRefused
from release import runtimes
from release.serving import against
from release.serving.against import RunningServer
from release.serving.expected import Expected
from release.serving.options import VerifyOptions, check_options
from release.serving.probes.context import ProbeContext
from tests.release.serving.test_verify_checks import DIGEST, ROWS, ask, few_requests, talking
from tests.tgi_standin import StandIn

pytestmark = pytest.mark.slow

few_requests = few_requests
OLD = f"r.example/tgi@sha256:{'c' * 64}"


def running(params: Params, old: ProbeContext) -> RunningServer:
    """The server before, as the ledger would name it."""
    expected = Expected(params, DIGEST, DIGEST, old.probes, DIGEST, ROWS, (), None, "")
    return RunningServer("production", "v1.2.0", OLD, expected, runtimes.load("tgi"), VerifyOptions(), OLD)


def compared(params: Params, spoil: Callable[[StandIn], object] = lambda _: None, **settings: Any) -> ServerComparison:
    """Ask a new server, which ``spoil`` changes, and the one before."""
    with talking(params, **settings) as (new, server), talking(params) as (old, _):
        spoil(server)
        assert ask(new)["start"].status == "pass"
        return against.compare(running(params, old), new, old)


def test_a_server_with_the_same_answers_is_no_worse_however_few_the_rows(params: Params) -> None:
    found = compared(params)
    assert (found.status, found.differ, found.lower) == ("pass", 0, 0)
    assert (found.rows, found.mean, found.mean_before) == (20, 0.8, 0.8)
    assert "0 texts differ; no worse" in found.reason
    assert (found.server, found.version, found.margin) == (OLD, "v1.2.0", 0.1)


def test_a_server_that_loses_rows_is_refused(params: Params) -> None:
    def forget(server: StandIn) -> None:
        for row in ROWS[1:5]:
            server.rows[row.prompt] = "nothing"

    found = compared(params, forget)
    assert (found.status, found.differ) == ("fail", 4)
    assert found.mean == pytest.approx(0.6)
    assert found.lower < -0.1
    assert "does not rule out a loss of 0.1" in found.reason
    assert combine((), found) == "fail"


def test_a_margin_of_0_allows_no_row_to_differ(params: Params) -> None:
    found = compared(params, lambda server: server.rows.update({ROWS[1].prompt: "nothing"}), margin=0.0)
    assert (found.status, found.differ, found.margin) == ("fail", 1, 0)
    assert "does not rule out a loss of 0;" in found.reason
    assert compared(params, margin=0.0).status == "pass"


def test_a_time_is_judged_only_where_the_policy_bounds_it(params: Params) -> None:
    def wait(server: StandIn) -> None:
        server.prefill = 0.2

    assert compared(params, wait).status == "pass"
    found = compared(params, wait, slower=1.5)
    assert found.status == "fail"
    assert found.slower is not None
    assert found.slower > 1.5
    assert "at most 1.5 were allowed" in found.reason
    assert compared(params, slower=1000.0).status == "pass"


def test_a_time_with_a_bound_must_be_measured_at_each_level(params: Params) -> None:
    with talking(params, slower=1000.0) as (new, _), talking(params) as (old, server):
        ask(new)
        old.serve = old.serve.model_copy(update={"max_concurrent_requests": 4})  # of the rows
        server.faults.most_at_once, server.faults.seconds = 8, 0.05
        found = against.compare(running(params, old), new, old)
        assert [load.concurrency for load in old.load] == [1, 4]
    assert (found.status, found.slower, found.differ) == ("fail", None, 0)
    assert "the slowest requests were not measured, at most 1000 were allowed" in found.reason


def test_a_server_that_does_not_answer_here_compares_nothing(params: Params) -> None:
    with talking(params) as (new, _), talking(params) as (old, server):
        ask(new)
        server.faults.refused = "row 07"
        with pytest.raises(ServingRefused, match="the server of production does not answer here: 1 of 20 rows"):
            against.compare(running(params, old), new, old)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"against": "production", "url": "http://127.0.0.1:9"}, "starts both servers, and a URL is a running one"),
        ({"against": "production", "runtime": "transformers"}, "compares containers, .* by --against-python"),
        ({"against": "production", "against_python": "old/bin/python"}, "names the process .* name --against and --run"),
        ({"runtime": "transformers", "against_python": "old/bin/python"}, "names the process that stands for a server"),
    ],
)  # fmt: skip
def test_no_process_stands_for_a_server_unless_it_is_named(options: dict[str, str], says: str) -> None:
    with pytest.raises(ServingRefused, match=says):
        check_options(VerifyOptions(**options))


def test_a_process_that_stood_for_the_server_is_named(params: Params) -> None:
    with talking(params) as (new, _), talking(params) as (old, _):
        assert ask(new)["start"].status == "pass"
        found = against.compare(running(params, old)._replace(process="router 1.2"), new, old)
    assert (found.server, found.process) == (OLD, "router 1.2")
    assert found.reason.endswith("; a process of router 1.2 stood for it")
    assert "process" not in found.model_copy(update={"process": None}).model_dump()
