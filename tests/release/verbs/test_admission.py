"""`lockstep admission`: the policies admit what was promoted and nothing else, as far as that shows without a cluster.

The runtime of Kubernetes' expression language evaluates Kubernetes' own policy. The OPA in cosign, which
policy-controller uses, evaluates that one's rules. Kyverno's rules are evaluated here by its documentation.
"""

import fnmatch
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from checks.formats import pointer, signers
from checks.formats.signers import Role, Signer
from checks.formats.statement import PREDICATE
from checks.process.errors import EvidenceRefused, PromotionRefused, Refusal
from checks.storage import layout
from release.promotion import context
from release.promotion.admission.admitted import Admitted, admitted
from release.verbs import keys as key_verbs
from release.verbs import quarantine, rollback
from release.verbs.admission import CONTROLLERS, admission
from tests import kubernetes_tools, ledger_tree, programs, spoil
from tests import promotion_tree as tree
from tests.ledger_tree import keep
from tests.promotion_tree import Release, move
from tests.registry_service import registry

pytestmark = pytest.mark.slow

alone = tree.alone
STAGING = layout.ENVIRONMENTS / "staging"


class World(NamedTuple):
    """A clone whose releases lie in a registry: two went to staging, the third is signed and was never promoted."""

    root: Path
    releases: tuple[Release, ...]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("admission")
    with registry(home / "registry") as service, pytest.MonkeyPatch.context() as patch:
        tree.leave_alone(patch)
        place = f"{service.host}/team/router:v1"
        releases = [tree.make(home / "work", push=place)]
        move(home / "work", "staging")
        releases.append(tree.next_model(home / "work", 11, place))
        move(home / "work", "staging")
        releases.append(tree.next_model(home / "work", 12, place))
        yield World(ledger_tree.packed(home / "work"), tuple(releases))


def policy(root: Path, controller: str) -> dict[str, Any]:
    (found,) = yaml.safe_load_all(admission(root, "staging", controller))
    return found


# -- Kyverno, by its documentation


def images(pod: Any, path: str) -> list[str]:
    """The images that an extractor of Kyverno finds: keys between slashes, ``*`` for every entry."""
    found = [pod]
    for part in path.strip("/").split("/"):
        found = [each for one in found for each in one] if part == "*" else [one[part] for one in found if part in one]
    return found


def kyverno(rules: list[dict[str, Any]], pod: dict[str, Any], signed: dict[str, dict[str, Any]]) -> bool:
    """Whether both rules admit the pod. ``signed``: by image, the predicate that a signer of the first attests."""
    rule, digests = rules
    spec: dict[str, Any] = pod["spec"]
    # The lists of the second rule, by the JMESPath that its documentation has; an element without an image gives ''.
    lists = {
        "request.object.spec.[ephemeralContainers, initContainers, containers][]": [
            each for kind in ("ephemeralContainers", "initContainers", "containers") for each in spec.get(kind, [])
        ],
        "request.object.spec.volumes": spec.get("volumes", []),
    }
    for each in digests["validate"]["foreach"]:
        for element in lists[each["list"]]:
            if _all_hold(each["deny"]["conditions"]["all"], {"element": element}):
                return False
    (verify,) = rule["verifyImages"]
    (attestation,) = verify["attestations"]
    found = [image for each in rule["imageExtractors"]["Pod"] for image in images(pod, each["path"])]
    asked = [image for image in found if any(fnmatch.fnmatchcase(image, one) for one in verify["imageReferences"])]
    return all(image in signed and _holds(attestation["conditions"], signed[image]) for image in asked)


def _holds(conditions: list[dict[str, Any]], predicate: dict[str, Any]) -> bool:
    return all(_all_hold(each["all"], predicate) for each in conditions)


