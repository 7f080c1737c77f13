"""The jobs that a launcher has started for a sweep, and whether they are still going on."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

POLL = 2.0  # seconds


def wait_for_jobs(sweep_dir: Path, why: str) -> None:
    """Return when no job of this sweep is queued or running; say `why` if there is something to wait for.

    A controller can end before its jobs: it was interrupted, or the first of several jobs failed.
    """
    told = False
    while jobs := jobs_under_way(sweep_dir):
        if not told:
            print(f"{why} {', '.join(jobs)} (Ctrl-C leaves them to themselves)", flush=True)  # no log has begun yet
            told = True
        time.sleep(POLL)


def jobs_under_way(sweep_dir: Path) -> list[str]:
    """The numbers of this sweep's jobs that are not over: SLURM's, or on one machine those of their processes."""
    folders = [path.name for path in (sweep_dir / ".submitit").glob("*") if re.fullmatch(r"\d+(_\d+)?", path.name)]
    if not folders:
        return []
    queued: set[str] = set()
    if shutil.which("squeue"):
        asked = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        queued = set(subprocess.run(asked, capture_output=True, text=True).stdout.split())
    return sorted(job for job in folders if job in queued or _is_job_of_submitit(job))


def _is_job_of_submitit(pid: str) -> bool:
    try:
        return b"submitit.local" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
