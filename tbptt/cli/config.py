"""The whole configuration: one dataclass schema per group, defined in its component and combined here.

Hydra composes it from conf/; `typed` converts the result to plain dataclasses. Invalid values are rejected by the
`check` methods of the schemas and of each task (tbptt/tasks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from tbptt import models
from tbptt.cli import directories, search
from tbptt.cli.quoting import literal
from tbptt.data.config import DataConfig
from tbptt.data.documents import config as documents
from tbptt.errors import UserError
from tbptt.evaluation import dynamic_config
from tbptt.evaluation.config import EvalConfig
from tbptt.generation import config as generation
from tbptt.generation.config import GenerateConfig
from tbptt.interop.config import ExportConfig, ImportConfig
from tbptt.launch import config as launchers
from tbptt.models import ModelConfig
from tbptt.report.config import LoggerConfig
from tbptt.training import optimizers, schedules
from tbptt.training.config import TrainerConfig
from tbptt.training.optimizers import OptimizerConfig
from tbptt.training.schedules import SchedulerConfig

Task = Enum(
    "Task",
    {
        "train": "train",
        "eval": "eval",
        "generate": "generate",
        "prepare": "prepare",
        "import": "import",
        "export": "export",
    },
)  # functional syntax, because `import` is a Python keyword


def with_import(schema: type) -> type:
    """Add the field `import` to a schema: a class body cannot declare it, because `import` is a Python keyword."""
    schema.__annotations__["import"] = "ImportConfig"
    setattr(schema, "import", field(default=ImportConfig(), init=False, repr=False, compare=False))
    return schema


@dataclass
@with_import
class Config:
    task: Task = Task.train  # train, eval, generate, prepare, import or export
    seed: int = 1  # of initial weights, dropout, order and sampling
    checkpoint: str | None = None  # the model to use; with task=train, the initial weights
    prompt: str | None = None  # the text that task=generate continues
    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    scheduler: SchedulerConfig = MISSING
    trainer: TrainerConfig = MISSING
    eval: EvalConfig = MISSING
    generate: GenerateConfig = MISSING
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    @property
    def importing(self) -> ImportConfig:
        return getattr(self, "import")


def typed(composed: DictConfig) -> Config:
    """Convert a composed configuration to dataclasses. UserError for keys that are not in the schema (+key=value)."""
    _reject_unknown_keys(composed, "")
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    return config


def _reject_unknown_keys(node: DictConfig, prefix: str) -> None:
    schema: Any = OmegaConf.get_type(node)
    known = [field.name for field in fields(schema)]
    for key in map(str, node):
        if key not in known:
            raise UserError(f"unknown key {prefix}{key}: valid keys are {', '.join(known)}")
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            _reject_unknown_keys(node[key], f"{prefix}{key}.")


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain JSON values. Text is kept as it is, also with ${ in it."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.name if isinstance(value, Enum) else value


T = TypeVar("T")


def from_dict(schema: type[T], values: Mapping[str, Any]) -> T:
    """The inverse of `as_dict`."""
    texts = {key: literal(value) if isinstance(value, str) else value for key, value in values.items()}
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), texts))
    assert isinstance(config, schema)
    return config


GROUPS: dict[str, Mapping[str, type]] = {
    "model": models.CONFIGS,
    "optimizer": optimizers.CONFIGS,
    "scheduler": schedules.CONFIGS,
    "generate": generation.CONFIGS,
    "data": documents.CONFIGS,
    "trainer": {"trainer": TrainerConfig},
    "eval": {"eval": EvalConfig},
    "launcher": launchers.CONFIGS,
    "eval/dynamic": dynamic_config.CONFIGS,
}
HYDRA_TEXTS = ("run.dir", "sweep.dir", "sweep.subdir", "output_subdir", "job.name")


def text_keys() -> set[str]:
    """The keys of all settings that are text: paths, addresses, the prompt, names."""
    keys = _text_keys(Config, "") | {f"hydra.{key}" for key in HYDRA_TEXTS}
    for group, schemas in GROUPS.items():
        prefix = "hydra.launcher." if group == "launcher" else f"{group.replace('/', '.')}."
        keys = keys.union(*(_text_keys(schema, prefix) for schema in schemas.values()))
    return keys


def _text_keys(schema: type, prefix: str) -> set[str]:
    keys = set()
    hints = get_type_hints(schema)
    for each in fields(schema):  # type: ignore[arg-type]
        hint = hints[each.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if is_dataclass(hint) and isinstance(hint, type):
            keys |= _text_keys(hint, f"{prefix}{each.name}.")
        elif str in kinds and each.name != "name":
            keys.add(prefix + each.name)
    return keys


def register() -> None:
    """Register the schemas with Hydra; conf/ refers to them by name."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group, schemas in GROUPS.items():
        for name, schema in schemas.items():
            store.store(group=f"schema/{group}", name=name, node=schema, package=group.replace("/", "."))
    search.register()


# At import, not in `register`: a submitit job unpickles its configuration without running run.py.
directories.register()
