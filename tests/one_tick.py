"""One tick of the real agent on the inbox in HOLDFAST_HOME, in a process of its own with `one_run`'s doorways."""

import asyncio

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
    asyncio.run(agent_loop(Agent.model_validate(DESK), dry_run=False))


if __name__ == "__main__":
    main()
