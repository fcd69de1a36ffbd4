"""``flowwarp interpolate`` with an untrained network."""

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from PIL import Image, ImageCms

from flowwarp.io.footage import open_footage
from flowwarp.io.images import ImageFormat, read_image, read_image_with_format, write_image
from flowwarp.io.video_info import video_info
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.pipelines.flow import interpolate as interpolation

HEIGHT, WIDTH = 32, 48

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def interpolate(call, untrained):
    def run(*arguments, quality="fast"):
        return call("interpolate", *arguments, "--weights", untrained, "--quality", quality)

    return run


def picture(index=0, channels=3, bits=8):
    """Return a texture that moves 2 px per index, quantized as in a file."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, 10, 18, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH + 24), mode="bicubic")[0]
    top = 2**bits - 1
    return wide[..., 24 - 2 * index :][..., :WIDTH].clamp(0, 1).mul(top).round() / top


def save_frames(folder, count=3):
    Path(folder).mkdir()
    frames = [picture(index) for index in range(count)]
    for index, frame in enumerate(frames, start=8):  # natural order: frame9 comes before frame10
        write_image(f"{folder}/frame{index}.png", frame)
    return frames


def save_clip(name, count=4, fps=10):
    write_video(name, [picture(index) for index in range(count)], fps)
    return list(read_video(name))


def everything():
    return sorted(Path().rglob("*"))


# ------------------------------------------------------------------ pictures


def test_two_images_give_a_folder_with_both(interpolate):
    save_frames("in", 2)
    code, out, err = interpolate("in/frame8.png", "in/frame9.png")
    assert (code, out, err) == (0, ["in/frame8_x2"], [])
    names = sorted(path.name for path in Path(out[0]).iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    assert torch.equal(read_image("in/frame8_x2/000000.png"), picture(0))
    assert torch.equal(read_image("in/frame8_x2/000002.png"), picture(1))


def test_two_images_give_the_middle_frame(interpolate):
    save_frames("in", 2)
    code, out, err = interpolate("in/frame8.png", "in/frame9.png", "-o", "m.png", quality="best")
    assert (code, out, err) == (0, ["m.png"], [])
    middle = read_image("m.png")
    halfway = torch.cat([picture(0)[..., :1], picture(0)[..., :-1]], 2)  # moved by 1 px
    here = (..., slice(6, -6), slice(6, -6))
    assert (middle - halfway)[here].abs().mean() < 0.005
    assert ((picture(0) + picture(1)) / 2 - halfway)[here].abs().mean() > 0.01


def test_frames_of_a_folder_are_kept_bit_for_bit(interpolate):
    frames = save_frames("in", 3)
    code, out, err = interpolate("in/", "--times", "3", "--json")
    assert (code, err) == (0, [])
    assert json.loads("".join(out)) == {
        "dry_run": False,
        "results": [
            {
                "input": [f"in/frame{index}.png" for index in (8, 9, 10)],
                "output": "in_x3",
                "times": 3,
                "quality": "fast",
                "height": HEIGHT,
                "width": WIDTH,
                "frames_read": 3,
                "frames": 7,
                "fps": None,
                "cuts": 0,
                "repeats": 0,
            }
        ],
        "failed": [],
    }
    made = list(read_video("in_x3"))
    assert len(made) == 7
    for own, frame in zip(frames, made[::3], strict=True):
        assert torch.equal(own, frame)


@pytest.mark.parametrize(
    ("channels", "bits"), [(1, 8), (3, 16), (4, 8), (4, 16)], ids=["grey", "16", "alpha", "both"]
)
def test_bit_depth_gray_and_alpha_are_kept(interpolate, channels, bits):
    format = ImageFormat(bits, gray=channels == 1, alpha=channels == 4)
    for index in range(2):
        write_image(f"{index}.png", picture(index, channels, bits), format)
    assert interpolate("0.png", "1.png", "-o", "out")[0] == 0
    for index in range(2):
        image, kept = read_image_with_format(f"out/{2 * index:06d}.png")
        assert kept == format
        assert torch.equal(image, read_image_with_format(f"{index}.png")[0])
    assert read_image_with_format("out/000001.png")[1] == format


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["grey first", "grey last"])
def test_between_gray_and_color_is_color(interpolate, order):
    """For example when a film fades to black."""
    gray = ImageFormat(16, gray=True)
    write_image("grey.png", picture(0)[:1], gray)
    write_image("colour.png", picture(1))
    names = [("grey.png", "colour.png")[number] for number in order]
    for output in ("out", "middle.png"):
        assert interpolate(*names, "-o", output)[0] == 0
    ends = [read_image_with_format(f"out/{2 * end:06d}.png")[1].gray for end in range(2)]
    assert ends == [number == 0 for number in order]
    for path in ("out/000001.png", "middle.png"):
        image, format = read_image_with_format(path)
        assert format == ImageFormat(16)
        assert not torch.equal(image[0], image[1])


@pytest.mark.parametrize("given", [("in.v2",), ("in.v2/shot.8.png", "in.v2/shot.9.png")])
def test_default_names_of_inputs_with_dots(interpolate, given):
    save_frames("in.v2", 2)
    for index in (8, 9):
        Path(f"in.v2/frame{index}.png").rename(f"in.v2/shot.{index}.png")
    wanted = "in.v2_x2" if len(given) == 1 else "in.v2/shot.8_x2"
    assert interpolate(*given) == (0, [wanted], [])
    assert len(list(Path(wanted).iterdir())) == 3


def test_dry_run_checks_the_output_format(interpolate):
    for index in range(2):
        write_image(f"{index}.png", picture(index, 4))
        write_image(f"colour{index}.png", picture(index))
    for names, output in ((["0.png", "1.png"], "a.jpg"), (["colour0.png", "colour1.png"], "a.pgm")):
        code, out, err = interpolate(*names, "-o", output, "--dry-run")
        assert (code, out, len(err)) == (4, [], 1)
        assert f"{output}: a {output[1:]} file has no" in err[0]
        assert interpolate(*names, "-o", output) == (code, out, err)


def test_cut_between_two_images_repeats_the_first(interpolate):
    for index, color in enumerate(((20, 30, 40), (220, 200, 190))):
        Image.new("RGB", (WIDTH, HEIGHT), color).save(f"{index}.png")
    code, out, err = interpolate("*.png", "-o", "m.png")
    assert (code, out) == (0, ["m.png"])
    assert err == ["flowwarp: the images show two scenes: the first image is repeated"]
    assert torch.equal(read_image("m.png"), read_image("0.png"))


def test_single_pixel(interpolate):
    for index in range(2):
        Image.new("RGB", (1, 1), (9 + index, 8, 7)).save(f"{index}.png")
    assert interpolate("0.png", "1.png", "-o", "m.png")[0] == 0


def test_folder_named_dot(interpolate, tmp_path, monkeypatch):
    save_frames("in", 2)
    monkeypatch.chdir("in")
    assert interpolate(".")[:2] == (0, [f"{tmp_path}/in_x2"])


# ------------------------------------------------------------------ videos


@pytest.mark.parametrize(
    ("options", "times", "fps"),
    [
        ([], 2, 20),
        (["--times", "4"], 4, 40),
        (["--slow"], 2, 10),
        (["--fps", "keep", "--times", "3"], 3, 10),
        (["--fps", "30000/1001"], 2, Fraction(30000, 1001)),
    ],
)
def test_length_and_frame_rate_of_a_video(interpolate, options, times, fps):
    save_clip("clip.mp4")
    code, out, err = interpolate("clip.mp4", *options)
    assert (code, out, err) == (0, [f"clip_x{times}.mp4"], [])
    info = video_info(out[0])
    assert (info.fps, info.width, info.height) == (fps, WIDTH, HEIGHT)
    assert sum(1 for _ in read_video(out[0])) == times * 3 + 1


def test_video_into_a_folder_keeps_its_frames(interpolate):
    frames = save_clip("clip.gif")
    assert interpolate("clip.gif", "-o", "new/out/") == (0, ["new/out"], [])
    made = list(read_video("new/out"))
    assert len(made) == 7
    for own, frame in zip(frames, made[::2], strict=True):
        assert torch.equal(own, frame)


def test_pixel_aspect_is_kept(interpolate):
    write_video("clip.mp4", [picture(index) for index in range(2)], 10, Fraction(64, 45))
    assert interpolate("clip.mp4")[0] == 0
    assert video_info("clip_x2.mp4").pixel_aspect == Fraction(64, 45)


@pytest.mark.parametrize("output", ["out.gif", "out.webp", "out", "out.mp4/"])
def test_lost_pixel_aspect_gives_a_warning(interpolate, output):
    write_video("sar.mp4", [picture(index) for index in range(2)], 10, Fraction(64, 45))
    code, _, err = interpolate("sar.mp4", "-o", output)
    problem = "will have square pixels, those of the video are 64:45"
    line = f"{output.rstrip('/')}: {problem}; .m4v, .mkv, .mov, .mp4, .webm keep the shape"
    assert (code, err) == (0, [f"flowwarp: {line}"])
    assert interpolate("sar.mp4", "-o", "out.mkv") == (0, ["out.mkv"], [])


def test_images_into_a_video(interpolate):
    save_frames("in")
    assert interpolate("in", "-o", "out.gif")[:2] == (0, ["out.gif"])
    assert video_info("out.gif").fps == 50
    write_image("in/frame9.png", picture(1, channels=4))  # opacity has no place in a video
    assert interpolate("in", "-o", "out.mp4", "--slow")[0] == 0
    assert video_info("out.mp4").fps == 25


def test_cuts_and_repeats_are_counted(interpolate):
    dark, light = torch.full((3, HEIGHT, WIDTH), 0.1), torch.full((3, HEIGHT, WIDTH), 0.9)
    write_video("clip.gif", [dark, dark, light, light])
    code, out, _ = interpolate("clip.gif", "--times", "3", "--json", "-o", "out")
    result = json.loads("".join(out))["results"][0]
    assert (code, result["cuts"], result["repeats"], result["frames"]) == (0, 1, 2, 10)
    levels = [round(float(frame.mean()), 1) for frame in read_video("out")]
    assert levels == [0.1] * 6 + [0.9] * 4


def test_few_frames_of_a_video_are_in_memory_at_once(interpolate, frames_held):
    save_clip("clip.gif", 10)
    assert interpolate("clip.gif")[0] == 0
    assert 0 < max(frames_held) <= 4


def test_truncated_video_writes_nothing(interpolate):
    save_clip("clip.gif")
    Path("cut.gif").write_bytes(Path("clip.gif").read_bytes()[:-9])
    before = everything()
    for options in ([], ["-o", "out"], ["--dry-run"], ["-o", "out.gif"]):
        code, out, err = interpolate("cut.gif", *options)
        assert (code, out, len(err)) == (3, [], 1)
        assert "cut.gif: breaks off" in err[0]
        assert everything() == before


def test_dry_run_writes_nothing(interpolate):
    save_clip("clip.gif")
    before = everything()
    code, out, err = interpolate("clip.gif", "--dry-run", "--json")
    result = json.loads("".join(out))["results"][0]
    assert (code, err, result["frames"], result["output"]) == (0, [], 7, "clip_x2.mp4")
    assert everything() == before


def test_an_image_may_be_given_twice(interpolate):
    """For example a clip that ends as it begins."""
    save_frames("in", 2)
    pictures = sorted(map(str, Path("in").iterdir()))
    code, out, _ = interpolate(*pictures, pictures[0], "-o", "out", "--dry-run", "--json")
    result = json.loads("".join(out))["results"][0]
    assert (code, result["frames_read"], result["frames"]) == (0, 3, 5)


def test_color_profile_is_kept(interpolate):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Path("in").mkdir()
    for index in range(2):
        write_image(f"in/{index}.jpg", picture(index), ImageFormat(icc=icc))
    assert interpolate("in/0.jpg", "in/1.jpg", "-o", "m.jpg")[0] == 0
    assert interpolate("in/")[0] == 0
    for name in ("m.jpg", "in_x2/000000.png", "in_x2/000001.png"):
        with Image.open(name) as result:
            assert result.info["icc_profile"] == icc


def test_transparency_is_kept_or_its_loss_is_said(interpolate):
    frames = [picture(index, channels=4) for index in range(3)]
    pixels = [frame.mul(255).byte().permute(1, 2, 0).numpy() for frame in frames]
    first, *rest = map(Image.fromarray, pixels)
    first.save("clear.webp", save_all=True, append_images=rest, lossless=True)
    hidden = "hidden colours become visible"
    assert interpolate("clear.webp", "-o", "out.webp") == (0, ["out.webp"], [])
    kept = list(open_footage("out.webp").frames())[::2]
    for own, frame in zip(open_footage("clear.webp").frames(), kept, strict=True):
        assert torch.equal(own * own[3:].ceil(), frame * own[3:].ceil())  # where it is visible
    for index, frame in enumerate(frames):
        write_image(f"{index}.png", frame)
    for names in (["clear.webp"], ["0.png", "1.png", "2.png"]):
        code, out, err = interpolate(*names, "-o", "out.mp4", "--overwrite")
        assert (code, out) == (0, ["out.mp4"])
        assert err == [f"flowwarp: out.mp4: has no transparency; {hidden}"]
    assert interpolate("0.png", "1.png", "2.png", "-o", "out") == (0, ["out"], [])


def test_hdr_is_kept_or_its_loss_is_said(interpolate):
    with av.open("hdr.mkv", "w") as output:
        stream = output.add_stream("libx264", 10)
        stream.pix_fmt, stream.width, stream.height = "yuv420p10le", WIDTH, HEIGHT
        stream.codec_context.color_trc = 16  # PQ
        for index in range(3):
            pixels = picture(index).mul(255).byte().permute(1, 2, 0).contiguous().numpy()
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))
    assert interpolate("hdr.mkv", "-o", "out.mp4") == (0, ["out.mp4"], [])
    with av.open("out.mp4") as result:
        context = result.streams.video[0].codec_context
        assert (context.color_trc, context.pix_fmt) == (16, "yuv420p10le")
    code, out, err = interpolate("hdr.mkv", "-o", "out")
    assert (code, out, len(err)) == (0, ["out"], 1)
    assert "out: does not say that its colours are HDR (PQ)" in err[0]
    assert read_image_with_format("out/000001.png")[1].bits == 16


def test_variable_frame_rate_is_kept(interpolate):
    """Frames at 0, 40, 200, 240 and 600 ms in a file marked as 25 frames per second."""
    with av.open("vfr.mkv", "w") as output:
        stream = output.add_stream("libx264", 25)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", WIDTH, HEIGHT
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate([0, 40, 200, 240, 600]):
            pixels = picture(index).mul(255).byte().permute(1, 2, 0).contiguous().numpy()
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert interpolate("vfr.mkv", "-o", "vfr_x2.mp4")[0] == 0
    with av.open("vfr_x2.mp4") as result:
        got = [round(1000 * frame.time) for frame in result.decode(video=0)]
    assert got == [0, 20, 40, 120, 200, 220, 240, 420, 600]


# ------------------------------------------------------------------ faults


def test_existing_output_needs_overwrite(interpolate):
    save_clip("clip.gif")
    save_frames("in", 2)
    Path("clip_x2.mp4").write_text("mine")
    Path("in_x2").mkdir()
    Path("in_x2/mine").write_text("mine")
    code, out, err = interpolate("clip.gif")
    assert (code, out) == (4, [])
    assert err == ["flowwarp: clip_x2.mp4: exists; use --overwrite to replace it"]
    assert Path("clip_x2.mp4").read_text() == "mine"
    assert interpolate("clip.gif", "--overwrite")[0] == 0
    assert video_info("clip_x2.mp4").width == WIDTH
    for options in ([], ["--overwrite"], ["--dry-run"]):  # a folder is never emptied
        code, _, err = interpolate("in", *options)
        assert (code, len(err)) == (4, 1)
        assert "in_x2: exists and is not an empty folder" in err[0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("m.png", "exists; use --overwrite"), ("m.gif", "was created meanwhile; the result is")],
)
def test_output_created_during_work_is_not_replaced(interpolate, monkeypatch, name, problem):
    save_frames("in", 2)
    fit = interpolation.interpolate_video

    def late(*arguments, **options):
        for count, frame in enumerate(fit(*arguments, **options)):
            if count == 2:
                Path(name).write_text("mine")
            yield frame

    monkeypatch.setattr(interpolation, "interpolate_video", late)
    code, out, err = interpolate(*sorted(map(str, Path("in").iterdir())), "-o", name)
    assert (code, out, len(err)) == (4, [], 1)
    assert err[0].startswith(f"flowwarp: {name}: {problem}")
    assert Path(name).read_text() == "mine"


def test_input_images_are_never_replaced(interpolate):
    for number in range(2):
        write_image(f"{number}.webp", picture(number))
    before = [Path(f"{number}.webp").read_bytes() for number in range(2)]
    for options in ([], ["--times", "4"]):  # the one in the middle; a video
        assert interpolate("0.webp", "1.webp", "-o", "1.webp", "--overwrite", *options) == (
            4, [], ["flowwarp: 1.webp: is the input 1.webp; name another file to write"],
        )  # fmt: skip
    assert [Path(f"{number}.webp").read_bytes() for number in range(2)] == before


def test_output_may_replace_its_video(interpolate):
    save_clip("clip.gif", 3)
    assert interpolate("clip.gif", "-o", "clip.gif")[0] == 4
    assert interpolate("clip.gif", "-o", "clip.gif", "--overwrite")[0] == 0
    assert video_info("clip.gif").frames == 5


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["clip.gif", "--times", "1"], 2, "--times"),
        (["clip.gif", "--times", "9"], 2, "--times"),
        (["clip.gif", "--fps", "fast"], 2, "--fps must be keep, or a number"),
        (["clip.gif", "--fps", "0"], 2, "--fps must be keep, or a number"),
        (["clip.gif", "--fps", "0.0001"], 2, "--fps must be keep, or a number from 1/1001"),
        (["clip.gif", "--fps", "nan"], 2, "--fps must be keep, or a number"),
        (["clip.gif", "--fps", "1e999999999"], 2, "--fps must be keep, or a number"),
        (["clip.gif", "--fps", "1/0"], 2, "--fps must be keep, or a number"),
        (["clip.gif", "--fps", "30", "--slow"], 2, "--slow means --fps keep"),
        (["clip.gif", "-o", "out", "--fps", "30"], 2, "--fps and --slow are for a video"),
        (["clip.gif", "-o", "out.gif", "--fps", "60"], 2, "a GIF plays from 1/655 to 50"),
        (["clip.gif", "-o", "out.png"], 2, "many frames need a folder or a video"),
        (["clip.gif", "-o", "out.txt"], 2, "OUT must end in .apng, .gif"),
        (["clip.gif", "clip.gif"], 2, "one clip at a time"),
        (["clip.webp", "clip.webp"], 2, "one clip at a time"),
        (["a.png"], 2, "one image has no motion"),
        (["still.webp"], 2, "one image has no motion"),
        (["a.png", "b.png", "-o", "m.png", "--times", "3"], 2, "many frames need a folder"),
        (["in/*.png"], 2, "give -o OUT when the frames are a pattern"),
        (["none.mp4"], 3, "none.mp4: no such file or directory"),
        (["a.png", "none.png"], 3, "none.png: no such file or directory"),
        (["a.png", "small.png"], 3, "small.png: is 4x3, the first is 48x32"),
        (["a.png", "clear.png"], 3, "clear.png: has transparency, the first has none"),
        (["clear.png", "a.png"], 3, "a.png: has no transparency, the first has some"),
        (["a.png", "broken.png"], 3, "broken.png: is not a picture of a known type"),
        (["still.gif"], 3, "still.gif: is a single frame; motion needs two"),
        (["broken.mp4"], 3, "broken.mp4: is not a video of a known type"),
        (["empty"], 3, "empty: holds no file that can be read"),
        (["clips"], 3, "clips: holds no file that can be read"),
        (["clips/*.webp"], 3, "clips/*.webp: holds no file that can be read"),
        (["clip.gif", "-o", "a.png/out.mp4"], 4, "a.png is not a folder"),
    ],
)
def test_errors_are_one_line_and_write_nothing(interpolate, arguments, code, words):
    save_clip("clip.gif", 2)
    save_clip("still.gif", 1)
    save_frames("in", 2)
    for folder in ("empty", "clips"):
        Path(folder).mkdir()
    for name in ("clip.webp", "clips/a.webp", "clips/b.webp"):
        save_clip(name, 2)
    write_image("still.webp", picture(0))
    write_image("a.png", picture(0))
    write_image("b.png", picture(1))
    write_image("small.png", picture()[:, :3, :4])
    write_image("clear.png", picture(channels=4))
    for name in ("broken.png", "broken.mp4"):
        Path(name).write_text("no picture")
    before = everything()
    got, out, err = interpolate(*arguments)
    assert (got, out, len(err)) == (code, [], 1)
    assert words in err[0]
    assert everything() == before


def test_missing_weights(call):
    save_clip("clip.gif", 2)
    before = everything()
    code, _, err = call("interpolate", "clip.gif", "--weights", "none.safetensors")
    assert code == 3
    assert "none.safetensors: no such file" in err[0]
    assert everything() == before


def test_cuda_without_a_gpu_is_refused(interpolate, monkeypatch):
    save_clip("clip.gif", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = interpolate("clip.gif", "--device", "cuda")
    assert (code, out, len(err)) == (2, [], 1)
    assert "--device cuda: torch finds no CUDA GPU here" in err[0]
    assert interpolate("clip.gif", "--device", "cpu")[0] == 0
