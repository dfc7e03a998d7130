# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Export: a checkpoint that carries its own code, for `from_pretrained(..., trust_remote_code=True)`."""

import html
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from ..configuration_mm_orient import MMOrientConfig, hub_id
from ..data.json_files import read_json
from ..data.locks import only_one
from ..memory_file import LARGE_MEMORY, remove_memory
from ..partial_files import is_running
from ..task_features import NRC
from .card import RESPONSIBLE_USE, datasets_in_card, encoder_licenses, model_card, noise_in
from .card_facts import CardFacts
from .endpoint import write_endpoint
from .onnx_export import DESCRIPTION, export_onnx, require_onnx
from .run_folder import (
    CARD_FILE,
    METRICS_FILE,
    METRICS_PLOT,
    NOISE_FILE,
    REPORT_FILE,
    RUN_FILE,
    load_run,
    read_metrics,
    read_run,
)

LOCK_FILE = ".export.lock"
MARKER = "config.json"  # without it nothing loads a folder: the last file to come, and the first to go
MODELING_FILE = "modeling_mm_orient.py"  # which a killed export may have left
ONNX_FOLDER = "onnx"
OF_A_RUN = (
    METRICS_FILE,
    METRICS_PLOT,
    NOISE_FILE,
    REPORT_FILE,
)  # what travels of a run beside its model; the rest is about its data


def export_run(
    run: str,
    folder,
    name: str,
    facts: CardFacts | None = None,
    *,
    endpoint: bool = False,
    onnx: bool = False,
    online: bool = True,
) -> Path:
    """Write what the Hub gets of a finished run, see `save_for_hub`; this says what a hub folder holds.

    Args:
        run: the run's folder. folder: as in `save_for_hub`. name: repository id, for the card.
        facts: what only the publisher knows. endpoint: with what Inference Endpoints need, see `write_endpoint`.
        onnx: with a folder `onnx`, see `export_onnx`. online: ask the Hub for the encoders' licences.

    Raises:
        FileNotFoundError: there is no finished run. FileExistsError: `folder` holds another run, or files of anything else
            that would be replaced. ValueError: a verdict of its needs a folder of this machine, or a file of its names one.
    """
    if onnx:
        require_onnx()
    _check_target(Path(folder))
    if (Path(folder) / RUN_FILE).exists() and Path(folder).resolve() != Path(run).resolve():
        raise FileExistsError(f"{folder} holds another run, whose files would be mixed with these; export elsewhere")
    said, facts = read_run(run), facts or CardFacts()
    facts = replace(facts, dataset=facts.dataset or datasets_in_card(run))
    model, processor = load_run(run)
    _check_publishable(model, processor, run)
    config = model.config
    if config.relation_memory not in (None, LARGE_MEMORY) and hub_id(config.relation_memory) is None:
        config.relation_memory = LARGE_MEMORY if model.relation_memory.is_large else None  # it goes along
    card, metrics = None, Path(run) / METRICS_FILE
    if said and metrics.is_file():
        licenses = encoder_licenses(config) if online else {}
        card = model_card(config, read_metrics(run), said, name, facts, licenses, noise_in(run))
    with tempfile.TemporaryDirectory() as further:
        for file in OF_A_RUN:
            if (Path(run) / file).is_file():
                _check_names_no_folder(Path(run) / file, said)
                shutil.copyfile(Path(run) / file, Path(further) / file)
        if endpoint:
            write_endpoint(model, processor, Path(further))
        if onnx:  # another copy, which is changed by it
            export_onnx(load_run(run)[0], processor, Path(further) / ONNX_FOLDER)
        return save_for_hub(model, processor, folder, card, further)


