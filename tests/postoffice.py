"""A post office of our own: a real Dovecot that keeps the mailboxes, and an SMTP server that delivers into them.

Mail is handed from one to the other over LMTP, to every reader of a transaction. Any address at any domain is a
mailbox with the same password; `late` says by how many seconds an address gets
its mail later, as from a server with a queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import grp
import imaplib
import os
import pwd
import re
import shutil
import signal
import smtplib
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.dovecot import CAPABILITIES, CONFIG, dovecot
from tests.servers import free_port, wait_for

PASSWORD = "open-sesame"


class PostOffice:
    """Both servers in a folder of their own; `heard` is told when a mail is `taken` and when it is `delivered`.

    Both is before the server says yes. It is called in a thread of its own; ConnectionAbortedError cuts the line.
    """

    def __init__(self, condstore: bool = True) -> None:
        program = dovecot()
        self.folder = Path(tempfile.mkdtemp(prefix="holdfast-post-"))
        self.plain, self.tls, self.lmtp = free_port(), free_port(), free_port()
        self.late, self.refused = dict[str, float](), set[str]()
        self.heard: Callable[[str, Envelope], None] = lambda doorway, envelope: None
        self._certify()
        # Dovecot reads no mail as root, so it becomes somebody who owns nothing else.
        owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwnam(getpass.getuser())
        self._own(owner)
        without = "CONDSTORE", "QRESYNC"
        imap = "" if condstore else f"imap_capability = {' '.join(one for one in CAPABILITIES if one not in without)}"
        told = dict(folder=self.folder, user=owner.pw_name, group=_group(owner), password=PASSWORD)
        told |= dict(plain=self.plain, tls=self.tls, lmtp=self.lmtp, imap=imap)
        (self.folder / "dovecot.conf").write_text(CONFIG.format(**told))
        self._program, self._owner = program, owner
        self.start()
        self._smtp = [_Controller(self, mode) for mode in ("plain", "starttls", "tls")]
        for one in self._smtp:
            one.start()

    def _certify(self) -> None:
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
        names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
        subprocess.run([*command.split(), *names], cwd=self.folder, check=True, capture_output=True)
        self.ca = str(self.folder / "cert.pem")

    def _own(self, owner: pwd.struct_passwd) -> None:
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, owner.pw_uid, owner.pw_gid)

    def start(self) -> None:
        """Bring Dovecot up, and wait until it lets somebody in."""
        given = dict(user=self._owner.pw_uid, group=self._owner.pw_gid, extra_groups=[]) if os.geteuid() == 0 else {}
        command = [self._program, "-F", "-c", str(self.folder / "dovecot.conf")]
        with (self.folder / "output").open("ab") as out:
            self._dovecot = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                cwd="/",
                start_new_session=True,
                **given,  # type: ignore[call-overload]
            )
        wait_for(self._answers, 30, f"Dovecot ({self.folder})")

    def _answers(self) -> bool:
        assert self._dovecot.poll() is None, (self.folder / "output").read_text()
        try:
            with imaplib.IMAP4("127.0.0.1", self.plain, timeout=5), smtplib.LMTP("127.0.0.1", self.lmtp):
                return True
        except (OSError, imaplib.IMAP4.error, smtplib.SMTPException):
            return False

    def end_dovecot(self) -> None:
        """End it, and wait until all of it has gone: another could not start before."""
        self._dovecot.send_signal(signal.SIGTERM)
        self._dovecot.wait(20)

    def stop(self) -> None:
        for one in self._smtp:
            one.stop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._dovecot.pid, signal.SIGKILL)
        self._dovecot.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def imap(self, folder: str = "INBOX") -> str:
        return f"imap://127.0.0.1:{self.tls}/{folder}"

    def smtp(self, how: str = "") -> str:
        """URL of the server that is spoken to so: encrypted from the start of the mail, or `tls`, or `plain`."""
        mode = how or "starttls"
        port = next(one.port for one in self._smtp if one.mode == mode)
        return f"smtp{'+' if how else ''}{how}://127.0.0.1:{port}"

    def deliver(self, raw: bytes, to: Sequence[str], writer: str = "") -> None:
        """Put a mail into mailboxes, as the last server on its way does."""
        with smtplib.LMTP("127.0.0.1", self.lmtp, local_hostname="localhost") as server:
            refused = server.sendmail(writer, list(to), raw)
            assert not refused, refused

    @contextlib.contextmanager
    def opened(self, who: str, folder: str = "INBOX") -> Iterator[imaplib.IMAP4]:
        """Somebody's mailbox, as a mail program opens it."""
        with imaplib.IMAP4("127.0.0.1", self.plain, timeout=30) as client:
            client.login(f'"{who}"', PASSWORD)
            assert client.select(folder)[0] == "OK"
            yield client

    def mails(self, who: str, folder: str = "INBOX") -> list[EmailMessage]:
        """What lies in somebody's mailbox."""
        with self.opened(who, folder) as client:
            uids = client.uid("SEARCH", "ALL")[1][0].split()
            found = [client.uid("FETCH", uid.decode(), "(BODY.PEEK[])")[1][0][1] for uid in uids]
        return [BytesParser(policy=default).parsebytes(raw) for raw in found]  # type: ignore[misc]

    def flags(self, who: str) -> dict[int, set[str]]:
        """What each mail in somebody's inbox is marked with, by UID."""
        with self.opened(who) as client:
            said = client.uid("FETCH", "1:*", "(UID FLAGS)")[1]
        found = {}
        for line in said:
            if isinstance(line, bytes) and b"UID " in line:
                uid = int(line.split(b"UID ")[1].split()[0].strip(b")"))
                found[uid] = set(line.split(b"FLAGS (")[1].split(b")")[0].decode().split()) - {r"\Recent"}
        return found


