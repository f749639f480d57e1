"""`lockstep verify` with llama.cpp's own server, as a process, of the GGUF file of a model that learnt; and planted faults.

An upgrade of that server is compared with an older version of the same wheel.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from checks.formats.serving import ServingCheck, ServingReport, combine
from checks.machine import meters
from checks.process.errors import ServingRefused
from checks.storage import layout
from release import runtimes
from release.promotion import compared_server, context
from release.serving import against, pace, processes, server
from release.serving.against import RunningServer
from release.serving.client import Client
from release.serving.expected import Expected, expected
from release.serving.probes import endpoints, life
from release.serving.probes.score import score
from release.serving.starting import started
from release.verbs import build
from release.verbs import verify as verb
from release.verbs.verify import VerifyOptions, verify
from stages.tools import llamacpp
from tests import gguf_model, tuned
from tests.conftest import as_params
from tests.once import once
from tests.release.serving.test_containers import healthy

pytestmark = pytest.mark.slow

RUNTIME = runtimes.load("llamacpp")
OLDER = "2026.9.11063"  # of xllamacpp: the version that production runs in the tests of an upgrade
RUNS = f"r.example/llama-server@sha256:{'c' * 64}"


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Path:
    """A record that passes, of weights with their GGUF file, and llama.cpp's server. Read-only by custom."""
    gguf_model.server(tmp_path_factory, patch)
    merged = gguf_model.exported(tmp_path_factory, patch, gguf_model.tuned_model(tmp_path_factory), "f32")
    root = tmp_path_factory.mktemp("verify") / "run"
    tuned.record(root, gguf_model.base(tmp_path_factory), merged, tuned.document())
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def by_name(report: ServingReport) -> dict[str, ServingCheck]:
    return {check.name: check for check in report.checks}


def test_the_file_serves_as_the_offline_model_answers(run: Path) -> None:
    for _ in range(5):  # On a busy machine all answers of this small model may end before SIGTERM arrives.
        report = verify(run, VerifyOptions(runtime="llamacpp"))
        assert report.status == "pass", report
        seen = by_name(report)
        if seen["drain"].status != "unavailable":
            break
    assert {name for name, check in seen.items() if check.status == "unavailable"} == {"egress", "read-only"}
    assert seen["template"].reason == "the token ids of 8 chats are the offline ones"
    assert "gguf/model.gguf in the folder that it was given" in seen["identity"].reason
    assert "nats apart" in seen["parity"].reason
    assert "where nothing ends an answer" in seen["parity"].reason
    assert "llamacpp:tokens_predicted_total" in seen["metrics"].reason  # and what alerts ask for is there, too
    assert seen["drain"].status == "pass"


def test_the_metrics_of_alerts_and_scaling_count_requests_of_the_real_server(finished: Path) -> None:
    """More requests than slots: four are answered, and the others wait."""
    assert RUNTIME.metrics is not None
    watched, path = RUNTIME.metrics.watched, RUNTIME.metrics.path
    assert watched.waiting is not None
    assert watched.running is not None
    serve = as_params(tuned.document()).serve
    with closing(processes.start(RUNTIME, serve, finished / layout.MERGED)) as started:
        server.wait_until(started, lambda: healthy(started), 60)
        client, most = Client(started.url), dict.fromkeys(watched.names, 0.0)
        text = client.get(path).good().body.decode()
        assert "kv_cache" not in text  # or `cache` has a name again
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 100, "ignore_eos": True}
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(client.post, "/v1/chat/completions", body) for _ in range(48)]
            while not all(answer.done() for answer in answers):
                figures = endpoints.samples(client.get(path).good().body)
                most = {name: max(number, figures[name]) for name, number in most.items()}
        assert {answer.result().status for answer in answers} == {200}
    assert most[watched.running] == RUNTIME.concurrency
    assert most[watched.waiting] >= 1


def _other_template(merged: Path) -> None:
    path = merged / "chat_template.jinja"
    path.write_text(path.read_text().replace("user", "human").replace("message['role']", "'human'"))


def _lost_bos(merged: Path) -> None:
    path = merged / "chat_template.jinja"
    path.write_text(path.read_text().removeprefix("{{ bos_token }}"))


def _the_base(merged: Path) -> None:
    shutil.copyfile(merged.parent / "base.safetensors", merged / "model.safetensors")
    for path in merged.glob("model-*"):
        path.unlink()
    (merged / "model.safetensors.index.json").unlink(missing_ok=True)


