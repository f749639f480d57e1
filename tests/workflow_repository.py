"""A repository as a team has it on GitHub: thin, with workflows that call this one's, and nothing of Lockstep's code.

It has a tiny model that knows its rows, a bare remote, a folder as DVC's remote, a registry, and the stand-in for GitHub's
API. Its workflows run under act.
"""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from checks.config import sealed
from checks.process import distribution
from checks.storage import digest, layout
from release.adapters import thin_files
from release.verbs import render
from stages.loaders.table import Table
from tests import overlay_sample, pipeline_repository, projects_tree, tuned
from tests.act_service import COMMIT, LOCKSTEP, Act, Line, Run
from tests.conftest import scaled_down
from tests.github_api_standin import READ_ONLY, TOKEN, StandIn
from tests.once import shared
from tests.pipeline_repository import git
from tests.sigstore_of_jobs import ISSUER

Edit = Callable[[dict[str, Any]], object]
SECOND = "projects/summary"  # where a second project is added
SEALED = 40  # rows of the sealed split
SEALED_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="  # decrypts them
_NOWHERE = "/dev/null/store"  # what everybody can read of DVC's remote: without the login there is nothing behind it


class Pull(NamedTuple):
    """A run of pr.yml, with the comment and the check that it left ("" and {} where it left none)."""

    head: str  # the commit that the run was of
    run: Run
    comment: str
    check: dict[str, Any]

    def stages(self, job: str) -> list[str]:
        """The stages that DVC ran in a job, in order, without the one that always runs."""
        return [stage for stage in self.run.jobs[job].stages if stage != "code"]

    def first_line(self) -> str:
        return self.comment.partition("\n")[0]


def document() -> dict[str, Any]:
    """params.yaml: gates that the tiny model passes and that need no measured noise; a server that a process can be."""
    value = scaled_down()
    value["serve"] |= {"dtype": "fp32", "runtime": "transformers"}
    value["serve"]["probes"] |= {"rows": 8, "max_new_tokens": 6}
    value["serve"]["verify"] |= {"start_seconds": 180, "drain_seconds": 60, "near_tie": 0.05}
    # The runner has no Docker, so the image is verified as a process: production has to take that.
    value["promote"]["environments"]["production"] |= {"served_as_verified": False}
    for name in ("beats_the_base", "keeps_up_with_main", "keeps_up_with_production", "no_slice_falls_behind"):
        del value["gates"][name]
    value["gates"]["routes_well"] |= {"at_least": 0.4}
    value["train"] |= {"learning_rate": 0.01, "max_steps": 20, "batch_size": 8}
    return value


