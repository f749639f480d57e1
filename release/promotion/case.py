"""One image and one environment, as far as the checks of a move have found their parts."""

from typing import Any, Generic, Literal, TypeVar

from checks.formats.pointer import Pointer
from checks.formats.statement import Release
from release.adapters.registry.reference import Reference
from release.evidence.attached_statements import Released
from release.ledger import Change
from release.promotion.checklist import ImageRecord, PromotionContext, StoredImage, Unavailable
from release.promotion.environment import EnvironmentState

T = TypeVar("T")


class CasePart(Generic[T]):
    """A part that one check finds and later checks need. ``needs``: the part that it is found with."""

    def __init__(self, missing: str, needs: "CasePart[Any] | None" = None) -> None:
        self.value: T | None = None
        self._missing = missing
        self.needs = needs

    def get(self) -> T:
        """Return the part. Raises Unavailable if its check, or the check of a part that it needs, did not find it."""
        if self.needs is not None:
            self.needs.get()
        if self.value is None:
            raise Unavailable(self._missing)
        return self.value


class Case:
    """A move of ``environment`` to ``image``, which names a digest. ``change``: empty until it can be written."""

    def __init__(self, context: PromotionContext, environment: str, image: Reference) -> None:
        assert image.digest is not None
        self.context = context
        self.environment = environment
        self.reference = image
        self.digest = image.digest
        self.present = EnvironmentState(None, {})
        self.image = CasePart[StoredImage]("the image was not found")
        self.released = CasePart[Released]("no statement holds", self.image)
        self.after = CasePart[Pointer]("no version could be chosen")
        self.change = Change({}, "")

    def release(self) -> Release:
        """Return the content of the signed statement that the move relies on."""
        return self.released.get().statement.predicate


class Promotion(Case):
    """The requested promotion. ``others``: evidence beside the image that does not count, one line each.

    ``signed_by``: who signed the statement that the move relies on.
    """

    def __init__(
        self,
        context: PromotionContext,
        environment: str,
        image: Reference,
        why: str | None,
        version: str | None,
        bump: Literal["major", "minor"],
    ) -> None:
        super().__init__(context, environment, image)
        self.rule = context.rule(environment)
        self.why = why
        self.version = version
        self.bump = bump
        self.recorded = CasePart[ImageRecord]("the record does not hold", self.released)
        self.after.needs = self.recorded
        self.others: tuple[str, ...] = ()
        self.signed_by: tuple[str, ...] = ()
