# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""MET-Meme's English labels as eight questions of yes or no, of a part of its texts: `labels.csv` for `mm-orient benchmark`.

    python benchmarks/yes_no_tasks.py --data MET_MEME --output FOLDER [--posts 1600]

MET_MEME holds `E_text.csv` and `label_E.csv`.
"""

import argparse
from pathlib import Path

import pandas

from modeling_mm_orient.partial_files import whole_file

READ = {"encoding": "utf-8", "encoding_errors": "replace", "dtype": str}
# question -> column of the labels, and the numbers in it that are a yes
QUESTIONS = {
    "happiness": ("sentiment category", "1"),
    "love": ("sentiment category", "2"),
    "sorrow": ("sentiment category", "4"),
    "hate": ("sentiment category", "6"),
    "entertaining": ("intention detection", "3"),
    "abusive": ("intention detection", "4"),
    "offensive": ("offensiveness detection", "123"),
    "metaphor": ("metaphor occurrence", "1"),
}
DRAW = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the published tables")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--posts", type=int, default=1600, help="drawn at random (default: %(default)s)")
    options = parser.parse_args()
    texts, labels = (pandas.read_csv(options.data / name, **READ) for name in ("E_text.csv", "label_E.csv"))
    posts = texts.merge(labels, on="file_name").drop_duplicates("file_name")
    posts = posts[posts["text"].str.strip().fillna("") != ""]
    table = pandas.DataFrame({"id": [f"p{number}" for number in range(len(posts))], "text": posts["text"].to_numpy()})
    for question, (column, numbers) in QUESTIONS.items():
        says_yes = posts[column].str[0].isin([*numbers]).to_numpy()
        table[question] = ["yes" if yes else "no" for yes in says_yes]
    options.output.mkdir(parents=True)
    with whole_file(options.output / "labels.csv") as partial:
        table.sample(options.posts, random_state=DRAW).to_csv(partial, index=False)


if __name__ == "__main__":
    main()
