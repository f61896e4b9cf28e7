"""What speaks against sending a text to a customer, whoever wrote it and whoever made them write it."""

from __future__ import annotations

import base64
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from tasks.model import RULES
from tasks.records import Private
from tasks.redaction import DOMAIN, PLACES, cards_within, redact, secrets, spots

LONGEST = 2500  # characters: a longer answer was not written for one customer
SHORTEST = 20
LEAK = 8  # words in a row that also stand in the instructions are no accident
PROMISES = re.compile(
    r"\b(we guarantee|guaranteed? to|i promise|we promise|free of charge forever|full compensation|legally binding)\b",
    re.I,
)
URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}:[/\\]{2}([^\s/?#\\<>\"'()]{0,300})", re.I)
ACTIVE = re.compile(r"\b(?:javascript|vbscript|data|file|blob)\s{0,2}:(?=\S)", re.I)
HOST = re.compile(r"(?<![\w@.-])(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w@-])")
NUMERIC = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w)")
MARKUP = re.compile(r"<\s{0,3}[a-z!/?][^<>]{0,500}>|!\[|\]\(", re.I)
HEADER = re.compile(r"^[ \t]*(?:b?cc|to|from|reply-to|sender|subject|x-[a-z-]{1,40})[ \t]{0,3}:", re.I | re.M)
ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}")
PACKED = re.compile(r"[A-Za-z0-9+/]{40,}")  # no word is so long
BETWEEN_DIGITS = re.compile(r"(?<=\d)[^\w\n]{1,3}(?=\d)")
UNSEEN = ("Cf", "Cc", "Co", "Cs")
JOINERS = "\u200c\u200d"  # words of some languages, and many emoji, are not written without
BLANKS = "\u115f\u1160\u2800\u3164\uffa0"  # letters that nobody sees
LOOKALIKES = str.maketrans("аверсухіјѕԁкмнтоαορνι", "abepcyxijsdkmhtoaopvi")  # Cyrillic and Greek as Latin
SHOWS: dict[Private, str] = {
    "key": "it shows a key",
    "account": "it shows an account number",
    "phone": "it shows a phone number",
}


class _Known(NamedTuple):
    """What people wrote for customers, in the forms in which a text is compared with it."""

    plain: str
    squeezed: str
    tight: str
    domains: frozenset[str]
    hosts: frozenset[str]


def against(
    text: str, *, approved: Sequence[str] = (), own: Collection[str] = (), prompt: str | Sequence[str] = ()
) -> list[str]:
    """What speaks against sending a text to a customer, a short phrase for each reason; empty if nothing does.

    `approved` are texts that people wrote for customers: what stands in them may be sent, and so may addresses and
    links at their domains, and at those in `own`. `prompt` is what the model was told to do, which no customer reads;
    the rules of `ask()` need not be named.
    """
    if not SHORTEST <= len(text) <= LONGEST:
        return [f"it has {len(text)} characters"]  # this is also what bounds the time of all that follows
    plain, known = _plain(text), _known(tuple(approved))
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    domains = known.domains | {one.lower() for one in own}
    found = []
    if promise := PROMISES.search(plain):
        found.append(f"it promises ({promise.group(0)!r})")
    if not _domains(plain) <= domains:
        found.append("it shows an address")
    if strange := _links(plain) - known.hosts - domains:
        found.append(f"it links to {min(strange)[:60]!r}")
    if any(number not in known.tight for number in _cards(BETWEEN_DIGITS.sub("", plain))):
        found.append("it shows a card number")
    for kind, why in SHOWS.items():
        if any(plain[start:end] not in known.plain for start, end, _ in spots(plain, [kind])):
            found.append(why)
    if ACTIVE.search(plain) or MARKUP.search(plain):
        found.append("it has markup or code")
    if HEADER.search(plain):
        found.append("it has lines like a mail's header")
    if _hides(text):
        found.append("it has characters that nobody sees")
    if any(one not in known.plain for one in PACKED.findall(plain)):
        found.append("it carries encoded text")
    if any(place in plain for place in PLACES.values()):
        found.append("it shows where something was taken out")
    views = list(_views(plain))
    if any(one in view for one in _phrases((*prompts, RULES)) if one not in known.squeezed for view in views):
        found.append("it tells what the model was told")
    kept = [one for one in map(_squeezed, secrets()) if len(one) > 5 and one not in known.squeezed]
    if any(one in view for one in kept for view in views):
        found.append("it shows a secret of this machine")
    return found


