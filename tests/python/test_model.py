# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The generic suite over whole models: every method on every kind of model, by the table in models.py."""

import copy
import io
import os
import pickle
import subprocess
import sys

import pytest
import torch
from models import (
    EACH_MODEL,
    EACH_ROW,
    EVERY,
    MERGEABLE,
    MODELS,
    ROWS,
    adapt,
    assert_same,
    gradients,
    loss_of,
    scramble,
    trained,
)
from safetensors.torch import load_file
from torch import nn

import veneer

EVERY_MERGEABLE = [case for case in EVERY if case.values[1].mergeable]


def plain(model):
    """Type of every module and a copy of every tensor: what "as it was" means."""
    return {name: type(m) for name, m in model.named_modules()}, {k: v.clone() for k, v in model.state_dict().items()}


def assert_plain(model, before):
    kinds, tensors = before
    assert {name: type(m) for name, m in model.named_modules()} == kinds
    assert_same(model.state_dict(), tensors)


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


# Merging -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "row"), EVERY_MERGEABLE)
def test_merge_and_unmerge(model, row, tmp_path):
    adapted = scramble(adapt(model, row), std=0.1)
    expected, state = model.run(adapted), {k: v.clone() for k, v in adapted.state_dict().items()}
    adapted.save_pretrained(tmp_path / "unmerged")

    adapted.merge_adapter()
    torch.testing.assert_close(model.run(adapted), expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(model.run(adapted), model.base_output())
    assert_same(adapted.state_dict(), state)  # the truth, not the merged weights
    adapted.save_pretrained(tmp_path / "merged")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "unmerged" / name).read_bytes()
    twin = copy.deepcopy(adapted)
    twin.unmerge_adapter()
    assert_same(twin.state_dict(), state)
    assert torch.equal(model.run(twin), expected)
    with pytest.raises(RuntimeError, match=r"merged into .*unmerge_adapter\(\) first"):
        model.run(adapted.train())
    adapted.eval()
    for refused in (
        lambda: adapted.load_state_dict(state),
        lambda: adapted.add_adapter("other", row.make(model)),
        lambda: adapted.delete_adapter("default"),
        lambda: adapted.load_adapter(tmp_path / "merged", "default"),
    ):
        with pytest.raises(RuntimeError, match=r"unmerge_adapter\(\) before"):
            refused()

    adapted.unmerge_adapter()
    assert torch.equal(model.run(adapted), expected)
    assert_same(adapted.state_dict(), state)


@pytest.mark.parametrize(("model", "row"), EVERY_MERGEABLE)
def test_merge_and_unload(model, row):
    before = plain(model.build())
    adapted = scramble(adapt(model, row), std=0.1)
    expected = model.run(adapted)
    merged = adapted.merge_and_unload()
    assert type(merged) is type(model.build())
    kinds, tensors = plain(merged)
    assert kinds == before[0]
    assert tensors.keys() == before[1].keys()
    torch.testing.assert_close(model.run(merged), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", MERGEABLE)
def test_merge_twice_warns_and_kept_copies_can_go_elsewhere(row):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, row))
    expected = model.run(adapted)
    with pytest.warns(UserWarning, match="nothing is merged"):
        adapted.unmerge_adapter()
    adapted.merge_adapter(keep_on="cpu", safe_merge=True)
    with pytest.warns(UserWarning, match="merged already"):
        adapted.merge_adapter()
    adapted.double()  # a cast while merged reaches the kept weights too
    adapted.unmerge_adapter()
    torch.testing.assert_close(model.run(adapted, torch.float64).float(), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        next(iter(trained(adapted).values())).fill_(float("nan"))
    state = {k: v.clone() for k, v in adapted.state_dict().items()}
    with pytest.raises(ValueError, match="NaN or infinity"):
        adapted.merge_adapter(safe_merge=True)
    for key, value in adapted.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_a_safe_merge_is_of_all_layers_or_none(merge):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, ROWS["lora"]))
    with torch.no_grad():
        list(trained(adapted).values())[-1].fill_(float("nan"))  # in the last layer
    bases = [(layer.base_layer.weight, layer.base_layer.weight.clone()) for layer in adapted.base_model.layers()]
    with pytest.raises(ValueError, match=r"merging default into fourth gives a weight with NaN or infinity"):
        getattr(adapted, merge)(safe_merge=True)
    assert all(torch.equal(weight, before) for weight, before in bases)
    assert not adapted.base_model.merged()
    assert list(adapted.peft_config) == ["default"]


