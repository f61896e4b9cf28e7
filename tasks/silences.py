"""What became of the silences of ours: a person ended one, or it ran out while its alert still fired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from tasks import web
from tasks.alerts import SHORT, Alert, time_of
from tasks.episodes import MINUTE, Episode
from tasks.records import Note, Signal

OURS = "holdfast"  # who made a silence, as people see it
SILENCE = "silence/"
UNSILENCED = "a person ended its silence while it still fired"
OUTLASTED = "it still fired when its silence had run out"


class Ended(NamedTuple):
    """A silence of ours that is over."""

    id: str
    labels: dict[str, str]
    began: float
    ended: datetime
    early: bool
    """Whether somebody ended it before its time."""

    def made_for(self, alert: Alert, one: Episode) -> bool:
        """Whether it was made for the case of this episode, and ended while that fired.

        One that was tidied up between two episodes says nothing.
        """
        in_time = one.cased - MINUTE <= self.began and one.fires[-1] <= self.ended.timestamp()
        return in_time and self.labels.items() <= alert.labels.items()


def ended(place: web.Place) -> list[Ended]:
    """Silences of ours that are over. Only if a person ends one, Alertmanager enters that as its last change."""
    found = web.read_json(place, "/api/v2/silences")
    over = []
    for one in found if isinstance(found, list) else ():
        try:
            at, changed = time_of(one["endsAt"]), time_of(one["updatedAt"])
            exact = all(m["isRegex"] is False and m.get("isEqual", True) is True for m in one["matchers"])
            if one["createdBy"] == OURS and one["status"]["state"] == "expired" and exact:
                labels = {str(m["name"]): str(m["value"]) for m in one["matchers"]}
                began = time_of(one["startsAt"]).timestamp()
                over.append(Ended(str(one["id"])[:SHORT], labels, began, at, at <= changed))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # somebody else's
    return over


def outlasted(over: list[Ended], firing: list[tuple[Alert, Episode]]) -> Iterator[tuple[Alert, Episode, Ended]]:
    """Alerts that nobody keeps quiet any more, though they still fire: each with the last silence that ran out."""
    for alert, one in firing:
        mine = [each for each in over if not each.early and one.alone and each.made_for(alert, one)]
        last = max(mine, key=lambda each: each.ended, default=None)
        if last and alert.active and not one.key.endswith(last.id):  # else this is the case that was made of it
            yield alert, one, last


def ended_by_people(
    over: list[Ended], known: Mapping[str, object], firing: list[tuple[Alert, Episode]]
) -> Iterator[Signal | Note]:
    """Cases whose silence a person ended while the alert still fired: it was wrong to make it."""
    for silence in (one for one in over if one.early):
        name = f"{SILENCE}{silence.id}"
        for alert, one in firing if name not in known else ():
            if silence.made_for(alert, one):
                yield Signal(key=one.key, what="un-silenced", right=False, at=silence.ended, why=UNSILENCED)
                yield Note(name=name, value=True)
                break
    there = {f"{SILENCE}{one.id}" for one in over}
    yield from (Note(name=name, value=None) for name in known if name not in there)
