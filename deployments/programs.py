"""Finds the Debian programs that a demonstration needs, or unpacks them into a folder of ours; installs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tasks.errors import BadInput

# Each program with the package that has it. An installed package would also start a service on its usual port.
PROMETHEUS, ALERTMANAGER, PUSHGATEWAY = "prometheus", "prometheus-alertmanager", "prometheus-pushgateway"
PACKAGES = {PROMETHEUS: PROMETHEUS, "promtool": PROMETHEUS, ALERTMANAGER: ALERTMANAGER, PUSHGATEWAY: PUSHGATEWAY}
SECONDS = 300.0


def programs(cache: Path) -> dict[str, Path]:
    """Where each program lies: on PATH, or in `cache`, where what is missing is unpacked once."""
    found = {name: path for name in PACKAGES if (path := _find(name, cache))}
    if missing := sorted({PACKAGES[name] for name in PACKAGES.keys() - found.keys()}):
        _unpack(missing, cache)
        found = {name: path for name in PACKAGES if (path := _find(name, cache))}
    if lost := sorted(PACKAGES.keys() - found.keys()):
        raise BadInput(f"{', '.join(lost)} can not be had here. {_by_hand(sorted({PACKAGES[one] for one in lost}))}")
    return found


def _find(name: str, cache: Path) -> Path | None:
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{cache / 'usr/bin'}")
    return Path(path) if path else None


def _unpack(packages: list[str], cache: Path) -> None:
    for needed in ("apt-get", "dpkg"):
        if shutil.which(needed) is None:
            raise BadInput(f"There is no {needed} here, and no {', '.join(packages)} on PATH. {_by_hand(packages)}")
    cache.mkdir(parents=True, exist_ok=True)
    said = _run(["apt-get", "download", *packages], cache)
    if said and os.geteuid() == 0:
        _run(["apt-get", "update", "-qq"], cache)  # a fresh image has no lists, and only root can fetch them
        said = _run(["apt-get", "download", *packages], cache)
    if said:
        raise BadInput(f"`apt-get download {' '.join(packages)}` failed: {said}\n{_by_hand(packages)}")
    for file in sorted(cache.glob("*.deb")):
        if said := _run(["dpkg", "-x", str(file), str(cache)], cache):
            raise BadInput(f"{file} can not be unpacked: {said}\n{_by_hand(packages)}")
        file.unlink()


def _run(command: list[str], folder: Path) -> str:
    """Run it in a folder. Returns '' or what it said when it failed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS:.0f} s"
    return "" if done.returncode == 0 else (done.stderr or done.stdout)[-1500:].strip() or f"status {done.returncode}"


def _by_hand(packages: list[str]) -> str:
    install = f"apt-get install --no-install-recommends {' '.join(packages)}"
    return (
        f"Install by hand and try again: `sudo apt-get update && sudo {install}` (Debian, Ubuntu), or put them on PATH."
    )
