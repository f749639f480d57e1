"""Roles as words, for any model: only the end token, which every pretrained model knows, is a token of its own."""

from checks.kinds.chat_template import ChatTemplate


class Plain(ChatTemplate):
    """``User:`` and ``Assistant:`` on lines of their own; an answer ends in the tokenizer's end token."""

    tokens = ()
    text = (
        "{% if bos_token %}{{ bos_token }}{% endif %}"
        "{% for message in messages %}"
        "{{ message['role'] | capitalize }}:\n{{ message['content'] | trim }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}Assistant:\n{% endif %}"
    )
