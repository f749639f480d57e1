"""Keys that params.yaml had in earlier versions: by which version they went, to which section, and why.

``params_file`` refuses them with the reason, and ``params_migration`` moves them for `lockstep upgrade`.
"""

from typing import NamedTuple


class Moved(NamedTuple):
    """Name the version that moved or removed a key. ``to`` is the section that has the key now, or None if none has."""

    version: str
    to: str | None
    todo: str


_TO_BUDGET = (
    "move it to the section train_budget: measured time and money decide no verdict, and `lockstep estimate` "
    "holds its prediction to that section before training"
)
MOVED = {
    **dict.fromkeys(
        ("train_minutes", "gpu_hours", "cost", "hourly_price"),
        Moved("0.2.0", "train_budget", _TO_BUDGET),
    ),
    "latency_p95_seconds": Moved(
        "0.2.0", None, "remove it: no gate asks the latency of evaluate's batches; the comment shows it"
    ),
    "p95_seconds": Moved(
        "0.2.0", None,
        "remove it: `lockstep verify` measures and shows the latency, and no longer decides by it",
    ),
}  # fmt: skip
IS_MOVED = "is no longer a parameter"
