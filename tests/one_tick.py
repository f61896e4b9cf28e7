"""One tick of the real agent on the inbox in HOLDFAST_HOME, in a process of its own with `one_run`'s doorways.

AGENT holds settings that differ from DESK, as JSON.
"""

import asyncio
import json
import os

from flows.loop import agent_loop
from tasks.ledger.database import the_ledger
from tasks.records import Agent
from tests.one_run import patch

DESK = {
    "name": "desk",
    "source": "maildir:inbox",
    "skills": ["answer_ticket"],
    "effects": {"reply": "maildir:sent", "hand_over": "maildir:handover"},
}


def main() -> None:
    the_ledger()
    patch()
    agent = Agent.model_validate(DESK | json.loads(os.environ.get("AGENT", "{}")))
    asyncio.run(agent_loop(agent, dry_run=False))


if __name__ == "__main__":
    main()
