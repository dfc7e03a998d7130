# %% [markdown]
# # To the Hub, and back by its commit
# `python examples/push_to_the_hub.py YOU/MODEL`, logged in by `hf auth login` or with `HF_TOKEN`. `HF_ENDPOINT` names
# another Hub than huggingface.co: a company's own, or one on this machine.

# %%
import sys

import pandas
from transformers import pipeline

import modeling_mm_orient  # noqa: F401 - the installed classes are known to transformers from here on
from modeling_mm_orient import MMOrientClassifier
from modeling_mm_orient.runs.demo import make_memes

name = sys.argv[1]
folder = make_memes("push_memes", count=240)
frame = pandas.read_csv(folder / "labels.csv")
classifier = MMOrientClassifier("push_run", epochs=3)
classifier.fit(frame, labels=["humour"], root=folder / "images", split_column="split", overwrite=True)

# %% [markdown]
# Model, processor, code, memory, results and model card go in one commit, or not at all.
# `mm-orient push push_run YOU/MODEL --license apache-2.0 --language en` is the same with more to say.

# %%
pushed = classifier.push(name, private=True)
print(pushed.url, pushed.revision)

# %% [markdown]
# The commit names exactly this model. Where this package is not installed add `trust_remote_code=True`: the code is in the
# commit too.

# %%
pipe = pipeline("multimodal-classification", model=name, revision=pushed.revision)
print(pipe({"image": str(folder / "images" / "0000.png"), "text": frame["text"][0]}, top_k=1))
