# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Installation. Lower bounds are tested by `make test-oldest`, the newest versions tested are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "modeling_mm_orient" / "__init__.py").read_text(encoding="utf-8"))[
    1
]

setup(
    name="modeling-mm-orient",
    version=VERSION,
    description="MM-ORIENT for the Hugging Face ecosystem: pictures and texts together, for several tasks at once",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The MM-ORIENT authors",
    url="https://arxiv.org/abs/2508.16300",
    project_urls={"Paper": "https://arxiv.org/abs/2508.16300"},
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["modeling_mm_orient*"]),
        "modeling_mm_orient.hub_configs",
        "modeling_mm_orient.space",
    ],
    package_dir={"modeling_mm_orient.hub_configs": "hub_configs", "modeling_mm_orient.space": "examples/space"},
    package_data={
        "modeling_mm_orient": ["py.typed"],
        "modeling_mm_orient.hub_configs": ["*.json"],
        "modeling_mm_orient.runs": ["*.md", "templates/*.j2"],
        "modeling_mm_orient.space": ["*.md", "*.txt"],
    },
    entry_points={"console_scripts": ["mm-orient=modeling_mm_orient.cli:main"]},
    install_requires=[
        "torch>=2.13",
        "transformers>=5.19,<6",
        "datasets>=4.0",
        "accelerate>=1.10",
        "evaluate>=0.4.6",
        "filelock>=3.16",  # one hand at a time on a memory and on a run
        "huggingface-hub>=1.33",
        "jinja2>=3.1",  # reports and explanations as pages; torch brings it as well
        "matplotlib>=3.9",  # their plots
        "networkx>=3.4",  # communities and layout of relation graphs; torch brings it as well
        "pyyaml>=6",  # `--config` in YAML; transformers has it too
        "numpy>=2.1",
        "pandas>=2.2.3",  # frames in and out of MMOrientClassifier; datasets brings it as well
        "pillow>=11.3",
        "pyarrow>=18",  # shards of features, Parquet in and out
        "scipy>=1.14",  # least losses of few numbers: temperatures, the weights of experts
        "safetensors>=0.8",  # the relation memory's file
        "scikit-learn>=1.7",  # F1, AUROC, precision and recall
        "tokenizers>=0.23.1",  # the vocabulary of a text encoder that is trained from scratch
        "tqdm>=4.67",
    ],
    extras_require={
        # completion in shells: eval "$(register-python-argcomplete mm-orient)"
        "completion": ["argcomplete>=3.5"],
        # message passing kernels; no wheel on PyPI, compiles against the installed torch with --no-build-isolation
        "scatter": ["torch-scatter>=2.1.2"],
        # an index for relation memories beyond about 100,000 posts; exact search needs nothing
        "faiss": ["faiss-cpu>=1.10"],
        # text on pictures: RapidOCR reads it (its models come in the wheel), OpenCV paints over it
        "text-removal": ["rapidocr>=3.10", "onnxruntime>=1.20", "opencv-python-headless>=4.10"],
        # the NRC emotion lexicon among task features (the lexicon is for research; its terms are in the package)
        "task-features": ["nrclex>=4.1"],
        # prediction and extraction over many machines: its scheduler and retries are not ours to write again
        "ray": ["ray[data]>=2.60"],
        # where `train --report-to tensorboard trackio` writes to, as any other reporter of transformers may; trackio needs
        # Pillow below 13, and is not in constraints.txt
        "reporting": ["tensorboard>=2.19", "trackio>=0.20"],
        # `train --search`: its samplers and pruning are not ours to write again
        "search": ["optuna>=4"],
        # graphs of `mm-orient export --onnx`: onnxscript translates what torch exports, onnxruntime compares it
        "onnx": ["onnx>=1.17", "onnxscript>=0.7", "onnxruntime>=1.20"],
        # the page of `mm-orient serve`: uploads, a queue, an API and a client for it; it takes no Pillow 13 yet
        "space": ["gradio>=6.20,<7"],
        # that page in a browser, Debian's chromium or Google's; in an environment of its own, for Pillow's sake
        "test-space": ["playwright>=1.50"],
        # the peers of benchmarks/speed
        "bench": ["torch-geometric>=2.6", "faiss-cpu>=1.10"],
        # the site of docs/: pages per command from the parser, API pages from docstrings
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"],
        "test": [
            "pytest>=9",
            "pytest-xdist>=3.8",  # a test file per core: torch has one thread in tests
            "hypothesis>=6.140",  # properties of graphs and attention over random inputs
            "parameterized>=0.9",  # imported by transformers' common tests
            "peft>=0.18",  # adapters around the model
            "optuna>=4",  # a search of two trials
            "tensorboard>=2.19",  # events of a run are read back
            "ruff>=0.17",  # lint and format
            "mypy>=2.4",  # types of what travels with a checkpoint
            "transformers[serving]>=5.19",  # a real OpenAI-compatible server for the paraphrases to ask
        ],
    },
)
