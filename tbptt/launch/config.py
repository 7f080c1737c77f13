"""What hydra/launcher=slurm configures: the plugin's settings, and srun's arguments, which it passes on unnamed."""

from dataclasses import dataclass

from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf


@dataclass
class SlurmConfig(SlurmQueueConf):
    srun_args: list[str] | None = None


CONFIGS = {"slurm": SlurmConfig}
