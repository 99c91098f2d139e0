# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""torch.compile: one full graph serves every batch size, with eager's values and gradients; and a rebuilt library is never
served the graphs of the old one."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checks import assert_same, gradients, loss_of, scramble
from models import MODELS, features, tokens
from rows import EACH_ROW, ROWS, adapt
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.compilers import nop

import veneer

pytestmark = pytest.mark.usefixtures("fresh_compiler")


class Counting:
    """The aot_eager backend, counting graphs: forward and backward are traced and run through the real ops."""

    def __init__(self):
        self.graphs = 0
        self.compile = aot_autograd(fw_compiler=nop)

    def __call__(self, module, inputs):
        self.graphs += 1
        return self.compile(module, inputs)


def dynamic(inputs):
    """Inputs whose batch (and length) may vary: specialising to a size is then an error."""
    for tensor in inputs.values():
        for dim in range(1 if tensor.is_floating_point() else tensor.dim()):
            torch._dynamo.mark_dynamic(tensor, dim)
    return inputs


def check(model, adapted, inputs):
    backend = Counting()
    compiled = torch.compile(adapted, fullgraph=True, backend=backend)
    for given in map(dynamic, inputs):
        got, expected = model.run(compiled, **given), model.run(adapted, **given)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        assert_same(gradients(adapted, loss_of(got)), gradients(adapted, loss_of(expected)), rtol=1e-4, atol=1e-5)
    assert backend.graphs == 1


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("row", EACH_ROW)
def test_one_graph_serves_four_shapes(row, training):
    model = MODELS["mlp"]
    fewer = (
        {} if training or row.targets != "linear" else {"target_modules": ["first"]}
    )  # tracing takes most of the time
    adapted = scramble(adapt(model, row, **fewer)).train(training)
    check(model, adapted, [features(rows) for rows in (5, 2, 7, 11)])


@pytest.mark.parametrize("row", EACH_ROW)
def test_exports(row):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, row))
    batch = {0: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(adapted, (features()["x"],), dynamic_shapes={"args": (batch,)})
    for rows in (5, 3):
        torch.testing.assert_close(program.module()(features(rows)["x"]), model.run(adapted, **features(rows)))


@pytest.mark.parametrize("row", [ROWS[name] for name in ("lora", "parallel")], ids=lambda row: row.name)
def test_one_graph_of_a_transformer(row):
    model = MODELS["bert"]
    adapted = scramble(adapt(model, row)).train()
    check(model, adapted, [tokens(rows, length) for rows, length in ((3, 7), (2, 5), (5, 9), (4, 11))])


@pytest.mark.parametrize("row", [ROWS[name] for name in ("lora", "dora", "houlsby")], ids=lambda row: row.name)
def test_dropout_compiles_to_one_graph_and_follows_the_seed(row):
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, row, **{row.dropout: 0.5})).train()
    backend = Counting()
    compiled = torch.compile(adapted, fullgraph=True, backend=backend)

    def seeded(seed, rows):
        torch.manual_seed(seed)
        return model.run(compiled, **dynamic(features(rows)))

    for rows in (5, 2, 7, 11):
        assert torch.equal(seeded(1, rows), seeded(1, rows))
        assert not torch.equal(seeded(1, rows), seeded(2, rows))
        assert all(
            g.isfinite().all() and g.abs().max() > 0 for g in gradients(adapted, loss_of(seeded(1, rows))).values()
        )
    assert backend.graphs == 1
    # The gradient goes through the forward's mask: a parameter's derivative is the measured one.
    adapted.double()
    name, parameter = next((n, p) for n, p in adapted.named_parameters() if p.requires_grad)
    compiled = torch.compile(adapted, fullgraph=True, dynamic=True, backend=Counting())

    def value():
        torch.manual_seed(3)
        return loss_of(model.run(compiled, torch.float64))

    slope = gradients(adapted, value())[name]
    direction = torch.randn_like(parameter)
    with torch.no_grad():
        parameter.add_(direction, alpha=1e-6)
    above = value().item()
    with torch.no_grad():
        parameter.add_(direction, alpha=-2e-6)
    measured = (above - value().item()) / 2e-6
    if row.kind != "exclusive":  # DoRA stops the gradient at its norm
        assert (slope * direction).sum().item() == pytest.approx(measured, rel=1e-5, abs=1e-6)


