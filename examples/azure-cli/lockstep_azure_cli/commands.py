"""Commands of the Azure CLI in the text of an answer."""

import re

_COMMAND = re.compile(r"(?:^|[|;&(`=]|\$\()\s*az\s+[a-z{]")


def commands_in(answer: str) -> list[str]:
    """The lines of a shell script that run ``az``, with white space collapsed and continued lines joined."""
    lines = (" ".join(line.split()) for line in re.sub(r"\\[ \t]*\r?\n", " ", answer).splitlines())
    return [line for line in lines if _COMMAND.search(line)]


def service_of(command: str) -> str:
    """The word after ``az``; empty if there is none."""
    match = re.search(_COMMAND.pattern + r"\S*", command)
    return match.group().split()[-1] if match else ""


def path_of(command: str) -> str:
    """``az`` and the words that follow it, up to the first option or value; nothing where a placeholder follows."""
    match = re.search(r"\baz(?: [a-z][a-z0-9-]*(?![^\s|;&)>]))+", command)
    return match.group() if match and not command[match.end() :].startswith(" {") else ""
