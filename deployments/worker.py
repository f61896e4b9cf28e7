"""Prefect's worker, which reads certificates once and not several times for each run; run as `prefect` is."""

from prefect.cli import app

from deployments.keeper import share_certificates

if __name__ == "__main__":
    share_certificates()
    app()
