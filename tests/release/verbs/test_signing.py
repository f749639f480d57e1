"""`lockstep sign`: what is signed and attached, in a layout and in a real registry, and what is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from rfc3986_validator import validate_rfc3986  # type: ignore[import-untyped]

from checks.formats import statement as statements
from checks.formats.evaluation_reports import EvaluationReport
from checks.formats.serving import ImageReport, ServingReport
from checks.formats.signers import Signer, Signers
from checks.formats.statement import ENVELOPE, PAYLOAD, PREDICATE, TREE, VERIFICATION, Statement
from checks.formats.training_reports import Exported, Start
from checks.process.errors import EvidenceRefused, RegistryRefused, VerdictFailed
from checks.storage import digest, files, layout
from checks.storage.digest import canonical_json
from release.adapters import commits
from release.adapters.registry.client import Repository
from release.adapters.registry.documents import Store
from release.evidence import (
    attach,
    attached_statements,
    dsse,
    keys,
    modelpack,
    sbom,
    sigstore,
    slsa,
    statement,
    trust,
    verification,
    weights,
)
from release.image.layout import Layout
from release.record import verdict_check
from release.record.records import Records
from release.verbs import keys as key_verbs
from release.verbs.build import BuildOptions, build
from release.verbs.sign import Signed, collect, sign
from tests import build_tree, signing_tree, spoil
from tests.conftest import REPOSITORY, scaled_down
from tests.ledger_tree import packed
from tests.registry_service import Registry, registry
from tests.signing_tree import edit

pytestmark = pytest.mark.slow

KEY = Path(".lockstep/keys/lockstep.key")
OTHER = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record that was built and verified, and is not signed. Read-only by custom."""
    root = tmp_path_factory.mktemp("signing") / "run"
    signing_tree.make(root)
    return packed(root)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to sign or to damage."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def signed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signed]:
    """A copy that was signed. Read-only by custom."""
    root = shutil.copytree(finished, tmp_path_factory.mktemp("signed") / "run")
    return root, sign(root, store(root), root / KEY)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def store(root: Path) -> Layout:
    return Layout(root / layout.IMAGE)


def image_of(root: Path) -> ImageReport:
    return files.read_json(root / layout.IMAGE_REPORT, ImageReport)


def artifact(at: Store, image: str, kind: str) -> bytes:
    """The only artifact of this type; of the bundles the one that signs the weights."""
    found = [one.data for one in attach.attached(at, image, kind, 1 << 20, pytest.fail)]
    if kind == sigstore.BUNDLE:
        found = [data for data in found if attach.predicate_type(data) == weights.PREDICATE]
    (data,) = found
    return data


# -- the statement


def test_the_statement_names_all_that_the_release_came_from(signed: tuple[Path, Signed]) -> None:
    root, done = signed
    made, image = done.statement.predicate.materials, image_of(root)
    held = verdict_check.hold(Records(root))
    assert [subject.digest for subject in done.statement.subject] == [
        {"sha256": image.image.removeprefix("sha256:")},
        {TREE: digest.of_tree(root / layout.MERGED).digest.removeprefix("sha256:")},
    ]
    assert made.base == digest.of_tree(root / layout.BASE).digest
    assert made.raw == digest.of_tree(root / layout.RAW).digest
    assert made.adapter == digest.of_tree(root / layout.ADAPTER).digest
    for name, value in made.splits.items():
        assert value == digest.of_file(root / layout.SPLITS / f"{name}.jsonl").sha256
    for value, path_ in (
        (made.params, layout.PARAMS), (made.lock, layout.LOCK), (made.verdict, layout.VERDICT),
        (made.probes, layout.PROBES),
    ):  # fmt: skip
        assert value == digest.of_file(root / path_).sha256
    assert set(made.splits) == set(layout.SPLIT_NAMES)
    assert {str(layout.PARITY_REPORT), str(layout.EVALUATION), str(layout.TRAIN_REPORT)} <= set(made.reports)
    for path, value in made.reports.items():
        assert value == digest.of_file(root / path).sha256
    release = done.statement.predicate
    assert (release.commit, release.policy, release.image) == (image.commit, held.verdict.policy, image)
    assert release.serving == files.read_json(root / layout.SERVING_REPORT, ServingReport)
    assert release.verification == (root / layout.SERVING_STATEMENT).read_text()


