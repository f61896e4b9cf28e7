"""What is remembered of an alert between polls: its episode, when that is over, and when it only flaps."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from tasks.alerts import Alert, server_of, shortened
from tasks.records import Record

MINUTE = 60.0
FLAPS = 3  # times that it began within the window
WINDOW = 30 * MINUTE
STEADY = 10 * MINUTE  # firing without a break: what flapped flaps no more
AT_LEAST = 60 * MINUTE  # a case for what flaps on and on, and for what joins a storm
BACK = 60 * MINUTE  # after which an alert that fires again says nothing about what was done before
KEPT = 120 * MINUTE  # an episode that is over is remembered: longer than all of these
MOST = 20_000  # that are over are remembered at once; of more the newest
RESENT = 5 * MINUTE  # Prometheus sends what fires each minute, unless told otherwise: then it would have been heard
PROVED = 3 * MINUTE  # of which another alert of the same Prometheus has to show that it goes on sending
UNHEARD = 60 * MINUTE  # ... and without any other


class Episode(Record):
    """An alert from when it began to fire to when that is known to be over. Times are seconds since 1970, by us."""

    name: str
    labels: Mapping[str, str]
    server: str = Field(description="Which Prometheus it came from.")
    key: str = Field(description="The key of its case: its own, that of its group, or the last one while it flaps.")
    cased: float = Field(description="When that case was made.")
    fires: tuple[float, ...] = Field(description="When it began to fire, lately.")
    absent: float = Field(default=0, description="Since when it is not shown; 0 while it is.")
    over: float = Field(default=0, description="Since when it is known to be over.")
    joined: bool = Field(default=False, description="It flaps, so that this time it has no case.")
    flaps: int = Field(default=0, description="How often it was so since the last case.")
    told: bool = Field(default=False, description="It was told that it came back after that case.")

    @property
    def alone(self) -> bool:
        """Whether the case is of this alert only."""
        return not self.key.startswith("group:")

    def fires_again(self, now: float) -> Episode:
        """After it was over: as a flap of the last case, if it flaps."""
        fires = (*(at for at in self.fires if now - at < WINDOW), now)
        changes = {"fires": fires, "absent": 0.0, "over": 0.0, "told": True}
        if len(fires) < FLAPS or now - self.cased >= AT_LEAST:
            return self.model_copy(update=changes | {"joined": False})
        return self.model_copy(update=changes | {"joined": True, "flaps": self.flaps + 1})

    def wants_a_case(self, now: float) -> bool:
        """Whether what flapped has become steady, or has flapped for so long that people shall hear of it again."""
        return self.joined and (now - self.fires[-1] >= STEADY or now - self.cased >= AT_LEAST)

    def with_case(self, key: str, cased: float) -> Episode:
        """The same with a case that was made then: its own or that of a group."""
        return self.model_copy(update={"key": key, "cased": cased, "joined": False, "flaps": 0, "told": False})

    def silent_for_long(self, now: float, heard: Mapping[str, float], up: float) -> bool:
        """Whether its absence alone says that it is over: there is no Prometheus to ask.

        Not right after Alertmanager's start, which forgets all alerts. Then five minutes without it will do if its
        Prometheus was heard of in the last of them, for that sends again whatever fires; and an hour otherwise.
        """
        if now - up < RESENT:
            return False
        proved = now - self.absent >= RESENT and heard.get(self.server, 0.0) >= self.absent + PROVED
        return proved or now - self.absent >= UNHEARD


def to_forget(remembered: Mapping[str, Episode], now: float) -> set[str]:
    """Names of those that are over for so long, or so many, that nothing depends on them any more."""
    over = sorted(((one.over, name) for name, one in remembered.items() if one.over), reverse=True)
    return {name for place, (since, name) in enumerate(over) if place >= MOST or now - since > KEPT}


def begins(alert: Alert, now: float) -> Episode:
    """The first episode of an alert that nothing is remembered of, before it has a case."""
    labels, server = shortened(alert.labels), server_of(alert.generator)
    return Episode(name=alert.name, labels=labels, server=server, key="", cased=now, fires=(now,))
