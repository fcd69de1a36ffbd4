import pytest
from PIL import Image

from flowwarp.errors import InputError
from flowwarp.io import file_types


def test_list_folder_sorts_in_natural_order(tmp_path):
    made = ["f10.png", "f2.png", "F3.PNG", "f01.png", "f1.png", ".f4.png", "f.txt"]
    made.append("f" + "9" * 200 + ".png")
    for name in made:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "f5.png").mkdir()
    found = [path.name for path in file_types.list_folder(tmp_path, file_types.IMAGE_EXTENSIONS)]
    assert found == ["f01.png", "f1.png", "f2.png", "F3.PNG", "f10.png", made[-1]]


def test_a_webp_is_a_picture_or_a_video(tmp_path):
    """A WebP by its header, a GIF by its extension."""
    black, red = (Image.new("RGB", (8, 8), color) for color in ("black", "red"))
    red.save(tmp_path / "still.webp")
    red.save(tmp_path / "profile.webp", icc_profile=b"?" * 200)  # in an extended file, too
    black.save(tmp_path / "moving.WEBP", save_all=True, append_images=[red])
    black.save(tmp_path / "moving.gif", save_all=True, append_images=[red])
    (tmp_path / "cut.webp").write_bytes((tmp_path / "moving.WEBP").read_bytes()[:20])
    (tmp_path / "empty.webp").write_bytes(b"")
    (tmp_path / "folder.webp").mkdir()
    assert file_types.kind_of(tmp_path / "moving.WEBP") == file_types.ANIMATED_WEBP
    for name in ("still", "profile", "cut", "empty", "folder", "missing"):
        assert file_types.kind_of(tmp_path / f"{name}.webp") == ".webp"
    videos, pictures = (
        [path.name for path in file_types.list_folder(tmp_path, extensions)]
        for extensions in (file_types.VIDEO_EXTENSIONS, file_types.IMAGE_EXTENSIONS)
    )
    assert videos == ["moving.gif", "moving.WEBP"]
    assert pictures == ["cut.webp", "empty.webp", "profile.webp", "still.webp"]


def test_list_folder_needs_a_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        file_types.list_folder(tmp_path / "none", file_types.IMAGE_EXTENSIONS)
