"""A minute never holds more than a key may ask, for all processes together, and no agent takes another's share."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import Connection, func, select, update

from tasks.errors import BadInput
from tasks.ledger import rates
from tasks.ledger.calls import Call, Full, answered, reserve
from tasks.ledger.cases import Work, begin
from tasks.ledger.database import Ledger
from tasks.ledger.tables import attempts, cases, model_calls, spending
from tasks.prices import prices
from tasks.records import Rate, Usage
from tests import forked
from tests.asking import asking
from tests.claude.running import Claude, claude_server_in
from tests.conftest import arrival, fill

HOUR = 3600.0
MODEL = "claude-haiku-5-5"


def ask(c: Connection, work: Work, rate: Rate, tokens: int = 100) -> int | Full:
    call = Call("step", "key", "practice", "1", "h", MODEL, 7, tokens, False, "account", rate)
    number = reserve(c, work, call, lambda _: [])
    assert isinstance(number, int | Full)
    return number


@pytest.fixture
def works(ledger: Ledger, tmp_path: Path) -> Callable[..., dict[str, list[Work]]]:
    """Cases in hand, so many of each agent."""

    def begun(**agents: int) -> dict[str, list[Work]]:
        for name, count in agents.items():
            fill(ledger, tmp_path, [arrival(n) for n in range(count)], name=name, source=f"maildir:/{name}")
        found: dict[str, list[Work]] = {name: [] for name in agents}

        def all_of_them(c: Connection) -> None:
            for case in c.execute(select(cases.c.id).order_by(cases.c.id)).scalars().all():
                work = begin(c, case, "h", "practice", "1", "")
                assert isinstance(work, Work)
                found[work.case.agent].append(work)

        ledger.write_now("begin", all_of_them)
        return found

    return begun


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the clock by which minutes are counted."""
    return lambda now: monkeypatch.setattr(rates, "clock", lambda c: now)


Wish = tuple[float, int, Work, int]
"""When it is made, its place among equals, by whom, tokens."""


def play(
    ledger: Ledger, at: Callable[[float], None], wishes: list[Wish], rate: Rate, until: float = 2 * HOUR
) -> list[tuple[float, str, int]]:
    """Let everybody ask, and ask again when told to; (time, agent, tokens) of each call that was let through."""

    def job(c: Connection) -> list[tuple[float, str, int]]:
        through, waiting = [], list(wishes)
        heapq.heapify(waiting)
        while waiting and waiting[0][0] < until:
            now, place, work, tokens = heapq.heappop(waiting)
            at(now)
            given = ask(c, work, rate, tokens)
            if isinstance(given, Full):
                assert 0 < given.seconds <= rates.WINDOW, "put off for longer than a window"
                heapq.heappush(waiting, (now + given.seconds, place, work, tokens))
            else:
                through.append((now, work.case.agent, tokens))
                ended = dict(state="answered", input_tokens=tokens)
                c.execute(update(model_calls).where(model_calls.c.id == given).values(ended))
        assert not waiting, f"{len(waiting)} wait for ever"
        return through

    return ledger.write_now("play", job)


def most(through: list[tuple[float, str, int]], agent: str = "", since: float = 0.0) -> int:
    """Of one agent or of all, the most calls that any minute holds."""
    times = [when for when, who, _ in through if agent in ("", who) and when >= since]
    return max(sum(1 for one in times if when <= one < when + 60) for when in times)


def test_an_agent_with_sixty_cases_does_not_starve_one_with_two(
    ledger: Ledger, works: Callable[..., dict[str, list[Work]]], at: Callable[[float], None]
) -> None:
    found = works(many=60, few=2)
    wishes = [(0.0, n, work, 100) for n, work in enumerate(found["many"])]
    wishes += [(10.0, 100 + n, work, 100) for n, work in enumerate(found["few"])]
    through = play(ledger, at, wishes, Rate(requests_per_minute=20))
    assert sum(1 for when, who, _ in through if who == "many" and when < 10) == 20, "alone it did not get everything"
    assert max(when for when, who, _ in through if who == "few") <= rates.WINDOW
    assert sum(1 for when, who, _ in through if who == "many" and 10 <= when < 2 * rates.WINDOW) == 10
    assert len(through) == 62 and most(through) <= 20