@lru_cache(maxsize=16)
def _known(approved: tuple[str, ...]) -> _Known:
    plain = _plain("\n".join(approved))
    domains = frozenset(_domains(plain))
    hosts = domains | _links(plain)
    return _Known(plain, _squeezed(plain), BETWEEN_DIGITS.sub("", plain), domains, hosts)


def _plain(text: str) -> str:
    """The text as a reader sees it: one form of each letter, and nothing that is not seen."""
    one = unicodedata.normalize("NFKC", text).replace("。", ".")
    return "".join(c for c in one if c in "\n\t" or unicodedata.category(c) not in UNSEEN)


def _domains(text: str) -> set[str]:
    return {one["domain"].lower() for one in DOMAIN.finditer(text)}


def _links(text: str) -> set[str]:
    """Every host that a mail program could make a link of; also names that no address has, such as `user@host`."""
    bare = redact(text, ["address"])
    named = (one.lower().rstrip(".,;:!") for one in URL.findall(text))
    hosts = {one if "@" in one else one.partition(":")[0] for one in named}
    return hosts | {one.lower() for one in (*HOST.findall(bare), *NUMERIC.findall(bare))}


def _cards(tight: str) -> Iterator[str]:
    """Card numbers in a text whose digits stand together, whatever stood between them."""
    yield from (tight[start:end] for start, end, _ in spots(tight, ["card"]))
    for row in re.findall(r"\d{20,}", tight):
        yield from (row[start:end] for start, end in cards_within(row))


def _hides(text: str) -> bool:
    for before, one in zip("\n" + text, text, strict=False):
        if one in JOINERS and not before.isascii() and unicodedata.category(before)[0] in "LMS":
            continue
        if one in BLANKS or 0xE0000 <= ord(one) <= 0xE0FFF:
            return True
        if one not in "\n\t\r" and unicodedata.category(one) in UNSEEN:
            return True
        if min(before, one) >= "\ufe00" and max(before, one) <= "\ufe0f":
            return True  # one of them chooses how an emoji looks, a row of them spells something
    return False


@lru_cache(maxsize=16)
def _phrases(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Every few words in a row of some texts, without what stands between them."""
    found: dict[str, None] = {}
    for text in texts:
        words = re.findall(r"\w+", text)
        found |= dict.fromkeys(_squeezed("".join(words[at : at + LEAK])) for at in range(len(words) - LEAK + 1))
    return tuple(found)


def _squeezed(text: str) -> str:
    """Letters and digits alone, so that nothing can be put between them."""
    return "".join(one for one in text.casefold().translate(LOOKALIKES) if one.isalnum())


def _views(text: str) -> Iterator[str]:
    """What people read who know how the text was turned: as it is, reversed, rotated, escaped, encoded; squeezed."""
    for one in (text, text[::-1], codecs.encode(text, "rot13"), unquote(text), html.unescape(text)):
        yield _squeezed(one)
    for run in ENCODED.findall(text):
        for decode in DECODERS:
            try:
                yield _squeezed(decode(run).decode("utf-8", "ignore"))
            except ValueError:
                continue


def _base64(run: str) -> bytes:
    whole = run[: len(run) - (len(run) % 4 == 1)]
    return base64.b64decode(whole.replace("-", "+").replace("_", "/") + "=" * (-len(whole) % 4))


DECODERS: tuple[Callable[[str], bytes], ...] = (_base64, bytes.fromhex)
