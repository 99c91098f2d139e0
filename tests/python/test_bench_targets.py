# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The target table and the plots of the benchmark suite, from rows that nobody measured."""

import pytest
from contenders import CPU

from veneer.bench import plots, runner, targets
from veneer.bench.cases import all_cases, chosen
from veneer.bench.contender import DENSE, FLOOR, OURS, PEER, PLAIN, TENSORLY


def fake(case, contender, **values):
    row = dict.fromkeys(runner.ROW_KEYS) | vars(runner._row(case, runner.Settings(CPU), contender))
    return (
        row
        | {
            "step_median_ms": 1.0,
            "step_min_ms": 1.0,
            "step_tax_low": 0.0,
            "step_tax_high": 0.0,
            "noise_points": 0.0,
            "noisy": False,
        }
        | values
    )


def test_the_target_table_has_a_line_for_each_of_the_issue():
    rows = []
    for target in targets.targets():
        rows.append(fake(target.case, OURS, step_tax_median=0.11, step_over_plain=0.7, saved_added_bytes=2**18))
        rows.append(fake(target.case, target.beside, step_tax_median=0.4, saved_added_bytes=2**23))
    with_amx = {line.case: line for line in targets.table(rows, amx=True)}
    assert len(with_amx) == 19
    assert vars(with_amx["LoRA 768x768 fp32, p = 0 / 0.1"]) == {
        "case": "LoRA 768x768 fp32, p = 0 / 0.1",
        "peer": "40 % / 40 %",
        "target": "7 % / 12 %",
        "ours": "11 % / 11 %",
        "dense": "- / -",
        "reached": [False, True],
    }
    bottleneck = next(line for name, line in with_amx.items() if name.startswith("bottleneck"))
    assert (bottleneck.peer, bottleneck.target, bottleneck.ours, bottleneck.reached) == (
        "1.00",
        "0.60",
        "0.70",
        [False],
    )
    without = {line.case: line for line in targets.table(rows, amx=False)}
    assert without["circulant bf16 d = 768 / 4096"].target == "10 % / 10 %"  # a quarter of HF PEFT's
    assert targets.table(rows[:2], amx=True)[0].ours == "11 % / -"


def line_of(start, rows):
    return next(line for line in targets.table(rows, amx=True) if line.case.startswith(start))


@pytest.mark.parametrize(
    ("start", "variant", "aim"),
    [
        ("tensor train", "lora-r8", "13 % / 23 %"),
        ("block tensor train", "lora-r8", "13 % / 23 %"),
        ("symmetric Toeplitz T(t)", "circulant-single", "20 % / 40 %"),
        ("symmetric Toeplitz T(b) T(a)", "circulant-single", "20 % / 40 %"),
        ("LDR of rank 1", "circulant-single", "20 % / 40 %"),
    ],
)
def test_a_relative_target_is_read_from_the_other_row_of_the_run(start, variant, aim):
    mine = [target for target in targets.targets() if target.line.startswith(start)]
    others = [target.target.case(target.case) for target in mine]
    assert [other.id for other in others] == [
        f"layer/{variant}/768x768/N2048/float32/p0",
        f"model/minilm/all/{variant}/float32/p0",
    ]
    assert {other.id for other in others} <= {case.id for case in targets.target_cases()}
    rows = [fake(target.case, OURS, step_tax_median=0.22) for target in mine]
    assert (line_of(start, rows).target, line_of(start, rows).reached) == ("- / -", [None, None])
    rows += [fake(other, OURS, step_tax_median=tax) for other, tax in zip(others, (0.1, 0.2), strict=True)]
    assert line_of(start, rows).target == aim
    assert line_of(start, rows).reached == [False, True]


def test_a_gpu_has_targets_of_its_own():
    ids = [case.id for case in targets.target_cases("cuda")]
    assert len(ids) == len(set(ids)) == 17
    assert not set(ids) & {case.id for case in targets.target_cases()}
    rows = [fake(t.case, OURS, device="cuda", step_tax_median=0.18) for t in targets.targets("cuda")]
    as_set = targets.as_set({"device": "cuda", "amx": False})
    assert [line.reached for line in targets.table(rows, as_set)] == [[False, True], [True], [True], [True]]


def test_the_target_table_says_where_a_dense_matrix_is_fastest():
    case = next(target.case for target in targets.targets() if target.line.startswith("block tensor train"))
    rows = [fake(case, FLOOR), fake(case, OURS, step_tax_median=0.4), fake(case, DENSE, step_tax_median=0.5)]
    rows.append(fake(case, TENSORLY["reconstructed"], step_tax_median=0.8))
    line = line_of("block tensor train", rows)
    assert (line.peer, line.ours, line.dense) == ("80 % / -", "40 % / -", "50 % / -")
    rows[2] = fake(case, DENSE, step_tax_median=0.3)
    assert line_of("block tensor train", rows).dense == "30 % * / -"


def test_plots_of_sweeps_and_models(tmp_path):
    rows = []
    for case in chosen(all_cases(), r"(lora-r8|ia3)/(.*/N(64|2048|8192)/float32/p0$|float32/p0)"):
        for i, name in enumerate((FLOOR, OURS, PLAIN, PEER)):
            cost = 1e-6 * (case.tokens or 2048) * (case.d_in or 384) * (1 + 0.1 * i)
            rows.append(
                fake(
                    case,
                    name,
                    step_median_ms=cost,
                    step_tax_median=0.1 * i,
                    step_tax_low=0.09 * i,
                    step_tax_high=0.12 * i,
                    saved_added_bytes=i << 20,
                )
            )
    plots.plot(rows, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for title in (
        "768 to 768, 2048 tokens, float32",
        "minilm, all linears, float32",
        "kept for backward",
        "lora-r8, fp32, d 768",
    ):
        assert title in drawn
    with pytest.raises(ValueError, match="nothing was measured"):
        plots.plot([], tmp_path / "none.png")