def _all_hold(conditions: list[dict[str, Any]], variables: dict[str, Any]) -> bool:
    def any_in(key: str, values: list[str]) -> bool:
        return any(fnmatch.fnmatchcase(key, value) for value in values)

    operators: dict[str, Callable[[Any, Any], bool]] = {
        "AnyIn": any_in, "AnyNotIn": lambda key, values: not any_in(key, values),
        "Equals": lambda key, value: key == value,
    }  # fmt: skip

    def holds(one: dict[str, Any]) -> bool:
        path, _, otherwise = one["key"].removeprefix("{{ ").removesuffix(" }}").partition(" || ")
        value: Any = variables
        for part in path.split("."):
            if part not in value and otherwise:
                return operators[one["operator"]]("", one["value"])
            value = value[part]
        return operators[one["operator"]](value, one["value"])

    return all(map(holds, conditions))


def test_kyverno_admits_pods_of_promoted_images_wherever_the_image_is(world: World) -> None:
    rules = policy(world.root, "kyverno")["spec"]["rules"]
    first, second, third = (each.image for each in world.releases)
    name = first.partition("@")[0]
    signed = {each.image: each.signed.statement.predicate.model_dump(mode="json") for each in world.releases}
    pods: dict[str, tuple[dict[str, Any], bool]] = {
        "what runs": ({"containers": [{"image": second}]}, True),
        "what ran before": ({"containers": [{"image": first}]}, True),
        "the weights as a volume": ({"containers": [], "volumes": [{"image": {"reference": second}}]}, True),
        "another's image": ({"containers": [{"image": "docker.io/library/proxy:1"}]}, True),
        "signed and not promoted": ({"containers": [{"image": third}]}, False),
        "the same as a volume": ({"volumes": [{"emptyDir": {}}, {"image": {"reference": third}}]}, False),
        "before it starts": ({"initContainers": [{"image": third}], "containers": [{"image": second}]}, False),
        "a debugger": ({"ephemeralContainers": [{"image": third}], "containers": [{"image": second}]}, False),
        "never signed": ({"containers": [{"image": f"{name}@sha256:{'0' * 64}"}]}, False),
        "a tag": ({"containers": [{"image": f"{name}:v1"}]}, False),
    }
    assert {what: kyverno(rules, {"spec": pod}, signed) for what, (pod, _) in pods.items()} == {
        what: admitted for what, (_, admitted) in pods.items()
    }
    failed = json.loads(json.dumps(signed[second]))
    failed["serving"]["status"] = "fail"
    assert not kyverno(rules, {"spec": {"containers": [{"image": second}]}}, {second: failed})
    # a signer attests that the third image is the second: Kyverno finds the third among the subjects, and a promoted name
    lied = signed | {third: signed[second]}
    for at in ({"containers": [{"image": third}]}, {"volumes": [{"emptyDir": {}}, {"image": {"reference": third}}]}):
        assert not kyverno(rules, {"spec": at}, lied)
        assert kyverno([rules[0], {"validate": {"foreach": []}}], {"spec": at}, lied)  # without the second rule


def test_kyvernos_policy_enforces_in_the_namespace_of_the_environment(world: World) -> None:
    found = policy(world.root, "kyverno")
    rule, digests = found["spec"]["rules"]
    own = yaml.safe_load((world.root / STAGING / "environment.yaml").read_text())
    assert rule["match"] == {"any": [{"resources": {"kinds": ["Pod"], "namespaces": [own["namespace"]]}}]}
    (match,) = digests["match"]["any"]
    assert match["resources"] == {
        "kinds": ["Pod"], "namespaces": [own["namespace"]], "operations": ["CREATE", "UPDATE"],
    }  # fmt: skip
    assert digests["validate"]["failureAction"] == "Enforce"
    (verify,) = rule["verifyImages"]
    assert (verify["type"], verify["failureAction"], verify["required"]) == ("SigstoreBundle", "Enforce", True)
    (attestors,) = verify["attestations"][0]["attestors"]
    public = (tree.key(world.root, "ada")).with_suffix(".pub").read_text()
    # bob and cara may approve, and not release; a signature by a key is in no log
    keys = {"publicKeys": public, "rekor": {"ignoreTlog": True}, "ctlog": {"ignoreSCT": True}}
    assert attestors == {"count": 1, "entries": [{"keys": keys}]}
    assert found["spec"]["webhookConfiguration"]["failurePolicy"] == "Fail"


