"""The interface of a loader: a subclass of ``Loader``, in one file of ``stages/loaders`` or of a user's package.

The fields of a loader are its parameters. It may import pydantic, the standard library and ``checks``, except
``checks.config.params``. It imports other packages only inside functions, because the release tool reads params.yaml
without them.
"""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from checks.data.drafts import Draft
from checks.kinds.registry import Registry
from checks.kinds.rule import Rule
from checks.records.sections import Section


class Loader(Section):
    """The section ``prepare.loader``, or ``loader`` of a source in data.sources: it reads raw data.

    A subclass has the field ``kind: Literal["its-name"]``.
    """

    # Rules whose defects validate looks for in the rows of this loader, whatever prepare.rules names.
    defects: ClassVar[tuple[str, ...]] = ()
    # Its rows are planted among the train rows as they are, each as often as it is read: no rule applies to them.
    planted: ClassVar[bool] = False
    # Its rows are documents, for a training method that learns from documents.
    of_documents: ClassVar[bool] = False

    kind: str

    @abstractmethod
    def load(self, folder: Path) -> list[Draft]:
        """All rows below ``folder``, in an order that is the same on every machine.

        Raises DataRefused if rows cannot be read.
        """

    def rules_before(self) -> tuple[Rule, ...]:
        """Return the loader's own rules that run before those of prepare.rules."""
        return ()

    def rules_after(self, seed: int) -> tuple[Rule, ...]:
        """Return the loader's own rules that run after those of prepare.rules. ``seed``: prepare.seed."""
        return ()


LOADERS: Registry[Loader] = Registry("lockstep.loaders", Loader)
