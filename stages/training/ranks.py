"""Several processes of one training on one machine (ranks), started by the agent behind `torchrun`, in this process.

The stage checks its inputs, opens MLflow's run and the checkpoints, and writes the reports; it computes nothing. Each
rank reads ``step.json`` from a folder that all share, and trains on its part of every batch. Rank 0 alone writes: the
adapter, checkpoints, points of the curve, and ``fitted.json``. A rank that refuses or fails leaves the reason in
``ended-RANK.json``; then the agent ends the others, and the stage raises it once.
"""

import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import BaseModel, ConfigDict

from checks.process import errors
from checks.process.errors import EvidenceRefused, MachineRefused, Refusal
from checks.storage import files
from stages.training.training_steps import FittedStep, TrainingStep

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_STEP, _FITTED, _ENDED = "step.json", "fitted.json", "ended-{}.json"
_PATIENCE = 5  # seconds for a rank that was told to end
_WATCH = 0.5  # seconds between two looks at whether the stage still lives
# The agent passes these on.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class _Ended(BaseModel):
    """Why a rank ended. ``refusal``: the name of its class; None for a fault, whose traceback is ``what``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: float  # seconds since the epoch
    refusal: str | None
    what: str
    todo: str = ""
    others: tuple[str, ...] = ()


def launch(module: str, step: TrainingStep) -> None:
    """Run ``python -m module FOLDER`` once for each rank of ``step``, until all are done; ``fitted`` has the result.

    The folder is the ``scratch`` of the step.

    Raises the refusal of the first rank that refused; MachineRefused if a rank was killed; RuntimeError with the
    traceback of the first rank that failed otherwise.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            # What it says is said below, in one line.
            logging.getLogger(name).setLevel(logging.CRITICAL)
    folder = step.scratch
    files.write_json(folder / _STEP, step)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=step.ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=_PATIENCE,
        # Rank 0 speaks for all.
        logs_specs=DefaultLogsSpecs(
            str(folder / "logs"), dict.fromkeys(range(1, step.ranks), Std.ALL)
        ),
    )
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        elastic_launch(config, sys.executable)("-m", module, str(folder))
    except ChildFailedError as error:
        _raise(step, error.failures)
    except SignalException as error:
        _restore(handlers)
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        os.kill(os.getpid(), error.sigval)
        raise
    finally:
        _restore(handlers)


def fitted(step: TrainingStep) -> FittedStep:
    """Return what the ranks of ``step`` left."""
    return files.read_json(step.scratch / _FITTED, FittedStep)


def work(folder: Path, fit: Callable[[TrainingStep, int], FittedStep | None]) -> NoReturn:
    """Be one rank: train the step in the folder, and leave there how it ended. ``fit`` gets the step and the rank."""
    index = int(os.environ["RANK"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the stage says that it was interrupted
    warnings.simplefilter("ignore", FutureWarning)
    step = files.read_json(folder / _STEP, TrainingStep)
    threading.Thread(target=_end_with, args=[step.parent], daemon=True).start()
    code, ended = 0, None
    try:
        result = fit(step, index)
        if result and index == 0:
            files.write_text(folder / _FITTED, result.model_dump_json())
    except Refusal as refusal:
        code = refusal.exit_code
        ended = _Ended(
            at=time.time(), refusal=type(refusal).__name__, what=refusal.what, todo=refusal.todo, others=refusal.others
        )  # fmt: skip
    except BaseException:  # noqa: BLE001 - the stage raises it
        code = 1
        ended = _Ended(at=time.time(), refusal=None, what=traceback.format_exc())
    if ended:
        files.write_text(folder / _ENDED.format(index), ended.model_dump_json())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once: threads of libraries would wait for ranks that are gone


def _end_with(parent: int) -> None:
    """End this process when the stage is gone: a stage that was killed could not end its ranks."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def _raise(step: TrainingStep, ends: Mapping[int, "ProcessFailure"]) -> NoReturn:
    """Raise what ended the training; ``ends``: how the agent saw all ranks end, also those that it ended itself."""
    failures = {}
    for rank in range(step.ranks):
        try:
            failures[rank] = files.read_json(step.scratch / _ENDED.format(rank), _Ended)
        except EvidenceRefused:
            continue
    for _, ended in sorted(failures.items()):
        if ended.refusal:
            kind: Any = getattr(errors, ended.refusal)
            raise kind(ended.what, ended.todo, ended.others)
    # The agent ends the other ranks by SIGTERM, and after _PATIENCE by SIGKILL; a rank may abort without the others.
    latest = min((ended.at for ended in failures.values()), default=math.inf) + _PATIENCE - 1
    killed = {rank: end.exitcode for rank, end in ends.items() if end.exitcode < 0}
    reasons = {
        rank: code
        for rank, code in killed.items()
        if code != -signal.SIGTERM
        and ends[rank].timestamp < latest
        and not (failures and code == -signal.SIGABRT)
    }
    if reasons or (not failures and len(killed) == len(ends)):
        rank, code = min((reasons or killed).items())
        sys.stderr.write("\n")  # after the progress bar that rank 0 left
        goes_on = (
            "it goes on from the last checkpoint"
            if step.minutes
            else "it starts from the beginning"
        )
        raise MachineRefused(
            f"rank {rank} of {step.ranks} was ended by {signal.Signals(-code).name}, and the training with it",
            f"run the same command again: {goes_on}; a machine that is out of memory ends processes so",
        )
    if failures:
        first = min(failures, key=lambda rank: failures[rank].at)
        raise RuntimeError(f"rank {first} of {step.ranks} failed:\n{failures[first].what}")
    codes = {rank: end.exitcode for rank, end in sorted(ends.items())}
    raise RuntimeError(f"ranks ended with {codes}, and left no reason")


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
