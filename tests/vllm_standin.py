"""A STAND-IN for vLLM's OpenAI server, whose image cannot be run here: TGI's stand-in where the two agree.

Where vLLM differs: it tells tokens as ``token_id:<id>`` when asked to, tokenizes a chat at /tokenize, knows its served
name and says 404 to any other, names the weights' folder as ``root`` in /v1/models, and calls its metrics ``vllm:…``.
It keeps an answer from ending by ``min_tokens``, also where it speculates and refuses ``logit_bias``. On SIGTERM it finishes what its engine has begun; a stream that it accepted tens of milliseconds
before ends without a token, as vLLM 0.32 was seen to end 7 of 8.
"""

import copy
from typing import Any

from checks.formats.serving import Probe
from tests.tgi_standin import CHAT_REQUEST, StandIn, Told

OPENAI_REQUEST = copy.deepcopy(CHAT_REQUEST)
OPENAI_REQUEST["properties"]["logit_bias"] = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "propertyNames": {"pattern": "^[0-9]+$"},
}
VLLM_REQUEST = copy.deepcopy(CHAT_REQUEST)
VLLM_REQUEST["properties"]["min_tokens"] = {"type": "integer", "minimum": 1}
VLLM_REQUEST["properties"]["stop_token_ids"] = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
VLLM_REQUEST["properties"]["return_tokens_as_token_ids"] = {"type": "boolean"}
VLLM_REQUEST["properties"]["tools"] = {"type": "array", "items": {"type": "object"}, "minItems": 1}
VLLM_REQUEST["properties"]["tool_choice"] = {"const": "none"}  # else it wants a parser: --tool-call-parser
VLLM_REQUEST["dependentRequired"] = {
    "tools": ["tool_choice"],
    "tool_choice": ["tools"],
    "min_tokens": ["stop_token_ids"],
}


class OpenAiStandIn(StandIn):
    """TGI, but for a word of OpenAI's API that it does not know."""

    schema = OPENAI_REQUEST


class VllmStandIn(StandIn):
    """vLLM serving ``name``."""

    name = "router"
    schema = VLLM_REQUEST
    unending = "min_tokens"
    tokenize_path = "/tokenize"
    prefill = 0.04

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            root = self.faults.model or self.model
            return 200, {"object": "list", "data": [{"id": self.name, "root": root, "max_model_len": 64}]}
        if path == "/metrics" and not self.faults.without_metrics:
            count = 1 if self.faults.frozen else self.counted
            model = f'model_name="{self.name}"'
            metrics = (
                f'vllm:request_success_total{{finished_reason="stop",{model}}} {count}.0\n'
                f'vllm:request_success_total{{finished_reason="length",{model}}} 0.0\n'
                f"vllm:generation_tokens_total{{{model}}} {count * 3}.0\n"
                f"vllm:prefix_cache_hits_total{{{model}}} {self.hits}.0\n"
                f"vllm:spec_decode_num_draft_tokens_total{{{model}}} {self.skipped * 2}.0\n"
                f"vllm:spec_decode_num_accepted_tokens_total{{{model}}} {self.skipped}.0\n"
                f"vllm:e2e_request_latency_seconds_count{{{model}}} {count}.0\n"
            )
            return 200, metrics
        return 404, self.error("Not Found")

    def tokenized(self, probe: Probe) -> Any:
        ids = [*([1] if self.faults.extra_prompt_token else []), *probe.prompt_tokens]
        return {"count": len(ids), "max_model_len": self.longest, "tokens": ids}

    def unknown(self, body: dict[str, Any]) -> bool:
        return body.get("model") != self.name

    def too_long(self) -> tuple[int, Any]:
        return 400, self.error(f"This model's maximum context length is {self.longest} tokens")

    def malformed(self) -> tuple[int, Any]:
        return 422, self.error("JSON decode error")

    def logprob(self, told: Told, body: dict[str, Any]) -> dict[str, Any]:
        by_id = body.get("return_tokens_as_token_ids")
        return {"token": f"token_id:{told.id}" if by_id else told.text, "logprob": told.logprob, "top_logprobs": []}

    def error(self, message: str) -> Any:
        return {"error": {"message": message, "type": "BadRequestError", "code": 400}}
