"""A server's upgrade is a release of its own: the same weights in another server, with a version and a way back."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from checks.formats import quarantine
from checks.formats.serving import ImageReport, ServerComparison
from checks.process.errors import EvidenceRefused, MachineRefused, ParamsRefused, Refusal, ServingRefused
from checks.storage import digest, files, layout
from release import runtimes
from release.overlay import overlays
from release.promotion import compared_server, context
from release.serving.against import RunningServer
from release.serving.expected import expected
from release.serving.options import VerifyOptions
from release.verbs import quarantine as quarantine_verb
from release.verbs.build import BuildOptions, build
from release.verbs.rollback import rollback
from release.verbs.status import status
from tests import ledger_tree, overlay_sample, programs
from tests import promotion_tree as tree
from tests.conftest import as_params, read_yaml, scaled_down
from tests.promotion_tree import gaps, move
from tests.registry_service import registry

pytestmark = pytest.mark.slow

alone = tree.alone
OLD = f"{overlay_sample.SERVER}@sha256:{'c' * 64}"
NEW = f"{overlay_sample.SERVER}@sha256:{'d' * 64}"


def strict(plain: dict[str, Any]) -> None:
    plain["serve"] |= {"runtime": "tgi", "server": OLD}
    del plain["promote"]["environments"]["production"]["served_as_verified"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A repository of images, in a registry that a cluster could reach."""
    programs.require("docker-registry")
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield f"{running.host}/team/router"


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory, place: str) -> Path:
    """A clone whose environments name no server, and run weights in OLD. Take ``root``, a copy."""
    root = tmp_path_factory.mktemp("server") / "work"
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.prepare(root, strict, base=False)
        for name in ("staging", "production"):
            overlay_sample.edit(root / layout.ENVIRONMENTS, name, lambda knobs: knobs.pop("server"))
        ledger_tree.keep(root, "no environment names a server")
        released(root, OLD, place)
        move(root, "staging")
        move(root, "production")
    return ledger_tree.packed(root)


@pytest.fixture
def root(promoted: Path, tmp_path: Path) -> Path:
    return tree.copy(promoted, tmp_path / "work")


def released(root: Path, server: str, place: str, **facts: Any) -> ImageReport:
    """Build and push, verify on paper in ``server``, and sign."""
    report = build(root, BuildOptions(push=place))
    tree.served(root, report, runtime="tgi", how="container", server=server, **facts)
    tree.signed(root, report)
    return report


def upgraded(root: Path, **facts: Any) -> tuple[ImageReport, ImageReport]:
    """Name the new server, and build: the images before and after."""
    before = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(server=NEW))
    return before, released(root, NEW, before.place, **facts)


class Newer(NamedTuple):
    """A clone that names the new server, with its images before and after."""

    root: Path
    before: ImageReport
    after: ImageReport


@pytest.fixture(scope="module")
def made_newer(promoted: Path, tmp_path_factory: pytest.TempPathFactory) -> Newer:
    """Take ``newer``, a copy."""
    root = tree.copy(promoted, tmp_path_factory.mktemp("newer") / "work")
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        before, after = upgraded(root)
    return Newer(ledger_tree.packed(root), before, after)


@pytest.fixture
def newer(made_newer: Newer, tmp_path: Path) -> Newer:
    return made_newer._replace(root=tree.copy(made_newer.root, tmp_path / "work"))


def runs_in(root: Path, environment: str) -> str:
    """The image of the server's container, in the file that a promotion wrote."""
    patch = read_yaml((root / layout.ENVIRONMENTS / environment / overlays.SERVER).read_text())
    image = patch["spec"]["template"]["spec"]["containers"][0]["image"]
    assert isinstance(image, str)
    return image


def version(root: Path, environment: str) -> str | None:
    found = context.find(root)
    pointer = found.ledger.pointer(found.tip, environment)
    return pointer.version if pointer else None


def test_another_server_is_another_image_of_the_same_weights(newer: Newer) -> None:
    _, before, after = newer
    assert (before.server, after.server) == (OLD, NEW)
    assert after.image != before.image
    assert (after.model, after.layers, after.verdict) == (before.model, before.layers, before.verdict)