# What is done before the conversion, the check that finds it, and what it says.
FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "another chat template": (_other_template, "template", "token ids"),
    "the first token is lost": (_lost_bos, "template", "offline: they differ"),
    "the base is served": (_the_base, "adapter", "of 8 answers"),
}
OF_CI = ("the first token is lost",)


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in OF_CI else [pytest.mark.exhaustive]) for name in FAULTS]
)
def test_a_conversion_that_changed_the_model_is_found(
    fault: str, run: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spoil, check, says = FAULTS[fault]
    merged = Path(shutil.copytree(run / layout.MERGED, tmp_path / "merged"))
    shutil.copyfile(gguf_model.base(tmp_path_factory) / "model.safetensors", tmp_path / "base.safetensors")
    spoil(merged)
    gguf_model.export(merged, "f32")
    serve = as_params(tuned.document()).serve
    with closing(processes.start(RUNTIME, serve, merged)) as started:
        server.wait_until(started, lambda: healthy(started), 60)
        report = verify(run, VerifyOptions(runtime="llamacpp", url=started.url))
    seen = by_name(report)
    assert report.status == "fail"
    assert seen["identity"].status == "fail"
    assert seen[check].status == "fail", report
    assert says in seen[check].reason


@pytest.fixture
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an older version of llama.cpp's server."""
    return once(tmp_path_factory, "llamacpp-older", lambda folder: llamacpp.make(folder, OLDER)) / "bin" / "python"


@pytest.fixture
def built(run: Path) -> Path:
    """A copy of the record, with its image."""
    build.build(run, build.BuildOptions())
    return run


def upgrade(run: Path, patch: pytest.MonkeyPatch, older: Path) -> ServingReport:
    """Verify against production, which runs the same weights: a process of ``older`` stands for its server."""

    def find(root: Path, new: Expected, server_image: str | None, options: VerifyOptions) -> RunningServer:
        """What the ledger would say: tests of promotions look for it there."""
        runs = RunningServer("production", "v1.2.0", RUNS, new, RUNTIME, VerifyOptions(), RUNS)
        return compared_server.stand_in(root, runs, new, options, Path(options.against_python or ""))

    patch.setattr(context, "find", lambda root: root)
    patch.setattr(compared_server, "find", find)
    return verify(run, VerifyOptions(runtime="llamacpp", against="production", against_python=str(older)))


def test_a_newer_version_with_the_same_answers_is_no_worse_unless_it_takes_longer(
    built: Path, older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_slower(monkeypatch, 1000.0)
    report = upgrade(built, monkeypatch, older)
    assert report.status == "pass", report
    assert report.how == "process"
    assert report.against is not None
    assert (report.against.server, report.against.process) == (RUNS, f"xllamacpp {OLDER}")
    assert report.against.lower > -report.against.margin
    assert f"a process of xllamacpp {OLDER} stood for it" in report.against.reason
    assert report.against.slower_on == meters.machine()
    assert report.against.slower is not None
    assert report.against.slower_low is not None
    assert report.against.slower_high is not None
    assert f"timed by turns on {meters.machine()}, requests take" in report.against.reason

    # No server is a hundred times as fast as another version of it, so this bound refuses the times that were measured.
    measured = pace.Pace(report.against.slower, report.against.slower_low, report.against.slower_high, 1)
    strict = as_params(tuned.document()).serve.verify.model_copy(update={"slower": 0.01})
    slower = against.timed(report.against, measured, meters.machine(), strict)
    assert combine(report.checks, slower) == slower.status == "fail"
    refusal = verb.refusal(report.model_copy(update={"against": slower, "status": "fail"}))
    assert refusal is not None
    assert refusal.what.startswith("this server is no equal of the one that runs: against production: ")
    assert "at most 0.01 were allowed" in refusal.what


def bound_slower(patch: pytest.MonkeyPatch, times: float) -> None:
    """Write ``serve.verify.slower`` into the parameters that are verified."""

    def bounded(root: Path, *, image: bool) -> Expected:
        record = expected(root, image=image)
        verify = record.params.serve.verify.model_copy(update={"slower": times})
        serve = record.params.serve.model_copy(update={"verify": verify})
        return record._replace(params=record.params.model_copy(update={"serve": serve}))

    patch.setattr(verb, "expected", bounded)


def newer_with_another_template(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a newer server in place, whose own chat template has another name of the turn."""
    template = (run / layout.MERGED / "chat_template.jinja").read_text()
    template = template.replace("<|im_start|>assistant", "<|im_start|>human")
    assert RUNTIME.own_environment is not None
    variable = RUNTIME.own_environment.variable
    good = Path(os.environ[variable]).with_name("llama-server").read_text()
    spoiled = tmp_path / "llama-server"
    spoiled.write_text(
        good.replace("    return chosen\n", f"    chosen.chat_template = {template!r}\n    return chosen\n")
    )
    spoiled.chmod(0o755)
    monkeypatch.setenv(variable, str(tmp_path / "python"))


def test_a_newer_version_with_another_template_is_refused_before_it_is_compared_and_answers_worse(
    built: Path, older: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = built
    newer_with_another_template(run, tmp_path, monkeypatch)
    report = upgrade(run, monkeypatch, older)
    assert (report.status, report.against) == ("fail", None)
    assert by_name(report)["template"].status == "fail"
    record, options = expected(run, image=True), VerifyOptions(runtime="llamacpp")
    with (
        started(run, record, RUNTIME, options, None) as (new_server, _),
        started(run, record, RUNTIME, options, None, older) as (old_server, _),
    ):
        new, old = (verb._context(record, RUNTIME, server, options) for server in (new_server, old_server))
        assert life.start(new, time.monotonic()).status == "pass"
        score(new)
        found = against.compare(RunningServer("production", "v1.2.0", RUNS, record, RUNTIME, options, None), new, old)
    assert found.mean < found.mean_before - found.margin
    assert found.differ >= 4
    assert found.status == "fail"
    assert "this does not rule out a loss of 0.05" in found.reason


def test_weights_without_the_file_are_not_served(run: Path) -> None:
    shutil.rmtree(run / layout.MERGED / "gguf")
    with pytest.raises(ServingRefused, match=r"has no gguf/model\.gguf, which llamacpp serves; set merge\.export"):
        processes.start(RUNTIME, as_params(tuned.document()).serve, run / layout.MERGED)
