# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""DistributedDataParallel over two processes (gloo): gradients are the single process's average, and the copies stay the same."""

import copy
import json
import traceback

import pytest
import torch
import torch.distributed as dist
from checks import loss_of, scramble, trained
from models import MODELS, features, tokens
from rows import ROWS, adapt
from torch.nn.parallel import DistributedDataParallel

WORLD = 2
# Default, and with the two promises that users make to DDP for speed.
WAYS = {
    "default": {},
    "static": {"static_graph": True},
    "views": {"gradient_as_bucket_view": True, "broadcast_buffers": False},
}
SOME = ("lora", "vera", "houlsby")
CASES = [f"{model}-{row}-default" for model in ("mlp", "bert") for row in ROWS]
CASES += [f"mlp-{row}-{way}" for row in SOME for way in ("static", "views")] + [
    f"bert-{row}-static-checkpointing" for row in SOME
]


def batches(name):
    """One batch a process, of equal size."""
    make = features if name == "mlp" else tokens
    whole = make(2 * 3)
    return [{k: v[rank * 3 : rank * 3 + 3] for k, v in whole.items()} for rank in range(WORLD)]


def check(rank, name, row, ways, checkpointing=False):
    model = MODELS[name]
    single = scramble(adapt(model, row)).train()
    losses = [loss_of(model.run(single, **given)) / WORLD for given in batches(name)]
    expected = dict(zip(trained(single), torch.autograd.grad(sum(losses), list(trained(single).values())), strict=True))
    wrapped = copy.deepcopy(single)
    if checkpointing:
        wrapped.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": True})
        wrapped.enable_input_require_grads()
    if rank == 1:  # DDP gives every process the first one's numbers
        scramble(wrapped, seed=12)
    parallel = DistributedDataParallel(wrapped, find_unused_parameters=False, **ways)
    optimizer = torch.optim.AdamW(trained(wrapped).values(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        loss_of(model.run(parallel, **batches(name)[rank])).backward()
        if step == 0:
            for key, gradient in expected.items():
                torch.testing.assert_close(
                    trained(wrapped)[key].grad,
                    gradient,
                    rtol=1e-4,
                    atol=1e-6,
                    msg=lambda text, key=key: f"{key}: {text}",
                )
        optimizer.step()
    for key, parameter in trained(wrapped).items():
        both = [torch.empty_like(parameter) for _ in range(WORLD)]
        dist.all_gather(both, parameter.detach())
        assert torch.equal(*both), key
        assert not torch.equal(parameter, trained(single)[key]), key


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    results = {}
    cases = [(model, row, "default", False) for model in ("mlp", "bert") for row in ROWS]
    cases += [("mlp", row, way, False) for row in SOME for way in ("static", "views")]
    cases += [("bert", row, "static", True) for row in SOME]
    for name, row, way, checkpointing in cases:
        key = f"{name}-{row}-{way}" + ("-checkpointing" if checkpointing else "")
        try:
            check(rank, name, ROWS[row], WAYS[way], checkpointing)
            results[key] = ""
        except Exception:
            results[key] = traceback.format_exc()
        dist.barrier()
    with open(f"{folder}/results{rank}.json", "w") as file:
        json.dump(results, file)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All cases in one pair of processes: starting them is most of the time."""
    folder = str(tmp_path_factory.mktemp("ddp"))
    torch.multiprocessing.spawn(work, (folder,), nprocs=WORLD)
    found = []
    for rank in range(WORLD):
        with open(f"{folder}/results{rank}.json") as file:
            found.append(json.load(file))
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_processes(case, results):
    for rank in range(WORLD):
        assert not results[rank][case], results[rank][case]


def test_every_case_ran(results):
    assert set(results[0]) == set(results[1]) == set(CASES)
