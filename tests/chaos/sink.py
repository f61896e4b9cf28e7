"""A mail server in a process of its own, which files each mail under the domain it came from before it says yes."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.servers import free_port


class _Filing:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:
        box = self._folder / (envelope.mail_from or "").partition("@")[2] / "new"
        box.mkdir(parents=True, exist_ok=True)
        draft = box.parent / uuid.uuid4().hex
        draft.write_bytes(envelope.content or b"")  # type: ignore[arg-type]
        draft.rename(box / draft.name)
        return "250 OK"


class Sink:
    """Forks the server; the port and the folder under which mails lie."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        ready, said = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                asyncio.run(self._serve(said))
            finally:
                os._exit(0)
        os.close(said)
        os.read(ready, 1)
        os.close(ready)

    async def _serve(self, said: int) -> None:
        filing = _Filing(self.folder)
        server = await asyncio.get_running_loop().create_server(
            lambda: SMTP(filing, enable_SMTPUTF8=True), "127.0.0.1", self.port
        )
        os.write(said, b".")
        await server.serve_forever()

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
