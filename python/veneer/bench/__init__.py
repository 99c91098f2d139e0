# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark suite: every registered method against the frozen floor, plain PyTorch and HF PEFT, in one interleaved
run. `veneer bench --help` is the way in; `docs/performance.md` says what the figures mean."""
