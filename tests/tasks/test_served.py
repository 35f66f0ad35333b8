"""What a served model reads of a request: photos below one folder, or their bytes, and nothing else of the machine."""

import base64

import pytest

from tasks.served import read_image, served_folder

PHOTO = b"\xff\xd8\xff bytes of a photo"


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "photos"
    (folder / "in").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(PHOTO)
    (folder / "in" / "b.jpg").write_bytes(PHOTO)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    return folder


def test_photos_below_the_folder_and_bytes_are_read(root):
    text = base64.b64encode(PHOTO).decode()
    for value in ("a.jpg", "in/b.jpg", "in/../a.jpg", str(root / "a.jpg"), text, f"data:image/jpeg;base64,{text}"):
        assert read_image(value, root) == (PHOTO, ""), value


def test_nothing_outside_is_read_nor_told_of(root):
    outside = str(root.parent / "secret.jpg")
    for value in ("../secret.jpg", outside, "link.jpg", "in/../../secret.jpg", "../no.jpg", "/etc/host"):
        data, error = read_image(value, root)
        assert data == b"" and error == f"image: {value[:80]!r} is outside the folder that is served, and no base64"


@pytest.mark.parametrize("value", ["no such file", "a\0b.jpg", "in", 3, None, "", float("nan")])
def test_what_is_neither_is_one_line(root, value):
    data, error = read_image(value, root)
    assert data == b"" and error.startswith("image: ") and "\n" not in error


def test_anywhere_in_a_process_of_ones_own_below_one_folder_in_a_server(root, monkeypatch):
    monkeypatch.delenv("PHYSIQUE_PHOTOS", raising=False)
    monkeypatch.delenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", raising=False)
    assert served_folder() is None and read_image(str(root / "a.jpg"))[0] == PHOTO
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    monkeypatch.chdir(root)
    assert served_folder() == root.resolve()
    monkeypatch.setenv("PHYSIQUE_PHOTOS", str(root / "in"))
    assert served_folder() == (root / "in").resolve()
