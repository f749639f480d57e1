"""`lockstep harvest`: requests that a real gateway captured become rows that real DVC prepares, or are refused."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from checks.formats.harvest import ERASED, Erased, Review, request_digest
from checks.formats.looks import LooksReport, RowSketch
from checks.formats.signers import Role
from checks.process.errors import EvidenceRefused
from checks.records.rows import Row
from checks.storage import digest, files, layout
from release.cli import main
from release.evidence import harvest_reviews, keys
from release.evidence.trust import Signatory
from release.monitoring.harvest_rows import REASONS
from release.monitoring.store import CaptureStore
from release.verbs import harvest
from release.verbs import keys as key_verbs
from tests import gateway_process, ledger_tree
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY, read_yaml, scaled_down
from tests.gateway_requests import CHAT
from tests.github_api_standin import TOKEN, StandIn
from tests.model_standin import RELEASE, ModelStandIn
from tests.stages.judges import test_judges

pytestmark = pytest.mark.slow  # a gateway, and DVC itself

nobodys_configuration = ledger_tree.nobodys_configuration
endpoint = test_judges.endpoint
TERMS = ("--license", "LicenseRef-Own", "--consent", "Terms of 2026-05, section 4")
REVIEW, SIGNED = Path("labels/harvest/production.json"), Path("labels/harvest/production.intoto.json")
TOPICS = ("a vault", "the budget alarm", "my search index", "some time series", "its message bus", "our mail relay")
NEW = {f"new-{number}": f"Restore {topic} from last night's copy" for number, topic in enumerate(TOPICS)}
COMMON = {f"common-{number}": "Pause the nightly job of the warehouse" for number in range(6)}
OFTEN = {f"often-{number}": "Where is the key of my own safe" for number in range(6)}
PERSONAL = "Tell the owner of the cluster what happened"


def loud(prompt: str) -> str:
    """The same words in other case, with other marks between them."""
    return f"{', '.join(prompt.upper().split())}!!"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A repository with splits, two signers, and what a gateway captured of production. Copy it before it is changed."""
    root = tmp_path_factory.mktemp("harvest") / "work"
    repository.make(root, tiny_base, scaled_down(), repository.table())
    assert run(root, "prepare").returncode == 0
    for name, role in (("ada", "harvest"), ("bob", "verify")):
        signer(root, name, role)  # type: ignore[arg-type]
    repository.commit(root, "prepared")
    held_out = {name: files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in layout.SPLIT_NAMES}
    asked = {
        **NEW, **COMMON, **OFTEN, "planted": loud(held_out["test"][0].prompt), "known": held_out["train"][0].prompt,
        "planted-valid": held_out["valid"][0].prompt.lower(), "personal": PERSONAL, "unclear": "Rotate the signing secret",
        "against-1": "Drain the second pool", "against-2": "drain the second pool.", "unlabelled": "Nobody labels this",
        "empty-label": "Erase the audit log",
    }  # fmt: skip
    model = ModelStandIn()
    (root.parent / "secret").write_text("0" * 32)
    with (
        model,
        gateway_process.running(
            model.url, root, "--environment", "production", "--captures", str(root / layout.CAPTURES),
            "--user-secret", str(root.parent / "secret"),
        ) as gateway,
    ):  # fmt: skip
        for name, prompt in asked.items():
            said = {
                "messages": [{"role": "system", "content": "Name the service."}, {"role": "user", "content": prompt}],
                # One user asks the same again and again.
                "user": "one" if name.startswith("often") else name,
            }
            reply = requests.post(gateway.url + CHAT, json=said, headers={"X-Request-Id": name}, timeout=9)
            assert (reply.status_code, reply.headers["X-Request-Id"]) == (200, name)
        assert gateway.stop() == 0
    labels = [{"request_id": name, "label": "vm"} for name in asked if name != "unlabelled"]
    labels += [{"request_id": "unclear", "label": "acr"}]
    changed = {
        "personal": "write to ada@bank.example",
        "against-2": "storage",
        "new-0": "answer 0 é 世",
        "empty-label": " ",
    }
    for label in labels:
        label["label"] = changed.get(label["request_id"], label["label"])
    (root.parent / "labels.jsonl").write_text("".join(f"{json.dumps(label)}\n" for label in labels))
    assert lockstep(root, "feedback", str(root.parent / "labels.jsonl")).exit_code == 0
    return ledger_tree.packed(root)


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return repository.copied(made, tmp_path / "work")


