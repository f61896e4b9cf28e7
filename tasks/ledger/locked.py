"""Finds who keeps SQLite's only write lock, and ends a holder that froze in the middle of a write."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy import Engine, select

from tasks.ledger import holders
from tasks.ledger.tables import holders as table
from tasks.ledger.tables import not_ended
from tasks.process import make_gone

WRITE_LOCK = 120  # the byte of the -shm file whose lock is the right to write (SQLite's wal-index format)


def writer_of(database: str) -> int | None:
    """The process that holds SQLite's write lock; None if nobody does or the kernel does not say."""
    try:
        inode = os.stat(f"{database}-shm").st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # 7: POSIX  ADVISORY  WRITE 4711 fe:00:123456 120 120
        fields = line.split()
        if len(fields) < 8 or fields[1] != "POSIX" or fields[3] != "WRITE" or fields[7] == "EOF":
            continue
        if int(fields[5].rpartition(":")[2]) == inode and int(fields[6]) <= WRITE_LOCK <= int(fields[7]):
            return int(fields[4])
    return None


class LockWatch:
    """What one process saw of the write lock while it waited for it.

    Nobody's beat can be written meanwhile: a holder that keeps the lock for a whole lease has lapsed by its own doing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pid: int | None = None
        self._since = 0.0

    def look(self) -> str:
        """Who is in the way, for people; ends a holder of this machine that kept the lock for a whole lease."""
        pid = writer_of(str(self._engine.url.database))
        now = time.monotonic()
        if pid != self._pid:
            self._pid, self._since = pid, now
        if pid is None or pid == os.getpid():
            return ""
        if now - self._since >= holders.LEASE_SECONDS:
            # A reader is not held up by the lock. Others than our holders (a backup, a shell) are named, not killed.
            with self._engine.connect().execution_options(reads=True) as connection, connection.begin():
                mine = connection.execute(select(table).where(not_ended(), table.c.pid == pid)).all()
            if any(make_gone(holders.process_of(row)) for row in mine):
                self._pid = None
        return f"; process {pid} ({_name(pid)}) holds its write lock"


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended meanwhile"
