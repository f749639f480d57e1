"""Checks before the first byte is sent what registries are known not to take."""

import re
from collections.abc import Iterable

from checks.process.errors import BuildRefused

# The bytes of the largest layer that a registry takes, by a pattern of its host.
_LIMITS = {
    r"ghcr\.io": 10_000_000_000,
    r"(public\.ecr\.aws|.+\.dkr\.ecr(-fips)?\..+\.(amazonaws\.com(\.cn)?|on\.aws))": 52_000 << 20,
    r"quay\.io": 50_000_000_000,
    r"registry\.gitlab\.com": 10_000_000_000,
}


def check(host: str, sizes: Iterable[int]) -> None:
    """Raise BuildRefused when a layer, given by its bytes, is larger than the registry takes."""
    largest, bare = max(sizes, default=0), host.partition(":")[0].lower()
    limit = next((most for name, most in _LIMITS.items() if re.fullmatch(name, bare)), None)
    if limit is not None and largest > limit:
        raise BuildRefused(
            f"a layer has {largest:,} bytes, and {host} takes {limit:,} at most",
            f"set merge.shard_mb in params.yaml to {limit // 2_000_000} or less, or use another registry",
        )
