"""What GitHub does by the workflow files and act does not: rights, environments, concurrency, limits, forks' secrets.

The files are held to it here; what runs is in tests/repository/test_workflow_pull_request.py.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from checks.storage import layout
from release.doctor import settings
from tests.act_service import ACTIONS
from tests.conftest import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
FILES = [*WORKFLOWS, *sorted((REPOSITORY / ".github" / "actions").glob("*/action.yml"))]
KUBERNETES, PUBLISH, SITE, TESTS = "kubernetes.yml", "publish.yml", "site.yml", "tests.yml"
OURS = (KUBERNETES, PUBLISH, SITE, TESTS)  # of Lockstep itself: a team has no use for them
PINNED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
SECRET = re.compile(r"secrets\.([A-Z_]+)")
ON_DEFAULT_BRANCH = "github.ref == format('refs/heads/{0}', github.event.repository.default_branch)"
BUTTON = "${{ inputs.environment }}"
STAGING = "${{ vars.LOCKSTEP_STAGING || 'staging' }}"
PRODUCTION = "${{ vars.LOCKSTEP_PRODUCTION || 'production' }}"


GPU = ["self-hosted", "gpu"]
GPU_OR_HOSTED = '${{ fromJSON(vars.LOCKSTEP_HOSTED && \'"ubuntu-latest"\' || \'["self-hosted", "gpu"]\') }}'
# The lines of an artifact by which rows travel where there is no bucket.
ROWS = (
    "${{ vars.LOCKSTEP_HOSTED && format('{0}/data', matrix.project.folder) }}",
    "${{ vars.LOCKSTEP_HOSTED && format('!{0}/data/raw', matrix.project.folder) }}",
)
PROJECT = './lockstep -C "$PROJECT"'
THIN = REPOSITORY / "release" / "thin" / ".github" / "workflows"
# By whom: a file of its own gives its job an identity of its own.
CALLED = {"verify.yml": {"release.yml"}, "pages.yml": {"promote.yml", "release.yml", SITE}}
PUSH, PULL, MAIN = "LOCKSTEP_REGISTRY_TOKEN", "LOCKSTEP_REGISTRY_PULL_TOKEN", "LOCKSTEP_TOKEN"
PROTECTED = ("registry", STAGING, PRODUCTION, BUTTON)  # of the default branch alone: docs/how-to/github.md


class Found(NamedTuple):
    """A job that runs. ``name`` is FILE:JOB."""

    name: str
    job: dict[str, Any]


def jobs() -> Iterator[Found]:
    for path in WORKFLOWS:
        for name, job in _load(path)["jobs"].items():
            if "uses" not in job:  # what a caller may, its called job asks for: a test of its own
                yield Found(f"{path.name}:{name}", job)


def secrets(job: dict[str, Any]) -> set[str]:
    return set(SECRET.findall(yaml.safe_dump(job)))


def _writes(job: dict[str, Any]) -> set[str]:
    return {what for what, how in job["permissions"].items() if how == "write"}


def _load(path: Any) -> dict[Any, Any]:
    value: dict[Any, Any] = yaml.safe_load(path.read_text())  # YAML reads the key `on` as true
    return value


def _steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in FILES:
        document = _load(path)
        for holder in [*document.get("jobs", {}).values(), document.get("runs", {})]:
            for step in holder.get("steps", []):
                yield path.name, step


def test_there_are_workflows_to_look_at() -> None:
    assert [path.name for path in WORKFLOWS] == [
        KUBERNETES, "pages.yml", "pr.yml", "promote.yml", PUBLISH, "release.yml", "scheduled.yml", "sealed.yml", SITE, TESTS,
        "verify.yml", "watch.yml",
    ]  # fmt: skip


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_rights_but_its_jobs_own_and_ends_what_it_may(path: Any) -> None:
    document = _load(path)
    assert document["permissions"] == {}
    if path.name in CALLED:  # its caller's group holds it
        assert "concurrency" not in document
    else:
        assert document["concurrency"]["cancel-in-progress"] is (path.name in ("pr.yml", KUBERNETES, TESTS))
    assert "pull_request_target" not in path.read_text()
    for job in (each for each in document["jobs"].values() if "uses" not in each):
        assert 0 < job["timeout-minutes"] <= 1440
        assert "contents" in job["permissions"]
        assert job["runs-on"] in ("ubuntu-latest", GPU, GPU_OR_HOSTED)
        assert job.get("name") != "lockstep", "the check of this name is the verdict's alone"
        assert "lockstep" not in document["jobs"]


def test_what_may_be_written_is_what_the_job_writes() -> None:
    written = {found.name: _writes(found.job) for found in jobs()}
    assert {name: what for name, what in written.items() if what} == {
        "pr.yml:verdict": {"contents", "pull-requests", "checks"},
        "release.yml:build": {"packages"},
        "release.yml:release": {"contents", "id-token", "packages"},
        "promote.yml:move": {"contents"},
        "publish.yml:publish": {"id-token"},
        "sealed.yml:ask": {"contents", "id-token"},
        "verify.yml:verify": {"id-token"},
        "pages.yml:pages": {"id-token", "pages"},
        "watch.yml:watch": {"contents", "pull-requests"},
    }


def test_what_deploys_pages_runs_no_code_of_this_repository_and_only_where_a_variable_asks() -> None:
    """A pull request's author writes what a page says; so the identity of this job meets actions of GitHub alone."""
    (deploy,) = [found.job for found in jobs() if "pages" in _writes(found.job)]
    assert [step["uses"].partition("@")[0] for step in deploy["steps"]] == ["actions/deploy-pages"]
    for name in sorted(CALLED["pages.yml"]):
        called = _load(REPOSITORY / ".github" / "workflows" / name)["jobs"]
        (made,) = [job for job in called.values() if "pages" in job.get("outputs", {})]
        upload = made["steps"][-1]
        variable = "vars.LOCKSTEP_SITE" if name == SITE else "vars.LOCKSTEP_PAGES"
        assert variable in (upload if name == "promote.yml" else made)["if"]
        assert upload["with"]["name"] == made["outputs"]["pages"]


