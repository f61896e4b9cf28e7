"""A ledger full of settled work answers as quickly as an empty one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert

from tasks.ledger.agents import at_work, release_agent, take_agent
from tasks.ledger.arrivals import record, seen, to_finish, to_hear
from tasks.ledger.cases import begin, counts, lanes, ready, settle
from tasks.ledger.database import Ledger
from tasks.ledger.effects import confirm, dispatching, in_doubt, intend
from tasks.ledger.holders import Observer, alive, beat, leave, register
from tasks.ledger.routing import decide, undecided
from tasks.ledger.steps import store_step
from tasks.ledger.tables import cases
from tasks.process import this_process
from tasks.records import Effect, Outcome, Receipt
from tasks.report import worked_since
from tests.conftest import arrival, fill

SETTLED = 20_000
GROWING = ("cases", "markers", "steps", "attempts", "outcomes", "effects")


def whole_tables(plan: list[str]) -> list[str]:
    """Growing tables that a plan reads from end to end."""
    return [
        table
        for line in plan
        for table in GROWING
        if line.startswith((f"SCAN {table}", "SCAN other", f"Seq Scan on {table}")) and "INDEX" not in line
    ]


def test_no_query_of_a_tick_reads_what_is_settled(ledger: Ledger, tmp_path: Path) -> None:
    agent = fill(ledger, tmp_path, [])
    body = arrival(1).model_dump_json(exclude={"marker"})
    settled = [
        dict(agent="desk", source=agent.source, key=f"k{n}", thread=f"t{n}", body=body, recorded=0.0)
        | dict(skill="practice", state="settled")
        for n in range(SETTLED)
    ]
    ledger.write_now("fill", lambda c: c.execute(insert(cases), settled))
    sqlite = ledger.engine.dialect.name == "sqlite"
    if not sqlite:  # Postgres does so by itself, SQLite never
        ledger.write_now("analyse", lambda c: c.exec_driver_sql("ANALYZE"))
    read: list[str] = []

    @event.listens_for(ledger.engine, "before_cursor_execute")
    def explained(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if not statement.startswith(("SELECT", "UPDATE", "DELETE")):
            return
        if not sqlite:
            cursor.execute("SET LOCAL enable_seqscan = off")  # small tables too: is there an index at all?
        how = "EXPLAIN QUERY PLAN " if sqlite else "EXPLAIN "
        rows = cursor.execute(how + statement, parameters).fetchall()
        plan = [str(row[-1]).strip(" ->") for row in rows]
        read.extend(f"{table}: {statement}" for table in whole_tables(plan))

    holder, tick = "h" * 36, "t" * 36
    write, look = ledger.write_now, ledger.read_now
    for one in (holder, tick):
        write("register", lambda c, one=one: register(c, one, this_process(), ""))  # type: ignore[misc]
    write("look for the dead", Observer(holder).look(time.monotonic()))
    assert write("take", lambda c: take_agent(c, agent, False, holder)) == ""
    look("see", lambda c: seen(c, agent.source, ["file-1", "file-2"]))
    write("record", lambda c: record(c, "desk", agent.source, [arrival(1)]))
    (new,) = look("undecided", lambda c: undecided(c, "desk", 10))
    write("decide", lambda c: decide(c, [new.id], "practice"))
    assert look("ready", lambda c: ready(c, "desk", 10)) == [(new.id, "practice")]
    look("lanes", lambda c: lanes(c, [new.id]))
    work: Any = write("begin", lambda c: begin(c, new.id, holder, "practice", "1", ""))
    write("step", lambda c: store_step(c, work, "key", "step", b"{}", 0.1))
    reply = Effect(kind="reply", to=new.sender, body="hello")
    write("intend", lambda c: intend(c, work, "reply/1", "maildir:sent", reply))
    write("dispatch", lambda c: dispatching(c, work, "reply/1", holder, False))
    look("doubt", in_doubt)
    receipt = Receipt(channel="maildir:sent", reference="<1@x>", at=new.arrived)
    write("confirm", lambda c: confirm(c, "reply/1", holder, receipt))
    write("settle", lambda c: settle(c, work, Outcome(kind="acted"), "practice", "1", ""))
    look("signals", lambda c: to_hear(c, agent.source))
    look("finish", lambda c: to_finish(c, agent.source, 100))
    look("count", lambda c: counts(c, "desk"))
    look("table", lambda c: worked_since(c, "desk", 0.0))
    look("alive", alive)
    look("at work", lambda c: at_work(c, "desk"))
    write("beat", lambda c: beat(c, holder))
    write("release", lambda c: release_agent(c, "desk", holder))
    for one in (holder, tick):
        write("leave", lambda c, one=one: leave(c, one))  # type: ignore[misc]
    assert not read, "\n".join(read)
