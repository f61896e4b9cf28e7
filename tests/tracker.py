"""A real Roundup of our own: installed once on this machine, started on a free port, and asked from outside."""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.servers import free_port, wait_for

VERSION = "2.6.0"
PYTHON = "/usr/bin/python3"  # Roundup will not run as root, and another user can not read every Python
AGENT, PASSWORD = "holdfast", "a-password"
# A role beside User's own: who answers must see to whom.
ROLE = """
db.security.addRole(name='Agent', description='Answers tickets')
db.security.addPermissionToRole('Agent', db.security.addPermission(name='View', klass='user', properties=('address',)))
"""
# What people and customers do, through Roundup's own library; each line of the input is one deed.
DEEDS = """
import json, sys
from roundup import instance
from roundup.password import Password
tracker = instance.open(sys.argv[1])
db = tracker.open('admin')
for line in sys.stdin:
    deed = json.loads(line)
    who = deed.pop('by')
    try:
        db.user.lookup(who)
    except KeyError:
        known = {'password': Password(deed['password'], config=db.config)} if 'password' in deed else {}
        known |= {'address': deed.get('address', who), 'realname': deed.get('name', ''),
                  'roles': deed.get('roles', 'User')}
        db.user.create(username=who, **known)
        db.commit()
    mine = tracker.open(who)
    text = deed.get('text')
    said = [mine.msg.create(author=mine.getuid(), content=text, messageid=deed.get('message_id', ''))] if text else []
    issue = deed.get('issue')
    if deed.get('title'):
        issue = mine.issue.create(title=deed['title'], messages=said, nosy=[mine.getuid()])
    elif issue:
        change = dict(deed.get('change', {}))
        if said:
            change['messages'] = mine.issue.get(issue, 'messages') + said
        mine.issue.set(issue, **change)
    mine.commit()
    mine.close()
    print(json.dumps([issue, said]), flush=True)
"""


def _nobody() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def installed() -> Path:
    """The folder of its programs, which are fetched once on this machine."""
    if not Path(PYTHON).exists():
        pytest.skip(f"no {PYTHON} here, which Roundup's user could read")
    made = Path(tempfile.gettempdir()) / f"holdfast-tests-roundup-{VERSION}-{os.getuid()}"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / "complete").exists():
            shutil.rmtree(made, ignore_errors=True)
            env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
            for command in (
                [PYTHON, "-m", "venv", str(made)],
                [str(made / "bin/pip"), "install", "-q", f"roundup=={VERSION}"],
            ):
                done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True)
                if done.returncode:
                    pytest.skip(f"Roundup can not be installed here: {done.stderr.strip()[-200:]}")
            made.chmod(0o755)
            (made / "complete").touch()
    return made / "bin"


class Ticket(NamedTuple):
    """What stands in an issue, as the tracker itself tells it."""

    messages: list[dict[str, Any]]
    status: str
    assigned: str
    keywords: list[str]


