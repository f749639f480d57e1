"""ChatML with tools, as Hermes and Qwen2.5 write calls and results."""

from checks.kinds.chat_template import ChatTemplate


class Hermes(ChatTemplate):
    """ChatML with tools: the system turn lists them, a call is JSON between ``<tool_call>`` and ``</tool_call>``."""

    tokens = ("<|im_start|>", "<|im_end|>")
    text = (
        "{% if bos_token and bos_token != '<|im_start|>' %}{{ bos_token }}{% endif %}"
        "{% if messages[0]['role'] == 'system' %}"
        "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "{% if system or tools %}<|im_start|>system\n{{ system }}"
        "{% if tools %}{% if system %}{{ '\n\n' }}{% endif %}"
        'To call a function, write <tool_call>\n{"name": its name, "arguments": {its arguments}}\n</tool_call>. '
        "You can call these functions:\n"
        "<tools>{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}\n</tools>{% endif %}"
        "<|im_end|>\n{% endif %}"
        "{% for turn in turns %}<|im_start|>{{ turn['role'] }}\n"
        "{% if turn['role'] == 'tool' %}<tool_response>\n{{ turn['content'] }}\n</tool_response>"
        "{% else %}{{ turn['content'] }}{% for call in turn['tool_calls'] or [] %}"
        "{% if turn['content'] or not loop.first %}{{ '\n' }}{% endif %}"
        '<tool_call>\n{"name": {{ call["function"]["name"] | tojson }}, '
        '"arguments": {{ call["function"]["arguments"] | tojson }}}\n</tool_call>'
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
