"""What is exported ranks alike in other people's engines, with nothing but one more coordinate."""

import json

import numpy as np
import pytest
from judged import DY, make_gallery, make_queries, make_run, names_of

from helpers.errors import DataError, MissingLibraryError
from helpers.serving.index import PictureIndex

N, K = 200, 12


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def index(translator):
    return PictureIndex.build(translator, make_gallery(N), names_of(N))


@pytest.fixture(scope="module")
def parquet(index, tmp_path_factory):
    pytest.importorskip("pyarrow")
    return index.export(tmp_path_factory.mktemp("export"), "parquet") / "pictures.parquet"


def in_faiss(index, parquet, queries):
    faiss = pytest.importorskip("faiss")
    vectors = np.load(index.export(parquet.parent, "npy") / "vectors.npy")
    engine = faiss.IndexFlatIP(vectors.shape[1])
    engine.add(vectors)
    return engine.search(queries, K)[1]


def in_lancedb(index, parquet, queries):
    lancedb = pytest.importorskip("lancedb")
    import pyarrow.parquet

    table = lancedb.connect(parquet.parent / "lance").create_table(
        "pictures", pyarrow.parquet.read_table(parquet), mode="overwrite"
    )
    found = [table.search(query).distance_type("dot").limit(K).to_arrow() for query in queries]
    return np.array([of["row"].to_pylist() for of in found])


def in_qdrant(index, parquet, queries):
    qdrant = pytest.importorskip("qdrant_client")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(parquet)
    client = qdrant.QdrantClient(":memory:")
    client.create_collection(
        "pictures", vectors_config=qdrant.models.VectorParams(size=DY + 1, distance=qdrant.models.Distance.DOT)
    )
    points = [
        qdrant.models.PointStruct(id=row["row"], vector=row["vector"], payload={"name": row["name"]})
        for row in table.to_pylist()
    ]
    client.upsert("pictures", points)
    return np.array(
        [[hit.id for hit in client.query_points("pictures", query=q.tolist(), limit=K).points] for q in queries]
    )


@pytest.mark.slow
@pytest.mark.parametrize("hubness", [True, False])
@pytest.mark.parametrize("engine", [in_faiss, in_lancedb, in_qdrant])
def test_another_engine_ranks_as_translator_search_does(translator, index, parquet, engine, hubness):
    queries = make_queries(15)
    expected, scores = translator.search(queries, make_gallery(N), K, hubness=hubness)
    assert np.diff(scores).max() < -1e-6  # no ties, whose order is anyone's
    np.testing.assert_array_equal(engine(index, parquet, index.folded(queries, hubness)), expected)


def test_parquet_holds_rows_names_and_folded_vectors(index, parquet):
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(parquet)
    assert table.column_names == ["row", "name", "vector"]
    assert table["row"].to_pylist() == list(range(N)) and table["name"].to_pylist() == index.names
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(vectors, np.column_stack([index.vectors, -index.popularity]))


def test_npy_holds_the_same_without_any_library(index, tmp_path):
    folder = index.export(tmp_path, "npy")
    vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    np.testing.assert_array_equal(vectors, np.column_stack([index.vectors, -index.popularity]))
    assert json.loads((folder / "names.json").read_text()) == index.names
    about = json.loads((folder / "export.json").read_text())
    assert (about["rows"], about["width"], about["metric"], about["hubness"]) == (N, DY + 1, "inner product", True)


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_blocks_change_nothing(monkeypatch, index, tmp_path, format):  # noqa: A002
    if format == "parquet":
        pytest.importorskip("pyarrow")
    index.export(tmp_path / "whole", format)
    monkeypatch.setattr("helpers.serving.index_export.GALLERY_BLOCK", 7)
    index.export(tmp_path / "blocks", format)
    if format == "npy":
        whole, blocks = ((tmp_path / name / "vectors.npy").read_bytes() for name in ("whole", "blocks"))
        assert whole == blocks
    else:
        import pyarrow.parquet

        whole, blocks = (
            pyarrow.parquet.read_table(tmp_path / name / "pictures.parquet") for name in ("whole", "blocks")
        )
        assert whole.equals(blocks)


def test_an_export_that_cannot_be_written_is_named(index, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file: the export cannot be written"):
        index.export(tmp_path / "file", "npy")
    with pytest.raises(DataError, match="format = 'csv'"):
        index.export(tmp_path, "csv")


def test_a_missing_library_is_one_line_that_says_what_to_install(monkeypatch, translator, index, tmp_path):
    for name in ("pyarrow", "faiss"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingLibraryError, match=r'pip install -e ".*\[search\]"'):
        index.export(tmp_path, "parquet")
    with pytest.raises(MissingLibraryError, match=r'pip install -e ".*\[search\]"'):
        PictureIndex.build(translator, make_gallery(5), names_of(5), kind="hnsw")
    assert PictureIndex.load(index.save(tmp_path)).search(make_queries(1)[0], 3)[0].shape == (3,)  # flat needs neither
