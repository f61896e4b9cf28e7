"""The doorbell: an authenticated HTTP request, such as Alertmanager's webhook, starts a tick of an agent at once."""

from __future__ import annotations

import asyncio
import hmac
import os
import re

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tasks.errors import BadInput, LedgerLost
from tasks.ledger import the_ledger

SETTING = "HOLDFAST_DOORBELL"
PORT = 4280
SHORTEST = 16  # characters of a token
LARGEST = 4 * 2**20  # bytes of a body, which nobody looks at: an alert storm's
AT_ONCE = 64
BODY_SECONDS = 10.0
RING_SECONDS = 20.0  # until a server that does not answer is called gone
RETRY_SECONDS = 5
NAME = re.compile(r"[a-z0-9-]{1,40}")
STATUS = {"starts": 202, "follows": 202, "unknown": 404, "paused": 409}


def port_and_token(setting: str) -> tuple[int, str]:
    """`TOKEN` or `PORT:TOKEN`, as in HOLDFAST_DOORBELL; BadInput for a token that could be guessed."""
    found = re.fullmatch(r"(?:(\d{1,5}):)?([!-~]+)", setting)
    port = int(found.group(1) or PORT) if found else 0
    if found is None or not 0 < port < 65_536 or len(found.group(2)) < SHORTEST:
        raise BadInput(
            f"{SETTING} is a token of at least {SHORTEST} visible ASCII characters, or a port, a colon and a token; "
            "`openssl rand -hex 24` makes one."
        )
    return port, found.group(2)


class Doorbell:
    """Answers requests. Of an agent one ring is on its way, and one more waits for all that came since."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._one = asyncio.Lock()
        self._next: dict[str, asyncio.Task[Response]] = {}
        routes = [
            Route("/ring/{agent}", self.answer, methods=["POST"]),
            Route("/health", lambda _: Response("ok")),
        ]
        self.app = Starlette(routes=routes)

    async def answer(self, request: Request) -> Response:
        """A ring: who it is from is asked first, then whose bell it is."""
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            return _say(401, "Send the doorbell's token: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if await _too_large(request):
                    return _say(413, f"A body of at most {LARGEST} bytes, please; nobody reads it.")
        except TimeoutError:
            return _say(408, "The body did not come.")
        except ClientDisconnect:
            return _say(400, "The body did not come.")
        agent = request.path_params["agent"]
        if not NAME.fullmatch(agent):
            return _say(404, "No agent has such a name.")
        # Who comes while a ring is on its way is served by the next one: the tick of the first may have looked already.
        if agent not in self._next:
            self._next[agent] = asyncio.create_task(self._in_turn(agent))
        return await asyncio.shield(self._next[agent])

    async def _in_turn(self, agent: str) -> Response:
        async with self._one:
            del self._next[agent]
            return await _ring(agent)


async def _ring(agent: str) -> Response:
    from tasks.ring import ring  # with Prefect's client, which reads its settings where it is first imported

    try:
        async with asyncio.timeout(RING_SECONDS):
            rung = await ring(the_ledger(), agent)
    except (httpx.HTTPError, TimeoutError, LedgerLost) as why:
        head = {"Retry-After": str(RETRY_SECONDS)}
        return _say(503, f"No tick could be started ({type(why).__name__}). Try again soon.", head)
    return _say(STATUS[rung.what], rung.text)


async def _too_large(request: Request) -> bool:
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            return True
    return False


def _say(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"said": text}, status, headers)


def main() -> None:
    """Serve on loopback; in front of other machines belongs a proxy that speaks TLS."""
    port, token = port_and_token(os.environ.pop(SETTING, ""))
    uvicorn.run(
        Doorbell(token).app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        limit_concurrency=AT_ONCE,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=5,
        server_header=False,
    )


if __name__ == "__main__":
    main()
