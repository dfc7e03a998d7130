# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`pipeline("multimodal-classification", model=..., trust_remote_code=True)`."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Pipeline
from transformers.utils import logging

from .explanation import WITHOUT_ENCODERS, explain
from .names import PIPELINE_TASK
from .numeric_columns import standardised
from .pictures import IMAGE_SOURCES, MAX_IMAGE_PIXELS, read_image, reduced, undecoded
from .tasks import check_abstention, kind_of, predictions_by_task, tasks_left_to_a_person

# what config.json says of the code beside it; the configuration is named as the modelling file re-exports it, so that a
# second local directory reloads both together
CUSTOM_PIPELINES = {
    PIPELINE_TASK: {
        "impl": "pipeline_mm_orient.MultimodalClassificationPipeline",
        "pt": ["AutoModelForSequenceClassification"],
        "type": "multimodal",
    }
}
AUTO_MAP = {
    "AutoConfig": "modeling_mm_orient.MMOrientConfig",
    "AutoModel": "modeling_mm_orient.MMOrientModel",
    "AutoModelForSequenceClassification": "modeling_mm_orient.MMOrientForMultiTaskClassification",
}
UPLOAD_OPTIONS = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "tags",
)
POST_KEYS = ("image", "text", "numbers", "id")
UNSET: Any = object()  # `top_k=None` asks for all labels as a list
logger = logging.get_logger(__name__)

NEIGHBOUR_OUTPUTS = ("image_neighbours", "text_neighbours", "image_similarities", "text_similarities")


def neighbours_of(memory, outputs: dict, row: int, most: int) -> dict:
    """One post's evidence by modality, see `RelationMemory.evidence`; `outputs` has those of `NEIGHBOUR_OUTPUTS`."""
    image = outputs["image_neighbours"][row], outputs["image_similarities"][row]
    text = outputs["text_neighbours"][row], outputs["text_similarities"][row]
    return {"image": memory.evidence(*image, most), "text": memory.evidence(*text, most)}


