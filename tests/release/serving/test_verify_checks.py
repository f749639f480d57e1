"""The checks of `lockstep verify`, against labelled stand-ins for the servers that cannot be run here."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from checks.config.params import Params
from checks.config.release_params import Serve, ServedAdapter, Speculation
from checks.evaluation import scoring
from checks.formats import serving
from checks.formats.serving import CheckName, Probe, ProbeReport, ProbeToken, ServingCheck, combine
from checks.formats.suite_report import SuiteAnswer
from checks.machine import meters
from checks.records.rows import Function, Message, Prediction, Row, ToolCall
from checks.scorers.exact_match import ExactMatch
from checks.scorers.token_f1 import TokenF1
from release import runtimes
from release.runtimes import Runtime
from release.serving import examine
from release.serving.client import Client
from release.serving.probes import life, load, score
from release.serving.probes.context import ProbeContext
from release.serving.probes.endpoints import samples
from release.serving.suite_questions import Served
from tests import energy_standin
from tests.release.adapters.test_children import until
from tests.sglang_standin import SglangStandIn
from tests.tgi_standin import StandIn, Told
from tests.vllm_standin import OpenAiStandIn, VllmStandIn

pytestmark = pytest.mark.slow

FOLDER = "/models/router-0123456789ab"
DIGEST = "sha256:" + "a" * 64
LABELS = ("vm", "storage", "network", "acr")
LONGEST = 40  # tokens of prompt and answer


def token(number: int, text: str, lead: float = 2.0, logprob: float = -0.1) -> ProbeToken:
    return ProbeToken(id=number, text=text, logprob=logprob, runner_up=7, runner_up_logprob=logprob - lead)


def probe(number: int, *tokens: ProbeToken, ended: bool = True, base: str = "I can help!") -> Probe:
    long = [token(30 + n % 2, (" vm", "\n")[n % 2]) for n in range(12)]
    return Probe(
        id=f"p{number}",
        messages=(Message(role="system", content="Route."), Message(role="user", content=f"probe {number}")),
        prompt_tokens=tuple(range(10, 20 + number)),
        tokens=tokens,
        ended=ended,
        base_text=base,
        unended=(*tokens[:-1], *long) if ended else (),
    )


END = token(2, "")
PROBES = (
    probe(0, token(20, "net"), token(21, "work"), END),
    probe(1, token(22, "storage", lead=0.1), END),
    probe(2, token(23, ""), token(24, "é"), token(25, "-"), token(26, " vm"), END),
    probe(3, token(27, "a"), token(28, "cr"), token(29, " list"), ended=False),
)
ROWS = tuple(
    Row(
        id=f"r{n}",
        messages=(Message(role="user", content=f"row {n:02}"),),
        reference=LABELS[n % 4],
        group=f"g{n}",
        slice="all",
        source=f"s:{n}",
    )
    for n in range(20)
)


def offline(row: Row, right: bool) -> Prediction:
    text = row.reference if right else "sql"
    value = scoring.score(ExactMatch(kind="exact-match"), text, row.reference)
    return Prediction(
        id=row.id, prompt=row.prompt, prediction=text, reference=row.reference, score=value,
        scores={"exact-match": value}, group=row.group, slice=row.slice,
    )  # fmt: skip


OFFLINE = tuple(offline(row, n % 5 != 0) for n, row in enumerate(ROWS))


def runtime(name: str) -> Runtime:
    """The runtime as Lockstep ships it; ``openai`` is TGI that nobody asks for more than OpenAI's API has."""
    if name == "openai":
        return runtimes.load("tgi").model_copy(update={"dialect": "openai"})
    return runtimes.load(name)


def settings(params: Params, **change: Any) -> Serve:
    verify = params.serve.verify.model_copy(
        update={"max_logprob_diff": 0.05, "near_tie": 0.2, "start_seconds": 60.0, "drain_seconds": 60.0} | change
    )
    return params.serve.model_copy(update={"verify": verify, "max_total_tokens": LONGEST, "max_input_tokens": 30})


