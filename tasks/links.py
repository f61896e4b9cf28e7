"""Where things are in Prefect's UI, as Markdown, and texts of others that can be no Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from prefect import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL

MARKS = re.compile(r"([\\`*\[\]<>|~])")


class Links(NamedTuple):
    """Addresses in one UI; the ids of deployments are empty where the server has none of that name."""

    ui: str = ""
    why: str = ""
    verdict: str = ""
    permit: str = ""

    def run(self, text: str, flow_run: str) -> str:
        """A text that leads to a flow run."""
        return f"[{text}]({self.ui}/runs/flow-run/{flow_run})" if flow_run else text

    def artifact(self, key: str) -> str:
        """Leads to the newest artifact of a key."""
        return f"[{key}]({self.ui}/artifacts/key/{key})"

    def ask_why(self, case: int) -> str:
        """Leads to the form that tells a case's story; the command that does where there is no such form."""
        return _form(self.ui, "why", self.why, case=case) or f"`why {case}`"

    def judge(self, case: int, text: str = "say") -> str:
        """Leads to the form that takes a verdict on a case; empty where there is none."""
        return _form(self.ui, text, self.verdict, case=case)

    def decide(self, case: int, digest: str) -> str:
        """Leads to the form that permits or denies an effect; the commands that do where there is no such form."""
        return _form(self.ui, "decide", self.permit, case=case, digest=digest) or f"`permit {case} {digest}`, or `deny`"


def _form(ui: str, text: str, deployment: str, **given: int | str) -> str:
    filled = quote(json.dumps(given))
    return f"[{text}]({ui}/deployments/deployment/{deployment}/run?parameters={filled})" if deployment else ""


async def links() -> Links:
    """The addresses in the UI of the server that this process talks to."""
    async with get_client() as client:
        found = {}
        for name in ("why", "verdict", "permit"):
            try:
                found[name] = str((await client.read_deployment_by_name(f"{name}/{name}")).id)
            except ObjectNotFound:  # not entered here: a link less
                continue
    return Links((PREFECT_UI_URL.value() or "").rstrip("/"), **found)


def literally(text: str) -> str:
    """A model's or a person's words on one line, as they were said: no link, picture, heading or column of a table."""
    return MARKS.sub(r"\\\1", " ".join(text.split()))


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells may hold such words: a bar or a line break in one must not make other columns of them."""
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
