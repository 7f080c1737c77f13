"""A callback that prints the value that a job returns to Hydra's sweeper."""

from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class PrintValue(Callback):
    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        print("returned", job_return.return_value)
