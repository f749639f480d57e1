"""Logs of other tools that `lockstep capture` reads, one module each.

A package of a user adds its own through entry points of the group ``lockstep.logs``. ``release.monitoring.log_kind``
says what a kind must have.
"""

from checks.kinds.registry import Registry
from release.monitoring.log_kind import LogKind

KINDS: Registry[LogKind] = Registry("lockstep.logs", LogKind, lambda kind: kind.name)
