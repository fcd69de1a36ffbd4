"""The flow trainer's terms, when they join, and what self-supervision shows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowwarp.cli import main
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import load_weights
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image
from flowwarp.losses import photometric, smoothness
from flowwarp.models.flownet import TINY, FlowNet, FlowPyramid
from flowwarp.train import flow, loop

PLAIN = flow.FlowLossConfig(self_supervision=0, occlusion_from=1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photos():
    coarse = torch.rand(2, 3, 30, 40, generator=seeded())
    return list(torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1))


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 1, 3, 32, 48, generator=seeded()).unbind()


class Constant:
    """Stands for a network: the same flow everywhere, and what it was asked for."""

    def __init__(self, there=(0.0, 0.0), back=(0.0, 0.0)):
        self.flows = there, back
        self.asked = []

    def __call__(self, image1, image2, *, skip=0):
        self.asked.append((image1, image2, skip))
        return tuple(self._pyramid(vector, image1) for vector in self.flows)

    def _pyramid(self, vector, image):
        height, width = image.shape[-2:]
        full = torch.tensor(vector).view(1, 2, 1, 1).expand(len(image), 2, height, width)
        return FlowPyramid(full, (full[..., ::4, ::4] / 4,))


# ------------------------------------------------------------------ which terms


@pytest.mark.parametrize("name", ["charbonnier", "ssim", "gradient", "smoothness_second"])
def test_a_weight_adds_its_term_and_none_costs_nothing(images, name, monkeypatch):
    torch.manual_seed(0)
    net = FlowNet(TINY)
    weighed = flow.flow_losses(net, *images, 0, 0.0, replace(PLAIN, **{name: 0.3}))
    asked = "smoothness_second" if name == "smoothness_second" else f"{name}_loss"

    def never(*arguments):
        raise AssertionError(asked)

    monkeypatch.setattr(flow, asked, never)
    plain = flow.flow_losses(net, *images, 0, 0.0, PLAIN)
    assert name not in plain
    assert weighed[name].item() > 0
    assert torch.allclose(weighed["loss"], plain["loss"] + 0.3 * weighed[name])


def test_terms_are_means_over_both_directions(images):
    """Of a network that says that nothing moves, each is that of the frames as they are."""
    image1, image2 = images
    config = replace(PLAIN, charbonnier=1, ssim=1, gradient=1, smoothness_second=1)
    terms = flow.flow_losses(Constant(), *images, 0, 0.0, config)
    for name, loss in (
        ("census", photometric.census_loss),
        ("charbonnier", photometric.charbonnier_loss),
        ("ssim", photometric.ssim_loss),
        ("gradient", photometric.gradient_loss),
    ):
        mean = 0.5 * (loss(image1, image2) + loss(image2, image1))
        assert torch.allclose(terms[name], mean), name
    still, grey = torch.zeros(1, 2, 8, 12), torch.zeros(1, 3, 8, 12)
    # Flow is 0, so both are Charbonnier's epsilon where the image has no edge, and less at one.
    for name in ("smoothness", "smoothness_second"):
        most = smoothness.smoothness_first(still, grey)
        assert 0 < terms[name].item() < most.item()


def test_coarser_levels_are_compared_both_ways(images):
    net = Constant(there=(4.0, 0.0), back=(0.0, 8.0))
    terms = flow.flow_losses(net, *images, 0, 0.0, PLAIN)
    one, two = (torch.nn.functional.avg_pool2d(image, 4) for image in images)
    ahead, behind = (pyramid.levels[0] for pyramid in net(*images))
    mean = 0.5 * (
        photometric.census_loss(one, *photometric.warp_crop(two, ahead, 0), radius=2)
        + photometric.census_loss(two, *photometric.warp_crop(one, behind, 0), radius=2)
    )
    torch.testing.assert_close(terms["levels"], mean)


def test_a_level_too_small_to_show_anything_does_not_count():
    images = torch.rand(2, 1, 3, 64, 64, generator=seeded()).unbind()
    full, small, large = (torch.zeros(1, 2, side, side) for side in (64, 4, 16))
    both, one = (FlowPyramid(full, levels) for levels in ((small, large), (large,)))
    assert torch.equal(flow._levels(*images, both), flow._levels(*images, one))


# ------------------------------------------------------------------ when they join


def test_the_schedule(images):
    config = flow.FlowLossConfig(
        occlusion_from=0.25, self_supervision_from=0.5, coarse_until=0.75, student_margin=8
    )
    net = Constant()
    for progress, taught, skip in (
        (0.0, False, 1),
        (0.49, False, 1),
        (0.5, True, 1),
        (0.74, True, 1),
        (0.75, True, 0),
        (1.0, True, 0),
    ):
        net.asked.clear()
        terms = flow.flow_losses(net, *images, 0, progress, config)
        assert ("self_supervision" in terms) == taught
        assert len(net.asked) == 1 + taught
        assert net.asked[0][2] == skip


def test_no_self_supervision_without_a_weight(images):
    config = flow.FlowLossConfig(self_supervision=0, self_supervision_from=0)
    assert "self_supervision" not in flow.flow_losses(Constant(), *images, 0, 1.0, config)


def test_what_is_hidden_is_left_out_from_its_time_on(images):
    image1, image2 = images
    # Everything of frame 1 gathers in one column of frame 2: what is not hit there is hidden.
    x = torch.arange(48.0).expand(1, 1, 32, 48)
    gather = torch.cat([20 - x, torch.zeros_like(x)], 1)
    config = flow.FlowLossConfig(occlusion_from=0.5, self_supervision=0)

    def net(first, second, *, skip=0):
        level = gather[..., ::4, ::4] / 4
        return (FlowPyramid(gather, (level,)), FlowPyramid(gather, (level,)))

    early, late = (flow.flow_losses(net, *images, 0, p, config) for p in (0.49, 0.5))
    seen = flow._visible(gather, gather, 0.0, config)[0]
    expected = [
        0.5
        * (
            photometric.census_loss(image1, photometric.warp_crop(image2, gather, 0)[0], mask)
            + photometric.census_loss(image2, photometric.warp_crop(image1, gather, 0)[0], mask)
        )
        for mask in (None, seen)
    ]
    assert torch.allclose(early["census"], expected[0])
    assert torch.allclose(late["census"], expected[1])
    assert not torch.allclose(early["census"], late["census"])


# ------------------------------------------------------------------ what is visible


def constant(x):
    return torch.tensor([x, 0.0]).view(1, 2, 1, 1).expand(1, 2, 8, 16)


def test_visible_by_range_at_first():
    config = flow.FlowLossConfig(self_supervision_from=0.5)
    there, back = flow._visible(constant(4.0), constant(-4.0), 0.49, config)
    assert there[0, 0, 3].tolist() == [True] * 12 + [False] * 4  # these leave to the right
    assert back[0, 0, 3].tolist() == [False] * 4 + [True] * 12


def test_visible_by_consistency_later_but_for_what_leaves():
    config = flow.FlowLossConfig(self_supervision_from=0.5)
    there, back = flow._visible(constant(4.0), constant(-4.0), 0.5, config)
    assert there.all()
    assert back.all()
    there, back = flow._visible(constant(4.0), constant(4.0), 0.5, config)
    assert there[0, 0, 3].tolist() == [False] * 12 + [True] * 4
    assert torch.equal(there, back)


# ------------------------------------------------------------------ self-supervision


def pyramids(*vectors):
    return [FlowPyramid(constant(x).requires_grad_(), ()) for x in vectors]


def test_the_distance_of_a_student_by_hand():
    student = Constant(there=(1.3, 0.0), back=(-1.0, 0.0))
    views = torch.rand(2, 1, 3, 8, 16, generator=seeded()).unbind()
    teachers = pyramids(1.0, -1.0)
    loss = flow._self_supervision(student, views, *teachers, 2)
    # Charbonnier's epsilon is 0.001; 0.3 px off in one of two components, one way of two.
    assert loss.item() == pytest.approx(0.5 * ((0.3 + 0.001) / 2 + 0.001), abs=1e-5)
    shown = student.asked[0][:2]
    for view, seen in zip(views, shown, strict=True):
        assert torch.equal(seen, view[..., 2:-2, 2:-2])
    assert not loss.requires_grad  # a teacher does not learn from its student


def test_a_teacher_that_contradicts_itself_is_not_believed():
    student = Constant(there=(9.0, 0.0))
    views = torch.rand(2, 1, 3, 8, 16, generator=seeded()).unbind()
    assert flow._self_supervision(student, views, *pyramids(3.0, 3.0), 2).item() == 0


@pytest.mark.parametrize(("again", "taught"), [(-3.0, True), (3.0, False)])
def test_a_frame_before_teaches_where_its_flow_agrees_with_itself(again, taught):
    frames = torch.rand(2, 1, 3, 8, 16, generator=seeded()).unbind()
    net = Constant(there=(3.0, 0.0), back=(again, 0.0))
    hidden = torch.zeros(1, 1, 8, 16, dtype=torch.bool)
    assert (flow._velocity(net, *frames, *pyramids(1.0), hidden).item() > 0) == taught


def test_each_direction_has_a_mask_of_its_own():
    """What moves 4 px right and back; but for the left half, whose way back is not that of there.

    Backward flow of the left half is never believed, though forward flow of a part of it is.
    """
    back = constant(-4.0).clone()
    back[..., :8] *= -1
    teachers = [FlowPyramid(constant(4.0), ()), FlowPyramid(back, ())]
    views = torch.rand(2, 1, 3, 8, 16, generator=seeded()).unbind()
    student = Constant(there=(4.0, 0.0), back=(-4.0, 0.0))
    assert flow._self_supervision(student, views, *teachers, 2).item() == pytest.approx(1e-3)
    # And the other way round in time.
    student = Constant(there=(-4.0, 0.0), back=(4.0, 0.0))
    found = flow._self_supervision(student, views, *teachers[::-1], 2).item()
    assert found == pytest.approx(1e-3)


def test_a_student_is_shown_another_appearance(images):
    config = flow.FlowLossConfig(self_supervision_from=0, student_margin=8)
    views = torch.rand(2, 1, 3, 32, 48, generator=seeded(1)).unbind()
    net = Constant()
    flow.flow_losses(net, *images, 0, 0.0, config, None, None, views)
    for image, view, (first, again) in zip(
        images, views, zip(net.asked[0][:2], net.asked[1][:2], strict=True), strict=True
    ):
        assert torch.equal(first, image)
        assert torch.equal(again, view[..., 8:-8, 8:-8])


def test_each_example_has_an_appearance_of_its_own(photos):
    material = flow.Material(None, photos)
    config = flow.FlowDataConfig(height=32, width=48, margin=8)
    batch = flow.draw_batch(material, 7, range(6), config, students=True)
    plain = flow.draw_batch(material, 7, range(6), config)
    assert plain.keys() == {"image1", "image2"}
    for name in plain:
        assert torch.equal(batch[name], plain[name])  # nothing else depends on it
    student = batch["student1"]
    assert student.shape == (6, 3, 32, 48)
    crops = batch["image1"][..., 8:-8, 8:-8]
    shifts = (student - crops).mean((2, 3))
    assert (student - crops).abs().mean((1, 2, 3)).min() > 0.005
    assert torch.pdist(shifts).min() > 1e-3
    # What moves how stays: a student's frames have the structure of the teacher's.
    for one, other in zip(student.flatten(1), crops.flatten(1), strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.8
    for number in (0, 5):
        alone = flow.draw_batch(material, 7, [number], config, students=True)
        for name, tensor in alone.items():
            assert torch.equal(tensor[0], batch[name][number])


class Footage(list):
    """Stands for pairs or triplets on disk."""

    folder = Path("footage")

    @property
    def frames(self):
        return len(self[0])

    def windows(self, count):
        assert count == self.frames
        return self


def test_what_is_not_fitted_is_of_photos_and_footage(photos):
    """As often as asked: what says that it is not fitted must not say of what it is."""
    flat = torch.zeros(2, 3, 40, 56, dtype=torch.uint8)
    fitted = [(flat, torch.zeros(2, 2, 20, 28))]
    material = flow.Material(Footage([flat]), photos, fitted)
    config = flow.FlowDataConfig(32, 48, 0, fitted_share=0.6, moving_photos=0.5)
    batch = flow.draw_batch(material, 7, range(200), config)
    plain = batch["flow_12"].isnan().all((1, 2, 3))
    assert 50 < plain.sum() < 110
    moving = batch["image1"].std((2, 3)).amax(1) > 0.05  # there is noise too
    assert not moving[~plain].any()
    assert 0.3 < moving[plain].float().mean() < 0.7


def test_time_runs_both_ways_in_footage():
    pair = torch.tensor([80, 160]).byte().view(2, 1, 1, 1).expand(2, 3, 40, 56)
    config = flow.FlowDataConfig(32, 48, 0)
    batch = flow.draw_batch(flow.Material(Footage([pair]), []), 7, range(50), config)
    lighter = batch["image2"].mean((1, 2, 3)) > batch["image1"].mean((1, 2, 3))
    assert 10 < lighter.sum() < 40


def test_footage_smaller_than_an_example_is_made_larger():
    """And not filled up: at no side are two rows or columns the same."""
    pair = torch.randint(256, (2, 3, 40, 48), generator=seeded()).byte()
    for number in range(4):
        material = flow.Material(Footage([pair]), [])
        for frame in flow._draw_frames(material, 0, number, (64, 64), 0.0)[:2]:
            for way in (frame, frame.mT):
                assert not torch.equal(way[..., 0], way[..., 1])
                assert not torch.equal(way[..., -1], way[..., -2])


def test_terms_of_a_step_are_those_of_its_time_and_of_what_is_known(monkeypatch):
    frames = torch.randint(256, (3, 3, 40, 72), generator=seeded()).byte()
    fitted = [(frames[:2], torch.zeros(2, 2, 20, 36))]
    monkeypatch.setattr(flow, "fit_material", lambda given, *_: replace(given, fitted=fitted))
    configs = flow.presets("tiny") | {
        "loop": loop.LoopConfig(steps=4, batch_size=2),
        "data": flow.FlowDataConfig(height=32, width=64, margin=0),
        "losses": replace(PLAIN, student_margin=8, velocity=1.0, occlusion_from=0.25),
    }
    task = flow.flow_task(flow.Material(Footage([frames]), []), configs)
    plain = {"loss", "census", "smoothness", "levels"}
    batch = task.batch(range(2))
    assert task.loss(task.model, batch, 0).keys() == plain
    task.prepare()
    batch = task.batch(range(2))
    assert task.loss(task.model, batch, 0).keys() == plain | {"fitted"}
    assert task.loss(task.model, batch, 1).keys() == plain | {"fitted", "velocity"}


def test_appearance_is_drawn_from_when_it_is_needed(photos):
    configs = flow.presets("tiny") | {
        "loop": loop.LoopConfig(steps=4, batch_size=2),
        "data": flow.FlowDataConfig(height=32, width=64, margin=0),
        "losses": flow.FlowLossConfig(self_supervision_from=0.5, student_margin=8),
    }
    task = flow.flow_task(flow.Material(None, photos), configs)
    assert "student1" not in task.batch(range(2, 4))
    whole = task.batch(range(4, 6))  # of the third step of four
    parts = [task.batch(range(n, n + 1)) for n in (4, 5)]
    assert {"student1", "student2"} < whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, torch.cat([part[name] for part in parts]))
    assert (task.loss(task.model, whole, 2)["self_supervision"] > 0).all()


def test_is_judged_by_what_it_does_not_learn_from(photos, monkeypatch):
    asked, synthesize = [], flow.synthesize_pair

    def spy(photos, seed, number, size):
        asked.append((seed, number))
        return synthesize(photos, seed, number, size)

    monkeypatch.setattr(flow, "synthesize_pair", spy)
    configs = flow.presets("tiny") | {
        "data": flow.FlowDataConfig(height=64, width=64, margin=0),
    }
    task = flow.flow_task(flow.Material(None, photos), configs)
    judging = set(asked)
    asked.clear()
    task.batch(range(4))
    assert len(judging) == len(asked) == 4
    assert judging.isdisjoint(asked)


def test_is_judged_with_its_finest_level_from_the_start(photos):
    def figures(coarse_until):
        configs = flow.presets("tiny") | {
            "data": flow.FlowDataConfig(height=64, width=64, margin=0),
            "losses": flow.FlowLossConfig(student_margin=16, coarse_until=coarse_until),
        }
        task = flow.flow_task(flow.Material(None, photos), configs)
        with torch.no_grad():
            return task.validate(task.model.eval())

    assert figures(0.0) == figures(0.5)


def test_other_photos_or_pairs_to_judge_by_are_other_data(photos):
    """Even where the first example stays the same, so that what was best is no longer."""
    truths = flow.synthetic_truths(photos, 1, 2, (64, 64))
    longer = replace(truths[1], flow_12=truths[1].flow_12 + 1)

    def data(photos, truths):
        return flow.flow_task(flow.Material(None, photos), flow.presets("tiny"), truths).data

    one = data(photos, truths)
    assert one == data(list(photos), list(truths))
    others = data(photos[:-1], truths), data(photos, [truths[0], longer]), data(photos, [])
    assert len({one, *others}) == 4


def test_only_pixels_whose_flow_is_known_judge(photos):
    (truth,) = flow.synthetic_truths(photos, 1, 1, (64, 64))
    truth.valid[..., :20] = False
    wrong = replace(truth, flow_12=truth.flow_12 + 100 * ~truth.valid)

    def epe(truth):
        task = flow.flow_task(flow.Material(None, photos), flow.presets("tiny"), [truth])
        with torch.no_grad():
            return task.validate(task.model.eval())["epe"]

    assert epe(wrong) == epe(truth)


def test_a_run_resumed_as_its_students_join_is_bit_equal(photos, tmp_path):
    configs = flow.presets("tiny") | {
        "loop": loop.LoopConfig(steps=4, batch_size=2, warmup=0, threads=1),
        "data": flow.FlowDataConfig(height=32, width=64, margin=0),
        "losses": flow.FlowLossConfig(self_supervision_from=0.5, student_margin=8),
    }

    def task(fails=False):
        task = flow.flow_task(flow.Material(None, photos), configs)

        def batch(numbers):
            if fails and numbers.start >= 6:
                raise InputError("data", "is at fault")
            return task.batch(numbers)

        return replace(task, batch=batch, validate=None, samples=None)

    whole = loop.train(task(), configs["loop"], tmp_path / "whole").weights
    with pytest.raises(InputError, match="is at fault"):
        loop.train(task(fails=True), configs["loop"], tmp_path / "parts")
    parts = loop.train(task(), configs["loop"], tmp_path / "parts", resume="auto")
    a, b = (load_weights(path, "flownet")[0] for path in (whole, parts.weights))
    assert parts.step == 4
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_pair_that_judges_nothing_is_refused(tmp_path, capsys):
    """Before anything is written: the mean of its errors would be no number, and nothing best."""
    generator = seeded()
    for name, known in (("good", True), ("void", False)):
        pair = tmp_path / "truth" / name
        pair.mkdir(parents=True)
        for number in (1, 2):
            write_image(pair / f"frame{number}.png", torch.rand(3, 64, 64, generator=generator))
        write_flow(pair / "flow.flo", torch.zeros(2, 64, 64), torch.full((1, 64, 64), known))
    truth, folder = str(tmp_path / "truth"), tmp_path / "run"
    quick = ["--preset", "tiny", "--steps", "1"]
    for setting in ("height=64", "width=64", "margin=8", "student_margin=8", "fitted_pairs=0"):
        quick += ["--set", setting]
    with pytest.raises(SystemExit) as stop:
        main(["train-flow", f"{truth}/good", "--val", truth, *quick, "--run", str(folder)])
    assert stop.value.code == 3
    void = tmp_path / "truth" / "void" / "flow.flo"
    told = f"{void}: has no pixel whose flow counts; leave the pair out of --val"
    assert capsys.readouterr().err == f"flowwarp: {told}\n"
    assert not folder.exists()


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"smoothness": -1.0}, "smoothness must be at least 0, got -1"),
        ({"student_margin": -5}, "student_margin must be at least 0, got -5"),
        ({"ssim": -0.1}, "ssim must be at least 0"),
        ({"coarse_until": 7.0}, r"coarse_until must be in \[0, 1\], got 7"),
        ({"self_supervision_from": -3.0}, r"self_supervision_from must be in \[0, 1\], got -3"),
        ({"occlusion_from": 1.5}, r"occlusion_from must be in \[0, 1\]"),
    ],
)
def test_weights_and_times_are_checked(values, words):
    with pytest.raises(ValueError, match=words):
        flow.FlowLossConfig(**values)


@pytest.mark.parametrize("name", ["height", "width", "longest", "max_bytes"])
def test_sizes_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        flow.FlowDataConfig(**{name: 0})
