# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What explain() and the debug log say of the way that updates go."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import veneer

D = 160
# By the processor's own products, where it has them.
PAIRS, AMX = torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported()
BFLOAT16 = "library products" if AMX else "tiles of rows, two terms at once" if PAIRS else "tiles of rows, on all"
# Two more thin products or two passes over the weight: src/core/limits.cpp.
ADDS = torch.cpu._is_avx2_supported() and not torch.cpu._is_avx512_supported()
MANY = "M is added to the weight" if ADDS else "two factors: tiles of rows"
WAYS = {
    "factors": ({"name": "low_rank", "rank": 3}, 0.0, torch.float32, 20, "two factors: tiles of rows"),
    "wide": ({"name": "low_rank", "rank": 70}, 0.0, torch.float32, 20, "two factors: library products"),
    "float64": ({"name": "low_rank", "rank": 3}, 0.0, torch.float64, 20, "two factors: library products"),
    "many rows": ({"name": "low_rank", "rank": 3}, 0.0, torch.float32, 400, MANY),
    "merged": ({"name": "low_rank", "rank": 40}, 0.0, torch.float32, 400, "M is added to the weight"),
    "dropout": ({"name": "low_rank", "rank": 40}, 0.5, torch.float32, 400, "two factors: tiles of rows"),
    "bfloat16": ({"name": "low_rank", "rank": 3}, 0.0, torch.bfloat16, 400, f"two factors: {BFLOAT16}"),
    "float16": ({"name": "low_rank", "rank": 3}, 0.0, torch.float16, 400, "two factors: tiles of rows"),
    "circulant": ("circulant", 0.0, torch.float32, 20, "its own products: tiles of rows"),
    "kronecker": ("kronecker", 0.0, torch.float32, 20, "its own products, all rows at once"),
    "costly": ("butterfly", 0.5, torch.float32, 400, "M is made dense: many rows, and its own products cost more"),
}


def adapted(matrix, dropout, dtype):
    config = veneer.AdditiveConfig(matrix=matrix, dropout=dropout, target_modules=["0"])
    return veneer.get_peft_model(nn.Sequential(nn.Linear(D, D)).to(dtype), config, autocast_adapter_dtype=False)


@pytest.mark.parametrize("way", WAYS)
def test_explain_says_by_what_an_update_is_computed(way):
    matrix, dropout, dtype, rows, expected = WAYS[way]
    model = adapted(matrix, dropout, dtype).train()
    (row,) = model.explain(torch.randn(rows, D, dtype=dtype))
    assert row.kernels.startswith(f"M [{D}, {D}], {rows} rows of ")
    assert f": {expected}" in row.kernels


def bottleneck_route(**fields):
    config = veneer.BottleneckConfig(bottleneck_size=8, hidden_size=D, target_modules=["0"], **fields)
    (row,) = veneer.get_peft_model(nn.Sequential(nn.Linear(D, D)), config).explain(torch.randn(20, D))
    return row.kernels


def test_both_projections_of_a_bottleneck_are_one_loop():
    assert bottleneck_route() == (
        f"[{D}, 8] and [8, {D}] dense, 20 rows of Float: one loop over tiles of rows each way, on all threads"
    )


def test_both_updates_of_a_structured_bottleneck_are_named():
    assert [line.split(":")[0] for line in bottleneck_route(matrix="low_rank").split("; ")] == [
        f"M [8, {D}], 20 rows of Float",
        f"M [{D}, 8], 20 rows of Float",
    ]


def test_torch_s_own_operators_where_nothing_is_fused():
    model = adapted("circulant", 0.0, torch.float32)
    with torch.no_grad():
        model(torch.randn(3, D))
    config = veneer.LoraConfig(target_modules=["0"], use_dora=True, lora_dropout=0.5)
    (row,) = veneer.get_peft_model(nn.Sequential(nn.Linear(D, D)), config).train().explain(torch.randn(3, D))
    assert row.kernels == "torch's own operators"


def test_scaled_columns_are_named():
    config = veneer.IA3Config(target_modules=["0"], feedforward_modules=[])
    (row,) = veneer.get_peft_model(nn.Sequential(nn.Linear(D, D)), config).explain(torch.randn(3, D))
    assert row.kernels == f"l [{D}], 3 rows of Float: one pass each way"


def test_the_debug_log_has_every_call():
    code = (
        "import torch, veneer\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 8))\n"
        "model = veneer.get_peft_model(model, veneer.LoraConfig(r=2, target_modules=['0']))\n"
        "model(torch.randn(3, 8)), model(torch.randn(5, 8))\n"
    )
    environment = {**os.environ, "VENEER_LOG": "debug"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    for rows in (3, 5):
        assert f"M [8, 8], {rows} rows of Float: two factors: tiles of rows" in result.stderr
