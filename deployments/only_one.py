"""One supervisor for each folder: the second is refused, and `down` finds the first."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from tasks.errors import BadInput
from tasks.home import home


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the house's folder: two supervisors on it would fight; the lock goes with the process."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise BadInput(
                f"`up` runs already on {home()} (process {lock.read().strip()}). Use `down`, or another HOLDFAST_HOME."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def who_is_up() -> int | None:
    """The process that holds this folder. The lock says so and not the number in it, which may be another's by now."""
    try:
        with (home() / "up.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = (home() / "up.lock").read_text().strip()
        return int(said) if said.isdigit() else None
    except OSError:
        return None
    return None
