"""A chat template that thinks as Qwen3's does, written from its documented behaviour.

``enable_thinking=false`` ends the prompt in a closed, empty thought. An assistant's turn after the last question shows its
thought, even an empty one; earlier turns lose theirs.
"""

OPEN, CLOSE = "<think>", "</think>"

TEMPLATE = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{%- if m['role'] == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}"
    "{%- set text = m['content'] %}{%- set thought = '' %}"
    "{%- if m['role'] == 'assistant' and '</think>' in text %}"
    "{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{%- set text = text.split('</think>')[-1].lstrip('\\n') %}"
    "{%- endif %}"
    "{{- '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'assistant' and loop.index0 > ns.last %}"
    "{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}"
    "{%- endif %}"
    "{{- text + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
