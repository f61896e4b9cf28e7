"""The 47 tickets through real IMAP and SMTP servers, killed in the middle, counted in the customers' own mailboxes."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from email.utils import parseaddr
from pathlib import Path

import pytest
from aiosmtpd.smtp import Envelope
from sqlalchemy import select

from deployments.tally import HANDED_FROM
from deployments.tickets import tickets
from tasks.ledger.database import Ledger, migrate
from tasks.ledger.tables import cases, effects, markers
from tests import forked
from tests.conftest import wait_for
from tests.installation import living
from tests.postoffice import PASSWORD, PostOffice, post_office, renumber

SUPPORT, ARCHIVE, PEOPLE = "support@example.com", "archive@example.com", "people@example.com"
DONE = {r"\Seen", "$AgentDone"}


class Desk:
    """The support agent on a real mailbox with the 47 tickets in it."""

    def __init__(self, office: PostOffice, ledger: Ledger, box: Path, api: str, seed: int, fill: bool = True) -> None:
        self.office, self.ledger, self.output = office, ledger, box / "output"
        raw = tickets(seed)
        self.tickets: list[EmailMessage] = [BytesParser(policy=default).parsebytes(one) for one in raw]  # type: ignore[misc]
        self.customers = {parseaddr(str(one["From"]))[1] for one in self.tickets}
        channel = f"{office.smtp()}?archive={office.imap()}&archive_to={ARCHIVE}&wait=2"
        agent = {
            "source": office.imap(),
            "effects": {"reply": channel, "hand_over": channel.replace("?", f"?to={PEOPLE}&")},
            "address": SUPPORT,
        }
        accounts = {"IMAP": SUPPORT, "SMTP": SUPPORT, "ARCHIVE": ARCHIVE}
        self.env = {
            **os.environ,
            "HOLDFAST_HOME": str(box),
            "HOLDFAST_LEDGER": ledger.url,
            "HOLDFAST_MAIL_CA": office.ca,
            **{f"HOLDFAST_{name}_USER": user for name, user in accounts.items()},
            **{f"HOLDFAST_{name}_PASSWORD": PASSWORD for name in accounts},
            "AGENT": json.dumps(agent),
            "PRACTICE_LOG": str(box / "log"),
            "PREFECT_API_URL": api,
            "PREFECT_HOME": str(box / "prefect"),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "DO_NOT_TRACK": "1",
        }
        self.tick()  # which only introduces itself
        for number, one in enumerate(raw if fill else ()):
            office.deliver(one, [SUPPORT], parseaddr(str(self.tickets[number]["From"]))[1])

    def start(self, doorway: str = "") -> forked.Forked:
        with self.output.open("a") as output:
            return forked.start("tests.one_tick", env=self.env | {"DOORWAY": doorway}, output=output)

    def tick(self) -> None:
        assert self.start().wait(150) == 0, self.output.read_text()[-3000:]

    def left(self) -> list[str]:
        found = select(cases.c.state, cases.c.reason).where(cases.c.state != "settled")
        return [f"{row.state}: {row.reason}" for row in self.ledger.read_now("look", lambda c: c.execute(found).all())]

    def finish(self) -> None:
        """Let ticks follow until there is nothing to do any more."""

        def settled() -> bool:
            self.tick()
            return not self.left()

        wait_for(settled, 150, "the end")
        self.tick()

    def out(self) -> Counter[str]:
        """How many mails each ticket got, to its customer's mailbox or to the people who take over."""
        got = Counter(_answers(mail) for who in self.customers for mail in self.office.mails(who))
        return got + Counter(_answers(mail) for mail in self.office.mails(PEOPLE))

    def judge(self) -> None:
        wanted = {str(one["Message-ID"] or parseaddr(str(one["From"]))[1]): 1 for one in self.tickets}
        assert self.out() == wanted, "lost, answered twice, or answered to nobody"
        answered = sum(len(self.office.mails(who)) for who in self.customers)
        assert answered > 20 and answered + len(self.office.mails(PEOPLE)) == 47
        states = self.ledger.read_now("look", lambda c: set(c.execute(select(effects.c.state)).scalars()))
        assert states <= {"confirmed"} and self.left() == []
        assert [flags >= DONE for flags in self.office.flags(SUPPORT).values()] == [True] * 47

    def marked_before_settled(self) -> set[str]:
        """Mails that show as read although nothing was settled."""
        found = select(markers.c.marker).join(cases, cases.c.id == markers.c.case).where(cases.c.state == "settled")
        settled = self.ledger.read_now("look", lambda c: set(c.execute(found).scalars()))
        uids = {int(one.partition("/")[2]) for one in settled}
        return {str(uid) for uid, flags in self.office.flags(SUPPORT).items() if flags & DONE and uid not in uids}


