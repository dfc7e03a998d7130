# Copyright 2026 The MM-ORIENT authors. Licensed under the Apache License, Version 2.0.
"""The published network in Keras and Spektral, for `training`: runs in an environment of its own.

    TF_USE_LEGACY_KERAS=1 python keras_peer.py ARRAYS.npz STEPS THREADS POLICY    # {"losses": [...], "seconds": [...]}

ARRAYS.npz holds initial weights in the reference code's layout, features and labels of batches, threshold, learning rate.
"""

import json
import sys
import time

import numpy as np
import tensorflow as tf
from spektral.layers import GraphSageConv

STREAMS = {
    "image_over_image": ("image", "image"), "text_over_text": ("text", "text"),
    "image_over_text": ("image", "text"), "text_over_image": ("text", "image"),
}  # fmt: skip


class Network(tf.keras.Model):
    def __init__(self, arrays: dict[str, np.ndarray]):
        super().__init__()
        dense, self.tasks = (
            tf.keras.layers.Dense,
            [n.split(".")[1] for n in arrays if n.startswith("head.") and "weight" in n],
        )
        self.word, self.region = dense(1), dense(1)
        self.graph = {name: GraphSageConv(arrays[f"{name}.weight"].shape[1], aggregate="mean") for name in STREAMS}
        self.learner = [dense(arrays[f"classifier.{i}.weight"].shape[1], activation="relu") for i in (0, 1)]
        self.head = {task: dense(arrays[f"head.{task}.weight"].shape[1]) for task in self.tasks}

    def layer_names(self) -> dict:
        named = {"word_attention": self.word, "region_attention": self.region, **self.graph}
        named |= {f"classifier.{number}": layer for number, layer in enumerate(self.learner)}
        return named | {f"head.{task}": layer for task, layer in self.head.items()}

    def call(self, inputs, threshold):
        embeds = {"image": inputs["image_embeds"], "text": inputs["text_embeds"]}
        graphs = {modality: relation_graph(values, threshold) for modality, values in embeds.items()}
        streams = [self.graph[name]([embeds[features], graphs[graph]]) for name, (features, graph) in STREAMS.items()]
        vectors = [
            attend(self.region, inputs["region_features"]), attend(self.word, inputs["token_features"])
        ]  # fmt: skip
        hidden = tf.concat([*streams, *vectors, inputs["task_features"]], -1)
        for layer in self.learner:
            hidden = layer(hidden)
        return {task: layer(hidden) for task, layer in self.head.items()}


def attend(layer, sequence):
    weights = tf.nn.softmax(tf.nn.gelu(layer(sequence), approximate=False), axis=1)
    return tf.reduce_sum(weights * sequence, 1)


def relation_graph(embeds, threshold):
    unit = tf.math.l2_normalize(embeds, -1)
    edges = tf.cast(tf.matmul(unit, unit, transpose_b=True) > threshold, tf.float32)
    return tf.sparse.from_dense(tf.linalg.set_diag(edges, tf.ones(tf.shape(embeds)[0])))


def main() -> None:
    path, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    tf.keras.mixed_precision.set_global_policy(sys.argv[4])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with np.load(path) as file:
        arrays = dict(file)
    threshold = float(arrays["threshold"])
    names = ("image_embeds", "text_embeds", "region_features", "token_features", "task_features")
    count = sum(name.startswith("image_embeds.") for name in arrays)
    batches = [{name: tf.constant(arrays[f"{name}.{number}"]) for name in names} for number in range(count)]
    network = Network(arrays)
    labels = [{t: tf.constant(arrays[f"label.{t}.{number}"]) for t in network.tasks} for number in range(count)]
    network(batches[0], threshold)
    for name, layer in network.layer_names().items():
        layer.set_weights([arrays[f"{name}.weight"], arrays[f"{name}.bias"]])
    optimizer = tf.keras.optimizers.AdamW(float(arrays["learning_rate"]), weight_decay=0.01, epsilon=1e-8)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(inputs, targets):
        with tf.GradientTape() as tape:
            logits = network(inputs, threshold)
            losses = [
                tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets[task], logits[task]))
                for task in network.tasks
            ]
            loss = tf.add_n(losses)
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables))  # noqa: B905
        return loss

    losses, seconds = [], []
    for number in range(steps):
        start = time.perf_counter()
        losses.append(float(step(batches[number % count], labels[number % count])))
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"losses": losses, "seconds": seconds}))


if __name__ == "__main__":
    main()