@pytest.fixture(autouse=True)
def few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for the sixteen at a time, and quickly done."""
    monkeypatch.setattr(load, "REQUESTS", 16)


@contextmanager
def talking(
    params: Params, name: str = "tgi", probes: tuple[Probe, ...] = PROBES, deadline: float = 20, **change: Any
) -> Iterator[tuple[ProbeContext, StandIn]]:
    """A stand-in without a fault, and what it is asked with."""
    made = {"vllm": VllmStandIn, "sglang": SglangStandIn, "openai": OpenAiStandIn}.get(name, StandIn)
    rows = {row.prompt: prediction.prediction for row, prediction in zip(ROWS, OFFLINE, strict=True)}
    server = made(probes, rows, FOLDER, LONGEST)
    client = Client(server.url, deadline)
    report = ProbeReport(
        merged=DIGEST, base=DIGEST, valid=DIGEST, max_new_tokens=8, precision="fp32", device="cpu", probes=probes,
        ends=(2,),
    )  # fmt: skip
    try:
        yield (
            ProbeContext(
                client=client, server=server, runtime=runtime(name), model="router", serve=settings(params, **change),
                probes=report, rows=ROWS, offline=OFFLINE, scorer=ExactMatch(kind="exact-match"), limit=8,
            ),
            server,
        )  # fmt: skip
    finally:
        client.close()
        server.close()


def ask(context: ProbeContext) -> dict[CheckName, ServingCheck]:
    """Every check by its name."""
    return {check.name: check for check in examine.examine(context, time.monotonic())}


@pytest.mark.parametrize("name", ["tgi", "vllm", "sglang", "openai"])
def test_a_server_without_a_fault_passes_every_check(name: str, params: Params) -> None:
    with talking(params, name) as (context, _):
        found = ask(context)
    assert {check.status for check in found.values()} == {"pass"}, found
    assert set(found) == set(get_args(CheckName)) - set(serving.OPTIONAL)
    assert combine(tuple(found.values())) == "pass"
    assert [level.concurrency for level in context.load] == [1, 4, 16]
    assert all(level.first_token_p50 and level.tokens_per_second > 0 for level in context.load)
    if name == "openai":
        assert "only the number was compared" in found["template"].reason
        assert found["parity"].value == 1.0
    else:
        assert found["parity"].value == 0.0
        assert "12 of 12 tokens" in found["parity"].reason or "13 of 13 tokens" in found["parity"].reason


@pytest.mark.parametrize("ids_without_end", [True, False])
def test_sglang_s_list_of_ids_is_read_beside_its_log_probabilities(ids_without_end: bool, params: Params) -> None:
    """The source does not tell whether the list has the token that ended the answer: both are read alike."""
    with talking(params, "sglang") as (context, server):
        assert isinstance(server, SglangStandIn)
        server.ids_without_end = ids_without_end
        found = ask(context)
    assert found["parity"].status == "pass", found["parity"]
    assert found["parity"].value == 0.0
    assert "not asked: unknown model: it answers with its only model" in found["errors"].reason


def test_every_request_is_greedy_and_names_the_model(params: Params) -> None:
    with talking(params) as (context, server):
        ask(context)
    chats = [body for body in server.bodies if "max_tokens" in body]
    assert len(chats) > 40
    assert all(body["temperature"] == 0 for body in chats)
    assert {body["model"] for body in chats} == {"router"}


def test_greedy_answers_are_not_held_to_offline_ones_that_were_sampled(params: Params) -> None:
    with talking(params, "openai") as (context, server):
        server.faults.cut_text = True
        compared = score.score(context)
        context.sampled, context.served = True, ()
        sampled = score.score(context)
    assert (compared.status, sampled.status) == ("fail", "pass")
    assert "served greedily on 20 rows, whose offline answers were sampled" in sampled.reason
    assert len(context.served) == 20


def test_a_server_is_asked_with_the_tools_of_each_chat_and_answers_as_text(params: Params) -> None:
    tools = ({"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}},)
    call = ToolCall(id="c1", function=Function(name="look", arguments={"at": ["é", 1]}))
    turns = (
        *PROBES[0].messages, Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="97 %", tool_call_id="c1"),
    )  # fmt: skip
    probes = (PROBES[0].model_copy(update={"messages": turns, "tools": tools}), *PROBES[1:])
    with talking(params, "vllm", probes) as (context, server):
        found = ask(context)
    assert {check.status for check in found.values()} == {"pass"}, found
    about = [body for body in server.bodies if body.get("messages", [{}])[-1]["content"] == "97 %"]
    assert len(about) > 5
    assert all(body["tools"] == list(tools) for body in about)
    assert all("tool_choice" in body or "max_tokens" not in body for body in about)  # but where it only counts tokens
    assert {body["messages"][2]["tool_calls"][0]["function"]["arguments"] for body in about} == {'{"at": ["é", 1]}'}
    assert all("tools" not in body for body in server.bodies if body not in about)


Fault = Callable[[StandIn], object]


def fault(**values: Any) -> Fault:
    def make(server: StandIn) -> None:
        for name, value in values.items():
            setattr(server.faults, name, value)

    return make


FAULTS = [
    # what is wrong, the dialect, the check that must find it, a word of its reason
    ("another model is served", "tgi", fault(tokens={("p0", 0): Told(99, "sql", -0.1)}), "parity", "“sql”"),
    ("another model is served", "vllm", fault(tokens={("p0", 0): Told(99, "sql", -0.1)}), "parity", "token 99"),
    ("another model is served", "openai", fault(tokens={("p0", 0): Told(99, "sql", -0.1)}), "parity", "“sql”"),
    ("the base is served", "tgi", fault(base=True), "parity", "token 1"),
    ("the base is served", "openai", fault(base=True), "adapter", "untuned base's"),
    ("the base is served", "vllm", fault(base=True), "adapter", "untuned base's"),
    ("the template differs", "tgi", fault(extra_prompt_token=True), "template", "differ from token 1"),
    ("the template differs", "vllm", fault(extra_prompt_token=True), "template", "p0: 11 token ids, 10 offline"),
    ("the template differs", "openai", fault(extra_prompt_token=True), "template", "another number of tokens in a chat: probe p0: 11"),
    ("a log-probability is off", "tgi", fault(tokens={("p0", 1): Told(21, "work", -0.16)}), "parity", "p0, token 2"),
    ("a log-probability is off", "vllm", fault(tokens={("p0", 1): Told(21, "work", -0.16)}), "parity", "0.060 apart"),
    ("an end comes too soon", "tgi", fault(tokens={("p0", 1): Told(2, "<|im_end|>", -0.1, True)}), "parity", "p0, token 2"),
    ("an end comes too soon", "openai", fault(tokens={("p0", 1): Told(2, "<|im_end|>", -0.1, True)}), "parity", "the end"),
    ("another special token", "vllm", fault(tokens={("p0", 2): Told(3, "<|x|>", -0.1, True)}), "parity", "token 3 where"),
    ("tokens are cut", "tgi", fault(cut_tokens=True), "parity", "cut off"),
    ("tokens are cut", "vllm", fault(cut_tokens=True), "parity", "cut off"),
    ("texts are cut", "tgi", fault(cut_text=True), "parity", "the text “networ”"),
    ("texts are cut", "openai", fault(cut_text=True), "parity", "the end where"),
    ("texts are cut", "openai", fault(cut_text=True), "score", "apart where"),
    ("repetition is penalised", "vllm", fault(penalty=True), "parity", "where nothing ends an answer, probe p0, token 4: token 99"),
    ("repetition is penalised", "openai", fault(penalty=True), "parity", "where nothing ends an answer, probe p0"),
    ("no log-probability is told", "tgi", fault(no_logprobs=True), "parity", "without the requested log-probabilities"),
    ("streams are cut", "tgi", fault(end_stream_early=True), "latency", "before the answer did"),
    ("streams say otherwise", "tgi", fault(stream_otherwise=True), "latency", "differs from the whole answer"),
    ("it fails under load", "tgi", fault(most_at_once=2), "score", "rows not answered: row"),
    ("it fails under load", "tgi", fault(most_at_once=2), "latency", "CUDA out of memory"),
    ("a row is not answered", "tgi", fault(refused="row 07"), "score", "1 of 20 rows not answered: row r7: HTTP 429"),
    ("metrics are frozen", "tgi", fault(frozen=True), "metrics", "did not grow"),
    ("metrics are frozen", "vllm", fault(frozen=True), "metrics", "did not grow"),
    ("keys and values in 8 bits", "vllm", fault(cache="fp8"), "metrics", "says cache_dtype=“fp8”, and auto is expected"),
    ("the cache is not named", "vllm", fault(cache=None), "metrics", "with the label cache_dtype is not at /metrics"),
    ("a metric of an alert has another name", "tgi", fault(renamed="tgi_queue_size"), "metrics", "tgi_queue_size not at /metrics"),
    ("a histogram has another name", "vllm", fault(renamed="vllm:time_to_first"), "metrics", "seconds not at /metrics: an alert"),
    ("metrics are not there", "tgi", fault(without_metrics=True), "metrics", "HTTP 404"),
    ("it says that it serves another folder", "tgi", fault(model="/models/x"), "identity", "“/models/x”, not"),
    ("it says that it serves another folder", "vllm", fault(model="/models/x"), "identity", "“/models/x”, not"),
    ("it takes wrong requests", "tgi", fault(takes_anything=True), "errors", "HTTP 200 where 422 is right"),
    ("it takes an unknown model", "vllm", fault(takes_anything=True), "errors", "too long: HTTP 200"),
    ("it shows its insides", "tgi", fault(traceback=True), "errors", "without a reason"),
    ("an error is a page", "tgi", fault(html=True), "errors", "neither JSON"),
    ("a stream is cut by SIGTERM", "tgi", fault(cuts_on_term=True), "drain", "were cut"),
    ("a stream is cut by SIGTERM", "vllm", fault(cuts_on_term=True), "drain", "were cut"),
    ("a stream is cut by SIGTERM", "openai", fault(cuts_on_term=True), "drain", "were cut"),
    ("it does not end", "tgi", fault(lingers=True), "drain", "still ran 1 s after SIGTERM, and "),
    ("it ends badly", "tgi", fault(exit_code=137), "drain", "exit code 137 where 0"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "name", "make", "check", "word"), FAULTS)
def test_each_fault_is_found_and_named(
    what: str, name: str, make: Fault, check: CheckName, word: str, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("release.serving.probes.endpoints.METRIC_SECONDS", 0.3)
    monkeypatch.setattr(examine, "CHECKS", {check: examine.CHECKS[check]})
    drain = 1.0 if what == "it does not end" else 60.0
    with talking(params, name, drain_seconds=drain) as (context, server):
        make(server)
        found = ask(context)
    assert found[check].status == "fail", found[check]
    assert word in found[check].reason


@pytest.mark.parametrize(
    ("lora", "folder", "status", "word"),
    [
        ("loaded", None, "pass", "says that data.id=router.root is adapter in the folder that it was given"),
        ("absent", None, "fail", "/v1/models has no data.id=router.root"),
        ("loaded", "/models/router-fedcba987654", "fail", "“/models/router-fedcba987654/adapter”, not"),
    ],
)
def test_an_adapter_is_identified_by_its_own_name_and_not_by_the_base_that_is_listed_first(
    lora: Literal["loaded", "absent"],
    folder: str | None,
    status: str,
    word: str,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examine, "CHECKS", {"identity": examine.CHECKS["identity"]})
    with talking(params, "vllm") as (context, server):
        context.serve = context.serve.model_copy(update={"name": "router", "adapter": ServedAdapter(max_rank=16)})
        assert isinstance(server, VllmStandIn)
        server.lora, server.faults.model = lora, folder
        identity = ask(context)["identity"]
    assert (identity.status, word in identity.reason) == (status, True), identity


CACHE = {"prefix_caching": True}
GUESS = {"speculation": Speculation(kind="ngram", tokens=4)}
DRAFT = {"speculation": Speculation(kind="draft", tokens=4)}
USED = [
    # the dialect, what params.yaml turns on, what is wrong, the verdict of the parity check, words of its reason
    ("vllm", CACHE, {}, "pass", "prefix caching: vllm:prefix_cache_hits_total grew by"),
    ("vllm", GUESS, {}, "pass", "speculation: vllm:spec_decode_num_draft_tokens_total grew by"),
    ("vllm", DRAFT, {}, "pass", "speculation: vllm:spec_decode_num_accepted_tokens_total grew by"),
    ("vllm", DRAFT, {"idle": True}, "fail", "serve.speculation: vllm:spec_decode_num_accepted_tokens_total did not"),
    ("sglang", CACHE, {}, "pass", "prefix caching: sglang:cached_tokens_total grew by"),
    ("sglang", CACHE, {"idle": True}, "fail", "serve.prefix_caching: sglang:cached_tokens_total did not grow"),
    ("tgi", CACHE, {}, "pass", "prefix caching: tgi does not count how often it was used"),
    ("tgi", GUESS, {}, "pass", "speculation: tgi_request_skipped_tokens_sum grew by"),
    ("vllm", {"prefix_caching": False}, {"idle": True}, "pass", "where nothing ends an answer"),
    ("vllm", CACHE, {"idle": True}, "fail", "serve.prefix_caching: vllm:prefix_cache_hits_total did not grow"),
    ("vllm", GUESS, {"idle": True}, "fail", "so speculation was not tested"),
    ("tgi", GUESS, {"idle": True}, "fail", "serve.speculation: tgi_request_skipped_tokens_sum did not grow"),
    ("vllm", GUESS, {"without_metrics": True}, "fail", "HTTP 404"),
    ("vllm", CACHE, {"cached_otherwise": "probe 2"}, "fail", "asked again, with prefix caching: probe p2, token 1"),
    ("tgi", CACHE, {"cached_otherwise": "probe 2"}, "fail", "asked again, with prefix caching: probe p2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "on", "wrong", "status", "word"), USED)
def test_equal_answers_count_only_where_the_server_used_the_settings_that_are_on(
    name: str, on: dict[str, Any], wrong: dict[str, Any], status: str, word: str, params: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("release.serving.probes.endpoints.METRIC_SECONDS", 0.3)
    monkeypatch.setattr(examine, "CHECKS", {"parity": examine.CHECKS["parity"]})
    with talking(params, name) as (context, server):
        context.serve = context.serve.model_copy(update=on)
        fault(**wrong)(server)
        found = ask(context)["parity"]
    assert (found.status, word in found.reason) == (status, True), found


def test_a_slow_machine_fails_nothing_and_its_times_are_recorded(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "CHECKS", {"latency": examine.CHECKS["latency"]})
    for seconds in (0.0, 0.2):
        with talking(params, "tgi") as (context, server):
            fault(seconds=seconds)(server)
            found = ask(context)["latency"]
            assert context.load[0].p95 >= seconds
        assert (found.status, found.bound) == ("pass", None)
        assert "one at a time" in found.reason


@pytest.mark.parametrize(
    ("gpus", "counts", "seconds"),
    [((), True, 0.3), ((), False, 0.0), (None, True, 0.0)],
    ids=["counters here", "no counters", "another machine"],
)
def test_energy_is_counted_while_requests_are_answered_or_the_reason_is_recorded(
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    gpus: tuple[str, ...] | None,
    counts: bool,
    seconds: float,
) -> None:
    monkeypatch.setattr(examine, "CHECKS", {"latency": examine.CHECKS["latency"]})
    for module in (load, serving):
        monkeypatch.setattr(module, "LONG_ENOUGH", 0.3)
    if counts:
        energy_standin.running(monkeypatch, tmp_path / "counters")
    else:
        monkeypatch.setattr(meters, "POWERCAP", tmp_path / "none")
    with talking(params, "tgi") as (context, _):
        context.gpus = gpus
        assert ask(context)["latency"].status == "pass"
    found = context.throughput
    assert found is not None
    assert found.concurrency == 16
    assert found.seconds >= seconds
    assert found.requests >= 16
    assert (found.watt_hours is not None) == (counts and gpus is not None)
    if gpus is None:
        assert (found.machine, found.energy.missing) == (None, ("it is not known which machine serves",))
    elif counts:
        assert found.watt_hours == pytest.approx(1000 / 3600 / found.requests)  # one look, one joule
        assert found.machine == meters.machine()
    else:
        assert "no counter below" in found.energy.missing[0]


def test_requests_that_fail_while_energy_is_counted_fail_the_check(
    params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(examine, "CHECKS", {"latency": examine.CHECKS["latency"]})
    monkeypatch.setattr(load, "LONG_ENOUGH", 0.3)
    energy_standin.running(monkeypatch, tmp_path / "counters")

    def readers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.endswith("(_watch)")}

    before = readers()
    with talking(params, "tgi") as (context, server):
        context.gpus = ()
        began = meters.Meters

        def breaking(*given: Any) -> Any:
            fault(most_at_once=2)(server)
            return began(*given)

        monkeypatch.setattr(meters, "Meters", breaking)
        found = ask(context)["latency"]
    assert found.status == "fail"
    assert "requests failed at 16 at a time" in found.reason
    assert context.throughput is None
    until(lambda: readers() <= before)


def test_answers_may_part_at_a_near_tie_and_the_comparison_ends_there(params: Params) -> None:
    for name in ("tgi", "vllm", "sglang", "openai"):
        with talking(params, name) as (context, server):
            server.faults.tokens = {("p1", 0): Told(50, "stores", -0.2)}
            found = ask(context)
        assert found["parity"].status == "pass", found["parity"]
        assert "part at a near tie" in found["parity"].reason


def test_a_comparison_of_no_token_at_all_does_not_pass(params: Params) -> None:
    for name in ("tgi", "openai"):
        with talking(params, name, probes=PROBES[1:2]) as (context, server):
            server.faults.tokens = {("p1", 0): Told(50, "vm", -0.2)}
            found = ask(context)
        assert found["parity"].status == "fail"
        assert "nothing could be compared" in found["parity"].reason


def test_an_adapter_that_changes_no_answer_cannot_be_told(params: Params) -> None:
    same = probe(0, token(20, "network"), END, base=" network\n")
    with talking(params, probes=(same,)) as (context, _):
        found = ask(context)
    assert found["adapter"].status == "fail"
    assert "not decidable" in found["adapter"].reason
    assert found["parity"].status == "pass"


@pytest.mark.parametrize("name", ["vllm", "openai"])
def test_an_adapter_that_changes_only_what_follows_an_answer_is_told_by_the_long_answers(
    name: str, params: Params
) -> None:
    """A good base and its fine-tune give the same labels: what they would say after the label differs."""
    same = probe(0, token(20, "network"), END, base=" network\n")
    other = same.model_copy(update={"base_unended": "network, and I can help"})
    with talking(params, name, probes=(other,)) as (context, server):
        found = ask(context)
        assert found["adapter"].status == "pass", found["adapter"]
        assert found["adapter"].reason.startswith(
            "of 1 probes with another answer of the base, 1 answers are the judged model"
        )
    with talking(params, name, probes=(other,)) as (context, server):
        long = (token(91, other.base_unended),)
        server.probes[other.messages[-1].content] = other.model_copy(update={"unended": long})
        found = ask(context)
    assert {found["parity"].status, found["adapter"].status} == {"fail"}


@pytest.mark.parametrize("name", ["vllm", "openai"])
@pytest.mark.parametrize(
    ("part", "lead", "status"), [(1, 0.3, "pass"), (1, 0.5, "fail"), (2, 0.3, "fail"), (3, 0.1, "pass")]
)
def test_one_long_answer_of_several_may_part_at_twice_a_near_tie(
    name: str, part: int, lead: float, status: str, params: Params
) -> None:
    made = [probe(n, token(40 + n, f"net{n}"), END) for n in range(6)]
    parts = [
        each.model_copy(update={"unended": (*each.unended[:3], token(50, " disk", lead), *each.unended[4:])})
        for each in made[:part]
    ]
    with talking(params, name, probes=(*parts, *made[part:])) as (context, server):
        for each in parts:
            other = each.model_copy(update={"unended": (*each.unended[:3], token(51, " list"), *each.unended[4:])})
            server.probes[each.messages[-1].content] = other
        found = ask(context)
    assert found["parity"].status == status, found["parity"]
    assert found["drain"].status == status, found["drain"]
    assert ("one of them at more than near_tie" in found["parity"].reason) == ((part, status) == (1, "pass"))


def test_a_server_that_strips_white_space_is_no_other_model(params: Params) -> None:
    first = probe(0, token(20, "\n net"), token(21, "work\n"), END).model_copy(update={"unended": ()})
    spaced = (first, *PROBES[1:])
    with talking(params, "openai", probes=spaced) as (context, server):
        server.probes[spaced[0].messages[-1].content] = PROBES[0]
        found = ask(context)
    assert found["parity"].status == "pass", found["parity"]
    assert found["parity"].value == 1.0


def test_a_server_that_dies_fails_everything_after_with_the_end_of_its_log(params: Params) -> None:
    with talking(params) as (context, server):
        server.faults.dies_after = 12
        found = ask(context)
    lost = [check for check in found.values() if "Killed" in check.reason]
    assert len(lost) == 1
    assert lost[0].status == "fail"
    assert "137" in lost[0].reason
    assert "\x1b" not in lost[0].reason
    assert found["drain"].reason == "not asked: the server is gone"
    assert combine(tuple(found.values())) == "fail"


@pytest.mark.parametrize(("exit_code", "status"), [(0, "unavailable"), (137, "fail")])
def test_answers_that_end_before_the_signal_say_nothing_of_streams_and_all_of_the_end(
    exit_code: int, status: str, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine sends the signal late: that is no fault of the server, and hides none."""
    monkeypatch.setattr(examine, "CHECKS", {"drain": examine.CHECKS["drain"]})
    monkeypatch.setattr(life._Burst, "wait_for_text", lambda burst: burst.end())
    with talking(params) as (context, server):
        server.faults.exit_code = exit_code
        found = ask(context)
    assert found["drain"].status == status, found["drain"]
    assert ("no answer lasted until SIGTERM" in found["drain"].reason) == (status == "unavailable")