def test_bases_that_are_called_and_several_adapters_compile():
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, ROWS["lora"]))
    adapted.add_adapter("second", ROWS["circulant"].make(model))
    adapted.set_adapter(["default", "second"])
    scramble(adapted)
    adapted.get_base_model().first.base_layer.register_forward_hook(lambda module, args, output: 2 * output)
    check(model, adapted, [features(rows) for rows in (5, 2, 7, 11)])


def test_changes_of_state_are_seen():
    """A compiled model follows set_adapter, disable_adapter, merge_adapter and writes to the weights."""
    model = MODELS["mlp"]
    adapted = scramble(adapt(model, ROWS["lora"]))
    adapted.add_adapter("second", ROWS["ia3"].make(model))
    compiled = torch.compile(adapted, fullgraph=True, dynamic=True, backend=Counting())

    def same():
        torch.testing.assert_close(model.run(compiled), model.run(adapted), rtol=1e-5, atol=1e-5)
        return model.run(compiled).detach()

    first = same()
    adapted.set_adapter("second")
    scramble(adapted)
    second = same()
    assert not torch.allclose(first, second)
    with adapted.disable_adapter():
        torch.testing.assert_close(same(), model.base_output(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(same(), second)
    adapted.merge_adapter()
    torch.testing.assert_close(same(), second, rtol=1e-5, atol=1e-5)
    adapted.unmerge_adapter()
    with torch.no_grad():
        next(p for p in adapted.parameters() if p.requires_grad).data.mul_(2)
    assert not torch.allclose(same(), second)


# Inductor and its cache on disk --------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
import torch
from torch._dynamo.utils import counters
import veneer
from veneer import _core

torch.set_num_threads(1)
torch.manual_seed(0)
train = sys.argv[2] == "True"
result = {"build": _core.build_id(), "error": 0.0}
for config in eval(sys.argv[1]):
    model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Tanh())
    adapted = veneer.get_peft_model(model, config)
    for p in adapted.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.5)
    compiled = torch.compile(adapted, fullgraph=True, dynamic=True)
    for rows in (5, 3):
        x = torch.randn(rows, 12, requires_grad=True)
        inputs = [x, *(p for p in adapted.parameters() if p.requires_grad)]
        with torch.set_grad_enabled(train):
            got, expected = compiled(x), adapted(x)
        a, b = (torch.autograd.grad(y.square().sum(), inputs) if train else () for y in (got, expected))
        for one, other in zip((got, *a), (expected, *b)):
            result["error"] = max(result["error"], ((one - other).abs().max() / (1 + other.abs().max())).item())
    with torch.set_grad_enabled(train):
        result["output"] = compiled(torch.ones(2, 12)).flatten().tolist()