def _group(owner: pwd.struct_passwd) -> str:
    return grp.getgrgid(owner.pw_gid).gr_name


class _Controller(Controller):
    """One port of the SMTP server."""

    def __init__(self, office: PostOffice, mode: str) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(office.folder / "cert.pem", office.folder / "key.pem")
        given: dict[str, Any] = {"authenticator": _allowed, "auth_require_tls": False}
        if mode == "tls":
            given |= {"ssl_context": context}
        if mode == "starttls":
            given |= {"tls_context": context, "require_starttls": True, "auth_required": True, "auth_require_tls": True}
        self.mode = mode
        super().__init__(_Handler(office), hostname="127.0.0.1", port=free_port(), **given)


def _allowed(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
    return AuthResult(success=data.password == PASSWORD.encode(), handled=False)


class _Handler:
    def __init__(self, office: PostOffice) -> None:
        self._office = office

    async def handle_RCPT(self, _: SMTP, session: Session, envelope: Envelope, address: str, options: object) -> str:
        if address in self._office.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        try:
            # In one call, which goes on when the sender is gone: as with any server, a whole mail is a mail.
            await asyncio.to_thread(self._take, envelope)
        except ConnectionAbortedError:
            assert server.transport is not None
            server.transport.abort()
        return "250 OK"

    def _take(self, envelope: Envelope) -> None:
        office = self._office
        office.heard("taken", envelope)
        assert isinstance(envelope.content, bytes) and envelope.mail_from is not None
        for reader in envelope.rcpt_tos:
            given = (envelope.content, [reader], envelope.mail_from)
            if seconds := office.late.get(reader):
                queued = threading.Timer(seconds, office.deliver, given)
                queued.daemon = True
                queued.start()
            else:
                office.deliver(*given)
        office.heard("delivered", envelope)


@contextlib.contextmanager
def post_office(**settings: Any) -> Iterator[PostOffice]:
    """One for a `with`, and its account and certificate in the environment of this process."""
    office = PostOffice(**settings)
    try:
        yield office
    finally:
        office.stop()


def renumber(office: PostOffice, who: str) -> None:
    """Let the server give new numbers, which look like the old ones under another UIDVALIDITY."""
    folder = office.folder / "mail" / who
    numbers = (folder / "dovecot-uidlist").read_text()
    (folder / "dovecot-uidlist").write_text(
        re.sub(r" V(\d+)", lambda found: f" V{int(found[1]) + 1000}", numbers, count=1)
    )
    for path in folder.glob("dovecot.index*"):
        path.unlink()
