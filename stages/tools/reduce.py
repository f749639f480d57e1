"""Reduces raw rows to those that prepare would keep, on many cores or on a Ray cluster, and pins them.

For more raw rows than one machine holds. prepare makes the same splits of the result as of the raw rows, but for
``source``, which names the place in the result; there, each row names its raw place.

    python -m stages.tools.reduce RAW OUT                  on this machine's cores
    python -m stages.tools.reduce RAW OUT --engine ray     on the cluster of RAY_ADDRESS, or on a local Ray

In: the files of RAW, and ``prepare`` of params.yaml, whose loader is ``table``. Out: OUT/part-*.jsonl and
OUT/manifest.json (``stages.reducing.Manifest``), and on standard output what to write in params.yaml. The extra ``ray``
has Ray. Clone, environment, RAW and OUT have the same path on each node.
"""

import fcntl
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import yaml

from checks.config import params_file
from checks.config.params import Params
from checks.process import distribution
from checks.process.errors import DataRefused, MachineRefused, Refusal
from checks.storage import digest, files, layout
from stages import progress, reducing
from stages.loaders import table
from stages.reducing import Done, Job, Manifest
from stages.sources import uris

# An engine returns results in the order of the tasks.
Engine = Callable[[Callable[[Any], Done], Sequence[Any]], Iterable[Done]]


def reduce(params: Params, raw: Path, out: Path, engine: Engine) -> tuple[Job, Manifest]:
    """Write the parts and their manifest.

    Raises DataRefused if rows cannot be read, none is kept, or ``out`` exists, is the root or lies in ``raw``;
    MachineRefused if a file cannot be written, or another run writes ``out``.
    """
    if not out.name:
        raise DataRefused(f"{out}: is no folder to write", "name another folder")
    if out.is_relative_to(raw):  # the next run would read it
        raise DataRefused(
            f"{out}: is inside {raw}, the folder that is read", "name a folder outside it"
        )
    try:
        with _alone(out):
            if out.exists():
                raise DataRefused(f"{out}: exists", "name another folder, or remove it")
            return _reduced(params, raw, out, engine)
    except OSError as error:
        raise MachineRefused(
            f"{error.filename or out}: {error.strerror or error}",
            f"free space, or end another run that writes {out.name}, and run it again",
        ) from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold ``out`` alone: a run deletes what killed runs left beside it. The lock goes with the process."""
    path = out.with_name(f"{out.name}.reducing")  # a name with .lock could be a file of other tools
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = os.fstat(handle.fileno()).st_nlink > 0  # else the other run has just ended
        except BlockingIOError:
            locked = False
        if not locked:
            raise MachineRefused(
                f"{out}: another run is writing it", "wait until it ends, or name another folder"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _reduced(params: Params, raw: Path, out: Path, engine: Engine) -> tuple[Job, Manifest]:
    with files.replacing_folder(out) as folder:
        job = reducing.job(params, raw, folder.parent / "rows", folder)
        names = [
            path.relative_to(raw).as_posix() for path in table.matching(job.raw_loader.files, raw)
        ]
        first = _run(engine, partial(reducing.read, job), "read", " files", list(enumerate(names)))
        manifest = reducing.manifest(
            job,
            first,
            (
                _run(
                    engine,
                    partial(reducing.compare, job),
                    "compare",
                    " parts",
                    list(range(reducing.PARTS)),
                )
            ),
        )
        if not manifest.kept_rows:
            raise DataRefused(
                f"{raw}: none of {manifest.input_rows:,} rows is kept", "drop less in prepare.rules"
            )
        files.write_json(folder / "manifest.json", manifest)
    return job, manifest


def _run(
    engine: Engine, task: Callable[[Any], Done], what: str, unit: str, tasks: Sequence[Any]
) -> list[Done]:
    return list(progress.of_rows(what, engine(task, tasks), len(tasks), unit))


def local(workers: int) -> Engine:
    """As many processes on this machine."""

    def run(task: Callable[[Any], Done], tasks: Sequence[Any]) -> Iterator[Done]:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            try:
                yield from pool.map(task, tasks)
            except BrokenProcessPool as error:
                raise MachineRefused(
                    "a process was killed, as where memory is full", "use fewer --workers"
                ) from error

    return run


def ray() -> Engine:
    """Tasks of one core each on Ray. Raises MachineRefused without it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with distribution.needed("--engine ray needs Ray", "ray"):
        import ray

    def run(task: Callable[[Any], Done], tasks: Sequence[Any]) -> Iterator[Done]:
        try:
            ray.init(log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
        except Exception as error:  # whatever keeps it from starting, or from reaching the cluster
            raise MachineRefused(
                f"Ray: {uris.reason(error, '')}", "look at RAY_ADDRESS and at Ray's log"
            ) from error
        try:
            remote = ray.remote(num_cpus=1)(lambda part: task(part))
            for reference in [remote.remote(task) for task in tasks]:
                yield ray.get(reference)
        except ray.exceptions.RayError as error:
            if isinstance(cause := getattr(error, "cause", None), Refusal):
                raise cause from error
            raise MachineRefused(
                f"Ray: {uris.reason(error, '')}",
                "look at Ray's log, and whether its nodes have the same paths",
            ) from error

    return run


def pin(out: Path, job: Job) -> str:
    """Return what to write in params.yaml."""
    loader = job.loader.model_dump(mode="json", exclude_none=True)
    data = {"uri": str(out), "sha256": digest.of_tree(out).digest.removeprefix("sha256:")}
    return str(yaml.safe_dump({"data": data, "prepare": {"loader": loader}}, sort_keys=False))


@click.command()
@click.argument("raw", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes of the engine local; without it one for each core.",
)
def main(raw: Path, out: Path, engine: str, workers: int | None) -> None:
    """Write to OUT the rows of RAW that prepare would keep, by prepare.loader and prepare.rules of params.yaml."""
    try:
        params = params_file.load(Path() / layout.PARAMS)
        job, manifest = reduce(
            params,
            raw.resolve(),
            out.resolve(),
            ray() if engine == "ray" else local(workers or os.cpu_count() or 1),
        )
    except Refusal as refusal:
        click.echo("\n".join([str(refusal), *refusal.others]), err=True)
        raise SystemExit(refusal.exit_code) from refusal
    by_rule = ", ".join(f"{count.rule} {count.rows:,}" for count in manifest.rules if count.rows)
    left = f"; left to prepare: {', '.join(manifest.left)}" if manifest.left else ""
    click.echo(
        f"{manifest.input_rows:,} rows in, {manifest.kept_rows:,} kept; {by_rule or 'no rule hit'}{left}",
        err=True,
    )
    click.echo(pin(out, job), nl=False)


if __name__ == "__main__":
    from stages.tools.reduce import main as run  # workers find the functions by this name

    run()
