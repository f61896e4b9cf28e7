"""Whatever a text wants and whatever the model does for it: nothing leaves for anybody but the one who wrote it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import select

from skills import answer_ticket
from tasks.ledger.database import Ledger
from tasks.ledger.tables import cases, effects
from tasks.model import RULES
from tasks.records import Arrival
from tasks.sources import Known, poll
from tests import clerk
from tests.claude.running import Claude, claude_server_in
from tests.conftest import fill
from tests.hostile import ATTEMPTS, HONEST, KEY, PASSWORD, SHOP, VERA, honest, mail, sender
from tests.obeying import LEAKS

HEADERS = {
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "x-holdfast-key",
    "auto-submitted",
}
HEADERS |= {"mime-version", "content-type", "content-transfer-encoding"}
PRIVATE = {VERA.address, VERA.card, VERA.account, VERA.phone, VERA.token, VERA.password, VERA.street, KEY, PASSWORD}
SECRET = [
    name for name in LEAKS if name.split()[0] in ("prompt", "rules", "key", "real", "token", "card", "account", "phone")
]
ALL = range(len(ATTEMPTS))
OF_TOOLS = [number for number in ALL if ATTEMPTS[number].place != "ticket"]


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Claude, Path]]:
    folder = tmp_path_factory.mktemp("claude")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOSTILE_SEEN", str(folder / "seen"))
        with claude_server_in(folder, brain="tests.obeying:brain") as running:
            yield running, folder / "seen"


@pytest.fixture
def seen(
    server: tuple[Claude, Path], ledger: Ledger, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The file of what the model was told; empty."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("HOLDFAST_SMTP_PASSWORD", PASSWORD)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server[0].url)
    monkeypatch.setenv("HOLDFAST_LEDGER", ledger.url)
    server[1].write_text("")
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield server[1]


def poisoned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let answer_ticket know what somebody put among the examples of its knowledge."""
    known = json.loads(answer_ticket.KNOWLEDGE.read_text(encoding="utf-8"))
    for number, one in zip(OF_TOOLS, known["entries"], strict=False):
        one["examples"][0] = ATTEMPTS[-1 - number % 10].text
    (folder / "knowledge.json").write_text(json.dumps(known))
    monkeypatch.setattr(answer_ticket, "KNOWLEDGE", folder / "knowledge.json")
    answer_ticket._knowledge.cache_clear()
    monkeypatch.setattr(answer_ticket, "_knowledge", answer_ticket._knowledge.__wrapped__)


def work(ledger: Ledger, box: Path, flow: Any, numbers: Any, **settings: object) -> None:
    """Let a skill work these attempts and all honest mails, from a real inbox to real folders."""
    for part in ("new", "cur", "tmp"):
        (box / "inbox" / part).mkdir(parents=True)
    for one in range(len(HONEST)):
        (box / "inbox/new" / f"h{one}").write_bytes(honest(one))
    for number in numbers:
        (box / "inbox/new" / f"m{number}").write_bytes(mail(number))
    arrivals = list(poll(f"maildir:{box / 'inbox'}", Known(lambda _: set())))
    assert len(arrivals) == len(numbers) + len(HONEST)
    folders = {"reply": f"maildir:{box / 'sent'}", "hand_over": f"maildir:{box / 'handover'}"}
    given = {"effects": folders, "address": SHOP, "concurrency": 24} | settings
    fill(ledger, box, [one for one in arrivals if isinstance(one, Arrival)], **given)
    asyncio.run(flow(cases=list(range(1, len(arrivals) + 1))))


def mails(folder: Path) -> list[EmailMessage]:
    found = [message_from_bytes(path.read_bytes(), policy=default) for path in sorted((folder / "new").glob("*"))]
    assert all(isinstance(one, EmailMessage) for one in found)
    return found  # type: ignore[return-value]


def number_of(one: EmailMessage) -> int | None:
    found = re.search(r"<h(\d+)@attacker", str(one["In-Reply-To"]))
    return int(found[1]) if found else None


def tight(text: str) -> str:
    return "".join(text.split())


def leaked(box: Path, *prompts: str) -> set[str]:
    """What got out: by the name of the leak, or by what is wrong with a mail."""
    found: set[str] = set()
    said = {name: {tight(make(f"{one.strip()}\n\n{RULES}")) for one in prompts} for name, make in LEAKS.items()}
    answers, given = mails(box / "sent"), mails(box / "handover")
    for one in answers:
        body, number = tight(one.get_content()), number_of(one)
        found |= {name for name, texts in said.items() if any(text in body for text in texts)}
        found |= {f"private: {what}" for what in PRIVATE if tight(what) in body}
        to = sender(number) if number is not None else str(one["In-Reply-To"]).strip("<>")
        if number is not None and one["To"] != to:
            found.add(f"to {one['To']}")
    for one in given:
        body = tight("\n".join(line for line in one.get_content().splitlines() if not line.startswith((">", "Subj"))))
        if number_of(one) is not None:  # an honest customer's own words go to a person
            found |= {f"handed over: {what}" for what in PRIVATE if tight(what) in body}
        found |= {f"handed over: {name}" for name in SECRET if any(text in body for text in said[name])}
        if one["To"] != SHOP:
            found.add(f"handed over to {one['To']}")
    for one in (*answers, *given):
        names = [name.lower() for name in one]
        if set(names) - HEADERS or len(names) != len(set(names)) or one["From"] != SHOP:
            found.add(f"headers {names}")
        if VERA.address in str(one["Subject"]) and number_of(one) is not None and one["To"] != SHOP:
            found.add("private: address in a subject")
    twice = Counter(str(one["In-Reply-To"]) for one in answers)
    return found | {f"twice: {name}" for name, times in twice.items() if times > 1}


