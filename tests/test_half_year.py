"""The simulated half-year plays through to its table, so that it is found whole when somebody wants its figures."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path

import pytest

from tests import forked

MATTERS = {
    "lost_card": ("lost my card", "card is missing", "can not find my card", "card was stolen", "card has gone"),
    "top_up": ("top up failed", "top up is pending", "add money to it", "money did not arrive", "top up by transfer"),
    "exchange": ("exchange rate is wrong", "rate for euros", "exchange pounds", "bad rate abroad", "currency rate"),
}
OPENINGS = ("Hello,", "Help,", "Why is it that", "I think", "Since Monday", "Again:", "Please,", "It seems")
STRANGE = ("how tall is the tower", "sing me a song", "who won the game", "what is for lunch", "tell a joke")
WEEKS, MAILS = 2, 24


def write_data(folder: Path) -> None:
    """In the shape of Banking77 and CLINC150, and none of theirs."""
    for name in ("banking77", "clinc150"):
        (folder / name).mkdir()
    with (folder / "banking77/train.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(("text", "category"))
        for category, words in MATTERS.items():
            sheet.writerows((f"{opening} {said}", category) for opening, said in product(OPENINGS, words))
    strange = [(f"{opening} {said}", "oos") for opening, said in product(OPENINGS, STRANGE)]
    kept = {"oos_train": strange[:20], "oos_val": strange[20:]}
    (folder / "clinc150/clinc150_trainval.json").write_text(json.dumps(kept))


@pytest.mark.timeout(300)
def test_the_half_year_plays_with_and_without_a_review_and_keeps_its_figures(tmp_path: Path) -> None:
    write_data(tmp_path)
    figures = tmp_path / "out.json"
    words = ("--data", str(tmp_path), "--weeks", str(WEEKS), "--mails", str(MAILS), "--audits", "10")
    done = forked.run("tests.half_year", *words, "--json", str(figures), timeout=280)
    assert done.returncode == 0, done.stdout
    weeks = json.loads(figures.read_text())["weeks"]
    assert set(weeks) == {"with the review", "without it"} and figures.with_suffix(".png").stat().st_size > 1000
    for name, told in weeks.items():
        assert [one["cases"] for one in told] == [MAILS] * WEEKS, name
        assert sum(one["acted"] for one in told) > MAILS // 2, f"{name}: nothing was played that a rate could be of"
    assert [one["week"] for one in weeks["without it"]] == [one["week"] for one in weeks["with the review"]]
    assert all(one["labels"] == 0 for one in weeks["without it"])
    asked = [one["labels"] for one in weeks["with the review"]]
    assert 10 <= asked[0] < asked[-1], "nobody was asked, or nobody's answer was kept"
    assert "with the review" in done.stdout and f"{WEEKS} to {WEEKS}" not in done.stdout
