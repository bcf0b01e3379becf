"""Images in folders: listing, splits, crops as pure functions, damaged files, digits."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.datasets import DigitsData, ImageFolderData
from homotopy_cli.zoo.augment import crop_box
from homotopy_cli.zoo.registry import build_data

MEAN = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of six noise images of 40x32 pixels, and one file that is no image."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for i in range(6):
            write(tmp_path / "pets" / name / f"{i}.png", rng.integers(0, 256, (32, 40, 3), "u1"))
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "pets" / ".cache").mkdir()
    return tmp_path


def build(base, **settings):
    return build_data(ImageFolderData(**{"path": "pets", "size": 28, **settings}), base)


def refusal(base, **settings) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        build(base, **settings)
    assert "\n" not in caught.value.message
    return caught.value


def test_one_folder_a_share_held_out(folder):
    source = build(folder, holdout=0.25, workers=1)
    assert (source.n_train, source.n_eval) == (9, 3)
    assert source.info.description == "pets: 9 training images, 2 classes, 3 held out"
    assert source.info.input_shape == (3, 28, 28)
    images, labels = source.batch(0, 9, 0)
    assert images.shape == (9, 3, 28, 28)
    assert images.dtype == torch.float32
    seen = torch.cat([labels, source.eval_batches(3, 1)[0][1]])
    assert torch.bincount(seen).tolist() == [6, 6]


def test_held_out_images_are_the_middle_of_the_file(folder):
    """Oracle: NumPy slices; 28 of 32 pixels is exactly the share that is kept, so no resampling."""
    source = build(folder, holdout=0.25, workers=1)
    files = sorted((folder / "pets").glob("*/*.png"))
    pixels = [np.asarray(Image.open(file))[2:30, 6:34].transpose(2, 0, 1) for file in files]
    images, labels = source.eval_batches(3, 1)[0]
    for image, label in zip(images.double().numpy(), labels, strict=True):
        distance = [np.abs(image - (p / 255 - MEAN) / STD).max() for p in pixels]
        assert min(distance) < 1e-5
        assert int(np.argmin(distance)) // 6 == label


def test_a_batch_is_a_pure_function_of_step_and_seed(folder):
    for crop in ("random", "resized", "center"):
        source, threads = build(folder, crop=crop, workers=1), build(folder, crop=crop, workers=4)
        first = source.batch(2, 5, 1)[0]
        source.batch(0, 5, 1)
        assert torch.equal(source.batch(2, 5, 1)[0], first)
        assert torch.equal(threads.batch(2, 5, 1)[0], first)
        assert not torch.equal(source.batch(2, 5, 2)[0], first)


def test_batches_made_ahead_are_the_same(folder):
    """In order, again, with a jump, another seed and another size: as without threads."""
    plain, ahead = build(folder, workers=1), build(folder, workers=3)
    for step, size, seed in (
        (0, 4, 0),
        (1, 4, 0),
        (2, 4, 0),
        (2, 4, 0),
        (7, 4, 0),
        (8, 4, 1),
        (9, 2, 1),
    ):
        for a, b in zip(plain.batch(step, size, seed), ahead.batch(step, size, seed), strict=True):
            assert torch.equal(a, b)


def test_training_and_held_out_folders(folder):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            for i in range(3):
                pixels = np.full((20, 20), 40 if name == "cat" else 200, "u1")
                write(folder / "parted" / part / name / f"{part}{i}.jpg", pixels)
    source = build(folder, path="parted")
    assert (source.n_train, source.n_eval) == (6, 6)
    images, labels = source.eval_batches(6, 1)[0]
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (images[3:].mean((1, 2, 3)) > images[:3].mean((1, 2, 3)) + 1).all()  # grey became RGB
    fewer = build(folder, path="parted", max_classes=1, max_per_class=2)
    assert (fewer.n_train, fewer.n_eval, fewer.info.n_classes) == (2, 2, 1)
    write(folder / "parted/val/eel/0.png", np.zeros((20, 20), "u1"))
    error = refusal(folder, path="parted")
    assert error.message == "parted: val has classes that train has not: eel"


def test_crop_boxes():
    assert crop_box((256, 320), "center", (0, 0, 0, 0)) == (16.0, 48.0, 240.0, 272.0)
    assert crop_box((320, 256), "random", (0, 1, 0, 0)) == (0.0, 32.0, 224.0, 256.0)
    rng = np.random.default_rng(1)
    areas, ratios = [], []
    for draws in rng.random((2000, 4)).tolist():
        left, top, right, bottom = crop_box((300, 300), "resized", draws)
        assert 0 <= left < right <= 300 + 1e-9
        assert 0 <= top < bottom <= 300 + 1e-9
        areas.append((right - left) * (bottom - top) / 300**2)
        ratios.append((right - left) / (bottom - top))
    assert 0.08 - 1e-9 <= min(areas) < 0.1
    assert max(areas) > 0.9
    assert min(ratios) == pytest.approx(3 / 4, abs=0.01)
    assert max(ratios) == pytest.approx(4 / 3, abs=0.01)


def victim_is_in(source, step) -> bool:
    try:
        source.batch(step, 4, 0)
    except ProblemError:
        return True
    return False


def test_a_damaged_image_is_named(folder):
    victim = folder / "pets" / "dog" / "3.png"
    whole = victim.read_bytes()
    victim.write_bytes(b"GIF")
    error = refusal(folder)
    assert error.message.startswith(f"{victim}: is not an image that can be read (")
    assert error.hint == "remove the file, or write it again"
    victim.write_bytes(whole[: len(whole) // 2])  # the header is intact: found when it is drawn
    source = build(folder, holdout=0.0)
    steps = [s for s in range(3) if victim_is_in(build(folder, holdout=0.0, workers=1), s)]
    assert len(steps) == 1
    for step in range(steps[0]):  # the batch before the damaged one is made, and given
        source.batch(step, 4, 0)
    with pytest.raises(ProblemError) as caught:
        source.batch(steps[0], 4, 0)
    assert caught.value.message.startswith(f"{victim}: is not an image that can be read (")
    assert "\n" not in caught.value.message


def test_faults(folder, monkeypatch):
    layout = (
        "put images at CLASS/NAME.png, or at train/CLASS/NAME.png and val/CLASS/NAME.png; "
        "--set data.path=FOLDER names the folder"
    )
    error = refusal(folder, path="nowhere/imagenet")
    assert "nowhere/imagenet: no such data folder; looked in " in error.message
    assert error.hint == layout
    error = refusal(folder, path="pets/cat/0.png")
    assert error.message == "pets/cat/0.png: is a file, not a folder"
    error = refusal(folder, path="pets/cat")
    assert error.message == (
        "pets/cat: holds no image (.png, .jpg, .jpeg, .bmp, .webp, .ppm) in 0 class folders"
    )
    monkeypatch.setitem(sys.modules, "PIL", None)
    error = refusal(folder)
    assert error.message.startswith("data image_folder: needs Pillow, which is not installed (")
    assert error.hint == "pip install 'homotopy-cli[images]'"


def test_digits(monkeypatch):
    source = build_data(DigitsData(), dtype=torch.float64)
    assert (source.n_train, source.n_eval) == (1438, 359)
    assert source.info.n_classes == 10
    images, labels = source.batch(0, 1438, 0)
    assert images.shape == (1438, 1, 8, 8)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert sorted(set(labels.tolist())) == list(range(10))
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    row = int(np.abs(pixels / 16 - images[0].flatten().numpy()).sum(1).argmin())
    assert np.array_equal(pixels[row] / 16, images[0].flatten().numpy())
    assert classes[row] == labels[0]
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ProblemError) as caught:
        build_data(DigitsData())
    assert caught.value.message.startswith("data digits: needs scikit-learn, which is not")
    assert caught.value.hint == "pip install 'homotopy-cli[digits]'"
