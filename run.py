"""The command line entry point; see `python run.py --help`."""

import sys

import hydra
from omegaconf import DictConfig

from tbptt import tasks
from tbptt.cli.config import register
from tbptt.cli.errors import one_sentence_errors
from tbptt.cli.prompt import quote_prompt

register()


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    tasks.run(composed)


if __name__ == "__main__":
    sys.argv = quote_prompt(sys.argv)
    with one_sentence_errors():
        main()
