"""The keeper of one run: forks it when told to, tells how it ended, and ends it when the one who asked is gone.

Keeper and run depend on nobody but the one who asked: the warm process may die or be renewed beside them.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import select
import signal
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from deployments.start import ENGINE, FORWARDED, GO, HERE, YES

REQUEST_SECONDS = 10.0  # how long it waits for somebody who asked and then says nothing
OOM_SCORE = 500  # without memory the kernel ends a run, and nothing that other runs need
# Read only when the interpreter or a library is loaded: a run with others needs a process of its own.
FIXED = (b"PYTHON", b"LD_", b"MALLOC_", b"OMP_", b"OPENBLAS_", b"MKL_", b"NUMEXPR_", b"LC_", b"LANG")
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Request(NamedTuple):
    """What the one who asked has, and its run shall have."""

    folder: bytes
    environment: dict[bytes, bytes]
    descriptors: list[int]


def keep(asking: socket.socket, given: dict[bytes, bytes], added: dict[bytes, bytes]) -> None:
    """See one run to its end; returns in the run itself only, ready for the engine.

    Args:
        asking: The connection to the one who asked.
        given: The environment that everything was imported in.
        added: What imported packages have put into it.
    """
    run = -1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _call_it("holdfast-keeper")
        asking.settimeout(REQUEST_SECONDS)
        asking.sendall(HERE)
        request = _receive(asking)
        if why := _unlike(request, given):
            refuse(asking, why)
            os._exit(0)
        asking.sendall(YES)
        if asking.recv(1) != GO:
            os._exit(0)
        keeper, run = os.getpid(), os.fork()
        if run == 0:
            asking.close()
            _become(request, added, keeper)
            return
        for number in request.descriptors:
            os.close(number)  # whoever reads the run's output waits until nobody can write it
        asking.settimeout(None)
        _watch(asking, run)
        status = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
        with contextlib.suppress(OSError):
            asking.sendall(status.to_bytes(4, "big", signed=True))
        os._exit(0)
    except BaseException:
        # Neither a keeper nor a run that could not begin may go on as a second warm process.
        traceback.print_exc()
        os._exit(1)


def refuse(asking: socket.socket, why: str) -> None:
    """Tell somebody who asks to start the ordinary way."""
    with contextlib.suppress(OSError):
        asking.sendall(why.encode()[:500])


def _receive(asking: socket.socket) -> Request:
    size, descriptors, _, _ = socket.recv_fds(asking, 8, 3)
    left, parts = int.from_bytes(size, "big"), []
    while left:
        part = asking.recv(min(left, 1 << 20))
        if not part:
            os._exit(0)  # it gave up
        parts.append(part)
        left -= len(part)
    folder, *pairs = b"".join(parts).split(b"\0")
    environment = {name: value for name, _, value in (pair.partition(b"=") for pair in pairs)}
    return Request(folder, environment, descriptors)


def _unlike(request: Request, given: dict[bytes, bytes]) -> str:
    """Why this run can not be forked from what is here; '' if it can."""
    if len(request.descriptors) != 3:
        os._exit(0)  # it went before it had said a word
    for name in sorted(request.environment.keys() | given.keys()):
        if name.startswith(FIXED) and request.environment.get(name) != given.get(name):
            return f"{name.decode(errors='replace')} differs from the warm process's own"
    if request.folder != os.getcwdb():
        return f"the run belongs into {request.folder.decode(errors='replace')}"
    return ""


def _watch(asking: socket.socket, run: int) -> None:
    """Pass signals on until the run has ended; end it if the one who asked for it is gone."""
    ended = os.pidfd_open(run)
    watched: list[socket.socket | int] = [asking, ended]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if ended in ready:
            return
        try:
            signals = asking.recv(64)
        except OSError:
            signals = b""
        if not signals:
            os.kill(run, signal.SIGKILL)
            watched = [ended]
        for number in signals:
            if number in FORWARDED:
                os.kill(run, number)


def _become(request: Request, added: dict[bytes, bytes], keeper: int) -> None:
    """Make of this fork the process that the ordinary command would have been."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper:
        os._exit(1)
    os.setsid()
    for to, number in enumerate(request.descriptors):
        os.dup2(number, to)
        os.close(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _call_it("prefect.engine")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    os.environb.clear()
    os.environb.update(added | request.environment)
    time.tzset()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python draws afresh after a fork; numpy would draw the same in every run
    sys.argv = [ENGINE]
    sys.modules.pop(ENGINE, None)  # it runs as `__main__`
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging
    from prefect.settings import get_current_settings

    before = get_current_settings().logging
    refresh_global_settings_context()
    if get_current_settings().logging != before:
        setup_logging(incremental=False)
    if not (get_current_settings().api.url or "").startswith("http://"):
        each_its_own_certificates()


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """End a run as the interpreter would, but leave everything in memory where it is: to free it takes 0.24 s.

    An error that nobody caught goes on to the interpreter, which knows best how to end with it.
    """
    status = 0
    try:
        yield
    except SystemExit as asked:
        if asked.code is not None and not isinstance(asked.code, int):
            raise
        status = asked.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        status = 120  # as the interpreter's own
    os._exit(status & 0xFF)


def share_certificates() -> None:
    """Let Prefect's clients share what they read of certificates: each of four in a run takes 0.02 s to read 220 kB."""
    from prefect._internal import websockets
    from prefect.client import orchestration

    once = functools.lru_cache(ssl.create_default_context)
    for module in (orchestration, websockets):
        vars(module)["ssl"] = SimpleNamespace(**(vars(ssl) | {"create_default_context": once}))


def each_its_own_certificates() -> None:
    """Undo `share_certificates`: where the API is not plain HTTP they are in use, and may change on the disk."""
    from prefect._internal import websockets
    from prefect.client import orchestration

    for module in (orchestration, websockets):
        vars(module)["ssl"] = ssl


def _call_it(name: str) -> None:
    """What `ps -o comm` and the kernel's log on a lack of memory show."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)
