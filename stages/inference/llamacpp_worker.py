"""Asks llama.cpp's own server, in its own environment. ``stages.inference.llamacpp`` starts it.

It imports no module of Lockstep, because its environment has none of Lockstep's packages.

In:  a request as one line of JSON on standard input, which then stays open. When it is closed, as it is when the stage
     is killed, this process ends.
Out: a line of JSON on standard output for each row, its answer, or for the first row that failed, why. What llama.cpp
     prints goes to standard error.
Run: PYTHON stages/inference/llamacpp_worker.py, or with ``about`` to print the version of xllamacpp.
"""

import http.client
import importlib
import importlib.metadata
import json
import os
import sys
import threading
from typing import Any

_GREEDY = {"samplers": ["top_k"], "top_k": 1, "temperature": 0, "cache_prompt": False}


def main() -> None:
    """Answer the rows of the request one after the other."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if sys.argv[1:] == ["about"]:
        out.write(json.dumps({"version": importlib.metadata.version("xllamacpp")}) + "\n")
        return
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_stage, daemon=True).start()
    try:
        server = started(request)
        for row in request["rows"]:
            sampling = row.pop("sampling", {})
            prompt = post(server, "/apply-template", row)["prompt"]
            asked = {"prompt": prompt, "n_predict": request["limit"], **_GREEDY, **sampling}
            out.write(json.dumps({"text": post(server, "/completion", asked)["content"]}) + "\n")
    except Exception as error:
        out.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        raise
    finally:
        out.flush()
        os._exit(0)  # The server's threads would end one by one.


def _end_with_the_stage() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def started(request: dict[str, Any]) -> Any:
    """Start the server of the file, with one slot, so that an answer depends on no other row."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    chosen = xllamacpp.CommonParams()
    chosen.model.path, chosen.hostnames, chosen.port = request["file"], ["127.0.0.1"], 0
    chosen.n_ctx, chosen.n_parallel = request["context"], 1
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = request["threads"]
    chosen.cache_type_k = chosen.cache_type_v = getattr(xllamacpp.ggml_type, request["cache"])
    chosen.cache_prompt, chosen.cache_ram_mib = False, 0
    chosen.fit_params, chosen.use_jinja, chosen.ui, chosen.n_gpu_layers = False, True, False, 0
    return xllamacpp.Server(chosen)


def post(server: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the server and return its reply. Raises RuntimeError with the server's own message."""
    connection = http.client.HTTPConnection(server.listening_address.partition("//")[2])
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    reply: dict[str, Any] = json.loads(response.read())
    connection.close()
    if response.status != http.client.OK:
        raise RuntimeError(reply["error"]["message"])
    return reply


if __name__ == "__main__":
    main()
