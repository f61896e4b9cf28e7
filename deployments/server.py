"""Prefect's server, whose event loop never collects garbage itself; run as `prefect` is."""

from __future__ import annotations

import gc
import threading
import time

import prefect.server.api.server  # noqa: F401 (before what is loaded is set aside)
from prefect.cli import app

SECONDS = 5.0


def collect_aside() -> None:
    """Collect garbage in a thread of its own.

    A cursor of SQLite that is left over wants its connection's lock when it is freed. That connection's thread holds it
    while it waits for another one to commit, for 60 s at most; and who commits waits for the event loop. So if the loop
    frees the cursor, all of the server stands still for that long. This thread may wait: it lets the others run.
    """
    gc.disable()
    gc.freeze()  # what was imported lives on: to look at it each time would keep the loop waiting

    def forever() -> None:
        while True:
            time.sleep(SECONDS)
            gc.collect()

    threading.Thread(target=forever, name="garbage", daemon=True).start()


if __name__ == "__main__":
    collect_aside()
    app()
