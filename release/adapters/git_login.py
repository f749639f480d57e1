"""The token of a workflow as git's login, so that no job needs to leave one in .git/config.

By the environment, as git takes configuration there: no argument, file or address ever holds it. It is sent to the
server that the workflow runs on and to no other.
"""

import base64
import os
from collections.abc import Mapping

from release.adapters.registry import addresses

_SERVER = "https://github.com"


def configured(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make git log in; none outside of GitHub Actions, or without a token.

    LOCKSTEP_TOKEN is taken before GITHUB_TOKEN: a token that may push where the workflow's own may not.
    """
    token = environment.get("LOCKSTEP_TOKEN") or environment.get("GITHUB_TOKEN")
    server = (environment.get("GITHUB_SERVER_URL") or _SERVER).rstrip("/")
    count = environment.get("GIT_CONFIG_COUNT", "0")
    if (
        environment.get("GITHUB_ACTIONS") != "true"
        or not token
        or not addresses.is_private_way(server)
        or not count.isdecimal()
    ):
        return {}
    login = base64.b64encode(b"x-access-token:" + os.fsencode(token)).decode()
    # The empty value takes away what was set before: actions/checkout sets the same header, and git would send both.
    values = [f"http.{server}/.extraheader"] * 2, ["", f"Authorization: Basic {login}"]
    named = dict[str, str]()
    for place, (key, value) in enumerate(zip(*values, strict=True), int(count)):
        named |= {f"GIT_CONFIG_KEY_{place}": key, f"GIT_CONFIG_VALUE_{place}": value}
    return {**named, "GIT_CONFIG_COUNT": str(int(count) + 2)}
