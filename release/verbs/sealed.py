"""sealed: makes a sealed split from rows of one's own, and asks it about the model of the record, by one bit.

`lockstep sealed ask` is the only way in which the rows are answered. It counts the look in the ledger first and says
the bit afterwards: a run that is killed before has said nothing, and one that is killed after is counted.
"""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from checks.config import params_file
from checks.config import sealed as split
from checks.config.params import Sealed
from checks.data import near_duplicates
from checks.data.documents import asked
from checks.decision import held as holding
from checks.formats.statement import PAYLOAD, Looked
from checks.process.errors import (
    EvidenceRefused,
    MachineRefused,
    Refusal,
    VerdictFailed,
    VerdictInconclusive,
)
from checks.records.rows import Record, Row, request
from checks.storage import digest, files, layout
from release.adapters import commits, dvc
from release.adapters.listening import Listener
from release.evidence import dsse, keys, sigstore, statement, trust
from release.ledger import Change
from release.promotion import context, sealed
from release.promotion.types import PromotionContext
from release.record import running_code
from release.record.held import hold

KEY = layout.STATE / "keys" / "sealed.key"  # decrypts the rows; below .lockstep, which git ignores
_SHOWN = 3  # lines that a refusal names
_WRITE = "write one JSON object a line: docs/how-to/sealed.md"
_RECORD = (layout.PARAMS, layout.PIPELINE, layout.LOCK, layout.VERDICT)


class New(NamedTuple):
    """A new sealed split: the key of its rows, and its pin in params.yaml."""

    key: Path
    sha256: str
    rows: int


class Asked(Record):
    """The answer of the sealed split about a model. ``number``: of its look; ``looks``: how many there may be.

    ``done``: ``already`` if it was asked before, which is no further look. ``inconclusive``: nothing was asked, since
    all looks are used.
    """

    model: str
    status: Literal["pass", "fail", "inconclusive"]
    done: Literal["asked", "already", "refused"]
    number: int
    looks: int


