"""ChatML, as Qwen and SmolLM2 have it: each turn between ``<|im_start|>`` with its role and ``<|im_end|>``."""

from checks.kinds.chat_template import ChatTemplate


class ChatMl(ChatTemplate):
    """Each turn is one block. A start token of the tokenizer comes first, unless it begins turns anyway."""

    tokens = ("<|im_start|>", "<|im_end|>")
    text = (
        "{% if bos_token and bos_token != '<|im_start|>' %}{{ bos_token }}{% endif %}"
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