def test_statement_and_provenance_name_the_model_that_training_started_from_and_are_as_before_without_one(
    signed: tuple[Path, Signed],
) -> None:
    root, done = signed
    payload = dsse.verify(done.envelope, trust.known(root), "release").payload
    assert "start" not in json.loads(payload)["predicate"]["materials"]
    held, image, serving = collect(Records(root))
    reports = held.evidence.reports
    assert reports.train is not None
    start = Start(commit="3" * 40, model=OTHER, adapter=OTHER, learned=OTHER, licenses={"data main": "MIT"})
    train = reports.train.model_copy(update={"start": start})
    held = held._replace(evidence=replace(held.evidence, reports=replace(reports, train=train)))
    verified = verification.read(root, serving, trust.known(root))
    made = Statement.model_validate_json(statement.make(root, held, image, serving, verified, OTHER))
    assert made.predicate.materials.start == start
    (signer,) = trust.signatory(root / KEY, trust.known(root), "release").own("release")
    named = json.loads(slsa.make(made, signer, OTHER))["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"name": f"models/adapter of {start.commit}", "digest": {TREE: "0" * 64}} in named


def test_the_same_release_is_the_same_statement_wherever_the_weights_are(
    signed: tuple[Path, Signed], run: Path
) -> None:
    for folder in (layout.MERGED, layout.BASE, layout.ADAPTER, layout.RAW):
        shutil.rmtree(run / folder)
    payload = dsse.verify(signed[1].envelope, trust.known(run), "release").payload
    again = sign(run, store(run), run / KEY)
    assert dsse.verify(again.envelope, trust.known(run), "release").payload == payload


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ({"chat_template.jinja": b"{{ x }}", "tokenizer_config.json": b'{"chat_template": "other"}'}, b"{{ x }}"),
        ({"tokenizer_config.json": b'{"chat_template": "{{ y }}"}'}, b"{{ y }}"),
        ({"tokenizer_config.json": b"{}"}, None),
        ({}, None),
    ],
    ids=["a file of its own", "a field of the tokenizer's", "none of two", "no configuration"],
)
def test_the_chat_template_is_named_by_its_text(written: dict[str, bytes], text: bytes | None, tmp_path: Path) -> None:
    merged = {"model.safetensors": b"w" * 100, "config.json": b"{}", "tokenizer.json": b"{}"} | written
    root = tmp_path / "run"
    build_tree.make(root, merged)
    held = verdict_check.hold(Records(root))
    assert held.evidence.reports.parity is not None
    found = statement._template(root, held.evidence.reports.parity)
    assert found == (None if text is None else digest.of_bytes(text))


def _statement(of: tuple[Path, Signed], **change: Any) -> bytes:
    root, done = of
    plain = json.loads(dsse.verify(done.envelope, trust.known(root), "release").payload)
    for place, value in change.items():
        at: Any = plain
        *parents, last = place.split("__")
        for part in parents:
            at = at[int(part) if part.isdigit() else part]
        at[last] = value
    return canonical_json(plain)


STATEMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("another type", {"_type": "https://in-toto.io/Statement/v0.1"}, "_type"),
    ("another predicate", {"predicateType": "https://slsa.dev/provenance/v1"}, "predicateType"),
    ("another image among the subjects", {"subject__0__digest": {"sha256": "0" * 64}}, "subjects are not"),
    ("another model among the subjects", {"subject__1__digest": {TREE: "0" * 64}}, "subjects are not"),
    ("one subject", {"subject": []}, "subject"),
    ("another verdict", {"predicate__materials__verdict": OTHER}, "another verdict"),
    ("another commit", {"predicate__commit": "0" * 40}, "another commit"),
    ("served another model", {"predicate__serving__model": OTHER}, "another model"),
    ("a failed check in a pass", {"predicate__serving__checks__0__status": "fail"}, "contradicts the checks"),
    ("a check left out", {"predicate__serving__checks": []}, "every check"),
    ("a report with a way out", {"predicate__materials__reports": {"reports/../../etc/passwd": OTHER}}, "reports"),
    ("a digest of another kind", {"predicate__materials__base": "md5:0"}, "base"),
    ("a field too many", {"predicate__extra": 1}, "extra"),
    ("a verification that is no text", {"predicate__verification": {}}, "verification"),
]


