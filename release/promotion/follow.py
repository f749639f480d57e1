"""What follows a move: mirrors of the ledger, which decide nothing. One that fails costs no move, and is told."""

from checks import layout, params_file
from checks.errors import ParamsRefused
from checks.pointer import Pointer
from checks.statement import Statement
from release import commits, mirrors
from release.promotion.site import Site


def follow(where: Site, environment: str, pointer: Pointer | None, statement: Statement | None) -> list[str]:
    """Bring the mirrors after the ledger (``pointer`` None: to nothing); a line for each that could not follow."""
    text = commits.read(where.root, where.trunk, layout.PARAMS) or b""
    try:
        params = params_file.parse(text.decode(errors="replace"), f"{where.target}:{layout.PARAMS}")
    except ParamsRefused as refused:
        return [f"mirrors did not follow: {refused.what}"]
    return mirrors.follow(where.root, params, environment, pointer, statement)