# -- Kubernetes itself, by the runtime of its language


def kubernetes(spec: dict[str, Any], pod: dict[str, Any], before: dict[str, Any] | None = None) -> tuple[bool, str]:
    """Whether the policy admits a pod that is created, or that was ``before``, and the message of a refusal."""
    cel = pytest.importorskip("cel_expr_python.cel", reason="pip install -c constraints.txt -e .[dev]")
    strings = pytest.importorskip("cel_expr_python.ext.ext_strings")
    names = ("object", "oldObject", "request", "variables")
    language = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN), extensions=[strings.ExtStrings()])
    data: dict[str, Any] = {
        "object": {"spec": pod},
        "oldObject": None if before is None else {"spec": before},
        "request": {"operation": "CREATE" if before is None else "UPDATE"},
        "variables": {},
    }

    def value(expression: str) -> Any:
        return language.compile(expression).eval(data=data).plain_value()

    for variable in spec["variables"]:
        data["variables"][variable["name"]] = value(variable["expression"])
    (validation,) = spec["validations"]
    return value(validation["expression"]), value(validation["messageExpression"])


def test_kubernetes_admits_what_was_promoted_wherever_the_image_is_and_however_it_is_written(world: World) -> None:
    policy, binding = yaml.safe_load_all(admission(world.root, "staging", "kubernetes"))
    first, second, third = (release.image for release in world.releases)
    host, _, rest = third.partition("/")
    name = f"{host}/{rest.partition('@')[0]}"
    digest = third.partition("@")[2]

    def runs(image: str) -> dict[str, Any]:
        return {"containers": [{"name": "server", "image": image}]}

    pods: dict[str, tuple[dict[str, Any], bool]] = {
        "what runs": (runs(second), True),
        "what ran before": (runs(first), True),
        "with its tag too": (runs(second.replace("@", ":v1@")), True),
        "the weights as a volume": (
            runs("proxy:1") | {"volumes": [{"emptyDir": {}}, {"image": {"reference": second}}]},
            True,
        ),
        "another's image": (runs("docker.io/library/proxy:1"), True),
        "a longer name": (runs(f"{name}-tools:1"), True),
        "signed and not promoted": (runs(third), False),
        "with the tag of another": (runs(third.replace("@", ":v1@")), False),
        "the same as a volume": (
            runs("proxy:1") | {"volumes": [{"emptyDir": {}}, {"image": {"reference": third}}]},
            False,
        ),
        "before it starts": (runs(second) | {"initContainers": [{"image": third}]}, False),
        "a debugger": (runs(second) | {"ephemeralContainers": [{"image": third}]}, False),
        "a second container": ({"containers": [{"image": second}, {"image": third}]}, False),
        "never signed": (runs(f"{name}@sha256:{'0' * 64}"), False),
        "a promoted digest as the tag": (runs(f"{name}:sha256-{second.rpartition(':')[2]}@{digest}"), False),
        "a tag": (runs(f"{name}:v1"), False),
        "no tag": (runs(name), False),
    }
    assert {what: kubernetes(policy["spec"], pod)[0] for what, (pod, _) in pods.items()} == {
        what: admitted for what, (_, admitted) in pods.items()
    }
    assert kubernetes(policy["spec"], runs(third))[1] == f"not promoted to staging, or in quarantine: {third}"
    # A running pod may be changed, so that it can end. Its image may not be changed to one that was not promoted.
    assert kubernetes(policy["spec"], runs(third), runs(third))[0]
    assert not kubernetes(policy["spec"], runs(third), runs(second))[0]
    assert not kubernetes(policy["spec"], runs(second) | {"ephemeralContainers": [{"image": third}]}, runs(second))[0]

    for document in (policy, binding):
        for version in kubernetes_tools.VERSIONS:
            kubernetes_tools.validate(document, version)
    assert policy["spec"]["failurePolicy"] == "Fail"
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["pods", "pods/ephemeralcontainers"], ["CREATE", "UPDATE"])
    own = yaml.safe_load((world.root / STAGING / "environment.yaml").read_text())["namespace"]
    selector = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": own}}}
    assert binding["spec"] == {
        "policyName": policy["metadata"]["name"], "validationActions": ["Deny"], "matchResources": selector,
    }  # fmt: skip


