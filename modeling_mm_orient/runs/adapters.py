# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""Adapters of PEFT on the encoders (ours), with everything beside them that learns, the relation memory among it.

An adapter file by itself lacks what is trained outside the encoders, and the statistics that layers keep as they run:
verdicts after reloading would not be those before saving.
"""

from pathlib import Path

from torch import nn

from ..configuration_mm_orient import MMOrientConfig
from ..data.json_files import read_json, write_json
from ..memory_file import MEMORY_FILE
from ..names import ENCODER_MODULES
from ..network import Member
from ..relation_memory import RelationMemory
from ..tasks import are_tasks, kind_of

ADAPTER_TASKS = "adapter_tasks.json"
ADAPTER_MEMORY = "adapter_memory"  # its folder beside the adapter: the base's own memory is of other encoders


def adapt(model, target_modules, **options):
    """A `PeftModel` whose encoders have LoRA layers; HIMA, relations, learner and heads are trained and saved whole.

    Args:
        model: `MMOrientForMultiTaskClassification`. target_modules: layers of the encoders, as `LoraConfig` takes them, say
            `["query", "value"]`.
        options: of `peft.LoraConfig`.

    Raises:
        ImportError: PEFT is not installed.
    """
    from peft import LoraConfig, get_peft_model

    options["modules_to_save"] = sorted({*options.get("modules_to_save", ()), *modules_to_save(model)})
    return get_peft_model(model, LoraConfig(target_modules=target_modules, **options))


def modules_to_save(model) -> list[str]:
    """Names of the modules that an adapter on the encoders has to be saved with: all that is trained outside them, and
    layers of the encoders that keep running statistics."""
    beside = [(name, part) for name, part in model.named_children() if name != model.base_model_prefix]
    beside += [(name, part) for name, part in model.base_model.named_children() if name not in ENCODER_MODULES.values()]
    names = {name for name, part in beside for name in _whole_modules(name, part)}
    for encoder in model.base_model.encoders.values():
        names |= {name for name, layer in encoder.named_modules() if getattr(layer, "running_mean", None) is not None}
    return sorted(names)


def _whole_modules(name: str, module: nn.Module) -> list[str]:
    """The module, the parts of one that is never called itself, or nothing of one that keeps nothing."""
    if not module.state_dict():
        return []
    if not isinstance(module, (nn.ModuleList, Member)):
        return [name]
    return [whole for part, child in module.named_children() for whole in _whole_modules(f"{name}.{part}", child)]


def save_adapter(adapted, folder) -> None:
    """Save the adapter, its tasks, and the relation memory that was made with it."""
    adapted.save_pretrained(folder)
    write_json(Path(folder) / ADAPTER_TASKS, {"tasks": adapted.get_base_model().config.tasks})
    memory = adapted.get_base_model().relation_memory
    if memory is not None:
        memory.save(Path(folder) / ADAPTER_MEMORY)


def load_adapter(model, folder):
    """A `PeftModel` of `model` and a saved adapter, in `eval()`, with what the adapter's tasks decide by and its relation
    memory.

    Raises:
        ValueError: the model's tasks are others than those that the adapter was saved with, or the file of these is wrong.
    """
    from peft import PeftModel

    saved = Path(folder) / ADAPTER_TASKS
    if saved.is_file():
        tasks = read_json(saved).get("tasks")
        if not are_tasks(tasks):
            raise ValueError(f"{saved}: `tasks` is no list of tasks")
        try:
            tasks = MMOrientConfig(tasks=tasks).tasks
        except ValueError as error:
            raise ValueError(f"{saved}: {error}") from None
        if (named := _described(tasks)) != (here := _described(model.config.tasks)):
            raise ValueError(
                f"the adapter's tasks are {named}, and the model's {here}: load the model with the adapter's"
            )
        for ours, theirs in zip(model.config.tasks, tasks, strict=True):  # the heads have the same dicts
            ours.clear()
            ours.update(theirs)
    adapted = PeftModel.from_pretrained(model, folder).eval()
    if (Path(folder) / ADAPTER_MEMORY / MEMORY_FILE).is_file():
        adapted.get_base_model().set_relation_memory(RelationMemory.load(Path(folder) / ADAPTER_MEMORY))
    return adapted


def _described(tasks: list[dict]) -> str:
    """Tasks by name, kind, labels and order, which are those of the heads."""
    return "; ".join(" ".join([task["name"], f"({kind_of(task).name})", *task["labels"]]) for task in tasks)
