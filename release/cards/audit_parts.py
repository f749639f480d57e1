"""The parts of an audit pack: its files, what binds each to the release, and what of the questions they answer."""

from checks.formats.signers import Signers
from checks.storage import digest
from release.cards.audit_index import Answer, Bound, LeftOut, PackedFile, SignedFile
from release.cards.audit_questions import ANSWERS, QUESTIONS, Part

IMAGE = "image/manifest.json"
_GITHUB = "https://github.com/"


class Parts:
    """The files so far. ``paths``: of each part that the release has. ``signers``: those that count, by name."""

    def __init__(self, signers: Signers) -> None:
        self.signers = {signer.name: signer for signer in signers}
        self.files: dict[str, bytes] = {}
        self.listed: list[PackedFile] = []
        self.paths: dict[Part, list[str]] = {}
        self.statements: list[SignedFile] = []
        self.left_out: list[LeftOut] = []

    def add(self, part: Part, path: str, data: bytes, bound_by: Bound) -> None:
        """Add a file."""
        self.files[path] = data
        self.paths.setdefault(part, []).append(path)
        self.listed.append(packed(path, data, ANSWERS[part], bound_by))

    def sign(
        self, part: Part, path: str, data: bytes, name: str, kind: str, subject: str | None = IMAGE
    ) -> None:
        """Add a statement of the type ``kind`` and the key of its signer ``name``. Its signature was checked.

        ``subject``: the file of the pack that it names by SHA-256, None if there is none. cosign needs one to verify
        what an identity signed.
        """
        signer = self.signers[name]
        key = f"keys/{name}.pub" if signer.key else None
        if key is None and subject is None:
            why = f"the identity {name} signed it, and cosign only verifies statements about a file that is here"
            self.left_out.append(LeftOut(what=path, why=why))
            return
        if key and key not in self.files:
            self.add("keys", key, f"{(signer.key or '').strip()}\n".encode(), "git")
        source = signer.source
        self.statements.append(
            SignedFile(
                path=path, predicate_type=kind, signer=name, key=key, identities=signer.identities,
                issuer=signer.issuer, repository=source.repository.removeprefix(_GITHUB) if source else None,
                ref=source.ref if source else None, subject=subject,
            )
        )  # fmt: skip
        self.add(part, path, data, "signature")

    def answers(self) -> tuple[Answer, ...]:
        """Return what is asked of a release, each with the files that answer it."""
        answered = []
        for question in QUESTIONS:
            paths = [path for part in question.parts for path in self.paths.get(part, ())]
            absent = [part for part in question.parts if part not in self.paths]
            lacks = ", ".join(filter(None, [*absent, question.lacks])) if paths else "all of it"
            answered.append(
                Answer(
                    source=question.source,
                    asks=question.asks,
                    files=tuple(dict.fromkeys(paths)),
                    lacks=lacks,
                )
            )
        return tuple(answered)


def packed(path: str, data: bytes, answers: str, bound_by: Bound) -> PackedFile:
    """Return the entry of a file in the index."""
    return PackedFile(
        path=path,
        sha256=digest.of_bytes(data),
        size=len(data),
        answers=answers,
        bound_by=bound_by,
    )