def test_two_agents_that_both_want_everything_get_half_each(
    ledger: Ledger, works: Callable[..., dict[str, list[Work]]], at: Callable[[float], None]
) -> None:
    found = works(left=20, right=20)
    wishes = [(0.0, n, work, 100) for n, work in enumerate(found["left"])]
    wishes += [(1.0, 100 + n, work, 100) for n, work in enumerate(found["right"])]
    through = play(ledger, at, wishes, Rate(requests_per_minute=8, tokens_per_minute=100_000))
    assert most(through) <= 8
    both = [one for one in through if rates.WINDOW <= one[0] < 4 * rates.WINDOW]
    assert {most(both, "left"), most(both, "right")} == {4}


def test_a_call_larger_than_the_limit_waits_for_an_empty_minute_and_not_for_ever(
    ledger: Ledger, works: Callable[..., dict[str, list[Work]]], at: Callable[[float], None]
) -> None:
    found = works(large=2, small=1)
    wishes = [(5.0, 1, found["large"][0], 5_000), (6.0, 2, found["large"][1], 600)]
    wishes += [(float(n), 10 + n, found["small"][0], 90) for n in range(0, 120, 2)]
    through = play(ledger, at, wishes, Rate(tokens_per_minute=1_000), until=HOUR)
    large = [when for when, who, tokens in through if tokens == 5_000]
    assert len(large) == 1 and large[0] <= 2 * rates.WINDOW
    assert not [one for one in through if one[2] != 5_000 and abs(one[0] - large[0]) < 60], "it did not go alone"
    assert [tokens for _, who, tokens in through if who == "large"] == [5_000, 600]


@pytest.mark.parametrize("jumped", [-HOUR, HOUR, -24 * HOUR])
def test_nobody_waits_longer_than_a_window_because_a_clock_was_set(
    ledger: Ledger, works: Callable[..., dict[str, list[Work]]], at: Callable[[float], None], jumped: float
) -> None:
    found, rate = works(left=4, right=4), Rate(requests_per_minute=3)
    at(50 * HOUR)
    given = [ledger.write_now("ask", lambda c, w=work: ask(c, w, rate)) for work in found["left"]]  # type: ignore[misc]
    assert [isinstance(one, Full) for one in given] == [False, False, False, True]
    at(50 * HOUR + jumped)
    first = ledger.write_now("ask", lambda c: ask(c, found["right"][0], rate))
    if jumped > 0:
        assert isinstance(first, int)
        return
    assert isinstance(first, Full) and first.seconds <= rates.WINDOW
    at(50 * HOUR + jumped + rates.WINDOW)
    assert isinstance(ledger.write_now("ask", lambda c: ask(c, found["right"][0], rate)), int)


@pytest.mark.parametrize("jumped", [-HOUR, HOUR])
def test_a_wall_clock_that_is_set_here_does_not_open_the_minute_again(
    ledger: Ledger, works: Callable[..., dict[str, list[Work]]], monkeypatch: pytest.MonkeyPatch, jumped: float
) -> None:
    found, rate, real = works(left=3), Rate(requests_per_minute=2), time.time
    for work in found["left"][:2]:
        assert isinstance(ledger.write_now("ask", lambda c, w=work: ask(c, w, rate)), int)  # type: ignore[misc]
    monkeypatch.setattr(time, "time", lambda: real() + jumped)
    given = ledger.write_now("ask", lambda c: ask(c, found["left"][2], rate))
    assert isinstance(given, Full) and given.seconds <= rates.WINDOW


