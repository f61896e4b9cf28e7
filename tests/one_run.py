"""Runs the practice skill once in a process of its own, which a doorway may kill or freeze.

Doorways are patched in from here, the product has none: `DOORWAY=before:store step:3` ends the process before
its third ledger write of that name, `inside:` right before its commit, `after:` right after it; `SIGNAL` is KILL or
STOP, or WAIT: then only this thread stands still, until there is a file `$PRACTICE_LOG.go`,
or JUMP: then the wall clock is set by CLOCK seconds.
"""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import tasks.lease
import tasks.ledger.database
import tasks.ledger.holders
from tasks import channels
from tasks.ledger.database import Ledger, the_ledger
from tests.practice import practice, say

if seconds := os.environ.get("LEASE"):
    tasks.ledger.holders.LEASE_SECONDS = tasks.lease.LEASE_SECONDS = float(seconds)
    tasks.ledger.holders.BEAT_SECONDS = tasks.lease.BEAT_SECONDS = float(seconds) / 8
    tasks.ledger.holders.CONFIRM_SECONDS = tasks.lease.CONFIRM_SECONDS = float(seconds) / 3

if seconds := os.environ.get("BUSY"):
    tasks.ledger.database.BUSY_SECONDS = float(seconds)

counted: Counter[str] = Counter()


def doorway(side: str, name: str) -> None:
    where, wanted, number = (os.environ.get("DOORWAY") or "::0").split(":")
    if side == where and name.startswith(wanted):
        counted[side] += 1
        if counted[side] == int(number):
            say(f"{os.environ.get('SIGNAL', 'KILL')} {side} {wanted} {os.getpid()}")
            if os.environ.get("SIGNAL") == "WAIT":
                while not Path(os.environ["PRACTICE_LOG"] + ".go").exists():
                    time.sleep(0.02)
                return
            if os.environ.get("SIGNAL") == "JUMP":
                real, seconds = time.time, float(os.environ["CLOCK"])
                time.time = lambda: real() + seconds
                return
            os.kill(os.getpid(), getattr(signal, "SIG" + os.environ.get("SIGNAL", "KILL")))


def patch() -> None:
    submit, send = Ledger.submit, channels.send

    def submitting(self, doing, job):  # type: ignore[no-untyped-def]
        doorway("before", doing)

        def inside(c):  # type: ignore[no-untyped-def]
            value = job(c)
            doorway("inside", doing)
            return value

        promise = submit(self, doing, inside)
        proxy: Future = Future()

        def committed(done):  # type: ignore[no-untyped-def]
            doorway("after", doing)
            if done.exception() is not None:
                proxy.set_exception(done.exception())
            else:
                proxy.set_result(done.result())

        promise.add_done_callback(committed)
        return proxy

    def sending(*args, **kwargs):  # type: ignore[no-untyped-def]
        doorway("before", "send")
        receipt = send(*args, **kwargs)
        doorway("after", "send")
        return receipt

    Ledger.submit, channels.send = submitting, sending  # type: ignore[method-assign]


def main() -> None:
    ids = [int(one) for one in sys.argv[1:]]
    the_ledger()
    patch()
    asyncio.run(practice(cases=ids))


if __name__ == "__main__":
    main()
