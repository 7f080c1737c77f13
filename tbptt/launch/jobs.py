"""Finds and waits for the unfinished jobs that a launcher has started for a sweep."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

POLL = 2.0  # seconds


def wait_for_jobs(sweep_dir: Path, message: str) -> None:
    """Wait until no job of this sweep is queued or running; if there are any, print `message` and their numbers.

    The submitting process can end before its jobs: if it is interrupted, or if the first of several jobs fails.
    """
    printed = False
    while jobs := unfinished_jobs(sweep_dir):
        if not printed:  # not logged: logging is not configured yet
            print(f"{message} {', '.join(jobs)} (Ctrl-C stops waiting; the jobs continue)", flush=True)
            printed = True
        time.sleep(POLL)


def unfinished_jobs(sweep_dir: Path) -> list[str]:
    """The numbers of this sweep's unfinished jobs: SLURM job ids, or process ids for jobs on this machine."""
    folders = [path.name for path in (sweep_dir / ".submitit").glob("*") if re.fullmatch(r"\d+(_\d+)?", path.name)]
    if not folders:
        return []
    queued: set[str] = set()
    if shutil.which("squeue"):
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        queued = set(subprocess.run(command, capture_output=True, encoding="utf-8").stdout.split())
    return sorted(job for job in folders if job in queued or _is_submitit_process(job))


def _is_submitit_process(pid: str) -> bool:
    try:
        return b"submitit.local" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