@pytest.mark.parametrize(("what", "change", "cause"), STATEMENTS, ids=[what for what, _, _ in STATEMENTS])
def test_a_statement_that_says_two_things_is_refused(
    what: str, change: dict[str, Any], cause: str, signed: tuple[Path, Signed]
) -> None:
    with pytest.raises(EvidenceRefused, match=cause):
        statement.parse(_statement(signed, **change))


def test_a_statement_has_one_form(signed: tuple[Path, Signed]) -> None:
    payload = _statement(signed)
    assert statement.write(statement.parse(payload)) == payload
    for other in (
        payload + b"\n",
        json.dumps(json.loads(payload), indent=1).encode(),
        payload.replace(b":1,", b":1e0,", 1),
    ):
        with pytest.raises(EvidenceRefused):
            statement.parse(other)
    with pytest.raises(EvidenceRefused, match="twice"):
        statement.parse(b'{"_type":"x",' + payload[1:])


def test_what_is_signed_fits_the_published_schema_and_little_else_does(signed: tuple[Path, Signed]) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    published = json.loads((REPOSITORY / "docs" / "release.schema.json").read_text())
    assert published == statements.schema(), "run .ci/reference.py"
    Draft202012Validator.check_schema(published)
    fits = Draft202012Validator(published).is_valid
    plain = json.loads(dsse.verify(signed[1].envelope, trust.known(signed[0]), "release").payload)["predicate"]
    assert fits(plain)
    older = {key: value for key, value in plain.items() if key != "verification"}
    assert fits(older)
    others: list[dict[str, Any]] = [
        plain | {"more": 1},
        {key: value for key, value in plain.items() if key != "sbom"},
        plain | {"commit": "main"},
        plain | {"sbom": plain["sbom"].upper()},
        plain | {"materials": plain["materials"] | {"splits": {}}},
        plain | {"image": plain["image"] | {"layers": []}},
        plain | {"serving": plain["serving"] | {"status": "passed"}},
        plain | {"serving": plain["serving"] | {"checks": [plain["serving"]["checks"][0] | {"name": "taste"}]}},
    ]
    assert [other for other in others if fits(other)] == []


# -- the artifacts


def test_five_artifacts_are_attached_and_the_second_time_none(run: Path) -> None:
    first = sign(run, store(run), run / KEY)
    before = {path: path.read_bytes() for path in (run / layout.IMAGE).rglob("*") if path.is_file()}
    assert len(first.added) == 5
    again = sign(run, store(run), run / KEY)
    assert again == first._replace(added=())
    assert {path: path.read_bytes() for path in (run / layout.IMAGE).rglob("*") if path.is_file()} == before
    listed = store(run).referrers(image_of(run).image)
    kinds = {(one.model_extra or {})["artifactType"] for one in listed}
    assert kinds == {ENVELOPE, sigstore.BUNDLE, attached_statements.BILL, modelpack.ARTIFACT}
    assert {one.digest for one in listed} == set(first.added)


def test_the_image_is_still_the_only_one_of_its_folder_and_outlives_a_rebuild(run: Path) -> None:
    sign(run, store(run), run / KEY)
    image = image_of(run).image
    assert store(run).document("").digest == image
    assert build(run, BuildOptions()).image == image
    assert len(store(run).referrers(image)) == 5


def test_a_new_serving_report_is_a_new_statement_beside_the_old(run: Path) -> None:
    first = sign(run, store(run), run / KEY)
    edit(run / layout.SERVING_REPORT, device="cuda")
    signing_tree.attest(run)
    second = sign(run, store(run), run / KEY)
    assert len(second.added) == 1
    image, known = image_of(run).image, trust.known(run)
    with pytest.raises(EvidenceRefused, match="2 signed statements hold"):
        attached_statements.find(store(run), image, known)
    assert attached_statements.find(store(run), image, known, second.evidence).statement == second.statement
    assert attached_statements.find(store(run), image, known, first.evidence).statement == first.statement
    with pytest.raises(EvidenceRefused, match="no signed statement with the digest"):
        attached_statements.find(store(run), image, known, OTHER)


