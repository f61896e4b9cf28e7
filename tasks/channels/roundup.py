"""Messages in issues of a Roundup tracker, where linking one under the issue's ETag is the moment that it goes out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn

import httpx
from pydantic import JsonValue

from tasks import web
from tasks.channels.message import DOMAIN, digest, one_line
from tasks.errors import BadInput, NotSent, Refused
from tasks.records import Effect, Receipt
from tasks.tracker import WAY_OUT, call, user

CAN_FIND = True
# A message that exists and is in no issue has reached nobody, and is linked rather than made again. What was on its
# way to be linked when its process died comes before us, then our ETag is old, or after us, then its own is.
DEDUPES = True
OPTIONS = ("assign", "status")
TRIES = 6  # to link a message in an issue that others change at the same time
NAME = re.compile(r"[\w.@+-]{1,100}")
TOKEN = re.compile(r"[\w-]{10,200}")


class _Issue(NamedTuple):
    etag: str
    messages: list[str]
    nosy: list[str]
    assigned: bool


def _desk(url: str) -> web.Place:
    desk = web.place_of(url, WAY_OUT, options=OPTIONS)
    for name, value in desk.options.items():
        if not NAME.fullmatch(value):
            raise BadInput(f"A roundup: URL names no {name} that a tracker could have: {value!r}.")
    return desk


def check(url: str) -> None:
    """BadInput if the URL or the environment is wrong; the tracker itself is first asked when there is work for it."""
    _desk(url)
    user()


def find(url: str, key: str) -> Receipt | None:
    """The message under this key, if it stands in an issue: one that does not has reached nobody."""
    desk = _desk(url)
    for one in _made(desk, key):
        if _listed(desk, "issue", {"messages": one, "@page_size": "1"}):
            return _receipt(desk, key, found=True)
    return None


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Make the message, unless an earlier attempt did, and link it in the issue that the case came from.

    With `assign` or `status` in the URL the same change gives the issue to a person. What is for nobody outside is
    mailed to nobody but that person. Raises NotSent while nothing is linked for certain, Refused where nothing ever
    will be, and httpx.HTTPError when nobody can tell.
    """
    desk = _desk(url)
    issue, answered = _answered(desk, effect)
    now = _read(desk, issue)
    made = _made(desk, key) or [_make(desk, f"<msg{answered}.{_own(key)}@{DOMAIN}>", effect, now.nosy)]
    doubt: httpx.HTTPError | None = None
    for attempt in range(TRIES):
        try:
            if attempt:  # who came before us may have linked a message of its own under this key
                now, made = _read(desk, issue), _made(desk, key)
            if set(made) & set(now.messages):
                return _receipt(desk, key)
            answer = call(desk, "PATCH", f"issue/{issue}", body=_change(desk, now, made[0]), etag=now.etag)
            if answer.status == 200:
                return _receipt(desk, key)
            if answer.status >= 500:
                raise httpx.RemoteProtocolError(f"{desk.base} says {answer}")
            if answer.status != 412:
                _no(desk, answer)
        except httpx.HTTPError as why:
            doubt = why  # repeated at once: only one of the two finds the ETag that it brings
        except (NotSent, Refused):
            if doubt is None:
                raise
            break
    if doubt is not None:
        raise doubt
    raise NotSent(f"issue{issue} of {desk.base} is changed by others all the time, so nothing was added; later again.")


def _answered(desk: web.Place, effect: Effect) -> tuple[str, str]:
    """The issue and the message that the effect's case came from, as its source wrote them down."""
    named = re.fullmatch(rf"<issue([0-9]{{1,18}})\.msg([0-9]{{1,18}})@{desk.digest}\.invalid>", effect.in_reply_to)
    if named is None:
        raise Refused(
            f"{effect.kind} answers nothing that came from {desk.base}. Let the agent's source be this tracker."
        )
    return named[1], named[2]


def _change(desk: web.Place, now: _Issue, message: str) -> JsonValue:
    change: dict[str, JsonValue] = {"messages": [*now.messages, message]}
    if "assign" in desk.options and not now.assigned:  # whoever took it meanwhile keeps it
        change["assignedto"] = desk.options["assign"]
    if "status" in desk.options:
        change["status"] = desk.options["status"]
    return change


