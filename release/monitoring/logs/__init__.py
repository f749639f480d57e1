"""Logs of other tools that `lockstep capture` reads, one module each.

A package of a user adds its own through entry points of the group ``lockstep.logs``. ``release.monitoring.log_kind``
says what a kind must have.
"""

from checks.kinds import plugins
from release.monitoring.log_kind import LogKind

KINDS: plugins.Registry[LogKind] = plugins.Registry(
    "lockstep.logs", LogKind, lambda kind: kind.name
)
