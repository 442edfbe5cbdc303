"""All claims that a CPU can show, one after the other: `make bench`, at most 12 minutes on two quiet cores."""

import subprocess
import sys
import time

from benchmarks._results import RESULTS

CLAIMS = ("views", "training", "ntxent", "knn", "linear", "breakdown", "ingest")

if __name__ == "__main__":
    (RESULTS / "cpu.json").unlink(missing_ok=True)
    for claim in CLAIMS:
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", f"benchmarks.{claim}"], check=True)
        print(f"-- {claim}: {time.monotonic() - start:.0f} s", flush=True)
