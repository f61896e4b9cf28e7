"""The supervisor of a house under test: the product's own, with witnesses, and live from its first heartbeat."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import httpx

from deployments.supervisor import House, only_one
from tasks.home import PROJECT

AGENT = "agent-loop/support"


def go_live(api: str, changes: dict[str, object]) -> str:
    """Turn the rehearsal off before the first tick; the id of the deployment."""
    found = httpx.get(f"{api}/deployments/name/{AGENT}").raise_for_status().json()
    parameters = {**found["parameters"], "dry_run": False}
    parameters["agent"] = {**parameters["agent"], **changes}
    httpx.patch(f"{api}/deployments/{found['id']}", json={"parameters": parameters}).raise_for_status()
    return str(found["id"])


def main(port: int, changes: dict[str, object]) -> None:
    with only_one():
        house = House(port)
        house.env["PYTHONPATH"] = f"{Path(__file__).parent / 'inject'}{os.pathsep}{PROJECT}"
        house.start_server()
        go_live(house.api, changes)
        house.start_worker()
        print("Up.", flush=True)
        while True:
            for said in house.look():
                print(said, flush=True)
            time.sleep(0.25)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
