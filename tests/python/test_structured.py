# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations of structured matrices as users meet them: where they go, what they count by the papers' examples, that they
train, save, load and merge, and what they refuse."""

import pytest
import torch
from checks import loss_of, scramble, trained
from models import MODELS
from torch import nn

import veneer
from veneer import (
    AdditiveConfig,
    C3AConfig,
    CompacterConfig,
    KronAConfig,
    LoKrConfig,
    LoraConfig,
    LorettaConfig,
    LortaConfig,
    MoreConfig,
    SurmAdapterConfig,
    SurmConfig,
)

BERT = MODELS["bert"]  # two layers of 24, three heads
CASES = {
    "surm toeplitz": (SurmConfig(structure="toeplitz"), 4 * 47),
    "surm symmetric": (SurmConfig(structure="symmetric_toeplitz"), 4 * 48),
    "surm kronecker": (SurmConfig(structure="kronecker"), 4 * 48),
    "surm ldr": (SurmConfig(structure="ldr", rank=2, use_dora=True), 4 * (4 * 24 + 24)),
    "surm adapter": (SurmAdapterConfig(), 4 * 72),
    "surm adapter kronecker": (SurmAdapterConfig(structure="kronecker"), 4 * 72),
    "c3a": (C3AConfig(block_size=6), 4 * 4 * 4 * 6),
    "lokr": (LoKrConfig(r=2), 4 * (16 + 2 * 12)),
    "krona": (KronAConfig(), 4 * (16 + 36)),
    "krona b": (KronAConfig(variant="krona_b", dropout=0.1), 2 * (16 + 36)),
    "krona b res": (KronAConfig(variant="krona_b_res"), 2 * (16 + 36 + 1)),
    "compacter": (CompacterConfig(phm_dim=2, reduction_factor=4), 4 * (2 * 30 + 30) + 8),
    "compacter++": (
        CompacterConfig(phm_dim=2, reduction_factor=4, placement="houlsby_feedforward"),
        2 * (2 * 30 + 30) + 8,
    ),
    "phm adapters": (CompacterConfig(phm_dim=2, reduction_factor=4, shared_phm_rule=False), 4 * (2 * 30 + 30 + 16)),
    "loretta adp": (LorettaConfig(mode="adp", bottleneck_size=6, tensor_rank=2), 4 * (2 * (8 + 24 + 12) + 30)),
    "lorta": (
        LortaConfig(target_modules=["query", "key", "value", "attention.output.dense"]),
        4 * (24 + 8 + 3 + 4 + 2),
    ),
    "more": (MoreConfig(), 4 * 4 * 48),
    "sum": (AdditiveConfig(matrix={"name": "sum", "terms": ["low_rank", "diagonal"]}), 4 * (8 * 48 + 24)),
}


def adapt(case):
    torch.manual_seed(4)
    return veneer.get_peft_model(BERT.build(), CASES[case][0])


@pytest.mark.parametrize("case", CASES)
def test_train_save_load_and_merge(case, tmp_path):
    model = adapt(case)
    assert model.get_nb_trainable_parameters()[0] == CASES[case][1]
    assert torch.equal(BERT.run(model.eval()), BERT.base_output())
    scramble(model, std=0.1)
    model.train()
    optimizer = torch.optim.SGD(trained(model).values(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    loss_of(BERT.run(model)).backward()
    optimizer.step()
    for name, p in trained(model).items():
        assert not torch.equal(p, before[name]), name
    expected = BERT.run(model.eval())
    model.save_pretrained(tmp_path)
    again = veneer.PeftModel.from_pretrained(BERT.build(), tmp_path).eval()
    assert torch.equal(BERT.run(again), expected)
    if not any(layer.wiring != "linear" for layer in model.base_model.layers()):
        torch.testing.assert_close(BERT.run(again.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)


def wide(config, role="query", d=768):
    """One d x d layer, as in the specification's worked examples."""
    return veneer.get_peft_model(nn.ModuleDict({role: nn.Linear(d, d)}), config).get_nb_trainable_parameters()[0]


def test_counts_of_the_papers():
    only = {"target_modules": ["query"]}
    assert wide(SurmConfig(structure="ldr", **only)) == 1536
    assert wide(C3AConfig(block_size=768, **only)) == 768
    assert wide(C3AConfig(block_size=128, **only)) == 4608
    assert wide(LoKrConfig(**only)) == 1088
    assert wide(KronAConfig(**only)) == 1600
    assert wide(LorettaConfig(**only)) == 1160
    assert wide(MoreConfig(**only)) == 6144
    hidden = {"target_modules": {"output": ["query"]}}
    assert wide(SurmAdapterConfig(**hidden)) == 2304
    assert wide(SurmAdapterConfig(structure="kronecker", **hidden)) == 2304
    assert wide(CompacterConfig(**hidden)) == 2376 + 64
    assert wide(LorettaConfig(mode="adp", **hidden)) == 2392


