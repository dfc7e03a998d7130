# %% [markdown]
# # Many posts: Parquet in, Parquet out, in bounded memory

# %%
import pandas
import pyarrow.parquet

from modeling_mm_orient.cli import main as mm_orient
from modeling_mm_orient.runs.demo import make_memes

folder = make_memes("batch_memes", count=240)
labels = ["sentiment", "offensive"]
train = ["train", "--data", str(folder), "--labels", *labels, "--split-column", "split", "--epochs", "3"]
assert mm_orient([*train, "--output", "batch_run", "--overwrite"]) == 0

# %% [markdown]
# Posts with their pictures' bytes in them, as data sets on the Hub have them.

# %%
frame = pandas.read_csv(folder / "labels.csv")
frame["image"] = [{"bytes": (folder / "images" / name).read_bytes(), "path": name} for name in frame["image"]]
posts = folder.parent / "batch_posts"
posts.mkdir(exist_ok=True)
frame[["id", "image", "text"]].to_parquet(posts / "posts.parquet")

# %% [markdown]
# `--streaming` reads and writes as it goes; `mm-orient ray predict` does the same over many machines.

# %%
predict = ["predict", "batch_run", "--data", str(posts), "--streaming", "--output", "batch_predictions.parquet"]
assert mm_orient(predict) == 0
table = pyarrow.parquet.read_table("batch_predictions.parquet")
print(table.num_rows, table.column_names)
assert table.num_rows == len(frame)
