# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Adapter files: read strictly, written whole or not at all, and HF PEFT's fields understood or refused."""

import json
import os

import pytest
import torch
from checks import assert_same, scramble
from models import MODELS
from rows import ROWS, adapt
from safetensors.torch import load_file, save_file

import veneer
from veneer import LoraConfig, PeftConfig, PeftModel, get_peft_model

MLP = MODELS["mlp"]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def saved(tmp_path):
    """A folder with one LoRA adapter, and the model that wrote it."""
    adapted = scramble(adapt(MLP, ROWS["lora"]))
    adapted.save_pretrained(tmp_path)
    return tmp_path, adapted


def rewrite(folder, **changes):
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, **changes}))


def load(folder):
    return PeftModel.from_pretrained(MLP.build(), folder)


def test_missing_unexpected_and_misshapen_keys_are_listed(saved):
    folder, _ = saved
    tensors = load_file(folder / WEIGHTS)
    first = "base_model.model.first.lora_A.weight"
    wrong = {k: v for k, v in tensors.items() if k != first}
    wrong["base_model.model.first.lora_C.weight"] = torch.zeros(1)
    wrong["base_model.model.second.lora_B.weight"] = torch.zeros(20, 3)
    save_file(wrong, folder / WEIGHTS)
    base = MLP.build()
    before = [(n, id(m)) for n, m in base.named_modules()], {k: v.clone() for k, v in base.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit the model") as error:
        PeftModel.from_pretrained(base, folder)
    for part in (
        f"missing: {first}",
        "unexpected: base_model.model.first.lora_C.weight",
        "other shapes: base_model.model.second.lora_B.weight: expected [21, 3], got [20, 3]",
        str(folder),
    ):
        assert part in str(error.value)
    assert [(n, id(m)) for n, m in base.named_modules()] == before[0]
    assert_same(base.state_dict(), before[1])
    assert all(p.requires_grad for p in base.parameters())
    # Into a model that has an adapter: neither a new one, nor a changed one.
    adapted = scramble(adapt(MLP, ROWS["lora"]), seed=9)
    state = {k: v.clone() for k, v in adapted.state_dict().items()}
    for name in ("second", "default"):
        with pytest.raises(ValueError, match="does not fit the model"):
            adapted.load_adapter(folder, name)
        assert_same(adapted.state_dict(), state)
        assert list(adapted.peft_config) == ["default"]


def test_a_failed_save_leaves_the_old_files_whole(saved, monkeypatch):
    folder, adapted = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    scramble(adapted, seed=9)
    fsync = os.fsync
    for function, before_it in (("fsync", []), ("fsync", [fsync]), ("replace", [])):  # of either file; of the first
        calls = list(before_it)

        def fail(*args, calls=calls):
            if not calls:
                raise OSError("disk full")
            calls.pop()(*args)

        with monkeypatch.context() as patch:
            patch.setattr(f"os.{function}", fail)
            with pytest.raises(OSError, match="disk full"):
                adapted.save_pretrained(folder)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    adapted.save_pretrained(folder)
    assert (folder / WEIGHTS).read_bytes() != before[WEIGHTS]
    assert oct((folder / WEIGHTS).stat().st_mode)[-3:] == "644"


def test_the_tensors_are_renamed_first(saved, monkeypatch):
    """No moment has the new configuration beside the old tensors."""
    folder, adapted = saved
    renamed, replace = [], os.replace
    monkeypatch.setattr(
        os, "replace", lambda a, b: (renamed.append((b.name, len(list(folder.iterdir())))), replace(a, b))
    )
    adapted.save_pretrained(folder)
    assert renamed == [(WEIGHTS, 4), (CONFIG, 3)]  # both new files were there, whole


def test_integers_are_refused(saved):
    folder, _ = saved
    tensors = load_file(folder / WEIGHTS)
    key = next(iter(tensors))
    save_file({**tensors, key: tensors[key].to(torch.int32)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=rf"other types: {key}: expected torch.float32, got torch.int32$"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_alpha": 64}, r"lora_alpha \(5\.0 here, 64\.0 there\)"),
        ({"use_rslora": True}, r"use_rslora \(False here, True there\)"),
        ({"target_modules": ["first"]}, r"target_modules \(.* here, \['first'\] there\)"),
        ({"modules_to_save": ["head"]}, r"modules_to_save \(None here, \['head'\] there\)"),
        ({"target_modules": "first|second|fourth", "init_lora_weights": "gaussian"}, None),
    ],
    ids=str,
)
def test_a_file_for_an_adapter_that_is_there_has_its_configuration(saved, changes, message):
    folder, adapted = saved
    expected = MLP.run(adapted)
    rewrite(folder, **changes)
    again = adapt(MLP, ROWS["lora"])
    if message:
        before = {k: v.clone() for k, v in again.state_dict().items()}
        with pytest.raises(ValueError, match=rf"configured otherwise than the adapter default, .*: {message}"):
            again.load_adapter(folder, "default")
        assert_same(again.state_dict(), before)
    else:
        again.load_adapter(folder, "default")
        assert torch.equal(MLP.run(again), expected)


@pytest.mark.parametrize("start", ["orthogonal", "eva"])
def test_a_start_of_the_adapter_alone_is_loaded(saved, start):
    folder, adapted = saved
    rewrite(folder, init_lora_weights=start)
    assert torch.equal(MLP.run(load(folder)), MLP.run(adapted))


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_16", "olora", "corda", "lora_ga", "loftq"])
def test_a_start_that_moved_the_base_is_refused(saved, start):
    folder, adapted = saved
    rewrite(folder, init_lora_weights=start)
    message = rf"was trained from init_lora_weights='{start}', so its tensors do not fit the plain base: "
    for call in (load, lambda folder: adapted.load_adapter(folder, "more")):
        with pytest.raises(ValueError, match=message):
            call(folder)


def test_peft_s_arguments(saved):
    folder, adapted = saved
    expected = MLP.run(adapted)
    adapted.save_pretrained(folder / "below", safe_serialization=True)
    with pytest.raises(ValueError, match="safe_serialization must be True: only safetensors is written"):
        adapted.save_pretrained(folder / "below", safe_serialization=False)
    arguments = {"subfolder": "below", "torch_device": "cpu", "low_cpu_mem_usage": True}
    loaded = PeftModel.from_pretrained(MLP.build(), folder, **arguments)
    assert torch.equal(MLP.run(loaded), expected)
    loaded.load_adapter(folder, "more", **arguments)
    loaded.set_adapter("more")
    assert torch.equal(MLP.run(loaded), expected)
    get_peft_model(MLP.build(), ROWS["lora"].make(MLP), low_cpu_mem_usage=True)


def test_damaged_and_absent_files(saved, tmp_path):
    folder, _ = saved
    whole = (folder / WEIGHTS).read_bytes()
    for size in (0, 4, 8, 60, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
            load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected {WEIGHTS} in .*, found {CONFIG}"):
        load(folder)
    (folder / WEIGHTS).write_bytes(whole)
    (folder / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is not valid JSON"):
        load(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected a folder with {CONFIG}"):
        load(folder)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_the_older_format_is_read(saved):
    folder, adapted = saved
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    assert torch.equal(MLP.run(load(folder)), MLP.run(adapted))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_replication", None),
        ("loftq_config", {}),
        ("eva_config", None),
        ("megatron_core", "megatron.core"),
        ("use_qalora", False),
        ("qalora_group_size", 16),
        ("runtime_config", {"ephemeral_gpu_offload": False}),
        ("trainable_token_indices", None),
        ("peft_version", "0.21.2"),
        ("a_field_of_the_future", None),
        ("another", False),
        ("kasa_config", None),
    ],
)
def test_fields_that_change_nothing_are_accepted(saved, field, value):
    folder, adapted = saved
    rewrite(folder, **{field: value})
    assert torch.equal(MLP.run(load(folder)), MLP.run(adapted))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layer_replication", [[0, 4], [2, 5]]),
        ("loftq_config", {"loftq_bits": 4}),
        ("use_qalora", True),
        ("qalora_group_size", 32),
        ("trainable_token_indices", [1, 2]),
        ("lora_bias", True),
        ("kasa_config", {"beta": 1e-4}),
        ("a_field_of_the_future", 3),
    ],
)
def test_fields_that_would_change_something_are_refused(saved, field, value):
    folder, _ = saved
    rewrite(folder, **{field: value})
    with pytest.raises(ValueError, match=rf"\[LoraConfig\] the file asks for `{field}` = .*, which is not supported"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORAX"}, "unknown peft_type `LORAX`; known: .*did you mean `LORA`"),
        ({"peft_type": None}, "expected a field peft_type"),
        ({"r": "eight"}, r"r must be an integer, got \"eight\""),
        ({"target_modules": ["nothing"]}, "names `nothing`, which matches no module"),
        ({"r": 4}, r"other shapes: .*expected \[4, 15\], got \[3, 15\]"),
    ],
)
def test_wrong_values_in_files(saved, changes, message):
    folder, _ = saved
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_what_is_written(saved):
    folder, adapted = saved
    values = json.loads((folder / CONFIG).read_text())
    assert values["peft_type"] == "LORA"
    assert values["inference_mode"] is True  # as HF PEFT writes
    assert values["target_modules"] == ["first", "fourth", "second"] or sorted(values["target_modules"]) == [
        "first",
        "fourth",
        "second",
    ]
    assert adapted.peft_config["default"].inference_mode is False
    config = PeftConfig.from_pretrained(folder)
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha) == (3, 5)
    assert LoraConfig.from_pretrained(folder / CONFIG).r == 3
    with pytest.raises(ValueError, match="holds a LoraConfig"):
        veneer.IA3Config.from_pretrained(folder)
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(
            r=2,
            rank_pattern={"first": 3},
            use_rslora=True,
            target_modules=r".*first",
            exclude_modules=["second"],
            task_type="SEQ_CLS",
        ),
        veneer.SurmConfig(form="single", target_modules="all-linear", bias="all", modules_to_save=["head"]),
        veneer.IA3Config(target_modules=["a", "b"], feedforward_modules=["b"]),
        veneer.VeraConfig(r=7, save_projection=False, layers_to_transform=[1, 2], layers_pattern="h"),
        veneer.BottleneckConfig(placement="parallel", matrix={"name": "low_rank", "rank": 2}, up_matrix="circulant"),
        veneer.AdditiveConfig(matrix={"name": "circulant", "form": "single"}, target_modules={"output": ["x"]}),
        veneer.MethodConfig(method="ia3", options={"position": "input"}, target_modules=["x"]),
    ],
    ids=lambda c: type(c).__name__,
)
def test_configurations_round_trip(config, tmp_path):
    config.save_pretrained(tmp_path)
    again = PeftConfig.from_pretrained(tmp_path)
    assert again == config
    assert again.to_dict() == config.to_dict()


