"""The same record is the same image everywhere; killed at any time, the old image or the new one is there."""

import functools
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.storage import layout
from release.image import tar
from release.verbs.build import BuildOptions, build, write_down
from tests import build_tree, oci_check, programs
from tests.build_tree import BaseLayout, built_image, merged_files, needed
from tests.conftest import REPOSITORY, as_params, scaled_down
from tests.registry_service import registry

pytestmark = pytest.mark.slow

pytest_plugins = ("tests.build_fixtures",)


# -- the same record, the same image


def test_later_commits_that_do_not_touch_the_record_change_nothing(root: Path) -> None:
    report = build(root, BuildOptions())
    (root / "README.md").write_text("read me")
    build_tree.commit(root, "the image report and a README")
    assert build(root, BuildOptions()) == report


def test_a_merged_branch_is_the_same_image(root: Path) -> None:
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@e.invalid"]
    first = subprocess.run(
        ["git", "branch", "--show-current"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
    build_tree.forget(root)
    subprocess.run(["git", "switch", "--quiet", "--create", "work"], cwd=root, check=True)
    build_tree.weigh(root, build_tree.shards(seed=3))
    build_tree.judge(root, as_params(scaled_down()))
    build_tree.commit(root, "another model")
    report = build(root, BuildOptions())
    subprocess.run(["git", "clean", "-qfd", "reports"], cwd=root, check=True)
    subprocess.run(["git", "switch", "--quiet", first], cwd=root, check=True)
    (root / "README.md").write_text("main went on")
    build_tree.commit(root, "main went on")
    subprocess.run([*git, "merge", "--quiet", "--no-ff", "-m", "merge", "work"], cwd=root, check=True)
    assert build(root, BuildOptions()) == report


def test_a_second_adapter_on_one_base_brings_no_blob_of_the_base(tmp_path: Path) -> None:
    """What a registry is sent for the second release: the adapter, configuration and tokenizer, and the documents."""
    document = scaled_down()
    document["merge"]["form"] = "adapter"
    document["serve"] |= {"runtime": "vllm", "adapter": {"max_rank": 16}}
    root, params = tmp_path / "root", as_params(document)

    def adapter(byte: bytes) -> dict[str, bytes]:
        weights = {"adapter/adapter_model.safetensors": byte * 700, "adapter/adapter_config.json": b'{"r": 4}'}
        return build_tree.shards() | weights

    build_tree.make(root, adapter(b"a"), document)
    first = build(root, BuildOptions())
    build_tree.forget(root)
    build_tree.weigh(root, adapter(b"b"))
    build_tree.judge(root, params)
    build_tree.commit(root, "another adapter")
    second = build(root, BuildOptions())
    assert first.path != second.path
    common = {layer.digest for layer in first.layers} & {layer.digest for layer in second.layers}
    of_base = {layer.digest for layer in second.layers for name in layer.files if name.startswith("model-")}
    assert common == of_base
    assert len(of_base) == 3
    own = [[*layer.files] for layer in second.layers if layer.digest not in common]
    assert own[0] == ["adapter/adapter_model.safetensors"]
    assert "adapter/adapter_config.json" in own[1]
    assert len(own) == 2


def pushed(tmp_path: Path, form: str, model: int, adapter: int) -> list[int]:
    """Push three releases of a model of so many bytes. Return the bytes that each adds to the registry."""
    document = scaled_down()
    document["merge"]["form"] = form
    document["serve"] |= {"runtime": "vllm", "adapter": {"max_rank": 16}} if form == "adapter" else {"runtime": "vllm"}
    root, params = tmp_path / form, as_params(document)

    def files(seed: int) -> dict[str, bytes]:
        if form == "merged":
            return build_tree.shards(size=model // 3, seed=seed)
        weights = random.Random(seed).randbytes(adapter)
        beside = {"adapter/adapter_model.safetensors": weights, "adapter/adapter_config.json": b'{"r": 4}'}
        return build_tree.shards(size=model // 3) | beside

    stored = [0]
    with registry(tmp_path / f"registry of {form}") as running:
        for seed in range(3):
            if seed:
                build_tree.forget(root)
                build_tree.weigh(root, files(seed))
                build_tree.judge(root, params)
                build_tree.commit(root, f"release {seed}")
            else:
                build_tree.make(root, files(seed), document)
            build(root, BuildOptions(push=f"{running.host}/team/router"))
            stored.append(sum(map(len, running.stored.values())))
    return [after - before for before, after in itertools.pairwise(stored)]


def test_a_registry_gets_the_base_of_its_adapters_once_and_each_merged_model_whole(tmp_path: Path) -> None:
    programs.require("docker-registry")
    model, adapter, documents = 9_000_000, 1_000_000, 100_000
    first, *later = pushed(tmp_path, "adapter", model, adapter)
    assert model + adapter < first < model + adapter + documents
    assert all(adapter < size < adapter + documents for size in later)
    assert all(model < size < model + documents for size in pushed(tmp_path, "merged", model, adapter))


SCRIPT = """
import os, sys
os.umask(int(sys.argv[2], 8))
from pathlib import Path
from release.verbs.build import BuildOptions, build
print(build(Path(sys.argv[1]), BuildOptions(base=sys.argv[3])).image)
"""


@pytest.mark.parametrize(
    ("umask", "env"),
    [
        ("0077", {"TZ": "Pacific/Kiritimati", "LANG": "C", "LC_ALL": "C", "PYTHONHASHSEED": "1"}),
        ("0000", {"TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "2", "PYTHONUTF8": "0"}),
    ],
)
def test_another_machine_user_and_folder_make_the_same_image(
    root: Path, base: BaseLayout, tmp_path: Path, umask: str, env: dict[str, str]
) -> None:
    """A clone elsewhere, files made in another order with other times and modes, another zone, locale, home, umask."""
    entry = base.image()
    expected = build(root, BuildOptions(base=base.pinned(entry))).image
    clone = tmp_path / "a folder with ünïcode" / "deeper"
    subprocess.run(["git", "clone", "--quiet", root, clone], check=True)
    shutil.copytree(root / "data", clone / "data")
    for name, data in reversed(merged_files(root).items()):
        path = clone / layout.MERGED / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o400)
        os.utime(path, (1, 1))
    (clone / layout.MERGED).chmod(0o700)
    elsewhere = shutil.copytree(base.folder, tmp_path / "elsewhere")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[log]\nshowSignature = true\ndate = relative\n[core]\nquotePath = true\nautocrlf = input\n[safe]\ndirectory = *\n"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPOSITORY), **env}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(clone), umask, f"oci:{elsewhere}@{entry['digest']}"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == expected, done.stderr
    assert oci_check.only(clone / layout.IMAGE).digest == expected


# -- killed, and two at once


def _forked(action: Callable[[], object]) -> int:
    """Start ``action`` in a process of its own; return its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def _ended(child: int) -> int:
    """How a process ended: 0 for well, -9 for killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _killing(point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End this process by SIGKILL at the so many-th time that bytes are read, written to the disk, or get a name."""
    count = 0

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == point:
                os.kill(os.getpid(), 9)
            return inner(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(tar, "_read", counted(tar._read))


def test_killed_at_any_point_the_old_image_is_whole_and_the_next_build_ends_well(
    root: Path, base: BaseLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = base.image(layers=1), base.image(layers=2, settings={"WorkingDir": "/new"})
    first = build(root, BuildOptions(base=base.pinned(old))).image
    second = build(root, BuildOptions(base=base.pinned(new), output=root / "second")).image
    target, kept = root / layout.IMAGE, shutil.copytree(root / layout.STATE, root / "kept")
    seen = set()
    options = BuildOptions(base=base.pinned(new))
    recipe = write_down(root, options)  # the evidence is held once: this is about what is written
    monkeypatch.setattr("release.verbs.build.write_down", lambda *_: recipe)
    for point in range(1, 1000):
        shutil.rmtree(root / layout.STATE)
        shutil.copytree(kept, root / layout.STATE)
        (root / layout.LAYERS).unlink()  # so that layers are read, too

        def killed(point: int = point) -> None:
            _killing(point, monkeypatch)
            build(root, options)

        ended = _ended(_forked(killed))
        # Whatever the index names is whole: the old image, the new one, or both for a moment.
        seen.add(frozenset(image.digest for image in oci_check.check(target).values()))
        if ended == 0:
            break
        assert ended == -9
        assert build(root, options).image == second
        assert oci_check.only(target).digest == second
        assert oci_check.blobs(target) == needed(oci_check.only(target))
        assert not list(target.glob(".*"))
    assert point > 15
    assert {frozenset({first}), frozenset({second})} <= seen


def test_two_builders_at_once_leave_one_whole_image(root: Path, base: BaseLayout) -> None:
    entries = [base.pinned(base.image(layers=n)) for n in (1, 2, 3)]
    children = [_forked(functools.partial(build, root, BuildOptions(base=entry))) for entry in entries]
    assert [_ended(child) for child in children] == [0, 0, 0]
    image = built_image(root)
    assert oci_check.blobs(root / layout.IMAGE) == needed(image)
