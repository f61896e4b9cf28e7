"""Card numbers, keys, addresses, accounts and phones, taken out of a text before it leaves for a model's provider."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple, get_args

from tasks.records import Private

KINDS: tuple[Private, ...] = get_args(Private)
PLACES: dict[Private, str] = {
    "card": "[card number]",
    "key": "[key]",
    "address": "[address]",
    "account": "[account number]",
    "phone": "[phone number]",
}

# Text that stands in JSON within a text has \n and the like for its line breaks.
START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
# No alternative may read on over a text in which another could begin, or a long hostile text would be read again
# and again: what is unbounded ends where the next can start, and whatever needs an end is bounded.
KEYS = re.compile(
    "|".join(
        (
            START + r"sk-[A-Za-z0-9_-]{16,}",  # Anthropic, OpenAI and those who took over their form
            r"[prs]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9+/=]{16,}",  # Stripe
            r"gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}",  # GitHub, GitLab
            r"A(?:KI|SI)A[A-Z0-9]{16}",  # AWS
            r"xox[a-z]-[A-Za-z0-9-]{8,}|xapp-[A-Za-z0-9-]{10,}",  # Slack
            r"AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}",  # Google
            r"hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|pn[bu]_[A-Za-z0-9]{20,}",
            r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt]))SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
            r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrt]))eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",  # JWT
            # One that was cut off before its end is a key all the same.
            r"(?s:-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----.*?"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----|\Z))",
        )
    )
)
NAMES = (
    r"pass(?:word|wort|wd|phrase|code)|pwd|kennwort|contraseñ?n?a|mot de passe|senha|пароль|密码|api[ _-]?key"
    r"|secret(?:[ _-]?(?:access[ _-]?)?key)?|(?:access|auth|refresh|session)?[ _-]?token|client[ _-]?secret"
    r"|(?:access|private)[ _-]?key|authorization"
)
NAMED = re.compile(rf"(?:[a-z0-9]+[ _-])*(?:{NAMES})", re.I)
ASSIGNED = re.compile(
    rf"""(?:{NAMES})[\\"'`*]{{0,3}}[ \t]{{0,3}}(?::=|=>|[:=：])[ \t]{{0,3}}[\\"'`*]{{0,3}}"""
    r"""(?:(?:bearer|basic|token)[ \t]{1,3})?(?P<value>[^\s\\"'`<>,;]{4,})""",
    re.I,
)
# «My password is not working» is what most mails about passwords say: here only a digit makes a value of it.
SAID = re.compile(rf"(?:{NAMES})[ \t](?:is|ist|lautet|es|est)[ \t](?=\S{{0,60}}\d)(?P<value>\S{{4,}})", re.I)
IN_URL = re.compile(r"""://[^\s/:@"'<>]{0,100}:(?P<value>[^\s/@"'<>]{3,200})@""")

DOMAIN = re.compile(r"[@＠﹫](?P<domain>[\w-]{1,63}(?:\.[\w-]{1,63}){1,10})")
LOCAL = frozenset("!#$%&'*+-/=?^_`{|}~.")
IBAN = re.compile(START + r"(?=([A-Z]{2}\d\d(?:[ -]?[A-Z0-9]){11,30}))", re.I)
COUNTRIES = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
    "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
    "LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SE24 SI19 "
    "SK24 SM27 ST25 SV28 TN24 TR26 UA29 VA22 VG24 XK20"
)
LENGTHS = {one[:2]: int(one[2:]) for one in COUNTRIES.split()}
PHONE = re.compile(r"(?<![\w+])\+ ?[1-9](?:[ .()/-]{0,3}\d){7,14}(?!\d)")
GROUP = re.compile(r"\d+")
GAP = re.compile("[ \t.\u00a0\u00ad\u2000-\u200f\u2010-\u2015\u202f\u2060\u2212\ufeff-]{1,3}")
SHORTEST_SECRET = 8  # a shorter value stands in many texts by chance
SECRET = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)(?:_|$)|_(?:PW|PASS|DSN)$", re.I)


class Spot(NamedTuple):
    """A place in a text that says what is private."""

    start: int
    end: int
    kind: Private


def redact(text: str, kinds: Collection[Private] = KINDS) -> str:
    """The text with a placeholder for all that is private of these kinds; in time linear to its length."""
    kept, done = [], 0
    for spot in spots(text, kinds):
        kept += [text[done : spot.start], PLACES[spot.kind]]
        done = spot.end
    return "".join([*kept, text[done:]])


