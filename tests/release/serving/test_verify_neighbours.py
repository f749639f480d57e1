"""The check `neighbours` of `lockstep verify --beside`, against a labelled stand-in for vLLM with several adapters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from checks.config.params import Params
from checks.config.release_params import ServedAdapter
from checks.formats.serving import LoadedAdapter, ProbeReport, ServingCheck
from checks.process.errors import ServingRefused
from release import runtimes
from release.serving import examine
from release.serving.beside import BesideAdapter, BesideServer
from release.serving.options import VerifyOptions, check_options
from release.serving.probes import endpoints
from tests.release.serving.test_verify_checks import DIGEST, END, FOLDER, LONGEST, PROBES, ask, probe, talking, token
from tests.tgi_standin import Told
from tests.vllm_standin import VllmStandIn

pytestmark = pytest.mark.slow

MOUNT = "/adapters/writer/models/writer-0123456789ab"
OTHERS = ("writer", "writer-0123456789ab")
WRITERS = (
    probe(4, token(40, "sum"), token(41, "mary"), END),
    probe(5, token(42, "letter", lead=0.1), END),
    probe(6, token(43, "re"), token(44, "port"), END),
)


def beside(params: Params, own: tuple[str, ...] = ()) -> BesideServer:
    """A server of `router` that has `writer`, too."""
    loaded = LoadedAdapter(project="writer", version="v1.2.0", model=DIGEST, probes=DIGEST)
    probes = ProbeReport(
        merged=DIGEST, base=DIGEST, valid=DIGEST, max_new_tokens=8, precision="fp32", device="cpu", probes=WRITERS,
        ends=(2,),
    )  # fmt: skip
    serve = params.serve.model_copy(
        update={
            "name": "writer",
            "verify": params.serve.verify.model_copy(update={"max_logprob_diff": 0.05, "near_tie": 0.2}),
        }
    )
    adapter = BesideAdapter(loaded, serve, Path("/tmp/writer/adapter"), f"{MOUNT}/adapter", OTHERS, probes)
    return BesideServer("staging", "router", params.serve, own, (adapter,))


def asked(
    params: Params, spoil: Callable[[VllmStandIn], object] = lambda _: None, own: tuple[str, ...] = (), most: int = 16
) -> tuple[ServingCheck, VllmStandIn]:
    """What the check says of a server that ``spoil`` changes."""
    with talking(params, "vllm") as (context, server):
        assert isinstance(server, VllmStandIn)
        server.lora, server.slots = "loaded", most
        server.others |= {name: VllmStandIn(WRITERS, {}, MOUNT, LONGEST) for name in OTHERS}
        server.others |= {name: VllmStandIn(PROBES, {}, FOLDER, LONGEST) for name in own}
        others = list(server.others.values())
        spoil(server)
        adapter = ServedAdapter(max_rank=16, most=most)
        context.serve = context.serve.model_copy(update={"name": "router", "adapter": adapter})
        context.beside = beside(params, own)._replace(serve=context.serve)
        try:
            return ask(context)["neighbours"], server
        finally:
            for other in others:
                other.close()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask nothing else."""
    monkeypatch.setattr(examine, "CHECKS", {"neighbours": examine.CHECKS["neighbours"]})


def test_each_other_adapter_answers_its_own_probes_by_each_of_its_names(params: Params) -> None:
    result, server = asked(params)
    assert result.status == "pass", result
    assert result.reason.endswith("beside it: writer v1.2.0; each name has a slot of its own")
    names = {body["model"] for body in server.bodies}
    assert names == {"router", *OTHERS}  # The first one is asked whether the server has started.
    assert server.most_flying == 1  # In a batch the tokens of a model depend on what else is asked.


def test_each_name_is_asked_again_after_the_server_had_to_load_it_again(params: Params) -> None:
    result, server = asked(params, most=2)
    assert result.status == "pass", result
    assert "3 names share 2 slots, and each answers so after it was loaded again: first text after " in result.reason
    assert server.loads == ["router", *OTHERS] * 2
    assert result.value is not None
    assert asked(params, most=3)[1].loads == ["router", *OTHERS]


def stale(server: VllmStandIn) -> None:
    """It answers otherwise at a place where no tie is near."""
    server.faults.tokens[("p6", 1)] = Told(50, "peat", -0.1)


def base(server: VllmStandIn) -> None:
    server.faults.base = True


def once(server: VllmStandIn) -> None:
    """Its first answer is the base's."""
    server.faults.base = True
    answers = server.told

    def told(messages: list[dict[str, str]], limit: int, unended: bool = False) -> list[Told]:
        first = answers(messages, limit, unended)
        server.faults.base = False
        return first

    server.told = told  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "reload", "words"),
    [
        ("writer-0123456789ab", stale, "writer-0123456789ab: parity: probe p6, token 2:"),
        ("writer", base, "writer: parity: its first answer: probe p4, token 1: “I can help!”"),
        ("writer", once, "writer: parity: its first answer: probe p4, token 1: “I can help!”"),
        ("router", base, "router: parity: its first answer: probe p0, token 1: “I can help!”"),
    ],
)
def test_an_adapter_that_comes_back_as_another_one_is_refused(
    name: str, reload: Callable[[VllmStandIn], object], words: str, params: Params
) -> None:
    result, _ = asked(params, lambda server: server.reloaded.update({name: reload}), most=2)
    assert result.status == "fail"
    assert result.reason.startswith(f"loaded again, {words}"), result.reason