def test_lorta_shares_one_tensor_over_a_model():
    """r (d + d_h + H + 4 + L) = 860 r at BERT-base's sizes, and gradients of all layers meet in it."""
    blocks = nn.ModuleList(
        nn.ModuleDict({role: nn.Linear(48, 48) for role in ("query", "key", "value")}) for _ in range(3)
    )
    model = veneer.get_peft_model(
        nn.ModuleDict({"layer": blocks}),
        LortaConfig(target_modules=["query", "key", "value"], num_attention_heads=4, r=5),
    )
    assert model.get_nb_trainable_parameters()[0] == 5 * (48 + 12 + 4 + 4 + 3)
    scramble(model)
    x = torch.randn(2, 48)
    for block in model.get_base_model()["layer"]:
        for role in ("query", "key", "value"):
            x = block[role](x)
    x.sum().backward()
    for name, p in trained(model).items():
        assert p.grad.ne(0).any(dim=-1).sum() == (3 if "matrices" in name else p.shape[0]), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SurmConfig(structure="circulant", rank=2),
            "rank is of structure kronecker, ldr; got 2 with structure circ",
        ),
        (
            lambda: SurmConfig(structure="toeplitz", form="single"),
            "form is of structure circulant, symmetric_toeplitz; got",
        ),
        (lambda: SurmConfig(structure="ldr", block_size=3), "block_size is of structure circulant; got 3"),
        (lambda: SurmConfig(structure="toeplits"), "did you mean `toeplitz`"),
        (lambda: KronAConfig(placement="parallel"), "placement is of adapter layers"),
        (lambda: LorettaConfig(mode="adp", placement="beside"), "placement must be one of: houlsby"),
        (lambda: LorettaConfig(scaling=2.0), "scaling is of mode adp; got 2.0 with mode rep"),
        (lambda: LorettaConfig(mode="adp", r=4), "r is of mode rep; got 4 with mode adp"),
        (
            lambda: KronAConfig(hidden_size=24),
            "hidden_size is of variant krona_b, krona_b_res; got 24 with variant krona",
        ),
        (lambda: LoKrConfig(rank_pattern={"fc": 0}), r'rank_pattern\["fc"\] must be at least 1, got 0'),
        (lambda: C3AConfig(block_size_pattern={"fc": 1.5}), r'block_size_pattern\["fc"\] must be an integer, got 1.5'),
        (lambda: LoraConfig(alpha_pattern={"fc": 0}), r'alpha_pattern\["fc"\] must be at least 1e-30, got 0'),
        (lambda: LoraConfig(alpha_pattern=[3]), r"alpha_pattern must be an object \{pattern: value\}, got \[3\]"),
        (
            lambda: AdditiveConfig(matrix={"name": "sum", "terms": "diagonal"}),
            "a list of at least one structured matrix",
        ),
        (lambda: AdditiveConfig(matrix={"name": "sum", "terms": ["digonal"]}), "did you mean `diagonal`"),
        (lambda: AdditiveConfig(matrix={"name": "sum", "terms": [{"name": "low_rank", "r": 3}]}), "unknown option `r`"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_refusals_name_what_the_model_lacks():
    plain = nn.ModuleDict({"layer": nn.ModuleList([nn.ModuleDict({"fc": nn.Linear(12, 12)})])})
    with pytest.raises(ValueError, match="num_attention_heads is not known"):
        veneer.get_peft_model(plain, LortaConfig(target_modules=["fc"]))
    with pytest.raises(ValueError, match=r"expected an attention projection.*got `fc`; give the option role"):
        veneer.get_peft_model(plain, LortaConfig(target_modules=["fc"], num_attention_heads=3))
    with pytest.raises(ValueError, match="init_weights must be one of: true, false"):
        veneer.get_peft_model(plain, LoKrConfig(target_modules=["fc"], init_weights="gaussian"))
    with pytest.raises(ValueError, match="block_size must divide 12 and 12, got 5; the nearest that does is 4"):
        veneer.get_peft_model(plain, C3AConfig(target_modules=["fc"], block_size=5))
