"""hydra/sweeper=optuna: a search by Optuna, through Hydra's plugin, which is an optional package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from tbptt.errors import UserError

PLUGIN = "hydra_plugins.hydra_optuna_sweeper"
FOUND = "optimization_results.yaml"  # which the plugin writes


def register() -> None:
    """Let the files of conf/hydra/sweeper take the place of the plugin's own choices of the same names.

    Hydra refuses a file that is called like a choice of a plugin.
    """
    Plugins.instance()  # imports all plugins, which register their choices then
    choices = ConfigStore.instance().repo["hydra"]["sweeper"]
    choices.pop("optuna.yaml", None)
    choices.get("sampler", {}).pop("tpe.yaml", None)


def check_sweeper(config: DictConfig) -> None:
    """UserError if the package of hydra/sweeper=optuna is not installed."""
    if PLUGIN in str(config.hydra.sweeper._target_) and find_spec(PLUGIN) is None:
        raise UserError(
            "hydra/sweeper=optuna needs the package hydra-optuna-sweeper: install it with pip install -e '.[optuna]'"
        )


def report_search(sweep_dir: Path) -> None:
    """Print the best trial of a search that has ended."""
    path = sweep_dir / FOUND
    if not path.is_file():
        return
    found = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(found, dict)
    if "best_params" in found:
        settings = " ".join(f"{key}={value}" for key, value in found["best_params"].items())
        print(f"Found: {settings or 'no setting to search'} with a loss of {found['best_value']:.4f}")
    print(f"Search: {path}")
