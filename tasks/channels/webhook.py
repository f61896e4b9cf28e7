"""JSON to a web address whose owner counts a key once: what may be out already is sent again under the same key."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx

from tasks import web
from tasks.channels.message import digest
from tasks.errors import BadInput, NotSent, Refused
from tasks.records import Effect, Receipt

CAN_FIND = False  # there is no way to ask that all receivers have
DEDUPES = True  # by Idempotency-Key: a receiver that ignores it may hear twice of what a kill cut short
WAY_OUT = (
    "Write webhook+https://host/path, or webhook+http: on this machine; a token stands in HOLDFAST_WEBHOOK_TOKEN. "
    "Where the address itself is the secret, use apprise:."
)
ANSWER = 64 * 1024  # bytes of an answer that are looked at


def check(url: str) -> None:
    """BadInput if the URL or the environment is wrong; the receiver is first asked when there is something for it."""
    _place(url)


def _place(url: str) -> web.Place:
    return web.place_of(url, WAY_OUT, usual="none")  # the clear or not is for the agent's block to say


def find(url: str, key: str) -> Receipt | None:
    """BadInput always: a caller asks can_find() first."""
    raise BadInput("A webhook can not be asked what it took. Look at its receiver, then resolve.")


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Hand the effect to the receiver.

    Raises NotSent or Refused while it is certain that the receiver did not take it, and httpx.HTTPError where nobody
    can tell: a cut connection, a 5xx that is no «later», a 409 that does not name this key.
    """
    place, mark = _place(url), digest(key)
    body = {"kind": effect.kind, "subject": effect.subject, "body": effect.body, "key": mark}
    body |= {"text": f"{effect.subject}\n\n{effect.body}".strip()}  # what the webhooks of chats read
    headers = {"Idempotency-Key": mark}
    answer = web.exchange(place, "POST", body=body, headers=headers, limit=ANSWER)
    told = Receipt(channel=url, reference=mark, at=datetime.now(UTC))
    if answer.status // 100 == 2:
        return told
    if answer.status in web.LATER:
        raise NotSent(f"{place.shown} takes nothing now: {answer}. It is tried again.")
    named = answer.headers.get("Idempotency-Key", "").strip('"') == mark or mark.encode() in answer.body
    if answer.status == 409 and named:
        return told.model_copy(update={"found": True})
    if answer.status // 100 == 5 or answer.status == 409:
        raise httpx.RemoteProtocolError(f"{place.shown} answers {answer}, which says neither yes nor no")
    if answer.status // 100 == 3:
        raise Refused(f"{place.shown} points elsewhere ({answer.status}), and nobody follows. Write where it leads to.")
    raise Refused(f"{place.shown} refuses it for good: {answer}. See the address, and HOLDFAST_WEBHOOK_TOKEN.")
