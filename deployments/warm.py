"""The warm process: has everything imported once, and forks a keeper with a run for whoever asks on its socket."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from deployments.fingerprint import PROJECT, Fingerprint
from deployments.keeper import ending_at_once, keep, refuse, share_certificates
from deployments.start import ENGINE

LOOK_SECONDS = 2.0
THREADS_END_SECONDS = 2.0  # a pool's threads end a moment after it is closed
# What runs load, also what Prefect and the ledger load only when they are under way.
LIBRARIES = (
    "prefect.main",
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.artifacts",
    "prefect.runner.runner",
    "prefect.deployments.steps.core",
    "prefect._internal.integrations",
    "anyio._backends._asyncio",
    "encodings.idna",
    "rich._emoji_codes",
    "tasks.ledger.migrations",
    "sqlite3",
    "psycopg",
    "anthropic",
    "pandas",
    "sklearn",
    "skills._follow",
)
OWN = ("tasks/sources", "tasks/channels", "tasks/tools", "skills", "flows")
# A thread does not survive a fork, and the lock that it holds would stay locked. OpenBLAS starts some when loaded.
ONE_THREAD = {b"OPENBLAS_NUM_THREADS": b"1", b"OMP_NUM_THREADS": b"1", b"DO_NOT_TRACK": b"1"}


def say(text: str) -> None:
    print(f"{time.strftime('%d %b %H:%M:%S')}  {text}", flush=True)


def main(path: Path) -> None:
    """Warm up and answer until SIGTERM. Returns in a forked run only, ready for the engine."""
    given, seen = dict(os.environb), Fingerprint()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environb.update(ONE_THREAD)
    unfit = _import_all() or _prepare_skills()
    _rehearse()
    # Some packages set variables for their own libraries when they are loaded.
    added = {name: value for name, value in os.environb.items() if name not in {*given, *ONE_THREAD}}
    os.environb.clear()
    os.environb.update(given)
    seen.add_modules()
    gc.collect()
    gc.freeze()  # or the first collection of a run would touch, and so copy, every page
    Warm(path, seen, unfit, given, added).answer()


def _import_all() -> str:
    """Import what runs need. Returns why nothing may be forked now, '' if it may."""
    before, unfit = _open_files(), ""
    for name in (*LIBRARIES, *_rooms()):
        try:
            importlib.import_module(name)
        except Exception:
            # The run that needs it will say the same, to whom it concerns.
            say(f"{name} can not be imported: {traceback.format_exc(limit=-3)}")
        if unfit:
            continue
        if opened := sorted(_open_files() - before):
            unfit = f"importing {name} opens {opened[0]}, which runs must not share"
        elif threads() > 1:
            unfit = f"importing {name} starts a thread, which would be missing in a run"
    return unfit


def _prepare_skills() -> str:
    """Call `warm_up()` of every skill that has one. Returns why nothing may be forked now, '' if it may."""
    for name in _rooms():
        if name.startswith("skills.") and (warm_up := getattr(sys.modules.get(name), "warm_up", None)):
            try:
                warm_up()
            except Exception:
                say(f"{name}.warm_up() failed: {traceback.format_exc(limit=-3)}")
    patience = time.monotonic() + THREADS_END_SECONDS
    while threads() > 1 and time.monotonic() < patience:
        time.sleep(0.01)
    return "a warm_up() in skills leaves a thread running, which would be missing in a run" if threads() > 1 else ""


def _rehearse() -> None:
    """Make and forget a client, which opens nothing: what Prefect keeps of it is there for every run."""
    with contextlib.suppress(Exception):
        from prefect.client.orchestration import get_client
        from prefect.settings import get_current_settings

        share_certificates()
        if get_current_settings().api.url:
            get_client()


def _rooms() -> Iterator[str]:
    for room in OWN:
        for one in sorted((PROJECT / room).iterdir()):
            if not one.name.startswith(("_", ".")) and (one.suffix == ".py" or (one / "__init__.py").is_file()):
                yield f"{room.replace('/', '.')}.{one.stem}"


def threads() -> int:
    """As the kernel counts them: a library's own are among them."""
    return len(os.listdir("/proc/self/task"))


def _open_files() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return found


class Warm:
    """Answers requests while what it has imported is what lies on the disk, and renews itself when it is not."""

    def __init__(
        self, path: Path, seen: Fingerprint, unfit: str, given: dict[bytes, bytes], added: dict[bytes, bytes]
    ) -> None:
        self._path, self._seen, self._unfit = path, seen, unfit
        self._given, self._added = given, added
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._asked_to_end, self._end = socket.socketpair()

    def answer(self) -> None:
        """Until SIGTERM, or until another has the socket's name; returns in a forked run only."""
        self._end.setblocking(False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._end.fileno(), warn_on_full_buffer=False)
        mine, changed, look = self._listen(), "", time.monotonic() + LOOK_SECONDS
        say(f"starts nothing: {self._unfit}" if self._unfit else f"ready on {self._path}")
        while self._number() == mine:
            ready, _, _ = select.select([self._server, self._asked_to_end], [], [], LOOK_SECONDS)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if self._asked_to_end in ready:
                break
            if self._server in ready and self._one():
                return
            if time.monotonic() >= look:
                look = time.monotonic() + LOOK_SECONDS
                if changed and self._seen.at_rest():
                    self._renew(changed)
                changed = self._seen.changed()
        self._server.close()
        # Whoever stops us and waits may rely on it that no run is left. Each ends with the one who asked for it.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        sys.exit(0)

    def _listen(self) -> int:
        """Take the socket's name over from whoever had it. Returns the number of its file."""
        folder, mask = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY), os.umask(0o177)
        try:
            self._path.unlink(missing_ok=True)
            self._server.bind(f"/proc/self/fd/{folder}/{self._path.name}")  # start.py says why
        finally:
            os.umask(mask)
            os.close(folder)
        self._server.listen(64)
        self._server.setblocking(False)
        return self._number()

    def _number(self) -> int:
        try:
            return os.stat(self._path).st_ino
        except FileNotFoundError:
            return 0

    def _one(self) -> bool:
        """Answer one request. True in a forked run."""
        try:
            asking, _ = self._server.accept()
        except OSError:
            return False  # it went again
        with asking:
            if why := self._unfit or self._seen.changed() or (threads() > 1 and "a thread"):
                refuse(asking, self._unfit or f"{why} is new since it warmed up")
                return False
            sys.stdout.flush()
            sys.stderr.flush()
            try:
                keeper = os.fork()
            except OSError as why:
                refuse(asking, str(why))
                return False
            if keeper:
                return False
            for one in (self._server, self._asked_to_end, self._end):
                one.close()
            keep(asking, self._given, self._added)  # the keeper itself does not come back from it
        return True

    def _renew(self, changed: str) -> None:
        """Become a warm process of the code that is there now; the runs in hand go on with what they have."""
        say(f"{changed} changed: warming up again")
        self._path.unlink(missing_ok=True)  # who asks meanwhile starts the ordinary way at once
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    with ending_at_once():
        runpy.run_module(ENGINE, run_name="__main__", alter_sys=True)
