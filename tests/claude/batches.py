"""Message batches: taken, worked when their time has come, and read in another order."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.claude.answer import new_id
from tests.claude.errors import Body, Refused, envelope
from tests.claude.model import Model

LIFE = 24 * 3_600


@dataclass
class Batch:
    id: str
    key: str
    request_id: str
    requests: list[Body]
    created: float
    cancelled: float | None = None
    ended: float | None = None
    results: list[Body] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def shown(self, base: str) -> Body:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for one in self.results:
            counts[one["result"]["type"]] += 1
        counts["processing"] = 0 if self.ended else len(self.requests)
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": "ended" if self.ended else "canceling" if self.cancelled else "in_progress",
            "request_counts": counts,
            "created_at": _at(self.created),
            "expires_at": _at(self.created + LIFE),
            "ended_at": _at(self.ended),
            "cancel_initiated_at": _at(self.cancelled),
            "archived_at": None,
            "results_url": f"{base}/v1/messages/batches/{self.id}/results" if self.ended else None,
        }


def _at(seconds: float | None) -> str | None:
    return None if seconds is None else (datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)).isoformat()


class Batches:
    def __init__(self, model: Model) -> None:
        self.delay: float | None = 0.0  # seconds until a batch ends; None: when it is told to
        self.all: dict[str, Batch] = {}
        self._model = model
        self._working: set[asyncio.Task[None]] = set()

    def create(self, body: Body, key: str, request_id: str) -> Batch:
        requests = body.get("requests")
        if not isinstance(requests, list) or not requests:
            raise Refused(400, "requests: List should have at least 1 item")
        for number, one in enumerate(requests):
            if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", str(one.get("custom_id", ""))):
                pattern = "String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
                raise Refused(400, f"requests.{number}.custom_id: {pattern}")
            if not isinstance(one.get("params"), dict):
                raise Refused(400, f"requests.{number}.params: Field required")
        if len({one["custom_id"] for one in requests}) < len(requests):
            raise Refused(400, "requests: custom_id must be unique")
        batch = Batch(new_id("msgbatch"), key, request_id, requests, self._model.now())
        self.all[batch.id] = batch
        task = asyncio.create_task(self._work(batch))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return batch

    def get(self, batch_id: str, key: str) -> Batch:
        batch = self.all.get(batch_id)
        if batch is None or batch.key != key:
            raise Refused(404, f"Message batch {batch_id} not found.")
        return batch

    def page(self, key: str, query: dict[str, str], base: str) -> Body:
        """The newest first."""
        mine = [one for one in reversed(self.all.values()) if one.key == key]
        if after := query.get("after_id"):
            mine = mine[[one.id for one in mine].index(after) + 1 :]
        limit = int(query.get("limit", 20))
        page = [one.shown(base) for one in mine[:limit]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return {"data": page, "has_more": len(mine) > limit, **ends}

    def cancel(self, batch: Batch) -> None:
        if batch.ended:
            raise Refused(400, f"Message batch {batch.id} has already ended and can not be canceled.")
        batch.cancelled = batch.cancelled or self._model.now()
        batch.go.set()

    def delete(self, batch: Batch) -> None:
        if not batch.ended:
            raise Refused(400, f"Message batch {batch.id} is still processing; cancel it first.")
        del self.all[batch.id]

    def end(self) -> None:
        """Work what waits, now."""
        for batch in self.all.values():
            batch.go.set()

    def expire(self) -> None:
        for batch in self.all.values():
            if self._over(batch):
                batch.go.set()

    def results(self, batch: Batch) -> bytes:
        if not batch.ended:
            raise Refused(404, f"Message batch {batch.id} has no available results yet.")
        # The API promises no order, so whoever relies on one must fail here.
        return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in reversed(batch.results))

    def _over(self, batch: Batch) -> bool:
        return self._model.now() >= batch.created + LIFE

    async def _work(self, batch: Batch) -> None:
        try:
            async with asyncio.timeout(self.delay):
                await batch.go.wait()
        except TimeoutError:
            pass
        if batch.cancelled:
            batch.results = [_result(one, {"type": "canceled"}) for one in batch.requests]
        elif self._over(batch):
            batch.results = [_result(one, {"type": "expired"}) for one in batch.requests]
        else:
            batch.results = [_result(one, self._item(batch, one)) for one in batch.requests]
        batch.ended = self._model.now()

    def _item(self, batch: Batch, one: Body) -> Body:
        body, key, custom_id = one["params"], batch.key, one["custom_id"]
        fault = None
        try:
            if body.get("stream"):
                raise Refused(400, "stream: Streaming is not supported in batches")
            self._model.check(body)
            fault = self._model.faults.take("item", body)
            if fault and fault.kind == "expired":
                return {"type": "expired"}
            if fault and fault.refusal:
                raise fault.refusal
            paid = self._model.answer(body, key, "batch", fault)
        except Refused as no:
            self._model.note("batch item", body, key, batch.request_id, no.status, fault=fault, custom_id=custom_id)
            return {"type": "errored", "error": envelope(no.status, str(no), None)}
        self._model.note("batch item", body, key, batch.request_id, 200, paid, True, fault, custom_id)
        return {"type": "succeeded", "message": paid}


def _result(request: Body, result: Body) -> Body:
    return {"custom_id": request["custom_id"], "result": result}
