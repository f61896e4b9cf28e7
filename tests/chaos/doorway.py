"""Where a forked process is killed or frozen: patches around ledger writes, sends and searches; the product has none.

A door is `side:name:count[:SIGNAL]`: `before:store step:3` ends the process before its third ledger write of
that name, `inside:` right before its commit, `after:` right after it. Names of writes are how they begin.
"""

from __future__ import annotations

import os
import signal
import smtplib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tasks import channels
from tasks.ledger.database import Ledger
from tests.chaos.witness import say


class Doors:
    """The doors of one process. Each opens once."""

    def __init__(self, *wanted: str) -> None:
        self._wanted = [(*one.split(":"), "KILL")[:4] for one in wanted]
        self._passed: Counter[int] = Counter()

    def pass_by(self, side: str, name: str) -> None:
        for number, (where, what, count, how) in enumerate(self._wanted):
            if side == where and name.startswith(what):
                self._passed[number] += 1
                if self._passed[number] == int(count):
                    say("cut", f"{how} {side}:{what}:{count}")
                    os.kill(os.getpid(), getattr(signal, f"SIG{how}"))
                    if how == "KILL":
                        time.sleep(60)  # other threads may run on for an instant; this one never does

    def install(self) -> None:
        """Patch this process, which must have been forked for it."""
        submit, send, find = Ledger.submit, channels.send, channels.find

        def submitting(ledger: Ledger, doing: str, job: Callable[[Any], Any]) -> Any:
            self.pass_by("before", doing)

            def inside(c: Any) -> Any:
                value = job(c)
                self.pass_by("inside", doing)
                return value

            promise = submit(ledger, doing, inside)
            promise.add_done_callback(lambda _: self.pass_by("after", doing))
            return promise

        def around(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def around_it(*args: Any, **kwargs: Any) -> Any:
                self.pass_by("before", name)
                value = call(*args, **kwargs)
                self.pass_by("after", name)
                return value

            return around_it

        link, tell = os.link, smtplib.SMTP.send

        def linking(*args: Any, **kwargs: Any) -> None:
            link(*args, **kwargs)
            self.pass_by("inside", "send")  # the mail is in its folder, and the channel has not returned

        def telling(server: smtplib.SMTP, said: Any) -> None:
            tell(server, said)
            if isinstance(said, bytes) and said.endswith(b"\r\n.\r\n"):
                self.pass_by("inside", "send")  # the server has the mail, and has not been heard

        Ledger.submit = submitting  # type: ignore[method-assign]
        channels.send, channels.find = around("send", send), around("find", find)
        os.link, smtplib.SMTP.send = linking, telling  # type: ignore[assignment, method-assign]
