# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Reproduce the authors' forward pass: convert their weights, run their inputs, compare every intermediate.

    python examples/reference_case.py CASE.npz [--save FOLDER]

CASE.npz holds inputs, Keras weights, adjacencies and intermediates of one forward pass of the reference code. Prints the
largest deviation per intermediate on every message-passing back-end there is; the exit status is 1 if one is above 1e-5.
"""

import argparse
import sys

import numpy as np

from modeling_mm_orient import save_for_hub
from modeling_mm_orient.optional_dependencies import TORCH_SCATTER_AVAILABLE
from modeling_mm_orient.runs.reference_converter import convert_reference_weights, reference_deviations

TOLERANCE = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", metavar="CASE.npz")
    parser.add_argument("--save", metavar="FOLDER", help="write the converted checkpoint there")
    options = parser.parse_args()
    with np.load(options.case) as file:
        case = dict(file)
    threshold = float(case["threshold"])
    backends = ["torch_scatter"] * TORCH_SCATTER_AVAILABLE + ["fused", "index_add", "dense"]
    if not TORCH_SCATTER_AVAILABLE:
        print("torch-scatter is not installed: only plain torch is compared")
    deviations = {}
    for backend in backends:
        model = convert_reference_weights(
            case, image_threshold=threshold, text_threshold=threshold, message_passing_backend=backend
        )
        deviations[backend] = reference_deviations(case, model)
    print(f"{'largest deviation':20}" + "".join(f"{backend:>16}" for backend in backends))
    for name in deviations[backends[0]]:
        print(f"{name:20}" + "".join(f"{deviations[backend][name]:16.1e}" for backend in backends))
    worst = max(value for values in deviations.values() for value in values.values())
    print(f"worst {worst:.1e}, allowed {TOLERANCE:.0e}")
    if options.save:
        model.config.message_passing_backend = "auto"
        save_for_hub(model, None, options.save)
        print(f"checkpoint saved to {options.save}")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
