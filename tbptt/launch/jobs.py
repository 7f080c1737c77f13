"""Finds and waits for the unfinished jobs that a launcher has started for a sweep."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

from tbptt.errors import UserError

POLL = 2.0  # seconds
ATTEMPTS = 30  # to ask a SLURM that does not answer


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
    queued = _queued_jobs() if shutil.which("squeue") else set()
    return sorted(job for job in folders if job in queued or _is_submitit_process(job))


def _queued_jobs() -> set[str]:
    """The jobs of this user. UserError if SLURM does not answer for some time."""
    for attempt in range(ATTEMPTS):
        time.sleep(POLL if attempt else 0)
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        result = subprocess.run(command, capture_output=True, encoding="utf-8")
        if result.returncode == 0:
            return set(result.stdout.split())
    raise UserError(
        f"squeue does not say which jobs of this sweep still run ({result.stderr.strip()}): try again when it answers"
    )


def _is_submitit_process(pid: str) -> bool:
    try:
        return b"submitit.local" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
