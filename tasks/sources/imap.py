"""Tickets from an IMAP folder: each mail is taken by one installation, and marked only once its case is settled."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import Field

from tasks.errors import BadInput
from tasks.mailbox import Entry, Folder, Mailbox, opened, read_folder, sign_in
from tasks.records import Arrival, Note, Record, Unreadable
from tasks.sources import Known
from tasks.sources.mail import parse

ACCOUNT = "HOLDFAST_IMAP"
DONE = "$AgentDone"
CLAIM = "$Holdfast-"  # and the name of the installation, which its ledger keeps
CLAIMED = re.compile(r"\$holdfast-[0-9a-f]{8}")
CHUNK = 500  # mails asked about at once, so that a large folder costs few queries
LIMIT = 64 * 1024 * 1024  # bytes: more than any mail server takes, less than what a machine runs out of
TRIES = 4  # to claim a mail that a person's program marks at the same moment
log = logging.getLogger("holdfast.sources.imap")


class Begun(Record):
    """What lay in the folder when it was first looked at."""

    validity: int
    uid: int = Field(description="Of the last mail, while mails keep their numbers.")
    arrived: float = Field(description="Of the newest mail, when the folder was numbered anew since.")

    def has(self, box: Mailbox, one: Entry) -> bool:
        """Whether this mail was among it."""
        return one.uid <= self.uid if box.validity == self.validity else one.arrived <= self.arrived

    def later(self, box: Mailbox) -> tuple[str, str]:
        """The words of IMAP for what came later, or a little more than that."""
        if box.validity == self.validity:
            return "UID", f"{self.uid + 1}:*"
        # Days have the server's time zone.
        day = datetime.fromtimestamp(max(self.arrived, 86400.0), UTC) - timedelta(days=1)
        return "SINCE", f"{day:%d-%b-%Y}"


def canonical(url: str) -> str:
    """The URL with its port and folder."""
    return read_folder(url).url


def poll(url: str, known: Known) -> Iterator[Arrival | Unreadable | Note]:
    """Mails that were not recorded before, in order of arrival; one mail is in memory at a time.

    The first poll takes nothing. It names the installation and notes which mail was the newest: both must be in the
    ledger before anything in the folder is claimed, or a kill would leave claims that nobody knows for their own.
    What people had read by then is history and stays theirs; what comes later is worked whoever looks at it first.
    """
    folder, notes = read_folder(url), known.recall("")
    name = notes.get("name")
    begun = Begun.model_validate(notes["begun"]) if "begun" in notes else None
    with opened(folder, sign_in(ACCOUNT), to_write=True) as box:
        if not isinstance(name, str) or begun is None:
            yield Note(name="begun", value=_begun(box).model_dump())
            yield Note(name="name", value=secrets.token_hex(4))
            return
        _say_what_it_lacks(folder, box)
        waiting = box.search("UNDELETED", "UNKEYWORD", DONE, "OR", "UNSEEN", *begun.later(box))
        for start in range(0, len(waiting), CHUNK):
            markers = {_marker(box, uid): uid for uid in waiting[start : start + CHUNK]}
            fresh = sorted(markers[one] for one in markers.keys() - known.seen(list(markers)))
            for one in box.entries(fresh):
                if r"\seen" in one.flags and begun.has(box, one):
                    continue
                marker = _marker(box, one.uid)
                if one.size > LIMIT:
                    yield Unreadable(
                        marker=marker, why=f"It has {one.size} bytes, more than {LIMIT}. Take it out of the folder."
                    )
                    continue
                try:
                    raw = box.text(one.uid, LIMIT) if _claimed(box, one, f"{CLAIM}{name}") else None
                except BadInput as why:
                    yield Unreadable(marker=marker, why=f"{why}. Mend it, or take it out of the folder.")
                    continue
                if raw is not None:
                    yield parse(raw, marker, one.arrived)


def look(url: str) -> str:
    """How many mails lie there, and what the server can not do."""
    with opened(read_folder(url), sign_in(ACCOUNT), to_write=False) as box:
        number, lacks = len(box.search("ALL")), "" if box.counts_changes else ", no CONDSTORE"
    return f"{number} mail(s){lacks}"


def finish(url: str, markers: Sequence[str]) -> None:
    """Mark mails as read and done; those of a folder that was numbered anew are known by their Message-ID later."""
    with opened(read_folder(url), sign_in(ACCOUNT), to_write=True) as box:
        numbers = [one.partition("/") for one in markers]
        uids = [int(uid) for validity, _, uid in numbers if validity == str(box.validity) and uid.isdigit()]
        if uids:
            box.mark(uids, rf"\Seen {DONE}" if box.keeps_keywords else r"\Seen")


def _begun(box: Mailbox) -> Begun:
    uids, newest = box.search("ALL"), 0.0
    for start in range(0, len(uids), CHUNK):  # the last one may have been copied here and be old
        newest = max(newest, *(one.arrived for one in box.entries(uids[start : start + CHUNK])), 0.0)
    return Begun(validity=box.validity, uid=uids[-1] if uids else 0, arrived=min(newest, time.time()))


def _marker(box: Mailbox, uid: int) -> str:
    return f"{box.validity}/{uid}"


def _claimed(box: Mailbox, one: Entry, mine: str) -> bool:
    """Whether this mail is ours: the only one whose name stands on it.

    The name is written on condition that nothing changed since it was seen to be free. Where the server can not do
    that, two may write at once: whoever then reads another name beside his takes his back and tries at the next poll.
    """
    for _ in range(TRIES):
        names = {flag for flag in one.flags if CLAIMED.fullmatch(flag)}
        if names - {mine.lower()} or DONE.lower() in one.flags:
            if mine.lower() in names:
                box.unmark(one.uid, mine)
            return False
        if names or not box.keeps_keywords:
            return True
        box.mark_unchanged(one, mine)
        if not (now := box.entries([one.uid])):
            return False  # it is gone
        one = now[0]
    return False


def _say_what_it_lacks(folder: Folder, box: Mailbox) -> None:
    if not box.keeps_keywords:
        log.warning(
            "%s keeps no keywords: mails can not be claimed, so this must be the only installation that works them.",
            folder.url,
        )
    elif not box.counts_changes:
        log.warning(
            "%s has no CONDSTORE: two installations are kept apart only as far as each sees at once what the other "
            "marked.",
            folder.url,
        )