def test_kubernetes_takes_no_other_spelling_of_a_registry_for_another_repository() -> None:
    names = (
        "registry.example/team/router",
        "docker.io/team/router",
        "index.docker.io/team/router",
        "hub.example:443/a/b",
    )
    admitted = Admitted("staging", "router-staging", names, ("sha256:1",), (), 1)
    policy, _ = CONTROLLERS["kubernetes"](admitted).documents
    for image in (
        "registry.example/team/router", "Registry.EXAMPLE/team/router", "registry.example:443/team/router", "team/router",
        "docker.io/team/router", "index.docker.io/team/router", "hub.example/a/b", "hub.example:443/a/b",
    ):  # fmt: skip
        for end, promoted in (("@sha256:1", True), ("@sha256:2", False), (":v1", False), ("", False)):
            assert kubernetes(policy["spec"], {"containers": [{"image": image + end}]})[0] is promoted, image + end
    for image in ("registry.example:5000/team/router", "registry.example/team/router2", "mirror.example/team/router"):
        assert kubernetes(policy["spec"], {"containers": [{"image": f"{image}:v1"}]})[0], image


def test_kubernetes_policy_says_that_it_checks_digests_alone_and_nothing_of_signers(world: World) -> None:
    comments = [line for line in admission(world.root, "staging", "kubernetes").splitlines() if line.startswith("#")]
    (comment,) = comments
    assert comment.startswith("# WEAKER than `lockstep promote`: the list of digests is all that decides.")


# -- who must have signed: the shape of both policies about signers

ISSUER = "https://token.actions.githubusercontent.com"
WORKFLOW = "https://github.com/team/router/.github/workflows/release.yml@refs/heads/main"
ADA = Signer(name="ada", may=("release",), key="-----BEGIN PUBLIC KEY-----\nada\n")
BEA = Signer(name="bea", may=("release",), key="-----BEGIN PUBLIC KEY-----\nbea\n", until=date(2999, 12, 31))
CI = Signer(name="ci", may=("release",), identity=WORKFLOW, issuer=ISSUER)
OPS = Signer(name="ops", may=("release",), identity="ops@example.com", issuer="https://accounts.example.com")
SHARED, OLD, NEW = "https://github.com/tools/lockstep/.github/workflows/release.yml", "0" * 40, "1" * 40
PINNED = Signer(name="pinned", may=("release",), identity=SHARED, issuer=ISSUER, commits=(OLD, NEW), caller=WORKFLOW)
PATTERN = f"^https://github\\.com/tools/lockstep/\\.github/workflows/release\\.yml@({OLD}|{NEW})$"
TLOG = {"rekor": {"ignoreTlog": True}, "ctlog": {"ignoreSCT": True}}
REKOR = {"rekor": {"url": "https://rekor.sigstore.dev"}}
ENTRIES: dict[str, Any] = {  # of Kyverno
    "ada": {"keys": {"publicKeys": ADA.key, **TLOG}},
    "bea": {"keys": {"publicKeys": BEA.key, **TLOG}},
    "ci": {"keyless": {"subject": WORKFLOW, "issuer": ISSUER, **REKOR}},
    "pinned": {"keyless": {"subjectRegExp": PATTERN, "issuer": ISSUER, **REKOR}},
    "ops": {"keyless": {"subject": OPS.identity, "issuer": OPS.issuer, **REKOR}},
}
CALLER, UNTIL, SAME = "only Lockstep compares them", "until 2999-12-31", "the same statement"
KEYS = "count in Kyverno 1.19 or newer"
# signers, signatures, what the notes say
SHAPES: dict[str, tuple[tuple[Signer, ...], int, list[str]]] = {
    "a key": ((ADA,), 1, [KEYS]),
    "an identity": ((OPS,), 1, []),
    "a workflow": ((CI,), 1, [CALLER]),
    "a pinned workflow": ((PINNED,), 1, [CALLER]),
    "a last day": ((ADA, BEA), 1, [UNTIL, KEYS]),
    "two keys": ((ADA, BEA), 2, [UNTIL, SAME, KEYS]),
    "two identities": ((CI, OPS), 2, [CALLER, SAME]),
    "either kind": ((ADA, OPS), 1, [KEYS]),
    "one of each": ((ADA, OPS), 2, [SAME, KEYS]),
}


