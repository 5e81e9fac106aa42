"""Tiny encoders with random weights, written to disk as the hub has them, and folders of tiny pictures."""

import numpy as np
import torch
from PIL import Image

WORDS = "a dog cat red blue house on the beach two small and with of picture number".split()


def save_text_model(folder, seed=0):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"0123456789"]
    plain = folder / "plain"
    plain.mkdir(parents=True)
    (plain / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(plain / "vocab.txt")).save_pretrained(plain)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(plain)
    words = Transformer(str(plain), max_seq_length=48)
    SentenceTransformer(modules=[words, Pooling(32, "mean"), Normalize()], device="cpu").save(str(folder / "model"))
    return folder / "model"


def save_image_model(folder, kind="dinov2", seed=0):
    import transformers as t

    torch.manual_seed(seed)
    vit = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    tower = {**vit, "intermediate_size": 64}
    words = {**{k: v for k, v in tower.items() if k not in ("image_size", "patch_size")}, "vocab_size": 99}
    model = {
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**vit)),
        "registers": lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**vit, num_register_tokens=3)),
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=words, vision_config=tower, projection_dim=24)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=words, vision_config=tower)),
        "resnet": lambda: t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
    }[kind]()
    model.save_pretrained(folder)
    square = {"height": 28, "width": 28}
    if kind == "siglip":
        t.SiglipImageProcessorPil(size=square).save_pretrained(folder)
    else:
        t.BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)
    return folder


def save_pictures(folder, n, start=0):
    """`00000.png`, `sub/00001.png`, ...: every second one in a folder."""
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    names = []
    for i in range(start, start + n):
        name = f"{'sub/' if i % 2 else ''}{i:05d}.png"
        pixels = np.random.default_rng(i).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 20)).save(folder / name)
        names.append(name)
    return names


def save_captions(path, names, each=2):
    lines = [
        f"{name},{' '.join(WORDS[: 2 + (i + j) % 9])} {i} {j}" for i, name in enumerate(names) for j in range(each)
    ]
    path.write_text("image,caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path
