"""A file of verdicts is taken as a whole, once, whoever hands it in again and whenever the import is killed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select

from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.ledger.tables import audits, cases, outcomes
from tasks.ledger.verdicts import CHUNK
from tasks.verdict_file import import_verdicts
from tests import forked
from tests.conftest import fill
from tests.test_verdicts import conclude, desk, kept, said

__all__ = ["desk"]
KILLED_IMPORT = """
from tests.one_run import patch
patch()
import sys
from deployments.__main__ import main
sys.argv = ["deployments", "verdicts", sys.argv[1]]
main()
"""


class Desk:
    """The commands on a ledger, each in a process of its own."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        self.env = os.environ | {"HOLDFAST_LEDGER": ledger.url, "PRACTICE_LOG": str(folder / "log")}
        self.file = folder / "[/audit].csv"  # which would be the end of a markup that nobody began
        self.file.parent.mkdir()

    def run(self, *words: str, status: int = 0) -> str:
        done = forked.run("deployments", *words, env=self.env)
        assert done.returncode == status and "Traceback" not in done.stdout, done.stdout
        return " ".join(done.stdout.split())

    def hand_in(self, rows: str | bytes = b"", status: int = 0) -> str:
        if rows:
            self.file.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
        return self.run("verdicts", str(self.file), status=status)


@pytest.fixture
def commands(desk: Ledger, tmp_path: Path) -> Desk:
    return Desk(desk, tmp_path)


def test_the_command_notes_a_verdict_and_the_story_tells_it(desk: Ledger, commands: Desk) -> None:
    drawn = dict(outcome=1, agent="desk", period="2026-11-23", stratum="refund", chance=0.25, asked=time.time())
    desk.write_now("draw", lambda c: c.execute(insert(audits).values(drawn)))
    assert "case 1 was wrong" in commands.run(
        "verdict", "1", "--wrong", "--label", "card", "--why", "[b]no", "--who", "A"
    )
    assert "already" in commands.run("verdict", "1", "--wrong", "--label", "card", "--why", "[b]no", "--who", "A")
    told = commands.run("why", "1")
    places = [
        told.index(line)
        for line in (
            "settled: acted refund",
            "drawn for audit, week of 2026-11-23, chance 0.25",
            "verdict of A (person): wrong, it should have been card: [b]no",
        )
    ]
    assert places == sorted(places), told
    assert "no outcome yet" in commands.run("verdict", "4", "--right", status=1)
    assert "right" in commands.run("verdict", "1", status=2), "neither is no verdict"


def test_a_file_of_verdicts_may_be_handed_in_again_and_by_two_at_once(desk: Ledger, commands: Desk) -> None:
    file = (
        'case,right,label,why,auditor\r\n1,true,,,Ann\r\n2,NO,card,"two\nlines",Ann\r\n\r\n2,0,,,Bob\r\n1,yes,,,Ann\r\n'
    )
    commands.file.write_text("\ufeff" + file)
    two = [forked.start("deployments", "verdicts", str(commands.file), env=commands.env) for _ in range(2)]
    assert [one.wait(60) for one in two] == [0, 0]
    rows = [(1, "Ann", True, "", ""), (2, "Ann", False, "card", "two lines"), (2, "Bob", False, "", "")]
    assert kept(desk) == rows
    assert "0 verdict(s) noted, 4 known already" in commands.hand_in()
    said(desk, 1, False, "Ann")
    again = conclude(desk, 2)
    assert "0 verdict(s) noted, 4 known already" in (told := commands.hand_in())
    assert "4 of those known count no more" in told
    assert kept(desk) == [*rows, (1, "Ann", False, "", "")], "the file was not about what came later"
    assert "2 verdict(s) noted, 0 known" in commands.hand_in("auditor,case,right\nAnn,2,1\nAnn,3,1")
    assert [row[0] for row in kept(desk)[-2:]] == [again, 3]
    assert "[/audit].csv is refused as a whole" in commands.hand_in("auditor,case,right\nAnn,x,1", status=1)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("", "has another header"),
        ("1,true,,,Ann\n", "has another header"),
        ("case;right;auditor\n1;true;Ann\n", "has another header"),
        ("case,right,auditor,auditor\n1,true,Ann,Bob\n", "has another header"),
        ("case,right,auditor,lable\n1,true,Ann,card\n", "has another header"),
        ("case,right\n1,true\n", "has another header"),
        (b"case,right,auditor\n1,true,J\xfcrgen\n", "is not UTF-8"),
        ("case,right,auditor\n1,true,Ann\n".encode("utf-16"), "is not UTF-8"),
        (b"case,right,auditor\n1,true,A\0nn\n", r"line 2: who holds the character U+0000"),
        ("case,right,auditor\n1,true," + "x" * 200_000, "no CSV from line 2 on: field larger"),
        ('case,right,auditor\n1,true,"Ann\n2,true,Bob\n', "no CSV from line 2 on"),
        ("case,right,why,auditor\n1,true," + "x" * 501 + ",Ann", "line 2: why has more than 500 characters"),
        (
            'case,right,why,auditor\n1,true,"a\nb",Ann\n1,maybe,,Ann\nx,1,,Ann\n²,1,,Ann\n99,1,,Ann\n4,1,,Ann\n1,1,,\n'
            "2,1,Ann\n3,1,,Ann\n3,0,,Ann\n" + "9" * 11 + ",1,,A\n-1,1,,A\n",
            "line 4: right must be true or false, yes or no, 1 or 0. line 5-6, 14: case is no number. "
            "line 7: There is no case 99. A tick's table in the UI lists the ids. "
            "line 8: Case 4 has no outcome yet: it is open; `why 4` tells where it stands. "
            "line 9: Nobody says it: give a name as who. "
            "line 10: It has more or fewer fields than the header; quote texts with commas. "
            "line 12: Line 11 is of the same case and auditor and says something else. "
            "line 13: There is no case 99999999999. A tick's table in the UI lists the ids.",
        ),
    ],
)
def test_a_file_with_anything_wrong_is_refused_as_a_whole_with_every_wrong_line(
    desk: Ledger, tmp_path: Path, rows: str | bytes, says: str
) -> None:
    file = tmp_path / "audit.csv"
    file.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
    with pytest.raises(BadInput) as refused:
        import_verdicts(desk, file)
    assert says in " ".join(str(refused.value).split())
    assert kept(desk) == []


