"""A run on a cluster: the record and the outputs come back by DVC's remote, and the cluster ends; with a stand-in for `sky`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from checks.formats.refused import Refused
from checks.formats.training_reports import TrainReport
from checks.process.errors import EvidenceRefused, MachineRefused, ParamsRefused, RemoteRefused
from checks.storage import digest, files, layout
from release.adapters import dvc, skypilot
from release.record import hand_over
from release.record.hand_over import HandOver
from release.record.records import Records
from release.verbs import run
from tests import pipeline_repository as repository
from tests import sky_standin
from tests.conftest import REPOSITORY, scaled_down
from tests.release.adapters.test_children import alive, interruptible, until

TASK = Path("docs/clusters/launcher.yaml")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cloud of the stand-in, which is on the path."""
    for name, value in sky_standin.install(tmp_path / "sky").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SKYPILOT_API_SERVER_ENDPOINT", "")  # as a workflow sets it where the variable is missing
    return tmp_path / "sky" / "cloud"


def task(root: Path, **changed: object) -> Path:
    """A task in ``root``; its path from there."""
    value = {"workdir": ".", "envs": {"LOCKSTEP_JOB": None}, "run": "true"} | changed
    (root / "task.yaml").write_text(yaml.safe_dump(value))
    return Path("task.yaml")


