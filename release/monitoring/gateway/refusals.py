"""Answers that the gateway gives itself, in the shape of OpenAI's errors."""

from aiohttp import web

from checks.formats.captures import ID_HEADER, RELEASE_HEADER

OWN = {"Server": "lockstep"}  # Takes the place of aiohttp's own, which shows its version.
_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class Refused(Exception):  # noqa: N818 - an answer, not a malfunction
    """The gateway answers itself. ``error``: error.type of the captured row."""

    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message, self.headers = status, error, message, headers


class Rejected(Refused):
    """No valid request: it counts for no release and no objective, and is never captured."""


def answer(refused: Refused, request_id: str, release: str | None = None) -> web.Response:
    """The answer to a request that is refused."""
    kind = _KINDS.get(
        refused.status, "invalid_request_error" if refused.status < 500 else "server_error"
    )
    error = {"message": refused.message, "type": kind, "param": None, "code": refused.error}
    headers = OWN | {
        ID_HEADER: request_id,
        **({RELEASE_HEADER: release} if release else {}),
        **refused.headers,
    }
    return web.json_response({"error": error}, status=refused.status, headers=headers)
