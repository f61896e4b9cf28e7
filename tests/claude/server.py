"""Routes of the Messages API, and of the control that makes it fail."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.claude.answer import new_id
from tests.claude.batches import Batches
from tests.claude.brain import Brain
from tests.claude.check import MODELS
from tests.claude.errors import Body, Refused, envelope, parsed
from tests.claude.faults import Fault
from tests.claude.log import Log
from tests.claude.model import Model
from tests.claude.prompt import input_tokens
from tests.claude.stream import event, events
from tests.claude.wire import CutOff, Reply, Request, json_reply

LARGEST = 32 * 1024 * 1024
KINDS = {
    "/v1/messages": "message",
    "/v1/messages/count_tokens": "count",
    "/v1/messages/batches": "batch",
}
PROXY = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


class Server:
    def __init__(self, log: Log, brain: Brain) -> None:
        self._model = Model(log, brain)
        self._batches = Batches(self._model)
        self._refused_keys: dict[str, int] = {}

    async def handle(self, request: Request) -> Reply:
        request_id = new_id("req")
        try:
            reply = await self._route(request, request_id)
        except Refused as no:
            reply = json_reply(envelope(no.status, str(no), request_id), no.status, no.headers)
            if no.status == 429:
                reset = (datetime.now(UTC) + timedelta(seconds=float(no.headers.get("retry-after", 60)))).isoformat()
                reply.headers.update({"anthropic-ratelimit-requests-remaining": "0"})
                reply.headers.update({"anthropic-ratelimit-requests-reset": reset})
        except CutOff:
            raise
        except Exception:
            traceback.print_exc(file=sys.stderr)
            reply = json_reply(envelope(500, "the fake itself failed, see its output", request_id), 500)
        reply.headers["request-id"] = request_id
        return reply

    async def _route(self, request: Request, request_id: str) -> Reply:
        path, method = request.path, request.method
        if path == "/health":
            return json_reply({"ok": True})
        if path == "/control":
            return json_reply(self.control(parsed(request.body)) if method == "POST" else self._state())
        kind = KINDS.get(path) if method == "POST" else None
        if kind is None:
            return await self._read(request, self._key(request))
        key, body, fault = "", Body(), None
        try:
            key = self._key(request)
            body = self._body(request)
            if kind != "batch":
                self._model.check(body, counting=kind == "count")
            fault = self._model.faults.take(kind, body)
            if kind == "message":
                return await self._message(request, body, key, request_id, fault)
            await self._suffer(request, fault)
            return self._free(request, kind, body, key, request_id, fault)
        except Refused as no:
            self._model.note(kind, body, key, request_id, no.status, fault=fault)
            raise
        except CutOff:
            if fault and fault.kind in ("cut_before", "hang"):
                self._model.note(kind, body, key, request_id, fault=fault)
            raise

    def _key(self, request: Request) -> str:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        key = bearer or request.headers.get("x-api-key", "")
        if not key:
            raise Refused(401)
        if key in self._refused_keys:
            raise Refused(self._refused_keys[key])
        if "anthropic-version" not in request.headers:
            raise Refused(400, "anthropic-version: header is required")
        return key

    def _body(self, request: Request) -> Body:
        if len(request.body) > LARGEST:
            raise Refused(413)
        return parsed(request.body)

    async def _suffer(self, request: Request, fault: Fault | None) -> None:
        """All of a fault that comes before an answer is worked out."""
        if fault is None:
            return
        await asyncio.sleep(fault.delay)
        if fault.kind == "held":
            await self._model.released.wait()
        elif fault.kind == "hang":
            await request.gone.wait()
        if fault.kind in ("cut_before", "hang"):
            raise CutOff
        if fault.refusal:
            raise fault.refusal

    async def _message(self, request: Request, body: Body, key: str, request_id: str, fault: Fault | None) -> Reply:
        kind, arrived = fault.kind if fault else "", self._model.now()
        with self._model.flying(body):
            await self._suffer(request, fault)
        streams = bool(body.get("stream"))
        if kind == "html":
            self._model.note("message", body, key, request_id, 502, fault=fault)
            return Reply(502, PROXY, {"content-type": "text/html"})
        if kind == "stream_error" and not streams:
            raise Refused(529)
        # Whoever left meanwhile pays all the same: the worst that a real API can do.
        paid = self._model.answer(body, key, "standard", fault, arrived)
        whole = kind not in ("cut_after", "stream_error") and not request.gone.is_set()
        self._model.note("message", body, key, request_id, 200, paid=paid, answered=whole, fault=fault)
        if streams:
            return Reply(200, _streamed(paid, kind, request_id), {"content-type": "text/event-stream; charset=utf-8"})
        if kind == "cut_after":
            raise CutOff
        return json_reply(paid)

    def _free(self, request: Request, kind: str, body: Body, key: str, request_id: str, fault: Fault | None) -> Reply:
        """What costs nothing in itself: a count, and taking a batch."""
        if kind == "count":
            found = {"input_tokens": input_tokens(body)}
        else:
            found = self._batches.create(body, key, request_id).shown(_base(request))
        cut = fault is not None and fault.kind == "cut_after"
        self._model.note(kind, body, key, request_id, 200, answered=not cut, fault=fault)
        if cut:
            raise CutOff
        return json_reply(found)

    async def _read(self, request: Request, key: str) -> Reply:
        steps = request.path.strip("/").split("/")
        match request.method, steps:
            case "GET", ["v1", "models"]:
                data = [_model(one) for one in sorted(MODELS | self._model.models)]
                ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
                return json_reply({"data": data, "has_more": False, **ends})
            case "GET", ["v1", "models", name]:
                if name not in MODELS | self._model.models:
                    raise Refused(404, f"model: {name}")
                return json_reply(_model(name))
            case _, ["v1", "messages", "batches", *rest]:
                await self._suffer(request, self._model.faults.take("poll", {}))
                return self._batch(request, key, rest)
        raise Refused(404, "Not Found")

    def _batch(self, request: Request, key: str, steps: list[str]) -> Reply:
        base, batches = _base(request), self._batches
        match request.method, steps:
            case "GET", []:
                return json_reply(batches.page(key, request.query, base))
            case "GET", [name]:
                return json_reply(batches.get(name, key).shown(base))
            case "GET", [name, "results"]:
                lines = batches.results(batches.get(name, key))
                return Reply(200, lines, {"content-type": "application/x-jsonl"})
            case "POST", [name, "cancel"]:
                batches.cancel(batch := batches.get(name, key))
                return json_reply(batch.shown(base))
            case "DELETE", [name]:
                batches.delete(batches.get(name, key))
                return json_reply({"id": name, "type": "message_batch_deleted"})
        raise Refused(404, "Not Found")

    def control(self, order: Body) -> Body:
        """Do what a script or a test says; every word is optional."""
        for word, value in order.items():
            match word:
                case "faults":
                    self._model.faults.add(value)
                case "answers":
                    self._model.script.add(value)
                case "keys":
                    self._refused_keys |= value
                case "models":
                    self._model.models |= set(value)
                case "window":
                    self._model.window = value
                case "batch_delay":
                    self._batches.delay = value
                case "end_batches":
                    self._batches.end()
                case "forget":
                    self._model.faults.all.clear()
                case "release":
                    self._model.released.set()
                    self._model.released = asyncio.Event()
                case "advance":
                    self._model.ahead += value
                    self._batches.expire()
                case _:
                    raise Refused(400, f"no control is called {word!r}")
        return self._state()

    def _state(self) -> Body:
        waiting = [vars(one) for one in self._model.faults.all if one.times != 0]
        batches = {one.id: "ended" if one.ended else "waiting" for one in self._batches.all.values()}
        return {"in_flight": list(self._model.in_flight), "faults": waiting, "batches": batches}


def _streamed(paid: Body, kind: str, request_id: str) -> Iterator[bytes | None]:
    told: list[bytes | None] = list(events(paid))
    if kind not in ("cut_after", "stream_error"):
        return iter(told)
    error: dict[str, Any] = {"error": envelope(529, "Overloaded", None)["error"], "request_id": request_id}
    return iter([*told[: len(told) // 2], None if kind == "cut_after" else event("error", **error)])


def _base(request: Request) -> str:
    return f"http://{request.headers.get('host', '127.0.0.1')}"


def _model(name: str) -> Body:
    line = name.split("-")[1]
    shown = name.removeprefix("claude-").replace("-", " ").title()
    known = {"id": name, "type": "model", "display_name": f"Claude {shown}", "lifecycle": "active", "line": line}
    return known | {"created_at": "2026-01-01T00:00:00Z", "max_input_tokens": 200_000, "max_tokens": 128_000}
