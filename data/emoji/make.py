"""Makes the demo data of this folder from two npm packages: pictures of emoji, and what people call them.

    npm pack emoji-datasource-google@16.0.0 emojibase-data@17.0.0
    mkdir google emojibase
    tar xzf emoji-datasource-google-16.0.0.tgz -C google --strip-components=1
    tar xzf emojibase-data-17.0.0.tgz -C emojibase --strip-components=1
    python data/emoji/make.py google emojibase --out data/emoji

The vectors come from the encoders of the preset `small`, through the same `encode_folder` that users call.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from helpers.data.folder import write_data_folder
from helpers.data.pairs import load_pairs
from helpers.data.pictures import Pictures, save_sprite
from helpers.encoders.folder import encode_folder

SHORTCODES = ("cldr", "github", "emojibase", "joypixels", "iamcal")
"""Sets of shortcodes, from the plainest words on: a caption comes from the first set that has it."""
WORDS = 3
"""Keywords in one caption, as people type a few words. One alone seldom tells an emoji: 274 are a `flag`."""
WRONG = {"1F1E8-1F1F6"}
"""Pictures that show something else: in emoji-datasource-google 16.0.0, Sark's flag is Saudi Arabia's."""
TILE, COLUMNS = 64, 44


class Named(NamedTuple):
    """An emoji as Unicode has it: several may share a picture."""

    label: str
    shortcode: str
    captions: list[str]
    file: Path


class Emoji(NamedTuple):
    """One picture, its name in the data and all that is said of it."""

    name: str
    file: Path
    captions: tuple[str, ...]


def plain(text: str) -> str:
    """A text as a person would type it: lower case, no typographic quotes, no underscores."""
    text = text.translate(str.maketrans({"“": "", "”": "", "’": "'", "_": " ", "-": " "}))
    return " ".join(text.lower().split())


def same(text: str) -> tuple[str, ...]:
    """What two captions have in common that say the same: their words, without accents, in any order."""
    return tuple(sorted(re.findall(r"[a-z0-9]+", unicodedata.normalize("NFKD", text))))


def dealt(words: Sequence[str], size: int) -> list[list[str]]:
    """Words in turn to as many hands as it takes for about `size` each, so that neighbours in the alphabet part."""
    hands = max(1, round(len(words) / size))
    return [list(words[start::hands]) for start in range(hands)]


def captions_of(entry: dict[str, Any], shortcodes: Iterable[str]) -> list[str]:
    """Captions of an emoji: its name, its shortcodes as words, and its keywords, a few in a caption; none twice.

    Nobody searches for `gq` or `clock4`: shortcodes of two letters, and those with a number at a word, are left out.
    """
    texts = [plain(entry["label"])]
    texts += [text for text in map(plain, shortcodes) if len(text) > 2 and not re.search(r"[a-z]\d", text)]
    keywords = list(dict.fromkeys(plain(tag) for tag in entry.get("tags", ())))
    texts += [" ".join(filter(None, hand)) for hand in dealt(keywords, WORDS)]  # of a lone dash nothing is left
    return list({same(text): text for text in reversed(texts) if text}.values())[::-1]


def listed(value: str | list[str] | None) -> list[str]:
    """Shortcodes of an emoji, of which a set has none, one or several."""
    return [value] if isinstance(value, str) else value or []


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def read(google: Path, emojibase: Path) -> list[Emoji]:
    """All emoji in Unicode's order, without skin tones; those that share a picture are one, with all captions."""
    english = emojibase / "en"
    named = {entry["hexcode"].replace("-FE0F", ""): entry for entry in read_json(english / "data.json")}
    sets = [read_json(english / "shortcodes" / f"{name}.json") for name in SHORTCODES]
    members: dict[bytes, list[Named]] = defaultdict(list)
    for item in sorted(read_json(google / "emoji.json"), key=lambda item: item["sort_order"]):
        if item["subcategory"] == "skin-tone" or item["unified"] in WRONG:
            continue
        entry = named[item["unified"].replace("-FE0F", "")]
        codes = [code for one in sets for code in listed(one.get(entry["hexcode"]))]
        file = google / "img" / "google" / str(TILE) / item["image"]
        members[Image.open(file).convert("RGBA").tobytes()].append(
            Named(entry["label"], codes[0], captions_of(entry, codes), file)
        )
    return [merged(sharing) for sharing in members.values()]


def merged(sharing: list[Named]) -> Emoji:
    """One emoji of those that share a picture, called by CLDR's shortcode of the one with the shortest name."""
    sharing = sorted(sharing, key=lambda one: len(one.label))
    captions = {same(text): text for one in reversed(sharing) for text in reversed(one.captions)}
    letters = unicodedata.normalize("NFKD", sharing[0].shortcode).encode("ascii", "ignore").decode()
    return Emoji(f"{re.sub(r'[^a-z0-9]+', '_', letters)}.png", sharing[0].file, tuple(captions.values())[::-1])


def write_raw(emoji: Sequence[Emoji], folder: Path) -> tuple[Path, Path]:
    """What a user brings: a folder of pictures and a file of captions."""
    pictures, captions = folder / "pictures", folder / "captions.txt"
    pictures.mkdir(parents=True)
    for one in emoji:
        shutil.copyfile(one.file, pictures / one.name)
    lines = [f"{one.name},{text}\n" for one in emoji for text in one.captions]
    captions.write_text("image,caption\n" + "".join(lines), encoding="utf-8", newline="\n")
    return pictures, captions


def encode(emoji: Sequence[Emoji], out: Path) -> None:
    """Encode as any user does, and make that small."""
    with tempfile.TemporaryDirectory() as scratch:
        pictures, captions = write_raw(emoji, Path(scratch))
        encode_folder(pictures, captions, Path(scratch, "encoded"), preset="small")
        pack(Path(scratch, "encoded"), out, Path(scratch, "cache"))


def pack(encoded: Path, out: Path, cache: Path) -> None:
    """Write a data folder once more: its vectors in 16 bits, and its pictures as one sprite."""
    data = load_pairs(encoded, cache_dir=cache)
    pictures = Pictures.of(encoded, data.image_names)
    made_by = read_json(encoded / "encoders.json")
    made_by.pop("encoded", None)  # the digest of a folder that nobody has
    tiles = [pictures.image(row) for row in range(len(pictures))]
    write_data_folder(
        out,
        text=data.text.astype(np.float16),
        images=data.images.astype(np.float16),
        caption_image=data.targets,
        captions=data.captions,
        names=data.image_names,
        encoders=made_by,
        pictures=save_sprite(tiles, out / "sprite.webp", TILE, COLUMNS),
    )


def main() -> None:
    """Read the packages, count, and make the data folder or what it is made from."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("google", type=Path, help="folder of the unpacked emoji-datasource-google")
    parser.add_argument("emojibase", type=Path, help="folder of the unpacked emojibase-data")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the data folder is made")
    parser.add_argument("--raw", type=Path, help="write the pictures and captions.txt here, and encode nothing")
    options = parser.parse_args()
    emoji = read(options.google, options.emojibase)
    texts = Counter(text for one in emoji for text in one.captions)
    shared = [count for count in texts.values() if count > 1]
    print(
        f"{len(emoji)} pictures, {texts.total()} captions; {len(shared)} texts are of several pictures ({sum(shared)})."
    )
    if options.raw:
        write_raw(emoji, options.raw)
    else:
        encode(emoji, options.out)


if __name__ == "__main__":
    main()
