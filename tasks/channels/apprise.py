"""Messages through apprise, whose addresses are secrets, so a URL only names where one stands; sent at most once."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import UTC, datetime
from typing import Any

from tasks.channels.message import digest, one_line
from tasks.errors import BadInput
from tasks.records import Effect, Receipt

CAN_FIND = False  # no chat says what it took earlier: after a crash it is `unknown`, and a person decides
NAME = re.compile(r"apprise:(?:(?P<variable>[a-z0-9][a-z0-9_-]{0,40})|(?P<block>[a-z0-9-]{1,60}/[a-z0-9-]{1,60}))")
SECOND = re.compile(r"[,\s]+[a-zA-Z0-9]+://")
WAY_OUT = (
    "Write apprise:ops and put apprise's URL into HOLDFAST_APPRISE_OPS, or name a notification block of Prefect's by "
    "its type and name: apprise:slack-webhook/ops."
)


def _named(url: str) -> tuple[str, str]:
    """The variable that holds the address, or the block that does."""
    found = NAME.fullmatch(url)
    if found is None:
        # The URL is not repeated: it may be apprise's own by mistake, which is a secret.
        raise BadInput(f"An apprise: URL names nothing. {WAY_OUT}")
    variable = found["variable"]
    return (f"HOLDFAST_APPRISE_{variable.upper().replace('-', '_')}" if variable else ""), found["block"] or ""


def _service(variable: str) -> Any:
    import apprise  # takes a third of a second, which only those who use it spend

    address = os.environ.get(variable, "").strip()
    if not address:
        raise BadInput(f"{variable} is not set. {WAY_OUT}")
    # Of two services one could take it and the other not, and neither word would be true of both.
    service = None if SECOND.search(address) else apprise.Apprise.instantiate(address, suppress_exceptions=True)
    if service is None:
        raise BadInput(f"{variable} holds no address that apprise knows; it takes exactly one.")
    return service


def check(url: str) -> None:
    """BadInput if the URL or the environment is wrong; a block is first looked for when there is a message for it."""
    variable, _ = _named(url)
    if variable:
        _service(variable)


def find(url: str, key: str) -> Receipt | None:
    """BadInput always: a caller asks can_find() first."""
    raise BadInput("A chat can not be asked what it took. Look there, then resolve.")


def send(url: str, key: str, effect: Effect, sender: str) -> Receipt:
    """Hand one message to the service. Any failure is OSError: apprise does not say whether something left."""
    variable, block = _named(url)
    title, body = one_line(effect.subject), effect.body
    if variable:
        _notify(_service(variable), url, title, body)
    else:
        asyncio.run(_through(block, title, body))
    return Receipt(channel=url, reference=digest(key)[:32], at=datetime.now(UTC))


def _notify(service: Any, url: str, title: str, body: str) -> None:
    import apprise

    sender = apprise.Apprise()
    sender.add(service)
    # As plain text, so that what an alert says is shown and not obeyed as markup.
    if not sender.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT):
        raise OSError(f"{url} did not take the message, or gave no answer")


async def _through(name: str, title: str, body: str) -> None:
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    try:
        block: Any = await Block.aload(name)
    except (ValueError, RuntimeError) as why:
        raise BadInput(f"There is no block {name!r} ({why}). Make it under Blocks in the UI.") from why
    if not isinstance(block, NotificationBlock):
        raise BadInput(f"The block {name!r} sends no notifications. {WAY_OUT}")
    with block.raise_on_failure():
        try:
            await (block.anotify(body, title) if hasattr(block, "anotify") else block.notify(body, title))
        except Exception as why:
            # Its words may hold the address.
            raise OSError(f"the block {name!r} failed: {type(why).__name__}") from None
