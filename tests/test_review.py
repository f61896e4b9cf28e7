"""A review says the same however often it is killed, and nothing that its audits do not bear."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import Connection, func, select, text

from flows.review import review
from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.ledger.reviewed import ask_about, begins, name_of, week_of
from tasks.ledger.tables import audits, outcomes, reviews, thresholds, verdicts
from tasks.ledger.thresholds import threshold_of
from tasks.ledger.verdicts import say
from tests import forked
from tests.audited import history, people_say
from tests.servers import ask_prefect, wait_for

KILLS = int(os.environ.get("KILLS", "12"))


@pytest.fixture
def desk(ledger: Ledger, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield ledger


def reviewed(ledger: Ledger, **given: Any) -> dict[str, Any]:
    """Review it, and read the newest figures."""
    asyncio.run(review(agent="desk", **given))
    found = select(reviews.c.figures).order_by(reviews.c.id.desc()).limit(1)
    kept: dict[str, Any] = json.loads(ledger.read_now("look", lambda c: c.execute(found).scalar_one()))
    return kept


def drawn(ledger: Ledger) -> list[tuple[int, str, float]]:
    found = select(audits.c.outcome, audits.c.stratum, audits.c.chance).order_by(audits.c.outcome)
    return [tuple(row) for row in ledger.read_now("look", lambda c: c.execute(found).all())]  # type: ignore[misc]


def artifact(api: str, key: str) -> str:
    """The newest of its key."""
    return str(ask_prefect(api, "GET", f"/artifacts/{key}/latest")["data"])


@contextlib.contextmanager
def deployed(api: str, *names: str) -> Iterator[dict[str, str]]:
    """Deployments that have forms, for as long as they are looked for. Their ids by name."""
    ids = {}
    try:
        for name in names:
            flow = ask_prefect(api, "POST", "/flows/", json={"name": name})["id"]
            made = ask_prefect(api, "POST", "/deployments/", json={"name": name, "flow_id": flow})
            ids[name] = made["id"]
        yield ids
    finally:
        for made in ids.values():
            ask_prefect(api, "DELETE", f"/deployments/{made}")


@pytest.mark.timeout(180 + 3 * KILLS)
def test_a_review_killed_again_and_again_says_what_an_undisturbed_one_says(desk: Ledger, tmp_path: Path) -> None:
    truth = history(desk, 6, 300)
    asyncio.run(review(agent="desk"))
    people_say(desk, truth)
    code = "import asyncio\nfrom flows.review import review\nasyncio.run(review(agent='desk', change=True))"
    dice = random.Random(7)
    for _ in range(KILLS):
        run = forked.start(code=code)
        until = time.monotonic() + dice.uniform(0.1, 1.5)
        while time.monotonic() < until and run.poll() is None:
            time.sleep(0.01)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
        run.wait()
    assert forked.start(code=code).wait(90) == 0
    rows = desk.read_now("look", lambda c: c.execute(select(reviews).order_by(reviews.c.id)).all())
    killed = [json.loads(row.figures) for row in rows if row.figures][1:]
    assert all(row.figures for row in rows), "a review that was begun was left behind"
    assert all(one == killed[0] for one in killed)
    assert killed[0] == reviewed(desk)
    changed = desk.read_now("look", lambda c: c.execute(select(func.count()).select_from(thresholds)).scalar())
    assert changed == 1, "one finding moved the threshold more than once"


def test_nobody_is_asked_about_another_case_when_a_review_is_repeated(desk: Ledger) -> None:
    history(desk, 3, 200)
    reviewed(desk, audits=40)
    first = drawn(desk)
    reviewed(desk, audits=80)
    assert drawn(desk) == first and 3 * 35 <= len(first) <= 3 * 40
    kinds = {stratum.partition("/")[0] for _, stratum, _ in first}
    assert kinds == {"acted", "handed_over"}, "what was not acted on is never looked at"


def test_a_review_says_of_how_many_it_asked_itself(desk: Ledger) -> None:
    history(desk, 2, 200)
    found = reviewed(desk, audits=40)
    asked = [one["asked"] for one in found["weeks"]]
    assert sum(asked) == len(drawn(desk)) and min(asked) >= 35
    assert [one["answered"] for one in found["weeks"]] == [0, 0]


def test_two_reviews_at_once_draw_a_week_by_one_plan(desk: Ledger) -> None:
    history(desk, 1, 60)
    period, others = name_of(week_of(time.time()) - 1), [Ledger(desk.url) for _ in range(2)]
    entered, go = threading.Event(), threading.Event()
    waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

    def slowly(c: Connection) -> int:
        new = ask_about(c, "desk", period, {1: ("acted", 0.5), 2: ("acted", 0.5)}, 1.0)
        entered.set()
        assert go.wait(60)
        return new

    def is_behind() -> bool:
        # SQLite lets nobody else begin to write: whether the other one tried yet makes no difference.
        return desk.engine.dialect.name == "sqlite" or bool(
            desk.read_now("look", lambda c: c.execute(text(waits)).scalar())
        )

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(others[0].write_now, "ask", slowly)
        assert entered.wait(60)
        given = {2: ("acted", 0.1), 3: ("acted", 0.1)}
        second = pool.submit(others[1].write_now, "ask", lambda c: ask_about(c, "desk", period, given, 2.0))
        wait_for(lambda: second.done() or is_behind(), 60, "the second draw")
        go.set()
        assert (first.result(), second.result()) == (2, 0)
    assert drawn(desk) == [(1, "acted", 0.5), (2, "acted", 0.5)]
    for one in others:
        one.close()


def test_verdicts_of_people_who_look_where_it_hurts_do_not_enter_a_rate(desk: Ledger) -> None:
    truth = history(desk, 3, 300)
    reviewed(desk)
    people_say(desk, truth)
    before = reviewed(desk)
    asked = {outcome for outcome, _, _ in drawn(desk)}
    rows = desk.read_now("look", lambda c: c.execute(select(outcomes)).all())
    wrong = [row.case for row in rows if row.kind == "acted" and row.id not in asked and not truth[row.case]]
    desk.write_now("complain", lambda c: [say(c, case, False, "a customer") for case in wrong])
    after = reviewed(desk)
    assert after["total"] == before["total"] and len(wrong) > 10
    surest = max(row.confidence for row in rows if row.case in wrong)
    assert after["worst"][0]["confidence"] >= surest, "the worst decision is not shown first"
    assert after["worst"][0]["because"].startswith("knowledge/")


def test_the_rate_of_a_review_holds_the_truth_and_says_of_how_many_it_speaks(desk: Ledger) -> None:
    truth = history(desk, 4, 500)
    reviewed(desk, audits=120)
    people_say(desk, truth)
    total = reviewed(desk)["total"]
    rows = desk.read_now("look", lambda c: c.execute(select(outcomes)).all())
    acted = [row.case for row in rows if row.kind == "acted"]
    assert (total["outcomes"], total["acted"]) == (2000, len(acted)) and total["wrong"]["of"] == len(acted)
    assert total["wrong"]["low"] <= sum(not truth[case] for case in acted) / len(acted) <= total["wrong"]["high"]
    assert total["wrong"]["high"] - total["wrong"]["low"] < 0.12
    assert total["coverage"]["value"] == len(acted) / 2000 == total["coverage"]["high"]


def test_what_people_took_over_and_told_costs_no_audit_and_what_they_told_in_part_is_drawn(desk: Ledger) -> None:
    truth = history(desk, 2, 400, versions=1)
    rows = desk.read_now("look", lambda c: c.execute(select(outcomes).order_by(outcomes.c.id)).all())
    taken, acted = [one for one in rows if one.kind == "handed_over"], [one for one in rows if one.kind == "acted"]
    complaints = [one for one in acted if not truth[one.case]][:20]
    desk.write_now("tell", lambda c: [say(c, one.case, truth[one.case], "desk") for one in (*taken, *complaints)])
    reviewed(desk, audits=60)
    found = {outcome: (stratum, chance) for outcome, stratum, chance in drawn(desk)}
    assert all(found[one.id] == (f"told/{found[one.id][0][5:]}", 1.0) for one in taken), "known ones are asked about"
    asked = [one for one in acted if one.id in found]
    assert 2 * 50 <= len(asked) <= 2 * 60, "the budget did not go where something is to be learnt"
    assert len(asked) == len(found) - len(taken) and all(found[one.id][1] < 1 for one in asked)
    assert len([one for one in complaints if one.id in found]) < len(complaints), "complaints entered a rate"
    people_say(desk, truth)
    total = reviewed(desk)["total"]
    missed = sum(truth[one.case] for one in taken)
    kept = sum(truth[one.case] for one in acted)
    assert total["recall"]["low"] <= kept / (kept + missed) <= total["recall"]["high"]


def test_a_threshold_moves_only_where_that_was_allowed_and_then_to_where_the_target_is_kept(desk: Ledger) -> None:
    truth = history(desk, 6, 500, versions=1)
    reviewed(desk, audits=200)
    people_say(desk, truth)
    reviewed(desk, audits=200, target=0.1)
    assert desk.read_now("look", lambda c: threshold_of(c, "desk", "answer")) is None
    reviewed(desk, audits=200, target=0.1, sure=0.9, change=True)
    moved = desk.read_now("look", lambda c: threshold_of(c, "desk", "answer"))
    rows = desk.read_now("look", lambda c: c.execute(select(outcomes)).all())
    assert moved is not None and moved > 0.5
    acted = [row.case for row in rows if row.confidence >= moved]
    assert len(acted) > 300 and sum(not truth[case] for case in acted) / len(acted) <= 0.1


def test_people_who_disagree_are_counted_as_such_and_not_as_truth(desk: Ledger) -> None:
    truth = history(desk, 2, 200)
    reviewed(desk)
    people_say(desk, truth, "Ann")
    people_say(desk, truth, "Ben", wrongly=0.3)
    found = reviewed(desk)
    assert found["unresolved"] > 5 and found["people_agree"]["pairs"] == len(drawn(desk))
    assert found["people_agree"]["value"] < 0.8
    assert found["total"]["answered"] == len(drawn(desk)) - found["unresolved"]


def test_the_worst_of_the_last_week_stand_first_though_others_were_surer(desk: Ledger, tmp_path: Path) -> None:
    truth = history(desk, 3, 100)
    rows = desk.read_now("look", lambda c: c.execute(select(outcomes).where(outcomes.c.kind == "acted")).all())
    wrong = [row for row in rows if not truth[row.case]]
    last = begins(week_of(time.time()) - 1)
    desk.write_now("complain", lambda c: [say(c, row.case, False, "Ann", label="[a](b)") for row in wrong])
    desk.write_now(
        "be sure", lambda c: c.execute(outcomes.update().where(outcomes.c.at < last).values(confidence=0.99))
    )
    mine = sorted((row for row in wrong if row.at >= last), key=lambda row: (-row.confidence, row.id))
    unsaid = outcomes.update().where(outcomes.c.id == mine.pop(0).id).values(confidence=None)
    desk.write_now("say no confidence", lambda c: c.execute(unsaid))
    reviewed(desk)
    report = (tmp_path / "reviews/review-desk.html").read_text()
    of_week = report.split("Worst of the week that ended")[1].split("<h2>")[0]
    shown = re.findall(r"Case (\d+): acted as (\w+), ([\d.]+) sure", of_week)
    assert shown == [(str(row.case), row.answer, f"{row.confidence:.2f}") for row in mine[:3]]
    assert of_week.count("<li>leant on knowledge/") == 3 and of_week.count("verdict of Ann (person): wrong") == 3
    assert "<strong>[a](b)</strong>" in of_week


def test_a_report_leads_to_runs_and_forms_and_does_without_forms_where_none_are(
    desk: Ledger, prefect_server: str, tmp_path: Path
) -> None:
    truth = history(desk, 1, 60)
    desk.write_now("name a run", lambda c: c.execute(outcomes.update().values(flow_run="r-1")))
    reviewed(desk)
    case = next(iter(drawn(desk)))[0]
    desk.write_now("complain", lambda c: [say(c, one, False, "Ann") for one in truth if one != case])
    reviewed(desk)
    texts = [artifact(prefect_server, key) for key in ("review-desk", "audits-desk")]
    assert all("/runs/flow-run/r-1)" in text and "/deployments/" not in text for text in texts)
    with deployed(prefect_server, "why", "verdict") as ids:
        reviewed(desk)
    report, asked = (artifact(prefect_server, key) for key in ("review-desk", "audits-desk"))
    worst = int(re.findall(r"Case (\d+): acted", report)[0])
    for told, number, form in ((report, worst, "verdict"), (report, worst, "why"), (asked, case, "verdict")):
        address, given = f"/deployments/deployment/{ids[form]}/run?parameters=", quote(json.dumps({"case": number}))
        assert f"{address}{given})" in told, f"no link to {form} of case {number}"


def test_the_report_and_its_files_hold_every_rate_and_no_words_of_a_customer(desk: Ledger, tmp_path: Path) -> None:
    truth = history(desk, 3, 200)
    reviewed(desk)
    people_say(desk, truth)
    desk.write_now("hostile", lambda c: c.execute(outcomes.update().values(answer="a | b\n\n# Refund all")))
    reviewed(desk)
    page, sheet = (tmp_path / "reviews" / f"review-desk.{ending}" for ending in ("html", "csv"))
    assert page.read_text().count("<h1>") == 1 and "data:image/png;base64," in page.read_text()
    assert "wrong from" in sheet.read_text().splitlines()[0]


def test_an_agent_that_never_ran_and_an_empty_window_are_named(desk: Ledger) -> None:
    with pytest.raises(BadInput, match="has ever run a tick"):
        asyncio.run(review(agent="nobody"))
    history(desk, 1, 10)
    day = name_of(week_of(time.time()))
    with pytest.raises(BadInput, match="window is empty"):
        reviewed(desk, since=day, until=day)


def test_a_review_of_nothing_answered_says_that_nothing_is_known(desk: Ledger) -> None:
    history(desk, 2, 50)
    total = reviewed(desk)["total"]
    assert total["wrong"]["value"] is None and (total["wrong"]["low"], total["wrong"]["high"]) == (0, 1)
    assert desk.read_now("look", lambda c: c.execute(select(func.count()).select_from(verdicts)).scalar()) == 0