def test_the_gpu_machine_has_one_identity_and_may_write_nothing() -> None:
    on_gpu = [found for found in jobs() if found.job["runs-on"] in (GPU, GPU_OR_HOSTED)]
    assert len(on_gpu) >= 3
    assert {found.name: _writes(found.job) for found in on_gpu if _writes(found.job)} == {
        "verify.yml:verify": {"id-token"}
    }
    for found in on_gpu:
        assert not {PUSH, MAIN} & secrets(found.job), found.name


def test_each_job_that_signs_has_a_file_of_its_own() -> None:
    """Sigstore certifies the file that a job stands in, not the job: two jobs of one file are one signer."""
    signing = [found.name.partition(":")[0] for found in jobs() if "id-token" in _writes(found.job)]
    assert sorted(signing) == ["pages.yml", PUBLISH, "release.yml", "sealed.yml", "verify.yml"]


def test_a_called_workflow_is_called_by_its_own_and_runs_the_default_branch_alone() -> None:
    callers: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for job in _load(path)["jobs"].values():
            if "uses" in job:
                called = REPOSITORY / job["uses"].removeprefix("./")
                callers.setdefault(called.name, set()).add(path.name)
                (inside,) = _load(called)["jobs"].values()
                assert job["permissions"] == inside["permissions"]
                # Without `inherit` the called job has no secret of its environment.
                assert job.get("secrets") == ("inherit" if secrets(inside) else None)
                assert inside["if"] == ON_DEFAULT_BRANCH
                assert set(_load(called)[True]) == {"workflow_call"}
    assert callers == CALLED


def _rights(path: Any) -> dict[str, str]:
    """What the jobs of a workflow may together, those that it calls too."""
    rights: dict[str, str] = {}
    for job in _load(path)["jobs"].values():
        may = _rights(REPOSITORY / job["uses"].removeprefix("./")) if "uses" in job else job["permissions"]
        rights |= {what: how for what, how in may.items() if how != "none" and rights.get(what) != "write"}
    return rights


