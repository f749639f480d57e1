"""What a promotion holds a verification to: it is of what will serve, and by somebody who may verify."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.formats.serving import ImageReport
from checks.process.errors import EvidenceRefused, ServingRefused
from checks.storage import files, layout
from release.cli import environment_tables
from release.evidence import statement
from release.promotion import compared_server, context
from release.serving.expected import expected
from release.serving.options import VerifyOptions
from release.verbs import keys as key_verbs
from release.verbs.build import BuildOptions, build
from release.verbs.status import status
from tests import ledger_tree, overlay_sample, signing_tree, spoil
from tests import promotion_tree as tree
from tests.ledger_tree import keep
from tests.promotion_tree import move

pytestmark = pytest.mark.slow

alone, gaps = tree.alone, tree.gaps
PRODUCTION = layout.ENVIRONMENTS / "production"
SERVER = f"{overlay_sample.SERVER}@{overlay_sample.OTHER}"  # that both environments name for weights alone
ANOTHER = f"{overlay_sample.SERVER}@sha256:{'d' * 64}"
AS_IT_SERVES = {"runtime": "tgi", "how": "container", "server": SERVER}


def strict(plain: dict[str, Any]) -> None:
    """The repository's own defaults: the image is for TGI, staging takes a process, production only what serves."""
    plain["serve"]["runtime"] = "tgi"
    del plain["promote"]["environments"]["production"]["served_as_verified"]


