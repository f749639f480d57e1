"""MLflow held to git: real stores (SQLite, a server), changed by MLflow's own client; and servers that go wrong."""

import contextlib
import os
import re
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release.mirrors import compare, mlflow, mlmodel, worker
from release.mirrors.compare import ReleasedVersion, WantedModel
from release.mirrors.mlflow_client import ModelRegistry
from release.mirrors.types import MirrorFinding, MirrorUnavailable
from release.mirrors.worker import agree
from tests import browser
from tests import mlflow_service as service
from tests.effort import EXHAUSTIVE
from tests.mlflow_service import Fault
from tests.ports import unused_port

pytestmark = pytest.mark.slow

tables = service.tables
RUN, OTHER_RUN = "a" * 32, "b" * 32


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory, tables: Path) -> Iterator[tuple[str, Path]]:
    """A server for all tests: each has a model of its own."""
    folder = tmp_path_factory.mktemp("server")
    with service.server(folder, tables) as uri:
        yield uri, folder / "mlflow.db"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, tables: Path) -> tuple[str, Path]:
    """A store's URI, and the file behind it: a SQLite file, or a server for the tests of ``STORES``."""
    if getattr(request, "param", "sqlite") == "server":
        found: tuple[str, Path] = request.getfixturevalue("tracking")
        return found
    path = tmp_path / "mlflow.db"
    shutil.copyfile(tables, path)
    return f"sqlite:///{path}", path


# MLflow's client is the same for both, so only what a server does by itself is tested with both.
STORES = pytest.mark.parametrize("place", ["sqlite", "server"], indirect=True)


@pytest.fixture
def store(place: tuple[str, Path]) -> ModelRegistry:
    return ModelRegistry(place[0])


@pytest.fixture
def client(place: tuple[str, Path]) -> Any:
    return service.client(place[0])


def released(label: str, version: str, run: str | None = None) -> ReleasedVersion:
    tags = {"lockstep.version": version, "lockstep.model": f"sha256:{label * 64}", "lockstep.raw": f"sha256:{'9' * 64}"}
    return ReleasedVersion(
        version=version, source=f"oci://registry.example/team/router@sha256:{label * 64}", run=run, tags=tags
    )


A, B, NEVER = released("a", "v0.1.0", RUN), released("b", "v0.2.0"), released("c", "v9.9.9")
_names = iter(f"router-{number}" for number in range(10_000))


def wanted(*releases: ReleasedVersion, whole: bool = True, **aliases: ReleasedVersion | None) -> WantedModel:
    sources = {name: release.source if release else None for name, release in aliases.items()}
    return WantedModel(name=next(_names), releases=releases, aliases=sources, whole=whole)


def both() -> WantedModel:
    return wanted(A, B, staging=B, production=A, champion=A)


