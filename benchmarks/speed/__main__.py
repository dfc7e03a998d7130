# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""python -m benchmarks.speed [NAME ...] [--output FOLDER]

Runs the speed benchmarks, all or those named, each in a process of its own, one thread each unless OMP_NUM_THREADS says
otherwise. Each first checks that both sides compute the same, then prints a Markdown table of medians with spread;
FOLDER/NAME.md keeps it, plots lie beside it.
"""

import argparse
import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from modeling_mm_orient.runs.cpu_memory import reuse_memory

FUNCTIONS = ("memory_look_up", "graph_building")
COMMANDS = ("message_passing", "training", "feature_reading", "prediction", "extraction", "processes", "growth")
NAMES = FUNCTIONS + COMMANDS


def run(name: str, output: Path) -> None:
    """One benchmark, in this process."""
    if name in COMMANDS:
        reuse_memory()  # as `mm-orient` does
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    benchmark = importlib.import_module(f"benchmarks.speed.{name}")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        table = benchmark.main(Path(scratch))
        for plot in Path(scratch).glob("*.png"):
            shutil.copy(plot, output)
    machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    text = f"### {name.replace('_', ' ')}\n\n{machine}\n\n{benchmark.__doc__.strip()}\n\n{table}\n"
    print(text, flush=True)
    (output / f"{name}.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), metavar="FOLDER")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(NAMES)}")
    names = options.names or NAMES
    if len(names) == 1:
        run(names[0], options.output)
        return
    for name in names:
        command = [sys.executable, "-m", "benchmarks.speed", name, "--output", str(options.output)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