def login(store: Path) -> str:
    """A configuration of DVC with a folder as its remote."""
    return f"[core]\n    remote = store\n['remote \"store\"']\n    url = {store}\n"


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"secrets": {"TOKEN": "hunter2"}}, ParamsRefused, "task.yaml: secrets.TOKEN: has a value in the file; leave it empty"),
        ({"secrets": {"TOKEN": None}}, MachineRefused, "task.yaml: secrets.TOKEN: the environment has no TOKEN; set it: export TOKEN=…"),
        ({"envs": {"TOKEN": None}}, MachineRefused, "task.yaml: envs.TOKEN: the environment has no TOKEN"),
    ],
)  # fmt: skip
def test_a_task_without_its_variables_or_with_a_secret_in_it_starts_no_cluster(
    tmp_path: Path, sky: Path, changed: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as refusal:
        skypilot.run(tmp_path, task(tmp_path, **changed), "one", {"LOCKSTEP_JOB": "one"})
    assert message in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    assert not (sky / "asked").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file or directory; name a task"), ("a: [", "is no YAML; name a task"), ("- a", "is no task of SkyPilot")],
)  # fmt: skip
def test_what_is_no_task_is_refused(tmp_path: Path, sky: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(ParamsRefused, match=message):
        skypilot.run(tmp_path, Path("task.yaml"), "one", {})


def test_without_skypilot_the_refusal_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineRefused, match="sky is not installed; install it beside Lockstep: pipx install"):
        skypilot.run(tmp_path, TASK, "one", {})


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository that the stand-in can sync: its cloud lies elsewhere."""
    root = tmp_path / "root"
    root.mkdir()
    repository.git(root, "init", "--quiet")
    return root


@pytest.mark.slow
def test_a_cluster_ends_with_a_job_that_fails(clone: Path, sky: Path) -> None:
    assert skypilot.run(clone, task(clone, run="exit 3"), "one", {"LOCKSTEP_JOB": "one"}) == 100
    assert (sky / "asked").read_text().splitlines()[-1] == "down --yes one"
    assert not (sky / "one").exists()


@pytest.mark.slow
def test_a_cluster_that_may_still_run_is_named(clone: Path, sky: Path) -> None:
    (sky / "down-fails").touch()
    with pytest.raises(MachineRefused, match="cluster one: sky down ended with 1, so it may still run and cost money"):
        skypilot.run(clone, task(clone), "one", {"LOCKSTEP_JOB": "one"})


PROGRAM = """
from pathlib import Path
from release.adapters import skypilot
skypilot.run(Path(), Path("task.yaml"), "one", {"LOCKSTEP_JOB": "one"})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_ends_the_cluster_and_what_runs_on_it(
    tmp_path: Path, clone: Path, sky: Path, number: int, code: int
) -> None:
    task(clone, run=f"echo $$ > {tmp_path}/job; exec sleep 300")
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=clone, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=interruptible,
    )  # fmt: skip
    until(lambda: (tmp_path / "job").exists() and (tmp_path / "job").read_text().strip() != "")
    # A service manager or a runner signals one process, a terminal all of them.
    (os.kill if number == signal.SIGTERM else os.killpg)(running.pid, number)
    assert running.wait(60) == code
    assert (sky / "asked").read_text().splitlines()[-1] == "down --yes one"
    assert not (sky / "one").exists()
    job = int((tmp_path / "job").read_text())
    until(lambda: not alive(job))


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A folder with dvc.yaml and the files of a record."""
    root = tmp_path / "made"
    (root / layout.REPORTS).mkdir(parents=True)
    shutil.copy(REPOSITORY / layout.PIPELINE, root)
    (root / layout.LOCK).write_text("schema: '2.0'\n")
    (root / layout.TRAIN_REPORT).write_text("{}")
    return root


def test_a_record_is_handed_over_with_the_refusal_of_a_stage(record: Path, tmp_path: Path) -> None:
    word = Refused(stage="train", exit_code=5, what="the loss is nan", todo="lower it")
    (record / layout.REPORTS / "of-nobody.json").touch()
    hand_over.pack(Records(record).work_tree, tmp_path, COMMIT, word)
    (record / layout.LOCK).unlink()
    found = hand_over.unpack(Records(record).work_tree, tmp_path, COMMIT)
    assert found is not None
    assert found.refused == word
    assert (record / layout.LOCK).read_text() == "schema: '2.0'\n"
    with tarfile.open(tmp_path / "record.tar") as tar:
        assert tar.getnames() == ["dvc.lock", "reports/train.json"]


def of_another_commit(folder: Path) -> None:
    manifest = files.read_json(folder / "manifest.json", HandOver)
    files.write_json(folder / "manifest.json", manifest.model_copy(update={"commit": "f" * 40}))


def cut(folder: Path) -> None:
    (folder / "record.tar").write_bytes((folder / "record.tar").read_bytes()[:-512])


def archived(folder: Path, path: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(folder / "record.tar", "w") as tar:
        member = tarfile.TarInfo(path)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    sealed(folder)


def sealed(folder: Path) -> None:
    manifest = files.read_json(folder / "manifest.json", HandOver)
    now = digest.of_file(folder / "record.tar").sha256
    files.write_json(folder / "manifest.json", manifest.model_copy(update={"archive": now}))


def no_map(folder: Path) -> None:
    with tarfile.open(folder / "record.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("dvc.lock")
        member.pax_headers = {"GNU.sparse.map": "a"}
        tar.addfile(member)
    sealed(folder)


def no_archive(folder: Path) -> None:
    (folder / "record.tar").write_bytes(b"what is this")
    sealed(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_another_commit, "the record that was handed over is of commit ffffffffffff, and this is 0123456789ab"),
        (cut, "record.tar: is not the archive that its manifest names"),
        (lambda folder: archived(folder, "stages/train.py"), r"record\.tar: stages/train\.py is not part of a record"),
        (lambda folder: archived(folder, "../dvc.lock"), r"record\.tar: \.\./dvc\.lock is not part of a record"),
        (lambda folder: archived(folder, "dvc.lock", tarfile.SYMTYPE), r"record\.tar: dvc\.lock is not part of a record"),
        (no_archive, "record.tar: "),
        (no_map, "record.tar: invalid literal"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), r"manifest\.json: commit: "),
    ],
)  # fmt: skip
def test_a_record_of_something_else_is_refused_and_writes_nothing(
    record: Path, tmp_path: Path, spoil: object, message: str
) -> None:
    hand_over.pack(Records(record).work_tree, tmp_path, COMMIT, None)
    assert callable(spoil)
    spoil(tmp_path)
    (record / layout.LOCK).write_text("mine\n")
    with pytest.raises(EvidenceRefused, match=message) as refusal:
        hand_over.unpack(Records(record).work_tree, tmp_path, COMMIT)
    assert "\n" not in str(refusal.value)
    assert (record / layout.LOCK).read_text() == "mine\n"


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineRefused, match=r"has no \.git folder with a commit; run it at the top of a clone"):
        run.launch(tmp_path, TASK, ())


def test_a_job_is_named_by_its_launcher(tmp_path: Path) -> None:
    with pytest.raises(ParamsRefused, match=r"--hand-over '\.\./x': is no name of a job"):
        run.hand_over(tmp_path, "../x", ())


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_a_job_without_a_record_is_refused(
    clone: Path, tmp_path: Path, sky: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for path in (layout.PARAMS, layout.PIPELINE):
        shutil.copy(REPOSITORY / path, clone)
    (clone / ".dvc").mkdir()
    (clone / ".dvc" / "config").write_text(login(tmp_path / "store"))
    task(clone, run="exit 3")
    repository.commit(clone, "a task")
    with pytest.raises(
        MachineRefused, match="sky launch ended with 100: the job failed, was preempted or ran out of time"
    ):
        run.launch(clone, Path("task.yaml"), ())
    assert [path.name for path in sky.iterdir()] == ["asked"]


@pytest.mark.slow
@pytest.mark.usefixtures("forking")
def test_a_run_on_a_cluster_is_taken_from_the_remote(tmp_path: Path, tiny_base: Path, sky: Path) -> None:
    root, store = tmp_path / "root", tmp_path / "store"
    root.mkdir()
    repository.make(root, tiny_base, scaled_down(), repository.table())
    text = (REPOSITORY / TASK).read_text().replace("./lockstep", f"{sys.executable} -m release.cli")
    (root / "task.yaml").write_text(text)
    repository.commit(root, "a task")
    (root / ".dvc" / "config.local").write_text(login(store))
    env = repository.environment(LOCKSTEP_LAUNCHER="task.yaml", DVC_CONFIG_LOCAL=login(store))
    command = [sys.executable, "-m", "release.cli", "run", "fetch"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "✓ fetch" in done.stderr, "the job's log is shown"
    assert re.search(r"^  ✓ hand-over {3}\d:\d\d  took the record of ", done.stderr, re.MULTILINE)
    assert {path.name for path in (root / layout.BASE).iterdir()} == {path.name for path in tiny_base.iterdir()}
    assert repository.git(root, "status", "--porcelain").split()[1::2] == [
        "code.lock",
        "dvc.lock",
        "reports/fetch.json",
    ]
    launched, ended = (sky / "asked").read_text().splitlines()
    assert "url" not in launched
    assert ended.split()[-1] in launched
    assert [path.name for path in sky.iterdir()] == ["asked"]
    assert not list((store / "lockstep" / "jobs").glob("*"))

    # The store loses what the record names, and what lies here is changed.
    shutil.rmtree(root / layout.BASE)
    shutil.rmtree(root / ".dvc" / "cache")
    shutil.rmtree(store / "files")
    with pytest.raises(RemoteRefused, match="the DVC remote does not have what the record names"):
        run._take_outputs(root, ("fetch",))
    text = (root / layout.PARAMS).read_text()
    (root / layout.PARAMS).write_text(re.sub("license: .*", "license: MIT", text, count=1))
    assert "params.yaml" in (dvc.stale(root, ("fetch",)) or "")


def test_what_is_not_of_the_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "dvc", lambda *_, **__: 0)
    monkeypatch.setattr(dvc, "stale", lambda *_: '{"train": []}')
    with pytest.raises(EvidenceRefused, match=r"the record is not of what lies here: .*train"):
        run._take_outputs(tmp_path, ())


def test_an_adapter_that_is_not_the_jobs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dvc, "dvc", lambda *_, **__: 0)
    monkeypatch.setattr(dvc, "stale", lambda *_: None)
    shutil.copytree(REPOSITORY / layout.REPORTS, tmp_path / layout.REPORTS)
    (tmp_path / layout.ADAPTER).mkdir(parents=True)
    (tmp_path / layout.ADAPTER / "adapter_model.safetensors").write_bytes(b"others")
    named = files.read_json(tmp_path / layout.TRAIN_REPORT, TrainReport).adapter
    with pytest.raises(EvidenceRefused, match=f"models/adapter: is sha256:.*, and reports/train.json names {named}"):
        run._take_outputs(tmp_path, ())
