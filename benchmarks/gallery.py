"""Makes an entry of the site's gallery: a configuration is trained, judged, released, and operated for a month.

    python -m benchmarks.gallery service-router [--folder FOLDER] [--requests 600]

In:  params.yaml of this repository for `command`; the file NAME of docs/configurations for every other NAME. `steps`
     names data of its reader's own: here they are the requests of `service-router`, with worse answers (``prefer``).
     FOLDER keeps the work (default: a temporary folder), so that a killed run goes on where it was.
Out: docs/gallery/NAME/: the repository as a bundle of git, its answers to the test rows as record.tar.xz, params.yaml,
     and record.json with the digests of these. The weights are left out.

The month is ``WINDOWS`` windows of ``DAYS`` days. Real requests of the task's test and valid rows go through the real
gateway to a real server, in sessions. Each window is replayed in seconds or minutes, and its requests are then dated
over its days. In the windows of ``DRIFT`` a growing share of the sessions is about one slice of the rows. `lockstep
watch` judges and signs each window. Then `lockstep drill --incident` gives the base model, as a worse candidate, half
of the traffic of the test rows. That happens in a clone of the repository, and labels come within seconds.
"""

import argparse
import itertools
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import requests as http
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks import loop
from benchmarks.loop import Loop
from checks.config import params_file
from checks.formats import thinking
from checks.records.rows import Row, request
from checks.storage import digest, files, layout
from release.serving.behind_gateway import Behind
from release.verbs.server import LLAMACPP
from stages.weights import gguf_export
from tests import overlay_sample
from tests import pipeline_repository as repository
from tests.conftest import REPOSITORY

DEFAULT, ROUTER, PREFERENCES = "command", "service-router", "steps"
GALLERY = REPOSITORY / "docs" / "gallery"
MONTH, INCIDENT = layout.REPORTS / "month.json", layout.REPORTS / "incident.json"
CODE = (
    "checks", "stages", "release", "dvc.yaml", ".dvc", ".dvcignore", ".gitignore", "docs/cards", "docs/configurations",
)  # fmt: skip
RECORDED = ("dvc.lock", "code.lock", "reports")  # The record of the default configuration.
WINDOWS, DAYS = 5, 6
DRIFT = range(3, 5)  # Windows in which the share of ``MOST`` is reached step by step.
MOST = 0.6
SESSION = (1, 2, 3)  # Requests of one user in a row, all of one slice.
LABELLED = 5  # Each fifth request gets a label.
# What the gallery changes: a laptop has no container to verify in, and the price of an hour is assumed.
# What the entry of ``PREFERENCES`` says of its data, which are those of ``ROUTER``.
OF_ITS_DATA = {
    "sha256: null # the first run refuses, and prints the hash to pin": (
        "sha256: 45cd23155cf69f0614d10c0753b51510a800fb90cbcec57a3ca8b0b7ecb48276"
    ),
    "license: LicenseRef-Own": "license: MIT",
    "allow: [Apache-2.0, LicenseRef-Own]": "allow: [Apache-2.0, MIT]",
    "max_ngram_share: 0.01": "max_ngram_share: 0.08 # the help is written from templates",
    "instruction: Name the team.": "instruction: Name the Azure CLI service.",
}
MONITOR = "\nmonitor:\n  window_days: 6\n  cost:\n    hourly_price: 0.05\n"
LAUNCHER = """#!/bin/sh
# As ./lockstep of Lockstep's own repository, in the Python environment that is active.
mkdir -p .lockstep/code
for name in checks release stages; do ln -sfn "$PWD/$name" ".lockstep/code/$name"; done
export PYTHONSAFEPATH=1 PYTHONPATH="$PWD/.lockstep/code" LOCKSTEP_ROOT="$PWD" LOCKSTEP_CALLED=./lockstep
if [ "$1" = dvc ]; then shift; exec python -m stages.tools.guarded_dvc "$@"; fi
exec python -m release.cli "$@"
"""


