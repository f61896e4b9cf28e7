"""A review as people read it: a report in Markdown, the same as a page that needs no server, and a sheet."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from markdown_it import MarkdownIt

from tasks import proposal_page, story_page
from tasks.charts import Point, bars, inline, over_time, reliability
from tasks.figures import MINUTES, Figures, Line, Week
from tasks.ledger.proposals import Proposal
from tasks.ledger.reviewed import WEEK, Open, Window, Wrong, name_of, week_of
from tasks.ledger.story import Told
from tasks.links import Links, literally, table
from tasks.statistics import Share

SHOWN = 15  # rows of a table that has one for each intent
STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --paper: #ffffff; --line: #d9dce3 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ee; --paper: #14161b; --line: #3a3f4b } }
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; max-width: 68rem;
       margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; white-space: nowrap }
img { max-width: 100%; background: #ffffff; border-radius: 6px; margin: .4rem 0 }
"""


def percent(share: Share) -> str:
    """A share with its interval and what it is a share of."""
    if share.value is None:
        return "not known"
    if share.low == share.high:
        return f"{share.value:.1%} of {share.of:,}"
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}; {share.audited:,} of {share.of:,} looked at)"


def pictures(found: Figures, target: float) -> dict[str, bytes]:
    """The charts of a review, by name."""
    weeks = found.weeks
    return {
        "wrong by week": over_time(
            [_point(one.week, one.wrong) for one in weeks], "Wrong, of what was acted on (95 % interval)", target
        ),
        "coverage by week": over_time([_point(one.week, one.coverage) for one in weeks], "Acted on, of all cases"),
        "confidence and truth": reliability(
            [_point(f"{middle}", share) for middle, share in found.reliability], "How often a confidence is right"
        ),
        "cases by week": bars([(one.week[5:], one.outcomes) for one in weeks], "Cases by week", "cases"),
    }


def _point(at: str, share: Share) -> Point:
    return Point(at[5:] if at.count("-") == 2 else at, share.value, share.low, share.high)


def markdown(
    found: Figures,
    window: Window,
    target: float,
    changes: Sequence[str],
    learning: Sequence[Proposal],
    drawn: dict[str, bytes],
    worst: Sequence[Told],
    asked: Sequence[Open],
    links: Links,
) -> str:
    """The report; `worst` are those of the window's last week, `asked` what people shall look at."""
    total = found.total
    parts = [
        f"# Review of {window.agent}, {name_of(week_of(window.since))} to {_day(window.until)}",
        _summary(total, target),
        *(["## What changed", *(f"- {one}" for one in changes)] if changes else []),
        f"## Worst of the week that ended, {_day(window.until - WEEK)} to {_day(window.until - 1)}",
        _of_the_week(worst, window, asked, links),
        *proposal_page.parts(learning),
        "## By week",
        inline(drawn["wrong by week"], "wrong by week"),
        inline(drawn["coverage by week"], "coverage by week"),
        table(
            ("week", "cases", "acted", "coverage", "wrong of acted", "asked", "answered"),
            [_of_week(one) for one in found.weeks],
        ),
        "## Worst of all these weeks",
        _worst(found.worst, links),
        "## By skill, version and intent",
        table(
            ("", "cases", "acted", "wrong of acted", "false-positive rate", "recall", "escalated", "USD per right one"),
            [_of_line(total), *(_of_line(one) for one in _shown(found.lines))],
        ),
        *([_steps(found)] if found.steps else []),
        "## Can the confidence be believed?",
        inline(drawn["confidence and truth"], "confidence and truth")
        if any(share.value is not None for _, share in found.reliability)
        else "Nobody has looked at a case yet.",
        "## How this was counted",
        _counted(found),
    ]
    return "\n\n".join(parts) + "\n"


def to_look_at(window: Window, asked: Sequence[Open], of: int, links: Links) -> str:
    """The cases that people are asked about. Not a table of Prefect's: one of its UIs shows no links in those."""
    rows = [
        (
            links.run(str(one.case), one.flow_run),
            links.judge(one.case),
            links.ask_why(one.case),
            one.kind.replace("_", " "),
            literally(one.answer),
            "" if one.confidence is None else f"{one.confidence:.2f}",
            one.period,
            literally(one.because),
            f"{one.skill} {one.version}",
        )
        for one in asked
    ]
    names = ("case and run", "verdict", "its story", "it", "conclusion", "sure", "week of", "because of", "skill")
    told = (
        f"{of} case(s) to look at{'' if of == len(asked) else f', the first {len(asked)} here'}. Was acting on the "
        "conclusion right or, where nothing was done, would it have been? Say so in the form `verdict`, or with "
        "`python -m deployments verdict CASE --right` or `--wrong`; `python -m deployments why CASE` tells all of it."
    )
    return f"# What to look at: {window.agent}\n\n{told}\n\n{table(names, rows)}\n"


