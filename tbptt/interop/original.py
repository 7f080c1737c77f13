"""Converts weights of the original Transformer-XL code (kimiyoung/transformer-xl, PyTorch), with its parameter names.

The parameters are the same but split differently: the original has one `qkv_net` where queries and keys/values are
separate here, and with div_val = 1 one embedding table and one bias where every cluster has its own here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from tbptt.errors import UserError
from tbptt.models.transformer_xl import Layer, TransformerXL, TransformerXLConfig

# The original's constructor arguments that are model settings here, and those for which only some values are supported.
OPTIONS = {field.name for field in fields(TransformerXLConfig)} - {"name", "initial_memory", "attention"}
FIXED = {
    "ext_len": (0, None),
    "attn_type": (0,),
    "sample_softmax": (-1, 0),
    "adapt_inp": (True, False),
    "dtype": (None,),
}
BUFFERS = {"pos_emb.inv_freq"}  # entries of its state dicts that are not parameters


def build(weights: Mapping[str, Any], config: Mapping[str, Any]) -> TransformerXL:
    """A Transformer-XL with the original's weights.

    `weights` maps the original's parameter names to arrays, `config` its constructor arguments to values. UserError if
    a parameter is missing, unexpected, or of another shape.
    """
    model = model_config(config).build(config["n_token"])
    load(model, {name: torch.as_tensor(value) for name, value in weights.items()})
    return model


def model_config(arguments: Mapping[str, Any]) -> TransformerXLConfig:
    """The configuration for the original's constructor arguments. UserError for an unsupported argument or value."""
    for key, value in arguments.items():
        if key not in OPTIONS | FIXED.keys() | {"n_token"}:
            raise UserError(f"the original's constructor has no argument '{key}'")
        if value not in FIXED.get(key, (value,)):
            raise UserError(f"{key}={value} of the original is not supported: it must be {FIXED[key][0]}")
    options = {key: value for key, value in arguments.items() if key in OPTIONS}
    options = {"mem_len": 0, "tie_projs": None} | options
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TransformerXLConfig), options))
    except (OmegaConfBaseException, TypeError) as error:
        key, reason = getattr(error, "full_key", None) or "(unnamed)", str(error).split("\n")[0]
        raise UserError(f"the model's argument {key} has the wrong type ({reason})") from error
    assert isinstance(config, TransformerXLConfig)
    if config.tie_projs is not None:
        config.tie_projs = config.tie_projs[: len(config.cutoffs) + 1]
    return config


def check_export(config: TransformerXLConfig) -> None:
    """UserError if the original's constructor cannot make the model."""
    if config.untie_r:
        raise UserError(
            "export.format=original cannot represent model.untie_r=true: the original's layers share their biases; "
            "use export.format=hf"
        )


def arguments(config: TransformerXLConfig, n_token: int) -> dict[str, Any]:
    """The inverse of `model_config`: arguments for the original's constructor, which needs a number for ext_len."""
    settings = {key: getattr(config, key) for key in OPTIONS - {"untie_r"}}  # that argument is HF's
    settings |= {"cutoffs": list(config.cutoffs), "tie_projs": tied_projections(config)}
    return settings | {"n_token": n_token, "d_embed": config.d_embed or config.d_model, "ext_len": 0}


def tied_projections(config: TransformerXLConfig) -> list[bool]:
    """model.tie_projs, or its default."""
    return [i > 0 for i in range(len(config.cutoffs) + 1)] if config.tie_projs is None else list(config.tie_projs)


@torch.no_grad()
def load(model: TransformerXL, weights: Mapping[str, Tensor]) -> None:
    """Copy the original's weights into `model`. One of two tied weights may be missing, as in some files."""
    for name, value in convert_parameters(model, weights).items():
        model.get_parameter(name).copy_(value)


def convert_parameters(model: TransformerXL, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert values per parameter (weights, or optimizer states) from the original's names to ours.

    UserError if one is missing, unexpected or of another shape, or if two differ that the configuration ties.
    """
    converted, unused, used_rows = {}, set(values) - BUFFERS, dict.fromkeys(values, 0)
    for parameter_name, places in correspondence(model).items():
        present = [(name, rows) for name, rows in places if name in values]
        if not present:
            raise UserError(f"the weights lack '{places[0][0]}', which the configuration requires")
        parts = [values[name] if rows is None else values[name][rows] for name, rows in present]
        unused -= {name for name, _ in present}
        for (name, _), part in zip(present, parts):
            used_rows[name] += len(part)
        parameter, value = model.get_parameter(parameter_name), parts[0]
        if not all(torch.equal(part, value) for part in parts):
            raise UserError(f"{' and '.join(name for name, _ in present)} differ, but the configuration ties them")
        if value.shape != parameter.shape:
            raise UserError(
                f"'{present[0][0]}' gives {tuple(value.shape)} for {parameter_name}, but the configuration requires "
                f"{tuple(parameter.shape)}"
            )
        converted[parameter_name] = value
    for name in values.keys() - unused - BUFFERS:
        if len(values[name]) != used_rows[name]:
            raise UserError(f"'{name}' has {len(values[name])} rows, but the configuration requires {used_rows[name]}")
    if unused:
        raise UserError(f"the weights hold {sorted(unused)}, which do not exist in this configuration")
    return converted


def state_dict(model: TransformerXL) -> dict[str, Tensor]:
    """The inverse of `load`: the original's state dict, with tied weights under each of their names and its buffer."""
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for parameter_name, places in correspondence(model).items():
        value = model.get_parameter(parameter_name).detach()
        for name, rows in places:
            parts.setdefault(name, []).append((rows.start if rows is not None else 0, value))
    in_order = {name: [value for _, value in sorted(given, key=lambda part: part[0])] for name, given in parts.items()}
    return {name: torch.cat(given) for name, given in in_order.items()} | {"pos_emb.inv_freq": model.inverse_frequency}


def tied_names(model: TransformerXL) -> set[str]:
    """The original's names of tied weights, except the first name of each."""
    return {name for places in correspondence(model).values() for name, _ in places[1:]}


def correspondence(model: TransformerXL) -> dict[str, list[tuple[str, slice | None]]]:
    """For every parameter here, its names in the original (several if tied) and the rows it takes (None: all)."""
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
