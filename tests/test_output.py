"""Nobody has to read what a run prints, and a log that has no space is one sentence."""

import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tbptt.output import RunLog

FOLDER = Path(__file__).parents[1] / "tbptt"  # of a module that needs no other: importing tbptt takes seconds

TALKATIVE = """
import logging, sys, time
from output import outlive_readers, reader_gone
outlive_readers()
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
print("first", flush=True)
assert not reader_gone()
while not reader_gone():
    logging.info("a line")
print("more", file=sys.stderr)
logging.info("a line")
print("the end")
open(sys.argv[1], "w").write("done")
"""


def test_a_process_goes_on_quietly_when_its_reader_has_gone(tmp_path):
    for streams in ({"stderr": subprocess.PIPE}, {"stderr": subprocess.STDOUT}):
        done = tmp_path / f"done{streams['stderr']}"
        command = [sys.executable, "-c", TALKATIVE, done]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=FOLDER, **streams)
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        said = process.stderr.read() if process.stderr else "more\n"
        if process.stderr:
            process.stderr.close()
        assert process.wait() == 0 and said == "more\n" and done.read_text() == "done"


def logger_of(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("a run")
    logger.addHandler(handler)
    return logger


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path, capfd):
    for path in ("/dev/full", tmp_path / "none/run.log"):
        handler = RunLog(path, delay=True)
        logger = logger_of(handler)
        for _ in range(3):
            logger.info("a line")
        with suppress(OSError):
            handler.close()
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith(f"Warning: {path} cannot be written (No ") and "hydra.run.dir" in said


def test_a_mistake_in_a_log_line_is_told_as_ever(tmp_path, capfd):
    handler = RunLog(tmp_path / "run.log", delay=True)
    logger_of(handler).info("%d", "no number")
    handler.close()
    assert "Logging error" in capfd.readouterr().err
