"""admission: a policy with which a cluster itself refuses what was not promoted to an environment."""

from collections.abc import Callable, Mapping
from pathlib import Path

from checks import plain_yaml
from release.promotion import context
from release.promotion.admission import kyverno, policy_controller
from release.promotion.admission.admitted import Admitted, Policy, admitted

CONTROLLERS: Mapping[str, Callable[[Admitted], Policy]] = {
    "kyverno": kyverno.policy,
    "policy-controller": policy_controller.policy,
}


def admission(root: Path, environment: str, controller: str, target: str | None = None) -> str:
    """The policy for ``controller`` as YAML; the same state of the environment gives the same bytes.

    Comments at its top say what the controller cannot check.

    ``target`` is the branch whose signers count. Raises as ``context.find`` and ``admitted``.
    """
    found = admitted(context.find(root, target), environment)
    made = CONTROLLERS[controller](found)
    return "".join(f"# {note}\n" for note in (*found.notes, *made.notes)) + plain_yaml.dump(made.document)
