# %% [markdown]
# # The relation memory: teach a new kind of post without training, and see what a verdict rests on

# %%
import datasets
import pandas
from PIL import Image

from modeling_mm_orient import MMOrientClassifier, MultimodalClassificationPipeline
from modeling_mm_orient.runs.demo import make_memes

folder = make_memes("memory_memes", count=240)
frame = pandas.read_csv(folder / "labels.csv")
classifier = MMOrientClassifier(
    "memory_run", preset="tiny", config={"relation_scope": "memory", "memory_top_k": 8}, epochs=4
)
classifier.fit(frame, labels=["offensive"], root=folder / "images", split_column="split", overwrite=True)
pipe = MultimodalClassificationPipeline(model=classifier.model, processor=classifier.processor)

# %% [markdown]
# A verdict names the reference posts it rests on, by picture and by text.

# %%
post = {"image": Image.new("RGB", (96, 96), "purple"), "text": "nobody likes you, look who is here"}
before = pipe(post, neighbours=2)
for neighbour in before["neighbours"]["text"]:
    print(f"{neighbour['similarity']:.2f} {neighbour['id']} {neighbour['labels']}")

# %% [markdown]
# Add reference posts, and ask again: no weight has changed.

# %%
rows = [{"id": f"purple-{i}", "image": Image.new("RGB", (96, 96), "purple"), "text": post["text"]} for i in range(3)]
rows = [row | {"offensive": "offensive"} for row in rows]
model, memory = classifier.model, classifier.model.relation_memory
memory.add(model.encode_reference_posts(rows, classifier.processor))
after = pipe(post, neighbours=2)
print(before["offensive"], "->", after["offensive"])
assert after["neighbours"]["text"][0]["id"].startswith("purple")

# %% [markdown]
# And forget them: the verdict is the old one.

# %%
memory.remove([row["id"] for row in rows])
again = pipe(post)
assert abs(again["offensive"]["offensive"] - before["offensive"]["offensive"]) < 1e-4

# %% [markdown]
# `datasets` go through the pipeline as they are.

# %%
posts = datasets.Dataset.from_dict({"text": ["you can do it", "nobody likes you"]})
print(pipe(posts, decisions=True))
