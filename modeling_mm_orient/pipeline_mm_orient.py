# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("multimodal-classification", model=..., trust_remote_code=True)`."""

from transformers import Pipeline

from .tasks import predictions_by_task

NEIGHBOUR_OUTPUTS = ("image_neighbours", "text_neighbours", "image_similarities", "text_similarities")


def neighbours_of(memory, outputs: dict, row: int, most: int) -> dict:
    """One post's evidence by modality, see `RelationMemory.evidence`; `outputs` has those of `NEIGHBOUR_OUTPUTS`."""
    image = outputs["image_neighbours"][row], outputs["image_similarities"][row]
    text = outputs["text_neighbours"][row], outputs["text_similarities"][row]
    return {"image": memory.evidence(*image, most), "text": memory.evidence(*text, most)}


class MultimodalClassificationPipeline(Pipeline):
    """Verdicts on posts: `pipe({"image": picture, "text": words})`, or a list, dataset or generator of such dicts.

    `pipe(images=..., text=...)` takes lists as the processor does. Either part of a post may be missing. A picture is
    anything `read_image` takes. Every post gives `{task: {label: probability}}`, for regression `{task: value}`.

    With `neighbours=n` the posts of the relation memory that a verdict rests on come too, under `"neighbours"`: for each of
    `"image"` and `"text"` up to n of `{"id", "similarity", "labels"}`, nearest first.
    """

    _load_processor = True  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.device.type == "cpu":
            self.model.for_cpu()

    def __call__(self, inputs=None, images=None, text=None, **kwargs):
        if inputs is None:
            if images is None and text is None:
                raise ValueError('give posts as {"image": ..., "text": ...}, or `images` and `text`')
            many = isinstance(images if images is not None else text, (list, tuple))
            images = images if many or images is None else [images]
            text = text if many or text is None else [text]
            count = len(images if images is not None else text)
            images, text = images or [None] * count, text or [None] * count
            inputs = [{"image": image, "text": words} for image, words in zip(images, text, strict=True)]
            inputs = inputs if many else inputs[0]
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, neighbours=None, **kwargs):
        if kwargs:
            raise TypeError(f"unknown arguments for this pipeline: {', '.join(kwargs)}")
        if neighbours is None:
            return {}, {}, {}
        if neighbours and self.model.config.relation_scope == "batch":
            raise ValueError(
                "`neighbours` needs a model with a relation memory; this one's `relation_scope` is 'batch'"
            )
        return {}, {"output_relations": neighbours > 0}, {"neighbours": neighbours}

    def preprocess(self, post):
        if not hasattr(post, "get"):
            post = {"image": post}
        image = post.get("image")
        return {
            "image": None if image is None else self.processor.read_picture(image),
            "text": post.get("text"),
        }

    def _forward(self, posts, output_relations=False):
        batch = isinstance(posts["image"], list)
        images, text = (posts["image"], posts["text"]) if batch else ([posts["image"]], [posts["text"]])
        inputs = self.processor(images=images, text=text, return_tensors="pt").to(self.device)
        outputs = self.model(**inputs, output_relations=output_relations)
        found = {name: outputs[name] for name in NEIGHBOUR_OUTPUTS if output_relations}
        return found | {f"logits.{name}": values for name, values in outputs.logits.items()}

    def postprocess(self, outputs, neighbours=0):
        logits = {task["name"]: outputs[f"logits.{task['name']}"][0] for task in self.model.config.tasks}
        verdict = predictions_by_task(self.model.config.tasks, logits)
        if neighbours:
            verdict["neighbours"] = neighbours_of(self.model.relation_memory, outputs, 0, neighbours)
        return verdict
