# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Where methods attach in known transformers architectures, by `config.model_type`. Data only: to support another model,
add a row. Module paths are regular expressions for the end of a path, from the block list on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class At:
    """One place of a hidden site: modules, how the adapter is wired to them (adapted.WIRINGS), and which argument of the
    module is the state."""

    wiring: str
    modules: str
    argument: int = 0


@dataclass(frozen=True)
class Architecture:
    """Defaults of one model family. `houlsby`: after both sub-layers; `houlsby_feedforward`: after the second alone;
    `pfeiffer`: around the second LayerNorm, or at the end of a pre-LN block; `parallel`: beside the feed-forward."""

    query_value: tuple[str, ...]  # LoRA's, VeRA's and SURM's default targets
    key_value: tuple[str, ...]  # (IA)3's scaled outputs
    feedforward: tuple[str, ...]  # (IA)3's scaled inputs: the second feed-forward matrix
    houlsby: tuple[At, ...]
    houlsby_feedforward: tuple[At, ...]
    pfeiffer: tuple[At, ...]
    parallel: tuple[At, ...]


_BERT = Architecture(
    query_value=("query", "value"),
    key_value=("key", "value"),
    feedforward=(r"layer\.\d+\.output\.dense",),
    # After the projection's dropout, before the residual sum and its norm.
    houlsby=(At("output", r"layer\.\d+\.(attention\.)?output\.dropout"),),
    houlsby_feedforward=(At("output", r"layer\.\d+\.output\.dropout"),),
    pfeiffer=(At("norm", r"layer\.\d+\.output\.LayerNorm"),),
    # BertOutput(h, x) adds x itself.
    parallel=(At("input", r"layer\.\d+\.output", argument=1),),
)

ARCHITECTURES = {
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": Architecture(
        query_value=("q_lin", "v_lin"),
        key_value=("k_lin", "v_lin"),
        feedforward=(r"layer\.\d+\.ffn\.lin2",),
        houlsby=(At("output", r"layer\.\d+\.attention\.out_lin"), At("output", r"layer\.\d+\.ffn")),
        houlsby_feedforward=(At("output", r"layer\.\d+\.ffn"),),
        pfeiffer=(At("norm", r"layer\.\d+\.output_layer_norm"),),
        parallel=(At("parallel", r"layer\.\d+\.ffn"),),
    ),
    "vit": Architecture(
        query_value=("q_proj", "v_proj"),
        key_value=("k_proj", "v_proj"),
        feedforward=(r"layers\.\d+\.mlp\.fc2",),
        # Before the block's dropout, which is one module for both sub-layers.
        houlsby=(At("output", r"layers\.\d+\.attention"), At("output", r"layers\.\d+\.mlp")),
        houlsby_feedforward=(At("output", r"layers\.\d+\.mlp"),),
        pfeiffer=(At("output", r"layers\.\d+"),),
        parallel=(At("parallel", r"layers\.\d+\.mlp"),),
    ),
    "gpt2": Architecture(
        query_value=("c_attn",),  # query, key and value in one matrix
        key_value=("c_attn",),
        feedforward=(r"h\.\d+\.mlp\.c_proj",),
        houlsby=(At("output", r"h\.\d+\.attn\.resid_dropout"), At("output", r"h\.\d+\.mlp\.dropout")),
        houlsby_feedforward=(At("output", r"h\.\d+\.mlp\.dropout"),),
        pfeiffer=(At("output", r"h\.\d+"),),
        parallel=(At("parallel", r"h\.\d+\.mlp"),),
    ),
    "llama": Architecture(
        query_value=("q_proj", "v_proj"),
        key_value=("k_proj", "v_proj"),
        feedforward=(r"layers\.\d+\.mlp\.down_proj",),
        houlsby=(At("output", r"layers\.\d+\.self_attn"), At("output", r"layers\.\d+\.mlp")),
        houlsby_feedforward=(At("output", r"layers\.\d+\.mlp"),),
        pfeiffer=(At("output", r"layers\.\d+"),),
        parallel=(At("parallel", r"layers\.\d+\.mlp"),),
    ),
    "t5": Architecture(
        query_value=("q", "v"),
        key_value=("k", "v"),
        feedforward=(r"layer\.\d+\.DenseReluDense\.wo",),
        # Self-attention and feed-forward of the encoder and the decoder, not cross-attention.
        houlsby=(
            At("output", r"block\.\d+\.layer\.0\.dropout"),
            At("output", r"encoder\.block\.\d+\.layer\.1\.dropout"),
            At("output", r"decoder\.block\.\d+\.layer\.2\.dropout"),
        ),
        houlsby_feedforward=(
            At("output", r"encoder\.block\.\d+\.layer\.1\.dropout"),
            At("output", r"decoder\.block\.\d+\.layer\.2\.dropout"),
        ),
        pfeiffer=(At("output", r"encoder\.block\.\d+\.layer\.1"), At("output", r"decoder\.block\.\d+\.layer\.2")),
        parallel=(At("parallel", r"block\.\d+\.layer\.\d+\.DenseReluDense"),),
    ),
}
