"""Text of others among lines of ours."""


def printed(text: str) -> str:
    """``text`` with U+FFFD for what does not print: it cannot look like another line, nor move or hide one."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
