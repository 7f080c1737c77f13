"""The door: `python run.py --help` says what can be typed."""

import sys

import hydra
from omegaconf import DictConfig

from tbptt import config, tasks
from tbptt.door import one_sentence_errors, prompt_as_typed

config.register()


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(composed: DictConfig) -> None:
    tasks.run(composed)


if __name__ == "__main__":
    sys.argv = prompt_as_typed(sys.argv)
    with one_sentence_errors():
        main()