def _answers(mail: EmailMessage) -> str:
    if named := str(mail["In-Reply-To"] or "").strip():
        return named
    handed = HANDED_FROM.search(mail.get_content())
    return handed.group(1) if handed else parseaddr(str(mail["To"]))[1]


@pytest.fixture
def office() -> Iterator[PostOffice]:
    """A post office of its own for each test: all of them write to the same customers."""
    with post_office() as office:
        yield office


KILLS = [
    (1, "taken"),
    (2, "delivered"),
    (3, "before:send"),
    (4, "after:send"),
    (5, "inside:settle"),
    (6, "before:record"),
    (7, "before:remember what is finished"),
]


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    ("ledger_url", "seed", "where"),
    [("sqlite", *one) for one in KILLS] + [("postgres", *one) for one in KILLS[:1]],
    indirect=["ledger_url"],
)
def test_an_agent_killed_on_a_real_mailbox_answers_each_ticket_once(
    office: PostOffice, ledger: Ledger, tmp_path: Path, prefect_server: str, seed: int, where: str
) -> None:
    desk = Desk(office, ledger, tmp_path, prefect_server, seed)
    side, _, name = where.partition(":")
    number = 1 if name.startswith(("rec", "rem")) else random.Random(seed).randint(5, 30)
    running = desk.start(f"{where}:{number}" if name else "")
    taken = Counter[str]()

    def kill(doorway: str, envelope: Envelope) -> None:
        taken[doorway] += 1
        if doorway == side and taken[doorway] == number:
            os.kill(running.pid, signal.SIGKILL)
            wait_for(lambda: not living(running.pid), 20, "the death")  # the server says nothing before it

    office.heard = kill
    assert running.wait(150) == -signal.SIGKILL, desk.output.read_text()[-3000:]
    assert desk.marked_before_settled() == set()
    desk.finish()
    assert desk.marked_before_settled() == set()
    desk.judge()


@pytest.mark.timeout(500)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_a_line_that_is_cut_and_a_mailbox_that_is_numbered_anew_cost_no_answer_and_double_none(
    office: PostOffice, ledger: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    desk = Desk(office, ledger, tmp_path, prefect_server, seed=8)
    taken = Counter[str]()

    def cut(doorway: str, envelope: Envelope) -> None:
        taken[doorway] += 1
        if (doorway, taken[doorway]) in {("taken", 3), ("delivered", 9)}:
            raise ConnectionAbortedError

    office.heard = cut
    desk.finish()
    assert taken["taken"] >= 9
    desk.judge()
    with office.opened(SUPPORT) as client:  # a backup from before anything was settled
        client.uid("STORE", "1:*", "-FLAGS", r"(\Seen $AgentDone)")
    renumber(office, SUPPORT)
    assert not any(flags & DONE for flags in office.flags(SUPPORT).values())
    desk.tick()
    desk.judge()


@pytest.mark.timeout(500)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_two_installations_on_one_mailbox_answer_each_ticket_once(
    office: PostOffice, ledger: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    other = Ledger(f"sqlite:///{tmp_path / 'other.db'}")
    migrate(other)
    (tmp_path / "there").mkdir()
    there = Desk(office, other, tmp_path / "there", prefect_server, seed=10, fill=False)
    here = Desk(office, ledger, tmp_path, prefect_server, seed=10)
    both = [here.start(), there.start()]
    assert [one.wait(150) for one in both] == [0, 0], here.output.read_text() + there.output.read_text()
    here.finish()
    there.finish()
    here.judge()
    worked = [one.read_now("count", lambda c: len(c.execute(select(cases.c.id)).all())) for one in (ledger, other)]
    other.close()
    assert sum(worked) == 47


@pytest.mark.timeout(500)
@pytest.mark.parametrize("ledger_url", ["sqlite"], indirect=True)
def test_bounces_and_robots_are_read_and_get_no_answer(
    office: PostOffice, ledger: Ledger, tmp_path: Path, prefect_server: str
) -> None:
    desk = Desk(office, ledger, tmp_path, prefect_server, seed=9, fill=False)
    report = b"Content-Type: multipart/report; boundary=x\r\nSubject: Undelivered: cancel my order"
    for number, header in enumerate((b"Auto-Submitted: auto-replied", b"List-Id: <x>", b"X-Loop: a", report)):
        raw = b"From: robot@example.net\r\nMessage-ID: <%d@x>\r\n%b\r\n\r\ncancel my order 61402\r\n" % (number, header)
        office.deliver(raw, [SUPPORT], "robot@example.net")
    office.deliver(b"From: robot@example.net\r\n\r\ncancel my order 61402\r\n", [SUPPORT])  # from nobody, as bounces
    desk.tick()
    assert office.mails("robot@example.net") == office.mails(PEOPLE) == office.mails(ARCHIVE) == []
    assert [flags >= DONE for flags in office.flags(SUPPORT).values()] == [True] * 5