def test_vera_without_its_projection_draws_it_again(tmp_path):
    model = MODELS["bert"]
    for saved in (True, False):
        adapted = scramble(adapt(model, ROWS["vera"], save_projection=saved, projection_prng_key=7))
        adapted.save_pretrained(tmp_path)
        shared = {k for k in load_file(tmp_path / WEIGHTS) if k in ("base_model.vera_A", "base_model.vera_B")}
        assert len(shared) == (2 if saved else 0)
        assert torch.equal(model.run(PeftModel.from_pretrained(model.build(), tmp_path)), model.run(adapted))


def test_a_given_state_dict_is_what_is_saved(saved, tmp_path):
    """As accelerate and FSDP hand it in, gathered."""
    _, adapted = saved
    state = {k: torch.full_like(v, 2.0) for k, v in adapted.state_dict().items()}
    adapted.save_pretrained(tmp_path / "given", state_dict=state)
    assert all((t == 2).all() for t in load_file(tmp_path / "given" / WEIGHTS).values())
    with pytest.raises(ValueError, match="the state dict given lacks"):
        adapted.save_pretrained(tmp_path / "given", state_dict={})
    adapted.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not (tmp_path / "other").exists()


def test_several_adapters_are_saved_in_folders(tmp_path):
    adapted = scramble(adapt(MLP, ROWS["lora"]))
    adapted.add_adapter("second", ROWS["ia3"].make(MLP))
    adapted.save_pretrained(tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {
        WEIGHTS,
        CONFIG,
        f"second/{WEIGHTS}",
        f"second/{CONFIG}",
    }
    assert json.loads((tmp_path / "second" / CONFIG).read_text())["peft_type"] == "IA3"


def test_a_bfloat16_adapter_keeps_its_type(tmp_path):
    adapted = scramble(get_peft_model(MLP.build(torch.bfloat16), ROWS["lora"].make(MLP), autocast_adapter_dtype=False))
    adapted.save_pretrained(tmp_path)
    assert {t.dtype for t in load_file(tmp_path / WEIGHTS).values()} == {torch.bfloat16}
    again = PeftModel.from_pretrained(MLP.build(torch.bfloat16), tmp_path, autocast_adapter_dtype=False)
    assert torch.equal(MLP.run(again, torch.bfloat16), MLP.run(adapted, torch.bfloat16))