@dataclass
class Team:
    """``work`` is a person's clone. ``store``: DVC's remote. ``hub``: the API's stand-in."""

    work: Path
    origin: Path
    store: Path
    hub: StandIn
    act: Act

    def tip(self, branch: str) -> str:
        """The commit of a branch on the remote."""
        return git(self.origin, "rev-parse", f"refs/heads/{branch}").strip()

    def show(self, branch: str, path: str) -> str:
        """A file of a branch on the remote."""
        return git(self.origin, "show", f"refs/heads/{branch}:{path}")

    def subjects(self, branch: str, since: str = "main") -> list[str]:
        """What a branch has that ``since`` has not, newest first."""
        return git(self.origin, "log", "--format=%s", f"{since}..{branch}").splitlines()

    def change(self, branch: str, edit: Edit, message: str = "A change", base: str = "") -> str:
        """Edit params.yaml on ``branch``, made at ``base`` where it is new, and push it; the commit."""
        git(self.work, "fetch", "--quiet", "--prune", "origin")
        if base:
            git(self.work, "switch", "--quiet", "--no-track", "--force-create", branch, base)
        else:
            git(self.work, "switch", "--quiet", "--force-create", branch, f"origin/{branch}")
        value = yaml.safe_load((self.work / layout.PARAMS).read_text())
        edit(value)
        pipeline_repository.write_params(self.work, value)
        return self.push(branch, message)

    def push(self, branch: str, message: str) -> str:
        """Commit what lies in ``work`` and push it."""
        pipeline_repository.commit(self.work, message)
        git(self.work, "push", "--quiet", "--force", "origin", f"HEAD:refs/heads/{branch}")
        return self.tip(branch)

    def add_project(self, branch: str, base: str) -> str:
        """Push a second project, judged as that at the git root is at ``base``, with a name and namespaces of its own."""
        git(self.work, "fetch", "--quiet", "--prune", "origin")
        git(self.work, "switch", "--quiet", "--no-track", "--force-create", branch, base)
        shared = (".dvc/", ".github/", thin_files.LAUNCHER, str(distribution.PIN), str(layout.SIGNERS))
        names = git(self.work, "ls-files").split()
        for name in (name for name in names if not name.startswith(shared)):
            (self.work / SECOND / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.work / name, self.work / SECOND / name)
        value = yaml.safe_load((self.work / SECOND / layout.PARAMS).read_text())
        value["serve"]["name"] = Path(SECOND).name
        pipeline_repository.write_params(self.work / SECOND, value)
        for environment in ("staging", "production"):
            projects_tree.spaced(self.work / SECOND, environment, f"{Path(SECOND).name}-{environment}")
        return self.push(branch, "A second model")

    def merge(self, branch: str) -> str:
        """As the button does: a merge commit on main."""
        git(self.work, "fetch", "--quiet", "origin")
        git(self.work, "switch", "--quiet", "--force-create", "main", "origin/main")
        git(self.work, "merge", "--quiet", "--no-ff", "-m", f"Merge {branch}", f"origin/{branch}")
        git(self.work, "push", "--quiet", "origin", "main")
        return self.tip("main")

    def pull_request(
        self,
        number: int,
        action: str = "synchronize",
        watch: Callable[[Line], object] = lambda _: None,
        label: str = "",
    ) -> Run:
        """The run of pr.yml for the present commit of a pull request, with what GitHub gives its branch's home."""
        pull = copy.deepcopy(self.hub.pulls[number])
        fork = pull["head"]["repo"]["fork"]
        branch = f"refs/pull/{number}/head" if fork else f"refs/heads/{pull['head']['ref']}"
        sha = pull["head"]["sha"] = git(self.origin, "rev-parse", branch).strip()
        self.hub.pulls[number]["head"]["sha"] = sha
        payload = self._payload() | {"action": action, "number": number, "pull_request": pull}
        if label:
            payload["label"] = {"name": label}
        secrets = {"GITHUB_TOKEN": READ_ONLY} if fork else None
        return self.act.run("pr.yml", "pull_request", payload, sha, secrets=secrets, watch=watch)

    def judged(self, number: int, **more: Any) -> Pull:
        """The same, with what it left. Raises AssertionError when a request's body is not as GitHub describes it."""
        before = len(self.hub.checks)
        run = self.pull_request(number, **more)
        said, made = self.hub.on(number), self.hub.checks[before:]
        assert self.hub.refused == []
        head = self.hub.pulls[number]["head"]["sha"]
        return Pull(head, run, said[-1]["body"] if said else "", made[-1] if made else {})

    def pushed(self, before: str) -> Run:
        """The run of release.yml for a push that main is at now."""
        sha = self.tip("main")
        payload = self._payload() | {"ref": "refs/heads/main", "before": before, "after": sha}
        return self.act.run("release.yml", "push", payload, sha)

    def dispatch(self, workflow: str, inputs: Mapping[str, str]) -> Run:
        """The run of a workflow that somebody starts on main."""
        payload = self._payload() | {"ref": "refs/heads/main", "inputs": dict(inputs)}
        return self.act.run(workflow, "workflow_dispatch", payload, self.tip("main"))

    def scheduled(self) -> Run:
        """The weekly run. Its event is as GitHub documents it: nothing but the schedule."""
        return self.act.run("scheduled.yml", "schedule", {"schedule": "17 4 * * 1"}, self.tip("main"))

    def _payload(self) -> dict[str, Any]:
        owner, _, name = self.hub.repository.partition("/")
        return {
            "repository": {
                "full_name": self.hub.repository,
                "name": name,
                "owner": {"login": owner},
                "default_branch": "main",
                "fork": False,
            },
            "sender": {"login": "ada", "id": 7},
        }


