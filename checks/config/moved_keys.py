"""Keys that params.yaml had in earlier versions: by which version they went, to which place, and why.

``params_file`` refuses them with the reason, and ``params_migration`` moves them for `lockstep upgrade`.
"""

from typing import NamedTuple


class Moved(NamedTuple):
    """A key of an earlier version. ``to``: the section of today that has it; None: no section does.

    ``section``: where it was, ``*`` for any key. ``kind``: only in a section of this kind; None: in each.
    """

    version: str
    section: str
    kind: str | None
    key: str
    to: str | None
    todo: str


_TO_BUDGET = (
    "move it to the section train_budget: measured time and money decide no verdict, and `lockstep estimate` "
    "holds its prediction to that section before training"
)
MOVED = (
    *(
        Moved("0.2.0", "gates.*", "budget", key, "train_budget", _TO_BUDGET)
        for key in ("train_minutes", "gpu_hours", "cost", "hourly_price")
    ),
    Moved(
        "0.2.0", "gates.*", "budget", "latency_p95_seconds", None,
        "remove it: no gate asks the latency of evaluate's batches; the comment shows it",
    ),
    Moved(
        "0.2.0", "serve.verify", None, "p95_seconds", None,
        "remove it: `lockstep verify` measures and shows the latency, and no longer decides by it",
    ),
)  # fmt: skip
