# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The generic suite over whole models: every method on every kind of model, by the tables in models.py and rows.py."""

import copy
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch
from checks import assert_same, gradients, loss_of, scramble, trained
from models import EACH_MODEL, MODELS
from rows import EACH_ROW, EVERY, ROWS, adapt
from safetensors.torch import load_file
from torch import nn

import veneer

# Starting ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_starts_as_the_base_and_trains_only_the_adapter(model, row):
    base, expected = model.build(), model.base_output()
    before = {id(p) for p in base.parameters()}
    adapted = veneer.get_peft_model(base, row.make(model))
    assert torch.equal(model.run(adapted), expected)
    adapted.train()  # the bases have no dropout
    assert torch.equal(model.run(adapted), expected)
    assert sum(p.numel() for p in trained(adapted).values()) == row.count(model)
    assert not any(id(p) in before for p in trained(adapted).values())
    assert adapted.get_nb_trainable_parameters() == (row.count(model), sum(p.numel() for p in adapted.parameters()))
    # The start is a saddle for products (B = 0 stops A's gradient); anywhere else every tensor learns.
    scramble(adapted)
    for name, gradient in gradients(adapted, loss_of(model.run(adapted))).items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name
    assert not torch.equal(model.run(adapted), expected)


@pytest.mark.parametrize("row", EACH_ROW)
def test_learns(row):
    """A few steps of AdamW lower the loss of every method, with dropout where it has one."""
    model = MODELS["bert"]
    adapted = adapt(model, row, **({row.dropout: 0.1} if row.dropout else {})).train()
    optimizer = torch.optim.AdamW(trained(adapted).values(), lr=0.05)
    labels = torch.tensor([0, 1, 2])
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model.run(adapted), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.dropout], ids=lambda row: row.name)
def test_dropout_acts_in_training_only_and_follows_the_seed(row):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, row, **{row.dropout: 0.5}))
    without = scramble(adapt(model, row))
    assert torch.equal(model.run(adapted), model.run(without))
    adapted.train()

    def seeded(seed):
        torch.manual_seed(seed)
        return model.run(adapted)

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))


# Copies and files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_saves_and_loads_exactly(model, row, tmp_path):
    adapted = scramble(adapt(model, row))
    expected = model.run(adapted)
    adapted.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    keys = load_file(tmp_path / "adapter_model.safetensors").keys()
    assert all(key.startswith("base_model.") and "default" not in key for key in keys)

    loaded = veneer.PeftModel.from_pretrained(model.build(), tmp_path)
    assert torch.equal(model.run(loaded), expected)
    assert not trained(loaded)  # for inference, unless asked
    again = veneer.PeftModel.from_pretrained(model.build(), tmp_path, is_trainable=True)
    assert_same(trained(again), trained(adapted))
    assert torch.equal(model.run(again), expected)
    # Under another name, in a model that has an adapter already.
    more = adapt(model, row)
    more.load_adapter(tmp_path, "second")
    more.set_adapter("second")
    assert torch.equal(model.run(more), expected)
    more.save_pretrained(tmp_path / "more", selected_adapters=["second"])
    assert_same(
        load_file(tmp_path / "more/second/adapter_model.safetensors"), load_file(tmp_path / "adapter_model.safetensors")
    )


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_copies(model, row):
    adapted = scramble(adapt(model, row))
    expected = model.run(adapted)
    buffer = io.BytesIO()
    torch.save(adapted, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted)), torch.load(buffer, weights_only=False)]
    for twin in copies:
        assert torch.equal(model.run(twin), expected)
        assert trained(twin).keys() == trained(adapted).keys()
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in adapted.parameters()}
        scramble(twin, seed=11)  # a copy's tensors are what its layers use ...
        assert not torch.equal(model.run(twin), expected)
        assert torch.equal(model.run(adapted), expected)  # ... and only its


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_state_dict_round_trip(model, row):
    adapted = scramble(adapt(model, row))
    state = {k: v.clone() for k, v in adapted.state_dict().items()}
    fresh = adapt(model, row)
    fresh.load_state_dict(state)
    assert torch.equal(model.run(fresh), model.run(adapted))
    fresh = adapt(model, row)
    fresh.load_state_dict(state, assign=True)
    assert torch.equal(model.run(fresh), model.run(adapted))