def test_the_verified_adapter_is_asked_by_its_digest_too_where_the_server_is_another_projects(params: Params) -> None:
    own = ("router-0123456789ab",)
    assert asked(params, own=own)[0].status == "pass"
    result, _ = asked(params, lambda server: server.others.pop(own[0]), own=own)
    assert result.status == "fail"
    assert result.reason.startswith("router-0123456789ab: identity: /v1/models has no data.id=router-0123456789ab.root")


def answers_for(server: VllmStandIn, name: str, change: Callable[[VllmStandIn], object]) -> None:
    change(server.others[name])


def another(server: VllmStandIn) -> None:
    """It answers as the verified adapter does, in the folder of its own."""
    own = {probe.messages[-1].content: answer for probe, answer in zip(WRITERS, PROBES, strict=False)}
    server.others[OTHERS[0]].probes = own


FAULTS: list[tuple[str, Callable[[VllmStandIn], object], str]] = [
    ("it is not loaded", lambda server: server.others.pop(OTHERS[1]), "writer-0123456789ab: identity: /v1/models has no"),
    ("it is another folder", lambda server: answers_for(server, "writer", lambda other: setattr(other.faults, "model", FOLDER)),
     f"writer: identity: /v1/models says that data.id=writer.root is “{FOLDER}/adapter”, not {MOUNT}/adapter"),
    ("it is the base", lambda server: answers_for(server, "writer", lambda other: setattr(other.faults, "base", True)),
     "writer: parity: probe p4, token 1:"),
    ("it is another adapter", another, "writer: parity: probe p4, token 1:"),
    ("it is stale", lambda server: answers_for(
        server, OTHERS[1], lambda other: other.faults.tokens.update({("p6", 1): Told(50, "peat", -0.1)})),
     "writer-0123456789ab: parity: probe p6, token 2:"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "spoil", "words"), FAULTS, ids=[what for what, _, _ in FAULTS])
def test_an_adapter_that_answers_otherwise_than_it_was_judged_is_named(
    what: str, spoil: Callable[[VllmStandIn], object], words: str, params: Params
) -> None:
    result, _ = asked(params, spoil)
    assert result.status == "fail", what
    assert result.reason.startswith(words), result.reason


def test_answers_may_part_at_a_near_tie_as_in_the_other_adapters_own_verification(params: Params) -> None:
    def parts(server: VllmStandIn) -> None:
        server.others["writer"].faults.tokens[("p5", 0)] = Told(45, "list", -0.1)

    assert asked(params, parts)[0].status == "pass"


def test_a_name_that_the_list_has_and_that_is_not_answered_is_a_failure(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM answers 404 for an adapter that it no longer has."""
    monkeypatch.setattr(VllmStandIn, "unknown", lambda server, body: body.get("model") != server.name)
    result, _ = asked(params)
    assert result.status == "fail"
    assert result.reason.startswith("writer: HTTP 404: “{"), result.reason


def test_a_prompt_is_too_long_for_the_server_and_not_for_the_adapter_alone(params: Params) -> None:
    """Another project's parameters started the server, and may have room for more."""
    with talking(params, "vllm") as (context, _):
        started = context.serve
        context.serve = started.model_copy(update={"max_total_tokens": LONGEST // 2})
        assert endpoints.errors(context).status == "fail"
        context.beside = beside(params)._replace(serve=started)
        result = endpoints.errors(context)
    assert result.status == "pass", result


@pytest.mark.parametrize("how", ["process", "container"])
def test_all_names_stand_behind_the_last_argument_as_in_a_cluster(how: str, params: Params) -> None:
    serve = params.serve.model_copy(update={"name": "router", "adapter": ServedAdapter(max_rank=16, most=2)})
    runtime = beside(params, ("router-0123456789ab",)).loaded(runtimes.load("vllm"), how)
    command = runtimes.fill(runtime, serve, "/w").command
    folder = f"{MOUNT}/adapter" if how == "container" else "/tmp/writer/adapter"
    assert command[command.index("--lora-modules") + 1 :] == (
        "router=/w/adapter", "router-0123456789ab=/w/adapter", f"writer={folder}", f"writer-0123456789ab={folder}",
    )  # fmt: skip


@pytest.mark.parametrize("other", [{"url": "http://127.0.0.1:1"}, {"against": "production"}])
def test_a_server_with_several_adapters_is_started_and_compared_with_no_other(other: dict[str, str]) -> None:
    with pytest.raises(ServingRefused, match="--beside starts one server with several adapters"):
        check_options(VerifyOptions(beside="staging", **other))