def _make(desk: web.Place, name: str, effect: Effect, nosy: list[str]) -> str:
    """A message in no issue yet; until it is linked any failure means that nobody was told anything."""
    body = "".join(one if one >= " " or one in "\n\t" else " " for one in effect.body.replace("\r\n", "\n"))
    given: dict[str, JsonValue] = {
        "author": user(),
        "messageid": name,
        "content": body.encode("utf-8", "replace").decode("utf-8"),
    }
    if not effect.to:
        # Whom it names as recipients the tracker does not mail it to: they have it, as far as it knows.
        assigned = _listed(desk, "user", {"username:": desk.options["assign"]}) if "assign" in desk.options else []
        given["recipients"] = [one for one in nosy if one not in assigned]
    once = _said(desk, _safely(desk, "POST", "msg/@poe", body={})).get("link")
    # Of the link only its last part: the tracker may know itself under another name than we do.
    token = str(once).rpartition("/")[2]
    if not TOKEN.fullmatch(token):
        raise NotSent(f"The tracker {desk.base} gave no post-once link.")
    made = str(_said(desk, _safely(desk, "POST", f"msg/@poe/{token}", body=given)).get("id"))
    if not made.isdigit():
        raise NotSent(f"The tracker {desk.base} did not say what it made.")
    return made


def _made(desk: web.Place, key: str) -> list[str]:
    return _listed(desk, "msg", {"messageid": f".{_own(key)}@{DOMAIN}>"})


def _own(key: str) -> str:
    """What the Message-ID has for this key; the message answered stands before it, for the source to read."""
    return digest(key)[:32]


def _listed(desk: web.Place, kind: str, asked: Mapping[str, str]) -> list[str]:
    """Ids of what fits, oldest first."""
    found = _said(desk, _safely(desk, "GET", kind, params=asked)).get("collection")
    if not isinstance(found, list):
        raise NotSent(f"The tracker {desk.base} lists nothing when it is asked for {kind}.")
    return sorted((str(one["id"]) for one in found if isinstance(one, dict)), key=int)


def _read(desk: web.Place, issue: str) -> _Issue:
    answer = _safely(desk, "GET", f"issue/{issue}", params={"@fields": "messages,nosy,assignedto", "@verbose": "0"})
    said = _said(desk, answer).get("attributes")
    if not isinstance(said, dict) or not answer.headers.get("ETag", ""):
        raise NotSent(f"The tracker {desk.base} does not show issue{issue} with its ETag.")
    messages, nosy = (said.get(name) or [] for name in ("messages", "nosy"))
    if not isinstance(messages, list) or not isinstance(nosy, list):
        raise NotSent(f"The tracker {desk.base} does not show what stands in issue{issue}.")
    ours, readers = ([str(one) for one in those] for those in (messages, nosy))
    return _Issue(answer.headers["ETag"], ours, readers, bool(said.get("assignedto")))


def _safely(desk: web.Place, method: str, path: str, **asked: object) -> web.Answer:
    """Ask what reaches nobody, however it ends."""
    try:
        return call(desk, method, path, **asked)  # type: ignore[arg-type]
    except httpx.HTTPError as why:
        raise NotSent(
            f"The tracker {desk.base} can not be used: {why!r}. It is tried again; see that it runs."
        ) from why


def _said(desk: web.Place, answer: web.Answer) -> dict[str, JsonValue]:
    found = answer.said.get("data") if isinstance(answer.said, dict) else None
    if answer.status // 100 != 2 or not isinstance(found, dict):
        _no(desk, answer)
    return found


def _no(desk: web.Place, answer: web.Answer) -> NoReturn:
    """What the tracker's own «no» means: never for what it does not allow or know, later for all else."""
    words = one_line(str(answer))
    if answer.status in (400, 403, 404, 405, 409, 410):
        raise Refused(f"The tracker {desk.base} refuses it for good: {words}. See the roles of HOLDFAST_ROUNDUP_USER.")
    hint = " See HOLDFAST_ROUNDUP_USER and HOLDFAST_ROUNDUP_PASSWORD." if answer.status == 401 else ""
    raise NotSent(f"The tracker {desk.base} does not take it now: {words}.{hint} It is tried again.")


def _receipt(desk: web.Place, key: str, found: bool = False) -> Receipt:
    return Receipt(channel=desk.base, reference=_own(key), at=datetime.now(UTC), found=found)
