"""Programs that speak JSON over HTTP: where a URL of ours points to, who we are there, and one bounded question."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
from pydantic import JsonValue

from tasks.errors import BadInput, NotSent

LIMIT = 64 * 1024 * 1024  # bytes of one answer: more than what is asked for ever has
SILENCE, WHOLE = 30.0, 120.0  # seconds without a byte; seconds for one answer, however slowly it drips
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:]{2,45}")
PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


class Place(NamedTuple):
    """Where a URL points to."""

    scheme: str
    root: str
    """Protocol, host and port, as browsers write them."""
    path: str
    options: Mapping[str, str]

    @property
    def url(self) -> str:
        """The one way to write it in an agent's settings."""
        kind, _, host = self.root.partition("://")
        options = f"?{urlencode(sorted(self.options.items()))}" if self.options else ""
        return f"{self.scheme}{'+https' if kind == 'https' else ''}://{host}{self.path}{options}"

    @property
    def digest(self) -> str:
        """A name for it that any header takes, the same whatever its options are."""
        return hashlib.sha256(f"{self.root}{self.path}".encode()).hexdigest()[:16]


class TooLong(ConnectionError):
    """Raised when an answer has no end that we would wait for: the others may have one."""


class Answer(NamedTuple):
    """What a program said, whether it was yes or no."""

    status: int
    etag: str
    said: JsonValue

    @property
    def words(self) -> str:
        """Its status and what it said, on one short line for people."""
        said = json.dumps(self.said, ensure_ascii=False)
        return f"{self.status} {' '.join(''.join(c if c.isprintable() else ' ' for c in said).split())[:200]}"


def place(url: str, known: Sequence[str] = ()) -> Place:
    """Where SCHEME://127.0.0.1:PORT/PATH (in the clear, so on this machine only) or SCHEME+https://HOST/PATH points to.

    `known` are the options that may follow a question mark. Raises BadInput for any other URL.
    """
    # No message repeats the URL, because a password may stand in it by mistake.
    scheme, _, secure = url.partition(":")[0].partition("+")
    way_out = f"Write {scheme}+https://HOST/PATH, or {scheme}://127.0.0.1:PORT/PATH for one on this machine."
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError as why:
        raise BadInput(f"A {scheme}: URL can not be read. {way_out}") from why
    if parts.username is not None or parts.password is not None:
        raise BadInput(
            f"The {scheme}: URL for {host!r} holds a user or password, and URLs are shown. Put them into the "
            f"environment as {_name(scheme, 'USER')} and {_name(scheme, 'PASSWORD')}."
        )
    path = parts.path.rstrip("/")
    if secure not in ("", "https") or not HOST.fullmatch(host) or not PATH.fullmatch(path) or parts.fragment:
        raise BadInput(f"A {scheme}: URL names no place that can be asked. {way_out}")
    if odd := sorted(options.keys() - set(known)) or [name for name, value in options.items() if not value]:
        raise BadInput(f"The {scheme}: URL for {host!r} has {odd[0]!r}, which says nothing. Known: {', '.join(known)}.")
    if not secure and not _same_machine(host):
        raise BadInput(f"What is said to {host} would travel in the clear. {way_out}")
    written = f"[{host}]" if ":" in host else host
    return Place(scheme, f"http{'s' if secure else ''}://{written}{f':{port}' if port else ''}", path, options)


def _same_machine(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _name(scheme: str, what: str) -> str:
    return f"HOLDFAST_{scheme.upper()}_{what}"


def account(scheme: str) -> tuple[str, str]:
    """Who we are for all places of a scheme; BadInput if the environment does not say."""
    user, password = (os.environ.get(_name(scheme, what), "") for what in ("USER", "PASSWORD"))
    if not user or not password:
        raise BadInput(f"Set {_name(scheme, 'USER')} and {_name(scheme, 'PASSWORD')} in the environment of the agents.")
    return user, password


def call(
    where: Place,
    method: str,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    body: JsonValue = None,
    etag: str = "",
    login: tuple[str, str] | None = None,
    limit: int = LIMIT,
) -> Answer:
    """Ask one thing; never follows a redirect, so that what is said goes to the configured place and to no other.

    Raises NotSent if nothing was asked for certain, and ConnectionError (TooLong for a long one) if the answer was lost
    or is no JSON: then nobody can tell what was done.
    """
    # Servers that guard against forged forms take a password only from who names the place and is no plain form.
    headers = {"Origin": where.root, "Referer": f"{where.root}{where.path}/", "X-Requested-With": "rest"}
    headers |= {"Accept": "application/json", "Accept-Encoding": "identity"} | ({"If-Match": etag} if etag else {})
    url, until = f"{where.root}{where.path}/{path}", time.monotonic() + WHOLE
    sent = dict(params=params, headers=headers, auth=login) | ({} if body is None else {"json": body})
    try:
        # Without the environment's proxies and .netrc: neither is part of what the settings say.
        with (
            httpx.Client(timeout=SILENCE, trust_env=False, verify=_certificates()) as client,
            client.stream(method, url, **sent) as answer,  # type: ignore[arg-type]
        ):
            raw = bytearray()
            for part in answer.iter_bytes():
                raw += part
                if len(raw) > limit:
                    raise TooLong(f"{where.root} answers with more than {limit} bytes")
                if time.monotonic() > until:
                    raise ConnectionError(f"{where.root} took more than {WHOLE:.0f} s for one answer")
            return Answer(answer.status_code, answer.headers.get("ETag", ""), _read(bytes(raw), answer))
    except (httpx.ConnectError, httpx.ConnectTimeout) as why:
        raise NotSent(f"{where.root} can not be reached: {why}. It is tried again; see that it runs.") from why
    except (httpx.HTTPError, httpx.InvalidURL) as why:
        raise ConnectionError(f"{where.root} gave no answer ({type(why).__name__}: {why})") from why


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()  # to read them takes longer than most questions


def _read(raw: bytes, answer: httpx.Response) -> JsonValue:
    try:
        found: JsonValue = json.loads(raw)
    except (ValueError, RecursionError) as why:
        if answer.is_success:
            raise ConnectionError(f"the answer of {answer.url.host} is not JSON, but {raw[:40]!r}") from why
        return raw[:200].decode("utf-8", "replace")
    return found
