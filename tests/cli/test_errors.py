"""A wrong command is answered with one sentence that names the key and what it may be."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from tbptt import tasks
from tbptt.cli.config import Task, text_keys
from tbptt.cli.devices import process_count
from tbptt.cli.errors import one_sentence_errors, sentence
from tbptt.cli.quoting import quote_texts
from tbptt.device import Precision
from tbptt.errors import UserError
from tbptt.launch.rank_info import RankInfo
from tbptt.models.mixers import kernels
from tbptt.tasks import check, settings_without_effect, slow_settings
from tbptt.tasks.train import questionable_settings
from tests.helpers import composed


@pytest.fixture(autouse=True)
def unchanged_environment(monkeypatch):
    """`one_sentence_errors` sets this variable, for the rest of its process: here, of the test run."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """What looks like a checkpoint before it is opened."""
    (tmp_path / "checkpoint.json").touch()
    return tmp_path


def answer(*overrides: str) -> str:
    """The sentence a command is refused with."""
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as refused:
        check(composed(*overrides))
    return sentence(refused.value)


@pytest.mark.parametrize(
    "command, words",
    [
        ("model.n_layrs=3", ["model.n_layrs", "did you mean model.n_layer?"]),
        ("modle.n_layer=3", ["modle", "did you mean model?"]),
        ("logger=[wandb,tensorbord]", ["logger=tensorbord does not exist", "--help"]),
        ("model=lstm eval.same_length=True", ["eval.same_length=true does not apply to a model of the kind lstm"]),
        ("+model.depth=3", ["model.depth", "n_layer"]),
        ("+depth=3", ["depth", "model"]),
        ("model=lstm model.n_head=3", ["model.n_head", "n_layer"]),
        ("model=gpt", ["model=gpt", "txl_16l", "lstm"]),
        ("eval=wt104", ["eval=wt104", "wt103_base"]),
        ("task=evaluate", ["task", "train, eval"]),
        ("task=import", ["import.format", "original|hf|fairseq|nvidia", "import.path"]),
        ("task=import import.format=hf import.path=/nowhere", ["import.path=/nowhere", "does not exist"]),
        ("task=import import.format=tf import.path=tests", ["import.format", "original, hf, fairseq, nvidia", "'tf'"]),
        ("task=import import.format=hf import.paht=tests", ["import.paht", "did you mean import.path?"]),
        ("task=import import.format=hf import.path=tests import.config=run.py", ["import.config", "original"]),
        ("task=export", ["checkpoint=RUN"]),
        ("model=lstm eval.initial_memory=zeros", ["eval.initial_memory=zeros", "lstm"]),
        ("eval.initial_memory=zero", ["eval.initial_memory", "empty, zeros", "'zero'"]),
        ("seed", ["'seed'", "key=value"]),
        ("model.n_layer=many", ["model.n_layer", "whole number", "'many'"]),
        ("model.n_layer=2.5", ["model.n_layer", "whole number", "'2.5'"]),
        ("optimizer.lr=fast", ["optimizer.lr", "number", "'fast'"]),
        ("model.same_length=maybe", ["model.same_length", "true or false", "'maybe'"]),
        ("model.cutoffs=3", ["model.cutoffs", "a list"]),
        ("trainer.precision=fp8", ["trainer.precision", "fp32, bf16, fp16, fp64", "'fp8'"]),
        ("model.cutoffs=[5,3]", ["model.cutoffs=[5, 3]", "ascending"]),
        ("model.cutoffs=[0,3]", ["model.cutoffs=[0, 3]", "positive"]),
        ("model.cutoffs=[256]", ["model.cutoffs=[256]", "below", "256"]),
        ("model.mem_len=0 model.same_length=true", ["model.same_length", "model.mem_len=0", "1 or more"]),
        ("eval.mem_len=0 eval.same_length=true", ["eval.same_length", "eval.mem_len=0", "1 or more"]),
        ("model.attention=fast", ["model.attention", "auto, plain, fused", "'fast'"]),
        ("model.attention=fused trainer.precision=fp64", ["model.attention=fused", "no float64", "plain"]),
        ("model.mem_len=-1", ["model.mem_len=-1", "0 or more"]),
        ("model.n_head=0", ["model.n_head=0", "1 or more"]),
        ("model.d_head=0", ["model.d_head=0", "1 or more"]),
        ("model.d_model=33", ["model.d_model=33", "even"]),
        ("model.dropout=1", ["model.dropout=1", "below 1"]),
        ("model.div_val=0", ["model.div_val=0", "1 or more"]),
        ("model.cutoffs=[9] model.div_val=500", ["model.div_val=500", "fewer cutoffs"]),
        ("model.tie_projs=[true,false]", ["model.tie_projs", "2 entries", "must have 1"]),
        ("model.tgt_len=0", ["model.tgt_len=0", "at least 1"]),
        ("model=lstm eval.mem_len=5", ["eval.mem_len=5", "lstm"]),
        ("model=gdn_tiny trainer.precision=fp16 trainer.device=cpu", ["trainer.precision=fp16", "bf16"]),
        ("trainer.micro_batch=0", ["trainer.micro_batch=0", "1 or more"]),
        ("trainer.max_steps=0", ["trainer.max_steps=0", "1 or more"]),
        ("trainer.clip=-1", ["trainer.clip=-1", "0 for no clipping"]),
        ("trainer.device=tpu9", ["trainer.device=tpu9", "auto, cpu, cuda"]),
        ("trainer.device=cuda:99", ["trainer.device=cuda:99", "cpu or auto"]),
        ("optimizer.lr=0", ["optimizer.lr=0", "positive"]),
        ("optimizer.lr=nan", ["optimizer.lr=nan", "positive"]),
        ("optimizer.eps=-1", ["optimizer.eps=-1", "positive"]),
        ("optimizer=adamw optimizer.weight_decay=-1", ["optimizer.weight_decay=-1", "0 or a positive"]),
        ("optimizer=sgd optimizer.momentum=1", ["optimizer.momentum=1", "below 1"]),
        ("scheduler.min_factor=3", ["scheduler.min_factor=3", "between 0 and 1"]),
        ("trainer.clip=nan", ["trainer.clip=nan", "0 for no clipping"]),
        ("trainer.reset_state=document", ["trainer.reset_state=document", "data=stdlib", "data.documents=true"]),
        ("eval.reset_state=document", ["eval.reset_state=document", "data=stdlib", "data.documents=true"]),
        ("eval.walk_len=16", ["eval.walk_len=16", "eval.same_length=true", "eval.tgt_len"]),
        (
            "data.documents=true trainer.reset_state=document model.initial_memory=zeros",
            ["initial_memory=zeros", "empty memory"],
        ),
        (
            "data.documents=true eval.reset_state=document eval.initial_memory=zeros",
            ["initial_memory=zeros", "empty memory"],
        ),
        ("optimizer=muon optimizer.adam_lr=0", ["optimizer.adam_lr=0", "positive", "null"]),
        ("optimizer=muon optimizer.ns_steps=0", ["optimizer.ns_steps=0", "between 1 and 99"]),
        ("optimizer=muon trainer.cuda_graphs=true", ["trainer.cuda_graphs=true", "optimizer=muon"]),
        (
            "model=lstm data.documents=true trainer.reset_state=document trainer.cuda_graphs=true",
            ["trainer.cuda_graphs=true", "trainer.reset_state=document", "LSTM"],
        ),
        ("scheduler=wsd scheduler.decay_share=2", ["scheduler.decay_share=2", "between 0 and 1"]),
        ("trainer.device=meta", ["trainer.device=meta", "auto, cpu, cuda"]),
        ("model.clamp_len=0", ["model.clamp_len=0", "-1 for no limit"]),
        ("eval.clamp_len=-7", ["eval.clamp_len=-7", "-1 for no limit"]),
        ("model.name=lstm", ["model.name=lstm", "model=lstm"]),
        ("seed=-1", ["seed=-1", "at least 0"]),
        ("data.cache=", ["data.cache", "a folder"]),
        ("optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "two numbers"]),
        ("scheduler.warmup_steps=-1", ["scheduler.warmup_steps=-1", "0 or more"]),
        ("scheduler=plateau scheduler.decay=2", ["scheduler.decay=2", "between 0 and 1"]),
        ("eval.batch_size=0", ["eval.batch_size=0", "1 or more"]),
        ("data=text", ["data.path=FOLDER", "train.txt"]),
        ("data=text data.path=/nowhere", ["data.path=/nowhere", "train.txt"]),
        ("data.level=word", ["data.level=word", "byte"]),
        ("data.path=here", ["data.path", "data=text"]),
        ("data.name=bible", ["data.name=bible", "wikitext103"]),
        ("data=fairseq data.path=tests", ["data.path=tests", "dict.txt"]),
        ("data=fairseq data.path=tests data.lower=true", ["data=fairseq", "dict.txt", "data.lower"]),
        ("data=enwik8 data.path=tests data.url=http://a", ["data.url=http://a", "data.path=tests"]),
        ("data=text data.path=tests data.level=bpe data.vocabulary=setup.cfg data.lower=true", ["data.lower"]),
        ("data=text data.path=tests data.level=bpe data.vocabulary=setup.cfg data.bpe_size=999", ["data.bpe_size"]),
        ("data=enwik8 data.path=tests", ["data.path=tests", "enwik8", "enwik8.zip"]),
        ("data=text data.path=tests data.min_count=0", ["data.min_count=0", "1 or more"]),
        ("data=text data.path=tests data.max_vocab=1", ["data.max_vocab=1", "2 or more"]),
        ("data=text data.path=tests data.workers=-1", ["data.workers=-1", "0 or more"]),
        ("data=text data.path=tests data.vocabulary=/nowhere", ["data.vocabulary=/nowhere", "no file"]),
        ("data=text data.path=tests data.vocabulary=run.py data.min_count=2", ["data.vocabulary", "data.min_count"]),
        ("data=text data.path=tests data.level=bpe data.max_vocab=9", ["data.level=bpe", "data.bpe_size"]),
        ("data=text data.path=tests data.level=bpe data.bpe_size=256", ["data.bpe_size=256", "257 or more"]),
        ("data.lower=true", ["data.level=byte", "data.lower"]),
        ("task=eval", ["checkpoint=RUN"]),
        ("task=eval checkpoint=/nowhere", ["checkpoint=/nowhere", "run directory"]),
        ("eval/dynamic=adam", ["eval/dynamic=adam", "none, rms, sgd"]),
        ("eval.dynamic=sgd", ["eval.dynamic", "eval/dynamic=CHOICE"]),
        ("model=mamba2_tiny model.attention=plain", ["model.attention is a group", "it has model.attention.n_head, "]),
        ("eval.dynamic.name=sgd", ["eval.dynamic.name=sgd", "eval/dynamic=sgd"]),
        ("eval.dynamic.lr=1", ["eval.dynamic.lr", "eval.dynamic has name"]),
        ("eval/dynamic=sgd eval.dynamic.eps=1", ["eval.dynamic.eps", "lr, decay"]),
        ("eval/dynamic=sgd eval.dynamic.lr=0", ["eval.dynamic.lr=0", "positive"]),
        ("eval/dynamic=sgd eval.dynamic.decay=2", ["eval.dynamic.decay=2", "between 0 and 1"]),
        ("eval/dynamic=rms eval.dynamic.eps=0", ["eval.dynamic.eps=0", "positive"]),
        ("eval/dynamic=rms eval.dynamic.statistics_tokens=0", ["eval.dynamic.statistics_tokens=0", "1 or more"]),
        ("task=eval checkpoint=RUN eval/dynamic=rms trainer.precision=fp16", ["eval/dynamic", "bf16 or fp32"]),
        ("task=eval checkpoint=RUN eval/dynamic=rms data=text data.path=README.md", ["README.md", "eval/dynamic=sgd"]),
        ("task=generate", ["task=generate", "checkpoint=RUN"]),
        ("task=export", ["task=export", "checkpoint=RUN"]),
        ("task=generate checkpoint=RUN generate.length=0", ["generate.length=0", "1 or more"]),
        ("task=generate checkpoint=RUN generate.samples=0", ["generate.samples=0", "1 or more"]),
        ("task=generate checkpoint=RUN generate.temperature=-1", ["generate.temperature=-1", "0 for greedy decoding"]),
        ("task=generate checkpoint=RUN generate.temperature=nan", ["generate.temperature=nan", "positive"]),
        ("task=generate checkpoint=RUN generate.top_k=0", ["generate.top_k=0", "1 or more"]),
        ("task=generate checkpoint=RUN generate.top_p=0", ["generate.top_p=0", "at most 1"]),
        ("task=generate checkpoint=RUN generate.prompt_file=/nowhere", ["generate.prompt_file=/nowhere", "read"]),
        ("task=generate checkpoint=RUN generate.prompt_file=run.py prompt=a", ["prompt=", "only one of them"]),
        ("task=generate checkpoint=RUN prompt='\udcff'", ["prompt=", "UTF-8"]),
        ("task=generate checkpoint=RUN generate=beam generate.beams=0", ["generate.beams=0", "1 or more"]),
        ("task=generate checkpoint=RUN generate=beam generate.length=null", ["generate.length=null", "generate=beam"]),
        ("task=generate checkpoint=RUN generate=beam generate.top_k=3", ["generate.top_k", "beams"]),
        ("experiment=debug model=lstm", ["experiment=debug", "model.n_head", "another model"]),
        ("data.path=a,b", ["data.path=a,b", "-m", "'data.path=\"a,b\"'"]),
        ("seed=1,2", ["seed=1,2", "-m", "seed=[1,2]"]),
        ("data.cache=${oc.env:NOPE}", ["NOPE", "data.cache"]),
        ("data.cache=${nope:}", ["nope", "data.cache"]),
        ("generate.name=beam", ["generate.name=beam", "generate=beam"]),
    ],
)
def test_a_wrong_command_is_answered_in_one_sentence(command, words, run_dir):
    said = answer(*command.replace("=RUN", f"={run_dir}").split())
    assert all(word in said for word in words), said
    assert "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    "command, words",
    [
        ("task=eval checkpoint=x model.mem_len=5", ["model.mem_len=5", "eval.mem_len"]),
        ("task=eval checkpoint=x optimizer.lr=1", ["optimizer.lr=1", "nothing is trained"]),
        ("task=eval checkpoint=x data.batch_size=1", ["data.batch_size=1", "eval.batch_size"]),
        ("task=import model.n_layer=5", ["model.n_layer=5", "task=import"]),
        ("task=import checkpoint=x", ["checkpoint=x", "import.path"]),
        ("task=eval checkpoint=x data=text data.path=README.md data.level=char", ["data.level=char", "one text"]),
        ("task=export checkpoint=x eval.mem_len=5", ["eval.mem_len=5", "task=export"]),
        ("task=export checkpoint=x import.format=hf", ["import.format=hf", "task=import"]),
        ("optimizer.from_checkpoint=true", ["optimizer.from_checkpoint=true", "checkpoint=RUN"]),
        ("task=eval checkpoint=x prompt=a", ["prompt=a", "no text"]),
        ("task=eval checkpoint=x eval/dynamic=sgd trainer.devices=2", ["trainer.devices=2", "one device"]),
        ("task=eval checkpoint=x export.path=y", ["export.path=y", "task=export"]),
        ("eval/dynamic=sgd", ["eval/dynamic=sgd", "task=eval"]),
        ("generate=beam", ["generate=beam", "task=train", "no text"]),
        ("task=generate checkpoint=x eval.max_tokens=5", ["eval.max_tokens=5", "nothing is scored"]),
        ("task=generate checkpoint=x generate=beam seed=2", ["seed=2", "nothing is random"]),
        ("task=generate checkpoint=x trainer.devices=2", ["trainer.devices=2", "one device"]),
        ("task=generate checkpoint=x model.mem_len=5", ["model.mem_len=5", "eval.mem_len"]),
        ("task=prepare data=text trainer.clip=5", ["trainer.clip=5", "task=prepare"]),
        ("trainer.max_steps=10 scheduler.warmup_steps=10", ["scheduler.warmup_steps=10", "trainer.max_steps=10"]),
        ("trainer.window=2 trainer.reset_state=segment", ["trainer.window=2", "trainer.reset_state=segment"]),
        ("model=lstm trainer.activation_checkpointing=true", ["activation_checkpointing=true", "trainer.window=1"]),
        ("task=eval checkpoint=x data.order=shuffled", ["data.order=shuffled", "in order"]),
        ("task=eval checkpoint=x trainer.reset_state=never", ["trainer.reset_state=never", "eval.reset_state"]),
        ("task=generate checkpoint=x trainer.window=2", ["trainer.window=2", "nothing is trained"]),
        (
            "scheduler=wsd scheduler.decay_share=0.8 scheduler.warmup_steps=10 trainer.max_steps=20",
            ["scheduler.decay_share=0.8", "no stable phase", "10 updates"],
        ),
    ],
)
def test_a_setting_without_effect_is_named(command, words):
    config = composed(*command.split())
    (said,) = [
        *settings_without_effect(config, command.split()),
        *(questionable_settings(config) if config.task is Task.train else []),
    ]
    assert all(word in said for word in words)


def test_16_bits_on_a_processor_without_them_are_said_to_be_slow(monkeypatch):
    config, cpu = composed("trainer.precision=bf16"), torch.device("cpu")
    monkeypatch.setattr(tasks, "cpu_has_bf16", lambda: False)
    (said,) = slow_settings(config, cpu)
    assert "trainer.precision=bf16" in said and "fp32" in said
    assert not slow_settings(composed(), cpu) and not slow_settings(config, torch.device("cuda"))
    monkeypatch.setattr(tasks, "cpu_has_bf16", lambda: True)
    assert not slow_settings(config, cpu)


def test_graphs_are_refused_for_kernels_that_would_run_and_not_for_those_that_would_not(monkeypatch):
    gpu, model = torch.device("cuda"), composed("model=gdn_tiny").model
    monkeypatch.setattr(kernels, "INSTALLATION_OBSTACLE", None)
    assert model.waits_for_starts(Precision.bf16, gpu) and not model.waits_for_starts(Precision.fp32, gpu)
    monkeypatch.setattr(kernels, "INSTALLATION_OBSTACLE", "needs flash-linear-attention")
    assert not model.waits_for_starts(Precision.bf16, gpu)


def test_one_gpu_is_not_shared_by_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = composed("trainer.device=cuda:1", "trainer.devices=2")
    with pytest.raises(UserError, match=r"trainer\.device=cuda:1 names one GPU for 2 processes"):
        process_count(config, RankInfo())
    assert process_count(composed("trainer.device=cuda:1"), RankInfo()) == 1
    assert process_count(composed("trainer.device=cuda"), RankInfo()) == 2


def test_a_configuration_that_is_not_utf8_is_answered_with_its_file_and_byte(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_bytes(b"# caf\xe9\n")
    with initialize_config_dir(str(tmp_path), version_base=None), pytest.raises(SystemExit) as refused:
        with one_sentence_errors():
            compose("mine")
    said = capsys.readouterr().err.strip()
    assert refused.value.code == 1
    assert re.fullmatch(rf"Error: {tmp_path}/mine\.yaml is not UTF-8 text \(.* at byte 5\): .*", said)


def test_a_corpus_that_can_be_downloaded_needs_no_path():
    check(composed("model=txl_16l"))


def test_settings_with_effect_are_not_named():
    command = ["checkpoint=x", "eval.mem_len=5", "data.path=there", "trainer.precision=bf16"]
    for task in (["task=eval"], ["task=generate", "seed=2", "prompt=a", "generate.samples=2"]):
        assert settings_without_effect(composed(*task, *command), [*task, *command]) == []


@given(st.text(st.sampled_from("\"\\$`'{}[]=,:# \n\tabc") | st.characters(exclude_categories=["Cs"]), max_size=30))
def test_a_prompt_is_taken_as_it_is_typed(prompt):
    command = quote_texts(["run.py", f"prompt={prompt}", "eval.mem_len=5"], text_keys())
    assert composed(*command[1:]).prompt == prompt and command[::2] == ["run.py", "eval.mem_len=5"]


def test_prompts_of_a_sweep_are_left_to_it():
    command = ["run.py", "-m", "prompt=a,b"]
    assert quote_texts(command, text_keys()) == command