def of(what: str) -> Admitted:
    return Admitted("staging", "router-staging", ("registry.example/router",), ("sha256:1",), *SHAPES[what][:2])


@pytest.mark.parametrize("what", SHAPES)
def test_kyvernos_policy_asks_for_the_signers_and_says_what_it_cannot(what: str) -> None:
    who, count, expected = SHAPES[what]
    found = of(what)
    made = CONTROLLERS["kyverno"](found)
    notes = [*found.notes, *made.notes]
    assert len(notes) == len(expected)
    assert all(text in note for text, note in zip(expected, notes, strict=True))
    rule, _ = made.documents[0]["spec"]["rules"]
    (verify,) = rule["verifyImages"]
    (attestation,) = verify["attestations"]
    assert attestation["attestors"] == [{"count": count, "entries": [ENTRIES[one.name] for one in who]}]


AUTHORITIES: dict[str, Any] = {  # of policy-controller
    signer.name: {
        "name": signer.name,
        "keyless": {
            "url": "https://fulcio.sigstore.dev",
            "identities": [subject | {"issuer": signer.issuer}],
        },
        "signatureFormat": "bundle",
    }
    for signer, subject in (
        (CI, {"subject": CI.identity}), (OPS, {"subject": OPS.identity}), (PINNED, {"subjectRegExp": PATTERN}),
    )
}  # fmt: skip


@pytest.mark.parametrize("what", SHAPES)
def test_policy_controllers_policy_takes_identities_and_refuses_keys_whose_bundles_it_does_not_read(what: str) -> None:
    who, count, _ = SHAPES[what]
    by_key = ", ".join(signer.name for signer in who if signer.key)
    if by_key:
        with pytest.raises(EvidenceRefused, match=f"no bundle that a key signed, and {by_key} may release") as refused:
            CONTROLLERS["policy-controller"](of(what))
        assert refused.value.todo.startswith("run `lockstep admission staging --for kyverno`")
        return
    made = CONTROLLERS["policy-controller"](of(what))
    (document,) = made.documents
    spec = document["spec"]
    assert spec["mode"] == "enforce"
    assert spec["images"] == [{"glob": "registry.example/router:**"}, {"glob": "registry.example/router@**"}]
    for authority in spec["authorities"]:
        (attestation,) = authority.pop("attestations")
        assert attestation["predicateType"] == PREDICATE
    assert spec["authorities"] == [AUTHORITIES[signer.name] for signer in who]
    assert ("policy" in spec) is (count > 1)
    assert "policy.sigstore.dev/include" in made.notes[0]


# -- policy-controller's rules, by the OPA in cosign

CASES = """package signature
cases := json.unmarshal(%s)
wrong[case.name] {
  case := cases[_]
  answer := data.sigstore.isCompliant with input as case.input
  answer != case.expected
}
allow { count(wrong) == 0 }
allow = wrong { count(wrong) > 0 }
"""