@pytest.fixture(scope="module")
def weights_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with an image that holds weights and no server, built and not verified. Take ``weights``, a copy."""
    root = tmp_path_factory.mktemp("alone") / "work"
    with pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        tree.prepare(root, strict, base=False)
        build(root, BuildOptions())
    return ledger_tree.packed(root)


@pytest.fixture
def weights(weights_alone: Path, tmp_path: Path) -> Path:
    return tree.copy(weights_alone, tmp_path / "work")


def verified(root: Path, **facts: Any) -> None:
    """Verify on paper, sign, and move staging."""
    report = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    tree.served(root, report, **facts)
    tree.signed(root, report)
    assert move(root, "staging").done == "moved"


VERIFIED_OTHERWISE: list[tuple[str, dict[str, Any], str]] = [
    ("by another runtime as a process", {}, "it ran as a process, not in a container"),
    ("by another runtime as a process", {}, "transformers served it, the image is for tgi"),
    ("in another server", AS_IT_SERVES | {"server": ANOTHER}, f"the server was {ANOTHER}, the environment names {SERVER}"),
    ("in a server that nobody recorded", AS_IT_SERVES | {"server": None}, "the server was not recorded"),
    ("by another runtime in that server", AS_IT_SERVES | {"runtime": "vllm"}, "vllm served it, the image is for tgi"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "facts", "says"), VERIFIED_OTHERWISE, ids=[case[2] for case in VERIFIED_OTHERWISE])
def test_what_was_verified_otherwise_than_it_serves_ends_in_staging(
    what: str, facts: dict[str, Any], says: str, weights: Path
) -> None:
    verified(weights, **facts)
    refused = gaps(weights, "production")
    assert f"it was not verified the way it will be served: {says}" in refused
    assert "promote.environments.production.served_as_verified: false on the target branch" in refused
    where = context.find(weights)
    runs = where.ledger.pointer(where.tip, "staging")
    assert (runs and runs.verified) == facts.get("how", "process")
    told = environment_tables.status(status(weights))
    assert "  not verified as it serves: " in told
    assert says in told


def test_what_was_verified_in_the_server_that_will_run_it_goes_to_production(weights: Path) -> None:
    verified(weights, **AS_IT_SERVES)
    done = move(weights, "production")
    assert (done.after and done.after.verified) == "as-served"
    assert "verified: as-served" in (weights / PRODUCTION / layout.POINTER).read_text()
    assert "verified as it serves" not in environment_tables.status(status(weights))


def test_a_server_that_is_named_after_the_promotion_was_not_verified(weights: Path) -> None:
    verified(weights, **AS_IT_SERVES)
    move(weights, "production")
    overlay_sample.pin(weights / layout.ENVIRONMENTS, "production", server=ANOTHER)
    keep(weights, "a newer server")
    found = {each.environment: each for each in status(weights).environments}
    assert [each.mirror for each in found["production"].drift] == [
        f"the server was {SERVER}, the environment names {ANOTHER}"
    ]
    assert found["staging"].drift == ()


def test_verify_compares_with_the_server_that_the_environment_names_now(weights: Path) -> None:
    verified(weights, **AS_IT_SERVES)
    overlay_sample.pin(weights / layout.ENVIRONMENTS, "staging", server=ANOTHER)
    keep(weights, "a newer server")
    options, record = VerifyOptions(against="staging"), expected(weights, image=True)
    assert compared_server.find(context.find(weights), record, SERVER, options).shown == ANOTHER
    with pytest.raises(ServingRefused, match="staging runs this server already"):
        compared_server.find(context.find(weights), record, ANOTHER, options)


def test_an_environment_that_names_another_server_than_the_one_before_is_refused(weights: Path) -> None:
    verified(weights, **AS_IT_SERVES)
    overlay_sample.pin(weights / layout.ENVIRONMENTS, "production", server=ANOTHER)
    keep(weights, "a newer server")
    assert f"the environment names {ANOTHER}" in gaps(weights, "production")


def test_an_image_with_its_server_is_verified_as_it_serves_in_a_container_of_itself(tmp_path: Path) -> None:
    root = tmp_path / "work"
    tree.prepare(root, lambda plain: plain["promote"]["environments"]["production"].pop("served_as_verified"))
    report = build(root, BuildOptions())
    tree.served(root, report)
    tree.signed(root, report)
    assert move(root, "staging").after is not None
    assert "it was not verified the way it will be served: it ran as a process" in gaps(root, "production")
    tree.served(root, report, how="container")
    tree.signed(root, report)  # another statement of the same image: the one that production takes counts
    done = move(root, "production").after
    assert (done and done.verified) == "as-served"


# Who verified


def _of_another(root: Path) -> None:
    """The statement of another image's verification, as it was signed."""
    here = files.read_json(root / layout.IMAGE_REPORT, ImageReport)
    good = (root / layout.SERVING_REPORT).read_bytes()
    tree.served(root, here.model_copy(update={"image": f"sha256:{'e' * 64}"}))
    (root / layout.SERVING_REPORT).write_bytes(good)


def _an_approval(root: Path) -> None:
    said = statement.approve("production", files.read_json(root / layout.IMAGE_REPORT, ImageReport).image, "yes")
    (root / layout.SERVING_STATEMENT).write_bytes(tree.envelope(root, json.loads(said)))


def _signed_by(name: str) -> Callable[[Path], None]:
    def sign(root: Path) -> None:
        data = json.loads((root / layout.SERVING_STATEMENT).read_bytes())
        plain = json.loads(base64.b64decode(data["payload"]))
        (root / layout.SERVING_STATEMENT).write_bytes(tree.envelope(root, plain, name))

    return sign


UNVERIFIED: list[tuple[str, Callable[[Path], object], str]] = [
    ("written by hand", spoil.remove(layout.SERVING_STATEMENT), "is not signed by a verifier"),
    ("edited after it was signed", lambda root: signing_tree.edit(root / layout.SERVING_REPORT, device="GPU all"), "is about another serving report: device differ"),
    ("written otherwise after it was signed", spoil.edit(layout.SERVING_REPORT, lambda text: json.dumps(json.loads(text))), "serving.json: is sha256:"),
    ("signed about another image", _of_another, "is about another serving report: image differ"),
    ("an approval in its place", _an_approval, "predicateType is 'urn:lockstep:approval:v1'"),
    ("signed by nobody who is known", _signed_by("mallory"), "that is unknown here"),
    ("signed by one who may only approve", _signed_by("bob"), "bob, who may approve and not verify"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "tamper", "says"), UNVERIFIED, ids=[case[0] for case in UNVERIFIED])
