"""What an installation keeps of a mailbox that it polls, and mails to fill one with."""

from __future__ import annotations

from pydantic import JsonValue

from tasks import sources
from tasks.records import Arrival, Note, Unreadable
from tasks.sources import Known
from tests.postoffice import PostOffice


class Installation:
    """What a ledger keeps of a source, as the tick writes it: all that a poll yields, up to where it was killed."""

    def __init__(self, url: str) -> None:
        self.url, self.notes, self.markers = url, dict[str, JsonValue](), dict[str, str]()
        assert self.poll() == []  # the first one only introduces itself

    def poll(self, killed_after: int = 1000) -> list[Arrival]:
        known = Known(lambda names: set(names) & self.markers.keys(), lambda _: dict(self.notes))
        new, self.unreadable = list[Arrival](), list[Unreadable]()
        for one in sources.poll(self.url, known):
            if isinstance(one, Note):
                self.notes[one.name] = one.value
            elif isinstance(one, Unreadable):
                self.unreadable.append(one)
            elif isinstance(one, Arrival):
                if len(new) == killed_after:
                    break
                self.markers[one.marker] = one.key
                new.append(one)
        return new

    @property
    def claim(self) -> str:
        return f"$Holdfast-{self.notes['name']}"


def mail(number: int, *headers: str) -> bytes:
    lines = (f"From: c{number}@example.com", f"Message-ID: <{number}@example.com>", "Subject: Lamp", *headers)
    return ("\r\n".join(lines) + "\r\n\r\nhello\r\n").encode()


def fill(office: PostOffice, desk: str, count: int) -> None:
    for number in range(1, count + 1):
        office.deliver(mail(number), [desk], f"c{number}@example.com")


def keys(found: list[Arrival]) -> list[str]:
    return [one.key for one in found]


def keyed(*numbers: int) -> list[str]:
    return [f"<{number}@example.com>" for number in numbers]
