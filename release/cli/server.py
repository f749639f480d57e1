"""The command server."""

from pathlib import Path

import click

from release.cli.common import JSON, refusing, show


@click.command()
@click.argument("runtime")
@JSON
@click.pass_obj
@refusing
def server(root: Path, runtime: str, as_json: bool) -> None:
    """Choose the server that will run the model: vllm, sglang, llamacpp, tgi, transformers, or one of your own.

    Writes serve.runtime into params.yaml, and serve.decoding, the sampling that the gates judged, where the server
    takes it. For llamacpp it also writes the GGUF file, the engine that answers from it, and the gate that compares it
    with the other weights. Another server takes out what it cannot use.
    """
    from release.verbs import server as verb

    written = verb.server(root, runtime)
    lines = [f"{runtime} serves{'' if written.changed else ', as before'}"]
    lines += [
        f"promote.environments.{name}.runtimes does not list {runtime}, so {name} refuses it"
        for name in written.closed
    ]
    show(written, as_json, "\n".join(lines))
