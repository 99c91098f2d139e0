# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The tables and the plot of images.py, made from its JSON alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

from image_data import TITLES
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.stats import t as student

BEGIN, END = "<!-- tables: written by images.py -->", "<!-- end of tables -->"
NAMES = {
    "linear_probe": "linear probe",
    "full": "full fine-tuning",
    "dense": "dense, all of q and v",
    "symmetric_toeplitz": "symmetric Toeplitz",
    "toeplitz": "Toeplitz",
    "hankel": "Hankel",
    "kronecker": "Kronecker",
    "monarch": "Monarch",
    "vera": "VeRA",
}
CLAIM = (5.0, 7.0)  # points over low rank at equal budget
SURM = ("circulant", "symmetric_toeplitz", "toeplitz", "low_displacement_rank", "kronecker", "skew_circulant")
# Those with several budgets are lines, with a colour each; the others are single marks.
COLORS = ["#1f77b4", "#b5651d", "#2ca02c", "#9467bd", "#d62728", "#e377c2", "#17becf", "#bcbd22", "#7f7f7f"]
MARKS = "^v<>DPX*hps"


def name_of(family: str) -> str:
    return NAMES.get(family, family.replace("_", " "))


class Scores:
    """Test accuracies in per cent by (task, family, budget), and by seed."""

    def __init__(self, results: dict) -> None:
        self.of: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
        self.rate: dict[tuple[str, str, int], float] = {}
        self.seeds = set(results["protocol"]["seeds"])
        for key, run in results["runs"].items():
            task, family, budget, stage, rate, seed = key.split()
            if stage == "test":
                self.of[task, family, int(budget)][int(seed)] = 100 * run["accuracy"]
                self.rate[task, family, int(budget)] = float(rate)
        self.of = {entry: scores for entry, scores in self.of.items() if set(scores) == self.seeds}  # complete ones
        self.tasks = [task for task in TITLES if any(entry[0] == task for entry in self.of)]

    def spread(self, *entry) -> tuple[float, float]:
        """Mean and standard deviation over the seeds."""
        values = list(self.of[entry].values())
        return statistics.mean(values), statistics.stdev(values)

    def over_low_rank(self, task: str, family: str, budget: int) -> tuple[float, float] | None:
        """Mean difference at equal seeds, and half the width of its 95 % interval (Student's t); None: nothing to
        compare with."""
        ours, theirs = (self.of.get((task, name, budget)) for name in (family, "low_rank"))
        if not ours or not theirs or family == "low_rank":
            return None
        differences = [ours[seed] - theirs[seed] for seed in sorted(ours)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        return statistics.mean(differences), float(student.ppf(0.975, len(differences) - 1)) * error

    def families(self, task: str) -> list[str]:
        return list(dict.fromkeys(family for t, family, budget in self.of if t == task and budget))


def accuracy_table(scores: Scores, task: str, order: list[str]) -> list[str]:
    """One row a family, one column a budget."""
    families = [family for family in order if family in scores.families(task)]
    budgets = sorted({budget for t, _, budget in scores.of if t == task and budget})
    lines = [
        "| matrix | " + " | ".join(f"{budget} d" for budget in budgets) + " |",
        "|---|" + "---:|" * len(budgets),
    ]
    for family in families:
        cells = []
        for budget in budgets:
            if (task, family, budget) not in scores.of:
                cells.append("")
                continue
            mean, deviation = scores.spread(task, family, budget)
            cell = f"{mean:.1f} ± {deviation:.1f}"
            if difference := scores.over_low_rank(task, family, budget):
                text = f"{difference[0]:+.1f} ± {difference[1]:.1f}".replace("-", "\N{MINUS SIGN}")
                cell += f"<br>**{text}**" if abs(difference[0]) > difference[1] else f"<br>{text}"
            cells.append(cell)
        lines.append(f"| {name_of(family)} | " + " | ".join(cells) + " |")
    baselines = [
        f"{name_of(family)} {mean:.1f} ± {deviation:.1f}"
        for family in ("linear_probe", "full")
        if (task, family, 0) in scores.of
        for mean, deviation in [scores.spread(task, family, 0)]
    ]
    return [*lines, "", "For comparison: " + ", ".join(baselines) + ".", ""] if baselines else [*lines, ""]


def settings_table(scores: Scores, results: dict) -> list[str]:
    """What each entry trains, and the learning rates that were chosen."""
    lines = [
        "| matrix | budget | parameters a layer | " + " | ".join(f"rate, {task}" for task in scores.tasks) + " |",
        "|---|---:|---:|" + "---:|" * len(scores.tasks),
    ]
    for entry, count in results["counts"].items():
        family, budget = entry.split()
        rates = [scores.rate.get((task, family, int(budget))) for task in scores.tasks]
        if any(rate is not None for rate in rates):
            where = f"{budget} d" if int(budget) else ""
            count_text = f"{count:,.0f}" if int(budget) else f"{count:,.0f} in all"
            text = " | ".join("" if rate is None else f"{rate:g}" for rate in rates)
            lines.append(f"| {name_of(family)} | {where} | {count_text} | {text} |")
    return [*lines, ""]


def held_table(results: dict) -> list[str]:
    """How much of the unrestricted update the nearest matrix of each kind has."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for key, run in results["runs"].items():
        if "held" in run:
            found[key.split()[0]].append(run["held"])
    if not found:
        return []
    tasks = [task for task in TITLES if task in found]
    lines = [
        "| nearest matrix | free numbers | share of dimensions, % | " + " | ".join(f"{t}, %" for t in tasks) + " |",
        "|---|---:|---:|" + "---:|" * len(tasks),
    ]
    width = results["width"]
    for kind in found[tasks[0]][0]:
        family, budget = kind.split()
        shares = " | ".join(f"{100 * statistics.mean(run[kind] for run in found[task]):.1f}" for task in tasks)
        lines.append(f"| {name_of(family)} | {budget} d | {100 * int(budget) / width:.1f} | {shares} |")
    return [*lines, ""]


def verdict(scores: Scores) -> list[str]:
    """How the paper's matrices stand against its claim, counted."""
    lines = []
    for title, families in (("circulant", ("circulant",)), ("any of the paper's matrices", SURM)):
        found = [
            (difference, task, family, budget)
            for task, family, budget in scores.of
            if family in families and (difference := scores.over_low_rank(task, family, budget))
        ]
        if not found:
            continue
        better = sum(mean > half for (mean, half), *_ in found)
        worse = sum(-mean > half for (mean, half), *_ in found)
        claimed = sum(mean >= CLAIM[0] for (mean, _), *_ in found)
        possible = sum(mean + half >= CLAIM[0] for (mean, half), *_ in found)
        (mean, half), task, family, budget = max(found)
        lines.append(
            f"- {title}: {len(found)} comparisons with low rank at equal budget; {better} above it and {worse} below it "
            f"with 95 % confidence each; {claimed} with {CLAIM[0]:.0f} points or more, {possible} whose interval reaches "
            f"{CLAIM[0]:.0f}. The best: {name_of(family)}, {budget} d, {task}: {mean:+.1f} ± {half:.1f}."
        )
    return [*lines, ""] if lines else []


def plot(scores: Scores, results: dict, order: list[str], path: Path) -> None:
    """Accuracy against trained parameters a layer, one panel a task, one line a family."""
    tasks, counts = scores.tasks, results["counts"]
    figure = Figure(figsize=(1.2 + 4.6 * len(tasks), 6.4), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    shown = [f for f in order if any(f in scores.families(task) for task in tasks) and f != "dense"]
    budgets_of = {f: {b for _, family, b in scores.of if family == f} for f in shown}
    lined = [f for f in shown if len(budgets_of[f]) > 1]
    single = [f for f in shown if f not in lined]
    handles = {}
    for axes, task in zip(panels, tasks, strict=True):
        for family in [f for f in shown if f in scores.families(task)]:
            budgets = sorted(budget for t, f, budget in scores.of if (t, f) == (task, family))
            # Side by side at equal counts, so that error bars do not hide each other.
            aside = 1.022 ** (shown.index(family) - len(shown) / 2)
            x = [counts[f"{family} {budget}"] * aside for budget in budgets]
            mean, deviation = zip(*(scores.spread(task, family, budget) for budget in budgets), strict=True)
            strong = family in ("low_rank", "circulant")
            if family in lined:
                color = "black" if family == "low_rank" else COLORS[lined.index(family) % len(COLORS)]
                style = {"marker": "o", "linestyle": "-", "linewidth": 2.4 if strong else 1.2}
            else:
                color = COLORS[single.index(family) % len(COLORS)]
                style = {"marker": MARKS[single.index(family) % len(MARKS)], "linestyle": "none"}
            handles[family] = axes.errorbar(
                x, mean, deviation, color=color, markersize=6 if strong else 4.5, elinewidth=0.8, capsize=0, **style,
                alpha=1 if strong else 0.85, zorder=3 if strong else 2, label=name_of(family),
            )  # fmt: skip
        for family, budget, style in (("linear_probe", 0, ":"), ("dense", results["width"], "--"), ("full", 0, "-")):
            if (task, family, budget) in scores.of:
                level = scores.spread(task, family, budget)[0]
                handles[family] = axes.axhline(level, color="#8a8a8a", linestyle=style, zorder=1)
        ticks = sorted({count for entry, count in counts.items() if entry.split()[0] in shown and count > 0})
        axes.set(xscale="log", xlabel="trained parameters of each layer", xlim=(ticks[0] / 1.6, ticks[-1] * 1.6))
        axes.set_title(TITLES[task], fontsize=11, loc="left")
        powers = [results["width"] << i for i in range(8) if results["width"] << i <= ticks[-1] * 1.1]
        axes.xaxis.set_major_locator(FixedLocator(powers))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{power}\n{power // results['width']} d" for power in powers])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy, %")
    figure.legend(
        handles.values(),
        [name_of(f) for f in handles],
        loc="outside lower center",
        ncols=min(1 + 2 * len(panels), len(handles)),
        fontsize=9,
    )
    figure.savefig(path)


def render(results: dict, out: Path, order: list[str]) -> None:
    """Writes <out>.png and the part of <out>.md between the marks."""
    scores = Scores(results)
    lines = verdict(scores)
    for task in scores.tasks:
        lines += [f"### {TITLES[task]}", "", *accuracy_table(scores, task, order)]
    if shares := held_table(results):
        lines += ["### What the nearest matrix holds of the unrestricted update", "", *shares]
    lines += ["### Parameters and learning rates", "", *settings_table(scores, results)]
    page = out.with_suffix(".md")
    text = (
        page.read_text()
        if page.is_file()
        else f"# Structured matrices on pictures\n\n{BEGIN}\n{END}\n\n![]({out.name}.png)\n"
    )
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines).strip() + f"\n{END}{after}")
    if scores.tasks:
        plot(scores, results, order, out.with_suffix(".png"))
