"""A STAND-IN for SGLang's OpenAI server, which needs CUDA: vLLM's stand-in where the two agree.

Where SGLang differs, by the source of its release 0.5.23: it lists the ids of an answer's tokens beside its choice, and
refuses that in a stream; it names the weights' folder at /model_info, looks at no model's name, puts tools into the
prompt unless ``tool_choice`` is ``none``, leaves thoughts in the text where it is asked to, calls a thought
``reasoning_content``, and calls its metrics ``sglang:…``.
"""

import copy
from typing import Any

from tests.tgi_standin import CHAT_REQUEST, Told
from tests.vllm_standin import VLLM_REQUEST, VllmStandIn

SGLANG_REQUEST = copy.deepcopy(CHAT_REQUEST)
SGLANG_REQUEST["properties"] |= {
    name: VLLM_REQUEST["properties"][name] for name in ("min_tokens", "stop_token_ids", "tools", "response_format")
}
SGLANG_REQUEST["properties"]["return_token_ids"] = {"type": "boolean"}
SGLANG_REQUEST["properties"]["separate_reasoning"] = {"type": "boolean"}
SGLANG_REQUEST["dependentRequired"] = {"min_tokens": ["stop_token_ids"]}
SGLANG_REQUEST["not"] = {"required": ["stream", "return_token_ids"]}


class SglangStandIn(VllmStandIn):
    """SGLang. ``ids_without_end``: the list of ids lacks the token that ended the answer."""

    schema = SGLANG_REQUEST
    ids_without_end = False

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/model_info":
            return 200, {"model_path": self.faults.model or self.model, "is_generation": True}
        if path == "/metrics" and not self.faults.without_metrics:
            count = 1 if self.faults.frozen else self.counted
            model = f'model_name="{self.model}"'
            metrics = (
                f"sglang:num_requests_total{{{model}}} {count}.0\n"
                f"sglang:generation_tokens_total{{{model}}} {count * 3}.0\n"
                f'sglang:cached_tokens_total{{cache_source="device",{model}}} {self.hits}.0\n'
                f"sglang:num_queue_reqs{{{model}}} 0.0\nsglang:num_running_reqs{{{model}}} 1.0\n"
                f"sglang:token_usage{{{model}}} 0.25\n"
                f'sglang:time_to_first_token_seconds_bucket{{{model},le="0.1"}} {count}.0\n'
            )
            return 200, self.renamed(metrics)
        return 404, self.error("Not Found")

    def unknown(self, body: dict[str, Any]) -> bool:
        return False

    def malformed(self) -> tuple[int, Any]:
        return 400, self.error("JSON decode error")

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        reply = super().chat(body)
        choice = reply["choices"][0]
        if choice["logprobs"] and body.get("return_token_ids"):
            ids = [part.pop("id") for part in choice["logprobs"]["content"]]
            stopped = choice["finish_reason"] == "stop"
            choice["response_token_ids"] = ids[:-1] if stopped and self.ids_without_end else ids
        return reply

    def parts(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        if not body.get("separate_reasoning", True):
            return {"content": text}
        return {{"reasoning": "reasoning_content"}.get(k, k): v for k, v in super().parts(body, text).items()}

    def logprob(self, told: Told, body: dict[str, Any]) -> dict[str, Any]:
        return {"id": told.id, "token": told.text, "logprob": told.logprob, "top_logprobs": []}
