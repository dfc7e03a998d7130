# %% [markdown]
# # What a verdict rests on
# Attention over picture and words, who said what, and the verdict without each part. Attention shows where the model
# looked; the verdicts without a part are the honest figures.

# %%
import pandas

from modeling_mm_orient import MMOrientClassifier
from modeling_mm_orient.runs.demo import make_memes

folder = make_memes("explain_memes", count=240)
frame = pandas.read_csv(folder / "labels.csv")
classifier = MMOrientClassifier("explain_run", epochs=4)
classifier.fit(frame, labels=["sarcasm", "humour"], root=folder / "images", split_column="split", overwrite=True)

# %%
row = frame[frame["split"] == "test"].iloc[0]
post = {"image": str(folder / "images" / row["image"]), "text": row["text"]}
explanation = classifier.explain(post)
explanation  # noqa: B018 - a notebook shows the page

# %%
explanation.save_html("explanation.html")
explanation.save_png("explanation.png")
for part, verdict in explanation.found["without"].items():
    print(f"without {part}:", "nothing would be left" if verdict is None else verdict["sarcasm"])

# %% [markdown]
# The picture's regions are boxes in its own pixels.

# %%
strongest = max(explanation.found["regions"], key=lambda region: region["attention"])
print("most attention:", strongest)