def opa(world: World, module: str, inputs: dict[str, tuple[Any, bool]], home: Path) -> str:
    """Which of ``inputs`` get another answer from ``module`` than the one beside them; empty if none."""
    cases = [{"name": what, "input": value, "expected": expected} for what, (value, expected) in inputs.items()]
    (home / "module.rego").write_text(module)
    (home / "cases.rego").write_text(CASES % json.dumps(json.dumps(cases)))
    done = subprocess.run(
        [programs.cosign3(), "verify-attestation", "--insecure-ignore-tlog", "--key", tree.key(world.root, "ada").with_suffix(
            ".pub"), "--type", PREDICATE, "--policy", home / "module.rego", "--policy", home / "cases.rego",
         world.releases[0].image],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr if done.returncode else ""


def statement(release: Release, **subjects: str) -> dict[str, Any]:
    """As policy-controller hands it to the rule; ``subjects``: other digests of images."""
    plain: dict[str, Any] = release.signed.statement.model_dump(mode="json", by_alias=True)
    if subjects:
        plain["subject"] = [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()]
    return plain


def test_policy_controller_admits_what_was_promoted_and_nothing_else(world: World, tmp_path: Path) -> None:
    by_identity = admitted(context.find(world.root), "staging")._replace(signers=(OPS,))
    (document,) = CONTROLLERS["policy-controller"](by_identity).documents
    (authority,) = document["spec"]["authorities"]
    (attestation,) = authority["attestations"]
    rule = attestation["policy"]["data"]
    first, second, third = world.releases
    promoted, other = (release.image.rpartition(":")[2] for release in (first, third))
    failed = statement(second)
    failed["predicate"]["serving"]["status"] = "fail"
    silent = statement(second)
    del silent["predicate"]["serving"]
    statements = {
        "what runs": (statement(second), True),
        "what ran before": (statement(first), True),
        "signed and not promoted": (statement(third), False),
        "another image's, which names a promoted one": (statement(second, image=other), False),
        "the same with both as subjects": (statement(second, image=other, promoted=promoted), False),
        "no image": (statement(second) | {"subject": []}, False),
        "a verification that failed": (failed, False),
        "no verification": (silent, False),
        "an empty predicate": (statement(second) | {"predicate": {}}, False),
        "nothing": ({}, False),
    }
    assert opa(world, rule, statements, tmp_path) == ""
    assert "what runs" in opa(world, rule, {"what runs": (statement(second), False)}, tmp_path)


def test_policy_controller_counts_the_authorities_that_hold(world: World, tmp_path: Path) -> None:
    (document,) = CONTROLLERS["policy-controller"](of("two identities")).documents
    rule = document["spec"]["policy"]["data"]
    matches: dict[str, tuple[dict[str, Any], bool]] = {
        "both": ({"authorityMatches": {"ci": {}, "ops": {}}}, True),
        "one": ({"authorityMatches": {"ci": {"attestations": {"release": [1, 2]}}}}, False),
        "none": ({"authorityMatches": {}}, False),
        "nothing": ({}, False),
    }
    assert opa(world, rule, matches, tmp_path) == ""
    assert "both" in opa(world, rule.replace(">= 2", ">= 3"), matches, tmp_path)


def test_a_pod_may_write_each_name_that_docker_hub_has() -> None:
    names = ("docker.io/library/router", "index.docker.io/library/router")
    assert of("a key")._replace(repositories=names).written == (
        "docker.io/library/router", "library/router", "router", "index.docker.io/library/router",
    )  # fmt: skip


def test_what_was_rolled_back_is_admitted_no_more(world: World, tmp_path: Path) -> None:
    work = tree.copy(world.root, tmp_path / "work")
    first, second, _ = world.releases
    rollback.rollback(work, "staging", why="answers in French")
    rules = policy(work, "kyverno")["spec"]["rules"]
    signed = {one.image: one.signed.statement.predicate.model_dump(mode="json") for one in (first, second)}
    pods = ({"spec": {"containers": [{"image": image}]}} for image in signed)
    assert [kyverno(rules, pod, signed) for pod in pods] == [True, False]


def test_what_a_replaced_key_signed_is_admitted_as_before(world: World, tmp_path: Path) -> None:
    work = tree.copy(world.root, tmp_path / "work")
    before = policy(work, "kyverno")
    until = f"- name: ada\n  until: {datetime.now(UTC):%Y-%m-%d}\n"
    spoil.edit(layout.SIGNERS, lambda text: text.replace("- name: ada\n", until))(work)
    keep(work, "ada signs no more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signers, "datetime", ledger_tree.Tomorrow)
        assert policy(work, "kyverno") == before
    spoil.edit(layout.SIGNERS, lambda text: re.sub("until: .*", "until: 2020-01-01", text))(work)
    keep(work, "and had none when it was promoted")
    with pytest.raises(EvidenceRefused, match="ada, whose signatures count until 2020-01-01"):
        policy(work, "kyverno")


def test_a_retired_signer_is_asked_only_about_what_it_signed(world: World, tmp_path: Path) -> None:
    work = tree.copy(world.root, tmp_path / "work")
    another(work, "release", "bea")
    entry = f"- name: ci\n  may: [release]\n  identity: {WORKFLOW}\n  issuer: {ISSUER}\n"
    spoil.edit(layout.SIGNERS, lambda text: text + entry)(work)
    keep(work, "ci may release")

    def asked() -> list[str]:
        return [one.name for one in admitted(context.find(work), "staging").signers]

    assert asked() == ["ada", "bea", "ci"]
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    spoil.edit(layout.SIGNERS, lambda text: re.sub("(- name: (ada|bea|ci)\n)", rf"\1  until: {today}\n", text))(work)
    keep(work, "all three retire")
    assert asked() == ["ada", "bea", "ci"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signers, "datetime", ledger_tree.Tomorrow)
        assert asked() == ["ada"]


# -- what is refused


def another(root: Path, role: Role, name: str) -> None:
    made = key_verbs.new(root, name, (role,), root / layout.STATE / "keys" / f"{name}.key")
    key_verbs.add_signer(root, name, (role,), made.public)
    keep(root, f"{name} may {role}")


def two_signatures(root: Path) -> None:
    tree.rewrite(root, layout.PARAMS, lambda params: params["promote"]["environments"]["staging"].update(signatures=2))


def no_namespace(root: Path) -> None:
    path = root / STAGING / "environment.yaml"
    path.write_text(path.read_text().replace("namespace:", "# namespace:"))
    keep(root, "no namespace")


def another_namespace(root: Path) -> None:
    path = root / STAGING / "environment.yaml"
    path.write_text(path.read_text().replace("namespace: model-staging", "namespace: other"))
    keep(root, "another namespace")


def held_back(root: Path) -> None:
    its = pointer.parse((root / STAGING / layout.POINTER).read_bytes(), "staging")
    quarantine.add(root, its.digest, "answers in French")


def another_signer(root: Path) -> None:
    made = key_verbs.new(root, "dora", ("release",), root / layout.STATE / "keys" / "dora.key")
    (root / layout.SIGNERS).write_text(made.entry)
    keep(root, "dora in place of ada")


def emptied(root: Path) -> None:
    rollback.rollback(root, "staging", why="none", to="none")


REFUSED: dict[str, tuple[Callable[[Path], object], type[Refusal], str]] = {
    "an empty environment": (emptied, PromotionRefused, "staging runs nothing"),
    "a release in quarantine": (held_back, PromotionRefused, "which is in quarantine: answers in French"),
    "no namespace": (no_namespace, EvidenceRefused, "namespace: is missing: name one that is this environment's own"),
    "another namespace than it has": (another_namespace, EvidenceRefused, "run `lockstep render staging`"),
    "a signer who was removed": (another_signer, EvidenceRefused, "that is unknown here"),
    "fewer signers than must sign": (two_signatures, EvidenceRefused, "takes 2 signatures, and only ada may release"),
    "evidence that was edited": (
        lambda root: (spoil.write(STAGING / layout.EVIDENCE, "{}")(root), keep(root, "edited")),
        EvidenceRefused,
        "the pointer names sha256:",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_no_policy_is_made_of(what: str, world: World, tmp_path: Path) -> None:
    change, kind, cause = REFUSED[what]
    work = shutil.copytree(world.root, tmp_path / "work", symlinks=True)
    change(work)
    for controller in CONTROLLERS:
        with pytest.raises(kind, match=cause):
            admission(work, "staging", controller)


def test_an_image_in_a_folder_and_an_unknown_environment_are_refused(tmp_path: Path) -> None:
    tree.make(tmp_path / "work")
    move(tmp_path / "work", "staging")
    with pytest.raises(PromotionRefused, match="no cluster can pull it"):
        admission(tmp_path / "work", "staging", "kyverno")
    with pytest.raises(EvidenceRefused, match="names no such one"):
        admission(tmp_path / "work", "moon", "kyverno")
