"""What people see of a tick in Prefect's UI: the only file that makes artifacts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.blocks.core import Block
from sqlalchemy import Connection, Row, func, select

from tasks import story_page, waiting_page
from tasks.errors import BadInput
from tasks.figures import Figures
from tasks.home import home
from tasks.ledger.approvals import Waiting
from tasks.ledger.proposals import Proposal
from tasks.ledger.reviewed import Open, Window
from tasks.ledger.spent import Spent
from tasks.ledger.story import Line, Told
from tasks.ledger.tables import attempts, cases, effects, outcomes, steps
from tasks.links import links
from tasks.prices import NANO
from tasks.records import Agent

ROWS = 500  # more than anyone reads; the ledger has them all


def worked_since(c: Connection, agent: str, since: float) -> list[dict[str, Any]]:
    """One row for each attempt at an agent's cases that began at or after `since` (seconds since 1970), oldest first.

    Holds no subject, text or address: Prefect's database is not where customers' words belong.
    """
    found = (
        select(attempts, cases.c.state, cases.c.reason)
        .join(cases, cases.c.id == attempts.c.case)
        .where(cases.c.agent == agent, attempts.c.begun >= since)
        .order_by(attempts.c.begun)
        .limit(ROWS)
    )
    rows = c.execute(found).all()
    ids = [row.case for row in rows]
    concluded = {
        (row.case, row.fence): row for row in c.execute(select(outcomes).where(outcomes.c.case.in_(ids))).all()
    }
    counted = select(steps.c.case, steps.c.fence, func.count().label("n")).where(steps.c.case.in_(ids))
    ran = {(row.case, row.fence): row.n for row in c.execute(counted.group_by(steps.c.case, steps.c.fence)).all()}
    out = {
        row.case: f"{row.kind} {row.state}"
        for row in c.execute(select(effects).where(effects.c.case.in_(ids)).order_by(effects.c.at)).all()
    }
    table = []
    for row in rows:
        outcome = concluded.get((row.case, row.fence))
        table.append(
            {
                "case": row.case,
                "result": outcome.kind.replace("_", " ") if outcome else _unsettled(row),
                "conclusion": outcome.answer if outcome else "",
                "confidence": f"{outcome.confidence:.2f}" if outcome and outcome.confidence is not None else "",
                "effect": out.get(row.case, ""),
                "steps run": ran.get((row.case, row.fence), 0),
                "steps replayed": row.replayed,
                "seconds": f"{(row.ended or time.time()) - row.begun:.2f}",
            }
        )
    return table


def _unsettled(row: Row[Any]) -> str:
    if row.how == "sent on":
        return f"sent on {row.why.partition(':')[0]}"  # the rest are a model's words about a customer's
    return f"{row.how or 'in hand'}: {row.reason}"[:200]


async def show_tick(agent: str, rows: list[dict[str, Any]], summary: str, unreadable: list[str]) -> None:
    """Leave the tick's table on its run, and under the agent's name on the Artifacts page."""
    if rows:
        await acreate_table_artifact(key=f"tick-{agent}"[:100].rstrip("-"), table=rows, description=summary)
    if unreadable:
        lines = "\n".join(f"* {why.replace('|', '/')}" for why in unreadable[:50])
        await acreate_markdown_artifact(
            key=f"unreadable-{agent}",
            markdown=f"# Not readable\n\nLeft where they are; every tick tries again.\n\n{lines}",
        )


async def show_waiting(agent: Agent, rows: Sequence[Waiting]) -> None:
    """Leave the list of what waits for a person's word under the agent's name."""
    text = waiting_page.page(agent, rows, await links())
    await acreate_markdown_artifact(
        key=f"waiting-{agent.name}"[:100], markdown=text, description=f"{len(rows)} effect(s) of {agent.name} wait"
    )


async def show_review(
    found: Figures,
    window: Window,
    target: float,
    changes: Sequence[str],
    asked: Sequence[Open],
    worst: Sequence[Told],
    learning: Sequence[Proposal],
) -> None:
    """Leave a review's report and the list of what people shall look at, and both as files beside the ledger."""
    from tasks import review_page  # its pictures take a second to import

    drawn = review_page.pictures(found, target)
    ways = await links()
    text = review_page.markdown(found, window, target, changes, learning, drawn, worst, asked, ways)
    name = f"review-{window.agent}"
    folder = home() / "reviews"
    folder.mkdir(parents=True, exist_ok=True)
    for ending, content in (("html", review_page.page(text, name)), ("csv", review_page.sheet(found))):
        whole = folder / f".{name}.{ending}"
        whole.write_text(content, encoding="utf-8")
        whole.replace(folder / f"{name}.{ending}")  # whoever reads it never sees half of one
    where = f"\nThe same as a page and as a sheet on the worker's machine: `{folder}/{name}.html` and `.csv`.\n"
    await acreate_markdown_artifact(
        key=name[:100], markdown=text + where, description=f"How often {window.agent} was wrong, and the worst of it"
    )
    await acreate_markdown_artifact(
        key=f"audits-{window.agent}"[:100],
        markdown=review_page.to_look_at(window, asked[:ROWS], len(asked), ways),
        description=f"{len(asked)} case(s) of {window.agent} to look at",
    )


async def show_story(case: int, told: Sequence[Line]) -> None:
    """Leave the story of a case on the run that was asked for it, and under the case's name."""
    text = story_page.page(case, told, await links())
    await acreate_markdown_artifact(key=f"case-{case}", markdown=text, description=f"The story of case {case}")


async def notify(block: str, subject: str, text: str) -> None:
    """Tell people through a notification block of Prefect's, such as `slack-webhook/ops`; BadInput if there is none."""
    try:
        found: Any = await Block.aload(block)
    except (ValueError, RuntimeError) as why:
        raise BadInput(f"There is no notification block {block!r} ({why}). Make it under Blocks in the UI.") from why
    await found.notify(text, subject=subject)


async def show_spending(rows: list[Spent], days: int) -> str:
    """Leave a table of what models cost. Returns the summary that stands above it."""
    table = [
        {
            "day": f"{datetime.fromtimestamp(one.day * 86_400, UTC):%Y-%m-%d}",
            "agent": one.agent,
            "skill": f"{one.skill} {one.version}",
            "step": one.step.rpartition(".")[2],
            "model": one.model,
            "calls": one.calls,
            "tokens in": one.input_tokens,
            "tokens from cache": one.cache_read,
            "tokens out": one.output_tokens,
            "spent USD": _usd(one.spent),
            "saved by replay": _usd(one.saved_by_replay),
            "saved by cache": _usd(one.saved_by_cache),
            "wasted": _usd(one.wasted),
            "unknown, at most": _usd(one.unknown),
        }
        for one in rows[:ROWS]
    ]
    spent, replay, cache, wasted, unknown = (
        sum(getattr(one, name) for one in rows)
        for name in ("spent", "saved_by_replay", "saved_by_cache", "wasted", "unknown")
    )
    without = spent + replay + cache
    less = f", {100 * (replay + cache) / without:.0f} % less than without both" if without > 0 else ""
    summary = (
        f"{_usd(spent)} USD in {days} day(s); replays of finished steps saved {_usd(replay)}, caching "
        f"{_usd(cache)}{less}. Of what was spent {_usd(wasted)} was for answers that no step could keep; calls that "
        f"nobody knows the fate of may have cost up to {_usd(unknown)} more."
    )
    await acreate_table_artifact(key="spending", table=table, description=summary)
    return summary


def _usd(nano: int) -> str:
    return f"{nano / NANO:.4f}"