class Tracker:
    """A tracker called `desk`; `url` is what an agent's settings call it."""

    def __init__(self, **settings: Mapping[str, str]) -> None:
        self._bin, self._port = installed(), free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-roundup-"))
        self._user = _nobody()
        if self._user:
            os.chown(self._folder, self._user["user"], self._user["group"])
        self._home = self._folder / "desk"
        self.web, self.url = f"http://127.0.0.1:{self._port}/desk/", f"roundup://127.0.0.1:{self._port}/desk"
        self._deeds: subprocess.Popen[str] | None = None
        self._run("roundup-admin", "-i", self._home, "install", "classic", "sqlite")
        self._configure(settings)
        self._run("roundup-admin", "-i", self._home, "initialise", "admin-password")
        self.do(by=AGENT, address="desk@fennmoor.example", roles="User,Agent", password=PASSWORD)
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def _configure(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        path = self._home / "config.ini"
        config = configparser.ConfigParser(interpolation=None)
        config.read(path)
        given: dict[str, Mapping[str, str]] = {
            # A login of the demanding kind takes a second of a processor, and each request is a login.
            "main": {"password_pbkdf2_default_rounds": "1000", "admin_email": "admin@fennmoor.example"},
            "tracker": {"web": self.web},
            "mail": {"domain": "fennmoor.example", "host": "127.0.0.1", "debug": str(self._folder / "mails")},
        }
        for section in given.keys() | settings.keys():
            config[section].update(given.get(section, {}) | settings.get(section, {}))
        with path.open("w") as file:
            config.write(file)
        with (self._home / "schema.py").open("a") as file:
            file.write(ROLE)

    def _run(self, program: str, *words: object, given: str = "") -> str:
        command = [str(self._bin / program), *map(str, words)]
        done = subprocess.run(
            command,
            input=given,
            cwd=self._folder,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            **self._user,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def start(self) -> None:
        """Bring it up, on the port that it had."""
        command = [str(self._bin / "roundup-server"), "-n", "127.0.0.1", "-p", str(self._port), f"desk={self._home}"]
        with (self._folder / "log").open("a") as log:
            self._server = subprocess.Popen(
                command, cwd=self._folder, env={}, stdout=log, stderr=log, start_new_session=True, **self._user
            )
        wait_for(self._answers, 60, f"Roundup ({self._folder / 'log'})")

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return self.ask("status").status_code == 200
        return False

    def kill(self) -> None:
        """End all its processes at once."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def stop(self) -> None:
        self.kill()
        if self._deeds is not None:
            self._deeds.kill()
            self._deeds.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def root(self) -> str:
        """Scheme, host and port."""
        return self.web.removesuffix("/desk/")

    @property
    def account(self) -> dict[str, str]:
        """What the environment of an agent must hold."""
        return {"HOLDFAST_ROUNDUP_USER": AGENT, "HOLDFAST_ROUNDUP_PASSWORD": PASSWORD}

    def ask(self, path: str, **options: Any) -> httpx.Response:
        """One question to its REST interface as the administrator."""
        headers = {"X-Requested-With": "rest", "Origin": self.root, "Referer": self.web}
        found = httpx.get(
            f"{self.web}rest/data/{path}", params=options, headers=headers, auth=("admin", "admin-password"), timeout=30
        )
        return found

    def do(self, **deed: Any) -> tuple[str, list[str]]:
        """One deed of a person; the issue and the messages made."""
        return self.do_all([deed])[0]

    def do_all(self, deeds: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
        if self._deeds is None:
            command = [str(self._bin / "python"), "-c", DEEDS, str(self._home)]
            self._deeds = subprocess.Popen(
                command,
                cwd=self._folder,
                env={},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                **self._user,
            )
        assert self._deeds.stdin is not None and self._deeds.stdout is not None
        made = []
        for deed in deeds:
            self._deeds.stdin.write(json.dumps(deed) + "\n")
            self._deeds.stdin.flush()
            said = self._deeds.stdout.readline()
            assert said, f"this deed can not be done: {deed}"
            issue, messages = json.loads(said)
            made.append((str(issue), [str(one) for one in messages]))
        return made

    def ticket(self, issue: str) -> Ticket:
        """What an issue holds now."""
        found = self.ask(f"issue/{issue}", **{"@verbose": 2}).json()["data"]["attributes"]
        messages = [self._message(one["id"]) for one in sorted(found["messages"], key=lambda one: int(one["id"]))]
        assigned = (found["assignedto"] or {}).get("username", "")
        return Ticket(messages, found["status"]["name"], assigned, [one["name"] for one in found["keyword"]])

    def _message(self, number: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"msg/{number}", **{"@verbose": 3}).json()["data"]["attributes"]
        return found

    def page(self, name: str) -> str:
        """A page as people see it."""
        return httpx.get(f"{self.web}{name}", auth=("admin", "admin-password"), timeout=30).text

    def person(self, name: str) -> str:
        """The id of a user, made if there is none."""
        self.do(by=name)
        return str(self.ask(f"user/{name}").json()["data"]["id"])

    def keyword(self, name: str) -> None:
        """Make one."""
        self._run("roundup-admin", "-i", self._home, "create", "keyword", f"name={name}")

    def made(self) -> list[str]:
        """The keys of all messages that our side ever made, linked to an issue or not."""
        asked = {"@fields": "messageid", "messageid": "@holdfast.invalid", "@verbose": "0"}
        found = self.ask("msg", **asked).json()["data"]["collection"]
        return [one["messageid"].partition("@")[0].rpartition(".")[2] for one in found]

    def mails(self) -> Counter[str]:
        """How many mails it sent to each address."""
        path = self._folder / "mails"
        written = path.read_text() if path.exists() else ""
        return Counter(re.findall(r"^TO: (.*)$", written, re.MULTILINE))


@contextlib.contextmanager
def tracker(**settings: Mapping[str, str]) -> Iterator[Tracker]:
    """A tracker that is gone afterwards."""
    one = Tracker(**settings)
    try:
        yield one
    finally:
        one.stop()