def shown(client: Any, name: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Aliases by the versions that they are at, and the tags of every version, as others see them."""
    versions = {str(each.version): each for each in client.search_model_versions(f"name='{name}'")}
    aliases = client.get_registered_model(name).aliases
    told = {alias: versions[str(number)].tags.get("lockstep.version", "") for alias, number in aliases.items()}
    return told, [dict(versions[number].tags) for number in sorted(versions, key=int)]


@STORES
def test_a_new_model_gets_its_versions_their_lineage_and_the_aliases(store: ModelRegistry, client: Any) -> None:
    asked = both()
    (found,) = agree(store, asked, False)
    assert (found.what, found.git, found.mirror) == (f"registered model {asked.name}", "2 versions", "no such model")
    assert store.read(asked.name) is None, "comparing writes nothing"
    assert [finding.fixed for finding in agree(store, asked, True)] == [True]
    aliases, tags = shown(client, asked.name)
    assert aliases == {"staging": "v0.2.0", "production": "v0.1.0", "champion": "v0.1.0"}
    assert tags == [A.tags, B.tags]
    assert agree(store, asked, False) == []
    assert agree(store, asked, True) == []


def test_a_model_that_was_never_released_is_not_missed(store: ModelRegistry) -> None:
    assert agree(store, wanted(staging=None), True) == []


@STORES
def test_a_version_is_of_its_training_run_where_the_store_has_it(
    store: ModelRegistry, client: Any, place: tuple[str, Path]
) -> None:
    run = os.urandom(16).hex()
    service.add_run(place[1], run, "s3://bucket/0")
    asked = wanted(A.model_copy(update={"run": run}), B.model_copy(update={"run": OTHER_RUN}), staging=B)
    agree(store, asked, True)
    runs = {
        each.tags["lockstep.version"]: each.run_id or ""
        for each in client.search_model_versions(f"name='{asked.name}'")
    }
    assert runs == {"v0.1.0": run, "v0.2.0": ""}
    assert agree(store, asked, False) == []


@pytest.fixture
def trained(place: tuple[str, Path], tmp_path: Path) -> str:
    """A training run whose artifacts the store can write."""
    run = os.urandom(16).hex()
    service.add_run(
        place[1], run, "mlflow-artifacts:/0" if place[0].startswith("http") else str(tmp_path / "artifacts")
    )
    return run


@STORES
def test_mlflow_reads_the_signature_and_an_example_of_a_request_from_the_version_itself(
    store: ModelRegistry, place: tuple[str, Path], trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.models import Model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", place[0])
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", place[0])
    release = A.model_copy(update={"run": trained})
    asked = wanted(release, production=release)
    agree(store, asked, True)
    assert agree(store, asked, False) == [], "the folder of the run is known as the image's"
    model = Model.load(f"models:/{asked.name}@production")
    assert model.signature.inputs.input_names() == ["messages", "max_tokens", "temperature"]
    assert model.load_input_example(f"models:/{asked.name}@production")["messages"][0]["role"] == "user"
    assert (model.run_id, model.flavors["lockstep"]["image"]) == (trained, release.source)
    assert model.metadata == release.tags


def test_mlflows_own_page_of_a_version_shows_the_signature(tracking: tuple[str, Path], tmp_path: Path) -> None:
    uri, database = tracking
    run = os.urandom(16).hex()
    service.add_run(database, run, "mlflow-artifacts:/0")
    asked = wanted(A.model_copy(update={"run": run}), B)
    agree(ModelRegistry(uri), asked, True)
    pages = [browser.loaded(f"{uri}/#/models/{asked.name}/versions/{number}", tmp_path) for number in (1, 2)]
    assert [re.findall(r"(Inputs|Outputs)\s+\((\d)\)", page) for page in pages] == [
        [("Inputs", "3"), ("Outputs", "1")], [("Inputs", "0"), ("Outputs", "0")],
    ]  # fmt: skip


def test_the_folder_of_an_image_in_another_run_or_place_or_of_another_image_is_not_the_release(
    store: ModelRegistry, client: Any, trained: str
) -> None:
    release = A.model_copy(update={"run": trained})
    asked = wanted(release)
    agree(store, asked, True)
    folder = mlmodel.folder(release.source)
    for source in (
        f"s3://bucket/{OTHER_RUN}/artifacts/{folder}", f"s3://bucket/{trained}/artifacts/{mlmodel.folder(B.source)}",
        f"s3://bucket/{trained}/artifacts/{folder}",
    ):  # fmt: skip
        client.create_model_version(asked.name, source, run_id=trained, tags=release.tags)
    found = [finding.what for finding in agree(store, asked, False)]
    assert found == [f"MLflow's version {number}" for number in (2, 3, 4)]
    refused = f"mlflow-artifacts://elsewhere/0/{trained}/artifacts/{folder}"  # by MLflow 3.17 itself, by default
    assert mlmodel.about(refused, trained) == refused


@STORES
def test_where_no_artifacts_can_be_written_the_image_itself_is_the_source(
    store: ModelRegistry, client: Any, place: tuple[str, Path]
) -> None:
    run = os.urandom(16).hex()
    service.add_run(place[1], run, "s3://bucket/0" if place[0].startswith("http") else "/proc/nothing")
    release = A.model_copy(update={"run": run})
    asked = wanted(release)
    assert all(finding.fixed for finding in agree(store, asked, True))
    assert client.get_model_version(asked.name, "1").source == A.source


@STORES
def test_what_a_promotion_tells_moves_its_own_alias_and_no_other(store: ModelRegistry, client: Any) -> None:
    asked = both()
    agree(store, asked, True)
    told = WantedModel(
        name=asked.name, releases=(B,), aliases={"production": B.source, "champion": B.source}, whole=False
    )
    assert {finding.what for finding in agree(store, told, True)} == {"alias production", "alias champion"}
    assert shown(client, asked.name)[0] == {"staging": "v0.2.0", "production": "v0.2.0", "champion": "v0.2.0"}
    back = WantedModel(name=asked.name, releases=(A,), aliases={"production": A.source}, whole=False)
    agree(store, back, True)
    assert shown(client, asked.name)[0] == {"staging": "v0.2.0", "production": "v0.1.0", "champion": "v0.2.0"}


Tamper = Callable[[Any, str], object]
FORGED = {"lockstep.version": "v0.2.0", "lockstep.model": B.tags["lockstep.model"]}
TAMPERS: dict[str, tuple[Tamper, list[str]]] = {
    "an alias moved": (lambda c, n: c.set_registered_model_alias(n, "champion", "2"), ["alias champion: v0.1.0 / MLflow's version 2"]),
    "an alias taken away": (lambda c, n: c.delete_registered_model_alias(n, "production"), ["alias production: v0.1.0 / is not set"]),
    "an alias where nothing runs": (lambda c, n: c.set_registered_model_alias(n, "canary", "1"), ["alias canary: nothing runs there / MLflow's version 1"]),
    "a version deleted": (lambda c, n: c.delete_model_version(n, "2"), ["version v0.2.0: oci:// / no version", "alias staging: v0.2.0 / is not set"]),
    "all deleted": (lambda c, n: c.delete_registered_model(n), ["registered model: 2 versions / no such model"]),
    "a tag changed": (lambda c, n: c.set_model_version_tag(n, "1", "lockstep.raw", "x\ny"), ["tags of MLflow's version 1, which is v0.1.0: lockstep.raw sha256:9 / lockstep.raw x y"]),
    "a tag deleted": (lambda c, n: c.delete_model_version_tag(n, "1", "lockstep.raw"), ["tags of MLflow's version 1: lockstep.raw / no lockstep.raw"]),
    "a version relabelled": (lambda c, n: c.set_model_version_tag(n, "1", "lockstep.version", "v0.2.0"), ["tags of MLflow's version 1: lockstep.version v0.1.0 / lockstep.version v0.2.0"]),
    "another model under a version's name": (lambda c, n: c.create_model_version(n, NEVER.source, tags=FORGED), ["MLflow's version 3: nothing was released / says that it is v0.2.0, of oci://registry.example/team/router@sha256:c"]),
    "a version that never was": (lambda c, n: c.create_model_version(n, NEVER.source, tags=NEVER.tags), ["MLflow's version 3: nothing was released / says that it is v9.9.9"]),
    "a version of a path": (lambda c, n: c.create_model_version(n, "s3://bucket/model", tags={"lockstep.model": "x"}), ["MLflow's version 3: nothing was released / says that it is a release"]),
}  # fmt: skip


def _matches(finding: MirrorFinding, line: str) -> bool:
    what, _, rest = line.partition(": ")
    git, _, mirror = rest.partition(" / ")
    return what in finding.what and git in finding.git and mirror in finding.mirror


@pytest.mark.parametrize("name", TAMPERS)
def test_what_was_changed_by_hand_is_found_reported_and_fixed(store: ModelRegistry, client: Any, name: str) -> None:
    tamper, lines = TAMPERS[name]
    asked = both()
    asked = asked.model_copy(update={"aliases": {**asked.aliases, "canary": None}})
    agree(store, asked, True)
    client.set_registered_model_alias(asked.name, "challenger", "1")
    before = shown(client, asked.name)
    tamper(client, asked.name)
    found = agree(store, asked, False)
    assert len(found) == len(lines)
    for finding, line in zip(found, lines, strict=True):
        assert _matches(finding, line), finding
        assert (finding.where, finding.severity, bool(finding.fix), finding.fixed) == ("MLflow", "drift", True, False)
        assert finding.mirror.isprintable()
    assert agree(store, asked, False) == found, "comparing writes nothing"
    assert all(finding.fixed for finding in agree(store, asked, True))
    assert agree(store, asked, False) == []
    if name not in ("all deleted", "a version deleted"):
        aliases, tags = shown(client, asked.name)
        assert aliases == before[0], "the alias challenger is nobody's business"
        assert tags[:2] == before[1]
        assert all(not key.startswith("lockstep.") for each in tags[2:] for key in each)


def test_an_alias_at_another_models_version_with_the_right_tags_is_found(store: ModelRegistry, client: Any) -> None:
    asked = both()
    agree(store, asked, True)
    client.create_model_version(asked.name, "s3://bucket/evil", tags=A.tags)
    client.set_registered_model_alias(asked.name, "champion", "3")
    assert [finding.what for finding in agree(store, asked, True)] == ["MLflow's version 3", "alias champion"]
    assert shown(client, asked.name)[0]["champion"] == "v0.1.0"


def test_a_version_of_the_image_and_of_another_run_is_not_the_release(
    store: ModelRegistry, client: Any, place: tuple[str, Path]
) -> None:
    run = os.urandom(16).hex()
    service.add_run(place[1], run, "s3://bucket/0")
    asked = wanted(B, staging=B)
    client.create_registered_model(asked.name)
    client.create_model_version(asked.name, B.source, run_id=run, tags=B.tags)
    found = agree(store, asked, True)
    assert [finding.what for finding in found] == ["version v0.2.0", "MLflow's version 1", "alias staging"]
    assert all(finding.fixed for finding in found)


def test_a_second_version_of_the_same_image_is_the_release_as_well(store: ModelRegistry, client: Any) -> None:
    asked = both()
    agree(store, asked, True)
    client.create_model_version(asked.name, A.source, tags=A.tags)
    client.set_registered_model_alias(asked.name, "champion", "3")
    assert agree(store, asked, True) == []


def test_versions_are_counted_in_numbers(store: ModelRegistry, client: Any) -> None:
    asked = both()
    client.create_registered_model(asked.name)
    for _ in range(11):
        client.create_model_version(asked.name, A.source)
    agree(store, asked, True)
    found = store.read(asked.name)
    assert found is not None
    assert [held.number for held in found.versions] == [str(number) for number in range(1, 13)]
    assert found.aliases["production"] == "1"


def versions_like_the_first(path: Path, name: str, sources: list[str]) -> None:
    """Versions 2, 3, … in the store's file, each as version 1 is but for its source: making them one by one is slow."""
    with sqlite3.connect(path, timeout=30) as connection:
        for table in ("model_versions", "model_version_tags"):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            taken = ", ".join(
                {"version": "?1", "source": "?2", "storage_location": "?2"}.get(each, each) for each in columns
            )
            rows = [(number, source, name) for number, source in enumerate(sources, 2)]
            connection.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {taken} FROM {table} WHERE name = ?3 AND version = 1"
                " AND ?2 IS NOT NULL", rows,
            )  # fmt: skip
    connection.close()


