"""A run that is forked from the warm process ends, dies and sees the world as one that was started the ordinary way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT, wait_for
from tests.installation import ORDINARY, WAIT, Installation, line, living


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """For tests that leave the warm process as it was; that it still is, is tested last."""
    warm = Installation(tmp_path_factory.mktemp("shared"), lean=False)
    yield warm
    assert warm.process.poll() is None, warm.said()
    warm.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    warm = Installation(tmp_path)
    yield warm
    warm.stop()


ENDS = {
    "at its end": "print('done')",
    "with a status": "import sys\nprint('out')\nsys.exit(7)",
    "with a large status": "import sys\nsys.exit(300)",
    "with a word": "import sys\nsys.exit('because')",
    "with an error": "print('out')\n1 / 0",
    "at once": "import os\nos._exit(3)",
    "after its exit functions and threads": """
        import atexit, threading, time
        atexit.register(print, "last")
        threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
        print("first")
    """,
    "by SIGKILL": "import os\nos.kill(os.getpid(), 9)",
    "by SIGTERM": "import os\nos.kill(os.getpid(), 15)",
    "by SIGSEGV": "import os, resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.kill(os.getpid(), 11)",
    "by an interrupt": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(60)",
}


def until(word: Path, status: int) -> str:
    """A program that ends with a status when it is given the word."""
    return f"""
        import pathlib, sys, time
        print("begun", flush=True)
        while not pathlib.Path({str(word)!r}).exists():
            time.sleep(0.02)
        sys.exit({status})
    """


def _heed_interrupts() -> None:
    # A shell that runs the tests in its background has them ignored, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("how", ENDS)
def test_the_status_and_output_of_a_run_do_not_change_on_the_way_to_prefect(shared: Installation, how: str) -> None:
    forked = shared.run(ENDS[how])
    said, complaint = forked.communicate(timeout=60)
    command: list[str | Path] = [sys.executable, shared.program(ENDS[how])]
    plain = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_heed_interrupts)
    assert "No warm start" not in complaint
    assert (forked.returncode, said) == (plain.returncode, plain.stdout)
    assert complaint.splitlines()[-1:] == plain.stderr.splitlines()[-1:]


def test_a_signal_reaches_the_run_and_its_answer_comes_back(shared: Installation) -> None:
    run = shared.run("""
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        print("ready", flush=True)
        time.sleep(600)
    """)
    assert line(run) == "ready"
    run.terminate()
    assert run.wait(30) == 5


def test_a_killed_starter_leaves_no_run_behind(shared: Installation) -> None:
    run = shared.run(WAIT)
    pid, keeper = map(int, line(run).split())
    run.kill()
    wait_for(lambda: not living(pid) and not living(keeper), 30, "the end of the run")


def test_a_killed_keeper_takes_its_run_along_and_prefect_hears_of_a_kill(shared: Installation) -> None:
    run = shared.run(WAIT)
    pid, keeper = map(int, line(run).split())
    os.kill(keeper, signal.SIGKILL)
    assert run.wait(30) == -signal.SIGKILL
    wait_for(lambda: not living(pid), 30, "the end of the run")


def test_a_killed_run_takes_neither_its_neighbour_nor_the_warm_process_along(shared: Installation) -> None:
    word = shared.clone.parent / "word"
    victim, neighbour = shared.run(WAIT), shared.run(until(word, 4))
    pid = int(line(victim).split()[0])
    line(neighbour)
    os.kill(pid, signal.SIGKILL)
    assert victim.wait(30) == -signal.SIGKILL
    word.touch()
    assert neighbour.wait(30) == 4 and shared.process.poll() is None
    assert shared.run("print('next')").communicate(timeout=30)[0] == "next\n"


def test_without_memory_the_kernel_chooses_the_run_first(shared: Installation) -> None:
    run = shared.run("print(open('/proc/self/oom_score_adj').read())")
    ours = int(Path(f"/proc/{shared.process.pid}/oom_score_adj").read_text())
    assert int(run.communicate(timeout=30)[0]) >= ours + 500 or ours > 0


def test_what_one_run_was_given_or_set_does_not_reach_the_next(shared: Installation) -> None:
    text = """
        import os, random, numpy
        from prefect.settings import get_current_settings
        print(os.environ.pop("FOR_ONE_RUN", "none"), get_current_settings().logging.level, os.getcwd())
        print(random.random(), numpy.random.random())
        os.environ["SET_BY_A_RUN"] = "1"
        os.chdir("/")
        print(sorted(name for name in os.environ if not name.startswith("KMP_")))
    """
    said = [
        shared.run(text, **env).communicate(timeout=30)[0].splitlines()
        for env in ({"FOR_ONE_RUN": "secret", "PREFECT_LOGGING_LEVEL": "DEBUG"}, {}, {})
    ]
    assert [one[0] for one in said] == [
        f"secret DEBUG {shared.clone}",
        f"none INFO {shared.clone}",
        f"none INFO {shared.clone}",
    ]
    assert len({one[1] for one in said}) == 3, "runs draw the same random numbers"
    expected = sorted(name for name in {*shared.env, "PROGRAM", "SET_BY_A_RUN"} if not name.startswith("KMP_"))
    assert said[1][2] == said[2][2] == str(expected)


def test_no_run_waits_for_the_model_to_learn_what_it_is_given(shared: Installation) -> None:
    text = """
        import asyncio
        from skills.answer_ticket import _knowledge
        from tasks import offline
        offline.train = None
        known = asyncio.run(offline.memory(_knowledge().examples, _knowledge().unrelated))
        print(known.decide("Where is my order? The tracking does not move.").intent)
    """
    said = shared.run(text).communicate(timeout=60)[0].strip()
    assert said and said != "unknown", shared.said()


def test_at_the_fork_there_is_one_thread_no_open_file_and_a_socket_for_its_owner_only(shared: Installation) -> None:
    process = Path(f"/proc/{shared.process.pid}")
    assert len(list((process / "task").iterdir())) == 1
    opened = {os.readlink(one) for one in (process / "fd").iterdir() if int(one.name) < 10}
    assert {one for one in opened if not one.startswith("socket:")} <= {"/dev/null", str(shared.log)}
    assert shared.socket.stat().st_mode & 0o777 == 0o600
    seen = shared.run(
        "import os\nprint(*map(os.readlink, (f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')[:-1])))"
    )
    assert "socket:" not in seen.communicate(timeout=30)[0], "a run holds its keeper's connection"


def stale_sockets(folder: Path) -> Iterator[tuple[str, Path, socket.socket | None]]:
    yield "No such file", folder / "missing.sock", None
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(folder / "dead.sock"))
    dead.close()
    yield "Connection refused", folder / "dead.sock", None
    silent = socket.socket(socket.AF_UNIX)
    silent.bind(str(folder / "silent.sock"))
    silent.listen()
    yield "timed out", folder / "silent.sock", silent


def test_where_nobody_answers_a_run_starts_the_ordinary_way(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect/__init__.py").touch()
    (tmp_path / "prefect/engine.py").write_text("print('the ordinary engine')\nraise SystemExit(4)")
    for why, path, _ in stale_sockets(tmp_path):
        command = [sys.executable, "-S", "-E", str(PROJECT / "deployments/start.py"), str(path)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (4, "the ordinary engine\n"), done.stderr
        assert why in done.stderr


def test_a_run_that_needs_another_interpreter_is_not_forked(shared: Installation) -> None:
    said = shared.run("print('forked')", PYTHONHASHSEED="1").communicate(timeout=60)
    assert "forked" not in said[0] and "PYTHONHASHSEED differs" in said[1] and ORDINARY in said[0] + said[1]


def test_a_starter_that_gives_up_before_it_says_go_starts_nothing(shared: Installation, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = shared.program(f"open({str(mark)!r}, 'w')")
    half = f"""
        import os, sys
        sys.path.insert(0, {str(shared.clone / "deployments")!r})
        import start
        os.environ["PROGRAM"] = {str(text)!r}
        start.ask(sys.argv[1])
    """
    command = [sys.executable, "-S", "-E", shared.program(half), shared.socket]
    subprocess.run(command, cwd=shared.clone, env=shared.env, check=True, timeout=30)
    assert shared.run("print('next')").communicate(timeout=30)[0] == "next\n"
    assert not mark.exists()


def test_changed_code_is_never_run_from_the_old_warm_process(own: Installation) -> None:
    text = "from tasks import home\nprint(getattr(home, 'EDITED', 'old'))"
    assert own.run(text).communicate(timeout=30)[0] == "old\n"
    busy = own.run(WAIT)
    line(busy)
    with (own.clone / "tasks/home.py").open("a") as code:
        code.write("\nEDITED = 'new'\n")
    said = own.run(text).communicate(timeout=60)
    assert "old" not in said[0] and "tasks/home.py is new" in said[1] and ORDINARY in said[0] + said[1]
    wait_for(lambda: own.said().count("ready on") == 2, 60, "the new warm process")
    assert own.run(text).communicate(timeout=30)[0] == "new\n"
    assert busy.poll() is None and own.process.poll() is None
    busy.terminate()
    assert busy.wait(30) == -signal.SIGTERM


def test_a_killed_warm_process_leaves_runs_alone_and_the_next_takes_its_place(own: Installation) -> None:
    word = own.clone.parent / "word"
    run = own.run(until(word, 6))
    assert line(run) == "begun"
    own.stop()
    word.touch()
    assert run.wait(30) == 6
    first = own.start()
    second = own.start()
    assert first.wait(30) == 0, "two answered on one name"
    assert own.run("print('next')").communicate(timeout=30)[0] == "next\n" and second.poll() is None


def test_a_stopped_warm_process_ends_after_the_runs_whose_starters_are_gone(own: Installation) -> None:
    run = own.run(WAIT)
    pid = int(line(run).split()[0])
    own.process.terminate()
    run.kill()
    assert own.process.wait(30) == 0
    assert not living(pid)


THREAD = "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
THREADED = {
    f"import threading, time\n{THREAD}\n": "skills.threaded starts a thread",
    f"import threading, time\ndef warm_up():\n    {THREAD}\n": "a warm_up() in skills leaves a thread",
}


@pytest.mark.parametrize("text", THREADED, ids=["on import", "in warm_up"])
def test_a_skill_that_starts_a_thread_makes_all_start_the_ordinary_way(tmp_path: Path, text: str) -> None:
    warm = Installation(tmp_path, threaded=text)
    try:
        said = warm.run("print('forked')").communicate(timeout=60)
        assert "forked" not in said[0] and THREADED[text] in said[1]
    finally:
        warm.stop()
