# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""`--config FILE`: options of a verb from TOML or YAML, by their names on the command line, which counts more."""

import argparse
import json
import tomllib
from difflib import get_close_matches
from pathlib import Path

SUFFIXES = (".toml", ".yaml", ".yml")


class Parser(argparse.ArgumentParser):
    """A parser whose verbs read `--config`; `others_of_file` are the Trainer's options in the file, name -> values.

    Options are said whole: of what is cut short nobody could tell whether the command line or the file says it.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options | {"allow_abbrev": False})

    def error(self, message: str):
        """One line: the usage of a verb fills a screen, and what is wrong would stand below it."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        if not _is_verb(self):
            return super().parse_known_args(args, namespace)
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config", nargs="?")
        file, others = finder.parse_known_args(args)[0].config, {}
        namespace = argparse.Namespace() if namespace is None else namespace
        if file:
            try:
                arguments, others = config_arguments(self, file, args)
            except ValueError as error:
                self.error(str(error))
            end = args.index("--") if "--" in args else len(args)
            args = [*args[:end], *arguments, *args[end:]]  # before RUN an option of several values would take it
        found, left = super().parse_known_args(args, namespace)
        found.others_of_file = others
        return found, left


def config_arguments(verb: argparse.ArgumentParser, file: str, args: list[str]) -> tuple[list[str], dict]:
    """What a file says as arguments of a verb, but for options that `args` say; and the Trainer's options in it.

    A boolean is said by true, an option of several values by a list (or one value), one of NAME=VALUE by a table too.

    Raises:
        ValueError: there is no such file, it is no table of options, or an entry is unknown or of another form.
    """
    known = {option: action for action in verb._actions for option in action.option_strings if option != "--config"}
    said = {known[name] for argument in args if (name := argument.partition("=")[0]) in known}
    apart = [group._group_actions for group in verb._mutually_exclusive_groups]
    said |= {action for group in apart if said & set(group) for action in group}
    arguments, others, seen = [], {}, {}
    for key, value in _read(file).items():
        option = f"--{str(key).replace('_', '-')}"
        if option in seen:
            raise ValueError(f"{file}: {seen[option]!r} and {key!r} are one option")
        seen[option], action = key, known.get(option)
        where = f"{file}: {key!r}"
        if action is None and verb.get_default("others_are_the_trainers"):
            others[option.removeprefix("--")] = _words(value, where)
        elif action is None or action.dest in ("help", "help_trainer"):
            nearest = get_close_matches(option, known, 1)
            hint = f"; did you mean {nearest[0].removeprefix('--')!r}?" if nearest else ""
            raise ValueError(f"{file} has an unknown option {key!r}{hint}")
        elif action not in said:
            arguments += _as_arguments(option, action, value, where)
        elif _is_of_names(action):  # field by field
            names = {word.partition("=")[0] for word in _words_of(action, args)}
            words = [w for w in _as_arguments(option, action, value, where)[1:] if w.partition("=")[0] not in names]
            arguments += [option, *words] if words else []
    return arguments, others


def _is_of_names(action: argparse.Action) -> bool:
    """Whether an option takes several of NAME=VALUE."""
    return action.nargs == "+" and "=" in str(action.metavar)


def _words_of(action: argparse.Action, args: list[str]) -> list[str]:
    """What follows an option on a command line, as often as it stands there."""
    found, inside = [], False
    for argument in args:
        name, is_equal, value = argument.partition("=")
        if argument.startswith("--"):
            inside = name in action.option_strings
            found += [value] if inside and is_equal else []
        elif inside:
            found.append(argument)
    return found


def _is_verb(parser: argparse.ArgumentParser) -> bool:
    return "--config" in parser._option_string_actions


def _read(file: str) -> dict:
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{file}: a file of options ends in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8")
        entries = tomllib.loads(text) if path.suffix.lower() == ".toml" else _of_yaml(text) or {}
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{file} must be a table of options by name")
    return entries


def _of_yaml(text: str):
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses what would be lost: of a key that stands twice one value."""

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} stands there twice")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _as_arguments(option: str, action: argparse.Action, value, where: str) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{where} must be true or false, got {value!r}")
        if isinstance(action, argparse.BooleanOptionalAction):
            return [option if value else f"--no-{option.removeprefix('--')}"]
        return [option] if value else []
    if isinstance(value, dict):
        if not _is_of_names(action):
            raise ValueError(f"{where} takes no table")
        return [
            option,
            *(f"{name}={part if isinstance(part, str) else json.dumps(part)}" for name, part in value.items()),
        ]
    words = _words(value, where)
    if isinstance(action, argparse._AppendAction):
        return [part for word in words for part in (option, word)]
    if action.nargs is None:
        if isinstance(value, list):
            raise ValueError(f"{where} takes one value, got a list")
        return [f"{option}={words[0]}"]
    return [option, *words]


def _words(value, where: str) -> list[str]:
    """A value, or those of a list, as they would stand on a command line."""
    values = value if isinstance(value, list) else [value]
    if None in values:
        raise ValueError(f"{where} has no value")
    if any(isinstance(part, list) for part in values):
        raise ValueError(f"{where} is a list of lists")
    return [json.dumps(part) if isinstance(part, (bool, dict)) else str(part) for part in values]
