"""Llama 3's turns. Pretrained Llama 3 models have these tokens too, and no template."""

from checks.kinds.chat_template import ChatTemplate


class Llama3(ChatTemplate):
    """Each turn has its role between header tokens, and ends in ``<|eot_id|>``."""

    tokens = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    text = (
        "{% if bos_token %}{{ bos_token }}{% endif %}"
        "{% for message in messages %}"
        "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