result["hits"] = counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"]
result["misses"] = counters["aot_autograd"]["autograd_cache_miss"]
print(json.dumps(result))
"""


def run(configs, cache, train=True, library=None):
    """One fresh process that compiles with inductor, its cache in a folder of ours."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("inductor needs a C++ compiler")
    env = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    env.pop("TORCHINDUCTOR_FORCE_DISABLE_CACHES", None)
    if library:
        env["LD_PRELOAD"] = str(library)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, configs, str(train)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_inductor(tmp_path):
    fields = "target_modules='all-linear'"
    result = run(
        f"[veneer.SurmConfig({fields}, use_dora=True), veneer.BottleneckConfig(target_modules={{'output': ['0']}}, bottleneck_size=3)]",
        tmp_path,
    )
    assert result["error"] < 1e-5


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory, root):
    """The library built from a copy of the sources in which one method gives twice as much: one file is compiled and the library
    linked with the commands of the build, so it takes seconds."""
    build = root / "build/release"
    if not (build / "build.ninja").is_file() or not (build / "compile_commands.json").is_file():
        pytest.skip("no build tree at build/release (make build)")
    folder = tmp_path_factory.mktemp("rebuilt")
    for name in ("src", "include"):
        shutil.copytree(root / name, folder / name)
    cmake, ninja = (Path(sys.executable).parent / name for name in ("cmake", "ninja"))
    if not cmake.is_file() or not ninja.is_file():
        pytest.skip("no cmake and ninja beside Python (make build)")

    def build_id(name):
        """The source that cmake/BuildId.cmake makes for the copy, as CMakeLists.txt calls it."""
        listed = [folder / Path(line).relative_to(root) for line in (build / "build_id.txt").read_text().split()]
        (folder / "build_id.txt").write_text("".join(f"{path}\n" for path in listed))
        subprocess.run(
            [
                cmake,
                f"-DSOURCES={folder / 'build_id.txt'}",
                f"-DROOT={folder}",
                "-DVERSION=0.1.0",
                f"-DOUTPUT={folder / name}",
                "-P",
                root / "cmake/BuildId.cmake",
            ],
            check=True,
            capture_output=True,
        )
        return re.search(r'build_id\(\) \{ return "(\w+)"', (folder / name).read_text())[1]

    unchanged = build_id("same.cpp")
    source = folder / "src/methods/ia3.cpp"
    text = source.read_text()
    changed = text.replace(
        "scaled_linear(in.x, in.weight, in.bias, l)", "scaled_linear(in.x, in.weight, in.bias, l * 2)"
    )
    assert changed != text
    source.write_text(changed)
    changed_id = build_id("build_id.cpp")

    commands = {c["file"]: c["command"] for c in json.loads((build / "compile_commands.json").read_text())}
    objects = {}
    for original, copy in ((root / "src/methods/ia3.cpp", source), (build / "build_id.cpp", folder / "build_id.cpp")):
        words = shlex.split(commands[str(original)])
        at = words.index("-o") + 1
        objects[words[at]] = str(folder / f"{copy.stem}.o")
        words[at] = objects[words[at]]
        subprocess.run(
            [str(copy) if w == str(original) else w for w in words], cwd=build, check=True, capture_output=True
        )
    link = subprocess.run(
        [ninja, "-C", build, "-t", "commands", "-s", "libveneer.so"], check=True, capture_output=True, text=True
    ).stdout
    line = next(part for part in link.splitlines()[-1].split("&&") if "-shared" in part)
    words = [objects.get(word, word) for word in shlex.split(line)]
    words[words.index("-o") + 1] = str(folder / "libveneer.so")
    subprocess.run(words, cwd=build, check=True, capture_output=True)
    return folder / "libveneer.so", unchanged, changed_id


def test_a_rebuilt_library_is_not_served_old_graphs(rebuilt, tmp_path):
    library, unchanged, changed = rebuilt
    assert unchanged == veneer._core.build_id(), "the library is older than the sources: make build"
    assert changed != unchanged
    config = "[veneer.IA3Config(target_modules=['0'], feedforward_modules=[])]"
    first = run(config, tmp_path, train=False)
    again = run(config, tmp_path, train=False)
    assert first["misses"] > 0
    assert again["misses"] == 0  # the cache is really in use
    assert again["hits"] > 0
    assert again["output"] == first["output"]
    new = run(config, tmp_path, train=False, library=library)
    assert new["build"] == changed
    assert new["misses"] > 0
    assert new["error"] < 1e-5
    before, after = (torch.atanh(torch.tensor(result["output"], dtype=torch.float64)) for result in (first, new))
    torch.testing.assert_close(after, 2 * before, rtol=1e-3, atol=1e-4)
