# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""python -m benchmarks.speed [NAME ...] [--output FOLDER]

Runs the speed benchmarks, all or those named, one thread each unless OMP_NUM_THREADS says otherwise. Each first checks that
both sides compute the same, then prints a Markdown table of medians with spread; FOLDER/speed.md keeps them all,
plots lie beside it.
"""

import argparse
import importlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import torch

NAMES = (
    "message_passing",
    "memory_look_up",
    "graph_building",
    "training",
    "feature_reading",
    "prediction",
    "extraction",
    "processes",
    "growth",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--output", default="benchmarks/results", metavar="FOLDER")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(NAMES)}")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as mm-orient does
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    parts = [f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"]
    for name in options.names or NAMES:
        benchmark = importlib.import_module(f"benchmarks.speed.{name}")
        with tempfile.TemporaryDirectory() as scratch:
            table = benchmark.main(Path(scratch))
            for plot in Path(scratch).glob("*.png"):
                shutil.copy(plot, output)
        parts.append(f"### {name.replace('_', ' ')}\n\n{benchmark.__doc__.strip()}\n\n{table}")
        print(f"{parts[-1]}\n", flush=True)
        (output / "speed.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
