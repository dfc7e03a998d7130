"""Two processes with half of the batch each compute what one computes with all of it."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.nn.parallel import DistributedDataParallel

from ..helpers import feature_batch, free_port, label_batch, leave, reference_posts, tiny_model

FORMS = {
    "paper": {},
    "two layers": {"relation_layers": 2},
    "similarity weights": {"edge_weights": "similarity"},
    "a memory too": {"relation_scope": "batch+memory", "neighbour_labels": True, "relation_gate": True},
    "learned task weights": {"task_loss_weighting": "uncertainty", "stage2_combine": "concat"},
}


CASES = [("paper", 5), *((form, 7) for form in FORMS)]


def half(rank: int, first: int) -> slice:
    return slice(0, first) if rank == 0 else slice(first, 10)


def make_model(fields: dict):
    model = tiny_model(**fields)
    if model.config.relation_scope != "batch":
        model.build_relation_memory(reference_posts(30))
    return model


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for form, first in CASES:
        torch.save(results_of(rank, first, FORMS[form]), f"{folder}/{form}.{first}.{rank}.pt")
    leave()


def results_of(rank: int, first: int, fields: dict) -> dict:
    model = DistributedDataParallel(make_model(fields), find_unused_parameters=True)
    rows = half(rank, first)
    inputs = {name: value[rows] for name, value in feature_batch(10).items()}
    outputs = model(
        **inputs, labels={name: value[rows] for name, value in label_batch(10).items()}, output_relations=True
    )
    outputs.loss.backward()
    module = model.module
    result = {
        "loss": outputs.loss.detach(),
        "logits": {name: value.detach() for name, value in outputs.logits.items()},
        "graph": outputs.image_adjacency.detach(),
        "gradients": {name: value.grad for name, value in module.named_parameters()},
        "bias": module.mm_orient.word_hima.across_batch.running_bias,
    }
    if rank == 0:  # alone: in eval() a process never waits for the other
        result["alone"] = {name: value.detach() for name, value in module.eval()(**inputs).logits.items()}
    return result


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of what two processes came to, in every form."""
    folder = tmp_path_factory.mktemp("ran")
    multiprocessing.spawn(work, (free_port(), str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("form, first", CASES)
def test_two_processes_equal_one(ran, form, first):
    results = [torch.load(ran / f"{form}.{first}.{rank}.pt") for rank in range(2)]

    model = make_model(FORMS[form])
    outputs = model(**feature_batch(10), labels=label_batch(10), output_relations=True)
    outputs.loss.backward()
    assert outputs.image_adjacency[:first, first:].sum() > 0  # posts of different processes are neighbours
    torch.testing.assert_close(torch.cat([result["graph"] for result in results]), outputs.image_adjacency)
    for name, value in outputs.logits.items():
        torch.testing.assert_close(torch.cat([result["logits"][name] for result in results]), value)
    torch.testing.assert_close(sum(result["loss"] for result in results) / 2, outputs.loss)
    for result in results:
        torch.testing.assert_close(result["bias"], model.mm_orient.word_hima.across_batch.running_bias)
        for name, value in model.named_parameters():
            torch.testing.assert_close(result["gradients"][name], value.grad, atol=1e-6, rtol=1e-4, msg=name)
    model.eval()
    inputs = {name: value[half(0, first)] for name, value in feature_batch(10).items()}
    for name, value in model(**inputs).logits.items():
        torch.testing.assert_close(results[0]["alone"][name], value)
