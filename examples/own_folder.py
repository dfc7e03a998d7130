# %% [markdown]
# # A folder of your own
# Pictures and a table, as they lie on a disk: `python examples/own_folder.py FOLDER LABEL [LABEL ...]`. Without arguments
# a small folder is made first, with a picture that is broken.

# %%
import csv
import sys
from pathlib import Path

from modeling_mm_orient.cli import main as mm_orient
from modeling_mm_orient.runs.demo import make_memes

if len(sys.argv) > 2:
    folder, labels = Path(sys.argv[1]), sys.argv[2:]
else:
    folder, labels = make_memes("own_folder", count=240), ["offensive", "motivational"]
    (folder / "images" / "0007.png").write_bytes(b"no picture")

# %% [markdown]
# First an account of every row. What is wrong is said with file and row, all at once; nothing is dropped without being
# counted.

# %%
mm_orient(["inspect-data", "--data", str(folder), "--labels", *labels])

# %% [markdown]
# Train. `--skip-bad-posts` leaves out what cannot be read, and the report lists it. With `--text-encoder` and
# `--vision-encoder`, Hub ids or paths, pretrained encoders read the posts; without them tiny ones learn from scratch.

# %%
command = [
    "train",
    "--data",
    str(folder),
    "--labels",
    *labels,
    "--output",
    "own_run",
    "--overwrite",
    "--skip-bad-posts",
]
assert mm_orient([*command, "--epochs", "4"]) == 0

# %% [markdown]
# Predict posts, labelled or not, to a table, and read it.

# %%
predict = ["predict", "own_run", "--data", str(folder), "--skip-bad-posts", "--output", "own_predictions.csv"]
assert mm_orient(predict) == 0
with open("own_predictions.csv", encoding="utf-8") as file:
    for row in list(csv.DictReader(file))[:3]:
        print(row)
print("to look at: own_run/report.html")
