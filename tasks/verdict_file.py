"""Verdicts from a CSV file: checked as a whole before any is noted."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from tasks.errors import BadInput
from tasks.ledger.database import Ledger
from tasks.ledger.verdicts import Handed, Statement, chunks, hand_in, statement, without_outcome

NEEDED, ALLOWED = {"case", "right", "auditor"}, ("case", "right", "label", "why", "auditor")
BITS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
LARGEST = 256 * 2**20  # bytes
HEADER = f"The first line names the columns, separated by commas: {','.join(ALLOWED)}"

Wrong = dict[str, list[int]]
"""Numbers of lines, by what is wrong with them."""


def import_verdicts(ledger: Ledger, path: Path) -> Handed:
    """Note the verdicts of a file; it may be killed anywhere and repeated, and the same file again changes nothing.

    UTF-8 with a header; `right` is true/false, yes/no or 1/0. BadInput names each wrong line, and nothing was noted.
    """
    said, wrong = _read(path)
    ids = [one.case for _, one in said]
    missing = ledger.read_now("look for the cases of verdicts", lambda c: without_outcome(c, ids))
    seen: dict[tuple[int, str], tuple[int, Statement]] = {}
    for line, one in said:
        if one.case in missing:
            wrong[missing[one.case]].append(line)
        first, other = seen.setdefault((one.case, one.auditor), (line, one))
        if other != one:
            wrong[f"Line {first} is of the same case and auditor and says something else."].append(line)
    if wrong:
        told = sorted((lines, why) for why, lines in wrong.items())
        what = "\n".join(f"  line {_ranges(lines)}: {why}" for lines, why in told)
        raise BadInput(
            f"{path} is refused as a whole, nothing of it was noted. Mend these and hand it in again:\n{what}"
        )
    total = Handed(0, 0, 0)
    for some in chunks([one for _, one in said]):
        handed = ledger.write_now("note verdicts of a file", partial(hand_in, said=some))
        total = Handed(*(sum(pair) for pair in zip(total, handed, strict=True)))
    return total


def _read(path: Path) -> tuple[list[tuple[int, Statement]], Wrong]:
    """The statements, each with the line on which it begins."""
    said: list[tuple[int, Statement]] = []
    wrong: Wrong = defaultdict(list)
    try:
        if not path.is_file():
            raise BadInput(f"{path} is no file. Name a CSV file.")
        if path.stat().st_size > LARGEST:
            raise BadInput(f"{path} is larger than {LARGEST // 2**20} MB. Split it.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, row in _rows(path, file):
                try:
                    said.append((line, _statement(row)))
                except BadInput as why:
                    wrong[str(why)].append(line)
    except UnicodeDecodeError as why:
        raise BadInput(f"{path} is not UTF-8. Save it as «CSV UTF-8».") from why
    except OSError as why:
        raise BadInput(f"{path} can not be read: {why.strerror}.") from why
    return said, wrong


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row by column, with the number of the line on which it begins; one with other fields is empty."""
    reader, before = csv.reader(file, strict=True), 0
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if len(set(header)) < len(header) or not NEEDED <= set(header) <= set(ALLOWED):
            raise BadInput(f"{path} has another header. {HEADER}; label and why may be left out, nothing twice.")
        before = reader.line_num
        for row in reader:
            if row:
                yield before + 1, dict(zip(header, row, strict=True)) if len(row) == len(header) else {}
            before = reader.line_num
    except csv.Error as why:
        raise BadInput(f"{path} is no CSV from line {before + 1} on: {why}. Nothing of it was noted.") from why


def _statement(row: dict[str, str]) -> Statement:
    if not row:
        raise BadInput("It has more or fewer fields than the header; quote texts with commas.")
    case, right = row["case"].strip(), row["right"].strip().lower()
    if not (case.isascii() and case.isdigit() and len(case) < 12):
        raise BadInput("case is no number.")
    if right not in BITS:
        raise BadInput("right must be true or false, yes or no, 1 or 0.")
    return statement(int(case), BITS[right], row.get("label", ""), row.get("why", ""), row["auditor"])


def _ranges(lines: Sequence[int]) -> str:
    """2, 3, 4, 9 as `2-4, 9`."""
    spans: list[list[int]] = []
    for line in sorted(lines):
        if spans and line == spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)
