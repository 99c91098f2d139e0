# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""Held to Hugging Face PEFT: with equal parameters, equal outputs and gradients; files go both ways; its real configurations
and real trained adapters load, or are refused with the reason."""

import json
import warnings

import pytest
import torch
from models import MODELS, loss_of, scramble
from safetensors.torch import load_file, save_file
from torch import nn

import veneer

peft = pytest.importorskip("peft")
ops = torch.ops.veneer

WEIGHTS = "adapter_model.safetensors"
LINEAR = {
    "mlp": ["first", "second", "third"],
    "bert": ["query", "value", "intermediate.dense"],
    "gpt2": ["c_attn", "c_fc", "mlp.c_proj"],
    "llama": ["q_proj", "v_proj", "down_proj"],
}
IA3 = {
    "mlp": (["first", "second", "third"], ["third"]),
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
}


def lora(**fields):
    return lambda model: ("LoraConfig", {"target_modules": LINEAR[model], "r": 3, "lora_alpha": 5, **fields})


CONFIGS = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "lora gaussian": lora(init_lora_weights="gaussian"),
    "lora patterns": lambda model: lora(rank_pattern={LINEAR[model][0]: 2}, alpha_pattern={LINEAR[model][1]: 7})(model),
    "lora all biases": lora(bias="all"),
    "lora own biases": lora(bias="lora_only"),
    "dora": lora(use_dora=True),
    "dora rslora": lora(use_dora=True, use_rslora=True),
    "ia3": lambda model: ("IA3Config", {"target_modules": IA3[model][0], "feedforward_modules": IA3[model][1]}),
    "lokr": lambda model: ("LoKrConfig", {"target_modules": LINEAR[model], "r": 2, "alpha": 3}),
    "lokr whole": lambda model: ("LoKrConfig", {"target_modules": LINEAR[model], "r": 40, "init_weights": False}),
    "lokr both": lambda model: (
        "LoKrConfig",
        {"target_modules": LINEAR[model], "r": 1, "decompose_both": True, "decompose_factor": 3},
    ),
    "vera": lambda model: ("VeraConfig", {"target_modules": LINEAR[model], "r": 5, "projection_prng_key": 3}),
}
# PEFT's VeRA stops with an error where the sizes of GPT-2's layers, stored transposed, differ; its LoKr has no such layers.
EACH = [
    pytest.param(model, name, id=f"{model}-{name}")
    for model in LINEAR
    for name in CONFIGS
    if model != "gpt2" or not name.startswith(("vera", "lokr"))
]


def configs(model, name, **changes):
    """(ours, theirs)"""
    kind, fields = CONFIGS[name](model)
    fields = {**fields, **changes}
    transposed = {"fan_in_fan_out": True} if model == "gpt2" else {}
    return getattr(veneer, kind)(**fields), getattr(peft, kind)(**fields, **transposed)


def theirs_of(model, config, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT's own
        torch.manual_seed(4)
        return scramble(peft.get_peft_model(MODELS[model].build(dtype), config).eval(), std=0.2)


def ours_from(folder, model, dtype, config=None):
    return veneer.PeftModel.from_pretrained(MODELS[model].build(dtype), folder, is_trainable=True, config=config)


def file_gradients(model):
    """Gradients by the keys of the files."""
    return {
        name.replace(".default", "").removesuffix(".weight")
        if "magnitude" in name
        else name.replace(".default", "").replace(".base_layer", ""): p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def step(name, model, dtype, inputs=None):
    """(output, gradients of parameters by file key, gradient of the input): for tokens, that of the embeddings."""
    base = MODELS[name]
    model.zero_grad()
    given = {}
    if name == "mlp":
        given["x"] = base.inputs()["x"].to(dtype).requires_grad_()
    else:
        model.get_base_model().get_input_embeddings().weight.requires_grad_(True)
    output = base.run(model, dtype, **given)
    loss_of(output).backward()
    found = file_gradients(model)
    if name == "mlp":
        return output.detach(), found, given["x"].grad
    key = next(k for k in found if "word_embeddings" in k or "wte" in k or "embed_tokens" in k)
    return output.detach(), found, found.pop(key)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("model", "name"), EACH)
def test_outputs_and_gradients_are_peft_s(model, name, dtype, tmp_path):
    tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    theirs = theirs_of(model, configs(model, name)[1], dtype)
    theirs.save_pretrained(tmp_path)
    ours = ours_from(tmp_path, model, dtype)
    for training in (False, True):
        got, expected = step(model, ours.train(training), dtype), step(model, theirs.train(training), dtype)
        torch.testing.assert_close(got[0], expected[0], **tolerance)
        assert got[1].keys() == expected[1].keys()
        for key, gradient in expected[1].items():
            assert gradient.abs().max() > 0, key
            scale = max(1.0, gradient.abs().max().item())
            torch.testing.assert_close(
                got[1][key] / scale, gradient / scale, **tolerance, msg=lambda text, key=key: f"{key}: {text}"
            )
        scale = max(1.0, expected[2].abs().max().item())
        torch.testing.assert_close(got[2] / scale, expected[2] / scale, **tolerance)
    assert not torch.equal(got[0], MODELS[model].base_output(dtype))


@pytest.mark.parametrize(("model", "name"), EACH)
def test_bfloat16_error_is_at_most_twice_peft_s(model, name, tmp_path):
    """Against float64 with the same rounded base. Norms, since a single element of PEFT's may be right by chance."""
    theirs = theirs_of(model, configs(model, name)[1], torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    ours = ours_from(tmp_path, model, torch.bfloat16)
    exact = ours_from(tmp_path, model, torch.bfloat16).double()
    if name == "vera":  # PEFT keeps its shared pair in bfloat16: compare on equal numbers
        exact.load_state_dict({k: v.double() for k, v in ours.state_dict().items()})
    reference = step(model, exact, torch.float64)
    got, expected = step(model, ours, torch.bfloat16), step(model, theirs, torch.bfloat16)

    def error(result):
        gradients = torch.cat([(result[1][k].double() - g).flatten() for k, g in reference[1].items()])
        return [
            (result[0].double() - reference[0]).norm(),
            gradients.norm(),
            (result[2].double() - reference[2]).norm(),
        ]

    norms = [reference[0].norm(), torch.cat([g.flatten() for g in reference[1].values()]).norm(), reference[2].norm()]
    for own, other, norm in zip(error(got), error(expected), norms, strict=True):
        assert own <= 2 * other + torch.finfo(torch.bfloat16).eps * norm


class OurMask(nn.Module):
    """PEFT's dropout with our mask: its seed drawn as our host draws it."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        return ops.seeded_dropout(x, torch.randint(0, 2**63 - 1, (1,)), self.p) if self.training else x


@pytest.mark.parametrize("name", ["lora", "dora", "vera"])
@pytest.mark.parametrize("model", ["mlp", "bert"])
def test_dropout_has_peft_s_meaning(model, name, tmp_path):
    """Given the same masks, training with dropout gives the same outputs and gradients; the other meaning that DoRA offers
    does not."""
    field = "vera_dropout" if name == "vera" else "lora_dropout"
    theirs = theirs_of(model, configs(model, name, **{field: 0.25})[1], torch.float64)
    theirs.save_pretrained(tmp_path)
    replaced = 0
    for module in theirs.modules():
        for dropouts in (getattr(module, "lora_dropout", {}), getattr(module, "vera_dropout", {})):
            if isinstance(dropouts, nn.ModuleDict) and "default" in dropouts:
                dropouts["default"] = OurMask(0.25)
                replaced += 1
    assert replaced
    ours = ours_from(tmp_path, model, torch.float64)
    torch.testing.assert_close(
        step(model, ours.eval(), torch.float64)[0], step(model, theirs.eval(), torch.float64)[0], rtol=1e-10, atol=1e-11
    )
    results = []
    for one in (ours, theirs):
        torch.manual_seed(8)
        results.append(step(model, one.train(), torch.float64))
    got, expected = results
    torch.testing.assert_close(got[0], expected[0], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(got[1], expected[1], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got[2], expected[2], rtol=1e-9, atol=1e-10)
    if name == "dora":
        config = configs(model, name, lora_dropout=0.25)[0]
        config.dora_dropout = "shared"
        torch.manual_seed(8)
        assert not torch.allclose(
            step(model, ours_from(tmp_path, model, torch.float64, config).train(), torch.float64)[0], expected[0]
        )


class Biased(nn.Module):
    """Biases of its own, of an attention, and of a layer."""

    def __init__(self):
        super().__init__()
        self.bias, self.scale_bias = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.zeros(8))
        self.attention, self.fc = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)


@pytest.mark.parametrize(
    ("make", "target"),
    [(MODELS["t5"].build, "q"), (MODELS["gpt2"].build, "c_attn"), (Biased, "fc")],
    ids=["t5", "gpt2", "own"],
)
def test_all_biases_are_peft_s(make, target):
    names = []
    for library in (veneer, peft):
        model = library.get_peft_model(make(), library.LoraConfig(target_modules=[target], bias="all"))
        names.append({n for n, p in model.named_parameters() if p.requires_grad})
    assert names[0] == names[1]


# Files ---------------------------------------------------------------------------------------------------------------


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
