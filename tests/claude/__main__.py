"""`python -m tests.claude --port N --log FILE`: the fake until it is killed."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from tests.claude.brain import chance_brain, load
from tests.claude.log import Log
from tests.claude.server import Server
from tests.claude.wire import serve


async def run(given: argparse.Namespace) -> None:
    server = Server(Log(given.log), load(given.brain) if given.brain else chance_brain)
    if given.script:
        server.control(json.loads(given.script.read_text()))
    await serve(given.port, server.handle)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.claude", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True, help="what every request cost, in JSON lines")
    parser.add_argument("--script", type=Path, help="JSON with the words of POST /control, obeyed at the start")
    parser.add_argument("--brain", help="module:function that gets a request's body and says something")
    asyncio.run(run(parser.parse_args()))