def test_a_serving_report_that_nobody_vouches_for_is_not_signed_as_a_release(
    what: str, tamper: Callable[[Path], object], says: str, weights: Path
) -> None:
    report = files.read_json(weights / layout.IMAGE_REPORT, ImageReport)
    tree.served(weights, report)
    tamper(weights)
    with pytest.raises(EvidenceRefused, match=says) as refused:
        tree.signed(weights, report)
    assert "run `lockstep verify` with a key or an identity that may verify" in refused.value.todo


def _by_mallory(plain: dict[str, Any], root: Path) -> None:
    _signed_by("mallory")(root)
    plain["predicate"]["verification"] = (root / layout.SERVING_STATEMENT).read_text()


INVENTED: list[tuple[str, Callable[[dict[str, Any], Path], object], str]] = [
    ("without a verification", lambda plain, _: plain["predicate"].pop("verification"), "the serving report is not signed by a verifier"),
    ("with one of mallory's", _by_mallory, "the signed verification: is signed by key"),
    ("with a better report than the signed one", lambda plain, _: plain["predicate"]["serving"].update(how="container", runtime="tgi", server=SERVER), "is about another serving report: server, runtime, how differ"),
    ("with what is no envelope", lambda plain, _: plain["predicate"].update(verification="{}"), "the signed verification: is not a DSSE envelope"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "forge", "says"), INVENTED, ids=[case[0] for case in INVENTED])
def test_whoever_signs_releases_cannot_invent_what_a_server_answered(
    what: str, forge: Callable[[dict[str, Any], Path], object], says: str, weights: Path
) -> None:
    """The statement has ada's signature, who may release: as her key signs it, whatever `lockstep sign` refuses."""
    report = files.read_json(weights / layout.IMAGE_REPORT, ImageReport)
    tree.served(weights, report)
    plain = tree.unsigned(weights)
    forge(plain, weights)
    tree.attach_to(weights, report.image, tree.envelope(weights, plain))
    assert says in gaps(weights, "staging")


def test_who_verifies_and_who_releases_can_be_two_and_one_who_is_removed_counts_no_more(weights: Path) -> None:
    for name, role in (("vera", "verify"), ("rene", "release")):
        made = key_verbs.new(weights, name, (role,), tree.key(weights, name))  # type: ignore[arg-type]
        key_verbs.add_signer(weights, name, (role,), made.public)  # type: ignore[arg-type]
    keep(weights, "two more signers")
    report = files.read_json(weights / layout.IMAGE_REPORT, ImageReport)
    with pytest.raises(EvidenceRefused, match="this key: is signed by rene, who may release and not verify"):
        tree.served(weights, report, "rene", **AS_IT_SERVES)
    tree.served(weights, report, "vera", **AS_IT_SERVES)
    with pytest.raises(EvidenceRefused, match="vera, who may verify and not release"):
        tree.signed(weights, report, "vera")
    tree.signed(weights, report, "rene")
    checks = {check.about: check.note for check in move(weights, "staging").checks}
    assert checks["serving"] == "pass by tgi as a container, verified by vera"
    assert checks["evidence"].endswith("signed by rene")
    text = (weights / layout.SIGNERS).read_text()
    (weights / layout.SIGNERS).write_text(text.replace("may: [verify]\n", "may: [approve]\n"))
    keep(weights, "vera verifies no more")
    assert "vera, who may approve and not verify" in gaps(weights, "production")
    (found,) = [each for each in status(weights).environments if each.environment == "staging"]
    assert ["vera, who may approve and not verify" in each.mirror for each in found.drift] == [True]
