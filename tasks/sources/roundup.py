"""Tickets of a Roundup tracker, read through its REST interface: a case is a customer's last and unanswered word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar
from urllib.parse import urlencode

import httpx
from pydantic import AfterValidator, AliasPath, BaseModel, Field, JsonValue, ValidationError

from tasks import web
from tasks.errors import BadInput, HoldfastError, NotSent
from tasks.records import Arrival, Note, Unreadable
from tasks.sources import Known
from tasks.sources.mail import ADDRESS, ROBOTS, TEXT_LIMIT, clean
from tasks.tracker import LIMIT, WAY_OUT, call, user

PAGE = 100  # issues read at once
WALK = 20  # messages of an issue that are looked at, from the newest back
TRIES = 5  # to mark an issue that others change at the same time
WAITING = "unread,chatting"  # what the classic tracker calls an issue in which somebody may wait for an answer
OPTIONS = ("status", "mark")
SINCE = "since"
OVERLAP = timedelta(minutes=10)  # a change is seen later than its own time says, by what its transaction takes
DATE = "%Y-%m-%d.%H:%M:%S"
# What the channel calls its messages: the message answered, and the effect. Only our own user's are believed.
OURS = re.compile(r"<msg([0-9]{1,18})\.[0-9a-f]{32}@holdfast\.invalid>")
MARKER = re.compile(r"issue([0-9]{1,18})/msg([0-9]{1,18})")

Shape = TypeVar("Shape", bound=BaseModel)
Number = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]


def _date(text: str) -> str:
    datetime.strptime(text, DATE)
    return text


Date = Annotated[str, AfterValidator(_date)]


class _Issue(BaseModel):
    id: Number
    title: str | None = None
    creator: Number
    activity: Date
    messages: list[Number] | None = None
    keyword: list[Number] | None = None

    @property
    def newest_first(self) -> list[str]:
        return sorted(self.messages or (), key=int, reverse=True)

    @property
    def marker(self) -> str:
        return f"issue{self.id}/msg{self.newest_first[0]}"


class _Message(BaseModel):
    author: Number = Field(validation_alias=AliasPath("author", "id"))
    content: str | None = None
    messageid: str | None = None
    creation: Date


class _Person(BaseModel):
    username: str
    realname: str | None = None
    address: str | None = None


class _Odd(BadInput):
    """Raised when one thing in the tracker can not be read; the others may be."""


def _desk(url: str) -> web.Place:
    return web.place_of(url, WAY_OUT, options=OPTIONS)


def canonical(url: str) -> str:
    """The URL with its parts in one order."""
    desk = _desk(url)
    kind, _, where = desk.base.partition("://")
    options = f"?{urlencode(sorted(desk.options.items()), safe=',')}" if desk.options else ""
    return f"roundup{'+https' if kind == 'https' else ''}://{where}{options}"


def poll(url: str, known: Known) -> Iterator[Arrival | Unreadable | Note]:
    """What customers wrote that nobody answered, in order of the issues.

    The customer is who opened the issue. Where a colleague wrote last, nobody waits for us, and an answer of ours
    says itself which message it answers: what was written while it was made may have a lower number than it.
    Issues are asked for by their last change since the poll before, and come in an order that no change disturbs.
    """
    desk = _desk(url)
    reader = _Reader(desk)
    since = known.recall(SINCE).get(SINCE)
    latest, whole = since if isinstance(since, str) else "", True
    for page in _pages(desk, latest):
        fresh: dict[str, _Issue] = {}
        for one in page:
            try:
                issue = _Issue.model_validate(one)
            except ValidationError as why:
                whole = False
                yield Unreadable(marker="an issue", why=_shape(why))
                continue
            latest = max(latest, issue.activity)
            fresh |= {issue.marker: issue} if issue.messages else {}
        recorded = known.seen(list(fresh)) if fresh else set()
        for marker, issue in fresh.items():
            try:
                if marker not in recorded and (found := reader.read(issue)):
                    yield found
            except _Odd as why:
                whole = False  # or the next poll would begin behind it
                yield Unreadable(marker=marker, why=str(why))
    if whole and latest and latest != since:
        yield Note(name=SINCE, value=latest)


def _pages(desk: web.Place, since: str) -> Iterator[list[JsonValue]]:
    asked = {"@fields": "title,creator,activity,messages", "@verbose": "0", "@page_size": str(PAGE)}
    asked["status"] = desk.options.get("status", WAITING)
    if since:
        asked["activity"] = f"{(datetime.strptime(since, DATE) - OVERLAP).strftime(DATE)};"
    number, more = 1, True
    while more:
        said = _data(desk, _get(desk, "issue", asked | {"@page_index": str(number)}))
        page, links = said.get("collection"), said.get("@links")
        if not isinstance(page, list):
            raise BadInput(f"The tracker {desk.base} lists no issues. See that the URL ends with the tracker's name.")
        yield page
        number, more = number + 1, bool(page) and isinstance(links, dict) and "next" in links


class _Reader:
    """What is read once in a poll, and the messages of issues."""

    def __init__(self, desk: web.Place) -> None:
        self._desk, self._people = desk, dict[str, _Person]()
        mine = _data(desk, _get(desk, f"user/{user()}", {"@fields": "username"}))
        self._mine = str(mine.get("id"))

    def read(self, issue: _Issue) -> Arrival | None:
        """The customer's newest message that nobody answered, with those right before it; None if there is none."""
        waiting, answered = dict[str, _Message](), 0
        for number in issue.newest_first[:WALK]:
            if int(number) <= answered:
                break
            said = self._thing(f"msg/{number}", "author,content,creation,messageid", _Message)
            if said.author == self._mine:
                if not (ours := OURS.fullmatch(said.messageid or "")):
                    break
                answered = max(answered, int(ours[1]))
            elif said.author == issue.creator:
                waiting[number] = said
            else:
                break
        if not waiting:
            return None
        newest = next(iter(waiting))
        marker = f"issue{issue.id}/msg{newest}"
        if issue.creator not in self._people:
            self._people[issue.creator] = self._person(issue.creator)
        person = self._people[issue.creator]
        address = person.address or ""
        text = clean("\n\n".join(one.content or "" for one in reversed(waiting.values())))
        attributes: dict[str, JsonValue] = {
            # What an answer to it names, and all that a channel learns of the issue: made here, so that nobody
            # steers an answer into another issue by the Message-ID of a mail.
            "message_id": f"<issue{issue.id}.msg{newest}@{self._desk.digest}.invalid>",
            "references": [],
            "from_name": clean(person.realname or person.username, one_line=True)[:100],
            "automatic": address.partition("@")[0].lower() in ROBOTS,
            "attachments": [],
            "truncated": len(text) > TEXT_LIMIT,
        }
        return Arrival(
            marker=marker,
            key=marker,
            thread=f"issue{issue.id}",
            sender=address if re.fullmatch(ADDRESS, address) and len(address) <= 254 else "",
            subject=clean(issue.title or "", one_line=True)[:300],
            text=text[-TEXT_LIMIT:],
            arrived=datetime.strptime(waiting[newest].creation, DATE).replace(tzinfo=UTC),
            attributes=attributes,
        )

    def _person(self, number: str) -> _Person:
        person = self._thing(f"user/{number}", "username,realname,address", _Person)
        if "address" not in person.model_fields_set:
            raise BadInput(
                f"The user of HOLDFAST_ROUNDUP_USER may not see addresses in {self._desk.base}, so nobody could be "
                "answered. Give it a role that may View user.address."
            )
        return person

    def _thing(self, path: str, fields: str, shape: type[Shape]) -> Shape:
        answer = _get(self._desk, path, {"@fields": fields, "@verbose": "3"})
        if answer.status != 200:
            raise _Odd(f"{path} can not be read: {answer}")
        try:
            return shape.model_validate(_attributes(self._desk, answer))
        except ValidationError as why:
            raise _Odd(f"{path} is not what it should be: {_shape(why)}") from why


