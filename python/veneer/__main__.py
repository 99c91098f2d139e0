# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The `veneer` command (`veneer --help`, `python -m veneer --help`)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def cmake_dir() -> Path:
    """Folder to give CMake as `veneer_DIR`, or to append to CMAKE_PREFIX_PATH."""
    from veneer._build_info import CMAKE_DIR

    return (Path(__file__).parent / CMAKE_DIR).resolve()


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="veneer", description="Thin trained layers on frozen models.")
    parser.add_argument("--cmake-dir", action="store_true", help="print the folder of veneerConfig.cmake")
    parser.add_argument("--version", action="store_true", help="print versions")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    bench = commands.add_parser("bench", help="measure methods against the frozen floor and other libraries")
    from veneer.bench import cli  # light: nothing heavy is imported before a benchmark runs

    cli.add_arguments(bench)
    for name, text in (
        ("docs", "print the methods reference (docs/methods.md), made from the registry"),
        ("stubs", "print the type stub of veneer.config, made from the registry"),
    ):
        commands.add_parser(name, help=text).add_argument("--output", type=Path, help="write to a file instead")
    args = parser.parse_args(argv)

    if args.cmake_dir:
        print(cmake_dir())
        return 0
    if args.version:
        import torch

        import veneer

        print(f"veneer {veneer.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}")
        return 0
    if args.command == "bench":
        return cli.run(args)
    if args.command in ("docs", "stubs"):
        from veneer import reference

        text = getattr(reference, args.command)()
        args.output.write_text(text, encoding="utf-8") if args.output else print(text, end="")
        return 0
    parser.print_help()
    return 2


if __name__ == "__main__":
    sys.exit(main())
