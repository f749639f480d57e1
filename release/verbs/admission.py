"""admission: a policy with which a cluster itself refuses what was not promoted to an environment."""

from collections.abc import Callable, Mapping
from pathlib import Path

from checks.storage import plain_yaml
from release.promotion import context
from release.promotion.admission import kubernetes, kyverno, policy_controller
from release.promotion.admission.admitted import Admitted, Policy, admitted

CONTROLLERS: Mapping[str, Callable[[Admitted], Policy]] = {
    "kubernetes": kubernetes.policy,
    "kyverno": kyverno.policy,
    "policy-controller": policy_controller.policy,
}


def admission(root: Path, environment: str, controller: str, target: str | None = None) -> str:
    """Return the policy for ``controller`` as YAML, of one object or several; the same state gives the same bytes.

    Comments at its top say what the controller cannot check.

    ``target`` is the branch whose signers count. Raises as ``context.deciding``, ``admitted`` and the maker of the
    policy.
    """
    allowed = admitted(context.deciding(root, target), environment)
    made = CONTROLLERS[controller](allowed)
    of_signers = allowed.notes if made.compares_signers else ()
    lines = (*allowed.exceptions, *of_signers, *made.notes)
    notes = "".join(f"# {note}\n" for note in lines)
    return notes + "---\n".join(plain_yaml.dump(document) for document in made.documents)
