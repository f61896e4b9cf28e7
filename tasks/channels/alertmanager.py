"""Silences in an Alertmanager: of exactly one alert, bounded in time, found again by the key in their comment."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks import web
from tasks.channels.message import digest, one_line
from tasks.errors import BadInput, NotSent, Refused
from tasks.records import Effect, Receipt, Record
from tasks.silences import OURS

CAN_FIND = True  # for as long as Alertmanager keeps what is over: --data.retention, five days if nobody says otherwise
LONGEST = 24 * 60  # minutes
ENDED_EARLY = timedelta(seconds=60)  # before its time: nobody but a person does that
WAY_OUT = "Write alertmanager://host:9093, or alertmanager+https://host; secrets stand in HOLDFAST_ALERTMANAGER_*."
UNTIL = re.compile(r"\[holdfast [0-9a-f]{64} until (\S{20,32})\]")


class Matcher(Record):
    """One label and its value, word for word: what matches by pattern or by «not» silences what nobody looked at."""

    name: str = Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=200)
    value: str = Field(min_length=1, max_length=10_000)
    isRegex: Literal[False] = False
    isEqual: Literal[True] = True


class Wanted(Record):
    """What a silence shall be, in an effect's `data`."""

    matchers: Annotated[tuple[Matcher, ...], Field(min_length=1, max_length=100)]
    minutes: int = Field(ge=1, le=LONGEST)


class _Status(BaseModel):
    state: str


class _Silence(BaseModel):
    """What is read of a silence, whoever made it."""

    model_config = ConfigDict(extra="ignore")

    id: str
    matchers: list[dict[str, Any]]
    ends: AwareDatetime = Field(alias="endsAt")
    maker: str = Field(alias="createdBy", default="")
    comment: str = ""
    status: _Status


def check(url: str) -> None:
    """BadInput if the URL or the environment is wrong; Alertmanager is first asked when there is something for it."""
    _place(url)


def _place(url: str) -> web.Place:
    return web.place_of(url, WAY_OUT)


def _mark(key: str) -> str:
    return f"[holdfast {digest(key)}"


def _silences(place: web.Place) -> list[_Silence]:
    """All of them, also those that are over: what a person ended is not to be made again."""
    try:
        return [_Silence.model_validate(one) for one in web.read_json(place, "/api/v2/silences")]
    except (ValidationError, TypeError) as why:
        raise BadInput(f"{place.shown} shows silences that can not be read. Is it an Alertmanager?") from why


def find(url: str, key: str) -> Receipt | None:
    """The silence with this key, also one that is over; None if there is certainly none. NotSent if nobody can say."""
    return _found(url, key, _silences(_place(url)))


def _found(url: str, key: str, silences: Sequence[_Silence]) -> Receipt | None:
    for one in silences:
        if _mark(key) in one.comment:
            return Receipt(channel=url, reference=one.id, at=datetime.now(UTC), found=True)
    return None


def matchers_for(labels: Mapping[str, str]) -> list[Matcher]:
    """Exactly these labels; BadInput if one can not be matched."""
    try:
        return [Matcher(name=name, value=value) for name, value in sorted(labels.items())]
    except ValidationError as why:
        raise BadInput("The alert has a label that no silence can name.") from why


def ended_by_a_person(url: str, matchers: Sequence[Matcher]) -> bool:
    """Whether somebody ended a silence of ours for just this alert before its time."""
    return _ended_early(matchers, _silences(_place(url)))


def _ended_early(matchers: Sequence[Matcher], silences: Sequence[_Silence]) -> bool:
    wanted = {(one.name, one.value, False, True) for one in matchers}
    for one in silences:
        promised = UNTIL.search(one.comment)
        if one.maker != OURS or one.status.state != "expired" or promised is None:
            continue
        same = {(m.get("name"), m.get("value"), m.get("isRegex"), m.get("isEqual", True)) for m in one.matchers}
        if same == wanted and one.ends < datetime.fromisoformat(promised[1]) - ENDED_EARLY:
            return True
    return False


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Make the silence, unless it is there; Refused for one that is too wide or too long, or that a person ended.

    Alertmanager makes two of the same one posted twice, so it is looked for first. NotSent while nothing left,
    httpx.HTTPError where nobody can tell: then `find` can.
    """
    place, wanted = _place(url), _wanted(effect)
    silences = _silences(place)
    if found := _found(url, key, silences):
        return found
    if _ended_early(wanted.matchers, silences):
        raise Refused("A person ended a silence of this alert before its time, so it is not silenced again.")
    now = datetime.now(UTC)
    ends = (now + timedelta(minutes=wanted.minutes)).replace(microsecond=0)
    body = {
        "matchers": [one.model_dump() for one in wanted.matchers],
        "startsAt": now.isoformat(),
        "endsAt": ends.isoformat(),
        "createdBy": OURS,
        "comment": f"{one_line(effect.body, 500)} {_mark(key)} until {ends.isoformat()}]".strip(),
    }
    answer = web.exchange(place, "POST", "/api/v2/silences", body=body, limit=1_000_000)
    if answer.status in web.LATER:
        raise NotSent(f"{place.shown} makes no silence now: {answer}. It is tried again.")
    if answer.status // 100 in (3, 4):
        raise Refused(f"{place.shown} refuses the silence: {answer}. See the address, and HOLDFAST_ALERTMANAGER_*.")
    try:
        made = str(json.loads(answer.body)["silenceID"])
    except (ValueError, KeyError, TypeError) as why:
        raise OSError(f"{place.shown} answers {answer} to a silence, which says neither yes nor no") from why
    return Receipt(channel=url, reference=made, at=datetime.now(UTC))


def _wanted(effect: Effect) -> Wanted:
    try:
        wanted = Wanted.model_validate(effect.data)
    except ValidationError as why:
        first = why.errors()[0]
        where = ".".join(str(one) for one in first["loc"])
        raise Refused(f"A silence with this {where or 'data'} is not made: {first['msg']}.") from why
    names = [one.name for one in wanted.matchers]
    if "alertname" not in names or len(set(names)) < len(names):
        raise Refused("A silence is made for one alert: its matchers name `alertname`, and each label once.")
    return wanted