@pytest.mark.parametrize("place", ["server"], indirect=True)
def test_a_thousand_versions_are_compared_at_once(store: ModelRegistry, place: tuple[str, Path]) -> None:
    releases = [
        A.model_copy(update={"version": f"v0.{n}.0", "source": f"{A.source[:-4]}{n:04}", "run": None})
        for n in range(1100)
    ]
    asked = wanted(*releases, staging=releases[-1])
    store.make_model(asked.name)
    with store.asking() as mlflow_client:
        store.make_version(mlflow_client, asked.name, releases[0])
    versions_like_the_first(place[1], asked.name, [each.source for each in releases[1:1050]])
    started = time.monotonic()
    assert len(agree(store, asked, False)) == 51
    assert time.monotonic() - started < 60  # one request for each version would take minutes


@pytest.mark.parametrize("image", ["registry.example/team/router@sha256:" + "a" * 64, "oci:.lockstep/image@sha256:" + "a" * 64, "oci:/abs/folder@sha256:" + "a" * 64])  # fmt: skip
def test_every_kind_of_image_is_a_source_that_mlflow_takes(store: ModelRegistry, image: str) -> None:
    asked = wanted(A.model_copy(update={"source": mlflow.source(image)}))
    assert agree(store, asked, True)[0].fixed


