"""What `lockstep build` refuses: evidence that does not hold, verdicts that do not pass, options that mean nothing."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.formats import placeholder_cards
from checks.formats.training_reports import ParityReport
from checks.process.errors import BuildRefused, EvidenceRefused, Refusal, VerdictFailed, VerdictInconclusive
from checks.storage import digest, files, layout
from checks.storage.digest import FileDigest
from release.image import weights
from release.verbs.build import BuildOptions, build
from tests import build_tree, spoil
from tests.build_tree import refused
from tests.conftest import as_params, scaled_down

pytestmark = pytest.mark.slow

pytest_plugins = ("tests.build_fixtures",)


# -- what is refused


SHARD = layout.MERGED / "model-00002-of-00003.safetensors"


def _swap(root: Path) -> None:
    one, other = root / SHARD, root / layout.MERGED / "model-00001-of-00003.safetensors"
    data = one.read_bytes()
    one.write_bytes(other.read_bytes()[:1] * len(data))


def _other_model_in_the_report(root: Path) -> None:
    """The files and their list are swapped, the digest of the whole is not."""
    merged = files.read_json(root / layout.PARITY_REPORT, ParityReport).merged
    build_tree.weigh(root, build_tree.shards(seed=2))
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    files.write_json(root / layout.PARITY_REPORT, report.model_copy(update={"merged": merged}))


def _judged_anew(root: Path) -> None:
    """Another model with a record that holds, which is not committed."""
    build_tree.weigh(root, build_tree.shards(seed=2))
    build_tree.forget(root)
    build_tree.judge(root, as_params(scaled_down()))


def _uncommitted(path: Path) -> Callable[[Path], None]:
    def drop(root: Path) -> None:
        (root / ".git" / "info" / "exclude").write_text(f"{path}\n")
        subprocess.run(["git", "rm", "--quiet", "--cached", str(path)], cwd=root, check=True)
        build_tree.commit(root, "without it")

    return drop


def _placeholder(root: Path) -> None:
    (root / placeholder_cards.DATA).parent.mkdir(parents=True)
    (root / placeholder_cards.DATA).write_text(
        "A row is a ticket.\n" + placeholder_cards.PLACEHOLDERS[placeholder_cards.DATA]
    )
    (root / layout.PARAMS).open("a").write("# ours\n")
    build_tree.commit(root, "of init")


def _without_history(root: Path) -> None:
    shutil.rmtree(root / ".git")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


def _hidden_change(root: Path) -> None:
    """A change of the record that git's index is told to overlook."""
    subprocess.run(["git", "update-index", "--assume-unchanged", str(layout.PARAMS)], cwd=root, check=True)
    spoil.replace(layout.PARAMS, "source: null", "source: https://example.invalid/other")(root)


# What makes a verdict not hold is tested in tests/release/verbs/test_gate.py.
TAMPERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a swapped shard": (_swap, "model-00002-of-00003.safetensors: is not the file that the verdict is about"),
    "one bit of the tokenizer": (spoil.flip(layout.MERGED / "tokenizer.json"), "tokenizer.json: is not the file"),
    "a shorter shard": (lambda r: os.truncate(r / SHARD, 10), "has 10 bytes, the verdict is about 5001"),
    "a file more": (lambda r: (r / layout.MERGED / "args.safetensors").write_bytes(b"x"), "args.safetensors: is not of the model"),
    "a hidden file more": (lambda r: (r / layout.MERGED / ".x").write_bytes(b"x"), "[.]x: is not of the model"),
    "a file less": (spoil.remove(SHARD), "model-00002-of-00003.safetensors: is missing"),
    "no weights": (spoil.remove(layout.MERGED), "not a directory"),
    "a link": (spoil.link(SHARD), "is a symbolic link"),
    "a linked folder": (spoil.link(layout.MERGED), "not a directory"),
    "a pipe": (spoil.pipe(SHARD), "not a regular file"),
    "an empty folder more": (lambda r: (r / layout.MERGED / "x").symlink_to("."), "is a symbolic link"),
    "a changed verdict": (spoil.replace(layout.VERDICT, '"status": "pass"', '"status": "fail"'), "the verdict does not hold"),
    "another model": (lambda r: build_tree.weigh(r, build_tree.shards(seed=2)), "the verdict does not hold"),
    "another model under the digest": (_other_model_in_the_report, "the verdict does not hold"),
    "another model, judged and not committed": (_judged_anew, "is not committed in its current state"),
    "a changed parameter of the image": (
        spoil.replace(layout.PARAMS, "name: azure-cli-router", "name: other"), "params.yaml: is not committed in its current state",
    ),
    "a change that git overlooks": (_hidden_change, "params.yaml: is not committed in its current state"),
    "a pipeline that is not committed": (spoil.replace(layout.PIPELINE, "\n", "\n# changed\n"), "dvc.yaml: is not committed"),
    "a report that git does not have": (_uncommitted(layout.PARITY_REPORT), "parity.json: is not committed"),
    "a verdict that git does not have": (_uncommitted(layout.VERDICT), "verdict.json: is not committed"),
    "no git": (lambda r: shutil.rmtree(r / ".git"), "is not a git repository|has no commit"),
    "cards that are placeholders": (_placeholder, r"docs/cards/data.md:2: is a placeholder of `lockstep init`"),
    "no commit": (_without_history, "no commit"),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "word"), TAMPERS.values(), ids=TAMPERS)
