# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Files go both ways between Hugging Face PEFT and us; its real configurations and real trained adapters load, or are
refused with the reason."""

import json
import warnings

import pytest
import torch
from checks import assert_same, scramble
from models import MODELS
from peft_cases import (
    EACH,
    WEIGHTS,
    configs,
    ours_from,
    peft,
    theirs_of,
)
from safetensors.torch import load_file, save_file

import veneer


@pytest.mark.parametrize(("model", "name"), EACH)
def test_files_go_both_ways(model, name, tmp_path):
    config, _ = configs(model, name, **({"modules_to_save": ["head"]} if model == "mlp" else {}))
    torch.manual_seed(4)
    ours = scramble(veneer.get_peft_model(MODELS[model].build(torch.float64), config))
    ours.save_pretrained(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of missing and unexpected keys
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to|.*is_gradient_checkpointing")
        theirs = peft.PeftModel.from_pretrained(MODELS[model].build(torch.float64), tmp_path / "ours")
    expected = MODELS[model].run(ours, torch.float64)
    torch.testing.assert_close(MODELS[model].run(theirs.eval(), torch.float64), expected, rtol=1e-11, atol=1e-12)
    theirs.save_pretrained(tmp_path / "theirs")
    a, b = (load_file(tmp_path / folder / WEIGHTS) for folder in ("ours", "theirs"))
    doubles = {
        key for key in b if ".modules_to_save." in key
    }  # of PEFT's with bias="all": the same numbers under two keys
    assert a.keys() == b.keys() - doubles
    assert all(torch.equal(a[key], b[key]) for key in a)
    again = ours_from(tmp_path / "theirs", model, torch.float64)
    assert torch.equal(MODELS[model].run(again, torch.float64), expected)
    # Their class has each field that ours wrote.
    assert set(json.loads((tmp_path / "ours/adapter_config.json").read_text())) <= set(
        type(configs(model, name)[1]).__dataclass_fields__
    )


def test_named_adapters_and_sub_folders(tmp_path):
    _, config = configs("mlp", "lora")
    theirs = theirs_of("mlp", config, torch.float32)
    theirs.add_adapter("other", configs("mlp", "rslora")[1])
    theirs.save_pretrained(tmp_path)
    ours = ours_from(tmp_path, "mlp", torch.float32)
    ours.load_adapter(tmp_path / "other", "other")
    for name in ("default", "other"):
        theirs.set_adapter(name)
        ours.set_adapter(name)
        torch.testing.assert_close(MODELS["mlp"].run(ours), MODELS["mlp"].run(theirs))


@pytest.mark.parametrize("name", ["lora", "dora", "ia3", "vera", "lora patterns", "lora all biases"])
def test_peft_s_own_configurations_are_accepted(name):
    ours, theirs = configs("mlp", name)
    adapted = [veneer.get_peft_model(MODELS["mlp"].build(), config) for config in (ours, theirs)]
    assert type(adapted[1].peft_config["default"]) is type(ours)
    assert [(n, p.shape) for n, p in adapted[0].named_parameters()] == [
        (n, p.shape) for n, p in adapted[1].named_parameters()
    ]
    with pytest.raises(ValueError, match="asks for `use_qalora`"):
        veneer.get_peft_model(MODELS["mlp"].build(), peft.LoraConfig(target_modules=["first"], use_qalora=True))
    with pytest.raises(ValueError, match="unknown peft_type `HRA`"):
        veneer.get_peft_model(MODELS["mlp"].build(), peft.HRAConfig(target_modules=["first"]))
    with pytest.raises(TypeError, match="expected a configuration"):
        veneer.get_peft_model(MODELS["mlp"].build(), {"peft_type": "LORA"})


@pytest.mark.parametrize(
    "targets", [["1.attention.self.query"], ["query"], r".*layer\.[01].*(query|key)", "all-linear", ["dense"]], ids=str
)
@pytest.mark.parametrize("more", [{}, {"layers_to_transform": [1]}, {"exclude_modules": r".*intermediate.*"}], ids=str)
@pytest.mark.parametrize("task_type", ["SEQ_CLS", None])
def test_the_same_modules_are_matched(targets, more, task_type):
    if "layers_to_transform" in more and isinstance(targets, str):
        pytest.skip("PEFT refuses layers_to_transform with a regular expression")
    fields = {"target_modules": targets, **more}
    keys = []
    for library in (veneer, peft):
        model = library.get_peft_model(MODELS["bert"].build(), library.LoraConfig(task_type=task_type, **fields))
        keys.append({n for n, p in model.named_parameters() if p.requires_grad})
    assert keys[0] == keys[1]


@pytest.mark.parametrize("task_type", ["SEQ_CLS", None])
@pytest.mark.parametrize("model", ["bert", "roberta", "gpt2"])
def test_all_linear_and_task_heads_go_both_ways(model, task_type, tmp_path):
    fields = {"target_modules": "all-linear", "task_type": task_type if model != "gpt2" else None}
    ours = scramble(veneer.get_peft_model(MODELS[model].build(torch.float64), veneer.LoraConfig(**fields)))
    ours.save_pretrained(tmp_path / "ours")
    assert isinstance(json.loads((tmp_path / "ours/adapter_config.json").read_text())["target_modules"], list)
    theirs = peft.PeftModel.from_pretrained(MODELS[model].build(torch.float64), tmp_path / "ours").eval()
    expected = MODELS[model].run(ours, torch.float64)
    torch.testing.assert_close(MODELS[model].run(theirs, torch.float64), expected, rtol=1e-11, atol=1e-12)
    own = theirs_of(model, peft.LoraConfig(**fields), torch.float64)
    own.save_pretrained(tmp_path / "theirs")
    got = MODELS[model].run(ours_from(tmp_path / "theirs", model, torch.float64), torch.float64)
    torch.testing.assert_close(got, MODELS[model].run(own, torch.float64), rtol=1e-11, atol=1e-12)


def test_biases_of_a_head_with_modules_below_it(tmp_path):
    """With bias="all" PEFT writes the trained head's biases a second time, under the wrapper and the adapter's name."""
    for name in ("default", "other"):
        config = peft.LoraConfig(target_modules=["query"], task_type="SEQ_CLS", bias="all")
        theirs = peft.get_peft_model(MODELS["roberta"].build(torch.float64), config, name)
        scramble(theirs.eval()).save_pretrained(tmp_path)
        folder = tmp_path if name == "default" else tmp_path / name
        double = f"base_model.model.classifier.modules_to_save.{name}.dense.bias"
        tensors = load_file(folder / WEIGHTS)
        assert double in tensors
        ours = ours_from(folder, "roberta", torch.float64)
        torch.testing.assert_close(
            MODELS["roberta"].run(ours, torch.float64), MODELS["roberta"].run(theirs, torch.float64)
        )
        save_file({**tensors, double: tensors[double] + 1}, folder / WEIGHTS)  # no double: which one was meant?
        with pytest.raises(ValueError, match=f"unexpected: {double}$"):
            ours_from(folder, "roberta", torch.float64)


EMBEDDINGS = {
    "adapted head": ({"target_modules": ["q_proj", "lm_head"]}, {}, ["lm_head.base_layer.weight"]),
    "embeddings": (
        {"target_modules": ["q_proj"]},
        {"save_embedding_layers": True},
        ["lm_head.weight", "model.embed_tokens.weight"],
    ),
    "embeddings, trained head": (
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"save_embedding_layers": True},
        ["lm_head.original_module.weight", "model.embed_tokens.weight"],
    ),
}


@pytest.mark.parametrize("case", EMBEDDINGS)
def test_embeddings_in_a_file_go_into_the_base(case, tmp_path, caplog):
    fields, saving, keys = EMBEDDINGS[case]
    llama = MODELS["llama"]
    config = peft.LoraConfig(init_lora_weights=False, **fields)
    theirs = peft.get_peft_model(llama.build(torch.float64), config).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT's own
        theirs.save_pretrained(tmp_path, **saving)
    tensors = load_file(tmp_path / WEIGHTS)
    keys = [f"base_model.model.{key}" for key in keys]
    assert {*keys} <= {*tensors}
    expected = llama.run(theirs, torch.float64)
    torch.testing.assert_close(llama.run(ours_from(tmp_path, "llama", torch.float64), torch.float64), expected)
    assert not caplog.records  # the base has these numbers
    # Other numbers replace the base's, as in PEFT.
    save_file({**tensors, **{key: tensors[key] + 0.1 for key in keys}}, tmp_path / WEIGHTS)
    again = peft.PeftModel.from_pretrained(llama.build(torch.float64), tmp_path).eval()
    ours = ours_from(tmp_path, "llama", torch.float64)
    torch.testing.assert_close(llama.run(ours, torch.float64), llama.run(again, torch.float64))
    for key in keys:
        assert torch.equal(ours.state_dict()[key], again.state_dict()[key])
    assert f"replaced tensors of the base, for all adapters, and saving an adapter does not write them: {keys[0]}" in (
        caplog.text
    )
    # Of other shapes, or of other modules of the base, they are errors, and the base stays as it is.
    base = llama.build(torch.float64)
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    for wrong, message in (
        ({keys[0]: tensors[keys[0]][:-1]}, f"other shapes: {keys[0]}: expected"),
        (
            {"base_model.model.model.norm.weight": torch.ones(24)},
            r"unexpected: base_model\.model\.model\.norm\.weight$",
        ),
    ):
        save_file({**tensors, **wrong}, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=message):
            veneer.PeftModel.from_pretrained(base, tmp_path)
        assert_same(base.state_dict(), before)


# Real files ----------------------------------------------------------------------------------------------------------

REFUSED_LORA = {"bdlora": "use_bdlora", "kasa": "kasa_config", "mica": "init_lora_weights"}


def test_real_configurations_load_or_are_refused_with_the_reason(shared_data):
    files = sorted((shared_data / "peft_adapter_configs").glob("*.json"))
    assert len(files) == 70
    loaded = 0
    for file in files:
        values = json.loads(file.read_text())
        kind = values["peft_type"]
        if kind not in veneer.config.CONFIG_CLASSES:
            with pytest.raises(ValueError, match=f"unknown peft_type `{kind}`; known: "):
                veneer.PeftConfig.from_pretrained(file)
            continue
        refused = [field for part, field in REFUSED_LORA.items() if part in file.name]
        if refused:
            with pytest.raises(ValueError, match=rf"\[LoraConfig\] .*{refused[0]}"):
                veneer.get_peft_model(MODELS["llama"].build(), veneer.PeftConfig.from_pretrained(file))
            continue
        config = veneer.PeftConfig.from_pretrained(file)
        if kind == "C3A":  # for wider layers than these
            with pytest.raises(
                ValueError, match="block_size must divide 24 and 24, got 64; the nearest that does is 24"
            ):
                veneer.get_peft_model(MODELS["llama"].build(), config)
            continue
        adapted = veneer.get_peft_model(MODELS["llama"].build(), config)
        assert torch.equal(MODELS["llama"].run(adapted), MODELS["llama"].base_output())
        theirs = peft.get_peft_model(MODELS["llama"].build(), peft.PeftConfig.from_peft_type(**values))
        assert adapted.get_nb_trainable_parameters()[0] == theirs.get_nb_trainable_parameters()[0], file.name
        loaded += 1
    assert loaded == 12


def test_a_real_lora_adapter_of_roberta(shared_data, tmp_path):
    """Trained by LoRA's authors (alpha 16, rank 8), with its classification head. The base is of RoBERTa's shape where the
    adapter sees it, and thin elsewhere."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    file = shared_data / "adapter_lora_roberta_base_mnli" / "lora.safetensors"
    tensors = {}
    for key, value in load_file(file).items():
        tensors[f"base_model.model.{key}" + (".weight" if "lora_" in key else "")] = value
    assert len(tensors) == 52

    def base():
        torch.manual_seed(0)
        return RobertaForSequenceClassification(
            RobertaConfig(vocab_size=50, intermediate_size=16, num_labels=3, max_position_embeddings=20)
        ).eval()

    save_file(tensors, tmp_path / WEIGHTS)
    fields = {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
    veneer.LoraConfig(**fields).save_pretrained(tmp_path)
    adapted = veneer.PeftModel.from_pretrained(base(), tmp_path)
    ids = torch.randint(3, 50, (2, 9))
    output = adapted(ids).logits
    torch.testing.assert_close(
        peft.PeftModel.from_pretrained(base(), tmp_path).eval()(ids).logits, output, rtol=1e-4, atol=1e-4
    )
    by_hand = base()
    with torch.no_grad():
        for layer in range(12):
            for name in ("query", "value"):
                path = f"roberta.encoder.layer.{layer}.attention.self.{name}"
                a, b = (tensors[f"base_model.model.{path}.lora_{x}.weight"] for x in "AB")
                by_hand.get_submodule(path).weight.add_(2 * b @ a)
        by_hand.classifier.load_state_dict(
            {k.removeprefix("base_model.model.classifier."): v for k, v in tensors.items() if ".classifier." in k}
        )
    torch.testing.assert_close(output, by_hand(ids).logits, rtol=1e-4, atol=1e-4)
    assert (output - base()(ids).logits).abs().max() > 0.1
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, output, rtol=1e-4, atol=1e-4)


