"""Prefect and MLflow as services on this machine: the flow for a scheduler to start, and their pages."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from pipeline import params, paths, repro
from pipeline.errors import Refusal

PORTS = {"prefect": 4200, "mlflow": 5000}


class DeployError(Refusal):
    """A service cannot be started or reached."""


def serve(cron: str | None) -> None:
    """Wait for a Prefect server to start the flow: from its page, by its API or on a schedule in cron's notation.

    One run at a time. DeployError if no server is named: a temporary one can neither schedule nor show anything.
    """
    from pipeline.flow import contrail

    if not os.environ.get("PREFECT_API_URL"):
        raise DeployError(
            "there is no Prefect server to serve: start one with `contrail ui` and set PREFECT_API_URL="
            f"http://127.0.0.1:{PORTS['prefect']}/api"
        )
    study = params.read(paths.root() / "params.yaml")["study"]
    contrail.serve(name=study, cron=cron, parameters={"targets": [], "force": False}, limit=1)


def pages(root: Path) -> None:
    """Serve the pages of Prefect and MLflow, to this machine only, until interrupted.

    DeployError if a port is taken or a server does not start.
    """
    from pipeline import flow, tracking

    for name, port in PORTS.items():
        if _taken(port):
            raise DeployError(f"port {port} is taken: is `contrail ui` or another {name} server running already?")
    with tracking.reach(root):
        pass  # makes the database, so that the server finds it
    env = repro.environment(**{**tracking.QUIET, **flow.SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    servers = [subprocess.Popen(command, cwd=root, env=env) for command in _commands(root)]
    starting = dict(PORTS)
    try:
        while all(server.poll() is None for server in servers):
            for name in [name for name, port in starting.items() if _taken(port)]:
                print(f"{name}: http://127.0.0.1:{starting.pop(name)}", flush=True)
            time.sleep(0.5)
        raise DeployError("a server ended; its own words above say why")
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


def _commands(root: Path) -> list[list[str]]:
    local = ["--host", "127.0.0.1", "--port"]
    store = f"sqlite:///{root}/.mlflow/mlflow.db"
    return [
        [sys.executable, "-m", "prefect", "server", "start", *local, str(PORTS["prefect"])],
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *local,
            str(PORTS["mlflow"]),
            "--backend-store-uri",
            store,
            "--workers",
            "1",
        ],
    ]


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
