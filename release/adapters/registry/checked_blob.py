"""Reads a blob and holds it to its digest and size."""

import hashlib
from collections.abc import Callable, Iterable, Iterator

from checks.process.errors import Refusal


def checked(
    blocks: Iterable[bytes], digest: str, size: int, wrong: Callable[[int, str], Refusal]
) -> Iterator[bytes]:
    """Yield ``blocks``; the last one comes only once all have the digest and the size.

    Else raises what ``wrong`` makes of the number of bytes and their digest. Reading ends at the first block too many.
    """
    hasher = hashlib.sha256()
    count = 0
    last = b""
    for block in blocks:
        hasher.update(block)
        count += len(block)
        if count > size:
            break
        if last:
            yield last
        last = block
    actual = f"sha256:{hasher.hexdigest()}"
    if count != size or actual != digest:
        raise wrong(count, actual)
    if last:
        yield last
