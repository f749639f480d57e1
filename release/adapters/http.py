"""What clients of REST APIs share: a token in one header, answers of bounded size, failures in few words."""

import requests


class Bearer(requests.auth.AuthBase):
    """A token as a login. Set last: a login of ~/.netrc does not take its place."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class TooLarge(ValueError):  # noqa: N818 - the caller has a word of its own for it
    """An answer without end."""


def body(response: requests.Response, largest: int) -> bytes:
    """All of a streamed answer. Raises TooLarge when it has more than ``largest`` bytes."""
    data = bytearray()
    for block in response.iter_content(1 << 16):
        data += block
        if len(data) > largest:
            raise TooLarge(f"answers with more than {largest:,} bytes")
    return bytes(data)


def late(error: requests.Timeout, times: tuple[float, float]) -> str:
    """A timeout in words; ``times`` are the seconds to connect, and between two reads."""
    return f"does not answer within {times[0 if isinstance(error, requests.ConnectTimeout) else 1]:g} s"
