"""All kinds of gate, found by name.

A kind is one module of this folder, or of a package of a user (entry points of the group ``lockstep.gates``):
``checks.gating.gate_kind`` says what it must have.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Union, get_args

from pydantic import Field

from checks import digest, plugins
from checks.gating.gate_kind import GateKind, Reads, ScoreGate

GROUP = "lockstep.gates"


def _kind_in(found: object) -> type[GateKind]:
    kind: type[GateKind] = plugins.subclass_of(GateKind)(found)
    if kind.reads not in get_args(Reads):
        raise plugins.Unfit(f"reads {kind.reads!r}, which is none of {', '.join(get_args(Reads))}")
    return kind


KINDS = plugins.collect(GROUP, sys.modules[__name__], _kind_in, plugins.tag, lambda kind: kind.rank)

if TYPE_CHECKING:
    Gate = GateKind
else:
    Gate = Annotated[Union[tuple(KINDS.kinds.values())], Field(discriminator="kind")]  # noqa: UP007 - of a tuple


def policy_digest(gates: Mapping[str, Gate]) -> str:
    """Digest of the gates section."""
    return digest.of_json({name: gate.model_dump(mode="json") for name, gate in gates.items()})


def decided_at(gates: Mapping[str, Gate]) -> dict[str, Gate]:
    """The gates with the confidence at which they decide.

    A gate of kind ``looks`` divides the error of every test among the models that the test split may judge
    (Bonferroni): 95 % for 20 models is 99.75 % for each. The same models are asked the samples of suites, and people
    label their answers, so those tests are divided, too.
    """
    shares = max((gate.shares for gate in gates.values()), default=1)
    return {
        name: gate.model_copy(update={"confidence": 1 - (1 - gate.confidence) / shares})
        if shares > 1 and isinstance(gate, ScoreGate) and "confidence" in type(gate).model_fields
        else gate
        for name, gate in gates.items()
    }
