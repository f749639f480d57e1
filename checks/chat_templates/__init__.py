"""The chat templates that ``base.chat_template`` can name, one file each: ``checks.kinds.chat_template``."""
