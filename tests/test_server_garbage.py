"""Prefect's server goes on while a left-over cursor can not be freed: it used to stand still until SQLite gave up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

# The main thread stands for the server's event loop: the writer that is waited for commits only when it goes on.
PROGRAM = """
import sqlite3, sys, threading
from pathlib import Path
from deployments.server import collect_aside

def connect():
    return sqlite3.connect(sys.argv[1], timeout=20, check_same_thread=False, isolation_level=None)

def write():
    try:
        waiting.execute("INSERT INTO numbers VALUES (1)")
        print("written")
    except sqlite3.OperationalError as why:
        print(why)

if sys.argv[2] == "aside":
    collect_aside()
holding, waiting = connect(), connect()
holding.execute("PRAGMA journal_mode = WAL")
holding.execute("CREATE TABLE numbers (n INTEGER)")
left = [waiting.cursor()]
left[0].execute("VALUES (1), (2)").fetchone()
left.append(left)
holding.execute("BEGIN IMMEDIATE")
writer = threading.Thread(target=write)
writer.start()
while "nanosleep" not in Path(f"/proc/self/task/{writer.native_id}/wchan").read_text():
    pass
del left
for _ in range(100_000):
    knot = []
    knot.append(knot)
holding.execute("COMMIT")
writer.join()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="sees in /proc that a thread waits")
def test_a_cursor_that_is_left_over_does_not_stop_who_is_to_commit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "db"), "aside"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=150)
    assert done.stdout == "written\n", done.stdout + done.stderr