def test_in_a_registry_without_the_referrers_api_the_tag_names_them(run: Path, service: Registry) -> None:
    image = build(run, BuildOptions(push=f"{service.host}/team/router:v1"))
    signing_tree.served(run, image)
    place = Repository(service.host, "team/router", push=True)
    done = sign(run, place, run / KEY)
    assert sign(run, place, run / KEY) == done._replace(added=())
    assert {"v1", image.image.replace(":", "-")} <= service.tags
    reading = Repository(service.host, "team/router")
    listed = {one.digest: one.model_extra or {} for one in reading.referrers(image.image)}
    assert set(done.added) < set(listed)
    (bundle,) = set(listed) - set(done.added)  # the statement once more, for other programs
    assert listed[bundle]["artifactType"] == sigstore.BUNDLE
    assert attached_statements.find(reading, image.image, trust.known(run)).digest == done.evidence
    assert artifact(reading, image.image, attached_statements.BILL) == artifact(
        place, image.image, attached_statements.BILL
    )
    assert reading.referrers(OTHER) == []


def test_skopeo_reads_the_artifacts_as_manifests(run: Path, service: Registry) -> None:
    image = build(run, BuildOptions(push=f"{service.host}/team/skopeo:v1"))
    signing_tree.served(run, image)
    done = sign(run, Repository(service.host, "team/skopeo", push=True), run / KEY)
    for one in done.added:
        name = f"docker://{service.host}/team/skopeo@{one}"
        shown = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", name], check=True, capture_output=True
        )
        assert json.loads(shown.stdout)["subject"]["digest"] == image.image
        assert digest.of_bytes(shown.stdout) == one


# -- weights


