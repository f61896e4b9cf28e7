"""The REST interface of a Roundup tracker: who asks, and one request under the ETag of what it changes."""

from __future__ import annotations

import os

from tasks import web
from tasks.errors import BadInput

SECONDS = 30.0  # for each answer
LIMIT = 4 * 1024 * 1024  # bytes of one answer: a longer message is a log somebody pasted
WAY_OUT = "Write roundup+https://HOST/TRACKER as the tracker does; HOLDFAST_ROUNDUP_USER and _PASSWORD say who asks."


def user() -> str:
    """In whose name the tracker is read and written; BadInput if nobody is named."""
    if not (name := os.environ.get("HOLDFAST_ROUNDUP_USER", "")):
        raise BadInput(f"Nobody is named who could ask the tracker. {WAY_OUT}")
    return name


def call(desk: web.Place, method: str, path: str, etag: str = "", **given: object) -> web.Answer:
    """One request; NotSent while it is certain that none left, httpx.HTTPError where nobody can tell."""
    headers = dict(desk.not_forged) | ({"If-Match": etag} if etag else {})
    how = {"headers": headers, "limit": LIMIT, "seconds": SECONDS}
    return web.exchange(desk, method, f"/rest/data/{path}", **how, **given)  # type: ignore[arg-type]
