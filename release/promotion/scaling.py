"""Warns of a number of servers that a move of an environment hands from git to a scaler."""

from checks.storage import layout
from release.overlay import environment_file, scaling
from release.promotion.environment import EnvironmentState
from release.promotion.types import PromotionContext


def warning(context: PromotionContext, environment: str, present: EnvironmentState) -> str | None:
    """Return what to do before the cluster applies files with a new scaler; None if it is as at the last move."""
    if present.pointer is None or not scaling.scaled(environment, present.files):
        return None
    last, *_ = context.ledger.moves(context.tip, environment)
    if scaling.scaled(environment, context.ledger.files(last.landed, layout.ENVIRONMENTS)):
        return None
    namespace = environment_file.namespace(environment, present.files)
    return (
        f"since the last move a scaler sets the number of servers of {environment}. If the cluster has not applied "
        f"that yet, hand the number over first, else it falls to 1 ({scaling.PAGE}): "
        f"{scaling.hand_over(str(namespace))}"
    )
