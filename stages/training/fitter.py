"""Fits the steps of a training: in this process on one device, by ranks (``stages.training.ranks``) on several."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from checks.config.params import Params
from checks.training import steps
from stages import tracking
from stages.training import chain, checkpoints, ranks, step


@dataclass(frozen=True)
class Fitter:
    """Fits a step with what all steps share.

    ``params``: all of params.yaml. ``base``: its digest. ``run``: of the whole training. ``minutes``: between two
    checkpoints. ``device``: its description; ``threads``: of each rank.
    """

    params: Params
    root: Path
    base: str
    run: tracking.Run
    minutes: float
    device: str
    threads: int

    def fit(
        self,
        part: Params,
        its: chain.Given,
        run: tracking.Run,
        store: checkpoints.Store,
        adapter: Path,
        start: chain.Start,
    ) -> chain.Fitted:
        """Train one step, ``part``, and write its adapter. Raises as the stage."""
        work = self._work(part, its, run, store.scratch, adapter, start, store.key)
        if work.ranks > 1:
            ranks.launch("stages.training.step", work, store.scratch)
            return ranks.fitted(store.scratch)
        fitted = step.fit(part, work, its, run, store)
        assert fitted is not None
        return fitted

    def check(self, part: Params, its: chain.Given) -> None:
        """Raise what would stop a later step."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            work = self._work(part, its, self.run, folder, folder, chain.Start(), None)
            if work.ranks == 1:
                step.check(part, work, its)
            else:
                ranks.launch("stages.training.step", work, folder)

    def _work(
        self,
        part: Params,
        its: chain.Given,
        run: tracking.Run,
        scratch: Path,
        adapter: Path,
        start: chain.Start,
        key: str | None,
    ) -> ranks.Work:
        return ranks.Work(
            root=self.root.resolve(),
            params=part.model_dump_json(by_alias=True),
            columns=steps.in_some_rows(self.params.training),
            data=its.data,
            start=start.folder.resolve() if start.folder else None,
            started_from=start.adapter,
            base=self.base,
            run=run.id,
            key=key,
            minutes=self.minutes,
            scratch=scratch.resolve(),
            adapter=adapter.resolve(),
            device=self.device,
            ranks=part.train.devices,
            threads=self.threads,
            parent=os.getpid(),
        )