# Types and devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_whole_model_casts(model, row):
    adapted = scramble(adapt(model, row))
    expected = model.run(adapted)
    double = copy.deepcopy(adapted).double()
    torch.testing.assert_close(model.run(double, torch.float64).float(), expected, rtol=2e-4, atol=2e-4)
    assert all(p.dtype == torch.float64 for p in double.parameters())
    half = copy.deepcopy(adapted).half()
    assert model.run(half, torch.float16).dtype == torch.float16
    assert all(p.dtype == torch.float16 for p in half.parameters())
    assert torch.equal(model.run(double.float()), expected)
    narrow = copy.deepcopy(adapted).to(torch.bfloat16)
    assert model.run(narrow, torch.bfloat16).dtype == torch.bfloat16
    meta = copy.deepcopy(adapted).to("meta")
    assert all(t.is_meta for t in [*meta.parameters(), *meta.buffers()])


@pytest.mark.parametrize("row", EACH_ROW)
@pytest.mark.parametrize("model", EACH_MODEL)
def test_made_on_the_meta_device(model, row, tmp_path):
    """Adapted without memory, then given its numbers: as large models are loaded."""
    adapted = scramble(adapt(model, row))
    with torch.device("meta"):
        empty = model.make()
    empty = veneer.get_peft_model(empty.eval(), row.make(model))
    assert all(p.is_meta for p in trained(empty).values())
    empty.load_state_dict(adapted.state_dict(), assign=True)
    assert not any(p.is_meta for p in empty.parameters())
    assert_same(empty.state_dict(), adapted.state_dict())


@pytest.mark.parametrize("wide", [True, False], ids=["float32 adapter", "bfloat16 adapter"])
@pytest.mark.parametrize(("model", "row"), EVERY)
def test_bfloat16_base(model, row, wide):
    expected = model.base_output(torch.bfloat16)
    adapted = veneer.get_peft_model(model.build(torch.bfloat16), row.make(model), autocast_adapter_dtype=wide)
    assert {p.dtype for p in trained(adapted).values()} == {torch.float32 if wide else torch.bfloat16}
    assert torch.equal(model.run(adapted, torch.bfloat16), expected)
    scramble(adapted)
    output = model.run(adapted, torch.bfloat16)
    assert output.dtype == torch.bfloat16
    for name, gradient in gradients(adapted, loss_of(output.float())).items():
        assert gradient.dtype == (torch.float32 if wide else torch.bfloat16), name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_autocast(model, row):
    """Under autocast the result has F.linear's dtype, the start is the base's autocast result, and trained parameters get
    float32 gradients near those without autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.base_output()
    adapted = veneer.get_peft_model(model.build(), row.make(model)).train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.run(adapted), expected)
    scramble(adapted, std=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        output = model.run(adapted)
        assert output.dtype == expected.dtype
        low = gradients(adapted, loss_of(output.float()))
    reference = model.run(adapted)
    exact = gradients(adapted, loss_of(reference))
    assert (output.float() - reference).norm() < 0.1 * reference.norm()
    total = torch.cat([g.flatten() for g in exact.values()]).norm()
    for name, gradient in low.items():
        assert gradient.dtype == torch.float32, name
        assert (gradient - exact[name]).norm() < 0.1 * total, name


@pytest.mark.parametrize("level", ["trace", "debug", "off", "1"])
def test_the_log_level_is_checked(level):
    make = "veneer.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), veneer.LoraConfig(target_modules=['0']))"
    environment = {**os.environ, "VENEER_LOG": level}
    done = subprocess.run(
        [sys.executable, "-c", f"import torch, veneer; {make}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if level == "1":
        assert "VENEER_LOG must be one of: trace, debug, info, warn, error, critical, off; got 1" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert ("adapter" in done.stderr) == (level != "off")
