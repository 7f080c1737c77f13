"""Every file under conf/ composes, passes its own checks and builds a model; `from_dict` undoes `as_dict`."""

import math
import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.types import RunMode

from tbptt.cli.config import as_dict, from_dict, register
from tbptt.data.documents.config import schema_of
from tbptt.data.lanes import Lanes
from tbptt.tasks import check
from tbptt.training.trainer import Trainer
from tests.data.small_corpora import GOLDEN_FAIRSEQ, write_corpus
from tests.helpers import CONF, composed
from tests.models.tiny import random_stream

GROUPS = (
    "data",
    "model",
    "optimizer",
    "scheduler",
    "trainer",
    "eval",
    "eval/dynamic",
    "generate",
    "logger",
    "experiment",
)
CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_works(tmp_path, choice):
    write_corpus(tmp_path)
    config = composed(choice)
    if config.data.name == "fairseq":
        config = composed(choice, f"data.path={GOLDEN_FAIRSEQ}/bin")
    elif config.data.name in ("text", "documents"):
        config = composed(choice, f"data.path={tmp_path}")
    elif config.data.name == "hub":
        config = composed(choice, "data.repo=OWNER/NAME")
    elif config.logger.wandb:  # an account is asked for in the mode that sends
        config = composed(choice, "logger.mode=offline")
    check(config)
    with torch.device("meta"):
        model = config.model.build(300_000)
    assert from_dict(type(config.model), as_dict(config.model)) == config.model
    assert from_dict(schema_of(config.data.name), as_dict(config.data)) == config.data
    config.generate.check()
    config.optimizer.build(model)
    assert config.scheduler.build(1.0, 100).lr(50) > 0


@pytest.mark.parametrize("name", ["debug", *sorted(path.stem for path in (CONF / "experiment").glob("stdlib_*.yaml"))])
def test_small_experiments_train(name):
    config = composed(f"experiment={name}", "trainer.max_steps=2", "trainer.device=cpu", "data.batch_size=2")
    model, lanes = config.model.build(256), Lanes.cut(random_stream(300), 2, config.model.tgt_len)
    schedule = config.scheduler.build(config.optimizer.lr, 2)
    trainer = Trainer(model, lanes, config.optimizer.build(model), schedule, config.trainer)
    first, second = (trainer.update().loss for _ in range(2))
    assert first != second and abs(first - math.log(256)) < 1


@pytest.mark.parametrize("experiment, model", [("wt103_base", "txl_16l"), ("enwik8_24l", "txl_enwik8_24l")])
def test_an_experiment_is_its_models_recipe(experiment, model):
    assert composed(f"experiment={experiment}") == composed(f"model={model}")


def test_own_defaults_are_optional_and_come_before_experiments(tmp_path):
    conf = shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    before = composed(conf=conf)
    (conf / "local").mkdir()
    own = "defaults:\n  - override /logger: tensorboard\ndata:\n  cache: /scratch\ntrainer:\n  max_steps: 7\nseed: 5\n"
    (conf / "local/default.yaml").write_text(own)
    own = composed(conf=conf)
    assert (before.data.cache, before.seed, before.logger.tensorboard) != ("/scratch", 5, True)
    assert (own.data.cache, own.seed, own.logger.tensorboard, own.trainer.max_steps) == ("/scratch", 5, True, 7)
    assert composed("experiment=debug", "seed=6", conf=conf).trainer.max_steps == 20
    assert composed("experiment=debug", "seed=6", conf=conf).seed == 6


@pytest.mark.parametrize("path", sorted((CONF / "hydra/launcher").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launcher_is_one_of_submitits(path):
    register()
    with initialize_config_dir(str(CONF), version_base=None):
        words = [f"hydra/launcher={path.stem}", "hydra.launcher.timeout_min=77"]
        hydra = compose("config", words, return_hydra_config=True).hydra
    assert hydra.mode is RunMode.MULTIRUN  # without -m
    assert hydra.launcher._target_.startswith("hydra_plugins.hydra_submitit_launcher")
    assert hydra.launcher.timeout_min == 77 and hydra.launcher.tasks_per_node >= 1


def test_every_choice_says_what_it_is_for():
    for path in CONF.rglob("*.yaml"):
        if path.parent.name == "help":
            continue
        lines = path.read_text().splitlines()
        assert any(line.startswith("# ") and "@package" not in line for line in lines[:2]), path


def test_a_models_recipe_gives_way_to_the_command_line(tmp_path):
    write_corpus(tmp_path)
    config = composed("model=txl_16l", "data=text", f"data.path={tmp_path}", "optimizer.lr=1", "eval=default")
    assert (config.data.name, config.optimizer.lr, config.eval.tgt_len) == ("text", 1, None)
