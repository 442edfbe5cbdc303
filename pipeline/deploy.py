"""Prefect and MLflow as services on this machine: the flow for a scheduler to start, and their pages."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import params, paths, repro, tracking
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

    Where MLFLOW_TRACKING_URI names an MLflow server, its address is printed instead of a second one started.
    DeployError if a port is taken or a server does not start.
    """
    from pipeline import flow

    commands = _commands(root)
    starting = {name: PORTS[name] for name in commands}
    for name, port in starting.items():
        if _taken(port):
            raise DeployError(f"port {port} is taken: is `contrail ui` or another {name} server running already?")
    if "mlflow" in commands:
        with tracking.reach(root):
            pass  # makes the database, so that the server finds it
    else:
        print(f"mlflow: {tracking.discreet(tracking.address(root))}", flush=True)
    repro.settle({**flow.SETTINGS, **tracking.SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    print(f"starting {' and '.join(commands)}: addresses follow, Ctrl-C ends all", flush=True)
    servers = [subprocess.Popen(command, cwd=root, env=repro.environment()) for command in commands.values()]
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


def _commands(root: Path) -> dict[str, list[str]]:
    """Server → how to start it; MLflow's only where the store is no server itself."""
    store = tracking.address(root)
    commands = {"prefect": ["server", "start"]}
    if urlsplit(store).scheme not in ("http", "https"):
        commands["mlflow"] = ["server", "--backend-store-uri", store, "--workers", "1"]
    local = ["--host", "127.0.0.1", "--port"]
    return {name: [sys.executable, "-m", name, *words, *local, str(PORTS[name])] for name, words in commands.items()}


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
