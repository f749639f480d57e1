"""Gemma's turns. Pretrained Gemma models have these tokens too, and no template."""

from checks.kinds.chat_template import ChatTemplate


class Gemma(ChatTemplate):
    """Gemma knows no system turn: its text begins the first turn of the user, as in Google's own template."""

    tokens = ("<start_of_turn>", "<end_of_turn>")
    text = (
        "{% if bos_token %}{{ bos_token }}{% endif %}"
        "{% if messages[0]['role'] == 'system' %}"
        "{% set before = messages[0]['content'] ~ '\\n\\n' %}{% set turns = messages[1:] %}"
        "{% else %}"
        "{% set before = '' %}{% set turns = messages %}"
        "{% endif %}"
        "{% for message in turns %}"
        "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
        "{% if loop.first %}{{ before }}{% endif %}{{ message['content'] | trim }}<end_of_turn>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
