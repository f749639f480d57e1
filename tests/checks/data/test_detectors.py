"""What is taken for personal data and secrets, and what only looks like it."""

import time

import pytest

from checks.data import detectors

# Nothing that anybody was given: numbers of documentation, and tokens of one letter.
FOUND = [
    ("email", "mail ada.l+x@mail.example.org, please", "ada.l+x@mail.example.org"),
    ("email", "<o'neil@example.co.uk>", "neil@example.co.uk"),
    ("phone", "call +44 20 7946 0958 now", "+44 20 7946 0958"),
    ("phone", "call +49 (0)30 123456", "+49 (0)30 123456"),
    ("phone", "call (202) 555-0134.", "(202) 555-0134"),
    ("phone", "202-555-0134", "202-555-0134"),
    ("payment_card", "card 4111 1111 1111 1111 thanks", "4111 1111 1111 1111"),
    ("payment_card", "378282246310005", "378282246310005"),
    ("iban", "to DE89 3704 0044 0532 0130 00.", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432", "GB82WEST12345698765432"),
    ("us_ssn", "ssn 078-05-1120", "078-05-1120"),
    ("ip_address", "from 8.8.8.8 on", "8.8.8.8"),
    ("secret", "key=AKIA" + "Q" * 16, "AKIA" + "Q" * 16),
    ("secret", "token ghp_" + "a" * 36, "ghp_" + "a" * 36),
    ("secret", "OPENAI=sk-proj-" + "b" * 40, "sk-proj-" + "b" * 40),
    ("secret", "hf_" + "c" * 34, "hf_" + "c" * 34),
    ("secret", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"),
    ("secret", "AccountName=x;AccountKey=" + "d" * 86 + "==;", "d" * 86 + "=="),
    ("url_password", "git clone https://ada:pa55@git.example/x", "ada:pa55"),
    ("private_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"),
    ("private_key", "-----BEGIN PRIVATE KEY-----\nMII", "-----BEGIN PRIVATE KEY-----"),
]  # fmt: skip
CLEAN = [
    "az vm create --image UbuntuLTS --name my@vm --size Standard_D2s_v3",
    "user@localhost", "@mention and a@b", "version 1.2.3.4.5",
    "subnet 10.0.0.0/16, host 192.168.1.10, loopback 127.0.0.1, docs 203.0.113.7", "999.8.8.8",
    "00000000-0000-0000-0000-000000000000", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    "4111 1111 1111 1112", "0000 0000 0000 0000", "1234567890123456", "DE89 3704 0044 0532 0130 01",
    "2026-11-26 16:20:00", "1,000,000 of 12345678", "666-12-3456", "000-12-3456", "+1 234", "tel 555-0134",
    "sk-learn", "ghp_short", "AKIAEXAMPLE", "https://git.example:8080/x", "http://host/a:b",
    "eyJhbGciOi", "sha256:" + "a" * 64, "a task-based sk-", "-----BEGIN CERTIFICATE-----",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "part"), FOUND)
def test_it_is_found_with_its_kind_and_redacted(kind: str, text: str, part: str) -> None:
    (found,) = detectors.find(text)
    assert (found.kind, text[found.start : found.end]) == (kind, part)
    assert detectors.redact(text) == (text.replace(part, f"[{kind}]"), {kind: 1})


@pytest.mark.parametrize("text", CLEAN)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert detectors.redact(text) == (text, {})


def test_each_kind_has_a_case_and_overlapping_findings_count_once() -> None:
    assert {kind for kind, _, _ in FOUND} == set(detectors.KINDS)
    both = "https://ada:ada@mail.example.org and bob@mail.example.org"
    assert detectors.redact(both) == (
        "https://[url_password]@mail.example.org and [email]",
        {"url_password": 1, "email": 1},
    )


def test_what_was_redacted_has_nothing_more_to_redact() -> None:
    texts = " ".join(text for _, text, _ in FOUND)
    redacted, counts = detectors.redact(texts)
    assert counts.total() >= len(FOUND) - 1
    assert detectors.redact(redacted) == (redacted, {})


@pytest.mark.parametrize(
    "piece",
    ["a@", "1", "1 ", "1.1.", "A", "DE00", "eyJ" + "a" * 9 + ".", "-----BEGIN PRIVATE KEY-----", "://a:", "+1 ",
     "(123) ", "a@b.", "eyJaaaaaaaa.eyJ", "a.", "sk-", "AccountKey=a"],
)  # fmt: skip
def test_a_long_text_does_not_take_the_square_of_its_length(piece: str) -> None:
    """Linear, 200,000 characters take hundredths of a second; the square of them takes at least ten seconds."""
    began = time.process_time()
    detectors.find(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 3