def _cli(root: Path, signature: bytes, public: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    path = root / ".lockstep" / "model.sig"
    path.write_bytes(signature)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    command += ["--signature", str(path), "--public_key", str(public)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_model_signing_agrees_with_the_signature_of_the_weights(signed: tuple[Path, Signed], run: Path) -> None:
    root = signed[0]
    signature = artifact(store(root), image_of(root).image, sigstore.BUNDLE)
    public = root / KEY.with_suffix(".pub")
    done = _cli(run, signature, public, run / layout.MERGED)
    assert (done.returncode, done.stderr) == (0, "")
    assert "succeeded" in done.stdout
    (run / layout.MERGED / "config.json").write_text("{}")
    assert "Hash mismatch for 'config.json'" in _cli(run, signature, public, run / layout.MERGED).stderr
    (run / layout.MERGED / "more").touch()
    assert "Extra files found" in _cli(run, signature, public, run / layout.MERGED).stderr
    another = key_verbs.new(run, "eve", ("release",), run / ".lockstep/keys/eve.key")
    assert _cli(run, signature, another.public, run / layout.MERGED).returncode == 1


def test_cosign_verifies_the_statement_of_the_image(signed: tuple[Path, Signed], run: Path, tmp_path: Path) -> None:
    root = signed[0]
    image = image_of(root).image
    manifest = (root / layout.IMAGE / "blobs" / image.replace(":", "/")).read_bytes()
    (tmp_path / "manifest.json").write_bytes(manifest)
    (tmp_path / "another.json").write_bytes(manifest + b" ")
    (tmp_path / "statement.json").write_bytes(artifact(store(root), image, ENVELOPE))

    def verify(key: Path, manifest: str) -> subprocess.CompletedProcess[str]:
        command = ["cosign", "verify-blob-attestation", "--insecure-ignore-tlog", "--type", PREDICATE]
        command += ["--key", str(key), "--signature", str(tmp_path / "statement.json"), str(tmp_path / manifest)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "Verified OK" in verify(root / KEY.with_suffix(".pub"), "manifest.json").stderr
    assert verify(root / KEY.with_suffix(".pub"), "another.json").returncode == 1
    eve = key_verbs.new(run, "eve", ("release",), run / ".lockstep/keys/eve.key").public
    assert verify(eve, "manifest.json").returncode == 1


def test_cosign_verifies_the_serving_report_as_a_file(finished: Path, tmp_path: Path) -> None:
    report = finished / layout.SERVING_REPORT
    (tmp_path / "another.json").write_bytes(report.read_bytes() + b" ")
    command = ["cosign", "verify-blob-attestation", "--insecure-ignore-tlog", "--type", VERIFICATION]
    command += [
        "--key",
        str(finished / KEY.with_suffix(".pub")),
        "--signature",
        str(finished / layout.SERVING_STATEMENT),
    ]
    right, wrong = (
        subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        for path in (report, tmp_path / "another.json")
    )
    assert "Verified OK" in right.stderr
    assert wrong.returncode == 1


def test_a_signature_that_model_signing_made_is_taken(run: Path) -> None:
    out = run / ".lockstep" / "theirs.sig"
    command = [sys.executable, "-m", "model_signing", "sign", "key", str(run / layout.MERGED)]
    subprocess.run(
        [*command, "--signature", str(out), "--private_key", str(run / KEY)], check=True, capture_output=True
    )
    verified = trust.verify(out.read_bytes(), trust.known(run), "release", "theirs")
    theirs, ours = json.loads(verified.payload), json.loads(weights.payload(weights.of_image(image_of(run)), "merged"))
    left_out = [one["predicate"]["serialization"].pop("ignore_paths") for one in (theirs, ours)]
    assert set(left_out[0]) >= set(left_out[1])
    assert theirs == ours


def _bundle(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit_(data: bytes) -> bytes:
        plain = json.loads(data)
        change(plain)
        return canonical_json(plain)

    return edit_


BUNDLES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("another media type", _bundle(lambda v: v.update(mediaType="x")), "is not a bundle"),
    ("no material", _bundle(lambda v: v.pop("verificationMaterial")), "is not a bundle"),
    ("no envelope", _bundle(lambda v: v.pop("dsseEnvelope")), "is not a bundle"),
    ("another payload", _bundle(lambda v: v["dsseEnvelope"].update(payload="e30=")), "not by ada"),
    ("no signature", _bundle(lambda v: v["dsseEnvelope"].update(signatures=[])), "has 0 signatures"),
    ("a certificate in place of the key", _bundle(lambda v: v.update(verificationMaterial={})), "none is known here"),
]


@pytest.mark.parametrize(("what", "tamper", "cause"), BUNDLES, ids=[what for what, _, _ in BUNDLES])
def test_a_tampered_signature_of_weights_is_refused(
    what: str, tamper: Callable[[bytes], bytes], cause: str, signed: tuple[Path, Signed]
) -> None:
    root = signed[0]
    image = image_of(root)
    data = artifact(store(root), image.image, sigstore.BUNDLE)
    wanted = weights.payload(weights.of_image(image), signed[1].statement.subject[0].name)
    assert weights.verify(data, wanted, trust.known(root)) == "ada"
    with pytest.raises(EvidenceRefused, match=cause):
        weights.verify(tamper(data), wanted, trust.known(root))
    with pytest.raises(EvidenceRefused, match="over other files"):
        weights.verify(data, weights.payload({"x": OTHER}, "m"), trust.known(root))


# -- the bill of materials


def _is_cyclonedx(data: bytes) -> bool:
    from cyclonedx.schema import SchemaVersion  # the schemas take seconds to load
    from cyclonedx.validation.json import JsonStrictValidator
    from jsonschema import Draft7Validator

    # With rfc3987-syntax jsonschema would do this itself, and each process that imports it would take two seconds.
    Draft7Validator.FORMAT_CHECKER.checks("iri-reference")(_is_address)
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None


def _is_address(text: object) -> bool:
    """Whether it is a reference as a URI has it, once its letters outside of ASCII are percent-encoded (RFC 3987, 3.1)."""
    encoded = "".join(letter if letter.isascii() else quote(letter) for letter in str(text))
    return bool(validate_rfc3986(encoded, rule="URI_reference"))


def test_the_bill_of_materials_fits_the_schema_and_has_a_model_card(signed: tuple[Path, Signed]) -> None:
    root, done = signed
    data = artifact(store(root), image_of(root).image, attached_statements.BILL)
    assert _is_cyclonedx(data)
    assert done.statement.predicate.sbom == digest.of_bytes(data)
    bill = json.loads(data)
    for address, fits in (("https://example.org/ключ", True), ("https://example.org/a b", False)):
        elsewhere = [{"type": "website", "url": address}]
        assert _is_cyclonedx(canonical_json(bill | {"externalReferences": elsewhere})) is fits
    model = bill["metadata"]["component"]
    assert (bill["specVersion"], model["type"]) == ("1.6", "machine-learning-model")
    parity = {path: value.removeprefix("sha256:") for path, value in weights.of_image(image_of(root)).items()}
    assert {one["name"]: one["hashes"][0]["content"] for one in model["components"]} == parity
    assert model["pedigree"]["ancestors"][0]["type"] == "machine-learning-model"
    assert {one["type"] for one in bill["components"]} == {"data"}
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    found = files.read_json(root / layout.EVALUATION, EvaluationReport).models["candidate"].metrics["exact-match"]
    assert metrics[0] == {
        "type": "exact-match",
        "value": str(found.value),
        "confidenceInterval": {"lowerBound": str(found.low), "upperBound": str(found.high)},
    }
    assert bill["metadata"]["tools"]["components"][0]["name"] == "lockstep"
    when = commits.committed_at(root, image_of(root).commit)
    assert bill["metadata"]["timestamp"] == when.isoformat()


def test_the_base_image_is_a_container_and_odd_names_fit_the_schema(finished: Path) -> None:
    from checks.formats.serving import BaseImage

    held, image = verdict_check.hold(Records(finished)), image_of(finished)
    base = BaseImage(
        name="registry.example/tgi:3@" + OTHER, index=None, manifest=OTHER, platform="linux/amd64", layers=1, size=2
    )
    fetch = held.evidence.reports.fetch
    assert fetch is not None
    object.__setattr__(fetch.base, "license", "llama3.1")
    object.__setattr__(fetch.data, "license", "MIT OR Apache-2.0")
    data = sbom.make(held, image.model_copy(update={"base": base}), commits.committed_at(finished, image.commit))
    assert _is_cyclonedx(data)
    assert [one["name"] for one in json.loads(data)["components"] if one["type"] == "container"] == [base.name]


def test_the_bill_of_materials_of_8_bits_names_the_16_bit_model(finished: Path) -> None:
    held, image = verdict_check.hold(Records(finished)), image_of(finished)
    exported = Exported(
        kind="int8", compressed_tensors="0.20.0", unquantised=OTHER, size=2, max_logprob_diff=0.1,
        mean_logprob_diff=0.01, top1=1.0,
    )  # fmt: skip
    parity = held.evidence.reports.parity
    assert parity is not None
    object.__setattr__(parity, "exported", exported)
    bill = json.loads(sbom.make(held, image, commits.committed_at(finished, image.commit)))
    notes = bill["metadata"]["component"]["pedigree"]["notes"]
    assert (
        notes == f"LoRA adapter {parity.adapter}, merged into the base, and that 16-bit model {OTHER} quantised to int8"
    )


def test_the_bill_of_materials_has_the_draft_with_its_licence(finished: Path) -> None:
    held, image = verdict_check.hold(Records(finished)), image_of(finished)
    parity, fetch = held.evidence.reports.parity, held.evidence.reports.fetch
    assert parity is not None
    assert fetch is not None
    object.__setattr__(parity, "draft", fetch.base.model_copy(update={"uri": "hf://team/small@1", "license": "MIT"}))
    data = sbom.make(held, image, commits.committed_at(finished, image.commit))
    assert _is_cyclonedx(data)
    parts = json.loads(data)["metadata"]["component"]["components"]
    (draft,) = [each for each in parts if each["bom-ref"] == "draft"]
    assert (draft["name"], draft["licenses"]) == ("hf://team/small@1", [{"license": {"id": "MIT"}}])


def test_the_bill_of_materials_is_the_same_in_another_process(finished: Path) -> None:
    text = (
        "import sys; from pathlib import Path; from release.adapters import commits; from release.record import verdict_check; from release.record.records import Records; from release.evidence import sbom; "
        "from checks.storage import files, layout; from checks.formats.serving import ImageReport; root = Path(sys.argv[1]); "
        "image = files.read_json(root / layout.IMAGE_REPORT, ImageReport); "
        "sys.stdout.buffer.write(sbom.make(verdict_check.hold(Records(root)), image, commits.committed_at(root, image.commit)))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", text, str(finished)], check=True, capture_output=True,
            env={"PYTHONHASHSEED": seed, "TZ": zone, "PATH": "/usr/bin:/bin"},
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert runs[0]


# -- what is not signed


def _change(path: Path, **change: object) -> Callable[[Path], object]:
    return lambda root: edit(root / path, **change)


def _unknown_key(root: Path) -> None:
    for path in (root / KEY, root / KEY.with_suffix(".pub")):
        path.unlink()
    key_verbs.new(root, "eve", ("release",))


def _approver_only(root: Path) -> None:
    path = root / layout.SIGNERS
    path.write_text(path.read_text().replace("release, ", ""))
    build_tree.commit(root, "fewer roles")


def _signers_not_committed(root: Path) -> None:
    _unknown_key(root)
    key_verbs.add_signer(root, "eve", ("release",))


def _no_signers(root: Path) -> None:
    (root / layout.SIGNERS).unlink()
    build_tree.commit(root, "no signers")


UNSIGNED: list[tuple[str, Callable[[Path], object], str]] = [
    ("no serving report", spoil.remove(layout.SERVING_REPORT), "serving.json"),
    (
        "a serving report that failed",
        spoil.edit_json(
            layout.SERVING_REPORT, lambda v: (v["checks"][3].update(status="fail"), v.update(status="fail"))
        ),
        "did not pass",
    ),
    ("a serving report of another model", _change(layout.SERVING_REPORT, model=OTHER), "about the model"),
    ("a serving report of another verdict", _change(layout.SERVING_REPORT, verdict=OTHER), "about the verdict"),
    ("a serving report of another image", _change(layout.SERVING_REPORT, image=OTHER), "about the image"),
    ("a serving report of other probes", _change(layout.SERVING_REPORT, probes=OTHER), "about the probes"),
    ("no image report", spoil.remove(layout.IMAGE_REPORT), "image.json"),
    ("an image report of another model", _change(layout.IMAGE_REPORT, model=OTHER), "about the model"),
    ("an image report of another verdict", _change(layout.IMAGE_REPORT, verdict=OTHER), "about the verdict"),
    ("an image report of another commit", _change(layout.IMAGE_REPORT, commit="0" * 40), "not in this clone"),
    ("an image report of other layers", spoil.edit_json(layout.IMAGE_REPORT, lambda v: v["layers"][0].update(digest=OTHER)), "has other layers"),
    (
        "an image report of other files",
        spoil.edit_json(
            layout.IMAGE_REPORT, lambda v: v["layers"][0]["files"].update(dict.fromkeys(v["layers"][0]["files"], OTHER))
        ),
        "not the files of the merged model",
    ),
    ("another verdict", _change(layout.VERDICT, policy=OTHER), "verdict does not hold"),
    ("no probes", spoil.remove(layout.PROBES), "probes.json"),
    ("an unknown key", _unknown_key, "this key is not in"),
    ("a key that may only approve", _approver_only, "may verify, approve and not release"),
    ("a signer that nobody committed", _signers_not_committed, "this key is not in"),
    ("no signers", _no_signers, "nobody may sign"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "tamper", "cause"), UNSIGNED, ids=[what for what, _, _ in UNSIGNED])
def test_what_does_not_hold_is_not_signed(what: str, tamper: Callable[[Path], object], cause: str, run: Path) -> None:
    tamper(run)
    with pytest.raises(EvidenceRefused) as caught:
        sign(run, store(run), run / KEY)
    assert cause in "\n".join((str(caught.value), *caught.value.others))
    image = json.loads((run / layout.IMAGE / "index.json").read_text())["manifests"]
    assert len(image) == 1


def test_a_verdict_that_fails_and_an_image_that_is_not_there_are_not_signed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RegistryRefused):
        sign(run, Layout(tmp_path / "elsewhere"), run / KEY)
    document = scaled_down()
    document["gates"]["routes_well"]["at_least"] = 0.99
    build_tree.make(tmp_path / "failed", document=document)
    key_verbs.new(tmp_path / "failed", "ada", ("release",))
    key_verbs.add_signer(tmp_path / "failed", "ada", ("release",))
    build_tree.commit(tmp_path / "failed", "signers")
    with pytest.raises(VerdictFailed):
        sign(tmp_path / "failed", store(run), tmp_path / "failed" / KEY)


def test_one_way_to_sign_is_named(run: Path) -> None:
    for key, keyless in ((None, False), (run / KEY, True)):
        with pytest.raises(EvidenceRefused, match="one of --key and --keyless"):
            sign(run, store(run), key, keyless=keyless)


# -- what is taken for evidence


def _attach(root: Path, data: bytes, to: str | None = None) -> None:
    place = store(root)
    with place.held():
        attach.attach(place, attach.subject(place, to or image_of(root).image), ENVELOPE, data, "release.json")


def test_evidence_of_another_image_does_not_count_here(run: Path) -> None:
    theirs = sign(run, store(run), run / KEY)
    build_tree.make(run.parent / "other", build_tree.shards(seed=2))
    other = build(run.parent / "other", BuildOptions()).image
    place = Layout(run.parent / "other" / layout.IMAGE)
    with place.held():
        attach.attach(place, attach.subject(place, other), ENVELOPE, theirs.envelope, "release.json")
    with pytest.raises(EvidenceRefused, match="is about the image") as caught:
        attached_statements.find(place, other, trust.known(run))
    assert "no signed statement holds" in str(caught.value)


def test_a_stranger_who_may_push_adds_nothing_and_takes_nothing_away(run: Path) -> None:
    done = sign(run, store(run), run / KEY)
    eve = keys.generate()
    image, known = image_of(run).image, trust.known(run)
    payload = dsse.verify(done.envelope, known, "release").payload
    approval = _approve(run, "production", image, "fine")
    for data in (dsse.sign(payload, PAYLOAD, eve), b"{}", approval, b"x" * (2 << 20)):
        _attach(run, data)
    assert attached_statements.find(store(run), image, known).digest == done.evidence
    others = "\n".join(attached_statements.search(store(run), image, known).others)
    for cause in ("unknown here", "not a DSSE envelope", "predicateType", "at most 1,048,576"):
        assert cause in others
    assert sign(run, store(run), run / KEY) == done._replace(added=())


def test_an_image_without_evidence_says_so(run: Path) -> None:
    with pytest.raises(EvidenceRefused, match="no signed statement holds or is there"):
        attached_statements.find(store(run), image_of(run).image, trust.known(run))


def test_a_signer_who_was_removed_counts_no_more(run: Path) -> None:
    sign(run, store(run), run / KEY)
    path = run / layout.SIGNERS
    made = key_verbs.new(run, "bob", ("verify", "release"), run / ".lockstep/keys/bob.key")
    path.write_text(made.entry)
    assert (
        attached_statements.find(store(run), image_of(run).image, trust.known(run)).signer == "ada"
    )  # not committed yet
    build_tree.commit(run, "bob in place of ada")
    with pytest.raises(EvidenceRefused, match="unknown here"):
        attached_statements.find(store(run), image_of(run).image, trust.known(run))
    with pytest.raises(EvidenceRefused, match=r"serving\.intoto\.json: is signed by key .* that is unknown here"):
        sign(run, store(run), run / ".lockstep/keys/bob.key")
    signing_tree.attest(run, Path(".lockstep/keys/bob.key"))
    assert len(sign(run, store(run), run / ".lockstep/keys/bob.key").added) == 3


# -- approvals


def _approve(root: Path, environment: str, image: str, why: str) -> bytes:
    """An approval that the key of ``root`` signed."""
    return trust.signatory(root / KEY, trust.known(root), "approve").sign(statement.approve(environment, image, why))


def _approved(data: bytes, known: Signers, environment: str, image: str) -> str:
    """Who signed an approval of the image for the environment."""
    verified = trust.verify(data, known, "approve", "the approval")
    statement.parse_approval(verified.payload, environment, image)
    return verified.signer


def test_an_approval_is_of_one_image_for_one_environment_by_who_may(run: Path) -> None:
    image = image_of(run).image
    data = _approve(run, "production", image, "soaked well")
    known = trust.known(run)
    assert _approved(data, known, "production", image) == "ada"
    with pytest.raises(EvidenceRefused, match="for 'production', not 'staging'"):
        _approved(data, known, "staging", image)
    with pytest.raises(EvidenceRefused, match="about another image"):
        _approved(data, known, "production", OTHER)
    release = sign(run, store(run), run / KEY).envelope
    with pytest.raises(EvidenceRefused, match="predicateType"):
        _approved(release, known, "production", image)
    only = tuple(Signer(name="ada", may=("release",), key=signer.key) for signer in known)
    with pytest.raises(EvidenceRefused, match="may release and not approve"):
        _approved(data, only, "production", image)
    for why in ("", "two\nlines", "x" * 501):
        with pytest.raises(EvidenceRefused, match="why"):
            _approve(run, "production", image, why)


def test_the_statement_type_is_what_the_contract_says(signed: tuple[Path, Signed]) -> None:
    assert isinstance(signed[1].statement, Statement)
    assert signed[1].statement.type == "https://in-toto.io/Statement/v1"