# The process that asks, and its deadline


def ask(uri: str, asked: WantedModel, seconds: float = 60, *, fix: bool = True) -> list[MirrorFinding]:
    return mlflow.ask(uri, asked, fix, seconds)


@STORES
@pytest.mark.usefixtures("forking")
def test_a_store_is_asked_in_another_process(place: tuple[str, Path], client: Any) -> None:
    asked = both()
    assert [finding.fixed for finding in ask(place[0], asked)] == [True]
    assert ask(place[0], asked) == []
    assert shown(client, asked.name)[0]["champion"] == "v0.1.0"


def quietly(uri: str, asked: WantedModel, seconds: float) -> None:
    """Ask, whatever comes of it."""
    with contextlib.suppress(MirrorUnavailable):
        ask(uri, asked, seconds)


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize(
    ("fault", "seconds", "words"),
    [
        ("hang", 3, "no answer within 3 s"),
        ("drip", 3, "no answer within 3 s"),
        ("fail", 20, "500"),
        ("garbage", 20, "not in a valid JSON format"),
        ("redirect", 20, "Connection refused"),
        ("endless", 5, "no answer within 5 s"),
    ],
)
def test_a_server_that_goes_wrong_is_said_so_in_time(fault: Fault, seconds: float, words: str) -> None:
    started = time.monotonic()
    with service.FaultyServer(fault) as running, pytest.raises(MirrorUnavailable) as caught:
        ask(running.url, both(), seconds)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    # Without the deadline these servers take two minutes or never end. A busy machine starts a process in seconds.
    assert time.monotonic() - started < seconds + 30


