# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""What a layer keeps for backward, to the byte: by the tensors that autograd saves, and by what the allocator gave out."""

import pytest
import torch
from checks import scramble
from torch import nn
from torch.profiler import ProfilerActivity, profile

from veneer import (
    AdditiveConfig,
    BottleneckConfig,
    IA3Config,
    LoraConfig,
    SurmAdapterConfig,
    SurmConfig,
    VeraConfig,
    get_peft_model,
)

N, D, O, R = 1000, 48, 72, 4  # rows, d_in, d_out, rank; gcd(D, O) = 24
BYTES = 4


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(D, O)

    def forward(self, x):
        return self.fc(x)


def kept(model, x):
    """(bytes of distinct storages saved for backward, parameters and x itself left out; whether x is saved too; bytes that the
    allocator gave out in the forward and that outlive it, the output included)."""
    known = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    model(x)  # plans and lazy state
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        held = model(x)
    own = {pointer: size for pointer, size in storages.items() if pointer not in known}
    has_x = own.pop(x.untyped_storage().data_ptr(), None) is not None
    del held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        held = model(x)
    net = sum(event.self_cpu_memory_usage for event in profiled.key_averages())
    del held
    return sum(own.values()), has_x, net


# What a layer keeps beside parameters: (configuration, whether x itself is kept, bytes beside it), the latter two by whether x
# needs a gradient (1) or not (0), as behind frozen embeddings. These are today's figures; where they are above what the
# mathematics needs, the comment says what takes the excess away, and the figure then has to come down with it.
SEED = 8
CASES = {
    "lora": (LoraConfig(r=R), lambda g: True, lambda g: BYTES * N * R),
    "rslora": (LoraConfig(r=R, use_rslora=True, lora_alpha=3), lambda g: True, lambda g: BYTES * N * R),
    # The mask is drawn again from its seed.
    "lora dropout": (LoraConfig(r=R, lora_dropout=0.1), lambda g: True, lambda g: BYTES * N * R + SEED),
    # x is transformed again.
    "circulant": (SurmConfig(), lambda g: True, lambda g: 0),
    "circulant dropout": (SurmConfig(dropout=0.1), lambda g: True, lambda g: SEED),
    "circulant single": (SurmConfig(form="single"), lambda g: True, lambda g: 0),
    # y before its rescaling, for the gradient of m, the norms and the factors on y.
    "dora": (LoraConfig(r=R, use_dora=True), lambda g: True, lambda g: BYTES * (N * (R + O) + 2 * O)),
    "dora dropout": (
        LoraConfig(r=R, use_dora=True, lora_dropout=0.1),
        lambda g: False,
        lambda g: BYTES * (N * (D + R + O) + 2 * O) + SEED * g,
    ),
    # Both products are computed again.
    "vera": (VeraConfig(r=R), lambda g: True, lambda g: 0),
    "dense": (AdditiveConfig(matrix="dense"), lambda g: True, lambda g: 0),
    "ia3": (IA3Config(feedforward_modules=[]), lambda g: False, lambda g: BYTES * N * O),  # y, for the gradient of l
    "ia3 input": (IA3Config(feedforward_modules=["fc"]), lambda g: True, lambda g: 0),
    # z, and the inner state before its nonlinearity.
    "bottleneck": (
        BottleneckConfig(target_modules={"output": ["fc"]}, bottleneck_size=R),
        lambda g: False,
        lambda g: BYTES * N * (O + R),
    ),
    # z, and the state before its nonlinearity.
    "surm adapter": (
        SurmAdapterConfig(target_modules={"output": ["fc"]}),
        lambda g: False,
        lambda g: BYTES * N * 2 * O,
    ),
}


def make(config, dtype=torch.float32):
    config.target_modules = config.target_modules or ["fc"]
    return scramble(get_peft_model(Net().to(dtype), config))


@pytest.mark.parametrize("needs_gradient", [0, 1], ids=["frozen x", "x with gradient"])
@pytest.mark.parametrize("case", CASES)
def test_kept_for_backward(case, needs_gradient):
    config, keeps_x, expected = CASES[case]
    model = make(config).train()
    x = torch.randn(N, D, requires_grad=bool(needs_gradient))
    saved, has_x, net = kept(model, x)
    assert (has_x, saved) == (keeps_x(needs_gradient), expected(needs_gradient))
    assert net == saved + BYTES * N * O  # and the output: the allocator agrees
    assert [row.saved_bytes for row in model.explain(x)] == [saved + BYTES * N * D * has_x]
    if "dropout" in case:  # in eval mode, as without
        _, keeps_x, expected = CASES[case.removesuffix(" dropout")]
        saved, has_x, _ = kept(model.eval(), x)
        assert (has_x, saved) == (keeps_x(needs_gradient), expected(needs_gradient))


@pytest.mark.parametrize("needs_gradient", [0, 1], ids=["frozen x", "x with gradient"])
def test_a_bfloat16_base_makes_no_float32_copy_of_x(needs_gradient):
    model = make(LoraConfig(r=R), torch.bfloat16).train()
    saved, has_x, net = kept(model, torch.randn(N, D, dtype=torch.bfloat16, requires_grad=bool(needs_gradient)))
    assert has_x
    assert saved == 2 * N * R
    assert net == saved + 2 * N * O


@pytest.mark.parametrize("case", CASES)
def test_a_base_without_its_adapter_keeps_nothing(case):
    model = make(CASES[case][0]).train()
    for needs_gradient in (False, True):
        x = torch.randn(N, D, requires_grad=needs_gradient)
        with model.disable_adapter():
            assert kept(model, x) == (0, False, BYTES * N * O)
        with torch.no_grad():
            assert kept(model, x)[:2] == (0, False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["lora", "lora dropout", "dora", "dora dropout", "vera", "ia3", "ia3 input"])
def test_never_more_than_peft(case, dtype):
    peft = pytest.importorskip("peft")
    ours = CASES[case][0]
    fields = {k: v for k, v in ours.to_dict().items() if k not in ("peft_type", "dora_dropout") and v is not None}
    theirs = getattr(peft, type(ours).__name__)(**{**fields, "target_modules": ["fc"]})
    x = torch.randn(N, D, dtype=dtype, requires_grad=True)
    element = x.element_size()
    measured = []
    for model in (make(ours, dtype), peft.get_peft_model(Net().to(dtype), theirs)):
        saved, has_x, net = kept(model.train(), x)
        measured.append((saved + element * N * D * has_x, net))
    assert measured[0][0] <= measured[1][0]
    assert measured[0][1] <= measured[1][1]
