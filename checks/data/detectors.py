"""Finds personal data and secrets in text, for the gateway, which redacts them, and for the gate ``privacy``.

Each detector is a regular expression, and where the kind has a check digit or a registry, that too, so that texts which
only look alike are left as they are. Of the 6,551 rows of the default data three are flagged, each with an address of
mail; a row of 137 characters takes 0.02 ms. Names and postal addresses are not found: a model of language finds them,
and flagged 97 of 300 clean rows (docs/measurements/gateway.md#redaction).

Every expression takes time in proportion to the length of the text: no repetition is without a bound or ambiguous.
"""

import bisect
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple


class Detector(NamedTuple):
    """One kind. ``valid`` decides about what ``pattern`` matches."""

    kind: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool] = lambda _: True


class Finding(NamedTuple):
    """Where a text has something of a kind: characters ``start`` to ``end``."""

    kind: str
    start: int
    end: int


def find(text: str, kinds: Container[str] | None = None) -> list[Finding]:
    """All findings in order, without overlaps: where two overlap, the kind that stands first in DETECTORS counts.

    ``kinds``: what is looked for; None: every kind.
    """
    findings: list[Finding] = []
    for detector in (
        DETECTORS
        if kinds is None
        else (detector for detector in DETECTORS if detector.kind in kinds)
    ):
        starts, new = [finding.start for finding in findings], []
        for match in detector.pattern.finditer(text):
            start, end = match.span()
            # Of the spans that start before ``end``, the last one reaches farthest.
            at = bisect.bisect_left(starts, end)
            if (at == 0 or findings[at - 1].end <= start) and detector.valid(match[0]):
                new.append(Finding(detector.kind, start, end))
        if new:
            findings = sorted((*findings, *new), key=lambda finding: finding.start)
    return findings


def redact(text: str, findings: Sequence[Finding] | None = None) -> tuple[str, Counter[str]]:
    """``text`` with ``[kind]`` in place of each finding, and how many of each kind there were.

    ``findings``: the findings, as ``find`` gives them; None: all.
    """
    parts, at = [], 0
    findings = find(text) if findings is None else findings
    for finding in findings:
        parts += [text[at : finding.start], f"[{finding.kind}]"]
        at = finding.end
    return "".join((*parts, text[at:])), Counter(finding.kind for finding in findings)


def _luhn(text: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1), and more than one digit used."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = (digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2])
    return (
        13 <= len(digits) <= 19
        and len(set(digits)) > 1
        and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0
    )


def _iban(text: str) -> bool:
    """The check digits of account numbers (ISO 13616)."""
    plain = text.replace(" ", "").upper()
    return (
        15 <= len(plain) <= 34
        and int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1
    )


def _public(text: str) -> bool:
    """An address that can be somebody's: private ranges and those of documentation are not."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _phone(text: str) -> bool:
    # ITU-T E.164 allows 15 digits; numbers under 8 are extensions.
    return 8 <= sum(character.isdigit() for character in text) <= 15


def _ssn(text: str) -> bool:
    """Areas, groups and serials that the Social Security Administration issues."""
    area, group, serial = text.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


# The first ones win where they overlap: a password in an address may look like an e-mail.
DETECTORS: tuple[Detector, ...] = (
    Detector(
        "private_key",
        re.compile(
            r"-----BEGIN (?:[A-Z]{2,12} ){0,2}PRIVATE KEY-----(?:[^-]{0,20000}-----END [A-Z ]{0,30}-----)?"
        ),
    ),
    Detector(
        "secret",  # tokens with the prefix of who issues them, and JSON Web Tokens
        re.compile(
            r"(?<![A-Za-z0-9_-])(?:"
            r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # AWS
            r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}"
            r"|glpat-[A-Za-z0-9_-]{20,64}"
            r"|sk-[A-Za-z0-9_-]{20,200}"  # OpenAI, Anthropic
            r"|hf_[A-Za-z0-9]{30,60}"
            r"|xox[abprs]-[A-Za-z0-9-]{10,200}"  # Slack
            r"|AIza[A-Za-z0-9_-]{35}"  # Google
            r"|(?:sk|rk)_live_[A-Za-z0-9]{20,120}"  # Stripe
            r"|eyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}"
            r")"
        ),
    ),
    Detector(
        "secret",  # AccountKey=… of Azure Storage, SharedAccessKey=… of its queues
        re.compile(r"(?:(?<=AccountKey=)|(?<=AccessKey=))[A-Za-z0-9+/]{40,90}={0,2}"),
    ),
    Detector(
        "url_password",
        re.compile(r"(?<=://)[^\s/:@<>\"']{1,100}:[^\s/@<>\"']{1,200}(?=@[A-Za-z0-9\[])"),
    ),
    Detector(
        "email",
        re.compile(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])"
        ),
    ),
    Detector(
        "iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), _iban
    ),
    Detector("payment_card", re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"), _luhn),
    Detector("us_ssn", re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"), _ssn),
    Detector(
        "phone",  # A number with its country, or one as written in North America.
        re.compile(
            r"(?<![\w.+-])(?:\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{1,4}){1,5}"
            r"|(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4})(?![\w-])"
        ),
        _phone,
    ),
    Detector("ip_address", re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d./])"), _public),
)
KINDS = tuple(dict.fromkeys(detector.kind for detector in DETECTORS))
