# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The tables and the plot of glue.py, made from its JSON alone."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path

from glue_data import TASKS
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import t as student

BEGIN, END = "<!-- tables: written by glue.py -->", "<!-- end of tables -->"
PAGE = """# SURM's adapter layers on GLUE

SURM (arXiv 2406.17740) claims up to 12 times fewer parameters inside adapters at equal quality. Here its adapter layers,
one structured matrix and a bias at Houlsby's two places in every block of MiniLM, meet bottleneck adapters at the same
places, and other ways to adapt the same model, by examples/python/glue.py. Numbers are GLUE's metrics times 100.

"""
NAMES = {
    "linear_probe": "linear probe",
    "full": "full fine-tuning",
    "lora": "LoRA, r = 8, query and value",
    "circulant_update": "SURM update, circulant, query and value",
    "surm_circulant": "SURM adapter, circulant",
    "surm_symmetric_toeplitz": "SURM adapter, symmetric Toeplitz",
    "surm_kronecker": "SURM adapter, Kronecker",
}
LINES = {"linear_probe": ":", "full": "-"}  # across the plot, as their numbers of parameters are far from the others'
MARKS = {
    "surm_circulant": ("o", "#b5651d"),
    "surm_symmetric_toeplitz": ("^", "#d62728"),
    "surm_kronecker": ("s", "#e377c2"),
    "circulant_update": ("D", "#2ca02c"),
    "lora": ("P", "#1f77b4"),
}


def name_of(contender: str) -> str:
    return NAMES.get(contender) or contender.replace("bottleneck_", "bottleneck adapter, m = ")


class Scores:
    """Scores times 100 by (task, contender) and seed, of those that have all seeds."""

    def __init__(self, results: dict) -> None:
        found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        self.rate: dict[tuple[str, str], str] = {}
        for key, run in results["runs"].items():
            task, contender, stage, rate, seed = key.split()
            if stage == "test":
                found[task, contender][int(seed)] = 100 * run["score"]
                self.rate[task, contender] = rate
        seeds = set(results["protocol"]["seeds"])
        self.of = {entry: scores for entry, scores in found.items() if set(scores) == seeds}
        self.counts = results["counts"]
        self.tasks = [task for task in TASKS if any(entry[0] == task for entry in self.of)]

    def spread(self, *entry: str) -> tuple[float, float]:
        """Mean and standard deviation over the seeds."""
        values = list(self.of[entry].values())
        return statistics.mean(values), statistics.stdev(values)

    def over(self, task: str, ours: str, theirs: str) -> tuple[float, float] | None:
        """Mean difference at equal seeds, and half the width of its 95 % interval (Student's t); None: not measured."""
        if (task, ours) not in self.of or (task, theirs) not in self.of:
            return None
        pairs = [(score, self.of[task, theirs][seed]) for seed, score in self.of[task, ours].items()]
        differences = [a - b for a, b in pairs]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        return statistics.mean(differences), float(student.ppf(0.975, len(differences) - 1)) * error


def task_table(scores: Scores, task: str, order: list[str]) -> list[str]:
    """One row for each contender that has been judged, by trained parameters."""
    metric = TASKS[task].metric_name
    lines = [
        f"| contender | trained parameters without the head | learning rate | {metric} |",
        "|---|---:|---:|---:|",
    ]
    for contender in sorted((c for c in order if (task, c) in scores.of), key=scores.counts.__getitem__):
        mean, deviation = scores.spread(task, contender)
        cells = [f"{scores.counts[contender]:,}", scores.rate[task, contender], f"{mean:.1f} ± {deviation:.1f}"]
        lines.append(f"| {name_of(contender)} | {' | '.join(cells)} |")
    return [*lines, ""]


def claim_table(scores: Scores, order: list[str]) -> list[str]:
    """SURM's adapter layers less each bottleneck that is at least as large."""
    lines = []
    bottlenecks = sorted((c for c in scores.counts if c.startswith("bottleneck_")), key=scores.counts.__getitem__)
    for ours in (c for c in order if c.startswith("surm_") and c in scores.counts):
        for theirs in bottlenecks:
            found = [scores.over(task, ours, theirs) for task in scores.tasks]
            if not any(found):
                continue
            cells = ["-" if f is None else f"{f[0]:+.1f} ± {f[1]:.1f}".replace("-", "\N{MINUS SIGN}") for f in found]
            ratio = scores.counts[theirs] / scores.counts[ours]
            lines.append(f"| {name_of(ours)} | {name_of(theirs)} | {ratio:.1f} | {' | '.join(cells)} |")
    if not lines:
        return []
    titles = " | ".join(TASKS[task].title for task in scores.tasks)
    text = "Mean difference at equal seeds ± half the width of its 95 % interval; \"times\": the bottleneck's parameters over SURM's."
    return [
        "### SURM's adapter layers less bottleneck adapters",
        "",
        text,
        "",
        f"| SURM | bottleneck | times | {titles} |",
        "|---|---|---:|" + "---:|" * len(scores.tasks),
        *lines,
        "",
    ]