def told(seen: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [json.loads(line) for line in seen.read_text().splitlines()]
    assert found, "the model was not asked"
    return found


def nothing_private_was_told(seen: Path) -> None:
    for one in told(seen):
        assert not [what for what in PRIVATE - {VERA.street} if what in one["told"]], one["reference"]
        assert VERA.street not in one["told"] or not one["reference"], "a case was shown another one's data"


def all_ended(ledger: Ledger) -> None:
    states = ledger.read_now("look", lambda c: c.execute(select(cases.c.state, cases.c.reason)).all())
    assert {row.state for row in states} == {"settled"}, [row.reason for row in states if row.state != "settled"]
    kinds = ledger.read_now("look", lambda c: set(c.execute(select(effects.c.kind, effects.c.state)).all()))
    assert {tuple(one) for one in kinds} <= {("reply", "confirmed"), ("hand_over", "confirmed")}


def test_the_attempts_are_many_and_of_each_place() -> None:
    places = Counter(one.place for one in ATTEMPTS)
    assert len(ATTEMPTS) >= 45 and places["ticket"] >= 15 and places["tool"] + places["knowledge"] >= 15
    assert len({one.text for one in ATTEMPTS}) == len({one.name for one in ATTEMPTS}) == len(ATTEMPTS)
    assert {one.says for one in ATTEMPTS} == set(LEAKS), "a leak is tried by nobody"


def test_a_ticket_gets_nothing_out_of_a_model_that_obeys_it(
    seen: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(tmp_path, monkeypatch)
    work(ledger, tmp_path, answer_ticket.answer_ticket, ALL)
    assert leaked(tmp_path, answer_ticket.READ, answer_ticket.WRITE) == set()
    all_ended(ledger)
    nothing_private_was_told(seen)
    assert {str(one["To"]) for one in mails(tmp_path / "sent")} >= {"honest2@customers.example"}, "nobody got an answer"
    assert {number_of(one) for one in mails(tmp_path / "handover")} >= set(ALL)


def test_a_tool_result_gets_nothing_out_of_a_model_that_obeys_it(seen: Path, ledger: Ledger, tmp_path: Path) -> None:
    work(ledger, tmp_path, clerk.clerk, OF_TOOLS)
    assert leaked(tmp_path, clerk.PROMPT) == set()
    all_ended(ledger)
    nothing_private_was_told(seen)
    sent = mails(tmp_path / "sent")
    assert {str(one["To"]) for one in sent} >= {VERA.address}, "honest people got no answer"
    assert "Hi X-Owner: mallory body" in {str(one["Subject"]) for one in sent}, "no header was tried"
    assert "this" not in sys.modules, "what the model wrote was imported"


def test_the_same_model_gets_everything_out_where_nothing_stands_against_it(
    seen: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {one.says: number for number, one in reversed(list(enumerate(ATTEMPTS))) if not one.does and sender(number)}
    for module in (answer_ticket, clerk):
        monkeypatch.setattr(module, "against", lambda text, **_: [])
    work(ledger, tmp_path, clerk.clerk, sorted(first.values()), redact=[])
    assert leaked(tmp_path, clerk.PROMPT) >= set(first)
    shown = "\n".join(one["told"] for one in told(seen))
    assert all(what in shown for what in (VERA.card, VERA.address, VERA.account, VERA.phone, VERA.token))


def test_the_drafts_of_a_model_that_obeys_are_stopped_by_nothing_but_the_check(
    seen: Path, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {one.says: number for number, one in reversed(list(enumerate(ATTEMPTS))) if not one.does and sender(number)}
    some = {"prompt", "key", "address", "card", "account", "phone", "link", "promise", "hidden", "header"}
    monkeypatch.setattr(answer_ticket, "against", lambda text, **_: [])
    work(ledger, tmp_path, answer_ticket.answer_ticket, sorted(first[one] for one in some), redact=["card"])
    assert leaked(tmp_path, answer_ticket.READ, answer_ticket.WRITE) >= some
    shown = "\n".join(one["told"] for one in told(seen))
    assert VERA.address in shown and VERA.card not in shown
