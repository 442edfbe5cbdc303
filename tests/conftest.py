"""What all tests share: one thread, no telemetry, and the option under which a skipped test is a failed one."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: tests run side by side
os.environ.setdefault("DO_NOT_TRACK", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, and so by children, if a shell's background has us


LONGEST = ("test_pipeline.py", "test_patients.py", "test_ranks.py", "test_benchmarks.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="exit with 1 if a test was skipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: two processes are then done at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.getoption("--fail-on-skip") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for report in terminalreporter.stats.get("skipped", []) if config.getoption("--fail-on-skip") else []:
        terminalreporter.line(f"skipped, which fails here: {report.nodeid}: {report.longrepr[-1]}", red=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT
