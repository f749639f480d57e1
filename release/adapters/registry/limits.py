"""What registries are known not to take, checked before the first byte is sent."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from checks.errors import BuildRefused


class Limit(NamedTuple):
    """``layer``: the largest layer in bytes; ``chunks``: whether it takes an upload in several requests."""

    host: str
    layer: int | None
    chunks: bool = True


# GHCR refuses chunks above 4 MiB, and ECR reports a stale Range after the first chunk: one request is right for both.
_LIMITS = (
    Limit(r"ghcr\.io", 10_000_000_000, chunks=False),
    Limit(r"(public\.ecr\.aws|.+\.dkr\.ecr(-fips)?\..+\.(amazonaws\.com(\.cn)?|on\.aws))", 52_000 << 20, chunks=False),
    Limit(r"quay\.io", 50_000_000_000),
    Limit(r"registry\.gitlab\.com", 10_000_000_000),
    Limit(r"(.+\.pkg\.dev|(.+\.)?gcr\.io)", None, chunks=False),
)


def of(host: str) -> Limit:
    """The limits of a registry by its host; none are known of most."""
    bare = host.partition(":")[0].lower()
    return next((limit for limit in _LIMITS if re.fullmatch(limit.host, bare)), Limit(host, None))


def check(host: str, sizes: Iterable[int]) -> None:
    """Raise BuildRefused when a layer, given by its bytes, is larger than the registry takes."""
    largest, limit = max(sizes, default=0), of(host).layer
    if limit is not None and largest > limit:
        raise BuildRefused(
            f"a layer has {largest:,} bytes, and {host} takes {limit:,} at most",
            f"set merge.shard_mb in params.yaml to {limit // 2_000_000} or less, or use another registry",
        )
