"""The warm process with a test's own program in the place of Prefect's engine, and little to import."""

import os
import runpy
import sys
from pathlib import Path

from deployments import warm
from deployments.keeper import ending_at_once

warm.LIBRARIES = ("prefect.main",)

if __name__ == "__main__":
    warm.main(Path(sys.argv[1]))
    with ending_at_once():
        runpy.run_path(os.environ["PROGRAM"], run_name="__main__")