class Window(NamedTuple):
    """A window of the month: when it began, its requests, the share of planted drift, and how long its replay took.

    ``users``: who sends each of ``rows``; a session is of one user.
    """

    number: int
    began: datetime
    rows: list[Row]
    users: list[str]
    shifted: float
    seconds: float = 0.0

    @property
    def until(self) -> datetime:
        """Return the end of the window."""
        return self.began + timedelta(days=DAYS)

    def request_id(self, number: int) -> str:
        """Name a request by its window and its place in it."""
        return f"w{self.number:02}-{number:04}"


def params_of(name: str) -> str:
    """Return params.yaml of a configuration, with what the gallery changes."""
    path = REPOSITORY / layout.PARAMS
    if name != DEFAULT:
        path = REPOSITORY / "docs" / "configurations" / f"{name}.yaml"
    if not path.is_file():
        names = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise SystemExit(f"{name}: is no configuration; there are {', '.join(names)}")
    text = path.read_text(encoding="utf-8")
    for old, new in OF_ITS_DATA.items() if name == PREFERENCES else ():
        loop.hold(f"{path} says {old!r}", old in text)
        text = text.replace(old, new)
    return text.replace("served_as_verified: true", "served_as_verified: false") + MONITOR


def begin(root: Path, name: str) -> Loop:
    """Lay out a repository of the configuration at ``root``, as one that was made from this one.

    It shares DVC's cache with this repository, and begins with the answers of models that this one knows. So what was
    trained and asked here is not done twice.
    """
    root.mkdir(parents=True)
    paths = [
        *CODE,
        "release/environments",
        *(RECORDED if name == DEFAULT else ["reports/noise.json"]),
    ]
    archive = subprocess.run(
        ["git", "archive", "HEAD", *paths], cwd=REPOSITORY, check=True, capture_output=True
    )
    subprocess.run(["tar", "-x", "-C", str(root)], input=archive.stdout, check=True)
    first = ROUTER if name == PREFERENCES else name
    (root / layout.PARAMS).write_text(params_of(first), encoding="utf-8")
    (root / "lockstep").write_text(LAUNCHER)
    (root / "lockstep").chmod(0o755)
    for environment in ("staging", "production"):
        overlay_sample.pin(root / layout.ENVIRONMENTS, environment)
    cache = REPOSITORY / ".dvc" / "cache"
    (root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n")
    if (REPOSITORY / layout.ANSWERS).is_dir():
        shutil.copytree(REPOSITORY / layout.ANSWERS, root / layout.ANSWERS)
    repository.git(root, "init", "--quiet", "--initial-branch=main")
    made = loop_at(root)
    made.commit(f"The configuration {name}")
    made.lockstep(
        "keys", "new", "--name", "gallery", "--may", "verify", "--may", "release", "--add"
    )
    made.commit("Who signs releases")
    if name == PREFERENCES:
        prefer(made)
    if name == DEFAULT:
        # A stage whose outputs are not in the cache runs again.
        made.lockstep("dvc", "checkout", code=None)
    return made


def prefer(made: Loop) -> None:
    """Write the data of ``PREFERENCES``, and its params.yaml, which pins their hash.

    They are the requests that ``ROUTER`` prepares. Each second one has a worse answer: the right one of the most
    similar training request that has another answer (TF-IDF, cosine). So test rows say nothing of what is learned.
    """
    made.lockstep("dvc", "repro", "prepare")
    trained, *others = (
        files.read_jsonl(made.root / layout.SPLITS / f"{split}.jsonl", Row)
        for split in ("train", "valid", "test")
    )
    rows = [*trained, *itertools.chain.from_iterable(others)]
    prompts, answers = [request(row.messages) for row in rows], [row.reference for row in rows]
    words = TfidfVectorizer(ngram_range=(1, 2)).fit(prompts[: len(trained)]).transform(prompts)
    similar = (words @ words[: len(trained)].T).toarray()
    similar[np.equal.outer(answers, answers[: len(trained)])] = -1.0
    nearest = similar.argmax(axis=1)
    path = made.root / "sources" / "answers.jsonl"
    path.parent.mkdir()
    path.write_text(
        "".join(
            json.dumps({"question": prompt, "team": answer, "worse": answers[near] if number % 2 == 0 else None}) + "\n"
            for number, (prompt, answer, near) in enumerate(zip(prompts, answers, nearest, strict=True))
        )
    )  # fmt: skip
    (made.root / layout.PARAMS).write_text(params_of(PREFERENCES), encoding="utf-8")
    with (made.root / ".gitignore").open("a") as ignored:
        ignored.write("/sources/\n")  # Others wrote the requests: their hash is kept, not they.
    made.commit(f"The configuration {PREFERENCES}")


def loop_at(root: Path) -> Loop:
    """Return the loop of a repository, with the server that its model was judged for and that runs as a process."""
    runtime = params_file.load(root / layout.PARAMS).serve.runtime
    return Loop(root, runtime if runtime == LLAMACPP else "transformers")


def month(rows: Sequence[Row], size: int, now: datetime) -> Iterator[Window]:
    """Draw the requests of each window, in sessions. The last window ends at ``now``."""
    chance, counts = random.Random(loop.SEED), Counter(row.slice for row in rows)
    slices = {name: [row for row in rows if row.slice == name] for name in counts}
    rising, _ = counts.most_common(3)[-1]
    for number in range(1, WINDOWS + 1):
        share = MOST * (DRIFT.index(number) + 1) / len(DRIFT) if number in DRIFT else 0.0
        drawn, users = list[Row](), list[str]()
        while len(drawn) < size:
            name = rising if chance.random() < share else chance.choice(rows).slice
            session = chance.choices(slices[name], k=chance.choice(SESSION))
            users += [f"user-{number}-{len(drawn)}"] * len(session)
            drawn += session
        began = now - timedelta(days=DAYS * (WINDOWS + 1 - number))
        yield Window(number, began, drawn[:size], users[:size], share)


def play(server: Behind, window: Window, most_tokens: int) -> Window:
    """Send the requests of a window, and return it with the seconds that this took."""

    def ask(number: int, row: Row) -> None:
        asked = {
            "model": server.model, "max_tokens": most_tokens, "temperature": 0, "user": window.users[number],
            "messages": [{"role": turn.role, "content": turn.content} for turn in row.messages],
        }  # fmt: skip
        url, headers = (
            f"{server.url}/v1/chat/completions",
            {"X-Request-Id": window.request_id(number)},
        )
        http.post(url, json=asked, headers=headers, timeout=300).raise_for_status()

    began = time.monotonic()
    with ThreadPoolExecutor(loop.AT_ONCE) as pool:
        list(pool.map(ask, range(len(window.rows)), window.rows))
    played = window._replace(seconds=time.monotonic() - began)
    print(f"window {window.number}: {played.seconds:.1f} s", file=sys.stderr, flush=True)
    return played


def date(captures: Path, windows: Sequence[Window]) -> None:
    """Spread the captured requests of each window over the days that it stands for."""
    times = {
        window.request_id(number): window.began + timedelta(days=DAYS * number / len(window.rows))
        for window in windows
        for number in range(len(window.rows))
    }
    loop.redate(captures, lambda row: times[row["lockstep.request_id"]])


def operate(made: Loop, size: int) -> None:
    """Play the month, and let `lockstep watch` judge and sign each window."""
    root, weights = made.root, made.root / layout.MERGED
    params = params_file.load(root / layout.PARAMS)
    rows = [
        row
        for name in ("test", "valid")
        for row in files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row)
    ]
    marked = thinking.of_model(weights)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    windows = list(month(rows, size, midnight))
    for old in (made.captures, root / layout.WATCH):  # They are of a run that was killed.
        shutil.rmtree(old, ignore_errors=True)
    secret = root.parent / "user-secret"
    secret.write_text(secrets.token_hex(32))
    released, keyed = (weights, digest.of_tree(weights).digest), ("--user-secret", str(secret))
    with made.serving(released, options=keyed) as (server,):
        windows = [play(server, window, 2 * params.evaluate.max_new_tokens) for window in windows]
    date(made.captures, windows)
    made.label(
        [
            loop.Request(window.request_id(number), "", thinking.answer_in(row.reference, marked))
            for window in windows
            for number, row in enumerate(window.rows)
            if number % LABELLED == 0
        ]
    )
    for window in windows:
        span = ("--from", f"{window.began:%Y-%m-%d}", "--to", f"{window.until:%Y-%m-%d}")
        made.lockstep("watch", "production", *span, code=None)
    signed = len(list((root / layout.WATCH).glob("production-*.intoto.json")))
    loop.hold(f"each of {WINDOWS} windows is signed, and {signed} are", signed == WINDOWS)
    played = [
        {
            "date": f"{window.began:%Y-%m-%d}",
            "seconds": round(window.seconds, 1),
            "shifted": window.shifted,
        }
        for window in windows
    ]
    (root / MONTH).write_text(f"{json.dumps(played, indent=1)}\n")