def redacted(value: Any, kinds: Collection[Private] = KINDS) -> Any:
    """The same for data as JSON has it, in its keys and numbers too."""
    if isinstance(value, str):
        return redact(value, kinds)
    if isinstance(value, dict):
        return {
            redact(str(name), kinds): PLACES["key"]
            if "key" in kinds and isinstance(one, str | int) and NAMED.fullmatch(str(name)[:100])
            else redacted(one, kinds)
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(one, kinds) for one in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return value if (told := redact(str(value), kinds)) == str(value) else told
    return value


def spots(text: str, kinds: Collection[Private] = KINDS) -> list[Spot]:
    """Where the private things of these kinds stand, in order; what overlaps is one spot."""
    found = [Spot(start, end, kind) for kind, find in FINDERS if kind in kinds for start, end in find(text)]
    merged: list[Spot] = []
    for one in sorted(found, key=lambda spot: (spot.start, -spot.end)):
        if merged and one.start < merged[-1].end:
            merged[-1] = merged[-1]._replace(end=max(merged[-1].end, one.end))
        else:
            merged.append(one)
    return merged


def secrets() -> list[str]:
    """The values of what this process's environment calls a key, a token or a password."""
    found = set()
    for name, value in os.environ.items():
        if SECRET.search(name) and not value.startswith("/"):
            found.add(value)
        found |= {one["value"] for one in IN_URL.finditer(value)}
    return sorted(one for one in found if len(one) >= SHORTEST_SECRET)


def _keys(text: str) -> Iterator[tuple[int, int]]:
    yield from (found.span() for found in KEYS.finditer(text))
    for pattern in (ASSIGNED, SAID, IN_URL):
        yield from (found.span("value") for found in pattern.finditer(text))
    for secret in secrets():
        start = text.find(secret)
        while start >= 0:
            yield start, start + len(secret)
            start = text.find(secret, start + len(secret))


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    # From the sign to both sides: a pattern that begins with the name would read a long word once for each letter.
    for found in DOMAIN.finditer(text):
        start = found.start()
        while start > max(found.start() - 64, 0) and (text[start - 1].isalnum() or text[start - 1] in LOCAL):
            start -= 1
        yield start, found.end()


def _accounts(text: str) -> Iterator[tuple[int, int]]:
    for found in IBAN.finditer(text):
        written = found[1]
        number = re.sub("[ -]", "", written).upper()
        length = LENGTHS.get(number[:2], 99)
        if length <= len(number) and _is_iban(number[:length]):
            places = [at for at, one in enumerate(written) if one not in " -"]
            yield found.start(), found.start() + places[length - 1] + 1


def _is_iban(number: str) -> bool:
    turned = number[4:] + number[:4]
    return turned.isascii() and int("".join(str(int(one, 36)) for one in turned)) % 97 == 1


def _phones(text: str) -> Iterator[tuple[int, int]]:
    yield from (found.span() for found in PHONE.finditer(text))


def _cards(text: str) -> Iterator[tuple[int, int]]:
    run: list[tuple[int, int]] = []
    for found in GROUP.finditer(text):
        if run and not GAP.fullmatch(text, run[-1][1], found.start()):
            yield from _cards_in(text, run)
            run = []
        run.append(found.span())
    yield from _cards_in(text, run)


def _cards_in(text: str, run: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cards in groups of digits that only spaces or dashes part: all of them, some in a row, or a piece of one."""
    if sum(end - start for start, end in run) < 13:
        return
    groups = [_digits(text[start:end]) for start, end in run]
    if len(groups) > 12:
        run, groups = _spelled(run, groups)
    whole = "".join(groups)
    if 13 <= len(whole) <= 19 and _regular(groups) and _luhn(whole):
        yield run[0][0], run[-1][1]
        return
    first = 0
    while first < len(groups):
        start = run[first][0]
        if (last := _last_of_card(groups, first)) is not None:
            yield start, run[last][1]
            first = last
        elif 13 < run[first][1] - start <= 19:  # a longer row is, for example, what a carrier calls a parcel
            yield from ((start + at, start + to) for at, to in cards_within(groups[first]))
        first += 1


def _last_of_card(groups: list[str], first: int) -> int | None:
    """The group at which a card ends that begins with this one."""
    if len(groups[first]) < 3 or groups[first][0] not in "23456":
        return None
    number = ""
    for last in range(first, min(first + 7, len(groups))):
        number += groups[last]
        if len(number) > 19:
            return None
        if _issued(number) and _regular(groups[first : last + 1]) and _luhn(number):
            return last
    return None


def _spelled(run: list[tuple[int, int]], groups: list[str]) -> tuple[list[tuple[int, int]], list[str]]:
    """The same with digits that stand alone as one group: somebody spelled a number."""
    spans: list[tuple[int, int]] = []
    found: list[list[str]] = []
    for (start, end), group in zip(run, groups, strict=True):
        if len(group) == 1 and found and len(found[-1][-1]) == 1:
            spans[-1] = (spans[-1][0], end)
            found[-1].append(group)
        else:
            spans.append((start, end))
            found.append([group])
    return spans, ["".join(one) for one in found]


def _digits(text: str) -> str:
    return text if text.isascii() else "".join(str(int(one)) for one in text)


def cards_within(digits: str) -> Iterator[tuple[int, int]]:
    """Cards in one row of digits, wherever they begin."""
    at = 0
    while at <= len(digits) - 13:
        for size in (19, 16, 15, 14, 13):
            piece = digits[at : at + size]
            if len(piece) == size and _issued(piece) and _luhn(piece):
                yield at, at + size
                at += size - 1
                break
        at += 1


def _regular(groups: list[str]) -> bool:
    """Whether digits stand together as people write cards, and not as several numbers beside each other."""
    sizes = [len(one) for one in groups]
    return len(set(sizes[:-1])) < 2 or sizes in ([4, 6, 5], [4, 6, 4])


def _issued(number: str) -> bool:
    """Whether some issuer gives out numbers of this length that begin so (ISO/IEC 7812)."""
    size = len(number)
    return (
        (number[0] == "4" and size in (13, 16, 19))
        or (number[:2] in ("34", "37") and size == 15)
        or (number[:2] in ("30", "36", "38", "39") and size == 14)
        or ((number[0] == "5" or number[:2] in ("22", "23", "24", "25", "26", "27", "35")) and size == 16)
        or (number[0] == "6" and size in (16, 19))
    )


def _luhn(number: str) -> bool:
    doubled = sum(sum(divmod(2 * int(one), 10)) for one in number[-2::-2])
    return (doubled + sum(map(int, number[-1::-2]))) % 10 == 0


FINDERS: tuple[tuple[Private, Any], ...] = (
    ("key", _keys),
    ("address", _addresses),
    ("account", _accounts),
    ("card", _cards),
    ("phone", _phones),
)
