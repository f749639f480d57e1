"""The options of `lockstep verify`, and which of them contradict each other."""

from typing import Literal, NamedTuple

from checks.process.errors import ServingRefused


class VerifyOptions(NamedTuple):
    """The options of a verification.

    ``image``: the built image in a registry, HOST/NAME[:TAG]@sha256:…; None: where `lockstep build` put it. ``url``:
    check a running server. ``runtime``: with a URL, the runtime of that server (None: as the image was built, or
    serve.runtime); without one, serve the weights with it in a process instead of Docker (if nothing was built, those
    of models/merged). ``gpus``: for the container, ``all`` or devices separated by commas. ``server``: the server image
    NAME@sha256:… for an image with weights alone; None: serve.server, or the one that the environments name.
    ``against``: an environment that runs the same weights in another server, which is compared. ``against_python``: of
    a process, the Python beside which the program is that stands for that server. ``beside``: an environment whose
    other adapters the server has loaded, too.
    """

    image: str | None = None
    url: str | None = None
    runtime: str | None = None
    gpus: str | None = None
    server: str | None = None
    against: str | None = None
    against_python: str | None = None
    beside: str | None = None

    @property
    def how(self) -> Literal["container", "process", "url"]:
        """How the server is run: ``container``, ``process`` or ``url``."""
        if self.url is not None:
            return "url"
        return "container" if self.runtime is None else "process"


def check_options(options: VerifyOptions) -> None:
    """Raise ServingRefused if options contradict each other."""
    outside = options.how != "container"
    for contradict, what, todo in (
        (options.url and options.image, "an image and a URL are two ways to verify", "name one of them"),
        (options.against and options.url, "--against starts both servers, and a URL is a running one", "leave one out"),
        (options.against and outside and not options.against_python,
         "--against compares containers, and --runtime starts a process",
         "leave --runtime out, or name a Python of the version that runs there by --against-python"),
        (options.against_python and not (options.against and options.how == "process"),
         "--against-python names the process that stands for a server", "name --against and --runtime too"),
        (options.beside and (options.url or options.against), "--beside starts one server with several adapters",
         "leave --url and --against out"),
        (options.gpus and outside, f"GPUs are given to a container, not to a {options.how}", "leave them out"),
    ):  # fmt: skip
        if contradict:
            raise ServingRefused(what, todo)
