"""Sigstore as jobs under act find it: the package itself, with a stand-in for its services (tests/sigstore_standin.py).

The network that the package asks is replaced, no more: who a job is (GitHub's OpenID Connect), a certificate and log entry
for what it signs (Fulcio, Rekor), and whether there are newer roots of trust (TUF). ``prepare`` lays a sitecustomize into
a virtual environment, which arranges that for every Python of a job as soon as the package is imported there.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ISSUER = "https://token.actions.githubusercontent.com"


def prepare(packages: Path, folder: Path) -> None:
    """``packages``: of the virtual environment. ``folder``: where the services' keys are kept.

    The keys are made here, because jobs that run at the same time would make different ones.
    """
    from tests.sigstore_standin import Standin

    Standin(folder)
    here = Path(__file__).resolve().parent.parent
    lines = [
        "import sys",
        f"sys.path.append({str(here)!r})",
        "from tests import sigstore_of_jobs",
        f"sigstore_of_jobs.arrange({str(folder)!r})",
    ]
    (packages / "sitecustomize.py").write_text("\n".join(lines) + "\n")


def arrange(folder: str) -> None:
    sys.meta_path.insert(0, _Finder(Path(folder)))


class _Finder(MetaPathFinder):
    """Finds the package's modules as they are, and replaces in them what asks the network."""

    def __init__(self, folder: Path) -> None:
        self.replace = {
            "sigstore.oidc": _identities,
            "sigstore.models": lambda module: _settings(module, folder),
            "sigstore.sign": lambda module: _signing(module, folder),
        }

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.replace:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _After(spec.loader, self.replace[name])
        return spec


class _After(Loader):
    def __init__(self, loader: Loader, then: Any) -> None:
        self.loader, self.then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.then(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def _identities(module: Any) -> None:
    """GitHub tells Sigstore in which file of which branch or commit a job stands, and which workflow was started."""
    started = os.environ.get("GITHUB_WORKFLOW_REF")
    stands = json.loads(os.environ.get("LOCKSTEP_ACT_JOBS", "{}")).get(os.environ.get("GITHUB_JOB"))
    identities = f"https://github.com/{stands} https://github.com/{started}"
    module.detect_credential = lambda *_: identities if stands else None
    module.IdentityToken = lambda raw: raw.split()


def _settings(module: Any, folder: Path) -> None:
    """Roots of trust as they were last fetched: the stand-in's."""
    real = module.ClientTrustConfig.production

    def production(**_: Any) -> Any:
        from sigstore._internal.tuf import DEFAULT_TUF_URL, _get_dirs

        from tests.sigstore_standin import Standin

        Standin(folder).trusted(_get_dirs(DEFAULT_TUF_URL)[1] / "trusted_root.json")
        return real(offline=True)

    module.ClientTrustConfig.production = production


def _signing(module: Any, folder: Path) -> None:
    from tests.sigstore_standin import Standin

    @contextlib.contextmanager
    def signer(token: tuple[str, str]) -> Iterator[Any]:
        def sign(statement: Any) -> Any:
            identity, caller = token
            bundle = Standin(folder).bundle(statement._contents, identity, ISSUER, caller).decode()
            return SimpleNamespace(to_json=lambda: bundle)

        yield SimpleNamespace(sign_dsse=sign)

    module.SigningContext = SimpleNamespace(from_trust_config=lambda _: SimpleNamespace(signer=signer))