def test_it_is_promoted_with_its_own_version_and_brings_the_server_with_it(newer: Newer) -> None:
    root = newer.root
    assert runs_in(root, "staging") == OLD  # a change of params.yaml alone deploys nothing
    before = version(root, "staging")
    done = move(root, "staging")
    assert done.after is not None
    assert done.after.version not in (None, before)
    assert done.after.verified == "as-served"
    assert (runs_in(root, "staging"), runs_in(root, "production")) == (NEW, OLD)
    assert move(root, "production").after is not None
    assert runs_in(root, "production") == NEW
    assert all(found.drift == () for found in status(root).environments)


def test_a_rollback_brings_the_old_server_back_and_keeps_the_weights_out_of_quarantine(newer: Newer) -> None:
    root, before, after = newer
    move(root, "staging")
    rollback(root, "staging", why="its answers are cut off")
    assert runs_in(root, "staging") == OLD
    (entry,) = quarantine.parse((root / layout.QUARANTINE).read_bytes(), "quarantine.yaml")
    assert (entry.image, entry.model) == (after.image, None)
    assert before.image != after.image
    assert "in quarantine" in gaps(root, "staging")


def test_a_server_that_a_rollback_left_does_not_come_back_with_another_commit(newer: Newer) -> None:
    root, before, after = newer
    move(root, "staging")
    rollback(root, "staging", why="its answers are cut off")
    for server in (OLD, NEW):
        tree.rewrite(root, layout.PARAMS, lambda plain, name=server: plain["serve"].update(server=name))  # type: ignore[misc]
        again = released(root, server, before.place)
        assert again.image not in (before.image, after.image)
        if server == OLD:
            assert move(root, "staging").done == "moved"
    refused = gaps(root, "staging")
    assert f"the model {after.model}, in another image with the same server: is in quarantine with v0.1.1" in refused
    quarantine_verb.release(root, "v0.1.1", why="a newer driver")
    assert move(root, "staging").done == "moved"
    assert runs_in(root, "staging") == NEW


def test_a_server_that_was_not_verified_is_not_promoted_to_production(root: Path, place: str) -> None:
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(server=NEW))
    released(root, OLD, place)
    move(root, "staging")
    assert f"the server was {OLD}, the release names {NEW}" in gaps(root, "production")


def test_an_image_of_another_server_than_the_target_has_is_not_signed_and_not_promoted(newer: Newer) -> None:
    root = newer.root
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(server=OLD))
    assert f"it runs in {NEW}; serve.server of main is {OLD}" in gaps(root, "staging")
    report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    with pytest.raises(Refusal, match=f"runs in {NEW}, serve.server of params.yaml is {OLD}"):
        tree.signed(root, report)


def test_evidence_of_another_server_than_the_record_names_is_not_rendered() -> None:
    pointer, runtime = overlay_sample.pointer(), overlay_sample.load("tgi")
    built = overlay_sample.image(shape="alone", server=OLD)
    with pytest.raises(EvidenceRefused, match=f"server: {NEW}, its evidence says '{OLD}'"):
        overlays.render("staging", pointer, built, runtime, overlay_sample.serve(server=NEW))


def test_a_base_has_its_server_in_it() -> None:
    plain = scaled_down()
    plain["serve"] |= {"base": f"r.example/s:1@sha256:{'a' * 64}", "server": OLD}
    with pytest.raises(ParamsRefused, match="base and server"):
        as_params(plain)


def test_a_server_of_the_environment_that_the_release_overrules_is_reported(root: Path) -> None:
    overlay_sample.pin(root / layout.ENVIRONMENTS, "staging", server=OLD)
    ledger_tree.keep(root, "the server of older releases")
    upgraded(root)
    done = move(root, "staging")
    assert runs_in(root, "staging") == NEW
    (note,) = (check.note for check in done.checks if check.about == "serving")
    assert f"staging's environment.yaml names {OLD}, which counts without serve.server only" in note


def asked_to_compare(root: Path) -> None:
    tree.rewrite(
        root,
        layout.PARAMS,
        lambda plain: plain["promote"]["environments"]["production"].update(server_compared=True),
    )


