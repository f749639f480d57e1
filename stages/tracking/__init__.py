"""MLflow: one run a training, with parameters, metrics by step, the data's digest, the commit, the adapter's digest.

MLflow mirrors what git holds; nothing is decided on it. A store that cannot be reached refuses
before training starts; one that is lost later costs no training: points are kept and sent again.
Where: MLFLOW_TRACKING_URI, else ``tracking.uri`` (a relative SQLite file lies below the repository).
No message and no report holds a user or password of a URI.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from checks.config.params import Params, Tracking
from checks.process.errors import Refusal
from checks.storage import layout
from checks.training import steps
from stages.tracking import others
from stages.tracking.store import Store, address, deadline, opened, public, refusing

# The branch where a machine checks out a commit alone: an experiment of DVC, GitHub's pull request and push, GitLab.
_BRANCHES = ("DVC_EXP_NAME", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME")
# The pipeline writes these itself while it works.
_WRITTEN = (layout.LOCK, layout.CODE_LOCK, layout.REPORTS)
_LONGEST_NAME = 250  # MLflow's databases take so many characters of a run's name.


class Checkout(NamedTuple):
    """``commit``: None outside git and before the first commit. ``branch``: None where nothing names one.

    ``dirty``: tracked files differ from the commit, other than code.lock, dvc.lock and reports/.
    """

    commit: str | None = None
    branch: str | None = None
    dirty: bool = False


def checkout_of(root: Path) -> Checkout:
    """Return what is checked out at ``root``. Outside git, and on a machine without git, it is empty."""
    try:
        import git

        with git.Repo(root, search_parent_directories=True) as repository:
            commit = repository.head.commit.hexsha
            branch = None if repository.head.is_detached else repository.active_branch.name
            top = Path(str(repository.working_tree_dir))
            written = [
                (root.resolve() / path).relative_to(top.resolve()).as_posix() for path in _WRITTEN
            ]
            edited = repository.git.diff(
                "HEAD", "--name-only", "--no-ext-diff", "--ignore-submodules", "--", ".",
                *(f":(exclude,literal){path}" for path in written),
            )  # fmt: skip
    except (ImportError, ValueError):  # There is no git on this machine, or no commit yet.
        return Checkout()
    except git.GitError:
        return Checkout()
    return Checkout(
        commit, branch or next(filter(None, map(os.environ.get, _BRANCHES)), None), bool(edited)
    )


def name_of_run(params: Params, checkout: Checkout) -> str:
    """Name a training: branch, commit, and each step's method with its rank, such as ``main 9a126a5 sft r16``.

    A ``+`` behind the commit says that files were edited.
    """
    commit = f"{checkout.commit[:7]}{'+' * checkout.dirty}" if checkout.commit else None
    trained = [
        f"{train.method} r{train.lora.r}" if train.lora else f"{train.method} full"
        for train in steps.of(params.training)
    ]
    return " ".join([*filter(None, (checkout.branch, commit)), ", ".join(trained)])[:_LONGEST_NAME]


__all__ = [
    "ADAPTER_TAG",
    "STEP_ADAPTER_TAG",
    "Run",
    "address",
    "annotate",
    "joined",
    "public",
    "revision",
    "run",
]

ADAPTER_TAG = "lockstep.adapter"
# A run below another has this tag: it is a step of a training in several.
STEP_ADAPTER_TAG = "lockstep.step_adapter"
# For each context (training, evaluation, test), a file below the root and its digest.
Data = Mapping[str, tuple[Path, str]]
_PARENT_TAG = "mlflow.parentRunId"
_COMMIT_TAG, _BRANCH_TAG = "mlflow.source.git.commit", "mlflow.source.git.branch"
_PAUSE = 60.0  # seconds before a lost store is tried again
_BATCH = 1000  # metrics that MLflow takes at once


class Run:
    """An active MLflow run."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.id = run_id
        self.uri = public(store.uri)
        self.unsent = 0  # metrics and tags that the store did not take, once the run has ended
        self._store = store
        self._pending: list[Any] = []
        self._tags: dict[str, str] = {}
        self._lost_at: float | None = None

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers at a step; they are kept and sent later if the store does not answer."""
        self._pend([(step, values)])
        self._send()

    def replay(
        self,
        earlier: str,
        points: Iterable[tuple[int, Mapping[str, float]]],
        valid: Iterable[tuple[int, float]],
    ) -> None:
        """Log what the run ``earlier`` logged of this training, in few calls, and tag the run with its id.

        ``points`` and ``valid``: for some steps, the loss curve's values and the loss on the valid split.
        """
        self._pend([*points, *((step, {"valid_loss": loss}) for step, loss in valid)])
        self.tag("lockstep.resumed_from", earlier)

    def tag(self, name: str, value: str) -> None:
        """Set a tag; it is kept and sent later if the store does not answer."""
        self._tags[name] = value
        self._send()

    def end(self, status: str) -> None:
        """Send what is left and end the run: FINISHED, FAILED or KILLED."""
        self.send_rest()
        self._try(self._store.client.set_terminated, status)

    def send_rest(self) -> None:
        """Send what is left, and count in ``unsent`` what the store does not take."""
        self._lost_at = None
        self._send()
        self.unsent = len(self._pending) + len(self._tags)

    def _pend(self, points: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._pending += [
            Metric(name, float(value), now, step)
            for step, values in points
            for name, value in values.items()
        ]

    def _send(self) -> None:
        from mlflow.entities import RunTag

        if self._lost_at is not None and time.monotonic() - self._lost_at < _PAUSE:
            return
        while self._pending or self._tags:
            batch = self._pending[:_BATCH]
            tags = [RunTag(name, value) for name, value in self._tags.items()]
            if not self._try(self._store.client.log_batch, metrics=batch, tags=tags):
                self._lost_at = time.monotonic()
                return
            del self._pending[: len(batch)]
            self._tags.clear()

    def _try(self, call: Callable[..., object], *values: object, **named: object) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            with deadline():
                call(self.id, *values, **named)
        except MlflowException:
            return False
        return True


@contextmanager
def run(params: Params, root: Path, data: Data, parent: Run | None = None) -> Iterator[Run]:
    """A run of the experiment ``tracking.experiment``, with parameters, git commit and data sets logged.

    It has the name that ``name_of_run`` gives. MLflow shows it below its ``parent``. The run ends FINISHED, or
    FAILED with the refusal when the block raises, or KILLED on an interrupt.
    Raises MachineRefused when the store cannot be reached or does not take the run, or a tracker of ``tracking.also``
    is not installed; who trains opens those (``others.opened``).
    """
    others.hold_installed(params.tracking)
    store = opened(params.tracking, root)
    checked_out = checkout_of(root)
    tags = {"lockstep.stage": "train"} | _tags(checked_out)
    if parent:
        tags[_PARENT_TAG] = parent.id
    with refusing(store.uri), deadline():
        run_id = store.client.create_run(
            store.experiment, tags=tags, run_name=name_of_run(params, checked_out)
        ).info.run_id
        _describe(store.client, run_id, params, data)
    current = Run(store, run_id)
    try:
        yield current
    except BaseException as error:
        if isinstance(error, Refusal):
            current.tag("lockstep.refusal", str(error)[:5000])
        current.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    current.end("FINISHED")


def joined(tracking: Tracking, root: Path, run_id: str) -> Run:
    """The run that another process began and will end. Raises MachineRefused when the store cannot be reached."""
    return Run(opened(tracking, root), run_id)


def annotate(
    params: Params,
    root: Path,
    adapter_digest: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    data: Data | None = None,
) -> str:
    """Log metrics, tags and data sets at the newest run with this adapter's digest, or at a new run; return its id.

    Raises MachineRefused if the store cannot be reached or refuses.
    """
    store = opened(params.tracking, root)
    from mlflow.entities import Metric, RunTag

    with refusing(store.uri), deadline():
        runs = store.client.search_runs(
            [store.experiment],
            filter_string=f"tags.`{ADAPTER_TAG}` = '{adapter_digest}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if runs:
            run_id = str(runs[0].info.run_id)
        else:
            current = checkout_of(root)
            made = store.client.create_run(
                store.experiment,
                tags={ADAPTER_TAG: adapter_digest} | _tags(current),
                run_name=name_of_run(params, current),
            )
            run_id = str(made.info.run_id)
            store.client.set_terminated(run_id, "FINISHED")
        now = int(time.time() * 1000)
        store.client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), now, 0) for name, value in metrics.items()],
            tags=[RunTag(name, text) for name, text in tags.items()],
        )
        if data:
            _log_data(store.client, run_id, data)
    return run_id


def revision(root: Path) -> tuple[str | None, bool]:
    """The checked-out commit at ``root``, and whether files were edited since; None outside git."""
    current = checkout_of(root)
    return current.commit, current.dirty


def _tags(current: Checkout) -> dict[str, str]:
    tags = {"lockstep.git.dirty": str(current.dirty).lower()}
    named = ((_COMMIT_TAG, current.commit), (_BRANCH_TAG, current.branch))
    return tags | {name: value for name, value in named if value}


def _describe(client: Any, run_id: str, params: Params, data: Data) -> None:
    """Log the section train, the sources, the baselines, and each data set with its digest."""
    from mlflow.entities import Param

    values = dict(_flat("train", params.training.model_dump(mode="json")))
    for name, source in {"base": params.base, **params.data.pinned}.items():
        values |= {f"{name}.uri": public(source.uri), f"{name}.sha256": source.sha256}
    values["evaluate.baselines"] = ", ".join(params.evaluate.baselines)
    client.log_batch(
        run_id, params=[Param(key, str(value)[:6000]) for key, value in values.items()]
    )
    _log_data(client, run_id, data)


def _log_data(client: Any, run_id: str, data: Data) -> None:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    inputs = []
    for context, (path, digest) in data.items():
        source = CodeDatasetSource({"path": path.as_posix(), "digest": digest})
        # MLflow takes 36 characters at most; the source has all of the digest.
        short = digest.removeprefix("sha256:")[:36]
        inputs.append(
            DatasetInput(
                MetaDataset(source, name=path.stem, digest=short)._to_mlflow_entity(),
                [InputTag("mlflow.data.context", context)],
            )
        )
    client.log_inputs(run_id, datasets=inputs)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    else:
        yield path, value
