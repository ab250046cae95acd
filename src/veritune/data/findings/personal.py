"""Personal data in a text, by rules that look at every row.

Placeholders are no one's data and do not count: addresses at example.com, 555-0100, private
and reserved networks, the card numbers that payment services publish for tests, ``/home/user``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

EMAIL = "e-mail address"
PHONE = "telephone number"
IP = "public IP address"
CARD = "payment card number"
HOME = "user name in a path"

_LOOKED_AT_CHARACTERS = 50_000
_EMAIL = re.compile(
    r"(?<![\w.+%-])([\w.+%-]{1,64}+)@([A-Za-z0-9-]{1,63}+(?:\.[A-Za-z0-9-]{1,63}+){1,6}+)"
)
_DIGITS = re.compile(r"(?<![\w.,+/-])\+?\(?\d(?:[ ().-]{0,3}+\d){5,24}+(?![\w/])")
_PHONE = re.compile(
    r"\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){5,12}"
    r"|(?:1[ .-])?\([2-9]\d{2}\) ?[2-9]\d{2}[ .-]\d{4}"
    r"|(?:1[ .-])?[2-9]\d{2}([ .-])[2-9]\d{2}\1\d{4}"
)
_CARD = re.compile(r"\d(?:[ -]?\d){12,18}")
_CARD_KINDS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6(?:011|5\d\d)\d{12}"
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){3,7}(?![\w:.])")
_HOME = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\{1,2}Users\\{1,2})([A-Za-z][\w.-]{1,31})")

_OF_NOBODY = re.compile(
    r"(?:your|user|name|email|e-mail|mail|test|example|sample|sender|recipient|receiver|someone|"
    r"somebody|foo|bar|dummy|from|to|me|you|my|admin|info|support|contact|no-?reply|sales|abc|xyz|"
    r"john\.?doe|jane\.?doe|git)[\w.+%-]{0,40}",
    re.IGNORECASE,
)
_RESERVED_DOMAINS = ("example", "test", "invalid", "localhost", "local")
_PLACEHOLDER_DOMAIN = re.compile(
    r"(?:.*\.)?(?:example|your\w*|my\w*|domain|company|test\w*|server|host|email)\.\w+",
    re.IGNORECASE,
)
_PUBLIC_SERVICES = frozenset({"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"})
_TEST_CARDS = frozenset(
    {
        "4111111111111111",
        "4242424242424242",
        "4012888888881881",
        "4000056655665556",
        "4222222222222",
        "5555555555554444",
        "5105105105105100",
        "2223003122003222",
        "378282246310005",
        "371449635398431",
        "6011111111111117",
        "6011000990139424",
    }
)
_USERS_OF_NOBODY = frozenset(
    (
        *("user", "username", "users", "name", "yourname", "yourusername", "your", "me", "myuser"),
        *("myname", "public", "shared", "default", "admin", "administrator", "root", "guest"),
        *("example", "test", "ubuntu", "pi", "runner", "vagrant", "foo", "bar", "path", "someone"),
        *("my", "youruser", "user_name", "your_username", "your_name", "your_user"),
    )
)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Where in a text something is that nobody should read."""

    start: int
    end: int
    kind: str


def personal_spans(text: str) -> list[Span]:
    """What is found in the first 50,000 characters, in order, without overlaps."""
    head = text[:_LOOKED_AT_CHARACTERS]
    found: list[Span] = []
    if "@" in head:
        found += _emails(head)
    if "sers" in head or "/home/" in head:
        found += _homes(head)
    found += _numbers(head)
    return without_overlaps(found)


def without_overlaps(spans: list[Span]) -> list[Span]:
    """In order; of two that overlap the one that starts first, else the longer."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _emails(text: str) -> Iterator[Span]:
    for match in _EMAIL.finditer(text):
        name, domain = match[1], match[2].lower()
        top = domain.rpartition(".")[2]
        if (
            len(top) > 1
            and top.isalpha()
            and top not in _RESERVED_DOMAINS
            and not _PLACEHOLDER_DOMAIN.fullmatch(domain)
            and not _OF_NOBODY.fullmatch(name)
        ):
            yield Span(*match.span(), EMAIL)


def _homes(text: str) -> Iterator[Span]:
    for match in _HOME.finditer(text):
        if match[1].lower() not in _USERS_OF_NOBODY:
            yield Span(*match.span(1), HOME)


def _numbers(text: str) -> Iterator[Span]:
    for match in _DIGITS.finditer(text):
        yield from _in_digits(match[0], match.start())
    if "." in text:
        for match in _IPV4.finditer(text):
            if _is_somebodys(match[0]):
                yield Span(*match.span(), IP)
    if "::" in text or text.count(":") > 6:
        for match in _IPV6.finditer(text):
            if _is_somebodys(match[0]):
                yield Span(*match.span(), IP)


def _in_digits(text: str, start: int) -> Iterator[Span]:
    """A card or telephone number within a run of digits and what may stand between them."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        if _CARD_KINDS.fullmatch(digits) and digits not in _TEST_CARDS and passes_luhn(digits):
            yield Span(start + match.start(), start + match.end(), CARD)
            return
    found = _PHONE.match(text)
    if found and not re.match(r"[ .()-]*\d", text[found.end() :]):
        digits = re.sub(r"\D", "", found[0])
        if not _is_placeholder(digits):
            yield Span(start, start + found.end(), PHONE)


def passes_luhn(digits: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(d - 9 * (d > 9) for d in doubled)) % 10 == 0


def _is_placeholder(digits: str) -> bool:
    return (
        len(digits) < 8
        or "55501" in digits
        or "123456" in digits
        or digits.endswith("4567890")
        or len(set(digits[-7:])) <= 2
    )


def _is_somebodys(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if found.version == 4 and all(int(part) < 20 for part in address.split(".")):
        return False  # a version number, or 1.2.3.4
    return found.is_global and not found.is_multicast and address not in _PUBLIC_SERVICES