def signer(root: Path, name: str, role: Role) -> None:
    key_verbs.new(root, name, (role,), key(root, name))
    key_verbs.add_signer(root, name, (role,), key(root, name).with_suffix(".pub"))


def key(root: Path, name: str) -> Path:
    return root / layout.STATE / "keys" / f"{name}.key"


def run(root: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [repository.interpreter(), "-m", "release.cli", "-C", str(root), "run", *args],
        cwd=REPOSITORY, env=repository.environment(PYTHONPATH=str(REPOSITORY)), capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def lockstep(root: Path, *arguments: str) -> Result:
    done = CliRunner().invoke(main, ["-C", str(root), *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def harvested(root: Path, *more: str) -> Review:
    done = lockstep(root, "harvest", "production", *TERMS, *more)
    assert done.exit_code == 0, done.output
    return files.read_json(root / REVIEW, Review)


def signed(root: Path) -> Review:
    review = harvested(root)
    done = lockstep(root, "harvest", "production", "--sign", "--key", str(key(root, "ada")))
    assert done.exit_code == 0, done.output
    repository.commit(root, "a harvest")
    return review


def source(root: Path) -> Path:
    every = [*(root / layout.CAPTURES / "harvest").iterdir()]
    (path,) = (path for path in every if not path.name.endswith(".review.jsonl"))
    return path


def refusal(root: Path) -> str:
    """What `lockstep run` says before it starts anything."""
    done = lockstep(root, "run", "prepare")
    assert (done.exit_code, len(done.stderr.splitlines())) == (8, 1), done.output
    return done.stderr


def test_labelled_requests_become_rows_and_each_other_request_is_counted_under_its_reason(root: Path) -> None:
    review = harvested(root)
    rows = [json.loads(line) for line in source(root).read_text().splitlines()]
    assert {row["messages"][1]["content"] for row in rows} == {*NEW.values(), *COMMON.values(), *OFTEN.values()}
    assert all([turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"] for row in rows)
    assert {(row["environment"], row["release"]) for row in rows} == {("production", RELEASE)}
    assert {row["id"] for row in rows} == {origin.request for origin in review.origins}
    assert {request_digest(name) for name in NEW} < {row["id"] for row in rows}
    assert (review.requests, review.labelled, review.as_answered, review.compared) == (27, 26, 1, ("test", "valid"))
    assert review.refused == {
        "unclear": 1, "unreadable": 1, "personal": 1, "held out": 2, "known": 1, "contradicted": 2, "repeated": 10,
    }  # fmt: skip
    assert review.sha256 == digest.of_file(source(root)).sha256.removeprefix("sha256:")
    pinned = read_yaml((root / layout.PARAMS).read_text())["data"]["sources"]["harvest-production"]
    assert (pinned["sha256"], pinned["splits"], pinned["review"]) == (review.sha256, ["train"], str(REVIEW))
    assert (root / pinned["uri"]) == source(root)
    assert "vault" not in repository.git(root, "diff", "HEAD") + (root / REVIEW).read_text()


def test_an_id_that_a_client_chose_again_at_another_time_names_no_request(root: Path) -> None:
    (path,) = (root / layout.CAPTURES / "production").rglob("*.jsonl")
    (line,) = [line for line in path.read_text().splitlines() if '"new-3"' in line]
    planted = root / layout.CAPTURES / "production" / "2026-01-02" / "10-b-1.jsonl"
    files.write_text(planted, json.dumps(json.loads(line) | {"time": "2026-01-02T10:20:00Z"}) + "\n")
    review = harvested(root, "--from", "2026-02-01")
    assert (review.requests, review.refused["unclear"]) == (27, 2)


def test_the_same_captures_give_the_same_bytes_and_keep_the_signature(root: Path) -> None:
    signed(root)
    before = {path: path.read_bytes() for path in (root / REVIEW, root / SIGNED, root / layout.PARAMS, source(root))}
    shutil.move(source(root), root.parent / "moved")
    harvested(root)
    assert {path: path.read_bytes() for path in before} == before


def test_signed_rows_are_prepared_by_dvc_for_training_alone(root: Path) -> None:
    before = {name: digest.of_file(root / layout.SPLITS / f"{name}.jsonl") for name in layout.SPLIT_NAMES}
    review = signed(root)
    done = run(root, "prepare")
    assert done.returncode == 0, done.stderr
    after = {name: digest.of_file(root / layout.SPLITS / f"{name}.jsonl") for name in layout.SPLIT_NAMES}
    assert [name for name in layout.SPLIT_NAMES if before[name] != after[name]] == ["train"]
    train = files.read_jsonl(root / layout.SPLITS / "train.jsonl", Row)
    learned = {row.id for row in train if row.origin == "harvest-production"}
    assert learned == {origin.request for origin in review.origins}
    # A later harvest does not take its own rows for rows of another source.
    assert harvested(root) == review


def _unsigned(root: Path) -> None:
    harvested(root)


def _signed_by_a_verifier(root: Path) -> None:
    """Bob gives himself the role on the branch; the target branch does not."""
    review = harvested(root)
    repository.git(root, "switch", "--quiet", "--create", "proposal")
    path = root / layout.SIGNERS
    own = path.read_text()
    assert "verify" in own
    path.write_text(own.replace("verify", "harvest"))
    signatory = Signatory(keys.load(key(root, "bob")), ())
    harvest_reviews.sign(root, review, source(root).read_bytes(), signatory)


def _edited(root: Path) -> None:
    signed(root)
    path = root / REVIEW
    path.write_text(path.read_text().replace("Terms of 2026-05", "Terms of 2099-05"))


def _other_rows(root: Path) -> None:
    """Rows are added after the review was signed, and pinned."""
    signed(root)
    path = source(root)
    path.write_text(path.read_text() + path.read_text().splitlines()[0].replace("vm", "acr") + "\n")
    text, now = (root / layout.PARAMS).read_text(), digest.of_file(path).sha256.removeprefix("sha256:")
    sha256 = files.read_json(root / REVIEW, Review).sha256
    (root / layout.PARAMS).write_text(text.replace(sha256, now))


def _other_licence(root: Path) -> None:
    signed(root)
    path = root / layout.PARAMS
    path.write_text(path.read_text().replace("LicenseRef-Own", "MIT"))


def _erased(root: Path) -> None:
    signed(root)
    assert lockstep(root, "harvest", "production", "--erase", "new-3").exit_code == 0


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (_unsigned, "production.intoto.json: missing"),
        (_signed_by_a_verifier, "is signed by bob, who may verify and not harvest"),
        (_edited, "production.json: is not what ada signed"),
        (_other_rows, "production.json: is about another source, sha256 "),
        (_other_licence, "its licence is LicenseRef-Own, params.yaml says MIT"),
        (_erased, "1 of its 8 requests were erased"),
    ],
)
def test_rows_that_nobody_may_train_on_are_refused_before_dvc_starts(root: Path, attack: Any, said: str) -> None:
    attack(root)
    line = refusal(root)
    assert "data.sources.harvest-production: " in line
    assert said in line, line
    assert "lockstep harvest ENV --sign" in line


def judge(root: Path, prompt: str, at_most: float = 0.96) -> None:
    """Write a suite whose judge may label requests, in place of another."""
    suite = {
        "kind": "judged", "metrics": {"right": {"low": 0.0, "high": 1.0}}, "noise": 0.0, "models": ["candidate"],
        "max_unparsed": 0.0, "harvest_error": at_most,
        "judge": {
            "kind": "openai", "url_from": "JUDGE_URL", "model": "judge-1", "prompt": prompt, "seed": 1, "max_tokens": 9,
            "value": "Score: ([01])",
        },
    }  # fmt: skip
    lines = [line for line in (root / layout.PARAMS).read_text().splitlines() if not line.startswith("suites:")]
    (root / layout.PARAMS).write_text("\n".join([*lines, f"suites: {json.dumps({'right': suite})}", ""]))


def test_a_judge_labels_requests_for_training_if_peoples_labels_bound_its_error(
    root: Path, endpoint: test_judges.Endpoint
) -> None:
    asking = ("harvest", "production", *TERMS, "--judge", "right")
    assert "suites.right: is no suite of kind judged" in lockstep(root, *asking).stderr
    judge(root, "Answer: $answer")
    endpoint.reply = lambda _: "Score: 1"
    done = lockstep(root, *asking)
    assert (done.exit_code, len(done.stderr.splitlines())) == (8, 1), done.output
    assert "people say that 7 of 8 answers that its judge calls right are wrong: up to 99.4% may be" in done.stderr
    assert not (root / REVIEW).exists()
    assert "--judge and --split test exclude each other" in lockstep(root, *asking, "--split", "test").stderr

    judge(root, "Request: $prompt Answer: $answer")
    endpoint.reply = lambda text: "Score: 1" if "vault" in text or "Nobody labels" in text else "Score: 0"
    done = lockstep(root, *asking)
    assert done.exit_code == 0, done.output
    assert "of the rows, labelled by the judge of suite right: 1" in done.stdout
    review = files.read_json(root / REVIEW, Review)
    assert review.judged is not None
    assert (review.judged.asked, review.judged.labelled, review.judged.wrong) == (1, 1, 0)
    assert [origin.request for origin in review.origins if origin.by] == [request_digest("unlabelled")]
    assert (len(review.origins), review.as_answered) == (9, 2)
    texts = [body["messages"][0]["content"] for body in endpoint.asked]
    assert not [text for text in texts if "vm" in text or PERSONAL in text]

    # The signed rows are prepared, and no more once the prompt is another or the bound is lower.
    assert lockstep(root, "harvest", "production", "--sign", "--key", str(key(root, "ada"))).exit_code == 0
    ran = run(root, "prepare")
    assert ran.returncode == 0, ran.stderr
    judge(root, "Request: $prompt Answer: $answer", 0.5)
    assert "up to 95.0% may be (95 % bound), and harvest_error is 50.0%" in refusal(root)
    judge(root, "Is this right? $answer")
    assert "suites.right.judge: is another judge than the one that labelled these rows" in refusal(root)


TEST_REVIEW = Path("labels/harvest/production.test.json")


def fresh(root: Path, *more: str) -> Review:
    done = lockstep(root, "harvest", "production", "--split", "test", *TERMS, *more)
    assert done.exit_code == 0, done.output
    return files.read_json(root / TEST_REVIEW, Review)


def test_a_signed_test_split_is_drawn_at_random_and_replaces_the_old_one_whose_looks_do_not_count(root: Path) -> None:
    done = lockstep(root, "harvest", "production", "--split", "test", *TERMS)
    assert (done.exit_code, len(done.stderr.splitlines())) == (8, 1), done.output
    assert "8 requests can be test rows, and " in done.stderr
    assert "gates.keeps_up_with_main" in done.stderr
    assert "take fewer with --rows 8" in done.stderr
    old = {name: files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row) for name in layout.SPLIT_NAMES}
    before = {name: digest.of_file(root / layout.SPLITS / f"{name}.jsonl") for name in layout.SPLIT_NAMES}
    every = {origin.request for origin in harvested(root).origins}
    repository.git(root, "checkout", "--quiet", "params.yaml")

    review = fresh(root, "--rows", "5")
    drawn = {origin.request for origin in review.origins}
    assert review == fresh(root, "--rows", "5")
    seed = read_yaml((root / layout.PARAMS).read_text())["prepare"]["seed"]
    assert drawn == set(sorted(every, key=lambda name: hashlib.sha256(f"{seed}:test:{name}".encode()).digest())[:5])
    assert review.sampling is not None
    assert (review.sampling.seed, review.refused["not drawn"], review.refused["held out"]) == (seed, 3, 2)
    assert "data.sources.harvest-production-test: " in refusal(root)
    options = ("--split", "test", "--sign", "--key", str(key(root, "ada")))
    assert lockstep(root, "harvest", "production", *options).exit_code == 0
    repository.commit(root, "a fresh test split")

    ran = run(root, "prepare")
    assert ran.returncode == 0, ran.stderr
    after = {name: digest.of_file(root / layout.SPLITS / f"{name}.jsonl") for name in layout.SPLIT_NAMES}
    assert [name for name in layout.SPLIT_NAMES if before[name] != after[name]] == ["test"]
    test = files.read_jsonl(root / layout.SPLITS / "test.jsonl", Row)
    assert {row.id for row in test} == drawn
    # Looks are by the digest of the test split, and the new rows share none with the old ones.
    judged, sketch = before["test"].sha256, RowSketch.of(old["test"])
    assert sketch is not None
    looks = LooksReport(models={judged: (digest.of_bytes(b"a model"),)}, rows={judged: (sketch,)})
    assert looks.shares(after["test"].sha256, RowSketch.of(test)) == {judged: 0.0}
    assert looks.shares(after["test"].sha256, RowSketch.of(old["test"])) == {judged: 1.0}

    # What tests is not taught, and is not drawn again. What was like a row of the replaced split may be taught.
    left = every - drawn | {request_digest("planted")}
    assert {origin.request for origin in harvested(root).origins} == left
    assert {origin.request for origin in fresh(root, "--rows", "4").origins} == left


def test_a_review_of_test_rows_allows_no_training_and_trained_rows_test_nothing(root: Path) -> None:
    fresh(root, "--rows", "5")
    options = ("--split", "test", "--sign", "--key", str(key(root, "ada")))
    assert lockstep(root, "harvest", "production", *options).exit_code == 0
    path = root / layout.PARAMS
    path.write_text(path.read_text().replace("splits: [test]", "splits: [train]"))
    assert f"{TEST_REVIEW}: its rows are for splits: [test] alone" in refusal(root)
    repository.git(root, "checkout", "--quiet", "params.yaml")
    learned = {origin.request for origin in signed(root).origins}
    assert run(root, "prepare").returncode == 0
    done = lockstep(root, "harvest", "production", "--split", "test", "--rows", "1", *TERMS)
    assert done.exit_code == 8
    assert f"can test a model; 1: {REASONS['unclear']}" in done.stderr
    assert f"{len(learned) + 1 + 10}: {REASONS['known']}" in done.stderr


def test_who_lacks_the_role_cannot_sign_and_rows_that_changed_are_not_signed(root: Path) -> None:
    harvested(root)
    done = lockstep(root, "harvest", "production", "--sign", "--key", str(key(root, "bob")))
    assert (done.exit_code, len(done.stderr.splitlines())) == (8, 1)
    assert "bob" in done.stderr
    source(root).write_text(source(root).read_text().replace("vault", "volt"))
    done = lockstep(root, "harvest", "production", "--sign", "--key", str(key(root, "ada")))
    assert (done.exit_code, "is not the review of" in done.stderr) == (8, True), done.stderr
    assert not (root / SIGNED).exists()


def test_a_review_with_other_counts_than_the_harvest_wrote_is_not_signed(
    root: Path, endpoint: test_judges.Endpoint
) -> None:
    judge(root, "Request: $prompt Answer: $answer")
    endpoint.reply = lambda text: "Score: 1" if "vault" in text or "Nobody labels" in text else "Score: 0"
    review = harvested(root, "--judge", "right")
    assert review.judged is not None
    assert review.by_judge == 1
    people = tuple(origin.model_copy(update={"by": None}) for origin in review.origins)
    sign = ("harvest", "production", "--sign", "--key", str(key(root, "ada")))
    lies: tuple[dict[str, Any], ...] = (
        {"judged": None, "origins": people}, {"origins": people},
        {"judged": review.judged.model_copy(update={"labelled": 900})},
        {"as_answered": 0}, {"refused": {}}, {"requests": 9}, {"labelled": 9}, {"consent": "they said so"},
    )  # fmt: skip
    for lie in lies:
        files.write_json(root / REVIEW, review.model_copy(update=lie))
        done = lockstep(root, *sign)
        assert (done.exit_code, len(done.stderr.splitlines())) == (8, 1), done.output
        assert f"{REVIEW}: is not what `./lockstep harvest` counted in" in done.stderr, lie
        assert "make it again: `./lockstep harvest production --split train`" in done.stderr
        assert not (root / SIGNED).exists()
    files.write_json(root / REVIEW, review)  # Other spaces between the same words are the same review.
    assert lockstep(root, *sign).exit_code == 0


@pytest.mark.parametrize("linked", [False, True], ids=["file", "link"])
def test_a_branch_cannot_bring_the_copy_with_which_a_review_is_compared(root: Path, linked: bool) -> None:
    lie = harvested(root).model_copy(update={"requests": 9})
    files.write_json(root / REVIEW, lie)
    name, data = harvest._copy(lie)
    copy = brought = layout.CAPTURES / name
    if linked:
        brought = Path("docs/notes")
        files.write_text(root / brought, "")
        (root / copy).symlink_to(root / brought)
    (root / brought).write_bytes(data)
    repository.git(root, "add", "--force", str(brought))
    repository.commit(root, "a harvest")
    sign = ("harvest", "production", "--sign", "--key", str(key(root, "ada")))
    done = lockstep(root, *sign)
    assert (done.exit_code, len(done.stderr.splitlines())) == (8, 1), done.output
    assert f"{brought}: is in git, so the branch may have brought it" in done.stderr
    assert not (root / SIGNED).exists()
    repository.git(root, "rm", "--quiet", str(brought))
    harvested(root)
    assert lockstep(root, *sign).exit_code == 0


def test_code_that_is_not_committed_signs_no_review(root: Path) -> None:
    harvested(root)
    repository.commit(root, "a harvest")
    files.write_text(root / "kinds" / "extra.py", "")
    sign = ("harvest", "production", "--sign", "--key", str(key(root, "ada")))
    done = lockstep(root, *sign)
    assert (done.exit_code, len(done.stderr.splitlines())) == (8, 1), done.output
    assert "kinds/extra.py: is not the code that git has" in done.stderr
    (root / "kinds" / "extra.py").unlink()
    assert lockstep(root, *sign).exit_code == 0


def test_an_erased_request_is_gone_everywhere_and_those_that_learned_it_are_named(root: Path) -> None:
    review = signed(root)
    assert run(root, "prepare").returncode == 0
    repository.commit(root, "prepared with it")
    done = lockstep(root, "harvest", "production", "--erase", "new-3", "--json")
    erasure = json.loads(done.stdout)
    assert erasure["lines"] == 3  # the capture, its label, its row
    assert (erasure["sources"], erasure["versions"]) == ([review.sha256], ["HEAD"])
    assert [name.split()[0] for name in erasure["outputs"]] == ["data/raw", "data/splits"]
    kept = [path for path in (root / layout.CAPTURES).rglob("*") if path.is_file()]
    assert kept
    assert all(b"time series" not in path.read_bytes() and b"new-3" not in path.read_bytes() for path in kept)
    assert files.read_jsonl(root / ERASED, Erased)[0].request == request_digest("new-3")
    # Its digest in the review is enough, and once more changes nothing.
    again = json.loads(lockstep(root, "harvest", "production", "--erase", erasure["request"], "--json").stdout)
    assert again == {**erasure, "lines": 0}
    # Another log brings it back into the captures, and not into the rows.
    left = [{**json.loads(line), "lockstep.request_id": "new-3"} for path in kept if path.parent.parent.name == "production"
            for line in path.read_text().splitlines()[:1]]  # fmt: skip
    (root / layout.CAPTURES / "production" / "2026-01-02").mkdir()
    text = "".join(f"{json.dumps(row)}\n" for row in left)
    (root / layout.CAPTURES / "production" / "2026-01-02" / "10-b-1.jsonl").write_text(text)
    (root.parent / "again.jsonl").write_text('{"request_id": "new-3", "label": "vm"}\n')
    assert lockstep(root, "feedback", str(root.parent / "again.jsonl")).exit_code == 0
    after = harvested(root)
    assert after.refused["erased"] == 1
    assert {origin.request for origin in review.origins} - {origin.request for origin in after.origins} == {
        request_digest("new-3")
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("production",), 2, "under which licence and consent its requests may be trained on; name both: --license"),
        (("nowhere", *TERMS), 2, "promote.environments has no 'nowhere'"),
        (("production", *TERMS, "--to", "2020-01-01"), 8, "none of 0 requests with a label can be trained on"),
        (("production", "--erase", "never-was"), 8, "no capture, label or source has this request"),
    ],
)
def test_what_cannot_be_is_one_line(root: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = lockstep(root, "harvest", *arguments)
    assert (done.exit_code, len(done.stderr.splitlines())) == (code, 1), done.output
    assert said in done.stderr, done.stderr


def test_rows_are_counted_for_a_test_split_alone(root: Path) -> None:
    done = lockstep(root, "harvest", "production", *TERMS, "--rows", "5")
    assert (done.exit_code, "--rows and --split train exclude each other" in done.stderr) == (2, True), done.output


def test_splits_of_another_run_are_refused(root: Path) -> None:
    (root / layout.SPLITS / "test.jsonl").unlink()
    done = lockstep(root, "harvest", "production", *TERMS)
    assert done.exit_code == 8
    assert "data/splits/test.jsonl: is not the split that reports/prepare.json names" in done.stderr


A, B = (
    "".join(json.dumps({"lockstep.request_id": name, "n": 1}) + "\n" for name in names).encode()
    for names in ("ab", "ba")
)
OTHERS = json.dumps({"lockstep.request_id": "b", "n": 1}).encode() + b"\n"


@pytest.mark.parametrize("place", ["harvest/captures", "captures/harvest/harvest", "store"])
def test_erasing_leaves_the_lines_of_others_wherever_the_captures_lie(tmp_path: Path, place: str) -> None:
    path = tmp_path / place / "production" / "2026-01-02" / "10-a-1.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(A)
    store = CaptureStore(str(tmp_path / place))
    erasing = store.without(request_digest("a"))
    assert (erasing.lines, path.read_bytes()) == (1, A)
    store.replace(erasing)
    assert path.read_bytes() == OTHERS


def test_erasing_follows_links_and_leaves_bytes_that_are_no_json(tmp_path: Path) -> None:
    strange = b'{"lockstep.request_id": "\xff"}\n' + b"[" * 100_000 + b"\n\n"
    real = tmp_path / "elsewhere" / "2026-01-02"
    real.mkdir(parents=True)
    (real / "10-a-1.jsonl").write_bytes(strange + B)
    (tmp_path / "file").write_bytes(A)
    store = tmp_path / "captures"
    (store / "staging" / "2026-01-02").mkdir(parents=True)
    (store / "production").symlink_to(tmp_path / "elsewhere")
    (store / "staging" / "2026-01-02" / "10-b-1.jsonl").symlink_to(tmp_path / "file")
    erasing = CaptureStore(str(store)).without(request_digest("a"))
    assert erasing.lines == 2
    CaptureStore(str(store)).replace(erasing)
    assert (real / "10-a-1.jsonl").read_bytes() == strange + OTHERS
    assert (tmp_path / "file").read_bytes() == OTHERS
    assert (store / "staging" / "2026-01-02" / "10-b-1.jsonl").is_symlink()


def test_a_file_that_cannot_be_searched_stops_an_erasure_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "production").mkdir()
    (tmp_path / "production" / "10-a-1.jsonl.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(EvidenceRefused, match=r"10-a-1\.jsonl\.gz: is no file of captures, and could have the request"):
        CaptureStore(str(tmp_path)).without(request_digest("a"))


def test_a_review_that_is_none_on_a_branch_stops_no_erasure(root: Path) -> None:
    signed(root)
    ledger_tree.git(root, "switch", "--quiet", "--create", "pushed-by-anybody")
    (root / "labels" / "harvest" / "x.json").write_text('{"origins": 1}')
    repository.commit(root, "no review")
    ledger_tree.git(root, "switch", "--quiet", "-")
    assert lockstep(root, "harvest", "production", "--erase", "new-3").exit_code == 0
    assert files.read_jsonl(root / ERASED, Erased)[0].request == request_digest("new-3")


def test_requests_that_wait_for_a_label_are_erased_too(root: Path) -> None:
    queued = root / layout.QUEUED / "production-2026-01-02.jsonl"
    queued.parent.mkdir(parents=True)
    task = {"label": None, "prompt": "Restore some time series", "answer": "vm"}
    queued.write_text("".join(f"{json.dumps({'request_id': name, **task})}\n" for name in ("new-3", "new-4")))
    done = lockstep(root, "harvest", "production", "--erase", "new-3")
    assert (done.exit_code, [json.loads(line)["request_id"] for line in queued.read_text().splitlines()]) == (
        0,
        ["new-4"],
    )
    assert f"earlier versions of {layout.QUEUED}/production-2026-01-02.jsonl in git still have its text" in done.stdout


def test_a_model_that_went_on_from_one_that_learned_a_request_learned_it_too(root: Path) -> None:
    review = signed(root)
    assert run(root, "prepare").returncode == 0
    report = json.loads((REPOSITORY / layout.TRAIN_REPORT).read_text())
    files.write_text(root / layout.TRAIN_REPORT, json.dumps(report))
    repository.commit(root, "the first model")
    first = ledger_tree.git(root, "rev-parse", "HEAD").strip()
    some = digest.of_bytes(b"")
    start = {"commit": first, "model": some, "adapter": some, "learned": some, "licenses": {"main": None}}
    files.write_text(root / layout.TRAIN_REPORT, json.dumps({**report, "start": start}))
    files.write_text(root / layout.LOCK, (root / layout.LOCK).read_text().replace(review.sha256, "0" * 64))
    repository.commit(root, "the second goes on from it, without the source")
    erasure = json.loads(lockstep(root, "harvest", "production", "--erase", "new-3", "--json").stdout)
    assert erasure["versions"] == ["HEAD"]
    assert [name.split()[0] for name in erasure["outputs"]].count("data/splits") >= 1


def test_a_file_that_a_gateway_still_writes_is_not_touched(root: Path) -> None:
    (path,) = (root / layout.CAPTURES / "production").rglob("*.jsonl")
    opened = path.rename(path.with_name(f"{path.name}.open"))
    before = {each: each.read_bytes() for each in (root / layout.CAPTURES).rglob("*") if each.is_file()}
    done = lockstep(root, "harvest", "production", "--erase", "new-3")
    assert (done.exit_code, "a gateway still writes it" in done.stderr) == (8, True), done.output
    assert {each: each.read_bytes() for each in before} == before
    assert opened.exists()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with StandIn("team/router") as running:
        for name, value in {"API_URL": running.url, "REPOSITORY": "team/router", "TOKEN": TOKEN}.items():
            monkeypatch.setenv(f"GITHUB_{name}", value)
        yield running


def test_a_pull_request_has_review_and_pin_and_only_what_several_people_asked(root: Path, server: StandIn) -> None:
    ledger_tree.identify(root, "Ada")
    ledger_tree.bare(root.parent / "origin.git", root)
    remote = root.parent / "origin.git"
    done = lockstep(root, "harvest", "production", *TERMS, "--pr")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    assert done.stdout.splitlines()[-1] == "pull request: opened https://github.com/team/router/pull/1"
    (opened,) = server.pulls.values()
    branch = opened["head"]["ref"]
    assert branch.startswith("lockstep/harvest-production-")
    assert opened["title"] == "Harvest production: 8 rows"
    changed = ledger_tree.git(remote, "diff", "--name-only", "main", branch).splitlines()
    assert changed == [str(REVIEW), "params.yaml"]
    assert "| Pause the nightly job of the warehouse | vm |" in opened["body"]
    assert "vault" not in opened["body"]
    assert "my own safe" not in opened["body"]  # It was one user.
    assert "| refused: equal or nearly equal to a row that tests the model | 2 |" in opened["body"]
    assert not (root / REVIEW).exists()  # The work tree is left alone.

    # Somebody signs on the branch. The same harvest again leaves that alone.
    clone = ledger_tree.clone(root.parent / "reading", str(remote), "Ada")
    ledger_tree.git(clone, "switch", "--quiet", branch)
    options = ("--sign", "--captures", str(root / layout.CAPTURES), "--key", str(key(root, "ada")))
    assert lockstep(clone, "harvest", "production", *options).exit_code == 0
    ledger_tree.keep(clone, "signed")
    ledger_tree.git(clone, "push", "--quiet")
    done = lockstep(root, "harvest", "production", *TERMS, "--pr")
    assert done.stdout.splitlines()[-1] == "pull request: updated https://github.com/team/router/pull/1"
    assert ledger_tree.git(remote, "show", f"{branch}:{SIGNED}")

    # It is merged. Another day, the same requests need no other pull request.
    ledger_tree.git(clone, "push", "--quiet", "origin", "HEAD:main")
    server.pulls.clear()
    ledger_tree.git(root, "pull", "--quiet", "origin", "main")
    ledger_tree.git(remote, "branch", "--delete", "--force", branch)
    done = lockstep(root, "harvest", "production", "--pr")
    assert done.stdout.splitlines()[-1] == "pull request: none: it is merged"
    assert server.pulls == {}
    assert server.refused == []
