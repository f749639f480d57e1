"""A STAND-IN for vLLM's OpenAI server, whose image cannot be run here: TGI's stand-in where the two agree.

Where vLLM differs: it tells tokens as ``token_id:<id>`` when asked to, tokenizes a chat at /tokenize, knows its served
name and says 404 to any other, names the weights' folder as ``root`` in /v1/models, and calls its metrics ``vllm:…``.
It keeps an answer from ending by ``min_tokens``, also where it speculates and refuses ``logit_bias``. On SIGTERM it finishes what its engine has begun; a stream that it accepted tens of milliseconds
before ends without a token, as vLLM 0.32 was seen to end 7 of 8.

Its parsers are those of vLLM 0.32's source: ``hermes`` reads calls between tags, ``mistral`` and ``llama3_json`` nothing of these;
``deepseek_r1`` takes all before ``</think>`` for a thought, and without this mark the whole answer.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal

from checks.formats.serving import Probe
from tests.tgi_standin import CHAT_REQUEST, StandIn, Told

OPENAI_REQUEST = copy.deepcopy(CHAT_REQUEST)
OPENAI_REQUEST["properties"]["logit_bias"] = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "propertyNames": {"pattern": "^[0-9]+$"},
}
VLLM_REQUEST = copy.deepcopy(CHAT_REQUEST)
VLLM_REQUEST["properties"] |= {"seed": {"type": "integer"}, "top_k": {"type": "integer"}}
VLLM_REQUEST["properties"] |= {"top_p": {"type": "number", "exclusiveMinimum": 0}, "min_p": {"type": "number"}}
VLLM_REQUEST["properties"]["min_tokens"] = {"type": "integer", "minimum": 1}
VLLM_REQUEST["properties"]["stop_token_ids"] = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
VLLM_REQUEST["properties"]["return_tokens_as_token_ids"] = {"type": "boolean"}
VLLM_REQUEST["properties"]["tools"] = {"type": "array", "items": {"type": "object"}, "minItems": 1}
VLLM_REQUEST["properties"]["tool_choice"] = {"enum": ["none", "auto"]}
VLLM_REQUEST["properties"]["response_format"] = {
    "type": "object",
    "required": ["type", "json_schema"],
    "properties": {
        "type": {"const": "json_schema"},
        "json_schema": {"type": "object", "required": ["name", "schema"]},
    },
}
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
    tool_parser: str | None = None
    reasoning_parser: str | None = None
    lora: Literal["loaded", "absent"] | None = None  # an adapter beside its base, which is listed first
    json = '{"label": "vm"}'  # what it answers where a schema is asked
    slots = 1000  # --max-loras
    loaded: tuple[str, ...] = ()  # the names in the slots, the latest last

    @cached_property
    def loads(self) -> list[str]:
        """Each name that was loaded, in order."""
        return []

    @cached_property
    def reloaded(self) -> "dict[str, Callable[[VllmStandIn], object]]":
        """What becomes of an adapter that is loaded again, by name."""
        return {}

    @cached_property
    def others(self) -> "dict[str, VllmStandIn]":
        """What it has behind --lora-modules, by name. They answer in this one's place, and are not asked themselves."""
        return {}

    def asked_for(self, body: dict[str, Any]) -> "VllmStandIn | None":
        """The other adapter that a request names. It takes a slot: from the one that was not used for longest, if all
        are taken, and that one answers as ``reloaded`` says when it comes back."""
        name = body.get("model", self.name)
        if name not in self.loaded:
            self.loads.append(name)
            if (reload := self.reloaded.get(name)) and self.loads.count(name) > 1:
                reload(self.others.get(name, self))
        self.loaded = (*(other for other in self.loaded if other != name), name)[-self.slots :]
        return self.others.get(name)

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/v1/models":
            root = self.faults.model or self.model
            if not self.lora:
                return 200, {"object": "list", "data": [{"id": self.name, "root": root, "max_model_len": 64}]}
            base = {"id": f"{self.name}-base", "root": self.model, "parent": None, "max_model_len": 64}
            adapter = {"id": self.name, "root": f"{root}/adapter", "parent": f"{self.name}-base"}
            others = [
                {"id": name, "root": f"{other.faults.model or other.model}/adapter", "parent": base["id"]}
                for name, other in self.others.items()
            ]
            return 200, {"object": "list", "data": [base, *others, *([adapter] if self.lora == "loaded" else [])]}
        if path == "/metrics" and not self.faults.without_metrics:
            count = 1 if self.faults.frozen else self.counted
            model = f'model_name="{self.name}"'
            cache = f'block_size="16",cache_dtype="{self.faults.cache}",engine="0"'
            metrics = (
                f"vllm:cache_config_info{{{cache if self.faults.cache else ''}}} 1.0\n"
                f'vllm:request_success_total{{finished_reason="stop",{model}}} {count}.0\n'
                f'vllm:request_success_total{{finished_reason="length",{model}}} 0.0\n'
                f"vllm:generation_tokens_total{{{model}}} {count * 3}.0\n"
                f"vllm:prefix_cache_hits_total{{{model}}} {self.hits}.0\n"
                f"vllm:spec_decode_num_draft_tokens_total{{{model}}} {self.skipped * 2}.0\n"
                f"vllm:spec_decode_num_accepted_tokens_total{{{model}}} {self.skipped}.0\n"
                f"vllm:e2e_request_latency_seconds_count{{{model}}} {count}.0\n"
                f"vllm:num_requests_waiting{{{model}}} 0.0\nvllm:num_requests_running{{{model}}} 1.0\n"
                f"vllm:kv_cache_usage_perc{{{model}}} 0.25\n"
                f'vllm:time_to_first_token_seconds_bucket{{{model},le="0.1"}} {count}.0\n'
            )
            return 200, self.renamed(metrics)
        return 404, self.error("Not Found")

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        if other := self.asked_for(body):
            return other.chat(body)
        reply = super().chat(body)
        choice = reply["choices"][0]
        parts = self.parts(body, choice["message"]["content"])
        choice["message"] |= parts
        if parts.get("tool_calls") or parts["content"] == self.json:
            choice["finish_reason"] = "tool_calls" if parts.get("tool_calls") else "stop"
        return reply

    def parts(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        """What its parsers make of an answer."""
        content: str | None = text
        parts: dict[str, Any] = {}
        if "response_format" in body and not self.faults.ignores_schema:
            content = self.json
        elif self.reasoning_parser == "deepseek_r1":
            thought, _, content = text.removeprefix("<think>").partition("</think>")
            parts["reasoning"] = thought
        if body.get("tool_choice") == "auto":
            found = re.findall("<tool_call>(.*?)</tool_call>", content or "", re.DOTALL)
            if self.tool_parser == "hermes" and found:
                calls = map(json.loads, found)
                parts["tool_calls"] = [
                    {
                        "id": f"call-{number}",
                        "type": "function",
                        "function": {
                            "name": call["name"],
                            "arguments": self.faults.arguments or json.dumps(call["arguments"]),
                        },
                    }
                    for number, call in enumerate(calls)
                ]
                content = (content or "").partition("<tool_call>")[0]
        return {"content": content or None, **parts}

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The parts come in pieces: the thought, the content, and of each call the name before the arguments."""
        if other := self.asked_for(body):
            yield from other.chunks(body)
            return
        if not (self.reasoning_parser or body.get("tool_choice") == "auto" or "response_format" in body):
            yield from super().chunks(body)
            return
        message = self.chat(body)["choices"][0]["message"]
        deltas: list[dict[str, Any]] = []
        for key in ("reasoning", "reasoning_content", "content"):
            text = message.get(key) or ""
            deltas += [{key: text[place : place + 5]} for place in range(0, len(text), 5)]
        for number, call in enumerate(message.get("tool_calls", ())):
            function = call["function"]
            deltas.append({"tool_calls": [{"index": number, "id": call["id"], "function": {"name": function["name"]}}]})
            pieces = [function["arguments"][place : place + 4] for place in range(0, len(function["arguments"]), 4)]
            if self.faults.stream_otherwise:
                pieces = pieces[:-1]
            deltas += [{"tool_calls": [{"index": number, "function": {"arguments": piece}}]} for piece in pieces]
        for delta in deltas:
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": len(deltas)}}

    def tokenized(self, probe: Probe) -> Any:
        ids = [*([1] if self.faults.extra_prompt_token else []), *probe.prompt_tokens]
        return {"count": len(ids), "max_model_len": self.longest, "tokens": ids}

    def unknown(self, body: dict[str, Any]) -> bool:
        return body.get("model") not in (self.name, *self.others)

    def refuses(self, body: dict[str, Any]) -> str | None:
        unread = body.get("tool_choice") == "auto" and self.tool_parser is None
        return '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser' if unread else None

    def too_long(self) -> tuple[int, Any]:
        return 400, self.error(f"This model's maximum context length is {self.longest} tokens")

    def malformed(self) -> tuple[int, Any]:
        return 422, self.error("JSON decode error")

    def logprob(self, told: Told, body: dict[str, Any]) -> dict[str, Any]:
        by_id = body.get("return_tokens_as_token_ids")
        return {"token": f"token_id:{told.id}" if by_id else told.text, "logprob": told.logprob, "top_logprobs": []}

    def error(self, message: str) -> Any:
        return {"error": {"message": message, "type": "BadRequestError", "code": 400}}
