"""What `lockstep verify` holds itself to before it starts anything: no torch, no server."""

import shutil
from pathlib import Path

import pytest

from checks.config.params import Params
from checks.formats.serving import ImageReport, Probe, ProbeReport, ProbeToken
from checks.formats.verdict import Verdict
from checks.process.errors import EvidenceRefused, Refusal, RegistryRefused, ServingRefused, VerdictFailed
from checks.records.rows import Prediction
from checks.storage import digest, files, layout
from release.image.layout import Layout
from release.serving import weights
from release.serving.expected import expected
from release.verbs.build import BuildOptions, build
from release.verbs.verify import VerifyOptions, verify
from tests import build_tree, evidence_tree, spoil
from tests.conftest import scaled_down
from tests.ledger_tree import packed

pytestmark = pytest.mark.slow


def probed(root: Path, params: Params, seed: int = 0) -> None:
    """Probes that are about the record in ``root``, of a model that nobody asks. ``seed``: another one answers otherwise."""
    verdict = files.read_json(root / layout.VERDICT, Verdict)
    token = ProbeToken(id=5 + 10 * seed, text=f"vm{seed or ''}", logprob=-0.1, runner_up=6, runner_up_logprob=-2.0)
    one = Probe(
        id="p", messages=evidence_tree.rows("valid", 1)[0].messages, prompt_tokens=(1, 2), tokens=(token,),
        ended=False, base_text="I can",
    )  # fmt: skip
    report = ProbeReport(
        merged=verdict.judged[layout.MERGED.as_posix()],
        base=verdict.judged[layout.BASE.as_posix()],
        valid=verdict.judged[(layout.SPLITS / "valid.jsonl").as_posix()],
        max_new_tokens=params.serve.probes.max_new_tokens,
        precision=params.serve.dtype,
        device="cpu",
        probes=(one,),
    )
    files.write_json(root / layout.PROBES, report)
    evidence_tree.recorded(root)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record whose verdict passes, its probes, and its image in an OCI layout. Read-only by custom."""
    root = tmp_path_factory.mktemp("verify") / "run"
    params = build_tree.make(root)
    probed(root, params)
    build_tree.commit(root, "probes")
    build(root, BuildOptions())
    return packed(root)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return shutil.copytree(finished, tmp_path / "run")


def test_evidence_that_holds_is_what_the_verdict_is_about(finished: Path) -> None:
    found = expected(finished, image=True)
    assert found.image is not None
    assert found.model == found.image.model == found.probes.merged
    assert found.path == found.image.path
    assert (found.image.base, found.mounted) == (None, f"/weights{found.path}")  # as the release mounts weights alone
    assert found._replace(image=None).mounted == found.path
    assert [row.id for row in found.rows] == [one.id for one in found.offline]
    assert found.verdict == digest.of_file(finished / layout.VERDICT).sha256


def test_weights_and_base_need_not_lie_here(run: Path) -> None:
    for folder in (layout.MERGED, layout.BASE, layout.ADAPTER, layout.RAW):
        shutil.rmtree(run / folder)
    assert expected(run, image=True).image is not None


def _swap_rows(root: Path) -> None:
    path = root / layout.PREDICTIONS / "candidate.jsonl"
    rows = files.read_jsonl(path, Prediction)
    files.write_jsonl(path, [rows[1], rows[0], *rows[2:]])


OTHER = "sha256:" + "0" * 64
TAMPERS: list[tuple[str, spoil.Spoil, str]] = [
    ("no probes", spoil.remove(layout.PROBES), "probes.json"),
    ("probes of another model", spoil.edit_json(layout.PROBES, lambda v: v.update(merged=OTHER)), "digest of the merged model"),
    ("probes beside another base", spoil.edit_json(layout.PROBES, lambda v: v.update(base=OTHER)), "digest of the base"),
    ("probes of other rows", spoil.edit_json(layout.PROBES, lambda v: v.update(valid=OTHER)), "digest of the valid split"),
    ("probes asked otherwise", spoil.edit_json(layout.PROBES, lambda v: v.update(precision="fp16")), "other settings"),
    ("no probe in the probes", spoil.edit_json(layout.PROBES, lambda v: v.update(probes=[])), "probes"),
    ("no image", spoil.remove(layout.IMAGE_REPORT), "image.json"),
    ("an image of another model", spoil.edit_json(layout.IMAGE_REPORT, lambda v: v.update(model=OTHER)), "digest of the model"),
    ("an image by another verdict", spoil.edit_json(layout.IMAGE_REPORT, lambda v: v.update(verdict=OTHER)), "of the verdict"),
    ("answers in another order", _swap_rows, "candidate.jsonl"),
    ("no verdict", spoil.remove(layout.VERDICT), "verdict.json"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "tamper", "word"), TAMPERS, ids=[what for what, _, _ in TAMPERS])
def test_evidence_about_anything_else_is_refused(what: str, tamper: spoil.Spoil, word: str, run: Path) -> None:
    tamper(run)
    if what.startswith("probes"):  # with a lock that agrees
        evidence_tree.recorded(run)
    with pytest.raises(Refusal) as caught:
        expected(run, image=True)
    assert isinstance(caught.value, EvidenceRefused)
    assert word in "\n".join((str(caught.value), *caught.value.others))


def test_a_verdict_that_failed_starts_no_server(tmp_path: Path) -> None:
    document = scaled_down()
    document["gates"]["routes_well"]["at_least"] = 0.99
    params = build_tree.make(tmp_path / "run", document=document)
    probed(tmp_path / "run", params)
    with pytest.raises(VerdictFailed):
        expected(tmp_path / "run", image=False)


def test_an_image_that_is_not_there_may_be_left_out_where_none_is_started(run: Path) -> None:
    (run / layout.IMAGE_REPORT).unlink()
    found = expected(run, image=False)
    assert found.image is None
    assert found.path.endswith(found.model.removeprefix("sha256:")[:12])


def _report(root: Path) -> ImageReport:
    return files.read_json(root / layout.IMAGE_REPORT, ImageReport)


def test_the_weights_come_out_of_the_image_as_they_went_in(finished: Path, tmp_path: Path) -> None:
    folder = weights.unpack(Layout(finished / layout.IMAGE), _report(finished), tmp_path / "home")
    assert folder == tmp_path / "home" / _report(finished).path.lstrip("/")
    assert digest.of_tree(folder).digest == _report(finished).model


@pytest.mark.parametrize("position", [0.1, 0.5, 0.95])
def test_a_damaged_layer_is_not_served(position: float, run: Path, tmp_path: Path) -> None:
    blob = run / layout.IMAGE / "blobs" / "sha256" / _report(run).layers[0].digest.removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[int(len(data) * position)] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises((RegistryRefused, EvidenceRefused)):
        weights.unpack(Layout(run / layout.IMAGE), _report(run), tmp_path / "home")


def test_a_report_of_other_files_or_ways_out_is_refused(run: Path, tmp_path: Path) -> None:
    report = _report(run)
    first = report.layers[0]
    name, there = next(iter(first.files.items()))
    cases = {
        "is not of it": first.model_copy(update={"files": {}}),
        "not the file of the report": first.model_copy(update={"files": first.files | {name: OTHER}}),
        "is not the file": first.model_copy(update={"files": first.files | {"more": there}}),
        "way out": first.model_copy(update={"files": first.files | {"../../out": there}}),
        "has no layer": first.model_copy(update={"digest": OTHER}),
    }
    for number, (word, layer) in enumerate(cases.items()):
        told = report.model_copy(update={"layers": (layer, *report.layers[1:])})
        with pytest.raises(EvidenceRefused, match=word):
            weights.unpack(Layout(run / layout.IMAGE), told, tmp_path / str(number))
    with pytest.raises(EvidenceRefused, match="way out"):
        weights.unpack(Layout(run / layout.IMAGE), report.model_copy(update={"path": "/../x"}), tmp_path / "path")
    fewer = report.model_copy(update={"layers": report.layers[1:]})
    with pytest.raises(EvidenceRefused, match="are not the model"):
        weights.unpack(Layout(run / layout.IMAGE), fewer, tmp_path / "fewer")
    assert not (tmp_path / "out").exists()


def test_a_server_that_does_not_answer_chats_with_tools_as_text_is_not_asked(run: Path) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    spoil.edit_json(layout.PROBES, lambda value: value["probes"][0].update(tools=[tool]))(run)
    evidence_tree.recorded(run)
    with pytest.raises(
        ServingRefused,
        match=r"probe p has tools, and tgi does not return such an answer .*; set serve\.runtime to vllm",
    ):
        verify(run, VerifyOptions(url="http://127.0.0.1:9", runtime="tgi"))
