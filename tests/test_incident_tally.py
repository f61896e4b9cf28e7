"""The counting of the second demonstration finds each thing that must not be, and its episodes are what they claim."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from deployments.episodes import NEVER, Episode, exposition, history, rules
from deployments.incident_tally import Firing, Kill, Tally, firings, tally
from deployments.invented import invented

SEEDS = range(1, 21)
NOW = 1_800_000_000.0
KILL = Kill("the tick", NOW - 30, NOW - 26)
EPISODES = invented(1)
NEEDED = [one for one in EPISODES if one.actionable]
OTHERS = [one for one in EPISODES if not one.actionable]
FIRED = [Firing(one.labels, NOW - 60, NOW - 5) for one in EPISODES]


def page(one: Episode, after: float = 4.0, **other: Any) -> dict[str, Any]:
    subject = f"[{one.severity}] {one.alert} service={one.service}"
    entry = {"at": NOW - 60 + after, "path": "/page", "key": f"key of {subject}", "number": 1, "repeats": False}
    return entry | {"body": json.dumps({"subject": subject, "body": f"see also {EPISODES[0].alert}"})} | other


def silence(one: Episode, **other: Any) -> dict[str, Any]:
    return {
        "id": f"silence of {one.alert} of {one.service}",
        "createdBy": "holdfast",
        "startsAt": stamp(NOW - 50),
        "endsAt": stamp(NOW + 1800),
        "status": {"state": "active"},
        "matchers": [
            {"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in one.labels.items()
        ],
    } | other


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def counted(requests: list[dict[str, Any]], silences: Sequence[dict[str, Any]] = (), **other: Any) -> Tally:
    known = {one["id"] for one in silences}
    given = {"episodes": EPISODES, "fired": FIRED, "requests": requests, "silences": silences, "known": known}
    return tally(**(given | {"kill": KILL, "now": NOW} | other))


ALL = [page(one) for one in NEEDED]


def test_a_good_run_is_good() -> None:
    good = counted(ALL, [silence(OTHERS[0])])
    assert good.good, good.wrong
    assert (good.paged, good.paged_twice, good.missed, good.needless_pages) == (len(NEEDED), 0, 0, 0)
    assert (good.silenced, good.silences_doubled, good.silences_left_behind) == (1, 0, 0)
    assert good.page_seconds_median == good.page_seconds_worst == 4.0


def test_a_person_who_is_called_twice_under_two_keys_is_found() -> None:
    twice = counted([*ALL, page(NEEDED[0], key="another")])
    assert (twice.paged, twice.paged_twice, twice.good) == (len(NEEDED), 1, False)


def test_a_second_call_is_allowed_only_for_what_ended_and_began_again() -> None:
    flapping = next(one for seed in SEEDS for one in invented(seed) if one.flaps)
    episodes = [flapping, *(one for one in EPISODES if one.name != flapping.name)]
    fired = [Firing(one.labels, NOW - 60, NOW - 5) for one in episodes]
    requests = [page(one) for one in episodes if one.actionable and one is not flapping]

    def with_pages(*since: str) -> Tally:
        subject = f"{flapping.alert} {flapping.service}"
        bodies = [json.dumps({"subject": subject, "body": f"Since {at}"}) for at in since]
        more = [page(flapping, key=str(number), body=body) for number, body in enumerate(bodies)]
        return counted([*requests, *more], episodes=episodes, fired=fired)

    again = with_pages("2026-01-01 00:00:01 UTC", "2026-01-01 00:00:09 UTC")
    assert (again.paged_twice, again.paged_again, again.good) == (0, 1, True), again.wrong
    twice = with_pages("2026-01-01 00:00:01 UTC", "2026-01-01 00:00:01 UTC")
    assert (twice.paged_twice, twice.paged_again, twice.good) == (1, 0, False)
    assert with_pages("now", "then").paged_twice == 1, "a page that does not say since when is no excuse"
    # What a restart of Prometheus gives a new start did not end.
    steady = next(one for one in episodes if one.actionable and not one.flaps)
    body = json.dumps({"subject": f"{steady.alert} {steady.service}", "body": "Since 2026-01-01 00:00:09 UTC"})
    other = [*requests, page(flapping), page(steady, key="other", body=body)]
    assert counted(other, episodes=episodes, fired=fired).paged_twice == 1


def test_a_request_that_repeats_its_key_calls_nobody_and_is_told() -> None:
    again = counted([*ALL, page(NEEDED[0], repeats=True)])
    assert (again.paged_twice, again.requests_repeated, again.good) == (0, 1, True)


def test_an_episode_that_nobody_was_called_for_is_found() -> None:
    missed = counted(ALL[1:])
    assert (missed.missed, missed.missed_by_judgment, missed.good) == (1, 0, False)


def test_what_the_agent_held_to_need_nobody_is_missed_and_told_apart() -> None:
    judged = counted(ALL[1:], [silence(NEEDED[0])])
    assert (judged.missed, judged.missed_by_judgment, judged.good) == (1, 1, False)
    noted = counted([*ALL[1:], page(NEEDED[0], path="/note")])
    assert (noted.missed, noted.missed_by_judgment, noted.notes, noted.good) == (1, 1, 1, False)


def test_a_needless_call_is_counted_and_breaks_no_promise() -> None:
    needless = counted([*ALL, page(OTHERS[0])])
    assert (needless.needless_pages, needless.paged, needless.good) == (1, len(NEEDED) + 1, True)


def test_a_page_that_names_no_episode_or_two_is_found() -> None:
    both = json.dumps({"subject": f"{NEEDED[0].alert} {NEEDED[0].service} {NEEDED[1].alert} {NEEDED[1].service}"})
    for body in ("not JSON", "[]", '{"subject": "something"}', both):
        assert not counted([*ALL, page(NEEDED[0], body=body)]).good, body


def test_a_silence_made_twice_is_found_also_when_one_is_expired() -> None:
    twin = silence(OTHERS[0], id="twin", status={"state": "expired"})
    twice = counted(ALL, [silence(OTHERS[0]), twin])
    assert (twice.silenced, twice.silences_doubled, twice.silences_left_behind, twice.good) == (1, 1, 0, False)


def test_the_silence_of_a_person_is_not_counted() -> None:
    assert counted(ALL, [silence(OTHERS[0], createdBy="anna")]).silenced == 0


@pytest.mark.parametrize(
    "other",
    [
        {"endsAt": stamp(NOW + 100 * 3600)},
        {"endsAt": stamp(NOW - 1)},
        {"matchers": [{"name": "severity", "value": OTHERS[0].severity, "isRegex": False, "isEqual": True}]},
        {"matchers": [{"name": "service", "value": ".*", "isRegex": True, "isEqual": True}]},
        {"matchers": [{"name": "service", "value": "nobody", "isRegex": False, "isEqual": True}]},
        {"matchers": [{"name": "service", "value": "nobody", "isRegex": False, "isEqual": False}]},
    ],
    ids=["for days", "past its end", "of a severity", "of everything", "of nothing", "of all but nothing"],
)
def test_a_silence_that_is_left_behind_is_found(other: dict[str, Any]) -> None:
    left = counted(ALL, [silence(OTHERS[0], **other)])
    assert (left.silences_left_behind, left.good) == (1, False)


def test_a_silence_that_the_agent_does_not_know_of_is_left_behind() -> None:
    left = counted(ALL, [silence(OTHERS[0])], known=set())
    assert (left.silences_left_behind, left.good) == (1, False)


def test_an_episode_that_never_fired_and_a_kill_that_never_came_make_no_good_run() -> None:
    assert not counted(ALL, fired=FIRED[1:]).good
    assert not counted(ALL, kill=None).good


def test_what_the_kill_hit_is_left_out_of_the_warm_figures_only() -> None:
    late = counted([page(NEEDED[0], 55.0), *ALL[1:]])
    assert (late.page_seconds_worst, late.warm_page_seconds_worst) == (55.0, 4.0)


def test_two_firings_of_one_alert_are_told_apart_and_a_late_evaluation_is_none() -> None:
    metric = {"__name__": "ALERTS", "alertstate": "firing", "alertname": "A", "service": "s"}
    times = [10, 11, 13.2, 14, 20, 21]
    (first, second) = firings([{"metric": metric, "values": [[at, "1"] for at in times]}])
    assert (first.began, first.ended, second.began, second.ended) == (10, 14, 20, 21)
    assert first.labels == {"alertname": "A", "service": "s"}


@pytest.mark.parametrize("seed", SEEDS)
def test_each_episode_crosses_its_threshold_long_enough_to_fire_and_none_does_before(seed: int) -> None:
    episodes = invented(seed)
    assert len({one.name for one in episodes}) == len(episodes), "two could not be told apart"
    for one in episodes:
        times = [second / 4 for second in range(400)]
        above = [at for at in times if one.value(at) > one.threshold]
        assert min(above) >= one.begins, one
        # What a scrape and an evaluation each second need beside the rule's own `for`.
        longest = longest_run(above)
        assert longest >= one.hold + 3, (one.name, longest)
        assert all(one.value(at, mended=50.0) <= one.threshold for at in times if at >= 50)
        assert one.actionable <= (one.ends == NEVER), "what needs a person does not go by itself"


def longest_run(above: list[float]) -> float:
    longest = begun = 0.0
    before = -math.inf
    for at in above:
        begun = at if at - before > 0.3 else begun
        longest, before = max(longest, at - begun), at
    return longest


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_has_what_needs_a_person_what_does_not_and_one_that_is_inhibited(seed: int) -> None:
    episodes = invented(seed)
    assert invented(seed) != invented(seed + 1)
    assert [(one.name, one.begins, one.past) for one in episodes] == [
        (one.name, one.begins, one.past) for one in invented(seed)
    ]
    assert {one.severity for one in episodes} >= {"critical", "warning", "info"}
    assert 5 <= sum(one.actionable for one in episodes) <= len(episodes) - 5
    (below,) = [one for one in episodes if one.inhibited]
    (above,) = [one for one in episodes if one.alert == "ServiceDown"]
    # Its cause is known to Alertmanager before it fires, and is there when it ends.
    assert below.service == above.service and below.begins > above.begins + 8 and below.ends < above.ends
    assert not below.actionable


def test_neither_severity_nor_past_alone_tells_what_needs_a_person() -> None:
    truths = {one.actionable for seed in SEEDS for one in invented(seed) if one.severity == "warning"}
    assert truths == {True, False}
    came_before = {
        (one.actionable, any(value > one.threshold for _, value in one.past))
        for seed in SEEDS
        for one in invented(seed)
        if one.severity == "warning" and not one.inhibited
    }
    assert len(came_before) == 4, "its past alone tells, too"


def test_prometheus_gets_one_rule_for_an_alert_and_all_of_a_metric_together() -> None:
    episodes = invented(2)
    assert len(rules(episodes)) == len({one.alert for one in episodes})
    other = episodes[0]._replace(service="another", threshold=episodes[0].threshold * 2)
    split = rules([*episodes, other])
    assert len(split) == len(rules(episodes)) + 1
    assert any('{service=~"another"}' in one["expr"] for one in split)
    for text in (exposition(episodes, 3.0), history(episodes, NOW)):
        families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(families) == len(set(families))
    assert history(episodes, NOW).endswith("# EOF\n")
