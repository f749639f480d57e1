"""Answers that fit a JSON Schema: at each place a model may only write a token that continues one.

In:  ``json_schema`` of evaluate or of a suite, and the model's tokenizer.
Out: logits, in which all other tokens have no chance.

llguidance computes the tokens, as it can in vLLM, SGLang and llama.cpp. It refuses a schema of which it cannot follow a
keyword, so an answer that ended fits the schema. It counts steps and no seconds: a busy machine changes no answer.
"""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from checks.process import distribution
from checks.process.errors import EvaluationRefused, MachineRefused
from checks.process.text import escape

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Grammar:
    """The answers that fit one schema, in the tokens of one model."""

    def __init__(self, tokenizer: Any, schema: str, ends: frozenset[int]) -> None:
        """Read the JSON text ``schema``; ``ends``: ids that end an answer.

        Raises MachineRefused without llguidance, EvaluationRefused if it cannot follow the schema or the tokenizer.
        """
        if importlib.util.find_spec("llguidance") is None:
            raise MachineRefused(
                "json_schema needs llguidance, which is not installed",
                distribution.install("grammar"),
            )
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        try:
            tokens = from_tokenizer(tokenizer, eos_token=sorted(ends))
        except ValueError as error:
            raise EvaluationRefused(
                f"json_schema: llguidance cannot use this model's tokenizer: {escape(str(error))}",
                "set json_schema to null, or take another base",
            ) from error
        self._start = LLMatcher(tokens, LLMatcher.grammar_from_json_schema(schema), log_level=0)
        _hold(self._start, "cannot follow it", "leave that out of json_schema, or set it to null")

    def begin(self) -> "LLMatcher":
        """Return the state before the first token of an answer."""
        return self._start.deep_copy()


def constrained(logits: torch.Tensor, states: Sequence["LLMatcher"]) -> torch.Tensor:
    """Return ``logits`` (rows, vocabulary), minus infinity for each token that cannot continue its row's answer."""
    masks = [np.frombuffer(state.compute_bitmask(), dtype=np.uint8) for state in states]
    for state in states:
        _hold(state, "gave up", "simplify json_schema")
    bits = torch.from_numpy(np.unpackbits(np.stack(masks), axis=1, bitorder="little"))
    allowed = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    width = min(bits.shape[1], logits.shape[1])
    allowed[:, :width] = bits[:, :width].to(logits.device, torch.bool)
    return logits.masked_fill(~allowed, -torch.inf)


def _hold(state: "LLMatcher", failed: str, remedy: str) -> None:
    if state.is_error():
        why = escape(state.get_error().strip().partition("\n")[0][:200])
        raise EvaluationRefused(f"json_schema: llguidance {failed}: {why}", remedy)
