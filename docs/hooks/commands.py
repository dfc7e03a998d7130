# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MkDocs hook: a page per command, from the command line's own parser, so that none can be out of date."""

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File

from modeling_mm_orient.cli import parser as command_line

FOLDER, SECTION = "commands", "Commands"
WIDTH = 96  # of the usage lines
INTRODUCTION = """# Commands

Every command takes `--help`. Errors of the user's are one message and exit status 1 (wrong arguments: 2);
`--traceback` shows where they arose.
"""


def on_files(files, config):
    """Add the pages, and name them in the navigation."""
    pages = dict(command_pages(command_line()))
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for entry in config.nav:
        if SECTION in entry:
            entry[SECTION] = list(pages)
    return files


def command_pages(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Paths and Markdown of the index and of a page per command that does something, in the parser's order."""
    found = list(leaves(parser))
    rows = [f"| [`{verb.prog}`]({page_name(verb)}) | {cell(help)} |" for verb, help in found]
    top = arguments_table(parser)
    yield (
        f"{FOLDER}/index.md",
        "\n".join([INTRODUCTION, "| command | what it does |", "|---|---|", *rows, "", top]),
    )
    for verb, _ in found:
        text = [f"# {verb.prog}", sentence(verb.description), "```text", usage(verb), "```", arguments_table(verb)]
        yield f"{FOLDER}/{page_name(verb)}", "\n\n".join(text[:2]) + "\n\n" + "\n".join(text[2:5]) + "\n\n" + text[5]


def leaves(parser: argparse.ArgumentParser, help: str = "") -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """The parsers below `parser` that have no commands of their own, and their lines of help."""
    # argparse has no public way to walk a parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, verb in action.choices.items():
                yield from leaves(verb, lines.get(name, ""))
            return
    yield parser, help


def page_name(verb: argparse.ArgumentParser) -> str:
    """`mm-orient memory build` -> `memory_build.md`."""
    return "_".join(verb.prog.split()[1:]) + ".md"


def usage(verb: argparse.ArgumentParser) -> str:
    """The usage lines, as wide on every machine and without colours."""
    formatter = argparse.HelpFormatter(verb.prog, width=WIDTH)
    formatter.add_usage(verb.usage, verb._actions, verb._mutually_exclusive_groups, prefix="")
    return re.sub(r"\x1b\[[0-9;]*m", "", formatter.format_help()).strip()


def arguments_table(parser: argparse.ArgumentParser) -> str:
    """A row per argument, those that must be given first."""
    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS and a.dest != "help"]
    shown = [a for a in shown if not isinstance(a, argparse._SubParsersAction)]
    if not shown:
        return ""
    rows = [
        f"| {argument(action)} | {'yes' if action.required else ''} | {cell(help_text(action, parser))} |"
        for action in sorted(shown, key=lambda action: not action.required)
    ]
    return "\n".join(["| argument | required | |", "|---|---|---|", *rows, ""])


def argument(action: argparse.Action) -> str:
    """`--labels COLUMN [COLUMN ...]`."""
    name = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else None)
    if not action.option_strings:
        return f"`{name or action.dest}`"
    name = name or action.dest.upper()
    if action.nargs in (0, None) or isinstance(action.nargs, str):
        value = {0: "", None: name, "+": f"{name} [{name} ...]", "*": f"[{name} ...]", "?": f"[{name}]"}[action.nargs]
    else:
        value = " ".join([name] * action.nargs if isinstance(name, str) else name)
    return f"`{', '.join(action.option_strings)}{' ' if value else ''}{cell(value)}`"


def help_text(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """The help with its defaults filled in; folders of the machine that builds the site are left out."""
    known = {name: value for name, value in vars(action).items() if value is not argparse.SUPPRESS}
    text = (action.help or "") % (known | {"prog": parser.prog})
    folders = {os.environ.get("HF_HOME"): "$HF_HOME", str(Path.home()): "~"}
    for folder, short in folders.items():
        text = text.replace(folder, short) if folder else text
    if action.choices and action.metavar and not any(str(choice) in text for choice in action.choices):
        text += f" (one of {', '.join(map(str, action.choices))})"
    return text


def sentence(text: str | None) -> str:
    """With a capital and a full stop."""
    text = (text or "").strip()
    return text[:1].upper() + text[1:] + ("" if not text or text.endswith((".", "?", "!")) else ".")


def cell(text: str) -> str:
    """For a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
