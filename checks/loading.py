"""What a loader is: the section ``prepare.loader`` of params.yaml, which reads raw data into drafts of rows.

A loader is one file of ``stages/loaders``, or of a package of a user (entry points ``lockstep.loaders``). It defines
one class below ``Loader``, whose fields are its parameters. Its module may import pydantic, the standard library and
``checks``, but for ``checks.params``, which imports the loaders. What it needs besides, it imports in the functions
that need it: the release tool reads params.yaml too, without those libraries.
"""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from checks.drafts import Draft, Rule
from checks.sections import Section


class Loader(Section):
    """Parameters of a loader. A subclass has the field ``kind: Literal["its-name"]``."""

    # Rules whose defects validate looks for in the rows of this loader, whatever prepare.rules names.
    defects: ClassVar[tuple[str, ...]] = ()

    kind: str

    @abstractmethod
    def load(self, folder: Path) -> list[Draft]:
        """All rows below ``folder``, in an order that is the same on every machine.

        Raises DataRefused when rows cannot be read.
        """

    def rules_before(self) -> tuple[Rule, ...]:
        """Rules of its own that apply before those of prepare.rules."""
        return ()

    def rules_after(self, seed: int) -> tuple[Rule, ...]:
        """Rules of its own that apply after those of prepare.rules. ``seed``: prepare.seed."""
        del seed
        return ()
