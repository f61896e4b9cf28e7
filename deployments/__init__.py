"""Where it runs: the commands behind `python -m deployments`."""
