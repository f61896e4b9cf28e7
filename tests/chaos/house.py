"""The supervisor of a house under test: the product's own, with witnesses, and live from its first heartbeat."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from deployments.only_one import only_one
from deployments.pool import make_pool
from deployments.supervisor import POOL, House
from tasks.home import PROJECT
from tests.servers import ask_prefect

AGENT = "agent-loop/support"


def go_live(api: str, changes: dict[str, object]) -> str:
    """Turn the rehearsal off before the first tick; the id of the deployment."""
    found = ask_prefect(api, "GET", f"/deployments/name/{AGENT}")
    parameters = {**found["parameters"], "dry_run": False}
    parameters["agent"] = {**parameters["agent"], **changes}
    ask_prefect(api, "PATCH", f"/deployments/{found['id']}", json={"parameters": parameters})
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
