"""How far the embedded model can be trusted, measured on real customers' questions that it has not seen."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from tasks.offline import Example, Memory, train  # noqa: E402

TARGETS = (0.01, 0.03, 0.05, 0.08)
# fmt: off
ABOUT_MONEY = frozenset({
    "transfer", "transactions", "balance", "freeze_account", "pay_bill", "bill_balance", "bill_due", "interest_rate",
    "routing", "min_payment", "order_checks", "pin_change", "report_fraud", "account_blocked", "spending_history",
    "credit_score", "report_lost_card", "credit_limit", "rewards_balance", "new_card", "application_status",
    "card_declined", "international_fees", "apr", "redeem_rewards", "credit_limit_change", "damaged_card",
    "replacement_card_duration", "improve_credit_score", "expiration_date", "exchange_rate", "travel_notification",
    "direct_deposit",
})
# fmt: on
"""Intents of the other data set that a bank might be asked too, so they are not out of its scope."""


class Answered(NamedTuple):
    confidence: float
    right: bool


def read_banking(path: Path, seed: int, per_intent: int | None) -> tuple[list[Example], list[Example]]:
    """Four fifths of each intent to learn from and one fifth to be asked."""
    by_intent: dict[str, list[Example]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            by_intent[row["category"]].append(Example(row["text"], row["category"], f"banking#{number}"))
    learnt: list[Example] = []
    asked: list[Example] = []
    for intent in sorted(by_intent):
        rows = by_intent[intent]
        random.Random(f"{seed}/{intent}").shuffle(rows)
        cut = len(rows) // 5
        asked += rows[:cut]
        learnt += rows[cut:][:per_intent]
    return learnt, asked


def ask(memory: Memory, asked: Sequence[Example]) -> list[Answered]:
    readings = [(memory.decide(one.text), one.label) for one in asked]
    return [Answered(reading.confidence, reading.intent == label) for reading, label in readings]


def covered(answers: Sequence[Answered], target: float) -> tuple[int, int, float]:
    """The most answers that keep errors within the target, how many of them are wrong, and the confidence it takes."""
    best = (0, 0, 1.01)
    wrong = 0
    ordered = sorted(answers, key=lambda one: -one.confidence)
    for count, one in enumerate(ordered, 1):
        wrong += not one.right
        # Equal confidences are acted on together, so a threshold can only lie behind the last of them.
        ends = count == len(ordered) or ordered[count].confidence < one.confidence
        if ends and one.confidence > 0 and wrong / count <= target:
            best = (count, wrong, one.confidence)
    return best


def reliability(answers: Sequence[Answered]) -> tuple[float, list[tuple[str, int, float, float]]]:
    """Expected calibration error over ten equal steps, and the steps."""
    steps: dict[int, list[Answered]] = defaultdict(list)
    for one in answers:
        steps[min(int(one.confidence * 10), 9)].append(one)
    rows = []
    error = 0.0
    for step, inside in sorted(steps.items()):
        said = sum(one.confidence for one in inside) / len(inside)
        true = sum(one.right for one in inside) / len(inside)
        error += abs(said - true) * len(inside) / len(answers)
        rows.append((f"{step / 10:.1f}-{(step + 1) / 10:.1f}", len(inside), said, true))
    return error, rows


def share(confidences: Sequence[float], threshold: float) -> str:
    acted = sum(one >= threshold for one in confidences)
    return f"{acted}/{len(confidences)} = {acted / len(confidences):.1%}"


def measure(
    name: str,
    learnt: Sequence[Example],
    asked: Sequence[Example],
    unrelated: Sequence[str],
    strangers: dict[str, list[str]],
) -> None:
    began = time.perf_counter()
    memory = train(learnt, unrelated)
    trained = time.perf_counter() - began
    began = time.perf_counter()
    answers = ask(memory, asked)
    each = (time.perf_counter() - began) / len(asked)
    right = sum(one.right for one in answers)
    print(f"\n{name}: {len(learnt)} examples, {len(unrelated)} unrelated texts")
    print(f"  trained in {trained:.1f} s, one decision {each * 1000:.1f} ms")
    print(f"  accuracy                 {right}/{len(answers)} = {right / len(answers):.3f}")
    confidences = {what: [memory.decide(one).confidence for one in texts] for what, texts in strangers.items()}
    print("  acted on                 coverage            wrong       confidence  " + "  ".join(strangers))
    for target in TARGETS:
        count, wrong, threshold = covered(answers, target)
        line(f"errors <= {target:.0%}", count, wrong, len(answers), threshold, confidences)
    for threshold in (0.6, 0.8):
        acted = [one for one in answers if one.confidence >= threshold]
        wrong = sum(not one.right for one in acted)
        line(f"confidence >= {threshold}", len(acted), wrong, len(answers), threshold, confidences)
    error, steps = reliability(answers)
    print(f"  calibration error        {error:.3f} (said -> true: ", end="")
    print(", ".join(f"{said:.2f} -> {true:.2f} of {count}" for _, count, said, true in steps) + ")")


def line(what: str, count: int, wrong: int, of: int, threshold: float, confidences: dict[str, list[float]]) -> None:
    rate = f"{wrong}/{count} = {wrong / count:.1%}" if count else "none"
    strangers = "  ".join(share(one, threshold) for one in confidences.values())
    print(f"  {what:<24} {count}/{of} = {count / of:.3f}  {rate:<18} {threshold:.3f}  {strangers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--banking", type=Path, required=True, help="Banking77 train.csv: columns text, category.")
    parser.add_argument("--clinc", type=Path, required=True, help="CLINC150 as JSON: oos_train, oos_val, val.")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    clinc = json.loads(given.clinc.read_text(encoding="utf-8"))
    shipped = json.loads((PROJECT / "skills/answer_ticket/knowledge.json").read_text(encoding="utf-8"))["unrelated"]
    known_strangers = [text for text, _ in clinc["oos_train"]]
    strangers = {
        "CLINC oos_val": [text for text, _ in clinc["oos_val"]],
        "CLINC other subjects": [text for text, intent in clinc["val"] if intent not in ABOUT_MONEY],
    }
    both = {"CLINC oos": known_strangers + strangers["CLINC oos_val"], **dict(list(strangers.items())[1:])}
    print(f"{platform.platform()}, {os.cpu_count()} processors, Python {platform.python_version()}")
    print(f"{datetime.now(UTC):%Y-%m-%d}; thresholds of `errors <=` rows are picked on the asked texts themselves.")
    learnt, asked = read_banking(given.banking, given.seed, None)
    measure("No unrelated texts", learnt, asked, [], both)
    measure("Unrelated texts as shipped", learnt, asked, shipped, both)
    measure("Unrelated texts of the same kind", learnt, asked, known_strangers, strangers)
    few, asked = read_banking(given.banking, given.seed, 10)
    measure("Ten examples per intent", few, asked, shipped, both)


if __name__ == "__main__":
    main()
