"""The command line entry point; see `python run.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from tbptt import tasks
from tbptt.cli.config import register, text_keys
from tbptt.cli.errors import one_sentence_errors
from tbptt.cli.quoting import quote_texts
from tbptt.cli.sweeps import reported_sweep

register()


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(composed: DictConfig) -> float | None:
    """Run the task. Returns what a sweeper that searches (hydra/sweeper) minimises, or None."""
    return tasks.run(composed)


if __name__ == "__main__":
    with reported_sweep(), one_sentence_errors():
        sys.argv = quote_texts(sys.argv, text_keys())
        main()
