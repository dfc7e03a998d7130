# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MkDocs hook: a page of the modules of the ground floor and one of those at home, from the files that are there."""

import ast
from pathlib import Path

from mkdocs.structure.files import File

PACKAGE = "modeling_mm_orient"
HOME = ("data", "features", "runs", "runs/benchmark", "cli")
GROUND_FLOOR = """# Ground floor

The files directly in `modeling_mm_orient/` travel with every checkpoint and import nothing of the sub-folders. The
[public names](index.md) are on a page of their own.
"""
AT_HOME = """# Home

What reads data, extracts features, trains and serves the command line. It stays with the package: no checkpoint needs it.
A folder imports those named before it, and the [ground floor](ground_floor.md).
"""


def on_files(files, config):
    """Add both pages."""
    package = Path(config.config_file_path).parent / PACKAGE
    hidden = "^(" + "|".join(public_names(package / "__init__.py")) + ")$"
    text = GROUND_FLOOR + "".join(section(path, f"{PACKAGE}.{path.stem}", 2, hidden) for path in modules(package))
    files.append(File.generated(config, "api/ground_floor.md", content=text))
    text = AT_HOME
    for folder in HOME:
        if (package / folder).is_dir():
            text += f"\n## {folder}\n"
            name = f"{PACKAGE}.{folder.replace('/', '.')}"
            inside = [(path, f"{name}.{path.stem}") for path in modules(package / folder)]
            own = package / folder / "__init__.py"
            if own.read_text(encoding="utf-8").strip():
                inside.insert(0, (own, name))
            text += "".join(section(path, module, 3, hidden) for path, module in inside)
    files.append(File.generated(config, "api/home.md", content=text))
    return files


def modules(folder: Path) -> list[Path]:
    """The modules of one folder by name."""
    return sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))


def public_names(init: Path) -> list[str]:
    """`__all__` of the package, without importing it."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return ast.literal_eval(node.value)
    raise ValueError(f"{init} has no `__all__`")


def section(path: Path, name: str, level: int, hidden: str) -> str:
    """Heading and directive of a module; what the page of public names shows is left out."""
    return f"""
::: {name}
    options:
      heading_level: {level}
      show_root_full_path: true
      members_order: source
      filters: ["!^_", "!{hidden}"]
"""