def test_a_thin_repository_has_a_file_for_each_workflow_that_its_events_start() -> None:
    started = [path.name for path in WORKFLOWS if path.name not in CALLED and "workflow_call" in _load(path)[True]]
    assert sorted(path.name for path in THIN.iterdir()) == started


@pytest.mark.parametrize("path", sorted(THIN.iterdir()), ids=lambda path: path.name)
def test_a_thin_workflow_calls_one_of_lockstep_at_a_commit_for_the_same_events_and_rights(path: Any) -> None:
    called, thin = REPOSITORY / ".github" / "workflows" / path.name, _load(path)
    events = _load(called)[True]
    inputs = (events.pop("workflow_call") or {}).get("inputs", {})
    ((name, job),) = thin["jobs"].items()
    assert job["uses"] == f"OWNER/lockstep/.github/workflows/{path.name}@{'0' * 40}"
    assert (thin["permissions"], job["permissions"], job["secrets"]) == ({}, _rights(called), "inherit")
    assert job.get("with", {}) == {name: f"${{{{ inputs.{name} }}}}" for name in inputs}
    assert _plain(thin[True]) == _plain(events)
    assert (events.get("workflow_dispatch") or {}).get("inputs", {}).keys() == inputs.keys()
    # A group in both files would wait for itself.
    assert "concurrency" not in thin | job
    assert "lockstep" not in (name, job["name"])
    assert path.read_text().count("\n") <= 32


def _plain(events: Any) -> Any:
    """Events without what people read."""
    if not isinstance(events, dict):
        return events
    return {name: _plain(value) for name, value in events.items() if name != "description"}