def test_a_real_ia3_adapter_of_t0(shared_data, tmp_path):
    """Trained by (IA)3's authors: keys, values and the feed-forward's second input matrix scaled by output, 24 blocks each way."""
    from transformers import T5Config, T5ForConditionalGeneration

    file = shared_data / "adapter_ia3_t0_3b" / "ia3.safetensors"
    tensors = {
        f"base_model.model.{key.replace('multi_lora_b', 'ia3_l')}": value for key, value in load_file(file).items()
    }
    assert len(tensors) == 192

    def base():
        torch.manual_seed(0)
        return T5ForConditionalGeneration(
            T5Config(
                d_model=8,
                d_kv=64,
                num_heads=32,
                d_ff=5120,
                num_layers=24,
                vocab_size=40,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
                decoder_start_token_id=0,
            )
        ).eval()

    save_file(tensors, tmp_path / WEIGHTS)
    veneer.IA3Config(target_modules=["k", "v", "wi_1"], feedforward_modules=[]).save_pretrained(tmp_path)
    adapted = veneer.PeftModel.from_pretrained(base(), tmp_path)
    inputs = {"input_ids": torch.randint(3, 40, (2, 6)), "decoder_input_ids": torch.randint(3, 40, (2, 4))}
    output = adapted(**inputs).logits
    by_hand = base()
    with torch.no_grad():
        for key, vector in tensors.items():
            by_hand.get_submodule(key.removeprefix("base_model.model.").removesuffix(".ia3_l")).weight.mul_(vector)
    torch.testing.assert_close(output, by_hand(**inputs).logits, rtol=1e-4, atol=1e-3)
    assert (output - base()(**inputs).logits).abs().max() > 1e-2
