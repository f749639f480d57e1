"""`lockstep verify --against`: two servers of the same weights, row by row, against labelled stand-ins."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest

from checks.config.params import Params
from checks.formats.serving import ServerComparison, combine
from checks.process.errors import ServingRefused
from release import runtimes
from release.serving import against, pace
from release.serving.against import RunningServer
from release.serving.expected import Expected
from release.serving.options import VerifyOptions, check_options
from release.serving.probes import life, score
from release.serving.probes.context import ProbeContext
from tests.release.serving.test_verify_checks import DIGEST, ROWS, talking
from tests.tgi_standin import StandIn

pytestmark = pytest.mark.slow

L4 = "1 x NVIDIA L4"
OLD = f"r.example/tgi@sha256:{'c' * 64}"


def running(params: Params, old: ProbeContext) -> RunningServer:
    """The server before, as the ledger would name it."""
    expected = Expected(params, DIGEST, DIGEST, old.probes, DIGEST, ROWS, (), None, "")
    return RunningServer("production", "v1.2.0", OLD, expected, runtimes.load("tgi"), VerifyOptions(), OLD)


def asked(new: ProbeContext) -> None:
    """Ask the new server what the comparison reads again."""
    assert life.start(new, time.monotonic()).status == "pass"
    score.score(new)


def compared(params: Params, spoil: Callable[[StandIn], object] = lambda _: None, **settings: Any) -> ServerComparison:
    """Ask a new server, which ``spoil`` changes, and the one before."""
    with talking(params, **settings) as (new, server), talking(params) as (old, _):
        spoil(server)
        asked(new)
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


def delayed(seconds: float) -> Callable[[StandIn], object]:
    """Each answer begins so much later."""
    return lambda server: setattr(server, "prefill", seconds)


def by_turns(params: Params, seconds: float) -> pace.Pace | None:
    """Time a server that needs ``seconds`` more than its equal by turns with that."""
    with talking(params) as (new, server), talking(params) as (old, _):
        delayed(seconds)(server)
        return pace.by_turns(pace.running(new), pace.running(old))


def timed(params: Params, measured: pace.Pace | None, slower: float, machine: str | None = None) -> ServerComparison:
    """Judge the times of a server that answers as well."""
    found = compared(params)
    assert (found.status, found.slower_bound, found.slower_low) == ("pass", None, None)
    verify = params.serve.verify.model_copy(update={"slower": slower, "slower_machine": machine})
    return against.timed(found, measured, L4, verify)


def test_a_server_that_answers_as_well_and_takes_longer_is_refused_by_the_bound_alone(params: Params) -> None:
    assert compared(params, delayed(0.2)).status == "pass"  # without a bound
    measured = by_turns(params, 0.4)
    found = timed(params, measured, 1.2)
    assert (found.status, found.slower_bound, found.slower_on, found.differ) == ("fail", 1.2, L4, 0)
    assert found.slower is not None
    assert found.slower_low is not None
    assert found.slower_high is not None
    assert 1.2 < found.slower_low < found.slower < found.slower_high
    assert f"timed by turns on {L4}, requests take" in found.reason
    assert "at most 1.2 were allowed" in found.reason
    assert timed(params, measured, 1000.0).status == "pass"


@pytest.fixture
def busy() -> Iterator[None]:
    """Other work on this machine that comes and goes: twice as many processes as it has processors."""
    loop = "import time\nwhile True:\n  end = time.time() + 0.7\n  while time.time() < end: pass\n  time.sleep(0.5)"
    processes = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.usefixtures("busy")
def test_an_equal_server_is_not_refused_on_a_busy_machine(params: Params) -> None:
    found = timed(params, by_turns(params, 0.0), 1.2)
    assert found.status == "pass", found.reason
    assert found.slower_low is not None
    assert found.slower_low <= 1.2


def test_noise_refuses_an_equal_server_as_seldom_as_the_interval_says_and_not_one_that_is_slower() -> None:
    """A busy machine: the ratio of one round is off by a factor of 1.35, or its inverse, once in three rounds."""
    noise = np.random.default_rng(7).normal(0, 0.3, (2000, pace.ROUNDS, len(pace.LEVELS)))
    equal, slower = ([pace.of_rounds(list(r + np.log(times))).low for r in noise] for times in (1.0, 2.0))
    assert np.mean([low > 1 for low in equal]) <= 0.015  # a bound of 1 is the strictest that an equal server keeps
    assert np.mean([low > 1.2 for low in equal]) == 0
    assert np.mean([low > 1.2 for low in slower]) >= 0.99


def test_the_level_that_is_slower_for_certain_is_told() -> None:
    quiet = [[np.log(1.5), 0.0], [np.log(1.52), 0.9], [np.log(1.48), 3.2]]
    found = pace.of_rounds(quiet)
    assert found.level == pace.LEVELS[0]
    assert found.ratio == pytest.approx(1.5, abs=0.01)
    assert 1.3 < found.low < 1.5 < found.high
    assert pace.of_rounds([[0.0, 0.0]] * 6) == (1.0, 1.0, 1.0, 1)


def test_a_time_with_a_bound_must_be_measured(params: Params) -> None:
    with talking(params) as (new, _), talking(params) as (old, server):
        server.faults.most_at_once, server.faults.seconds = 4, 0.05
        assert pace.by_turns(pace.running(new), pace.running(old)) is None
    found = timed(params, None, 1000.0)
    assert (found.status, found.slower, found.differ) == ("fail", None, 0)
    assert found.reason.endswith("a request was not answered while both servers were timed by turns")


def test_times_of_another_class_of_machines_than_the_policy_names_do_not_count(params: Params) -> None:
    measured = pace.Pace(1.0, 0.9, 1.1, 8)
    found = timed(params, measured, 1000.0, "2 x NVIDIA H100")
    assert found.status == "fail"
    assert found.reason.endswith(f"both servers were timed on {L4}, and serve.verify.slower counts on 2 x NVIDIA H100")
    assert timed(params, measured, 1000.0, L4).status == "pass"
    assert timed(params, measured, 0.91).status == "pass"  # a part of the interval keeps to it
    assert timed(params, measured, 0.89).status == "fail"


def test_each_server_gets_the_same_requests_and_is_first_in_every_other_round(params: Params) -> None:
    opened = list[str]()

    @contextmanager
    def again(name: str, context: ProbeContext) -> Iterator[ProbeContext]:
        opened.append(name)
        yield context

    with talking(params) as (new, server), talking(params) as (old, before):
        assert pace.by_turns(partial(again, "new", new), partial(again, "old", old)) is not None
        assert opened == ["new", "old", "old", "new"] * (pace.ROUNDS // 2)
        opened.clear()
        assert pace.by_turns(partial(again, "new", new), partial(again, "old", old), pace.RESTARTS) is not None
        assert opened == ["new", "old", "old", "new"] * 2
        counts = [Counter(str(body["messages"]) for body in each.bodies) for each in (server, before)]
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) == 2 * pace.ROUNDS * (4 + 8)


def test_a_server_that_does_not_answer_here_compares_nothing(params: Params) -> None:
    with talking(params) as (new, _), talking(params) as (old, server):
        asked(new)
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
        asked(new)
        found = against.compare(running(params, old)._replace(process="router 1.2"), new, old)
    assert (found.server, found.process) == (OLD, "router 1.2")
    assert found.reason.endswith("; a process of router 1.2 stood for it")
    assert "process" not in found.model_copy(update={"process": None}).model_dump()
