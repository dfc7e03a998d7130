# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""A finished run onto the Hub, in one commit; and a Space that shows it."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceCard, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..configuration_mm_orient import MMOrientConfig
from ..data.json_files import write_json
from .card_facts import CardFacts
from .hub import MARKER, ONNX_FOLDER, export_run
from .onnx_export import DESCRIPTION
from .own_files import HEADER, is_code, is_exported
from .run_folder import CARD_FILE

logger = logging.getLogger(__name__)

SPACE_APP_FILE = "app.py"
SPACE_MODEL_FILE = "model.json"  # what a Space's app reads: the model, and the commit that it shows


@dataclass(frozen=True)
class Pushed:
    """What was sent, or with `dry_run` what would be.

    Attributes:
        files: path -> bytes. deleted: paths of the repository that the export replaces by nothing.
        revision: the commit, None of a dry run. url: of the repository. space_files, space_url: of the Space, if asked for.
    """

    files: dict[str, int]
    deleted: tuple[str, ...] = ()
    revision: str | None = None
    url: str | None = None
    space_files: dict[str, int] | None = None
    space_url: str | None = None


class OfAnotherKind(ValueError):
    """A repository that is there is not what would be pushed."""


def push(
    run: str,
    repo_id: str,
    facts: CardFacts | None = None,
    *,
    endpoint: bool = False,
    onnx: bool = False,
    private: bool = False,
    space: Path | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Send a finished run to the Hub, into a new or an existing repository, in one commit.

    The token is the one that `hf auth login` or `HF_TOKEN` gave. Everything that can be refused is refused before anything
    is sent. A push that fails leaves the repository as it was; one that it made is removed again, unless somebody else has
    committed to it. Where the Hub does not say whether a commit has arrived, the error does.

    Args:
        run: the run's folder. repo_id: `YOU/MODEL`. facts, endpoint, onnx: see `export_run`.
        private: make new repositories private; one that is there and public is refused.
        space: a folder that becomes a Space of the same id, with a `model.json` that names the model and its commit.
        dry_run: send nothing, and ask nothing.

    Raises:
        ValueError: it cannot be published, or would replace a model or a Space of another kind. OSError: the Hub refuses, or
            cannot be reached.
    """
    _check_id(repo_id)
    if space is not None and not (space / "README.md").is_file():
        raise ValueError(f"{space} is no folder of a Space: it has no README.md")
    if not dry_run:
        if constants.HF_HUB_OFFLINE:
            raise ValueError("HF_HUB_OFFLINE is set: nothing can be pushed")
        if not get_token():
            raise ValueError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_run(
            run, Path(scratch) / "model", repo_id, facts, endpoint=endpoint, onnx=onnx, online=not dry_run
        )
        shown = None if space is None else _space_folder(space, Path(scratch) / "space", repo_id)
        sizes, space_sizes = _sizes(folder), None if shown is None else _sizes(shown)
        if dry_run:
            return Pushed(sizes, space_files=space_sizes)
        api = HfApi()
        try:
            commit, deleted = _send(api, repo_id, folder, shown, private)
        except (HfHubHTTPError, OfAnotherKind):
            raise
        except HTTPError as error:  # the HTTP library's own, which is no OSError
            raise OSError(f"the Hub at {api.endpoint} does not answer: {error}") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # of reading an answer
            raise OSError(f"what {api.endpoint} answers is not what a Hub does: {error!r}") from error
        url, space_url = f"{api.endpoint}/{repo_id}", f"{api.endpoint}/spaces/{repo_id}"
        return Pushed(sizes, deleted, commit, url, space_sizes, None if shown is None else space_url)


def _send(api: HfApi, repo_id: str, folder: Path, shown: Path | None, private: bool) -> tuple[str, tuple[str, ...]]:
    """The model's commit, and the Space's. Returns the former's hash and what it deletes."""
    kinds = ["model"] if shown is None else ["space", "model"]
    made = {
        kind: nullcontext() if _is_there(api, repo_id, kind, private, folder) else _made(api, repo_id, kind, private)
        for kind in kinds
    }
    with made.get("space", nullcontext()):  # it may be refused, so before the model is sent
        with made["model"]:
            commit, deleted = _commit(api, repo_id, "model", folder)
        if shown is not None:
            write_json(shown / SPACE_MODEL_FILE, {"model": repo_id, "revision": commit})
            try:
                _commit(api, repo_id, "space", shown)
            except Exception as error:
                raise OSError(f"the model is pushed to {repo_id} as {commit}, its Space is not: {error}") from error
    return commit, deleted


def space_folder() -> Path:
    """The Space that comes with the package: inside it when installed from a wheel, in `examples/` of a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "space"
    return inside if inside.is_dir() else package.parent / "examples" / "space"


def _check_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(str(error)) from None
    if "/" not in repo_id:
        raise ValueError(f"say whose repository it is: YOU/MODEL, got {repo_id!r}")


def _space_folder(source: Path, folder: Path, repo_id: str) -> Path:
    """A copy of a Space's folder whose card names the model; its commit is not known yet."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    card = SpaceCard.load(folder / "README.md")
    if not card.data.get("sdk"):
        raise ValueError(f"{source / 'README.md'} names no `sdk` in its header: the Hub would not build that Space")
    card.data["models"] = [repo_id]
    card.save(folder / "README.md")
    write_json(folder / SPACE_MODEL_FILE, {"model": repo_id, "revision": "0" * 40})
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_there(api: HfApi, repo_id: str, kind: str, private: bool, model: Path) -> bool:
    """Whether there is such a repository. Raises OfAnotherKind where it is public and was to be private, or is
    somebody's other model or Space."""
    try:
        found = api.repo_info(repo_id, repo_type=kind)
    except RepositoryNotFoundError:
        return False
    if private and not found.private:
        raise OfAnotherKind(f"the {kind} {repo_id} is there and public: make it private there, or leave out --private")
    there = api.list_repo_files(repo_id, repo_type=kind, revision=found.sha)
    theirs = None
    if kind == "space":
        if SPACE_APP_FILE in there and SPACE_MODEL_FILE not in there:
            theirs = f"Space {repo_id} has an {SPACE_APP_FILE}"
    elif MARKER in there and not _is_ours(_content(api, repo_id, found.sha, MARKER)):
        theirs = f"model {repo_id} has a {MARKER}"
    elif not _holds_an_export(api, repo_id, found.sha, there):
        replaced = (name for name in there if name != CARD_FILE and (model / name).is_file())
        theirs = next((f"model {repo_id} has a {name}" for name in replaced), None)
    if theirs is not None:
        raise OfAnotherKind(f"the {theirs} of something else, which would be replaced: push elsewhere")
    return True


def _holds_an_export(api: HfApi, repo_id: str, revision: str, there: Iterable[str]) -> bool:
    """Whether a repository has what an export writes: its `config.json`, which was looked into, or its code."""
    if MARKER in there:
        return True
    return any(_content(api, repo_id, revision, name, len(HEADER)) == HEADER for name in sorted(there) if is_code(name))


def _is_ours(config: bytes) -> bool:
    try:
        found = json.loads(config)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("model_type") == MMOrientConfig.model_type


@contextmanager
def _made(api: HfApi, repo_id: str, kind: str, private: bool) -> Iterator[None]:
    """Make a repository, and remove it where the block fails and nothing was committed to it."""
    api.create_repo(repo_id, repo_type=kind, private=private, space_sdk="gradio" if kind == "space" else None)
    made = None
    try:
        made = api.repo_info(repo_id, repo_type=kind).sha
        yield
    except BaseException:
        try:
            if made is not None and api.repo_info(repo_id, repo_type=kind).sha != made:
                logger.warning("the %s %s was made, and has a commit by now: it is left there", kind, repo_id)
            else:
                api.delete_repo(repo_id, repo_type=kind)
        except Exception as error:
            logger.warning("the empty %s %s was made and could not be removed: %s", kind, repo_id, error)
        raise


def _commit(api: HfApi, repo_id: str, kind: str, folder: Path) -> tuple[str, tuple[str, ...]]:
    """One commit with all files of a folder, and without what earlier exports left. Returns its hash and what it deletes."""
    head = api.repo_info(repo_id, repo_type=kind).sha
    there = api.list_repo_files(repo_id, repo_type=kind, revision=head)
    paths = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    gone = tuple(_out_of_date(api, repo_id, head, set(there), set(paths))) if kind == "model" else ()
    operations = [CommitOperationAdd(name, path) for name, path in paths.items()]
    try:
        commit = api.create_commit(
            repo_id,
            [*operations, *(CommitOperationDelete(name) for name in gone)],
            commit_message=f"Push {'a trained MM-ORIENT model' if kind == 'model' else 'a Space for it'} (mm-orient push)",
            repo_type=kind,
            parent_commit=head,  # somebody else's push meanwhile is an error, and is not undone
        )
    except HTTPError as error:
        answer = getattr(error, "response", None)
        if answer is not None and answer.status_code < 500:  # a refusal, after which nothing has arrived
            raise
        if (now := _head(api, repo_id, kind)) == head:
            raise
        told = "and cannot be asked" if now is None else f"and its head is {now} by now"
        message = (
            f"the Hub does not say whether the commit to the {kind} {repo_id} has arrived, {told}: look there: {error}"
        )
        raise OSError(message) from error
    return commit.oid, gone


def _head(api: HfApi, repo_id: str, kind: str) -> str | None:
    """The commit that a repository is at, None where the Hub does not say."""
    try:
        return api.repo_info(repo_id, repo_type=kind).sha
    except Exception as error:
        logger.info("the head of %s is not known: %s", repo_id, error)
        return None


def _content(api: HfApi, repo_id: str, revision: str, name: str, size: int = -1) -> bytes:
    """A file of a model, or its first bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        path = api.hf_hub_download(repo_id, name, revision=revision, local_dir=scratch)
        with open(path, "rb") as file:
            return file.read(size)


def _out_of_date(api: HfApi, repo_id: str, revision: str, there: set[str], new: set[str]) -> Iterator[str]:
    """Of files that the new export has not, those that an earlier one wrote; whatever else somebody keeps there stays."""

    def start(name: str, size: int) -> bytes:
        return _content(api, repo_id, revision, name, size)

    if not _holds_an_export(api, repo_id, revision, there):
        return
    for name in sorted(there - new):
        if name.startswith(f"{ONNX_FOLDER}/") and f"{ONNX_FOLDER}/{DESCRIPTION}" not in there:
            continue  # others may call a folder so
        if is_exported(name, partial(start, name)):
            yield name
