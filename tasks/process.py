"""Who a process is, whether it is gone, and how to make sure of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import socket
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rich.console import Console


class Process(NamedTuple):
    """A process that no reboot, pid reuse or container can be mistaken for; empty means «can not be told»."""

    machine: str
    boot: str
    space: str  # pid namespace: two containers on one kernel do not see each other's pids
    pid: int
    started: str  # start time in clock ticks since boot, as the kernel counts it


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Start ticks of a pid; empty when it is gone or a zombie nobody has reaped."""
    stat = _read(f"/proc/{pid}/stat")
    if not stat:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return "" if fields[0] in "ZX" else fields[19]


@lru_cache(maxsize=1)
def _here() -> tuple[str, str, str]:
    name = f"{socket.gethostname()}/{_read('/etc/machine-id')}"
    machine = hashlib.sha256(name.encode()).hexdigest()[:12]
    space = ""
    with contextlib.suppress(OSError):
        space = str(os.stat("/proc/self/ns/pid").st_ino)
    return machine, _read("/proc/sys/kernel/random/boot_id"), space


def this_process() -> Process:
    """The process that asks, also after a fork."""
    return Process(*_here(), os.getpid(), _started(os.getpid()))


def this_boot() -> str:
    """Names the monotonic clock that this process reads: machine and boot."""
    machine, boot, _ = _here()
    return f"{machine}/{boot}"


def is_gone(who: Process) -> bool:
    """True only on proof: an earlier boot of this machine, or a pid here that is free or was given to another."""
    machine, boot, space = _here()
    if not boot or who.machine != machine or not who.started:
        return False
    if who.boot != boot:
        return True
    return who.space == space and _started(who.pid) != who.started


def make_gone(who: Process, seconds: float = 5.0) -> bool:
    """Kill a process of this machine that may be frozen, until the kernel says it is gone; False if unproved."""
    machine, boot, space = _here()
    if is_gone(who):
        return True
    if (
        (who.machine, who.boot, who.space) != (machine, boot, space)
        or who.pid == os.getpid()
        or not hasattr(os, "pidfd_open")
    ):
        return False
    try:
        handle = os.pidfd_open(who.pid)
    except OSError:
        return is_gone(who)
    try:
        # The handle pins the process, so the start time is compared after it was taken: no other can be hit.
        if _started(who.pid) != who.started:
            return True
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [], seconds)
    except OSError:
        return is_gone(who)
    finally:
        os.close(handle)
    return is_gone(who)


def runs_here(pid: int, flow_run: str) -> bool:
    """Whether this pid of this machine may be the process that a worker started for a flow run."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return True  # another user's: it can not be told
    except OSError:
        return False
    return f"PREFECT__FLOW_RUN_ID={flow_run}".encode() in environment


def outlive_the_reader() -> None:
    """Go on when nobody reads any more what this process prints, such as a run whose worker was killed.

    Rich, through which Prefect prints, would raise SystemExit in the middle of whatever prints: a batch would end with
    model calls in hand, which are paid for again.
    """
    Console.on_broken_pipe = _printed_for_nobody  # type: ignore[method-assign,assignment]


def _printed_for_nobody(console: Console) -> None:
    console.quiet = True
    nobody = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nobody, stream)
    os.close(nobody)
