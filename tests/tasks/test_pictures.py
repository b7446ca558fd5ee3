"""The pictures of rows: where they may be, and what is refused."""

import os

import datasets
import pytest

from cola_jax.errors import InputError
from cola_jax.question import content as content_of
from cola_jax.question import question_digest
from cola_jax.tasks import load_questions
from cola_jax.tasks.pictures import place_below

PICTURED = {"question": "Which ocean?", "options": ["Arctic", "Pacific"], "answer": "Pacific"}


def only(source):
    (question,) = load_questions(source)
    return question


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of questions with a picture in it and one beside it, where the commands run."""
    place = tmp_path / "questions"
    (place / "images").mkdir(parents=True)
    (place / "images" / "own.png").write_bytes(b"own")
    (tmp_path / "secret.png").write_bytes(b"secret")
    monkeypatch.chdir(place)
    return place


def test_image_is_a_file_beside_the_rows_or_its_content(write, tmp_path):
    contents = [b"first", b"second"]
    for number, content in enumerate(contents):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{number}.png").write_bytes(content)
    rows = [PICTURED | {"image": f"images/{number}.png"} for number in range(2)]
    questions = load_questions(write(*rows))
    assert [question.picture for question in questions] == contents
    assert {question.text for question in questions} == {"<image>\nWhich ocean?"}
    assert len({question.id for question in questions}) == 2  # though all else is the same
    assert len({content_of(question) for question in questions}) == 2
    assert len({question_digest(question) for question in questions}) == 2
    for image in (b"first", {"bytes": b"first", "path": "x.png"}):
        assert only([PICTURED | {"image": image}]) == questions[0]
    assert only([PICTURED | {"image": None}]).picture is None
    placed = only(write({"prompt": "See <image> here", "answer": "yes", "image": "images/0.png"}))
    assert (placed.text, placed.picture) == ("See <image> here", b"first")


def test_image_of_a_row_in_memory_is_below_the_current_folder(folder):
    assert only([PICTURED | {"image": "images/own.png"}]).picture == b"own"
    assert only([PICTURED | {"image": str(folder / "images/own.png")}]).picture == b"own"
    with pytest.raises(InputError, match=r"row 0: the picture .*secret.* is outside"):
        load_questions([PICTURED | {"image": "../secret.png"}])


def test_image_of_pillow_is_encoded():
    images = pytest.importorskip("PIL.Image")
    image = images.new("RGBA", (4, 3), "red")
    picture = only([PICTURED | {"image": image}]).picture
    assert picture.startswith(b"\x89PNG")
    rows = datasets.Dataset.from_list([PICTURED | {"image": {"bytes": picture, "path": None}}])
    rows = rows.cast_column("image", datasets.Image())
    assert only(rows).picture == picture


def test_image_that_the_user_names_by_a_path_object_may_be_anywhere(folder, monkeypatch):
    secret = folder.parent / "secret.png"
    assert only([PICTURED | {"image": secret}]).picture == b"secret"
    rows = datasets.Dataset.from_list([PICTURED | {"image": str(secret)}])
    assert only(rows.cast_column("image", datasets.Image())).picture == b"secret"
    for path in ("https://example.com/a.png", "zip://a.png::b.zip"):
        rows = datasets.Dataset.from_list([PICTURED | {"image": path}])
        with pytest.raises(InputError, match="is outside of the folder"):
            load_questions(rows.cast_column("image", datasets.Image()))
    monkeypatch.setattr("cola_jax.formats.pictures.MOST_BYTES", 4)
    with pytest.raises(InputError, match="the picture has 6 bytes, and may have 4"):
        load_questions([PICTURED | {"image": secret}])


@pytest.mark.parametrize(
    "image",
    [
        "../secret.png",
        "images/../../secret.png",
        "images/link.png",
        "linked/secret.png",
        "{parent}/secret.png",
        "s3://bucket/picture.png",
        "s3:/bucket/picture.png",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
    ],
)
def test_image_outside_the_folder_is_refused(write, folder, monkeypatch, image):
    """Whoever wrote the file would choose which files and objects of the user are read."""
    os.symlink(folder.parent / "secret.png", folder / "images" / "link.png")
    os.symlink(folder.parent, folder / "linked")
    monkeypatch.setattr("cola_jax.tasks.pictures.read_bytes", lambda _: pytest.fail("it is read"))
    row = PICTURED | {"image": image.format(parent=folder.parent)}
    os.rename(write(row), "rows.jsonl")
    with pytest.raises(InputError, match=r"rows\.jsonl:1: the picture .* is outside of the folder"):
        load_questions("rows.jsonl")


def test_place_below_a_url_stays_below_it():
    place = place_below("s3://bucket/folder", "images/own.png")
    assert os.fspath(place) == "s3://bucket/folder/images/own.png"
    for name in ("../other.png", "/other.png", "s3://bucket/folder/images/own.png"):
        with pytest.raises(InputError, match=r"outside of the folder of the questions .s3://"):
            place_below("s3://bucket/folder", name)


def test_image_that_is_missing_or_large_is_named_with_its_line(write, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"task\.jsonl:2: the picture .*no\.png is missing"):
        load_questions(write(PICTURED, PICTURED | {"image": "no.png"}))
    with pytest.raises(InputError, match=r"row 0: image must be the path of a picture, .*: 7"):
        load_questions([PICTURED | {"image": 7}])
    monkeypatch.setattr("cola_jax.formats.pictures.MOST_BYTES", 4)
    (tmp_path / "large.png").write_bytes(b"large")
    with pytest.raises(InputError, match=r"task\.jsonl:1: the picture has 5 bytes, and may have 4"):
        load_questions(write(PICTURED | {"image": "large.png"}))