def test_what_a_call_did_not_use_is_free_again_when_it_is_answered_and_waiting_takes_no_money(
    ledger: Ledger, works: Callable[..., dict[str, list[Work]]]
) -> None:
    found, rate = works(left=2), Rate(tokens_per_minute=1_000)
    first, second = found["left"]
    number = ledger.write_now("ask", lambda c: ask(c, first, rate, 900))
    given = ledger.write_now("ask", lambda c: ask(c, second, rate, 900))
    assert isinstance(number, int) and isinstance(given, Full) and given.seconds <= rates.UNDER_WAY
    place = (spending.c.scope == "agent", spending.c.day != "")
    aside = ledger.read_now("look", lambda c: c.execute(select(spending.c.usd_open).where(*place)).scalar_one())
    assert aside == 7, "money was set aside for a call that waits"
    used = Usage(input_tokens=50, output_tokens=50, cache_read=5_000)
    assert ledger.write_now("book", lambda c: answered(c, number, "msg_1", used, 5, 0))
    assert isinstance(ledger.write_now("ask", lambda c: ask(c, second, rate, 900)), int)


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Claude]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-nobodys")
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with claude_server_in(tmp_path) as server, temporary_settings({PREFECT_API_URL: prefect_server}):
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        yield server


def test_two_processes_together_never_ask_more_in_a_minute_than_the_key_may(
    desk: Claude, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_RATES", f"{MODEL}=5/")
    for name in ("left", "right"):
        fill(ledger, tmp_path, [arrival(n) for n in range(6)], name=name, source=f"maildir:/{name}")
    code = "import asyncio\nfrom tests.asking import asking\nasyncio.run(asking(cases={}))"
    runs = [forked.start(code=code.format(ids)) for ids in (list(range(1, 7)), list(range(7, 13)))]
    assert [run.wait(120) for run in runs] == [0, 0]
    asked = [(one.time, "", 0) for one in desk.entries("message")]
    # Two of five each is a fair share: whether the fifth is taken depends on which process begins before the other.
    assert len(asked) >= 4 and 4 <= most(asked) <= 5
    rows = ledger.read_now("look", lambda c: c.execute(select(cases)).all())
    assert {row.errors for row in rows} == {0}
    late = [row for row in rows if row.state == "open"]
    assert late and all("no room in this minute" in row.reason for row in late)
    kept = ledger.read_now("look", lambda c: c.execute(select(rates.rates)).all())
    assert kept and "bodys" not in repr(kept), "the key stands in the ledger"
    open_ = ledger.read_now("look", lambda c: c.execute(select(func.sum(spending.c.usd_open))).scalar())
    assert open_ == 0


@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_short_wait_takes_no_place_away(
    desk: Claude, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_RATES", f"{MODEL}=3/")
    monkeypatch.setattr(rates, "WINDOW", 0.5)
    fill(ledger, tmp_path, [arrival(n) for n in range(4)], concurrency=4)
    asyncio.run(asking(cases=[1, 2, 3, 4]))
    states = Counter(ledger.read_now("look", lambda c: c.execute(select(cases.c.state)).scalars().all()))
    tries = ledger.read_now("look", lambda c: c.execute(select(func.count()).select_from(attempts)).scalar())
    assert (states, tries) == ({"settled": 4}, 4)


def test_limits_of_a_minute_that_can_not_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not prices().rate(MODEL).limited, "the table limits somebody who did not ask for it"
    monkeypatch.setenv("HOLDFAST_RATES", f"{MODEL}=50/40000, claude-opus-5-5=/9")
    assert prices().rate(f"{MODEL}-20261101") == Rate(requests_per_minute=50, tokens_per_minute=40_000)
    assert prices().rate("claude-opus-5-5") == Rate(tokens_per_minute=9)
    monkeypatch.setenv("HOLDFAST_RATES", f"{MODEL}=fast")
    with pytest.raises(BadInput, match="HOLDFAST_RATES has 'claude-haiku-5-5=fast'"):
        prices().rate(MODEL)