def test_a_record_that_does_not_hold_is_refused_in_one_line_and_nothing_is_written(
    root: Path, tamper: Callable[[Path], object], word: str
) -> None:
    tamper(root)
    refused(root, BuildOptions(), EvidenceRefused, word)


def test_a_record_of_code_that_git_never_had_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_tree.ran_ignored_code(root, monkeypatch)
    build_tree.commit(root, "a lock that names it")
    refused(root, BuildOptions(), EvidenceRefused, "gate ran other code than this commit has")


def test_what_is_not_shipped_need_not_be_here(root: Path) -> None:
    expected = build(root, BuildOptions())
    for folder in (layout.BASE, layout.ADAPTER, layout.RAW, layout.IMAGE):
        shutil.rmtree(root / folder)
    assert build(root, BuildOptions()) == expected


def test_a_verdict_that_does_not_pass_is_refused_by_its_own_code(tmp_path: Path) -> None:
    cases = {"fail": ({"at_least": 0.99}, VerdictFailed), "unsure": ({"resolution": 0.1}, VerdictInconclusive)}
    for name, (change, kind) in cases.items():
        document = scaled_down()
        document["gates"]["routes_well"] |= change
        document["validate"]["min_rows"]["test"] = 400
        build_tree.make(tmp_path / name, document=document)
        refused(tmp_path / name, BuildOptions(), kind, "^verdict ")


def test_a_shallow_clone_is_refused(root: Path, tmp_path: Path) -> None:
    (root / "more").write_text("x")
    build_tree.commit(root, "more")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", f"file://{root}", clone], check=True)
    for folder in ("models", "data"):
        shutil.copytree(root / folder, clone / folder)
    refused(clone, BuildOptions(), EvidenceRefused, "the clone is shallow.*fetch --unshallow")


@pytest.mark.parametrize("name", [".wh.config.json", "sub/.wh..wh..opq", "a\u200bb"])
def test_a_file_that_would_be_another_one_in_the_image_is_refused(root: Path, name: str) -> None:
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    named = {**report.files, name: report.files["config.json"]}
    described = {path: FileDigest(file.sha256, file.size) for path, file in named.items()}
    model = digest.of_manifest(described)
    with pytest.raises(BuildRefused, match="cannot be the name of a file in an image") as refused:
        weights.layers(root / layout.MERGED, described, model, "name")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["../up.json", "/abs.json", "a//b", "a\\b", "a\nb", "a\ud800b"])
def test_a_file_that_no_tree_can_name_is_refused_before_it_is_in_an_image(root: Path, name: str) -> None:
    report = files.read_json(root / layout.PARITY_REPORT, ParityReport)
    described = {path: FileDigest(file.sha256, file.size) for path, file in report.files.items()}
    config = described["config.json"]
    with pytest.raises(EvidenceRefused, match="cannot be written in a manifest") as refused:
        weights.layers(root / layout.MERGED, described | {name: config}, digest.of_manifest(described), "name")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (BuildOptions(runtime="nginx"), "is not a runtime"),
        (BuildOptions(runtime="../tgi"), "is not a runtime"),
        (BuildOptions(push="oci:folder"), "is not HOST/NAME of a registry"),
        (BuildOptions(push="ghcr.io/o/n@sha256:" + "0" * 64), "is not HOST/NAME of a registry"),
        (BuildOptions(push="GHCR.io/O/n"), "is no reference"),
        (BuildOptions(push="ghcr.io/o/n", output=Path("x")), "give one of --push and --output"),
    ],
)
def test_an_option_that_means_nothing_is_refused(root: Path, options: BuildOptions, word: str) -> None:
    refused(root, options, Refusal, word)


def test_an_output_folder_that_is_none_of_ours_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    refused(root, BuildOptions(output=tmp_path / "full"), BuildRefused, "is not an OCI layout")
    (tmp_path / "file").write_text("mine")
    refused(root, BuildOptions(output=tmp_path / "file"), Refusal, "Not a directory|File exists")
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.txt"]