def new(root: Path, source: Path, key: Path | None = None) -> New:
    """Encrypt the rows of ``source`` with a new key, which is written to ``key`` (default: ``KEY``).

    The file replaces an earlier sealed split; the key's file must be new. Raises EvidenceRefused if a line is no row,
    or is alike to another split's row; MachineRefused if git would take rows or key in, or a file cannot be written.
    """
    private = key or root / KEY
    for path in (source, private):
        place, home = path.resolve(), root.resolve()
        if place.is_relative_to(home) and not place.is_relative_to(home / layout.STATE):
            raise MachineRefused(
                f"{path}: git would take it in", f"keep it below {layout.STATE}/, or elsewhere"
            )
    try:
        lines = files.read_jsonl(source, split.SealedLine)
    except EvidenceRefused as refused:  # The file is a person's own, and no run makes it again.
        raise EvidenceRefused(refused.what, _WRITE) from None
    alike = params_file.load(root / layout.PARAMS).prepare.near_duplicates
    texts = [request(line.messages) for line in lines]
    try:
        rows = split.rows_of(lines, near_duplicates.groups(texts, alike.shingle, alike.similarity))
    except EvidenceRefused as refused:
        raise EvidenceRefused(f"{source}: {refused.what}", refused.todo) from None
    if not rows:
        raise EvidenceRefused(f"{source}: has no rows", _WRITE)
    for name in layout.SPLIT_NAMES:
        known = files.read_jsonl(root / layout.SPLITS / f"{name}.jsonl", Row)
        given = [(text, row.source) for row in known for text in asked(row)]
        pairs = near_duplicates.first_alike(
            texts, [text for text, _ in given], alike.shingle, alike.similarity
        )
        if seen := [f"line {line + 1} is alike to {given[place][1]}" for line, place in pairs]:
            raise EvidenceRefused(
                f"{source}: {len(seen)} of {len(rows)} rows are near-duplicates of {name} rows: "
                f"{', '.join(seen[:_SHOWN])}",
                "take these lines out",
            )
    from cryptography.fernet import Fernet

    secret = Fernet.generate_key()
    data = split.encrypt(rows, secret)
    try:
        private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(private, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as stream:
            stream.write(secret)
        with files.replacing(root / layout.SEALED) as stream:
            stream.write(data)
    except OSError as error:
        todo = (
            "move the key of the last split away first"
            if isinstance(error, FileExistsError)
            else "make it writable"
        )
        raise MachineRefused(
            f"{error.filename or private}: {error.strerror or error}", todo
        ) from error
    return New(private, digest.of_bytes(data).removeprefix("sha256:"), len(rows))


def ask(
    root: Path, key: Path | None = None, *, keyless: bool = False, target: str | None = None,
    listener: Listener | None = None,
) -> Asked:  # fmt: skip
    """Ask the sealed split about the model of the record here, count the look, and sign the bit.

    What the stage prints is given to ``listener``; without one it is printed.

    Raises EvidenceRefused if the record is not the target branch's or its verdict does not hold, if the signer may not
    sign looks, or a look there cannot be believed; VerdictFailed or VerdictInconclusive where the verdict itself does
    not pass; StageRefused if the rows cannot be asked; Outrun or RemoteRefused if the look cannot be counted. None of
    these says anything of the rows.
    """
    if (key is None) != keyless:
        raise EvidenceRefused(
            "a look is signed by a key or by an identity", "give one of --key and --keyless"
        )
    promotion_context = context.find(root, target)
    wanted = sealed.split(promotion_context)
    signer = None if key is None else keys.load(key)
    if signer:
        trust.owner(signer, promotion_context.signers, "sealed")
    context.whoami(root)  # a bit that cannot be counted is not asked for
    model = _recorded(promotion_context, wanted)
    if (known := _known(promotion_context, wanted, model)) is not None:
        return known
    answer = dvc.python(
        root, ["-m", "stages.sealed"], "sealed", heard=True, listener=listener, step="sealed"
    )
    bit = answer.split()[-1:]
    if bit not in (["pass"], ["fail"]):
        raise MachineRefused(
            "stages.sealed: said neither pass nor fail", "install the package again"
        )
    # It is read again, because the answers may have taken hours.
    promotion_context = context.find(root, target)
    if sealed.split(promotion_context) != wanted:
        raise EvidenceRefused(
            f"{promotion_context.target}: sealed changed meanwhile", "ask again from its tip"
        )
    if (known := _known(promotion_context, wanted, model)) is not None:
        return known
    looked = Looked(
        split=f"sha256:{wanted.sha256}", asked=split.asked(wanted), number=sealed.count(promotion_context, wanted) + 1,
        passed=bit == ["pass"],
    )  # fmt: skip
    payload = statement.sealed_look(model, looked)
    data = dsse.sign(payload, PAYLOAD, signer) if signer else sigstore.sign([payload])[0]
    trust.verify(data, promotion_context.signers, "sealed", "the look")
    message = (
        f"look {looked.number} of {wanted.max_looks} at the sealed split {wanted.sha256[:12]}\n"
    )
    promotion_context.ledger.commit(
        promotion_context.tip, Change({sealed.place(wanted, model): data}, message)
    )
    return _said(model, looked, wanted, "asked")


def refusal(asked: Asked) -> Refusal | None:
    """The refusal for an answer other than ``pass``; None for ``pass``."""
    if asked.status == "pass":
        return None
    if asked.status == "fail":
        return VerdictFailed(
            f"the sealed split says that {asked.model[:19]}… does not pass",
            "it says no more: propose another model",
        )
    used = f"all {asked.looks} looks at the sealed split are used, and {asked.model[:19]}… had none"
    return VerdictInconclusive(f"inconclusive: {used}", split.REFRESH)


def _known(where: PromotionContext, wanted: Sealed, model: str) -> Asked | None:
    """Return what is said without another look; None if the split must be asked."""
    number = sealed.count(where, wanted)
    if (result := sealed.look(where, wanted, model)) is not None:
        return _said(model, result.looked, wanted, "already")
    if number >= wanted.max_looks:
        return Asked(
            model=model,
            status="inconclusive",
            done="refused",
            number=number,
            looks=wanted.max_looks,
        )
    return None


def _said(model: str, looked: Looked, wanted: Sealed, done: Literal["asked", "already"]) -> Asked:
    status: Literal["pass", "fail"] = "pass" if looked.passed else "fail"
    return Asked(
        model=model, status=status, done=done, number=looked.number, looks=wanted.max_looks
    )


def _recorded(where: PromotionContext, wanted: Sealed) -> str:
    """The model of the record here, which the target branch must have, with a verdict that holds and passes."""
    root = where.root
    running_code.check(root, committed=True)
    head = commits.resolve(root, "HEAD")
    merged = head is not None and commits.is_ancestor(root, head, where.trunk)
    if head is None or not merged or commits.uncommitted(root, head, _RECORD):
        raise EvidenceRefused(
            f"the record here is not one of {where.target}: the sealed split answers only models that were merged",
            f"merge it, check out {where.target}, and `./lockstep dvc pull`",
        )
    record = hold(
        where.records,
        where.trunk,
        trusting=(layout.BASE, layout.ADAPTER, layout.RAW, layout.MERGED),
    )
    if refused := holding.refusal(record.verdict):
        raise refused
    if record.params.sealed != wanted:
        raise EvidenceRefused(
            f"{layout.PARAMS}: sealed is not that of {where.target}", f"check out {where.target}"
        )
    assert record.verdict.model is not None  # a verdict without a model does not pass
    return record.verdict.model
