"""vllm and llamacpp: the engines that may generate answers in the place of transformers, and their environments.

``python -m stages.tools.vllm VERSION`` and ``python -m stages.tools.llamacpp VERSION`` make the environments.
LOCKSTEP_VLLM and LOCKSTEP_LLAMACPP name the Python of another environment.
The engine and its settings stand in params.yaml; the machine never chooses them. So one engine answers for all models
of a run, on every machine. The engine is part of the prompt format: answers, noise and sweeps of another engine,
another version or other settings are not compared.
"""

from typing import Annotated, Literal

from pydantic import Field

from checks.records.sections import Positive, Section
from checks.storage import layout

PYTHON = "LOCKSTEP_VLLM"
ENVIRONMENT = layout.STATE / "vllm"
LLAMACPP_PYTHON = "LOCKSTEP_LLAMACPP"
LLAMACPP = layout.STATE / "llamacpp"
VERSION = r"^[0-9][0-9a-z.]*$"


class Vllm(Section):
    """vLLM, in a process and an environment of its own."""

    kind: Literal["vllm"]
    version: Annotated[
        str, Field(pattern=VERSION, description="version of vLLM; others are refused")
    ]
    max_rows: Annotated[
        Positive,
        Field(description="rows answered at a time, at most; no more than evaluate.batch_tokens"),
    ]
    kv_cache_gb: Annotated[
        float,
        Field(
            gt=0,
            description="memory for keys and values, 2^30 bytes on each GPU, beside the weights",
        ),
    ]
    gpus: Annotated[
        Positive, Field(description="GPUs that share one model (tensor parallelism); 1 on a CPU")
    ]
    compiled: Annotated[
        bool,
        Field(
            description="whether vLLM compiles a model first: it takes minutes, and makes rows faster"
        ),
    ]
    batch_invariant: Annotated[
        bool,
        Field(
            description="whether results must not depend on the batch (special kernels); false on a CPU"
        ),
    ]

    @property
    def named(self) -> str:
        """The engine's name for a person."""
        return f"vLLM {self.version}"


class LlamaCpp(Section):
    """llama.cpp, on a processor, for models that have a GGUF file. transformers answers for the others."""

    kind: Literal["llamacpp"]
    version: Annotated[
        str, Field(pattern=VERSION, description="version of xllamacpp; others are refused")
    ]
    threads: Annotated[
        Positive, Field(description="threads that compute; more than free cores are very slow")
    ]

    @property
    def named(self) -> str:
        """The engine's name for a person."""
        return f"llama.cpp {self.version} from the GGUF file, others by transformers"


Engine = Annotated[Vllm | LlamaCpp, Field(discriminator="kind")]
