"""Answers over HTTP what a canary's decision is, for the web provider of Argo Rollouts or any other that asks."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from checks.errors import MachineRefused, Refusal
from checks.rollout_report import RolloutReport

PATH = "/decision"


def server(host: str, port: int, decide: Callable[[], RolloutReport]) -> ThreadingHTTPServer:
    """A server of GET /decision: the report as JSON, computed anew each time; 503 with the reason where it is refused.

    Raises MachineRefused if it cannot listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != PATH:
                self._reply(404, "text/plain", f"ask for {PATH}\n")
                return
            try:
                self._reply(200, "application/json", decide().model_dump_json())
            except Refusal as refusal:
                self._reply(503, "text/plain", f"{refusal}\n")

        def _reply(self, status: int, kind: str, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise MachineRefused(f"{host}:{port}: {error.strerror or error}", "choose another --serve HOST:PORT") from error