@pytest.mark.parametrize("unload", ["merge_and_unload", "unload"])
def test_after_unloading_the_wrapper_holds_no_adapter(unload, tmp_path):
    model = MODELS["bert"]
    adapted = scramble(adapt(model, ROWS["vera"]))
    plain_model = getattr(adapted, unload)()
    assert (adapted.peft_config, adapted.active_adapters) == ({}, [])
    assert torch.equal(model.run(adapted), model.run(plain_model))
    assert not any("vera" in key for key in adapted.state_dict())
    with pytest.raises(RuntimeError, match="there is no adapter to save: all were unloaded or deleted"):
        adapted.save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(RuntimeError, match="were unloaded: get_peft_model"):
        adapted.add_adapter("more", ROWS["vera"].make(model))
    with pytest.raises(RuntimeError, match="no adapter is active"):
        adapted.merge_and_unload()


@pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
def test_merging_without_an_active_adapter_is_refused(merge):
    adapted = adapt(MODELS["mlp"], ROWS["lora"])
    adapted.delete_adapter("default")
    with pytest.raises(RuntimeError, match=r"no adapter is active.*set_adapter\(name\) first"):
        getattr(adapted, merge)()


def test_what_is_merged_is_what_is_unloaded():
    """The adapters that are named, with their own heads, whatever is active."""
    model, row = MODELS["bert"], ROWS["lora"]
    adapted = scramble(adapt(model, row, task_type="SEQ_CLS"))
    adapted.add_adapter("b", row.make(model, task_type="SEQ_CLS"))
    adapted.set_adapter("b")
    second = model.run(scramble(adapted, seed=6))
    adapted.set_adapter("default")
    first = model.run(adapted)
    twin = copy.deepcopy(adapted)
    torch.testing.assert_close(model.run(twin.merge_and_unload(adapter_names=["b"])), second, rtol=1e-5, atol=1e-5)
    adapted.merge_adapter(["b"])
    torch.testing.assert_close(model.run(adapted), second, rtol=1e-5, atol=1e-5)
    adapted.set_adapter("default")  # active already: nothing changes
    torch.testing.assert_close(model.run(adapted), second, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"b is merged: unmerge_adapter\(\) before merging default"):
        adapted.merge_and_unload(adapter_names=["default"])
    twin = copy.deepcopy(adapted)
    torch.testing.assert_close(model.run(twin.merge_and_unload()), second, rtol=1e-5, atol=1e-5)
    adapted.unmerge_adapter()
    assert torch.equal(model.run(adapted), first)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_a_bottleneck_refuses_to_merge(placement):
    model = MODELS["bert"]
    adapted = scramble(adapt(model, ROWS[placement]))
    expected = model.run(adapted)
    for merge in (adapted.merge_adapter, adapted.merge_and_unload):
        with pytest.raises(ValueError, match="cannot be merged: its nonlinearity has no effective weight"):
            merge()
    assert torch.equal(model.run(adapted), expected)


@pytest.mark.parametrize(("model", "row"), EVERY)
def test_unload_and_disable_give_the_base(model, row):
    base, expected = model.build(), model.base_output()
    before = plain(base)
    adapted = scramble(veneer.get_peft_model(base, row.make(model)))
    acting = model.run(adapted)
    with adapted.disable_adapter():
        assert torch.equal(model.run(adapted), expected)
        with adapted.disable_adapter():
            assert torch.equal(model.run(adapted), expected)
        assert torch.equal(model.run(adapted), expected)
    assert torch.equal(model.run(adapted), acting)
    unloaded = adapted.unload()
    assert unloaded is base
    assert_plain(unloaded, before)
    assert torch.equal(model.run(unloaded.requires_grad_(False)), expected)
    assert torch.equal(model.run(veneer.get_peft_model(unloaded, row.make(model))), expected)  # and can be adapted anew


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
