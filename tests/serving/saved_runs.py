"""Small runs with every model, as notebook 05 leaves them, and a tiny text encoder on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from helpers.data.vectors import MARKS
from helpers.evaluation import dot_product, hubness
from helpers.models import storage
from helpers.models.build import MODEL_ROWS, build_model

DX, DY = 8, 9
MODELS = [name for name in MODEL_ROWS if name != "chance"]
RNG = np.random.default_rng(0)
QUERIES = RNG.normal(size=(7, DX)).astype(np.float32)
GALLERY = RNG.normal(size=(23, DY)).astype(np.float32) * 26
ENSEMBLES = [
    {"networks": {"networks": {"members": 1}}},
    {"networks": {"networks": {"members": 3}}, "rank": 5},
    {"networks": {"networks": {"members": 2}}, "weights": {"networks": 0.6, "cca": 0.4}},
    {
        "networks": {"networks_blocks1": {"members": 2, "blocks": 1}},
        "rank": 5,
        "weights": {"networks_blocks1": 0.7, "kernel": 0.3},
        "landmarks": 6,
    },
    {
        "networks": {
            "networks_whitened50": {"members": 3, "whitening": 0.5},
            "networks_blocks1": {"hidden": 8, "members": 2, "blocks": 1},
        },
        "rank": 5,
        "weights": {"networks_whitened50": 0.3, "networks_blocks1": 0.2, "kernel": 0.3, "cca": 0.2},
        "landmarks": 6,
    },
]
"""Shapes that the recipe plus may choose; the other models have one."""


def random_model(name: str, **shape) -> torch.nn.Module:
    """A model of which no number is a default: what is lost on the way shows."""
    torch.manual_seed(0)
    model = build_model(name, DX, DY, hidden=16, dropout=0.5, **shape)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(torch.randn_like(tensor))
    return model.eval()


def write_run(run: Path, names: list[str] = MODELS, judged: bool = True, **shape) -> Path:
    """A run's folder with random models; the last one is the best of its leaderboard."""
    for name in names:
        architecture = {"text_dim": DX, "image_dim": DY, "hidden": 16, "dropout": 0.5}
        architecture |= shape if name == "bigjump_plus" else {}
        model = random_model(name, **(shape if name == "bigjump_plus" else {}))
        storage.save_model(
            run, name, model, {"architecture": architecture, "data": "abc123", "history": [{"mrr": 0.5}]}
        )
    if judged:
        rows = [{"model": "chance", "mrr": 0.01, "recall_at_1": 0.0, "recall_at_10": 0.1, "hubness_mrr": None}]
        for place, name in enumerate(names):
            digest = storage.weights_digest(run, name)
            row = {"model": name, "mrr": 0.2 + place / 100, "recall_at_1": 0.1, "recall_at_10": 0.4}
            rows.append({**row, "hubness_mrr": 0.3 + place / 100, "parameters": 1234, "weights": digest})
        (run / "leaderboard.json").write_text(json.dumps(rows))
        (run / "run.json").write_text(json.dumps({"config": {"profile": "demo", "data_dir": "/home/me/photos"}}))
        bank = np.random.default_rng(1).normal(size=(30, DX)).astype(np.float32)
        hubness.save_query_bank(run, bank, np.zeros((len(bank), MARKS)), dict.fromkeys(names, 12.0))
        dot_product.save(run, {name: np.full(DY, i, np.float32) for i, name in enumerate(names)})
    return run


def write_text_encoder(folder: Path, *, normalise: bool = False) -> Path:
    """A SentenceTransformer of two tiny layers and ten words, by that library alone; its width is `DX`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    inner = folder.with_name(folder.name + "-bert")
    inner.mkdir(parents=True)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a dog cat on the beach two dogs query : party".split()
    (inner / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(inner / "vocab.txt")).save_pretrained(inner)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(words), hidden_size=DX, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(inner)
    modules = [Transformer(str(inner), max_seq_length=32), Pooling(DX, pooling_mode="mean")]
    whole = SentenceTransformer(modules=modules + [Normalize()] * normalise, device="cpu", prompts={"ask": "query : "})
    whole.save(str(folder), create_model_card=False)
    return folder


def write_encoders(
    run: Path, model: str | Path, *, normalised: bool = False, kind: str = "sentence-transformers"
) -> None:
    """What `helpers.encode` says of the encoders."""
    text = {"kind": kind, "model": str(model), "revision": None, "pooling": "mean", "normalised": normalised}
    text |= {"max_length": 32, "precision": "float32", "dim": DX, "licence": "Apache-2.0"}
    images = {"kind": "efficientnet-lite", "model": "efficientnet-lite0", "pooling": "average", "dim": DY}
    (run / "encoders.json").write_text(json.dumps({"text": text, "images": images, "preset": None}))
