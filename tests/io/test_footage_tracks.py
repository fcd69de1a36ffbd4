"""Sound, chapters and metadata of footage, as ffmpeg reads them."""

from fractions import Fraction

import numpy as np
import pytest

from flowwarp.io.footage_writer import Timing
from recordings import copy, record, sound, stated


def test_shape_of_pixels_metadata_and_chapters_are_kept(tmp_path):
    one = {
        "id": 1,
        "start": 0,
        "end": 300,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": "one"},
    }
    two = {**one, "id": 2, "start": 300, "end": 600, "metadata": {"title": "two"}}
    record(tmp_path / "a.mkv", aspect="64/45", metadata={"title": "A walk"}, chapters=[one, two])
    got = copy(tmp_path / "a.mkv", tmp_path / "b.mp4")
    assert got["aspect"] == Fraction(64, 45)
    assert got["metadata"]["title"] == "A walk"
    assert got["chapters"] == [(0, "one"), (0.3, "two")]


@pytest.mark.parametrize(
    ("encoder", "suffix", "wanted"),
    [
        ("aac", ".mp4", "aac"),
        ("aac", ".mkv", "aac"),
        ("aac", ".webm", "opus"),
        ("libopus", ".mkv", "opus"),
        ("pcm_s16le", ".mp4", "aac"),
        ("pcm_s16le", ".mov", "pcm_s16le"),
        ("libmp3lame", ".mov", "mp3"),
    ],
)
def test_sound_is_kept(tmp_path, encoder, suffix, wanted):
    record(tmp_path / "a.mkv", sound=encoder)
    before, got = stated(tmp_path / "a.mkv"), copy(tmp_path / "a.mkv", tmp_path / f"b{suffix}")
    assert got["sound"] == [wanted]
    assert got["seconds"] == pytest.approx(before["seconds"], abs=0.03)
    # Copied packet by packet; a MOV does not state which samples of MP3 are to be skipped.
    if before["sound"] == got["sound"] != ["mp3"]:
        assert np.array_equal(sound(tmp_path / "a.mkv"), sound(tmp_path / f"b{suffix}"))


@pytest.mark.parametrize("stretch", [2, 4, Fraction(8, 5), Fraction(1, 2)])
def test_slow_motion_stretches_sound_and_keeps_its_pitch(tmp_path, stretch):
    record(tmp_path / "a.mp4", sound="aac", times=range(0, 2000, 100))
    got = copy(tmp_path / "a.mp4", tmp_path / "b.mp4", timing=Timing(stretch=Fraction(stretch)))
    assert got["times"] == [Fraction(index, 10) * stretch for index in range(20)]
    assert got["seconds"][0] == pytest.approx(2 * stretch, abs=0.06)
    wave = sound(tmp_path / "b.mp4")
    middle = wave[len(wave) // 4 : 3 * len(wave) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * 48000 / len(middle) == pytest.approx(440, abs=4)
