"""HTTP/1.1 over asyncio, with connections that can be watched for a client that leaves and cut off at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import h11


class CutOff(Exception):
    """The connection ends here, without another byte."""


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    gone: asyncio.Event  # set when the client has left


class Reply(NamedTuple):
    """A body, or pieces of one that are sent as they come; a piece that is None cuts the connection."""

    status: int
    body: bytes | Iterable[bytes | None]
    headers: dict[str, str]


Handler = Callable[[Request], Awaitable[Reply]]


def json_reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    body = json.dumps(content, ensure_ascii=False).encode()
    return Reply(status, body, {"content-type": "application/json"} | (headers or {}))


async def serve(port: int, handler: Handler) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _converse(reader, writer, handler)
        except (CutOff, OSError, h11.ProtocolError):
            writer.transport.abort()  # a reset, not a polite end: nothing that waits in buffers arrives
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", port, backlog=256)
    async with server:
        await server.serve_forever()


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    connection = h11.Connection(h11.SERVER)
    while request := await _receive(connection, reader):
        watching = asyncio.create_task(_watch(connection, reader, request.gone))
        try:
            reply = await handler(request)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        if request.gone.is_set():
            return
        await _send(connection, writer, reply)
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            target = urlsplit(head.target.decode())
            headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
            query = dict(parse_qsl(target.query))
            return Request(head.method.decode(), target.path, query, headers, bytes(body), asyncio.Event())
        else:
            return None


async def _watch(connection: h11.Connection, reader: asyncio.StreamReader, gone: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while early := await reader.read(65536):
            connection.receive_data(early)
    gone.set()


async def _send(connection: h11.Connection, writer: asyncio.StreamWriter, reply: Reply) -> None:
    whole = isinstance(reply.body, bytes)
    framing = ("content-length", str(len(reply.body))) if whole else ("transfer-encoding", "chunked")  # type: ignore[arg-type]
    head = h11.Response(status_code=reply.status, headers=[*reply.headers.items(), framing])
    writer.write(connection.send(head) or b"")
    for piece in [reply.body] if isinstance(reply.body, bytes) else reply.body:
        if piece is None:
            raise CutOff
        writer.write(connection.send(h11.Data(data=piece)) or b"")
        await writer.drain()
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