class MultimodalClassificationPipeline(Pipeline):
    """Verdicts on posts: `pipe({"image": picture, "text": words})`, or a list, dataset or generator of such dicts.

    `pipe(images=..., text=...)` takes lists as the processor does. Either part of a post may be missing. A picture is
    anything `read_image` takes, of a post with several a list of them; `numbers` are of the model's numeric columns, by
    name.
    Every post gives `{task: {label: probability}}`, for regression `{task: value}`.

    Args:
        tasks: names of the tasks to answer for (default: all).
        top_k: gives `[{"label", "score"}]` per task, the most probable first, as transformers' classifiers do: so many
            labels, or all for None.
        answers: True gives each task's verdict as transformers' `decision` pipeline answers a question: a `choice`, of
            several labels a `noul` for each, of a regression a `score`.
        explain: True gives what the verdict rests on too, under `"explanation"`, see `explanation.explain`: attention over
            picture and words, experts, neighbours, and the verdicts without picture, text or neighbours.
        neighbours: n gives the posts of the relation memory that a verdict rests on too, under `"neighbours"`: for each of
            `"image"` and `"text"` up to n of `{"id", "similarity", "labels"}`, nearest first.
        decisions: True gives what they come to as well, by each task's rule, under `"decisions"`: task -> label, a list of
            labels, or a value.
        abstain: a share of each task's verdicts, those doubted most, is left to a person: their decision is None.
        image_sources: how pictures may be given, see `read_image` (default: in any way). A server that passes on what
            strangers send takes `("pil", "bytes", "array")`, here or when the pipeline is made: no file is opened and
            nothing fetched because a post says so.
        on_error: `"raise"` (default), or `"skip"`: a post that cannot be read gives `{"error": message}` in its place.

    On a machine without an accelerator the model's `for_cpu` is called.
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
            inputs = _posts(images, text)
        elif images is not None or text is not None:
            raise ValueError("posts are given as `inputs`, or by `images` and `text`: give one of them")
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if hasattr(inputs, "column_names") and hasattr(inputs, "select_columns"):  # a `datasets.Dataset`
            columns = [name for name in POST_KEYS if name in inputs.column_names]
            if not {"image", "text"} & set(columns):
                raise ValueError(f"the data set has neither `image` nor `text`; its columns are {inputs.column_names}")
            inputs = (row for row in undecoded(inputs.select_columns(columns)))
            return list(super().__call__(inputs, **kwargs))
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        tasks=None,
        top_k=UNSET,
        answers=None,
        explain=None,
        neighbours=None,
        image_sources=None,
        on_error=None,
        decisions=None,
        abstain=None,
        **kwargs,
    ):
        if kwargs:
            raise TypeError(f"unknown arguments for this pipeline: {', '.join(kwargs)}")
        reading: dict[str, Any] = {}
        forward: dict[str, Any] = {}
        verdict: dict[str, Any] = {}
        if tasks is not None:
            verdict["tasks"] = self._task_names(tasks)
        if top_k is not UNSET:
            if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
                raise ValueError(f"`top_k` must be a whole number of at least 1, or None for all, got {top_k!r}")
            verdict["top_k"] = top_k
        if answers is not None:
            verdict["answers"] = _yes_or_no("answers", answers)
        together = getattr(self, "_postprocess_params", {}) | verdict
        if together.get("answers") and "top_k" in together:
            raise ValueError("`top_k` and `answers` are two forms of a verdict: give one of them")
        if explain is not None:
            forward["explained"] = _yes_or_no("explain", explain)
        if image_sources is not None:
            if isinstance(image_sources, str) or set(image_sources) - set(IMAGE_SOURCES):
                raise ValueError(f"`image_sources` must be some of {IMAGE_SOURCES}, got {image_sources!r}")
            reading["image_sources"] = tuple(image_sources)
        if on_error is not None:
            if on_error not in ("raise", "skip"):
                raise ValueError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}")
            reading["skip"] = forward["skip"] = on_error == "skip"
        if decisions is not None:
            verdict["decisions"] = _yes_or_no("decisions", decisions)
        if abstain is not None:
            asked = verdict.get("tasks") or getattr(self, "_postprocess_params", {}).get("tasks")
            check_abstention([task for task in self.model.config.tasks if not asked or task["name"] in asked], abstain)
            verdict |= {"decisions": True, "abstain": abstain}
        if neighbours is not None:
            if not isinstance(neighbours, int) or neighbours < 0:
                raise ValueError(f"`neighbours` must be a whole number of at least 0, got {neighbours!r}")
            if neighbours and self.model.config.relation_scope == "batch":
                raise ValueError(
                    "`neighbours` needs a model with a relation memory; this one's `relation_scope` is 'batch'"
                )
            forward["output_relations"], verdict["neighbours"] = neighbours > 0, neighbours
        return reading, forward, verdict

    def _task_names(self, tasks) -> list[str]:
        names = [task["name"] for task in self.model.config.tasks]
        chosen = [tasks] if isinstance(tasks, str) else list(tasks)
        if not chosen or set(chosen) - set(names):
            raise ValueError(f"`tasks` must be some of {names}, got {tasks!r}")
        return chosen

    def preprocess(self, post, image_sources=IMAGE_SOURCES, skip=False):
        try:
            return {"error": None, **self._read(post, image_sources)}
        except ValueError as error:
            if not skip:
                raise
            return {"error": str(error), "image": None, "text": None, "numbers": None, "size": None}

    def _read(self, post, image_sources) -> dict:
        if not hasattr(post, "get"):
            post = {"image": post}
        elif {"bytes", "path"} & set(post) and not set(post) & {"image", "text"}:
            post = {"image": post}  # a picture as `datasets` has it
        if unknown := [name for name in post if name not in POST_KEYS]:
            raise ValueError(f"a post has {', '.join(f'`{name}`' for name in POST_KEYS)}, not {unknown[0]!r}")
        if not self.model.config.encoder_names:
            raise ValueError(WITHOUT_ENCODERS)
        image, text = post.get("image"), post.get("text")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"the text of a post must be a string or None, got {type(text).__name__}")
        if (numbers := post.get("numbers")) is not None:
            columns = getattr(self.processor, "numeric_columns", [])
            if not columns:
                raise ValueError("this model has no numeric columns, and the post has `numbers`")
            standardised([numbers], columns)  # what is wrong with them is this post's error
        most = getattr(self.processor, "max_image_pixels", MAX_IMAGE_PIXELS)
        several = isinstance(image, (list, tuple))
        pictures = [
            read_image(each, most, image_sources) for each in (image if several else [image]) if each is not None
        ]
        if not pictures and not (text and text.strip()):
            raise ValueError("the post has neither an image nor a text")
        return {
            "image": [reduced(picture) for picture in pictures] or None,
            "size": [picture.size for picture in pictures],
            "text": text,
            "numbers": numbers,
        }

    def _forward(self, posts, output_relations=False, skip=False, explained=False):
        if not isinstance(posts["error"], list):  # one alone
            posts = {name: [value] for name, value in posts.items()}
        errors = list(posts["error"])
        sound = [row for row, error in enumerate(errors) if error is None]
        tensors, explanations = {}, []
        try:
            tensors = self._outputs(posts, sound, output_relations)
            explanations = self._explanations(posts, sound) if explained else []
        except (ValueError, RuntimeError) as error:
            if not skip:
                raise
            if len(sound) == 1:
                errors[sound[0]], sound = str(error), []
            else:  # whose fault it is shows alone
                alone = [
                    self._forward({n: [v[row]] for n, v in posts.items()}, output_relations, skip, explained)
                    for row in sound
                ]
                explanations = [found.pop("explanation", [None])[0] for found in alone]
                for row, found in zip(sound, alone, strict=True):
                    errors[row] = found.pop("error")[0]
                explanations = [one for row, one in zip(sound, explanations, strict=True) if errors[row] is None]
                sound, alone = [row for row in sound if errors[row] is None], [found for found in alone if found]
                tensors = {name: _together(name, [found[name] for found in alone]) for name in (alone or [{}])[0]}
        lists: dict[str, list] = {"error": errors}
        if explained:
            lists["explanation"] = [dict(zip(sound, explanations, strict=True)).get(row) for row in range(len(errors))]
        return lists | {name: _in_places(values, sound, len(errors)) for name, values in tensors.items()}

    def _outputs(self, posts, rows: list[int], output_relations: bool) -> dict[str, Tensor]:
        """What a verdict is made of, for these rows of `posts`."""
        if not rows:
            return {}
        inputs = self._inputs(posts, rows)
        found = self.model(**inputs, output_relations=output_relations, return_dict=True)
        if found.strange_pictures is not None and (count := int(found.strange_pictures.sum())):
            logger.warning(
                "%d picture(s) of %d posts left out of account: unlike every reference post's; `explain=True` says which",
                *(count, len(rows)),
            )
        tensors = {name: found[name] for name in NEIGHBOUR_OUTPUTS if output_relations}
        return tensors | {f"logits.{name}": values for name, values in found.logits.items()}

    def _inputs(self, posts, rows: list[int]):
        images, text, numbers = ([posts[name][row] for row in rows] for name in ("image", "text", "numbers"))
        images = [image[0] if image is not None and len(image) == 1 else image for image in images]
        more = {} if all(each is None for each in numbers) else {"numbers": numbers}
        return self.processor(images=images, text=text, **more, return_tensors="pt").to(self.device)

    def _explanations(self, posts, rows: list[int]) -> list[dict]:
        """What the verdicts of these rows of `posts` rest on."""
        return [
            explain(
                self.model,
                self.processor,
                posts["image"][row],
                posts["text"][row],
                sizes=posts["size"][row],
                numbers=posts["numbers"][row],
            )
            for row in rows
        ]

    def postprocess(self, outputs, tasks=None, top_k=UNSET, answers=False, neighbours=0, decisions=False, abstain=0.0):
        error = _alone(outputs["error"])
        if error is not None:
            return {"error": error}
        asked = [task for task in self.model.config.tasks if tasks is None or task["name"] in tasks]
        logits = {task["name"]: outputs[f"logits.{task['name']}"][0] for task in asked}
        found = predictions_by_task(asked, logits)
        verdict = dict(found)
        for task in asked:
            if top_k is not UNSET:
                verdict[task["name"]] = kind_of(task).listed(task, found[task["name"]], top_k)
            elif answers:
                verdict[task["name"]] = kind_of(task).answer(task, found[task["name"]])
        if decisions:
            left = tasks_left_to_a_person(asked, logits, abstain)
            decided = {task["name"]: kind_of(task).decision(task, found[task["name"]]) for task in asked}
            verdict["decisions"] = {name: None if name in left else value for name, value in decided.items()}
        if neighbours:
            verdict["neighbours"] = neighbours_of(self.model.relation_memory, outputs, 0, neighbours)
        if "explanation" in outputs:
            verdict["explanation"] = _alone(outputs["explanation"])
        return verdict

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Model, processor and code, as in transformers; there the processor is left behind."""
        upload = {name: kwargs.pop(name) for name in UPLOAD_OPTIONS if name in kwargs} if push_to_hub else {}
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if push_to_hub:
            upload.setdefault("repo_id", os.path.basename(os.path.normpath(save_directory)))
            self.push_to_hub(**upload)


