"""The settings of hydra/launcher=slurm: those of the submitit plugin, and srun_args, which its schema does not list."""

from dataclasses import dataclass

from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class SlurmConfig(SlurmQueueConf):
    srun_args: list[str] | None = None


CONFIGS = {"slurm": SlurmConfig}
