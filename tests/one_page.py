"""Runs the paging skill once in a process of its own, with the doorways of `one_run`; WHEN sets its clock ahead."""

import asyncio
import os
import time

from tasks.ledger.database import the_ledger
from tests.one_run import patch
from tests.paging import paging, paging_anew


def main() -> None:
    real, ahead = time.time, float(os.environ.get("WHEN") or 0)
    time.time = lambda: real() + ahead
    the_ledger()
    patch()
    flow = paging_anew if os.environ.get("VERSION") == "2" else paging
    asyncio.run(flow(cases=[1]))


if __name__ == "__main__":
    main()