@pytest.mark.parametrize("name", ["tgi", "vllm"])
def test_at_sigterm_every_stream_has_its_connection_and_none_waits_for_its_first_token(
    name: str, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM drops what its engine has not begun: a correct one passes only if nothing was asked of it just before."""
    monkeypatch.setattr(examine, "CHECKS", {"drain": examine.CHECKS["drain"]})
    with talking(params, name) as (context, server):
        found = ask(context)
    assert found["drain"].status == "pass", found["drain"]
    assert server.streaming_at_end == life.IN_FLIGHT


@pytest.mark.parametrize(("name", "most", "at_once"), [("tgi", 128, 20), ("vllm", 128, 20), ("vllm", 6, 6)])
def test_a_server_that_batches_is_asked_about_many_rows_at_once(
    name: str, most: int, at_once: int, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "CHECKS", {"score": examine.CHECKS["score"]})
    with talking(params, name) as (context, server):
        context.serve = context.serve.model_copy(update={"max_concurrent_requests": most})
        server.faults.seconds = 0.2
        found = ask(context)
    assert found["score"].status == "pass", found["score"]
    assert "0 texts differ" in found["score"].reason
    assert 4 < server.most_flying <= at_once


def test_a_server_that_hangs_is_left_at_the_deadline(params: Params) -> None:
    began = time.monotonic()
    with talking(params, deadline=0.5) as (context, server):
        server.faults.hangs_after = 12
        found = ask(context)
    assert time.monotonic() - began < 5
    assert any("no reply within 0.5 s" in check.reason for check in found.values())
    assert found["drain"].status == "fail"
    assert "listening" in " ".join(check.reason for check in found.values())


def test_replies_that_are_garbage_are_quoted_printably_and_end_in_no_traceback(params: Params) -> None:
    with talking(params) as (context, server):
        server.faults.garbage_after = 1
        found = ask(context)
    assert combine(tuple(found.values())) == "fail"
    assert all(check.reason.isprintable() for check in found.values())
    assert "\ufffd" in found["parity"].reason


def test_a_server_that_never_starts_is_given_up_with_its_log(params: Params) -> None:
    with talking(params, start_seconds=0.8) as (context, server):
        server.faults.never_starts = True
        found = ask(context)
    assert found["start"].status == "fail"
    assert "no answer within 0.8 s: HTTP 503" in found["start"].reason
    assert "listening" in found["start"].reason
    assert all(check.reason == "not asked: the server never answered" for n, check in found.items() if n != "start")


def test_a_server_that_dies_at_the_start_is_not_waited_for(params: Params) -> None:
    with talking(params, start_seconds=60.0) as (context, server):
        server.close()
        began = time.monotonic()
        found = ask(context)
    assert time.monotonic() - began < 5
    assert "ended before it answered: exit code 137" in found["start"].reason


def test_what_is_not_known_of_a_server_is_unavailable_and_what_is_wrong_fails(params: Params) -> None:
    with talking(params) as (context, server):
        server.isolated, server.sealed, server.how = None, False, "url"
        found = ask(context)
    assert found["egress"].status == "unavailable"
    assert found["read-only"].status == "fail"
    assert found["drain"].status == "unavailable"
    with talking(params) as (context, server):
        server.sealed = False
        cannot = context.runtime.cannot | {"read-only": "it writes where it runs"}
        context.runtime = context.runtime.model_copy(update={"cannot": cannot})
        assert ask(context)["read-only"].reason == "it writes where it runs"


def test_metrics_are_summed_over_their_labels() -> None:
    text = b'# HELP a b\na{x="}",y="z"} 2\na{x="q"} 3.5 1700000000\nb NaN\nc{} 1e3\nab 4\n\xff broken\n'
    assert samples(text) == {"a": 5.5, "c": 1000.0, "ab": 4.0}


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(n) for n in range(1, 21)]
    assert load.percentile(values, 0.5) == 10
    assert load.percentile(values, 0.95) == 19
    assert load.percentile([3.0], 0.95) == 3


def better(number: int, rows: int) -> str:
    """The offline answer, and the right one to the first ``rows`` questions that are answered wrongly."""
    return ROWS[number].reference if number % 5 == 0 and number < 5 * rows else OFFLINE[number].prediction


SUITE: dict[str, tuple[Callable[[int], str], Literal["pass", "fail"], str]] = {
    "the same": (lambda n: OFFLINE[n].prediction, "pass", "token-f1 0.8000 served and 0.8000 offline on 20 rows of suite chat, 0 texts differ"),
    "other words": (lambda n: f"{OFFLINE[n].prediction}.", "pass", "on 20 rows of suite chat, 20 texts differ"),
    "two rows better offline": (lambda n: better(n, 2), "pass", "0.8000 served and 0.9000 offline on 20 rows of suite chat, 2 texts differ"),
    "three rows better offline": (lambda n: better(n, 3), "fail", "3 texts differ: 0.1500 apart where 0.1 is allowed (serve.verify.margin: 0.01, but never less than 2 rows)"),
}  # fmt: skip


@pytest.mark.parametrize("case", SUITE)
def test_the_questions_of_a_suite_are_asked_too(case: str, params: Params) -> None:
    offline, status, said = SUITE[case]
    answers = [
        SuiteAnswer(sample=row.id, model=DIGEST, messages=row.messages, reference=row.reference, answer=offline(n))
        for n, row in enumerate(ROWS)
    ]
    f1 = TokenF1(kind="token-f1")
    suite = Served("chat", "token-f1", answers, lambda answer, reference: scoring.score(f1, answer, reference), 8)
    with talking(params) as (context, _):
        context.suites = (suite,)
        found = score.score(context)
    assert (found.status, said in found.reason) == (status, True), found.reason
    assert found.reason.startswith("exact-match 0.8000 served and 0.8000 offline on 20 rows, 0 texts differ; ")
    assert found.bound == 0.1, "two rows of 20, since a margin of 0.01 is less than one"


@pytest.mark.parametrize(
    ("margin", "rows", "status"), [(0.0, 0, "pass"), (0.0, 1, "fail"), (0.2, 4, "pass"), (0.16, 4, "fail")]
)
def test_a_margin_of_none_allows_for_none_and_a_wide_one_is_that_of_params(
    margin: float, rows: int, status: str, params: Params
) -> None:
    with talking(params, margin=margin) as (context, _):
        context.offline = [
            prediction.model_copy(update={"prediction": better(n, rows)}) for n, prediction in enumerate(OFFLINE)
        ]
        found = score.score(context)
    assert (found.status, found.bound) == (status, margin), found.reason
    assert ("(serve.verify.margin: " in found.reason) is (status == "fail")


def test_a_question_of_a_suite_without_an_answer_fails(params: Params) -> None:
    long = (Message(role="user", content="row " * 200),)
    answer = SuiteAnswer(sample="long", model=DIGEST, messages=long, reference="", answer="")
    with talking(params) as (context, _):
        context.suites = (Served("chat", "contains", [answer], lambda *_: 0.0, 8),)
        found = score.score(context)
    assert found.status == "fail"
    assert "1 of 1 rows of suite chat not answered: row long: " in found.reason
