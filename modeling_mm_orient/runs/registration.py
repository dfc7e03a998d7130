# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The installed classes made known to transformers, so that `AutoModel` and `pipeline` need no `trust_remote_code`.

`import modeling_mm_orient` must not import transformers: each part is registered once the part of transformers that it
belongs to is imported, or at once where that is there already.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec

AUTO = "transformers.models.auto"
PACKAGE = __name__.partition(".")[0]


def register_when_needed() -> None:
    """Register what transformers has imported, and the rest when it is imported."""
    waiting = {}
    for module, register in PARTS.items():
        if _is_ready(module):
            register()
        else:
            waiting[module] = register
    if waiting:
        sys.meta_path.insert(0, _AfterImport(waiting))


class _AfterImport(MetaPathFinder):
    """Calls functions when the modules of their names have been imported, and all that import these: modules of this
    package, or others among them."""

    def __init__(self, waiting: dict[str, Callable[[], None]]):
        self.waiting, self.postponed, self.depth = waiting, [], 0

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        register = self.waiting.pop(fullname, None)
        is_ours = fullname.startswith(f"{PACKAGE}.") and bool(self.waiting or self.postponed)
        if register is None and not is_ours:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next((found for finder in finders if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module) -> None:
                self.depth += 1
                try:
                    execute(module)
                finally:
                    self.depth -= 1
                self.postponed += [register] if register is not None else []
                while self.postponed and not self.depth:
                    self.postponed.pop(0)()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _is_ready(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


class _InstalledPipelines(dict):
    """`custom_pipelines` of a checkpoint: they name its task, and none of them is remote code here."""

    def __contains__(self, name) -> bool:
        return False


def _register_config() -> None:
    from transformers import AutoConfig

    from ..configuration_mm_orient import MMOrientConfig

    AutoConfig.register(MMOrientConfig.model_type, MMOrientConfig, exist_ok=True)
    place = "custom_pipelines"
    MMOrientConfig.custom_pipelines = property(
        lambda config: _InstalledPipelines(vars(config).get(place, {})),
        lambda config, value: vars(config).__setitem__(place, value),
    )


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification

    from ..configuration_mm_orient import MMOrientConfig
    from ..modeling_mm_orient import MMOrientForMultiTaskClassification, MMOrientModel

    AutoModel.register(MMOrientConfig, MMOrientModel, exist_ok=True)
    AutoModelForSequenceClassification.register(MMOrientConfig, MMOrientForMultiTaskClassification, exist_ok=True)


def _register_processor() -> None:
    from transformers import AutoProcessor

    from ..configuration_mm_orient import MMOrientConfig
    from ..processing_mm_orient import MMOrientProcessor

    AutoProcessor.register(MMOrientConfig, MMOrientProcessor, exist_ok=True)


def _register_pipeline() -> None:
    from transformers import AutoModelForSequenceClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from ..names import PIPELINE_TASK
    from ..pipeline_mm_orient import MultimodalClassificationPipeline

    if PIPELINE_TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            PIPELINE_TASK,
            pipeline_class=MultimodalClassificationPipeline,
            pt_model=AutoModelForSequenceClassification,
            type="multimodal",
        )


PARTS = {
    f"{AUTO}.configuration_auto": _register_config,
    f"{AUTO}.modeling_auto": _register_models,
    f"{AUTO}.processing_auto": _register_processor,
    "transformers.pipelines": _register_pipeline,
}
