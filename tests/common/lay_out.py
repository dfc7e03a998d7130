"""Lay out transformers' own common tests beside ours, so that they run against this package's classes.

The PyPI source distribution of the installed version carries the common testers; what it lacks of the repository gets small
stand-ins here.

    python tests/common/lay_out.py FOLDER && pytest FOLDER/tests/models/mm_orient
"""

import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
STAND_INS = {
    "tests/__init__.py": "",
    "tests/models/__init__.py": "",
    "tests/models/mm_orient/__init__.py": "",
    "tests/exporters/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/__init__.py": "",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "tests/utils/__init__.py": "",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {'return_dict': False}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url, *args, **kwargs):\n    return url\n",
}


def lay_out(folder: Path) -> None:
    """Download the source distribution and lay out its tests, the stand-ins and our test files in `folder`."""
    name = f"transformers-{version('transformers')}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / f"{name}.tar.gz").exists():
        download = [
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--no-build-isolation",
            "--dest",
            str(folder),
        ]
        subprocess.run([sys.executable, "-m", "pip", *download, name.replace("-", "==")], check=True)
    shutil.rmtree(folder / "tests", ignore_errors=True)
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        members = [member for member in archive.getmembers() if member.name.startswith(f"{name}/tests/")]
        for member in members:
            member.name = member.name.removeprefix(f"{name}/")
        archive.extractall(folder, members=members, filter="data")
    for path, content in STAND_INS.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    for path in HERE.glob("*_mm_orient.py"):
        shutil.copy(path, folder / "tests/models/mm_orient" / path.name)


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
