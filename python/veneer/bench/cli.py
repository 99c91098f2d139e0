# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of the benchmark suite. Nothing heavy is imported before `run`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Each case is one interleaved run of the frozen floor (twice), Veneer, plain PyTorch, HF PEFT and other peers, compared
with each other before they are timed. docs/performance.md says how to read the figures."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `veneer bench`."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few rounds: shows that all works, measures little"
    )
    parser.add_argument("--filter", metavar="REGEX", help="only cases whose id it is found in; see --list")
    parser.add_argument("--targets", action="store_true", help="the cases of the target table, and the table")
    parser.add_argument("--list", action="store_true", help="print the ids and stop")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (default cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="torch threads (default: torch's own)")
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="rounds of each case (default: what fits into 10 s for a layer, 90 s for a model; on a GPU 4 s and 8 s)",
    )
    parser.add_argument(
        "--compiled", action="store_true", help="also Veneer and HF PEFT under torch.compile (slow to start)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="after each case, where the floor's and our time goes by operator"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write rows and provenance, after each case; into a folder as {device}-{date}.json",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the results (.png, .svg, .pdf)")
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help="measure nothing: write the results of a --json file into a page"
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PAGE",
        default=Path("docs/performance.md"),
        help="the page of --render (default %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; 0: measured, 1: a case is in error, 2: the command line is."""
    try:
        if args.render:
            from veneer.bench.render import render

            render(args.render, args.into)
            print(f"wrote {args.into}")
            return 0
        return _run(args)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


def _check(args: argparse.Namespace) -> None:
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("[bench] --device cuda: torch finds no CUDA device")
    for name in ("threads", "repeats"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"[bench] --{name} must be at least 1, got {value}")
    if args.plot and args.plot.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"[bench] --plot must end in .png, .svg or .pdf, got {args.plot}")
    if args.threads:
        torch.set_num_threads(args.threads)


def _run(args: argparse.Namespace) -> int:
    from veneer.bench.cases import all_cases, chosen
    from veneer.bench.targets import target_cases

    _check(args)
    cases = chosen(target_cases(args.device) if args.targets else all_cases(args.quick), args.filter)
    if args.list:
        print("\n".join(case.id for case in cases))
        return 0

    import torch

    from veneer.bench import machine, report
    from veneer.bench.runner import Settings

    out = report.console()
    settings = Settings(torch.device(args.device), args.quick, args.repeats, args.compiled)
    data: dict[str, Any] = {
        "schema": 1,
        "provenance": machine.provenance(settings.device),
        "constants": None,
        "noise": None,
        "rows": [],
    }
    out.print(report.provenance_line(data["provenance"]))
    if args.json and args.json.is_dir():
        args.json /= machine.results_name(data["provenance"])
    constants = machine.measure_constants(settings.device, {case.dtype for case in cases}, args.quick)
    data["constants"] = constants.as_dict()
    out.print(report.constants_line(data["constants"]))
    data["provenance"]["gpu_state"] = [machine.gpu_state(settings.device)]
    try:
        _measure(cases, settings, constants, data, args, out)
    except KeyboardInterrupt:
        out.print("stopped; what was measured follows")
    rows = data["rows"]
    for table in report.results(rows):
        out.print(table)
    if args.targets:
        out.print(report.target_table(rows, data["provenance"]))
    report.print_end(out, rows, report.noise_summary(rows))
    if args.plot:
        from veneer.bench.plots import plot

        plot(rows, args.plot)
        out.print(f"plot: {args.plot}")
    if args.json:
        out.print(f"rows: {args.json}")
    return 1 if any(row["error"] for row in rows) else 0


def _measure(
    cases: list[Any], settings: Any, constants: Any, data: dict[str, Any], args: argparse.Namespace, out: Any
) -> None:
    import dataclasses

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from veneer.bench import machine, report
    from veneer.bench.profiles import profile_case
    from veneer.bench.runner import run_case
    from veneer.config import write_whole

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=case.id)
            rows = [dataclasses.asdict(row) for row in run_case(case, settings, constants)]
            progress.console.print(report.case_line(rows))
            data["rows"] += rows
            data["noise"] = report.noise_summary(data["rows"])
            data["provenance"]["gpu_state"][1:] = [machine.gpu_state(settings.device)]
            if args.json:  # after each case: a run of hours that is stopped has lost nothing
                write_whole({args.json: (json.dumps(data, indent=1) + "\n").encode()})
            if args.profile and any(row["step_min_ms"] for row in rows):
                progress.console.print(profile_case(case, settings))
            progress.advance(task)
