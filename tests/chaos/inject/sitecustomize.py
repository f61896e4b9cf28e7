"""Test-only: lets the runs of a full stack bear witness; a folder on PYTHONPATH, and nothing in the product."""

import importlib.abc
import importlib.util
import os
import sys


class _AfterStore(importlib.abc.MetaPathFinder):
    """Patches the step store as soon as somebody imports it, so that other programs start as fast as ever."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != "tasks.store":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def loading(module):  # type: ignore[no-untyped-def]
            load(module)
            from tests.chaos.witness import bear_witness

            sys.modules["tasks.store"] = module
            bear_witness()

        spec.loader.exec_module = loading
        return spec


if os.environ.get("CHAOS_LOG"):
    sys.meta_path.insert(0, _AfterStore())
