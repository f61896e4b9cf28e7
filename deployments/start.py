"""Starts one flow run: asks the warm process to fork it, or becomes the ordinary command where nobody answers.

Run as `python -S -E deployments/start.py SOCKET`, as the job variable `command` of the pool that `up` makes.
"""

# ruff: noqa: SIM105 (to import contextlib takes as long as everything else here)
# The C modules under `socket` and `signal`: those build enums for 13 ms, and this program exists to save time.
import _signal
import _socket
import os
import sys

ENGINE = "prefect.engine"
ANSWER_SECONDS = 3.0  # nothing runs before `GO`: who answers later finds that we are gone
HERE, YES, GO = b"?", b"+", b"!"
FORWARDED = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)


def ask(path: str) -> _socket.socket:
    """A connection to a keeper that waits for `GO` with everything the run needs; OSError if there is none."""
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    keeper = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    keeper.settimeout(ANSWER_SECONDS)
    # A socket's address holds 107 bytes; this one is short wherever the folder lies.
    keeper.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    os.close(folder)
    # Our output goes only to a keeper that is there: left in the queue of one that hangs, it would never be closed.
    _expect(keeper, HERE)
    body = b"\0".join([os.getcwdb(), *(name + b"=" + value for name, value in os.environb.items())])
    descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    size = len(body).to_bytes(8, "big")
    keeper.sendmsg([size], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    keeper.sendall(body)
    _expect(keeper, YES)
    return keeper


def _expect(keeper: _socket.socket, wanted: bytes) -> None:
    answer = keeper.recv(500)
    if answer != wanted:
        raise OSError(answer.decode(errors="replace") or "the warm process went away")


def follow(keeper: _socket.socket) -> int:
    """Let the run begin and pass on what is signalled to us. Returns its exit status, negative for a signal."""
    keeper.settimeout(None)
    keeper.sendall(GO)

    def pass_on(number: int, _: object) -> None:
        try:
            keeper.send(bytes([number]))
        except OSError:
            pass  # the run has ended, and its status is on the way to us

    for number in FORWARDED:
        _signal.signal(number, pass_on)
    status = b""
    while len(status) < 4:
        more = keeper.recv(4 - len(status))
        if not more:
            raise OSError("the keeper of this run went away, and the run with it")
        status += more
    return int.from_bytes(status, "big", signed=True)


def end(status: int) -> None:
    """End as the run did, so that Prefect sees what it would have seen."""
    if status < 0:
        if -status != _signal.SIGKILL:
            _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def main() -> None:
    try:
        keeper = ask(sys.argv[1])
    except OSError as why:
        os.write(2, f"No warm start ({why}); starting the ordinary way.\n".encode())
        os.execv(sys.executable, [sys.executable, "-m", ENGINE])
    try:
        status = follow(keeper)
    except OSError as why:
        # It may have run: another start here could be the second one.
        os.write(2, f"{why}\n".encode())
        status = -_signal.SIGKILL
    end(status)


if __name__ == "__main__":
    main()