def protocol_text(results: dict, tasks: list[str]) -> list[str]:
    """How the numbers were made."""
    p, where = results["protocol"], results["where"]
    parts = [
        f"{TASKS[t].title}: {d['train']:,} train, {d['held_out']:,} choose the learning rate, {d['judged']:,} of the "
        f"{d['part']} file judge"
        for t, d in ((task, results["data"][task]) for task in tasks)
    ]
    cost = sum(run["cpu_seconds"] for run in results["runs"].values()) / 3600
    seeds = f"{len(p['seeds'])} seeds" + (", which set head, adapter, order and dropout" if len(p["seeds"]) > 1 else "")
    return [
        f"{'; '.join(parts)}. The part that chooses is drawn from the training file; the judged file has no part in it. "
        f"{p['epochs']} epochs in batches of {p['batch']} ({p['tuning_epochs']} where a learning rate is tried, with "
        f"{len(p['tuning_seeds'])} seed), at most {p['length']} tokens, AdamW, weight decay {p['weight_decay']:g}, a "
        f"linear schedule with {100 * p['warmup']:g} % warm-up; the head, new and trained by all, has the rate "
        f"{p['head_rate']:g}, which the linear probe alone has tuned. Mean ± standard deviation over {seeds}.",
        "",
        f"{len(results['runs'])} runs, {cost:.1f} hours of one core ({where['cpu']}); versions are in the JSON.",
        "",
    ]


def plot(scores: Scores, order: list[str], path: Path) -> None:
    """The metric against trained parameters, one panel a task; the bottlenecks are a line."""
    figure = Figure(figsize=(1 + 4.2 * len(scores.tasks), 5), dpi=130, layout="constrained")
    handles: dict[str, object] = {}
    for axes, task in zip(figure.subplots(1, len(scores.tasks), squeeze=False)[0], scores.tasks, strict=True):
        have = sorted((c for c in order if (task, c) in scores.of), key=scores.counts.__getitem__)
        spread = {c: scores.spread(task, c) for c in have}
        ladder = [c for c in have if c.startswith("bottleneck_")]
        for shown, style in [
            (ladder, {"marker": "o", "color": "black", "label": "bottleneck adapters"}),
            *(
                ([c], {"marker": m, "color": color, "label": name_of(c)})
                for c, (m, color) in MARKS.items()
                if c in have
            ),
        ]:
            if shown:
                # Side by side at equal counts, so that error bars do not hide each other.
                aside = 1 if shown is ladder else 1.06 ** (list(MARKS).index(shown[0]) - 1.5)
                x = [scores.counts[c] * aside for c in shown]
                mean, deviation = zip(*(spread[c] for c in shown), strict=True)
                handles[style["label"]] = axes.errorbar(x, mean, deviation, markersize=6, elinewidth=0.8, **style)
        for contender in (c for c in LINES if c in have):
            style = {"color": "#8a8a8a", "linestyle": LINES[contender], "zorder": 1}
            handles[name_of(contender)] = axes.axhline(spread[contender][0], **style)
        axes.set(xscale="log", xlabel="trained parameters without the head", ylabel=f"{TASKS[task].metric_name} x 100")
        axes.set_xlim(8e3, 4e5)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(TASKS[task].title, fontsize=11, loc="left")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(path)


def render(results: dict, out: Path, order: list[str]) -> None:
    """Writes <out>.png and the part of <out>.md between the marks."""
    scores = Scores(results)
    lines = protocol_text(results, scores.tasks) if scores.tasks else []
    lines += claim_table(scores, order)
    for task in scores.tasks:
        lines += [f"### {TASKS[task].title}", "", *task_table(scores, task, order)]
    page = out.with_suffix(".md")
    image = f"![metric against trained parameters]({out.name}.png)\n"
    text = page.read_text() if page.is_file() else f"{PAGE}{BEGIN}\n{END}\n\n{image}"
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines).strip() + f"\n{END}{after}")
    if scores.tasks:
        plot(scores, order, out.with_suffix(".png"))
