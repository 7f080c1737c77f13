"""Weights of the original Transformer-XL code (kimiyoung/transformer-xl, PyTorch) under its own names.

The same parameters, arranged differently: the original keeps one `qkv_net` where queries and keys/values are separate
here, and with div_val = 1 one embedding table and one bias for all clusters where every cluster has its own here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tbptt.errors import UserError
from tbptt.models.transformer_xl import Layer, TransformerXL, TransformerXLConfig

# The arguments of the original's constructor that are settings of the model here, and those that must have one value.
OPTIONS = TransformerXLConfig.__dataclass_fields__.keys() - {"name"}
FIXED = {"ext_len": (0, None), "attn_type": (0,), "sample_softmax": (-1, 0), "adapt_inp": (True, False)}


def build(weights: Mapping[str, Any], config: Mapping[str, Any]) -> TransformerXL:
    """A Transformer-XL with the original's weights.

    `weights` maps the original's parameter names to arrays, `config` its constructor arguments to values. UserError if
    a parameter is missing, left over, or of another shape.
    """
    for key, value in config.items():
        if key not in OPTIONS | FIXED.keys() | {"n_token"}:
            raise UserError(f"the original's constructor has no argument '{key}'")
        if value not in FIXED.get(key, (value,)):
            raise UserError(f"{key}={value} of the original is not supported: it must be {FIXED[key][0]}")
    options = {key: value for key, value in config.items() if key in OPTIONS}
    options = {"mem_len": 0, "tie_projs": None} | options
    n_clusters = len(options.get("cutoffs", [])) + 1
    if options["tie_projs"] is not None:
        options["tie_projs"] = [bool(tied) for tied in options["tie_projs"]][:n_clusters]
    model = TransformerXLConfig(**options).build(config["n_token"])
    load(model, {name: torch.as_tensor(value) for name, value in weights.items()})
    return model


@torch.no_grad()
def load(model: TransformerXL, weights: Mapping[str, Tensor]) -> None:
    """Copy the original's weights into `model`."""
    unused = set(weights) - {"pos_emb.inv_freq"}
    for parameter_name, places in correspondence(model).items():
        parts = []
        for name, rows in places:
            if name not in weights:
                raise UserError(f"the weights lack '{name}', which the configuration calls for")
            parts.append(weights[name] if rows is None else weights[name][rows])
            unused.discard(name)
        parameter, value = model.get_parameter(parameter_name), parts[0]
        if not all(torch.equal(part, value) for part in parts):
            raise UserError(f"{' and '.join(name for name, _ in places)} differ, which the configuration ties")
        if value.shape != parameter.shape:
            raise UserError(
                f"'{places[0][0]}' gives {tuple(value.shape)} for {parameter_name}, which the configuration makes "
                f"{tuple(parameter.shape)}"
            )
        parameter.copy_(value)
    if unused:
        raise UserError(f"the weights hold {sorted(unused)}, which the configuration has no place for")


def correspondence(model: TransformerXL) -> dict[str, list[tuple[str, slice | None]]]:
    """For every parameter here, the original's names of it (several where it ties weights) and which rows."""
    names: dict[str, list[tuple[str, slice | None]]] = {}
    bounds, projections = model.embedding.bounds, len(model.embedding.projections)
    single_table = projections <= 1
    for i, (low, high) in enumerate(bounds):
        owner, rows = (0, slice(low, high)) if single_table else (i, None)
        table, output = f"word_emb.emb_layers.{owner}.weight", f"crit.out_layers.{owner}.weight"
        tied = model.softmax.tables[i] is model.embedding.tables[i]
        names[f"embedding.tables.{i}"] = [(table, rows), (output, rows)] if tied else [(table, rows)]
        if not tied:
            names[f"softmax.tables.{i}"] = [(output, rows)]
        names[f"softmax.biases.{i}"] = [(f"crit.out_layers.{owner}.bias", rows)]
    for i in range(projections):
        names[f"embedding.projections.{i}"] = [(f"word_emb.emb_projs.{i}", None)]
    for i in range(len(model.softmax.projections)):
        shared = 0 if projections == 1 else i
        if model.softmax.projections[i] is model.embedding.projections[shared]:
            names[f"embedding.projections.{shared}"].append((f"crit.out_projs.{i}", None))
        else:
            names[f"softmax.projections.{i}"] = [(f"crit.out_projs.{i}", None)]
    if len(bounds) > 1:
        names["softmax.cluster_weight"] = [("crit.cluster_weight", None)]
        names["softmax.cluster_bias"] = [("crit.cluster_bias", None)]
    if not model.untie_r:
        names["content_bias_HE"], names["position_bias_HE"] = [("r_w_bias", None)], [("r_r_bias", None)]
    for i, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        attention, here, there = layer.attention, f"layers.{i}.", f"layers.{i}.dec_attn."
        n_query = attention.query.out_features
        names[here + "attention.query.weight"] = [(there + "qkv_net.weight", slice(0, n_query))]
        names[here + "attention.key_value.weight"] = [(there + "qkv_net.weight", slice(n_query, None))]
        names[here + "attention.position.weight"] = [(there + "r_net.weight", None)]
        names[here + "attention.output.weight"] = [(there + "o_net.weight", None)]
        if model.untie_r:
            names[here + "content_bias_HE"] = [(there + "r_w_bias", None)]
            names[here + "position_bias_HE"] = [(there + "r_r_bias", None)]
        for kind in ("weight", "bias"):
            names[f"{here}attention_norm.{kind}"] = [(f"{there}layer_norm.{kind}", None)]
            names[f"{here}feed_forward.inner.{kind}"] = [(f"layers.{i}.pos_ff.CoreNet.0.{kind}", None)]
            names[f"{here}feed_forward.outer.{kind}"] = [(f"layers.{i}.pos_ff.CoreNet.3.{kind}", None)]
            names[f"{here}feed_forward_norm.{kind}"] = [(f"layers.{i}.pos_ff.layer_norm.{kind}", None)]
    return names
