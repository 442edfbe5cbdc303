"""The report in a real browser: nothing is fetched, nothing fails, and it fits a telephone."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_study import ROWS, Stage, write_study
from PIL import Image

from stages.report import report

pytestmark = pytest.mark.service

QUIET = ("gpu", "quic", "background-networking", "component-update", "sync")
CHROMIUM = [
    *("chromium", "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr"),
    *(f"--disable-{feature}" for feature in QUIET),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whoever asks for the network does not get it
]
PROBE = (
    "<script>"
    "document.title = [innerWidth, document.documentElement.scrollWidth, document.images.length].join()"
    "</script>"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report that tells its own width in its title."""
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        report(Stage(root / "out"), **write_study(400))
    file = root / "out" / "index.html"
    file.write_text(file.read_text().replace("</body>", f"{PROBE}</body>"))
    return file


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [*CHROMIUM, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def test_the_page_shows_every_row_and_no_script_fails(page: Path, tmp_path: Path) -> None:
    """The document holds each row's name, and the console no error."""
    done = browse(page, tmp_path, "--dump-dom")
    assert all(row in done.stdout for row in ROWS)
    assert "CONSOLE" not in done.stderr


@pytest.mark.parametrize("width", [600, 1200])
def test_the_page_is_no_wider_than_its_window(page: Path, tmp_path: Path, width: int) -> None:
    """Nothing scrolls sideways, in a narrow window either."""
    title = browse(page, tmp_path, "--dump-dom", f"--window-size={width},900").stdout.split("<title>")[1].split("<")[0]
    inner, whole, images = map(int, title.split(","))
    assert inner == width
    assert whole <= inner
    assert images > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_painted_in_both_color_schemes(page: Path, tmp_path: Path, scheme: str) -> None:
    """A screenshot has a background of the scheme and much that is not background."""
    shot = tmp_path / "shot.png"
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    browse(page, tmp_path, f"--screenshot={shot}", "--window-size=1200,3000", *dark)
    pixels = np.asarray(Image.open(shot).convert("L"))
    background = np.bincount(pixels.ravel()).argmax()
    assert (background < 64) if scheme == "dark" else (background > 192)
    assert 0.02 < (abs(pixels.astype(int) - background) > 48).mean() < 0.6