def _alone(value):
    """The entry of the one post that `value` is of."""
    return value[0] if isinstance(value, list) else value


def _yes_or_no(name: str, value) -> bool:
    if isinstance(value, str) or value not in (True, False):  # of a request "false" is a text, and every text is true
        raise ValueError(f"`{name}` must be True or False, got {value!r}")
    return bool(value)


def _posts(images, text):
    """`images` and `text` as one post, or as a list of posts."""
    if images is None and text is None:
        raise ValueError('give posts as {"image": ..., "text": ...}, or `images` and `text`')
    many = isinstance(images if images is not None else text, (list, tuple))
    images = images if many or images is None else [images]
    text = text if many or text is None else [text]
    count = len(images if images is not None else text)
    images, text = images or [None] * count, text or [None] * count
    if len(images) != len(text):
        raise ValueError(f"`images` and `text` must have one entry per post, got {len(images)} and {len(text)}")
    posts = [{"image": image, "text": words} for image, words in zip(images, text, strict=True)]
    return posts if many else posts[0]


def _together(name: str, parts: list[Tensor]) -> Tensor:
    """What is said of posts one by one; of neighbours each may have another number."""
    if name not in NEIGHBOUR_OUTPUTS:
        return torch.cat(parts)
    nobody = -1 if name.endswith("neighbours") else 0
    return nn.utils.rnn.pad_sequence([row for part in parts for row in part], batch_first=True, padding_value=nobody)


def _in_places(values: Tensor, rows: list[int], count: int) -> Tensor:
    """Rows of `values` at their places among `count`; zeros between."""
    if len(rows) == count:
        return values
    laid = values.new_zeros(count, *values.shape[1:])
    laid[rows] = values
    return laid
