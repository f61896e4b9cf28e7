"""HTTP to the programs that an agent's URLs name: bounded, no redirects, secrets only from the environment."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import ssl
import time
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import httpx
from pydantic import JsonValue

from tasks.errors import BadInput, NotSent

SECONDS = 10.0  # for each answer of a server, and for all of it
LIMIT = 64 * 1024 * 1024  # bytes of an answer: what 50,000 alerts take
NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
LATER = {408, 425, 429, 503}  # by their meaning the server did not take the request up


class Place(NamedTuple):
    """Where a URL of an agent points to."""

    name: str
    """What its variables in the environment are called by."""
    base: str
    options: Mapping[str, str]

    @property
    def shown(self) -> str:
        """For messages and logs: a path may hold what is secret by mistake."""
        parts = urlsplit(self.base)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def digest(self) -> str:
        """A name for it that any header takes, whatever its options are."""
        return hashlib.sha256(self.base.encode()).hexdigest()[:16]

    @property
    def not_forged(self) -> Mapping[str, str]:
        """What servers that guard against forged forms want to see of a program beside its password."""
        return {"Origin": self.shown, "Referer": f"{self.base}/", "X-Requested-With": "rest"}


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __str__(self) -> str:
        text = self.body[:2_000].decode("utf-8", "replace")
        words = " ".join("".join(one if one.isprintable() else " " for one in text).split())[:200]
        return f"{self.status} {words}".strip()

    @property
    def said(self) -> JsonValue:
        """The body as JSON, None if it is none."""
        with contextlib.suppress(ValueError, RecursionError):
            found: JsonValue = json.loads(self.body)
            return found
        return None


def place_of(url: str, way_out: str, *, usual: str = "http", options: Collection[str] | None = ()) -> Place:
    """Take a URL such as `webhook+https://host/path` apart; BadInput if it names no server, or holds a secret.

    `usual` is what a name without `+` means, `options` what may stand after `?`: None for anything.
    """
    # No message repeats the URL, because a password may stand in it by mistake.
    try:
        parts = urlsplit(url)
        host, _, given = parts.hostname or "", parts.port, dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError as why:
        raise BadInput(f"A URL of {url.partition(':')[0][:40]!r} can not be read. {way_out}") from why
    name, _, how = parts.scheme.partition("+")
    if parts.username is not None or parts.password is not None:
        raise BadInput(f"The {name}: URL for {host!r} holds a user or password, and URLs are shown. {way_out}")
    sane = host and url.isascii() and url.isprintable() and " " not in url and not parts.fragment
    odd = options is not None and set(given) - set(options)
    if not sane or odd or (how or usual) not in ("http", "https"):
        raise BadInput(f"The {name}: URL for {host!r} names no server, or more than a server. {way_out}")
    place = Place(name, f"{how or usual}://{parts.netloc.lower()}{parts.path.rstrip('/')}", given)
    _account(place)
    return place


def plain_place(url: str, name: str, way_out: str) -> Place:
    """The same for a URL that begins with http: or https:."""
    scheme, colon, rest = url.partition(":")
    if scheme not in ("http", "https"):
        raise BadInput(f"The address of {name} begins with neither http: nor https:. {way_out}")
    return place_of(f"{name}+{scheme}{colon}{rest}", way_out)


def same_machine(host: str) -> bool:
    """Whether what is sent there leaves this machine."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # to read them takes longer than most questions


def _account(place: Place) -> dict[str, Any]:
    """How requests say who asks, from the environment; BadInput if a secret would travel in the clear."""
    room = f"HOLDFAST_{place.name.upper()}"
    token, user, password = (os.environ.get(f"{room}_{one}", "") for one in ("TOKEN", "USER", "PASSWORD"))
    if not (token or user or password):
        return {}
    if bool(user) != bool(password) or (token and user):
        raise BadInput(f"Set {room}_TOKEN, or both of {room}_USER and {room}_PASSWORD.")
    if not all(one.isascii() and one.isprintable() for one in (token, user, password)):
        raise BadInput(f"{room}_TOKEN, _USER and _PASSWORD may only hold printable ASCII characters.")
    parts = urlsplit(place.base)
    if parts.scheme == "http" and not same_machine(parts.hostname or ""):
        raise BadInput(f"The secret in {room}_* would travel to {parts.hostname} in the clear. Use {place.name}+https:")
    return {"headers": {"Authorization": f"Bearer {token}"}} if token else {"auth": (user, password)}


def exchange(
    place: Place,
    method: str,
    path: str = "",
    *,
    params: Mapping[str, Any] | None = None,
    body: object = None,
    headers: Mapping[str, str] | None = None,
    limit: int = LIMIT,
    seconds: float | None = None,
) -> Answer:
    """One request and its answer, of which at most `limit` bytes are kept, and one more.

    Raises NotSent while it is certain that no request left, and httpx.HTTPError where nobody can tell.
    """
    seconds = SECONDS if seconds is None else seconds
    until = time.monotonic() + seconds
    # What stays on this machine goes through no proxy.
    outside = not same_machine(urlsplit(place.base).hostname or "")
    how: dict[str, Any] = {"timeout": seconds, "follow_redirects": False, "trust_env": outside}
    with httpx.Client(**how, **_account(place), verify=_certificates()) as client:
        given: dict[str, Any] = {"params": params, "headers": headers} | ({} if body is None else {"json": body})
        try:
            with client.stream(method, place.base + path, **given) as response:
                kept = bytearray()
                for piece in response.iter_bytes(65_536):
                    kept += piece
                    if len(kept) > limit:
                        break
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout(f"{place.shown} was not done after {seconds:g} s")
                return Answer(response.status_code, response.headers, bytes(kept[: limit + 1]))
        except NEVER_LEFT as why:
            raise NotSent(f"{place.shown} can not be reached: {why}. It is tried again; see that it runs.") from why
        except httpx.InvalidURL as why:
            raise BadInput(f"{place.shown} can not be asked: {why}.") from why


def read_json(
    place: Place,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    limit: int = LIMIT,
    seconds: float | None = None,
) -> Any:
    """What a GET says as JSON. NotSent if the server can not be asked now, BadInput if what it says is of no use."""
    try:
        answer = exchange(place, "GET", path, params=params, limit=limit, seconds=seconds)
    except httpx.HTTPError as why:
        said = str(why) or type(why).__name__
        raise NotSent(f"{place.shown} gave no answer: {said}. It is tried again; see that it runs.") from why
    if len(answer.body) > limit:
        raise BadInput(f"{place.shown}{path} answers with more than {limit} bytes. Ask for less.")
    if answer.status >= 500 or answer.status in LATER:
        raise NotSent(f"{place.shown}{path} answers {answer}. It is tried again; see that it runs.")
    if answer.status != 200:
        raise BadInput(f"{place.shown}{path} answers {answer}. Look at the address, and at HOLDFAST_* secrets.")
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError) as why:
        raise BadInput(f"{place.shown}{path} answers with something that is not JSON.") from why
