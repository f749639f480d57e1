"""Answers over HTTP what a canary's decision is, for the web provider of Argo Rollouts or any other that asks."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from checks.formats.rollout_report import RolloutReport
from checks.process.errors import MachineRefused, Refusal

PATH = "/decision"


def server(host: str, port: int, decide: Callable[[], RolloutReport]) -> ThreadingHTTPServer:
    """A server of GET /decision: the report as JSON, computed anew each time; 503 with the reason where it is refused.

    With ?candidate=sha256:… it answers 503 if the report is about another candidate, as it is where the clone was not
    pulled since a promotion. Raises MachineRefused if it cannot listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, text = _answer(self.path, decide)
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise MachineRefused(
            f"{host}:{port}: {error.strerror or error}", "choose another --serve HOST:PORT"
        ) from error


def _answer(path: str, decide: Callable[[], RolloutReport]) -> tuple[int, str, str]:
    """Return the status, the content type and the text for a path that was asked for."""
    asked = urlsplit(path)
    if asked.path != PATH:
        return 404, "text/plain", f"ask for {PATH}\n"
    try:
        report = decide()
    except Refusal as refusal:
        return 503, "text/plain", f"{refusal}\n"
    known = report.candidate
    for named in parse_qs(asked.query, keep_blank_values=True).get("candidate", []):
        if named.removeprefix("sha256:")[: len(known)] != known:
            return 503, "text/plain", f"the candidate in this clone is {known}: pull it\n"
    return 200, "application/json", report.model_dump_json()