def test_what_a_second_reading_still_finds_is_not_fixed(store: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_repair", lambda *_: None)
    (found,) = agree(store, both(), True)
    assert not found.fixed


def test_a_server_that_is_not_there_is_said_so_without_its_password() -> None:
    with pytest.raises(MirrorUnavailable, match="Connection refused") as caught:
        ask(f"http://ada:hunter2@127.0.0.1:{unused_port()}", both())
    assert "hunter2" not in str(caught.value)


def test_no_argument_of_the_process_holds_the_address() -> None:
    lines = set[str]()
    with service.FaultyServer("hang") as running:
        uri = running.url.replace("http://", "http://ada:hunter2@")
        asking = threading.Thread(target=quietly, args=(uri, both(), 3))
        asking.start()
        while asking.is_alive():  # The worker may need all of its time to import MLflow.
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    lines.add(path.read_bytes().decode(errors="replace"))
            time.sleep(0.05)
    assert any("release.mirrors.worker" in line for line in lines)
    assert not any("hunter2" in line for line in lines)


@pytest.mark.parametrize(
    ("environment", "login", "sent"),
    [
        ({}, "", ""),
        ({}, "ada:s%40fe@", "Basic YWRhOnNAZmU="),
        ({"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": "s@fe"}, "", "Basic YWRhOnNAZmU="),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "", "Bearer t"),
    ],
)
def test_logins_are_those_of_mlflow(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], login: str, sent: str
) -> None:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with service.FaultyServer("lie") as running:
        assert ModelRegistry(running.url.replace("http://", f"http://{login}")).read("router") is None
        assert running.asked == [("registered-models/get", sent)]


# SQLite files


@pytest.mark.usefixtures("forking")
def test_comparing_makes_no_store_and_fixing_does(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"
    asked = both()
    (found,) = ask(f"sqlite:///{path}", asked, fix=False)
    assert found.mirror == "no such model"
    assert not path.parent.exists()
    assert [finding.fixed for finding in ask(f"sqlite:///{path}", asked)] == [True]
    assert [each.name for each in path.parent.iterdir()] == ["mlflow.db"]
    assert ask(f"sqlite:///{path}", asked) == []


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0] if EXHAUSTIVE else [2.0, 3.5])
def test_a_store_is_made_whole_or_not_at_all(tmp_path: Path, seconds: float, request: pytest.FixtureRequest) -> None:
    path, asked = tmp_path / "mlflow.db", both()
    quietly(f"sqlite:///{path}", asked, seconds)
    request.getfixturevalue("forking")  # after it: what is killed also loads MLflow
    assert {each.name for each in tmp_path.iterdir()} <= {"mlflow.db"}
    if path.exists():
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    ask(f"sqlite:///{path}", asked)
    assert ask(f"sqlite:///{path}", asked) == []


@pytest.mark.usefixtures("forking")
def test_a_file_that_is_no_store_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("this is no database" * 100)
    with pytest.raises(MirrorUnavailable, match="file is not a database"):
        ask(f"sqlite:///{tmp_path / 'notes.db'}", both())
    with pytest.raises(MirrorUnavailable, match=r"No such file|denied|not a directory|unable"):
        ask("sqlite:////proc/nowhere/mlflow.db", both())


@pytest.mark.usefixtures("forking")
def test_an_address_that_mlflow_does_not_know_is_said_so() -> None:
    with pytest.raises(MirrorUnavailable, match="unsupported URI"):
        ask("carrier-pigeon://roof", both())


def test_without_mlflow_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MirrorUnavailable, match=r"needs MLflow, which is not installed here \(pip .*\[mlflow\]"):
        ModelRegistry("http://127.0.0.1:1").read("router")


def test_what_is_no_release_is_left_alone(store: ModelRegistry, client: Any) -> None:
    asked = both()
    agree(store, asked, True)
    client.create_model_version(asked.name, "s3://bucket/experiment", tags={"owner": "Bob"})
    assert agree(store, asked, True) == []
    assert compare.differences(store.read(asked.name), asked) == []