def _shape(why: ValidationError) -> str:
    """What is wrong, without the words of whoever wrote it."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in why.errors()[:3])


def _get(desk: web.Place, path: str, asked: dict[str, str]) -> web.Answer:
    try:
        answer = call(desk, "GET", path, params=asked)
    except (NotSent, httpx.HTTPError) as why:
        said = str(why) or type(why).__name__
        raise BadInput(f"The tracker {desk.base} can not be read now: {said}. The next tick asks again.") from why
    if len(answer.body) > LIMIT:
        raise _Odd(f"{path} is too long: more than {LIMIT} bytes")
    if answer.status in (401, 403) and not path.startswith("msg/"):
        raise BadInput(f"The tracker {desk.base} says {answer}. See HOLDFAST_ROUNDUP_USER and its roles.")
    if answer.status == 429 or answer.status >= 500:
        raise BadInput(f"The tracker {desk.base} says {answer}. The next tick asks again.")
    return answer


def _data(desk: web.Place, answer: web.Answer) -> dict[str, JsonValue]:
    found = answer.said.get("data") if isinstance(answer.said, dict) else None
    if answer.status != 200 or not isinstance(found, dict):
        raise BadInput(
            f"The tracker {desk.base} says {answer}. The URL must be written as the tracker's own `web` setting "
            "has it, with options that the tracker knows."
        )
    return found


def look(url: str) -> str:
    """Whether some customer waits there, as far as its first page says, and that it has the mark of the URL."""
    desk = _desk(url)
    first: list[JsonValue] = next(_pages(desk, ""), [])
    if mark := desk.options.get("mark"):
        _keyword(desk, mark)
    return f"{'at least ' if len(first) == PAGE else ''}{len(first)} issue(s) that may wait"


def finish(url: str, markers: Sequence[str]) -> None:
    """Put the keyword `mark`, if the URL names one, on issues whose customer has written nothing since."""
    desk = _desk(url)
    if not (mark := desk.options.get("mark")):
        return
    keyword = _keyword(desk, mark)
    for marker in markers:
        if named := MARKER.fullmatch(marker):
            _mark(desk, named[1], named[2], keyword)


def _keyword(desk: web.Place, name: str) -> str:
    """Its number; BadInput if the tracker does not have it."""
    found = _data(desk, _get(desk, "keyword", {"name:": name})).get("collection")
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            return str(one["id"])
    raise BadInput(f"The tracker {desk.base} has no keyword {name!r}. Make it, or leave mark= out of the URL.")


def _mark(desk: web.Place, issue: str, message: str, keyword: str) -> None:
    for _ in range(TRIES):
        answer = _get(desk, f"issue/{issue}", {"@fields": "creator,activity,messages,keyword", "@verbose": "0"})
        if answer.status != 200:
            return  # it is gone
        now = _Issue.model_validate({"id": issue} | _attributes(desk, answer))
        later = [one for one in now.newest_first if int(one) > int(message)]
        if keyword in (now.keyword or ()) or any(_author(desk, one) == now.creator for one in later):
            return
        change: JsonValue = {"keyword": [*(now.keyword or ()), keyword]}
        try:
            changed = call(desk, "PATCH", f"issue/{issue}", answer.headers.get("ETag", ""), body=change)
        except httpx.HTTPError as why:
            raise HoldfastError(f"The tracker {desk.base} does not say whether it marked issue{issue}.") from why
        if changed.status in (200, 404):
            return
        if changed.status != 412:
            raise HoldfastError(f"The tracker {desk.base} does not mark issue{issue}: {changed}.")
    raise HoldfastError(f"issue{issue} of {desk.base} is changed by others all the time; it is marked later.")


def _author(desk: web.Place, message: str) -> str:
    answer = _get(desk, f"msg/{message}", {"@fields": "author", "@verbose": "0"})
    return str(_attributes(desk, answer).get("author")) if answer.status == 200 else ""


def _attributes(desk: web.Place, answer: web.Answer) -> dict[str, JsonValue]:
    found = _data(desk, answer).get("attributes")
    return found if isinstance(found, dict) else {}