def save_for_hub(model, processor, folder, model_card: str | None = None, further=None) -> Path:
    """Write model, processor and their code to `folder`.

    A new folder is there complete or not at all. In one that is there already everything is written beside the old files
    first; a failure leaves those as they were. Killed while names are exchanged, it has no `config.json`, and does not load.

    Args:
        model: `MMOrientForMultiTaskClassification` or `MMOrientModel`.
        processor: `MMOrientProcessor`, or None for a model on feature arrays.
        folder: a new or an existing directory, also one that another file system is mounted on; files of the same names are
            replaced.
        model_card: text of its README.md.
        further: a folder whose files go along.

    Returns:
        The folder.

    Raises:
        FileExistsError: another process exports to it.
    """
    folder = Path(folder)
    inside = folder.is_dir()
    # within one file system a file is renamed and not copied
    place, prefix = (folder, ".partial-") if inside else (folder.parent, f".{folder.name}.partial-")
    place.mkdir(parents=True, exist_ok=True)
    for leftover in place.glob(f"{prefix}*"):
        if (number := leftover.name.removeprefix(prefix)).isdecimal() and not is_running(number):
            shutil.rmtree(leftover, ignore_errors=True)
    scratch = place / f"{prefix}{os.getpid()}"
    scratch.mkdir()
    try:
        _write(model, processor, scratch, model_card)
        if further is not None:
            mode = scratch.stat().st_mode  # which would become that of `further`, nobody else's to enter
            shutil.copytree(further, scratch, dirs_exist_ok=True)
            scratch.chmod(mode)
        if not inside:
            os.rename(scratch, folder)
            return folder
        with only_one(folder / LOCK_FILE, f"another process exports to {folder}"):
            (folder / MARKER).unlink(missing_ok=True)
            for place in (folder, folder / LARGE_MEMORY):
                remove_memory(place)
            if (folder / ONNX_FOLDER / DESCRIPTION).is_file():  # an earlier export's graphs are another model's
                shutil.rmtree(folder / ONNX_FOLDER)
            for path in sorted(scratch.iterdir(), key=lambda path: path.name == MARKER):
                target = folder / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                os.replace(path, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _check_target(folder: Path) -> None:
    """Refuse to export where something else lies under the names of what is written."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise FileExistsError(f"{folder} is no folder; export elsewhere")
    config = folder / MARKER
    if config.is_file() and read_json(config).get("model_type") != MMOrientConfig.model_type:
        raise FileExistsError(f"{config} is of something else, and would be replaced; export elsewhere")
    begun = config.is_file() or (folder / MODELING_FILE).is_file()
    if not begun and (folder / CARD_FILE).exists():
        raise FileExistsError(f"{folder / CARD_FILE} is of something else, and would be replaced; export elsewhere")


def travelling_files() -> list[Path]:
    """The code that goes with a checkpoint: every module directly in the package, which import each other alone."""
    package = Path(__file__).parents[1]
    return sorted(path for path in package.glob("*.py") if path.stem not in ("__init__", "__main__"))


def _write(model, processor, folder: Path, model_card: str | None) -> None:
    model.save_pretrained(folder)
    if model.config.relation_memory == LARGE_MEMORY and model.relation_memory is not None:
        model.relation_memory.save(folder / LARGE_MEMORY)
    if processor is not None:
        processor.save_pretrained(folder)
    for path in travelling_files():
        shutil.copyfile(path, folder / path.name)
    if model_card is not None:
        (folder / CARD_FILE).write_text(model_card, encoding="utf-8")
        shutil.copyfile(RESPONSIBLE_USE, folder / RESPONSIBLE_USE.name)


def _check_publishable(model, processor, run: str) -> None:
    """Refuse what nobody else could use: a verdict that needs what is here alone."""
    for entry in processor.task_features:
        if entry["source"] != NRC and hub_id(entry["source"]) is None:
            raise ValueError(
                f"{run}: the task feature {entry['name']!r} comes from the folder {entry['source']}, which nobody else has: "
                "publish that classifier, and train with its Hub id"
            )
    if model.config.relation_scope != "batch" and model.relation_memory is None:
        raise ValueError(
            f"{run}: its verdicts rest on a relation memory, and it has none (mm-orient memory build makes it)"
        )


def _written(place: str) -> set[bytes]:
    """A place as it stands in a text, a page, JSON or a URL."""
    forms = {place, json.dumps(place)[1:-1], json.dumps(place, ensure_ascii=False)[1:-1]}
    forms |= {html.escape(form) for form in forms} | {quote(place)}
    return {form.encode("utf-8", "surrogatepass") for form in forms}


def _check_names_no_folder(file: Path, run: dict) -> None:
    """Refuse a run's file that says where its data lie; names that are no whole paths are anybody's words."""
    data = run.get("data", {})
    arrays = (data.get("feature_arrays") or {}).values()
    places = [
        data.get("data"),
        data.get("paraphrases"),
        run.get("feature_cache"),
        *arrays,
        *data.get("allow_outside", ()),
    ]
    content = file.read_bytes()
    for place in places:
        if place and os.path.isabs(place) and place.strip(os.sep) and any(form in content for form in _written(place)):
            raise ValueError(f"{file} names {place}, a place on this machine: take it out of there, or remove the file")
