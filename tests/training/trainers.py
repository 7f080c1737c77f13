"""A trainer of a tiny model, and what its updates are compared by."""

from tbptt.data.lanes import Lanes
from tbptt.models.protocol import RecurrentModel
from tbptt.training.config import TrainerConfig
from tbptt.training.optimizers import AdamConfig, OptimizerConfig
from tbptt.training.schedules import CosineConfig, SchedulerConfig
from tbptt.training.trainer import Trainer, Update


def make_trainer(
    model: RecurrentModel,
    lanes: Lanes,
    optimizer: OptimizerConfig | None = None,
    scheduler: SchedulerConfig | None = None,
    **settings,
) -> Trainer:
    optimizer, scheduler = optimizer or AdamConfig(lr=0.01), scheduler or CosineConfig()
    config = TrainerConfig(**{"max_steps": 20, "device": "cpu"} | settings)
    schedule = scheduler.build(optimizer.lr, config.max_steps)
    return Trainer(model, lanes, optimizer.build(model), schedule, config)


def numbers_of(update: Update) -> tuple[float, ...]:
    return update.loss, update.grad_norm, update.lr, update.tokens
