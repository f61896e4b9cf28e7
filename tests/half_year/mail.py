"""Half a year of a bank's mail: real questions in an assigned order, and some mail about something else."""

from __future__ import annotations

import csv
import json
import random
from collections import defaultdict
from email.message import EmailMessage
from mailbox import Maildir
from pathlib import Path
from typing import NamedTuple

from tasks.offline import UNKNOWN

WEEKS, PER_WEEK, STRANGE = 26, 370, 4
SEEDS = 5  # questions of each intent that the desk knows from the beginning
LATE, LATE_FROM = 20, 8  # intents that come up later, and the week in which they do


class Question(NamedTuple):
    """A customer's question and what it is about."""

    text: str
    intent: str


class HalfYear(NamedTuple):
    """What the desk knows at first, and what it is asked, week by week."""

    known: dict[str, list[str]]
    strange: list[str]
    """Texts that are about nothing a bank answers."""
    weeks: list[list[Question]]


def half_year(data: Path, seed: int, drift: bool, weeks: int = WEEKS, per_week: int = PER_WEEK) -> HalfYear:
    """The same mail for the same numbers. Banking77 (train) for the bank's, CLINC150 (out of scope) for the rest."""
    dice = random.Random(seed)
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as lines:
        # As a knowledge base names intents: two of the 77 have a capital letter or a question mark.
        rows = [Question(row["text"], row["category"].lower().strip("?")) for row in csv.DictReader(lines)]
    dice.shuffle(rows)
    clinc = json.loads((data / "clinc150" / "clinc150_trainval.json").read_text(encoding="utf-8"))
    known: defaultdict[str, list[str]] = defaultdict(list)
    asked: list[Question] = []
    for one in rows:
        if len(known[one.intent]) < SEEDS:
            known[one.intent].append(one.text)
        else:
            asked.append(one)
    # Anew: what comes first of the rows are the questions of common intents, the others' having become known.
    dice.shuffle(asked)
    late = set(dice.sample(sorted(known), LATE)) if drift else set()
    later = [one for one in asked if one.intent in late]
    usual = [one for one in asked if one.intent not in late]
    strange = [text for text, _ in clinc["oos_train"]]
    found = []
    for week in range(1, weeks + 1):
        new = len(later) // (weeks - week + 1) if week >= LATE_FROM else 0
        mine = [later.pop() for _ in range(new)]
        mine += [usual.pop() for _ in range(min(len(usual), per_week - STRANGE - new))]
        mine += [Question(strange.pop(), UNKNOWN) for _ in range(min(len(strange), STRANGE))]
        dice.shuffle(mine)
        found.append(mine)
    told = {intent: texts for intent, texts in sorted(known.items()) if intent not in late}
    return HalfYear(told, [text for text, _ in clinc["oos_val"]][:20], found)


def knowledge(year: HalfYear) -> str:
    """What the desk knows at first, as a knowledge base."""
    entries = [
        {"intent": intent, "title": intent, "answer": f"The approved answer about {intent}.", "examples": texts}
        for intent, texts in year.known.items()
    ]
    return json.dumps({"company": "A bank", "entries": entries, "unrelated": year.strange})


def deliver(inbox: Path, week: int, questions: list[Question]) -> dict[str, str]:
    """Put a week's mail into the inbox. What each is about, by its Message-ID."""
    box, truth = Maildir(inbox), {}
    for number, one in enumerate(questions):
        mail = EmailMessage()
        key = f"<{week}-{number}@half-year.example>"
        mail["Message-ID"], mail["From"] = key, f"c{week}-{number}@half-year.example"
        mail.set_content(one.text)
        box.add(mail)
        truth[key] = one.intent
    return truth
