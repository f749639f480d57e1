"""capture: imports requests that another tool recorded, redacted as the gateway does."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from checks.config import params_file
from checks.formats.captures import Capture, release_named
from checks.process.errors import EvidenceRefused, ParamsRefused
from checks.storage import files, layout
from release.monitoring import releases
from release.monitoring.gateway.options import user_secret as read_secret
from release.monitoring.gateway.rows import TooLarge, row
from release.monitoring.log_kind import Entry
from release.monitoring.logs import KINDS
from release.monitoring.store import CaptureStore
from release.monitoring.window import TimeSpan
from release.verbs.history import moment


class Captured(NamedTuple):
    """How many requests were read, how many of them are new, why others were left out, and which files were written."""

    requests: int
    new: int
    left_out: Counter[str]
    files: tuple[str, ...]


def capture(
    root: Path,
    environment: str,
    kind: str,
    source: str,
    *,
    release: str | None = None,
    sample: float = 1.0,
    captures: str | None = None,
    since: str | None = None,
    until: str | None = None,
    user_secret: Path | None = None,
) -> Captured:
    """Read the log at ``source`` and store its requests as those of ``environment``. The same log again adds nothing.

    ``release``: the model's digest, for requests whose log does not name it. ``sample``: the share recorded.
    ``captures``: where to store them: a folder or an address; None: that of this machine. ``since``, ``until``: as of
    `lockstep watch`; None: without a bound. ``user_secret``: the file of the secret that makes keys of users; None: no
    key is stored.

    Raises ParamsRefused for an unknown environment or kind. EvidenceRefused for a log without a request and, with the
    line, for a malformed request or one without a release; nothing is stored then. ServingRefused if the
    file of a secret cannot be read or is too short. MachineRefused if a package is missing or MLflow cannot be asked.
    """
    releases.check_known(params_file.load(root / layout.PARAMS), environment)
    if kind not in KINDS.kinds:
        raise ParamsRefused(
            f"{kind[:80]!r} is not a kind of log", f"use one of {', '.join(KINDS.names)}"
        )
    given = None if release is None else release_named(release)
    if release is not None and given is None:
        raise ParamsRefused(
            f"--release: {release[:80]!r} is no digest",
            "write the model's digest, or its first 12 digits",
        )
    now = datetime.now(UTC)
    span = TimeSpan(
        moment(since, now).start if since else datetime(1970, 1, 1, tzinfo=UTC),
        moment(until, now).start if until else now,
    )
    secret = None if user_secret is None else read_secret(user_secret)
    entries = KINDS.kinds[kind]().read(source, span)
    captured, left_out = _rows(entries, environment, span, given, sample, secret)
    if not captured:
        why = "; ".join(
            f"{count:,} left out: {reason}" for reason, count in left_out.most_common(3)
        )
        raise EvidenceRefused(
            f"{source}: has no request to store{f' ({why})' if why else ''}",
            "name another log, --from or --to",
        )
    store = CaptureStore(captures or str(root / layout.CAPTURES))
    names, new = store.add_requests(environment, captured, kind)
    return Captured(len(captured), new, left_out, tuple(names))


def _rows(
    entries: Iterable[Entry],
    environment: str,
    span: TimeSpan,
    release: str | None,
    sample: float,
    secret: bytes | None,
) -> tuple[list[Capture], Counter[str]]:
    captured, left_out = list[Capture](), Counter[str]()
    for place, exchange, reason in entries:
        if exchange is None:
            left_out[reason] += 1
            continue
        if not span.since <= exchange.time < span.until:
            left_out["outside of --from and --to"] += 1
            continue
        exchange.release = exchange.release or release
        if exchange.release is None:
            raise EvidenceRefused(
                f"{place}: the log does not say which release answered",
                "give the digest of the model that answered with --release",
            )
        try:
            captured.append(row(exchange, environment, sample, secret))
        except TooLarge:
            left_out["too large to be stored"] += 1
        except ValidationError as error:
            raise EvidenceRefused(
                f"{place}: {files.first(error)}", "correct the log, or leave the line out"
            ) from error
    return captured, left_out
