"""`run.py` in processes that are forked with its imports done, which spares the seconds that importing torch takes.

Everything else is as in a process of its own: arguments, environment, working directory, exit code, exit handlers.
Variables that libraries read while they are imported (OMP_NUM_THREADS, TRITON_INTERPRET, PYTHONPATH) are those of the
test run.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

PRELOADED = ["tbptt.tasks", "matplotlib.pyplot", "torch._dynamo", "hydra.main"]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(PRELOADED)


def run_forked(arguments: list[str], cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """The exit code of `python ARGUMENTS`, of which the first is a script, and what it printed on both streams."""
    with tempfile.NamedTemporaryFile() as output:
        process = context.Process(target=_command, args=(arguments, cwd, env, output.name))
        process.start()
        process.join()
        return process.exitcode, output.read().decode()


def _command(arguments: list[str], cwd: Path, env: dict[str, str], output: str) -> None:
    stream = os.open(output, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    code = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
