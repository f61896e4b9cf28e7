"""The supervisor of a house under test: the product's own, with witnesses, and live from its first heartbeat."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import httpx

from deployments.only_one import only_one
from deployments.pool import make_pool
from deployments.supervisor import POOL, House
from tasks.home import PROJECT
from tests.servers import wait_for

AGENT = "agent-loop/support"


def go_live(api: str, changes: dict[str, object]) -> str:
    """Turn the rehearsal off before the first tick; the id of the deployment."""
    found = httpx.get(f"{api}/deployments/name/{AGENT}").raise_for_status().json()
    parameters = {**found["parameters"], "dry_run": False}
    parameters["agent"] = {**parameters["agent"], **changes}

    def taken() -> bool:
        # A server that has just started answers 503 while its own services keep its database locked.
        sent = httpx.patch(f"{api}/deployments/{found['id']}", json={"parameters": parameters}, timeout=20)
        return sent.status_code != 503 and bool(sent.raise_for_status())

    wait_for(taken, 60, "a server that takes the parameters")
    return str(found["id"])


def main(port: int, changes: dict[str, object], watched: bool) -> None:
    """`watched` by the supervisor, or left alone as an installation of plain workers is, without the warm process."""
    with only_one():
        house = House(port)
        house.env["PYTHONPATH"] = f"{Path(__file__).parent / 'inject'}{os.pathsep}{PROJECT}"
        house.start_server()
        if not watched and house.warm:
            house.warm.stop()
            make_pool(POOL, None)
        go_live(house.api, changes)
        house.start_worker()
        print("Up.", flush=True)
        while True:
            for said in house.look() if watched else []:
                print(said, flush=True)
            time.sleep(0.25)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "watched")