def rehearse(made: Loop) -> None:
    """Let the base model be a worse candidate. Where it is not detected, the entry says so."""
    served = ["--rate", "4"]
    if made.runtime == LLAMACPP:  # It serves the base from a file, too, and slowly.
        served = ["--rate", "1", "--runtime", LLAMACPP, "--worse", str(base_as_file(made.root))]
    answer = made.lockstep("drill", "production", "--incident", "--json", *served, code=None)
    begin, _, rest = answer.partition("{")
    if not rest:
        raise SystemExit(begin)
    incident = f"{{{rest.rpartition('}')[0]}}}".replace(f"{made.root}/", "")
    (made.root / INCIDENT).write_text(f"{incident}\n")


def base_as_file(root: Path) -> Path:
    """Convert the base model as the stage `merge` converts ours, and return the folder with both of its forms."""
    (how, *_) = params_file.load(root / layout.PARAMS).merge.export or ()
    folder = root / "models" / "base-as-file"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / layout.BASE, folder)
    gguf_export.export(root, folder, folder, how)
    return folder


def keep(root: Path, folder: Path) -> int:
    """Write the entry's record into ``folder``, and return its bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    repository.git(root, "bundle", "create", "--quiet", str(folder / "record.bundle"), "main")
    with tarfile.open(folder / "record.tar.xz", "w:xz") as archive:
        archive.add(root / layout.PREDICTIONS, layout.PREDICTIONS.as_posix(), filter=_plain)
    (folder / "params.yaml").write_bytes((root / layout.PARAMS).read_bytes())
    digests = {path.name: digest.of_file(path).sha256 for path in sorted(folder.iterdir())}
    (folder / "record.json").write_text(json.dumps(digests, indent=1) + "\n")
    return sum(path.stat().st_size for path in folder.iterdir())


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who packed the file and when, so that the same files give the same bytes."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def make(root: Path, name: str, size: int) -> None:
    """Run the configuration, release it and operate it. Steps that ``root`` has done already are left out."""
    made = begin(root, name) if not root.exists() else loop_at(root)
    if not (root / layout.ENVIRONMENTS / "production" / layout.POINTER).is_file():
        with made.step("run"):
            made.lockstep("run", "--calibrate")
        made.commit("Record")
        made.release("staging", "production")
    operate(made, size)
    rehearse(made)
    made.commit("A month of operation")


def main() -> None:
    """Make the entry that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", help="a file of docs/configurations, or command")
    parser.add_argument("--folder", type=Path, help="keeps the work; default: a temporary folder")
    parser.add_argument("--requests", type=int, default=600, help="of a window; default: 600")
    options = parser.parse_args()
    params_of(options.name)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory(prefix="lockstep-gallery-") as temporary:
        root = (options.folder or Path(temporary)).resolve() / options.name / "work"
        make(root, options.name, options.requests)
        print(f"docs/gallery/{options.name}: {keep(root, GALLERY / options.name):,} bytes")


if __name__ == "__main__":
    main()
