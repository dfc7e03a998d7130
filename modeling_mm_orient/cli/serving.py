# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""To try a run on a page: serve."""

from .options import add_verb

LEAST_GRADIO = 6


def add_verbs(verbs) -> None:
    """serve."""
    verb = add_verb(
        verbs,
        "serve",
        _serve,
        "a page to ask a run about posts, and an API: verdicts, evidence, reference posts, many files to a table",
        "mm-orient serve RUN --port 7860",
    )
    verb.add_argument("model", metavar="RUN")
    verb.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: 127.0.0.1, this machine alone; 0.0.0.0 lets everyone in who reaches it",
    )
    verb.add_argument("--port", type=int, default=7860, help="default: 7860")


def _serve(options) -> None:
    from pathlib import Path

    from ..runs.run_folder import read_run

    if not 0 < options.port < 65536:
        raise ValueError(f"--port must be between 1 and 65535, got {options.port}")
    _require_gradio()
    read_run(options.model)

    from ..pipeline_mm_orient import MultimodalClassificationPipeline
    from ..runs.run_folder import load_run

    app = _app()
    model, processor = load_run(options.model)
    pipe = MultimodalClassificationPipeline(model=model, processor=processor)
    app.launch(app.build(pipe, Path(options.model).resolve().name), server_name=options.host, server_port=options.port)


def _require_gradio() -> None:
    from importlib.metadata import PackageNotFoundError, version

    advice = "pip install 'modeling-mm-orient[space]'"
    try:
        found = version("gradio")
    except PackageNotFoundError:
        raise ImportError(f"mm-orient serve needs gradio: {advice}") from None
    if int(found.split(".")[0]) < LEAST_GRADIO:
        raise ImportError(f"mm-orient serve needs gradio {LEAST_GRADIO} or newer, {found} is installed: {advice}")


def _app():
    """The Space's `app.py`, which finds its neighbours as a script does."""
    import importlib
    import sys

    from ..runs.push import space_folder

    sys.path.insert(0, str(space_folder()))
    return importlib.import_module("app")