def make(folder: Path, base: Path, document: dict[str, Any], hub: StandIn, wheel: Path, image: str = "") -> Team:
    """Lay out a team's repository below ``folder``; nothing has been run in it. ``image``: where releases are pushed."""
    work, origin, store = folder / "work", folder / "origin.git", folder / "store"
    work.mkdir(parents=True)
    store.mkdir()
    rows = pipeline_repository.table()
    taught(base, rows, folder / "taught")
    secret = sealed_rows(document, rows[4::2][:SEALED])
    pipeline_repository.make(work, folder / "taught", document, rows, code=())
    act = Act(folder / "act", origin, hub.url, hub.repository, loaded=True, wheel=wheel)
    thin(work, act.pin())
    for name in ("staging", "production"):
        overlay_sample.pin(work / layout.ENVIRONMENTS, name)
    (work / layout.REFERENCES).unlink()  # of a repository that git knew nothing of
    shared = (work / ".dvc" / "config").read_text().replace("[core]\n", "[core]\n    remote = store\n")
    (work / ".dvc" / "config").write_text(shared + _remote(_NOWHERE))
    signers = [
        {
            "name": name,
            "may": [role],
            "identity": f"https://github.com/{LOCKSTEP}/.github/workflows/{role}.yml",
            "commits": [COMMIT],
            "caller": f"https://github.com/{hub.repository}/.github/workflows/{caller}.yml@refs/heads/main",
            "issuer": ISSUER,
        }
        for name, role, caller in (
            ("verifier", "verify", "release"), ("ci", "release", "release"), ("sealer", "sealed", "sealed"),
        )
    ]  # fmt: skip
    (work / layout.SIGNERS).parent.mkdir(parents=True)
    (work / layout.SIGNERS).write_text(yaml.safe_dump(signers))
    (work / layout.SEALED).write_bytes(secret)
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    git(work, "remote", "add", "origin", str(origin))
    pipeline_repository.commit(work, "A team's repository")
    git(work, "push", "--quiet", "--set-upstream", "origin", "main")
    git(work, "remote", "set-head", "origin", "main")
    act.secrets = {"GITHUB_TOKEN": TOKEN, "DVC_CONFIG_LOCAL": _remote(str(store)), sealed.VARIABLE: SEALED_KEY}
    act.variables = {"LOCKSTEP_IMAGE": image, "LOCKSTEP_VERIFY_RUNTIME": "transformers", "LOCKSTEP_PAGES": "yes"}
    act.variables["LOCKSTEP_REGISTRY"] = image.partition("/")[0]
    for name in ("LOCKSTEP_REGISTRY_TOKEN", "LOCKSTEP_REGISTRY_PULL_TOKEN"):
        act.secrets[name] = "none is asked for"
    return Team(work, origin, store, hub, act)


def thin(root: Path, requirements: str) -> None:
    """Put what `lockstep init --workflows` generates, the environments and the pin into ``root``."""
    environments = {name: data for name, data in thin_files.templates().items() if name.startswith("release/")}
    for name, data in (environments | thin_files.generated(f"{LOCKSTEP}@{COMMIT}")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / thin_files.LAUNCHER).chmod(0o755)
    for name in ("staging", "production"):
        render.render(root, name)
    (root / distribution.PIN).write_text(requirements)


def sealed_rows(document: dict[str, Any], rows: list[dict[str, str]]) -> bytes:
    """Encrypt these rows, and pin them. They are in the other splits too, so the gate of unseen rows allows that."""
    told = {"role": "system", "content": pipeline_repository.LOADER["instruction"]}
    lines = [
        sealed.SealedLine.model_validate(
            {"messages": [told, {"role": "user", "content": row["prompt"]}], "reference": row["reference"]}
        )
        for row in rows
    ]
    data = sealed.encrypt(sealed.rows_of(lines, range(len(lines))), SEALED_KEY.encode())
    gates = {
        "right": {
            "kind": "threshold", "metric": "exact-match", "at_least": 0.2, "confidence": 0.95, "resolution": 0.4,
        },
        "unseen": {
            "kind": "contamination", "ngram": 13, "max_ngram_share": 1.0, "shingle": 5, "similarity": 0.8,
            "max_near_duplicate_share": 1.0,
        },
    }  # fmt: skip
    pin = digest.of_bytes(data).removeprefix("sha256:")
    document["sealed"] = {"sha256": pin, "rows": len(rows), "max_looks": 3, "gates": gates}
    return data


def taught(base: Path, rows: list[dict[str, str]], folder: Path) -> None:
    """Copy ``base`` to ``folder`` and teach it the rows so far that a few steps of training make it good, or spoil it."""
    asked = loaded(rows, folder.parent / "taught-rows")
    key = digest.of_json([digest.of_tree(base).digest, rows]).removeprefix("sha256:")[:12]
    shutil.copytree(shared(f"taught-{key}", lambda made: tuned.tune(base, made, asked, 400)), folder)


def loaded(rows: list[dict[str, str]], source: Path) -> list[tuple[Any, str]]:
    """The messages and the answer of each row, as prepare makes them; ``source``: a folder for the file of rows."""
    source.mkdir()
    (source / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loader = Table.model_validate(pipeline_repository.LOADER)
    return [(draft.messages, draft.reference) for draft in loader.load(source)]


def _remote(url: str) -> str:
    return f"['remote \"store\"']\n    url = {url}\n"
