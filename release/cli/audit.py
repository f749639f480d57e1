"""The command audit: the audit pack of a release."""

from pathlib import Path

import click

from release.cli.common import FILE, JSON, refusing, show
from release.cli.tables import one_line


@click.command()
@click.argument("name", metavar="ENVIRONMENT|VERSION")
@click.option(
    "--out", "out", metavar="FILE", required=True, type=FILE, help="The archive, a new tar file."
)
@JSON
@click.pass_obj
@refusing
def audit(root: Path, name: str, out: Path, as_json: bool) -> None:
    """Pack what an auditor asks of a release into one archive.

    Bill of materials, cards, signed statements with the keys to verify them, the record, approvals, the moves and
    rollbacks of its time, and AUDIT.md, which says for each point of the EU AI Act's Annex IV and Article 53 and of
    ISO/IEC 42001 where it is answered, or that it is not in the record. Needs the image in its registry or folder. A
    stranger verifies the pack offline with its verify.sh. The same release and the same commit of the ledger give the
    same bytes. Evidence that is missing, or that no signer who counts signed, refuses with 8.
    """
    from release.verbs import audit as verb

    audited = verb.audit(root, name, out)
    lines = [
        f"{one_line(audited.file)}: {audited.version}, {audited.files} files, {audited.statements} signed",
        audited.sha256,
        f"{audited.unanswered} of {audited.asked} questions are not in the record: its AUDIT.md lists them",
        *(f"left out: {one_line(left.what)}: {one_line(left.why)}" for left in audited.left_out),
    ]
    show(audited, as_json, "\n".join(lines))
