"""Durable steps: Prefect's results, kept in the ledger, written before Prefect hears that a step is finished."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from prefect.cache_policies import CachePolicy
from prefect.context import FlowRunContext, TaskRunContext
from prefect.filesystems import WritableFileSystem
from prefect.results import ResultRecord, ResultStore  # type: ignore[attr-defined]
from prefect.serializers import JSONSerializer
from prefect.settings import get_current_settings
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from sqlalchemy import Connection

from tasks.errors import BadInput, Draining, Halt, StepRefused
from tasks.ledger.calls import forget_answers
from tasks.ledger.cases import guard
from tasks.ledger.steps import store_step
from tasks.records import Case
from tasks.working import WORKING, Hand

A_FILE_HASH = re.compile(r"[0-9a-f]{32}")


class _Running(NamedTuple):
    task_run: object
    key: str
    hand: Hand


_RUNNING: ContextVar[_Running | None] = ContextVar("RUNNING", default=None)


class LedgerStorage(WritableFileSystem):
    """Where Prefect looks for a finished step: among those that `begin` loaded with the case.

    Only the holder of the lease can add to them, so what is not there was not finished; no query is needed.
    """

    _block_type_slug = "holdfast-ledger"

    def _resolve_path(self, path: str) -> None:
        return None  # keys are no paths; Prefect would join them to a folder

    async def aread_path(self, path: str) -> bytes | None:
        hand = WORKING.get()
        return None if hand is None else hand.steps.get(path)

    async def awrite_path(self, path: str, content: bytes) -> None:
        if "/" not in path:
            return  # a failed step's exception, under a name of Prefect's own: the ledger keeps what is finished
        hand = WORKING.get()
        if hand is None or path not in hand.steps:
            raise StepRefused(
                path, "in hand", "was reported as finished but is not stored", "This is a bug: report it."
            )

    def read_path(self, path: str, _sync: bool | None = None) -> bytes | None:  # type: ignore[override]
        raise StepRefused(path, "in hand", "was read by a plain `def`", "Write `async def`.")

    def write_path(self, path: str, content: bytes, _sync: bool | None = None) -> None:  # type: ignore[override]
        raise StepRefused(path, "in hand", "was written by a plain `def`", "Write `async def`.")


LEDGER = LedgerStorage()
JSON = JSONSerializer()


@dataclasses.dataclass
class OncePerCase(CachePolicy):
    """A step with this policy finishes once for the same skill, version, case and inputs, whatever is killed.

    Key: skill / version / case / step / digest of all inputs. Raises StepRefused where Prefect would
    swallow the error and run the step again, and leaves durability to no setting that a worker may not have.
    """

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **_: Any
    ) -> str:
        task = task_ctx.task
        step = f"{task.fn.__module__}.{task.fn.__qualname__}"
        hand = WORKING.get()
        if hand is None:
            raise StepRefused(step, "(none)", "ran outside of each()", "Call it in the function given to each().")
        case = hand.work.case.id
        if not task.isasync or task.isgenerator:
            raise StepRefused(step, case, "is not an `async def` that returns", "Write `async def` without yield.")
        if task.refresh_cache or get_current_settings().tasks.refresh_cache:
            raise StepRefused(
                step, case, "has refresh_cache set, so it would pay again", "Unset it; use `redo` instead."
            )
        try:
            digest = hashlib.sha256(json.dumps(_plain(inputs), sort_keys=True).encode()).hexdigest()[:16]
        except (TypeError, ValueError, RecursionError) as why:
            way = "Give steps pydantic models, strings, numbers, lists and dicts with string keys."
            raise StepRefused(step, case, f"has an input that makes no stable key: {why}", way) from why
        take = f".{hand.work.take}" if hand.work.take else ""
        key = f"{hand.skill}/{hand.version}/{case}{take}/{step}/{digest}"
        store = task_ctx.result_store
        store.result_storage, store.serializer, store.cache_result_in_memory = LEDGER, JSON, False
        if not hasattr(task.fn, "stores"):
            task.fn = _stored(task.fn)
        if key in hand.steps:
            _check(hand.steps[key], step, case)
            hand.replayed_keys.append(key)
        elif hand.work.case.agent in hand.lease.draining:
            raise Draining(case)
        _RUNNING.set(_Running(task_ctx.task_run.id, key, hand))
        return key


ONCE_PER_CASE = OncePerCase()


def step_in_hand(doing: str) -> tuple[str, str]:
    """Name and key of the step that this code runs in; BadInput outside of one, where a kill would pay again."""
    running, context = _RUNNING.get(), TaskRunContext.get()
    if running is None or context is None or context.task_run.id != running.task_run:
        raise BadInput(f"There is no step to {doing} in: call it inside a task with ONCE_PER_CASE.")
    fn = context.task.fn
    return f"{fn.__module__}.{fn.__qualname__}", running.key


def _stored(fn: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """The step's function, which stores its result before it returns.

    Prefect announces Completed first and writes then: a kill between the two would leave a finished step that
    runs again, a failed write would pass unseen, and a nested step would wait for its parent to be written.
    """

    @functools.wraps(fn)
    async def stored(*args: Any, **kwargs: Any) -> Any:
        running, context = _RUNNING.get(), TaskRunContext.get()
        if running is None or context is None or context.task_run.id != running.task_run:
            return await fn(*args, **kwargs)  # called as plain .fn(), which is no step
        hand, key = running.hand, running.key
        step = f"{fn.__module__}.{fn.__qualname__}"
        if not hand.lease.fresh():
            # Frozen or cut off for half a lease: others may have finished this step, and it may cost money.
            work, doing = hand.work, f"run step {step}"
            await hand.ledger.read(doing, lambda c: guard(c, work.case.id, work.fence, doing))
        started = time.monotonic()
        result = await fn(*args, **kwargs)
        seconds = time.monotonic() - started
        content = _serialise(context.result_store, key, result, step, hand.work.case.id)

        def store(c: Connection) -> bytes:
            kept = store_step(c, hand.work, key, step, content, seconds)
            if key in hand.asking:
                forget_answers(c, hand.work.case.id, [key])
            return kept

        kept = await hand.ledger.write(f"store step {step} of case {hand.work.case.id}", store)
        hand.steps[key] = kept
        hand.asking.discard(key)
        return result if kept == content else ResultRecord.deserialize(kept).result

    stored.stores = True  # type: ignore[attr-defined]
    return stored


def _serialise(store: ResultStore, key: str, result: Any, step: str, case: int) -> bytes:
    """Bytes from which another process makes an equal result; StepRefused if there are none."""
    way = "Return a pydantic model from a module in skills/ or tasks/, or strings, numbers, lists and dicts."
    try:
        content = store.create_result_record(result, key=key).serialize()
        back: Any = ResultRecord.deserialize(content).result
    except Exception as why:
        raise StepRefused(step, case, f"returned what JSON can not hold: {why}", way) from why
    if type(back) is not type(result) or back != result:
        raise StepRefused(step, case, "returned what comes back from JSON as something else", way)
    for name in _classes(content):
        if name.startswith("__main__.") or not _importable(name):
            raise StepRefused(
                step,
                case,
                f"returned a {name}, which another process can not import",
                "Run the flow as a module (`from skills.x import x`), not as a script or by its path.",
            )
    return content


def _classes(content: bytes) -> set[str]:
    """Names of the classes a stored result needs."""
    inner = json.loads(json.loads(content)["result"])
    found: set[str] = set()
    waiting = [inner]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("__class__"), str):
                found.add(one["__class__"])
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return found


def _importable(name: str) -> bool:
    module, _, _ = name.rpartition(".")
    # A flow loaded by its path has modules that exist in this process only: their names lack the room.
    top = module.partition(".")[0]
    if module in sys.modules and getattr(sys.modules[module], "__spec__", None) is not None:
        spec = importlib.util.find_spec(top)
        return spec is not None
    return False


def _check(content: bytes, step: str, case: int) -> None:
    """Refuse a stored result whose class is gone: Prefect would hand the skill a bare dict."""
    try:
        back: Any = ResultRecord.deserialize(content).result
        gone = [name for name in _classes(content) if isinstance(back, dict) and back.get("__class__") == name]
    except Exception as why:
        raise StepRefused(
            step,
            case,
            f"has a stored result that can not be read: {why}",
            f"Restore its class or database row, or work the case afresh: `redo {case}`.",
        ) from why
    if gone:
        raise StepRefused(
            step,
            case,
            f"was stored as a {gone[0]}, which is gone",
            f"Bring the class back under that name, or work the case afresh: `redo {case}`.",
        )


def _plain(value: Any) -> Any:
    """JSON that is the same in every process for equal inputs; TypeError for what has no such form."""
    if isinstance(value, Case):
        return ["case", value.fingerprint]
    if isinstance(value, BaseModel):
        return [type(value).__qualname__, {name: _plain(getattr(value, name)) for name in type(value).model_fields}]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, fields]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a dict whose keys are not strings")
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(one) for one in value), key=lambda one: json.dumps(one, sort_keys=True))
    if isinstance(value, bytes):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    plain = to_jsonable_python(value)
    if isinstance(plain, str | int | float):
        return [type(value).__qualname__, plain]
    raise TypeError(f"a {type(value).__qualname__}")


def skill_in_hand() -> tuple[str, str, str]:
    """Name and declared version of the skill whose flow runs, and the id of its run."""
    context = FlowRunContext.get()
    if context is None or context.flow is None or context.flow_run is None:
        raise StepRefused("each()", "(none)", "was called outside of a flow", "Call it in an `async def` under @flow.")
    flow = context.flow
    if not flow.version or A_FILE_HASH.fullmatch(flow.version):
        why = "has no declared version, so a changed comment would make every finished step run again"
        raise StepRefused(flow.name, "(all)", why, 'Write @flow(version="1") and raise it when the steps change.')
    return flow.name, flow.version, str(context.flow_run.id)


__all__ = ["LEDGER", "ONCE_PER_CASE", "Halt", "OncePerCase", "skill_in_hand"]
