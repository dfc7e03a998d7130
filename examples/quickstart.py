# %% [markdown]
# # Quickstart: from a data frame to a verdict
# Memes drawn by the program itself, tiny encoders trained from scratch, no download. Any editor that knows `# %%` runs this
# cell by cell; so does `python examples/quickstart.py`. It writes to the working directory.

# %%
import pandas

from modeling_mm_orient import MMOrientClassifier
from modeling_mm_orient.runs.demo import make_memes

folder = make_memes("quickstart_memes", count=300)
frame = pandas.read_csv(folder / "labels.csv")
frame.head()

# %% [markdown]
# Every label column is a task. The posts' splits are in a column; without one they are drawn, by content.
# For real posts name pretrained encoders: `MMOrientClassifier(text_encoder="TEXT", vision_encoder="VISION")`.

# %%
classifier = MMOrientClassifier("quickstart_run", epochs=6)
classifier.fit(
    frame,
    labels=["sentiment", "humour", "sarcasm"],
    text="text",
    image="image",
    root=folder / "images",
    split_column="split",
    overwrite=True,
)

# %% [markdown]
# What was learned, on posts that were not learned from. `quickstart_run/report.html` has all of it to look at.

# %%
for task, found in classifier.metrics["test"].items():
    if task != "mean_macro_f1":
        print(f"{task}: macro-F1 {found['macro_f1']:.3f}, majority class {found['majority_macro_f1']:.3f}")

# %% [markdown]
# Decisions, and probabilities.

# %%
new = frame[frame["split"] == "test"].head(5)
print(classifier.predict(new, root=folder / "images"))
print(classifier.predict_proba(new, root=folder / "images").round(2))

# %% [markdown]
# The run's folder is a checkpoint: keep it, load it again.

# %%
again = MMOrientClassifier.load("quickstart_run")
assert again.predict(new, root=folder / "images").equals(classifier.predict(new, root=folder / "images"))