def beside(server: str) -> ServerComparison:
    """What `lockstep verify --against production` says where no answer differs."""
    return ServerComparison(
        environment="production", version="v0.1.0", server=server, metric="exact-match", rows=40, differ=0, mean=0.9,
        mean_before=0.9, lower=0.0, margin=0.01, confidence=0.95, slower=None, slower_bound=None, status="pass",
        reason="no answer differs",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        ({}, "was not compared with it"),
        ({"against": beside(NEW)}, f"was compared with {NEW}"),
        ({"against": beside(OLD).model_copy(update={"process": "router 1.2"})}, "was compared with a process of router 1.2"),
    ],
)  # fmt: skip
def test_an_upgrade_is_compared_with_what_runs_where_the_policy_asks_for_that(
    root: Path, facts: dict[str, Any], seen: str
) -> None:
    asked_to_compare(root)
    _, after = upgraded(root, **facts)
    assert move(root, "staging").done == "moved"  # Its rules do not ask for that.
    refused = gaps(root, "production")
    assert f"another server for the weights that production runs in {OLD}, and {seen}; run `lockstep verify" in refused
    tree.served(root, after, runtime="tgi", how="container", server=NEW, against=beside(OLD))
    tree.signed(root, after)
    assert move(root, "production").done == "moved"


def test_other_weights_are_compared_by_the_gates(root: Path) -> None:
    asked_to_compare(root)
    tree.rewrite(root, layout.PARAMS, lambda plain: plain["serve"].update(server=NEW))
    before = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    tree.next_model(root, 12)
    released(root, NEW, before.place)
    assert move(root, "staging").done == "moved"
    assert move(root, "production").done == "moved"


def compared_with(root: Path, environment: str) -> RunningServer:
    """The server that `lockstep verify --against` compares the server NEW with."""
    options = VerifyOptions(against=environment)
    return compared_server.find(context.find(root), expected(root, image=True), NEW, options)


def test_verify_compares_with_the_server_that_runs_the_same_weights(newer: Newer) -> None:
    root = newer.root
    running = compared_with(root, "production")
    assert (running.shown, running.server_image, running.environment) == (OLD, OLD, "production")
    assert running.version == version(root, "production")
    assert running.expected.image is not None
    assert running.expected.image.server == OLD
    with pytest.raises(
        EvidenceRefused, match=r"'nowhere': params\.yaml of main names no such one; use one of staging, pro"
    ):
        compared_with(root, "nowhere")
    move(root, "staging")
    with pytest.raises(ServingRefused, match="staging runs this server already"):
        compared_with(root, "staging")
    rollback(root, "production", why="nothing", to="none")
    with pytest.raises(ServingRefused, match="production runs nothing"):
        compared_with(root, "production")
    tree.next_model(root, 12)
    with pytest.raises(ServingRefused, match=r"staging runs v.*, which has other weights"):
        compared_with(root, "staging")


def test_a_process_stands_for_the_server_that_runs_if_it_is_another_program(newer: Newer, tmp_path: Path) -> None:
    root = newer.root
    options = VerifyOptions(runtime="transformers", against="production", against_python=str(tmp_path / "python"))
    record = expected(root, image=True)
    runs = compared_with(root, "production")._replace(runtime=runtimes.load("transformers"))

    def stand_in(python: Path) -> RunningServer:
        return compared_server.stand_in(root, runs, record, options, python)

    with pytest.raises(MachineRefused, match="has no transformers beside it"):
        stand_in(tmp_path / "python")
    (tmp_path / "transformers").touch()
    with pytest.raises(MachineRefused, match="has no transformers; install"):
        stand_in(tmp_path / "python")
    with pytest.raises(
        ServingRefused, match="names the program that is verified; name a Python with the version that prod"
    ):
        stand_in(Path(sys.executable))
    (tmp_path / "python").write_text("#!/bin/sh\necho 5.23.0\n")
    (tmp_path / "python").chmod(0o755)
    process = stand_in(tmp_path / "python")
    assert (process.process, process.server_image, process.shown) == ("transformers 5.23.0", None, OLD)
    with pytest.raises(ServingRefused, match="tgi: runs in its image alone"):
        compared_server.find(context.find(root), record, None, options)


def test_verify_starts_nothing_that_no_signer_released(newer: Newer) -> None:
    root = newer.root
    path = root / layout.ENVIRONMENTS / "production"
    plain = tree.unsigned(root)
    data = tree.envelope(root, plain, "mallory")
    (path / layout.EVIDENCE).write_bytes(data)
    pointer = (path / layout.POINTER).read_text()
    (path / layout.POINTER).write_text(re.sub("evidence: .*", f"evidence: {digest.of_bytes(data)}", pointer))
    ledger_tree.keep(root, "evidence of nobody")
    with pytest.raises(EvidenceRefused, match="no current signer signed its evidence"):
        compared_with(root, "production")