def page(text: str, title: str) -> str:
    """Markdown as one HTML file that needs nothing else."""
    body = MarkdownIt("commonmark").enable("table").render(text)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def sheet(found: Figures) -> str:
    """Every line as CSV, each rate with the ends of its interval and its numbers."""
    rows = []
    for one in [found.total, *found.lines]:
        row: dict[str, object] = {}
        for name, value in one._asdict().items():
            if isinstance(value, Share):
                row |= {name: value.value, f"{name} from": value.low, f"{name} to": value.high}
                row |= {f"{name} audited": value.audited, f"{name} of": value.of}
            else:
                row[name.replace("_", " ")] = value
        rows.append(row)
    return str(pd.DataFrame(rows).to_csv(index=False))


def _summary(total: Line, target: float) -> str:
    kept = (
        "Nothing was looked at yet."
        if total.wrong.value is None
        else f"The target is at most {target:.0%}: "
        + (
            "kept, beyond chance."
            if total.wrong.high <= target
            else "missed, beyond chance."
            if total.wrong.low > target
            else "within what chance allows."
        )
    )
    saved = f"; {total.hours_saved:.0f} hours of people's time saved (assumed: {MINUTES:.0f} minutes a right case)"
    return (
        f"**Wrong of what it acted on: {percent(total.wrong)}.** {kept} It acted on {total.coverage.value or 0:.0%} of "
        f"{total.outcomes:,} cases and handed {total.escalation.value or 0:.0%} over"
        f"{'' if total.wrong.value is None else saved}. Models cost {total.usd:.2f} USD."
    )


def _of_week(one: Week) -> tuple[str, ...]:
    return (
        one.week,
        f"{one.outcomes:,}",
        f"{one.acted:,}",
        f"{one.coverage.value or 0:.0%}",
        percent(one.wrong),
        str(one.asked),
        str(one.answered),
    )


def _shown(lines: Sequence[Line]) -> list[Line]:
    whole = [one for one in lines if not one.answer]
    by_intent = sorted((one for one in lines if one.answer), key=lambda one: (-(one.wrong.value or 0), -one.outcomes))
    return whole + by_intent[:SHOWN]


def _of_line(one: Line) -> tuple[str, ...]:
    name = " ".join(filter(None, (one.skill, one.version and f"version {one.version}", literally(one.answer)))) or "all"
    cost = "" if one.usd_per_right is None else f"{one.usd_per_right:.4f}"
    rates = (percent(one.wrong), percent(one.false_positives), percent(one.recall))
    return name, f"{one.outcomes:,}", f"{one.acted:,}", *rates, f"{one.escalation.value or 0:.0%}", cost


def _of_the_week(worst: Sequence[Told], window: Window, asked: Sequence[Open], links: Links) -> str:
    newest = sum(one.period == name_of(week_of(window.until - 1)) for one in asked)
    where = links.artifact(f"audits-{window.agent}")
    wait = (
        f"{newest} of its drawn cases and {len(asked) - newest} of weeks before were not looked at yet: see {where}."
        if asked
        else "All that was drawn was looked at."
    )
    return f"{story_page.worst(worst, links) or 'Nobody has found a wrong one in it.'}\n\n{wait}"


def _worst(worst: Sequence[Wrong], links: Links) -> str:
    if not worst:
        return "Nobody found a wrong one in this window."
    rows = [
        (
            links.run(str(one.case), one.flow_run),
            literally(one.answer),
            "" if one.confidence is None else f"{one.confidence:.2f}",
            literally(one.label) or "not said",
            story_page.says(one.source),
            literally(one.because),
            links.ask_why(one.case),
            links.judge(one.case),
        )
        for one in worst
    ]
    return table(("case and run", "acted as", "sure", "should be", "says", "because of", "its story", "verdict"), rows)


def _steps(found: Figures) -> str:
    rows = []
    for one in found.steps:
        known = one.wrong.value is not None
        said = f"{one.wrong.value:+.1%} ({one.wrong.low:+.1%} to {one.wrong.high:+.1%})" if known else "not known"
        rows.append((one.skill, f"{one.before} to {one.now}", said))
    return table(("skill", "version", "change of what is wrong of acted, in percentage points"), rows)


def _counted(found: Figures) -> str:
    agree = [f"judge and people: {_kappa(found, False)}", f"people among themselves: {_kappa(found, True)}"]
    return (
        "Positive is a case that the agent acted on. *Wrong of acted* is the false-discovery rate, FP / (FP + TP); the "
        "*false-positive rate* is FP / (FP + TN): of all cases on which acting is wrong, those that it acted on. "
        "*Recall* is TP / (TP + FN). Each rate speaks for the cases that a plan drew from, weighted by the chance with "
        "which each was drawn, with a 95 % interval. Only people's verdicts on drawn cases count; "
        f"{found.unresolved} of them disagree and count for nothing. Agreement (kappa): {'; '.join(agree)}"
    )


def _kappa(found: Figures, people: bool) -> str:
    one = found.people_agree if people else found.judge_agrees
    return "not known" if one is None else f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f}, {one.pairs} pairs)"


def _day(moment: float) -> str:
    return f"{pd.Timestamp(moment, unit='s', tz='UTC'):%Y-%m-%d}"
