"""What nobody speaks of is denied or told of again, never let go; what people see of it holds no customers' words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import pytest
from prefect import flow
from sqlalchemy import update

from flows import loop
from flows.permit import permit
from tasks.errors import BadInput
from tasks.ledger.agents import switch_effects
from tasks.ledger.tables import cases
from tasks.records import Agent, Approval, Effect
from tasks.report import show_waiting
from tasks.waiting import exactly
from tests.paging import FIRST, paging
from tests.servers import ask_prefect
from tests.watching import Here, here, later

__all__ = ["here", "later"]

HOUR, WEEK = 3_600.0, 7 * 86_400.0


def test_nobody_speaks_and_it_is_denied_in_time_and_not_before(here: Here, later: Callable[[float], None]) -> None:
    watch = here("resigned", approvals={"page": {"hours": 2}})
    watch.work()
    digest = watch.waits()[0].word.digest
    later(HOUR)
    assert watch.run_out() == []
    later(WEEK)
    assert watch.run_out() == ["nobody spoke in time of page of case 1: it is denied"] and watch.run_out() == []
    with pytest.raises(BadInput, match="timeout denied the page"):
        watch.say(digest=digest)
    watch.work()
    assert (watch.pages(), watch.came()) == ([], [("abstained", "nobody was paged")])


def test_nobody_speaks_and_people_are_told_once_more_and_it_waits_on(
    here: Here, tmp_path: Path, later: Callable[[float], None]
) -> None:
    urls = {kind: f"maildir:{tmp_path / kind}" for kind in ("page", "hand_over")}
    watch = here(effects=urls, approvals={"page": {"hours": 2, "then": "escalate"}})
    watch.work()
    assert watch.pages("hand_over") == []
    later(3 * HOUR)
    assert watch.run_out() == ["nobody spoke in time of page of case 1: people are told once more"]
    watch.work()
    later(WEEK)
    assert watch.run_out() == []
    (told,) = watch.pages("hand_over")
    assert "waiting 1" in told and FIRST not in told
    assert (watch.state(), watch.pages("page"), watch.said()) == ("parked", [], ["asked", "told"])
    assert watch.say()
    watch.work()
    assert (watch.pages("page"), len(watch.pages("hand_over")), watch.looked()) == ([FIRST], 1, 1)


@pytest.mark.parametrize("shadow", [False, True])
def test_a_rehearsal_and_a_shadow_wait_for_nobody(here: Here, shadow: bool) -> None:
    watch = here(dry_run=not shadow)
    if shadow:
        copy = update(cases).values(source="shadow:paging/1")
        watch.ledger.write_now("make it a shadow's", lambda c: c.execute(copy))
    watch.work()
    assert (watch.state(), watch.pages(), watch.waits(), watch.said()) == ("settled", [], [], [])


def test_what_is_permitted_does_not_leave_while_effects_are_switched_off(here: Here) -> None:
    watch = here()
    watch.work()
    watch.ledger.write_now("switch", lambda c: switch_effects(c, "desk", False, "ann"))
    assert watch.say()
    watch.work()
    assert (watch.state(), watch.pages()) == ("parked", [])
    watch.ledger.write_now("switch", lambda c: switch_effects(c, "desk", True, "ann"))
    watch.work()
    assert watch.pages() == [FIRST]


@pytest.mark.parametrize("show", [False, True])
def test_the_form_decides_once_and_its_list_holds_words_only_where_they_may_be_shown(
    here: Here, prefect_server: str, show: bool
) -> None:
    watch = here(approvals={"page": {"show": show}})

    def listed() -> str:
        found = ask_prefect(prefect_server, "GET", "/artifacts/waiting-desk/latest")
        return str(found["data"])

    def fill_in(decision: Literal["permit", "deny"], **more: Any) -> str:
        given = {"case": 1, "digest": digest[:12], "who": "ann", "decision": decision}
        return str(asyncio.run(permit(**given, **more, return_state=True)).message)  # type: ignore[call-overload]

    watch.work()
    digest = watch.waits()[0].word.digest
    agent = Agent.model_validate({"name": "desk", "source": "maildir:/inbox"} | watch.given)
    asyncio.run(flow(validate_parameters=False)(show_waiting)(agent, watch.waits()))
    assert digest[:12] in listed() and (FIRST in listed()) == show
    assert "What is denied is not sent" in fill_in("deny", text="Call Bob.")
    assert "is permitted" in fill_in("permit")
    assert digest[:12] not in listed() and "Nothing of desk waits" in listed()
    assert "said before" in fill_in("permit") and "ann in the UI permitted the page" in fill_in("deny")
    watch.work()
    assert watch.pages() == [FIRST]


def test_a_tick_denies_what_nobody_spoke_of_and_works_its_case_at_once(
    here: Here, tmp_path: Path, later: Callable[[float], None]
) -> None:
    watch = here("resigned", source=f"maildir:{tmp_path / 'inbox'}")
    (tmp_path / "inbox/new").mkdir(parents=True)
    agent = Agent.model_validate({"name": "desk", "source": f"maildir:{tmp_path / 'inbox'}"} | watch.given)
    known = {"catalogue": lambda: {"paging": tmp_path}, "skill_flow": lambda *_: paging, "describe": lambda _: "Page."}
    with patch.multiple(loop, **known):
        asyncio.run(loop.agent_loop(agent, dry_run=False))
        assert watch.state() == "parked"
        later(WEEK)
        asyncio.run(loop.agent_loop(agent, dry_run=False))
        assert watch.came() == [("abstained", "nobody was paged")] and watch.pages() == []
        misspelt = agent.model_copy(update={"approvals": {"pgae": Approval()}})
        with pytest.raises(BadInput, match="'pgae', which is none of the agent's effects"):
            asyncio.run(loop.agent_loop(misspelt, dry_run=False))


def test_what_nobody_would_see_is_shown_to_whoever_permits_it() -> None:
    effect = Effect(kind="page", subject="a\x1b[2K", body="ring\u202eBob\u200b\r\nnow", data={"minutes": 5})
    shown = exactly(effect)
    assert all(one.isprintable() or one == "\n" for one in shown)
    assert "<U+202E>Bob<U+200B><U+000D>\nnow" in shown and '"minutes": 5' in shown and "x" not in shown
