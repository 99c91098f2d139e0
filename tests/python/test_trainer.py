# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer: trains, evaluates, saves the adapter alone, resumes to the same weights, loads the best one."""

import json
import subprocess
import sys

import pytest
import torch
from checks import assert_same, trained
from models import MODELS
from rows import ROWS
from transformers import Trainer, TrainingArguments
from transformers import set_seed as hf_seed

import veneer

BERT = MODELS["bert"]


class Data(torch.utils.data.Dataset):
    """Whether the first token is of the upper half: learnt in a few steps."""

    def __init__(self, n, seed):
        self.ids = torch.randint(3, 37, (n, 7), generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {
            "input_ids": self.ids[i],
            "attention_mask": torch.ones(7, dtype=torch.long),
            "labels": int(self.ids[i, 0] > 20),
        }


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def make(row, name="default"):
    hf_seed(0)
    changes = {row.dropout: 0.1} if row.dropout else {}
    return veneer.get_peft_model(BERT.build(), row.make(BERT, task_type="SEQ_CLS", **changes), name)


def trainer_of(model, folder, **changes):
    arguments = {
        "output_dir": str(folder),
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "logging_steps": 4,
        "load_best_model_at_end": False,
        "seed": 0,
        "dataloader_pin_memory": False,
    }
    return Trainer(
        model,
        TrainingArguments(**{**arguments, **changes}),
        train_dataset=Data(64, 1),
        eval_dataset=Data(32, 2),
        compute_metrics=accuracy,
    )


@pytest.mark.parametrize(
    "row", [ROWS[name] for name in ("lora", "circulant", "dora", "ia3", "vera", "houlsby")], ids=lambda row: row.name
)
def test_trains_saves_the_adapter_alone_and_resumes(row, tmp_path):
    peft = pytest.importorskip("peft")
    model = make(row)
    assert isinstance(model, peft.PeftModel)
    base = {k: v.clone() for k, v in BERT.build().state_dict().items()}
    start = {k: v.clone() for k, v in trained(model).items()}
    trainer = trainer_of(model, tmp_path / "whole")
    before = trainer.evaluate()["eval_loss"]
    result = trainer.train()
    assert result.metrics["train_loss"] > 0
    assert trainer.evaluate()["eval_loss"] < before
    assert "eval_accuracy" in trainer.evaluate()
    assert any(not torch.equal(v, start[k]) for k, v in trained(model).items())

    checkpoint = tmp_path / "whole/checkpoint-8"
    names = {p.name for p in checkpoint.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "trainer_state.json"} <= names
    assert not {"model.safetensors", "pytorch_model.bin"} & names
    expected = {k: v.clone() for k, v in trained(model).items()}

    resumed = make(row)
    trainer = trainer_of(resumed, tmp_path / "whole")
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert_same(trained(resumed), expected)
    unloaded = resumed.unload()
    assert_same(unloaded.state_dict(), base)  # the base was never trained

    loaded = veneer.PeftModel.from_pretrained(BERT.build(), tmp_path / "whole/checkpoint-12")
    assert torch.equal(BERT.run(loaded), BERT.run(model.eval()))


def test_the_best_checkpoint_is_loaded(tmp_path):
    model = make(ROWS["lora"])
    trainer = trainer_of(
        model, tmp_path, load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=0.3
    )
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-12/trainer_state.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    best = min(losses, key=losses.get)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    expected = veneer.PeftModel.from_pretrained(BERT.build(), tmp_path / f"checkpoint-{best}")
    assert torch.equal(BERT.run(model.eval()), BERT.run(expected))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[best])


def test_a_named_adapter_resumes_from_its_folder(tmp_path):
    model = make(ROWS["lora"], "mine")
    trainer_of(model, tmp_path).train()
    assert (tmp_path / "checkpoint-8/mine/adapter_model.safetensors").is_file()
    resumed = make(ROWS["lora"], "mine")
    trainer_of(resumed, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert_same(trained(resumed), trained(model))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing(reentrant, tmp_path):
    results = []
    for more in (
        {},
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": reentrant}},
    ):
        model = make(ROWS["lora"])
        trainer_of(model, tmp_path, save_strategy="no", max_steps=4, **more).train()
        results.append(trained(model))
    assert_same(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_bfloat16_training(tmp_path):
    model = make(ROWS["lora"])
    trainer = trainer_of(model, tmp_path, bf16=True, save_strategy="no")
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert all(p.dtype == torch.float32 for p in trained(model).values())


WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {blocked} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import torch
import veneer

base = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2))
x = torch.randn(3, 4)
expected = base(x)
model = veneer.get_peft_model(base, veneer.LoraConfig(target_modules=["0", "1"]))
assert torch.equal(model(x), expected)
model(x).sum().backward()
model.save_pretrained(sys.argv[1])
loaded = veneer.PeftModel.from_pretrained(model.unload(), sys.argv[1])
assert torch.equal(loaded(x), expected)
assert type(model).__mro__[1] is torch.nn.Module
model.print_trainable_parameters()
assert not set(sys.modules) & {blocked}
"""


@pytest.mark.parametrize("blocked", [{"peft"}, {"peft", "transformers", "accelerate"}], ids=["peft", "all"])
def test_works_without_peft(blocked, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("trainable params: ")
