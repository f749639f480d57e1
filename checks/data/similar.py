"""Defines when two texts are the same request."""

import unicodedata


def normalised(text: str) -> str:
    """``text`` without differences that do not matter for a request: case, width, white space, final punctuation."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(" .,;:!?") or plain