def test_what_uploads_to_the_package_index_runs_no_code_of_this_repository_and_has_no_token() -> None:
    document = _load(REPOSITORY / ".github" / "workflows" / PUBLISH)
    assert document[True] == {"push": {"tags": ["v*"]}}
    build, publish = document["jobs"].values()
    assert build["steps"][-2]["run"] == '.ci/distribution "$REF"', "a tag of another version builds nothing"
    assert [step["uses"].partition("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact", "pypa/gh-action-pypi-publish",
    ]  # fmt: skip
    assert publish["environment"]["name"] == "pypi"
    assert publish["steps"][-1]["with"] == {"attestations": True, "packages-dir": "dist"}
    assert secrets(document) == set()


def test_the_key_of_the_sealed_rows_is_where_no_pull_request_runs() -> None:
    (asking,) = (found for found in jobs() if "LOCKSTEP_SEALED_KEY" in secrets(found.job))
    assert (asking.name, asking.job["runs-on"]) == ("sealed.yml:ask", "ubuntu-latest")
    assert asking.job["environment"] == PRODUCTION
    assert not any("upload-artifact" in step.get("uses", "") for step in asking.job["steps"])


def test_secrets_lie_in_environments_and_the_token_of_main_in_two_of_them() -> None:
    for found in jobs():
        named = secrets(found.job)
        assert not named or found.job.get("environment"), found.name
        if MAIN in named:
            assert found.job["environment"] in (STAGING, PRODUCTION, BUTTON), found.name
            assert found.job["runs-on"] == "ubuntu-latest"


def test_what_may_push_images_is_given_to_the_jobs_that_push_in_environments_of_main_alone() -> None:
    """Any branch's workflow may name the environment `pipeline`, and read what lies there."""
    pushing = {found.name for found in jobs() if PUSH in secrets(found.job)}
    assert pushing == {found.name for found in jobs() if "packages" in _writes(found.job)}
    for found in jobs():
        if found.name in pushing:
            assert found.job["environment"] in PROTECTED, found.name
        logging_in = any(step.get("uses", "").startswith("docker/login-action@") for step in found.job["steps"])
        assert logging_in is bool({PUSH, PULL} & secrets(found.job)), found.name


def _caches(steps: list[dict[str, Any]]) -> bool:
    """Whether something is restored that another run kept: by an action for it, or by one that sets something up."""
    return any(
        step.get("uses", "").startswith("actions/cache")
        or ("actions/setup-" in step.get("uses", "") and "cache" in step.get("with", {}))
        or (step.get("uses", "").startswith("$/.github/actions/") and step.get("with", {}).get("cache") == "true")
        for step in steps
    )


def test_no_cache_is_restored_where_something_is_signed_pushed_or_written() -> None:
    """A pull request's run, and the GPU machine's, may write what another run restores, and runs."""
    cached = {found.name for found in jobs() if _caches(found.job["steps"])}
    assert cached == {"pr.yml:data", "pr.yml:train", "scheduled.yml:calibrate"}
    for found in jobs():
        if found.name in cached:
            assert not _writes(found.job), found.name
            assert not {PUSH, PULL, MAIN} & secrets(found.job), found.name


def test_the_action_that_sets_up_keeps_nothing_unless_it_is_asked_to() -> None:
    (path,) = FILES[len(WORKFLOWS) :]
    action = _load(path)
    assert action["inputs"]["cache"]["default"] == "false"
    kept = [step for step in action["runs"]["steps"] if _caches([step])]
    # An environment has links to the Python of the machine that made it.
    assert "${{ runner.environment }}" in kept[0]["with"]["key"]
    assert [step["if"] for step in kept] == ["inputs.cache == 'true' && steps.kept.outputs.venv == ''"]


def test_the_runners_page_names_every_secret_that_its_jobs_get() -> None:
    named = {name for found in jobs() if "self-hosted" in found.job["runs-on"] for name in secrets(found.job)}
    text = (REPOSITORY / "docs/how-to/runners.md").read_text()
    assert len(named) >= 4
    assert [name for name in sorted(named) if f"`{name}`" not in text] == []


def test_environments_are_of_those_that_the_settings_page_and_doctor_know() -> None:
    known = {settings.PIPELINE, settings.PUSHING, STAGING, PRODUCTION, BUTTON}
    used = {found.job["environment"] for found in jobs() if isinstance(found.job.get("environment"), str)}
    used |= {found.job["environment"]["name"] for found in jobs() if isinstance(found.job.get("environment"), dict)}
    # GitHub makes the first; the second is of this repository alone.
    assert used == known | {"github-pages", "pypi"}


def test_a_button_moves_the_environment_whose_reviewers_were_asked() -> None:
    by_button = next(found.job for found in jobs() if found.job.get("environment") == BUTTON)
    offered = _load(REPOSITORY / ".github" / "workflows" / "promote.yml")[True]["workflow_dispatch"]["inputs"]
    assert (offered["environment"]["type"], offered["environment"]["required"]) == ("environment", True)
    assert "default_branch" in by_button["if"]
    (moves,) = (step for step in by_button["steps"] if step.get("run") == f'{PROJECT} "$ACTION" -- "$ENVIRONMENT"')
    assert moves["env"]["ENVIRONMENT"] == BUTTON


def test_names_of_environments_are_variables_with_the_defaults_that_doctor_has() -> None:
    for name, role in ((STAGING, settings.STAGING), (PRODUCTION, settings.PRODUCTION)):
        assert name == f"${{{{ vars.LOCKSTEP_{role.upper()} || '{role}' }}}}"
        given = [
            where["env"][role.upper()]
            for found in jobs()
            for where in (found.job, *found.job["steps"])
            if role.upper() in where.get("env", {})
        ]
        assert set(given) == {name}
    scripts = [step["run"] for _, step in _steps() if "run" in step]
    assert not any(role in script.split() for script in scripts for role in settings.ENVIRONMENTS)


def test_nothing_but_the_default_branch_releases_promotes_or_rehearses() -> None:
    """What a schedule starts is of that branch, and its event may not say which that is."""
    first = (None, "projects")  # a called one asks as well
    scheduled = f"(github.event_name == 'schedule' || {ON_DEFAULT_BRANCH})"
    wanted = {"scheduled.yml": scheduled, "watch.yml": f"{scheduled} && vars.LOCKSTEP_CAPTURES"}
    for found in jobs():
        if not found.name.startswith(("pr.yml", *OURS)) and found.job.get("needs") in first:
            begins = {"projects": "vars.LOCKSTEP_PROJECTS && "}.get(found.name.partition(":")[2], "")
            if "needs" in found.job:
                begins = "!cancelled() && needs.projects.result != 'failure' && "
            condition = wanted.get(found.name.partition(":")[0], ON_DEFAULT_BRANCH)
            assert _words(found.job["if"]) == begins + condition, found.name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_tag_with_the_name_of_the_default_branch_starts_nothing(path: Any) -> None:
    """`github.ref_name` is the same for refs/heads/main and refs/tags/main."""
    assert not re.search(r"\b(ref_name|GITHUB_REF_NAME)\b", path.read_text())


def test_a_rollback_waits_for_no_release_and_none_that_waits_is_dropped() -> None:
    groups = {path.name: _load(path)["concurrency"] for path in WORKFLOWS if path.name not in CALLED}
    assert len({each["group"] for each in groups.values()}) == len(groups)
    assert groups["promote.yml"]["queue"] == groups["release.yml"]["queue"] == "max"
    assert groups["promote.yml"]["group"].endswith(BUTTON)


def test_one_label_of_a_fork_or_a_bot_starts_a_run_and_that_run_ends_with_the_next_push() -> None:
    group = _words(_load(REPOSITORY / ".github" / "workflows" / "pr.yml")["concurrency"]["group"])
    data = _words(next(found.job for found in jobs() if found.name == "pr.yml:data")["if"])
    fork = "github.event.pull_request.head.repo.full_name {} github.repository"
    label = "github.event.label.name {} format('run {{0}}', github.event.pull_request.head.sha)"
    bot = "github.event.pull_request.user.type {} 'Bot'"
    people = f"(github.event.action != 'labeled' && {bot.format('!=')})"
    wanted = f"({people} || (({fork.format('!=')} || {bot.format('==')}) && {label.format('==')}))"
    assert data == f"!cancelled() && needs.projects.result != 'failure' && {wanted}"
    listing = _words(next(found.job for found in jobs() if found.name == "pr.yml:projects")["if"])
    assert listing == f"vars.LOCKSTEP_PROJECTS && {wanted}"
    no_stranger = f"({fork.format('==')} && {bot.format('!=')})"
    others = f"github.event.action == 'labeled' && ({no_stranger} || {label.format('!=')})"
    assert group == (
        "pull-request-${{ github.event.pull_request.number }}-"
        f"${{{{ {others} && format('label-{{0}}', github.event.label.name) || 'run' }}}}"
    )


def _words(text: str) -> str:
    return " ".join(text.split())


def test_an_upload_replaces_what_an_attempt_before_left() -> None:
    uploads = [step for _, step in _steps() if step.get("uses", "").startswith("actions/upload-artifact@")]
    assert len(uploads) >= 7
    assert all(step["with"]["overwrite"] is True for step in uploads)


def test_the_record_takes_one_hidden_file_with_it_and_no_other_artifact_takes_any() -> None:
    uploads = [step["with"] for _, step in _steps() if step.get("uses", "").startswith("actions/upload-artifact@")]
    hidden = [each for each in uploads if each.get("include-hidden-files")]
    assert [each["name"] for each in hidden] == ["record${{ matrix.project.of }}"] * 2
    folder = "${{ matrix.project.folder }}/"
    names = ("code.lock", "dvc.lock", "reports", layout.REFUSAL)
    for each in hidden:
        first, *paths = each["path"].splitlines()
        assert first == "code.lock", "paths in the artifact begin at the git root"
        paths = [path for path in paths if path not in ROWS]
        assert [path for path in paths if not path.startswith("!")] == [f"{folder}{name}" for name in names]
        assert [path for path in paths if path.startswith("!")] == [f"!{folder}reports/**/.*"]


def test_rows_leave_the_last_training_job_alone_and_only_where_the_repository_asks_for_it() -> None:
    uploads = [step["with"] for _, step in _steps() if step.get("uses", "").startswith("actions/upload-artifact@")]
    with_data = [re.findall(r".*\bdata['\s/].*", f"{upload['path']}\n") for upload in uploads]
    of_reports = [["${{ matrix.project.folder }}/data/data_docs"], ["${{ matrix.project.folder }}/data/comparison"]]
    assert [lines for lines in with_data if lines and lines not in of_reports] == [list(ROWS)]


def test_the_record_of_a_training_is_kept_before_anything_comes_after_it() -> None:
    steps = next(found.job["steps"] for found in jobs() if found.name == "pr.yml:train")
    trained = next(place for place, step in enumerate(steps) if step.get("run") == f"exec {PROJECT} run train")
    assert steps[trained + 1]["with"]["name"] == "record${{ matrix.project.of }}"
    assert "if" not in steps[trained + 1]
    assert steps[trained + 2]["run"] == f"{PROJECT} run"


def test_what_another_job_made_is_unpacked_beside_the_checkout_and_a_command_takes_the_record_by_name() -> None:
    """Unpacked over the checkout, an artifact could bring the launcher, its environment, kinds or git's settings."""
    taking = {}
    for found in jobs():
        steps = found.job["steps"]
        places = {step["with"]["path"] for step in steps if "actions/download-artifact@" in step.get("uses", "")}
        if places and not found.name.startswith(OURS):
            named = [(step, name) for step in steps for name, value in step.get("env", {}).items() if value in places]
            ((step, name),) = named
            assert steps.index(step) > max(
                steps.index(each) for each in steps if each.get("with", {}).get("path") in places
            )
            taking[found.name] = (*places, name, step["run"])
    record, reports = "${{ runner.temp }}/record", "${{ runner.temp }}/reports"
    assert taking == {
        "pr.yml:train": (record, "LOCKSTEP_RUN_ARTIFACT", f"exec {PROJECT} run train"),
        "pr.yml:verdict": (record, "LOCKSTEP_RECORD_ARTIFACT", "./lockstep record"),
        "release.yml:release": (reports, "LOCKSTEP_SIGN_ARTIFACT", f"{PROJECT} sign"),
        "verify.yml:verify": (reports, "LOCKSTEP_VERIFY_ARTIFACT", f"{PROJECT} verify"),
    }


def test_what_jobs_of_a_project_make_and_move_has_its_name() -> None:
    """Two projects of one run would else replace each other's artifacts, or wait for each other's moves."""
    several = [found for found in jobs() if "PROJECT" in found.job.get("env", {})]
    assert len(several) == 9
    for found in several:
        ending = {"${{ inputs.project }}": "${{ inputs.of }}"}.get(
            found.job["env"]["PROJECT"], "${{ matrix.project.of }}"
        )
        for step in found.job["steps"]:
            if "-artifact@" in step.get("uses", ""):
                assert step["with"]["name"].endswith(ending), found.name
            run = step.get("run", "").removeprefix("exec ")
            listing = run.startswith(("./lockstep projects", "./lockstep page --out public"))
            assert not run or listing or run.startswith((PROJECT, './lockstep dvc --cd "$PROJECT"')), found.name
    for name in ("promote.yml", "sealed.yml"):
        assert "-${{ inputs.project }}" in _load(REPOSITORY / ".github" / "workflows" / name)["concurrency"]["group"]


def test_mlflows_login_is_where_mlflow_is_asked() -> None:
    login = {f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN")}
    given = {}
    for found in jobs():
        for step in found.job["steps"]:
            if named := {name for name in SECRET.findall(yaml.safe_dump(step)) if name.startswith("MLFLOW")}:
                given[f"{found.name}: {step['run']}"] = named
    assert given == {
        f"pr.yml:train: exec {PROJECT} run train": login,
        f"pr.yml:train: {PROJECT} run": login,
        f'release.yml:release: {PROJECT} promote -- "$STAGING"': login,
        f'promote.yml:move: {PROJECT} "$ACTION" -- "$ENVIRONMENT"': login,
        f"scheduled.yml:rehearse: {PROJECT} reconcile": login,
    }


def test_code_of_a_fork_or_a_bot_meets_the_gpu_machine_by_a_label_on_its_commit_alone() -> None:
    train = next(found.job for found in jobs() if found.name == "pr.yml:train")
    verdict = next(found.job for found in jobs() if found.name == "pr.yml:verdict")
    home = "github.event.pull_request.head.repo.full_name == github.repository"
    label = "contains(github.event.pull_request.labels.*.name, format('run {0}', github.event.pull_request.head.sha))"
    people = f"({home} && github.event.pull_request.user.type != 'Bot')"
    assert _words(train["if"]) == f"!cancelled() && needs.data.result == 'success' && ({people} || {label})"
    assert home in verdict["if"]
    assert "||" not in verdict["if"]
    for job in (train, verdict):
        checkout = next(step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@"))
        assert checkout["with"]["ref"] == "${{ github.event.pull_request.head.sha }}"


def test_actions_are_pinned_and_stood_in_for_with_every_input_that_is_given() -> None:
    used = [(where, step) for where, step in _steps() if "uses" in step and not step["uses"].startswith("$/")]
    assert len(used) > 10
    for where, step in used:
        assert PINNED.fullmatch(step["uses"]), f"{where}: {step['uses']}"
        stand_in = _load(ACTIONS / step["uses"].partition("@")[0].partition("/")[2] / "action.yml")
        assert set(step.get("with", {})) <= set(stand_in["inputs"]), f"{where}: {step['uses']}"


def test_no_checkout_keeps_its_token() -> None:
    checkouts = [step for _, step in _steps() if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_no_expression_reaches_a_script() -> None:
    scripts = [step["run"] for _, step in _steps() if "run" in step]
    assert len(scripts) > 10
    assert not any("${{" in script for script in scripts)


def test_expressions_ask_for_no_variable_of_the_machine() -> None:
    """`env` has what workflow files set; act shows what the machine sets, too, and GitHub does not."""
    documents = [_load(path) for path in FILES]
    holders = [*documents, *(job for document in documents for job in document.get("jobs", {}).values())]
    named = {name for holder in holders for name in holder.get("env", {})}
    asked = {name for path in FILES for name in re.findall(r"\benv\.(\w+)", path.read_text())}
    assert asked <= named


def test_steps_are_commands_of_lockstep() -> None:
    """Workflows hold no logic: no script of more than one line, and none that is not ./lockstep, but for DVC's login."""
    scripts = [step["run"].strip() for path, step in _steps() if "run" in step and path not in ("action.yml", *OURS)]
    assert all(script.removeprefix("exec ").startswith("./lockstep ") and "\n" not in script for script in scripts), (
        scripts
    )


def test_the_tests_on_a_real_kubernetes_may_only_read_and_know_no_secret() -> None:
    document = _load(REPOSITORY / ".github" / "workflows" / KUBERNETES)
    assert [step["run"] for path, step in _steps() if path == KUBERNETES and "run" in step] == [
        ".ci/kubernetes api", '.ci/kubernetes node "$NODE_IMAGE"',
    ]  # fmt: skip
    assert all(job["permissions"] == {"contents": "read"} and not secrets(job) for job in document["jobs"].values())
    nodes = document["jobs"]["node"]["strategy"]["matrix"]["include"]
    assert all(re.fullmatch(r"kindest/node:v1\.\d+\.\d+@sha256:[0-9a-f]{64}", node["image"]) for node in nodes)


def test_all_tests_run_in_a_container_that_is_pinned_and_once_a_week_the_long_ones_too() -> None:
    """What a pull request changes runs as root there; so it gets no secret, and the registry cannot exchange its image."""
    (job,) = _load(REPOSITORY / ".github" / "workflows" / TESTS)["jobs"].values()
    assert job["permissions"] == {"contents": "read"}
    assert not secrets(job)
    assert re.fullmatch(r"python:3\.11-slim-trixie@sha256:[0-9a-f]{64}", job["env"]["IMAGE"])
    assert job["env"]["LOCKSTEP_EXHAUSTIVE"] == "${{ github.event_name != 'pull_request' && '1' || '' }}"
    checkout, tested = job["steps"]
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}
    assert tested["run"].endswith('--env LOCKSTEP_EXHAUSTIVE --env PIP_EXTRA_INDEX_URL "$IMAGE" .ci/run')