def test_what_is_no_file_is_named(desk: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, says in (
        (tmp_path, "is no file"),
        (tmp_path / "none.csv", "is no file"),
        (Path("/dev/zero"), "is no file"),
    ):
        with pytest.raises(BadInput, match=says):
            import_verdicts(desk, path)
    large = tmp_path / "large.csv"
    large.touch()
    os.truncate(large, 10**12)
    with pytest.raises(BadInput, match="larger than 256 MB"):
        import_verdicts(desk, large)


def many(ledger: Ledger, tmp_path: Path, number: int) -> Path:
    """So many settled cases, and a file with a verdict on each."""
    fill(ledger, tmp_path, [])
    first = ledger.read_now("look", lambda c: len(c.execute(select(cases.c.id)).all())) + 1
    ids = range(first, first + number)
    case = dict(agent="desk", source="maildir:/inbox", body="{}", recorded=1.0, state="settled")
    outcome = dict(fence=1, agent="desk", skill="practice", version="1", kind="acted", answer="refund", at=1.0)
    outcome |= dict(rehearsed=False, body="{}", flow_run="")
    ledger.write_now(
        "fill", lambda c: c.execute(insert(cases), [case | dict(id=n, key=f"{n}", thread=f"{n}") for n in ids])
    )
    ledger.write_now("fill", lambda c: c.execute(insert(outcomes), [outcome | dict(case=n) for n in ids]))
    file = tmp_path / "audit.csv"
    file.write_text("case,right,label,auditor\n" + "".join(f"{n},{n % 2},refund,Ann\n" for n in ids))
    return file


def test_an_import_killed_in_the_middle_and_repeated_leaves_the_same_rows(ledger: Ledger, tmp_path: Path) -> None:
    number = 3 * CHUNK + 7
    file = many(ledger, tmp_path, number)
    env = os.environ | {"HOLDFAST_LEDGER": ledger.url, "PRACTICE_LOG": str(tmp_path / "log")}
    for side, whole in (("inside", 1), ("after", 2)):
        killed = env | {"DOORWAY": f"{side}:note verdicts:2"}
        # The second import finds the first chunk there, and comes to the end of the next one.
        assert forked.start(str(file), code=KILLED_IMPORT, env=killed).wait(60) == -9
        assert len(kept(ledger)) == whole * CHUNK
    handed = import_verdicts(ledger, file)
    assert handed == (number - 2 * CHUNK, 2 * CHUNK, 0)
    rows = kept(ledger)
    assert rows == [(n, "Ann", bool(n % 2), "refund", "") for n in range(1, number + 1)]
    assert import_verdicts(ledger, file) == (0, number, 0) and kept(ledger) == rows


def test_a_large_file_asks_a_few_questions_for_each_part_and_not_for_each_line(ledger: Ledger, tmp_path: Path) -> None:
    file = many(ledger, tmp_path, 2 * CHUNK)
    import_verdicts(ledger, file)
    asked: list[str] = []

    @event.listens_for(ledger.engine, "before_cursor_execute")
    def count(_: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        asked.append(statement)

    assert import_verdicts(ledger, file).known == 2 * CHUNK
    assert 0 < sum(one.startswith(("SELECT", "INSERT")) for one in asked) <= 10, asked
