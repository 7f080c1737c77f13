"""What a line of metrics says about the host's time and the use of the device."""

import time

import pytest
import torch

from tbptt.data.lanes import Lanes
from tbptt.device import Precision
from tbptt.launch.world import World
from tbptt.training.meter import PEAKS, Meter, peak_flops, training_flops
from tests.models.tiny import random_stream, tiny_lstm, tiny_txl
from tests.training.trainers import make_trainer

SLEEP = 0.05


@pytest.mark.parametrize(
    "part, method", [("data", "_segment"), ("compute", "_compute"), ("wait", "_check_previous_update")]
)
def test_a_share_grows_with_its_part_alone(part, method, monkeypatch):
    trainer = make_trainer(tiny_lstm(torch.float32), Lanes.cut(random_stream(41), 4, 5))
    plain = getattr(trainer, method)

    def slow(*arguments):
        time.sleep(SLEEP)
        return plain(*arguments)

    trainer.update()  # what is only slow once
    trainer.meter.read(1.0, 1.0)
    monkeypatch.setattr(trainer, method, slow)
    trainer.update()
    shares = trainer.meter.read(SLEEP, 1.0)  # of the time slept
    assert max(shares, key=shares.__getitem__) == f"{part}_share" and shares[f"{part}_share"] >= 1
    assert set(shares) == {"data_share", "compute_share", "wait_share"}, "nothing else is known of a CPU"
    assert set(trainer.meter.read(1.0, 1.0).values()) == {0.0}


def test_operations_are_six_for_each_parameter_and_three_products_with_each_key():
    model = tiny_txl(torch.float32, mem_len=7)
    shorter, longer = (training_flops(model, tgt_len) for tgt_len in (5, 6))
    config_products = 3 * len(model.layers) * model.n_head * model.d_head
    assert longer - shorter == 6 * config_products
    table = model.embedding.tables[0]
    weights = sum(x.numel() for x in model.layers.parameters()) + table.numel()
    assert shorter == 6 * (weights + (7 + 5) * config_products)


def test_peaks_are_those_of_the_device_and_the_precision():
    assert (
        peak_flops("NVIDIA H100 80GB HBM3", Precision.bf16)
        == peak_flops("NVIDIA GH200 480GB", Precision.fp16)
        == 989e12
    )
    assert peak_flops("NVIDIA H100 PCIe", Precision.bf16) == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", Precision.fp32) == 19.5e12
    assert peak_flops("NVIDIA H200", Precision.fp64) is None and peak_flops("GeForce", Precision.bf16) is None
    assert all(in_16_bits > in_32_bits for in_16_bits, in_32_bits in PEAKS.values())


@pytest.mark.parametrize("ranks", [1, 4])
def test_utilisation_is_of_all_devices(monkeypatch, ranks):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 30)
    world, model = World(device=torch.device("cuda"), size=ranks), tiny_lstm(torch.float32)
    rate = 312e12 * ranks / training_flops(model, 5)  # as fast as the devices can be
    line = Meter(model, 5, Precision.bf16, world).read(1.0, rate / 2)
    assert line["mfu"] == 0.5 and line["peak_memory_gib"] == 3
