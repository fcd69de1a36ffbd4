"""The flow trainer's terms, when they join, and what self-supervision shows."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from flowwarp.bundled import bundled
from flowwarp.cli import main
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import load_weights
from flowwarp.io.flow_files import write_flow
from flowwarp.io.images import write_image
from flowwarp.models.flownet import TINY, FlowNet
from flowwarp.pipelines.flow.estimate import load_flownet
from flowwarp.train import flow, loop

PLAIN = flow.FlowLossConfig(self_supervision=0, occlusion_from=1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def photos():
    coarse = torch.rand(2, 3, 30, 40, generator=seeded())
    return list(torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1))


# ------------------------------------------------------------------ the schedule


def test_terms_occlusion_and_levels_follow_the_schedule(photos, monkeypatch):
    losses = flow.FlowLossConfig(
        occlusion_from=0.25, self_supervision_from=0.5, coarse_until=0.75, student_margin=8
    )
    configs = flow.presets("tiny") | {
        "loop": loop.LoopConfig(steps=100, batch_size=1),
        "data": flow.FlowDataConfig(height=32, width=64, margin=4),
        "losses": losses,
    }
    task = flow.flow_task(flow.Material(None, photos), configs)
    calls = []

    def spy(model, batch, weights, **options):
        calls.append((weights["self_supervision"], *options.values()))
        assert list(options) == ["margin", "occlusion", "skip", "student_margin"]

    monkeypatch.setattr(flow, "flow_losses", spy)
    for step in (0, 24, 25, 49, 50, 74, 75, 99):
        task.loss(task.model, {}, step)
    assert calls == [
        (0.0, 4, "none", 1, 8),
        (0.0, 4, "none", 1, 8),
        (0.0, 4, "range", 1, 8),
        (0.0, 4, "range", 1, 8),
        (0.1, 4, "consistency", 1, 8),
        (0.1, 4, "consistency", 1, 8),
        (0.1, 4, "consistency", 0, 8),
        (0.1, 4, "consistency", 0, 8),
    ]


def test_every_weight_of_the_configuration_is_a_term():
    names = {field.name for field in fields(flow.FlowLossConfig)}
    schedule = {"occlusion_from", "self_supervision_from", "student_margin", "coarse_until"}
    values = {name: number + 2.0 for number, name in enumerate(sorted(names - schedule))}
    weights = flow.FlowLossConfig(**values).weights(1.0)
    assert weights == {"census": 1.0} | values


def test_no_students_without_self_supervision():
    config = flow.FlowLossConfig(self_supervision=0, self_supervision_from=0)
    assert not config.has_students(1.0)


# ------------------------------------------------------------------ examples


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


def test_unfitted_examples_come_from_photos_and_footage(photos):
    """In the configured shares: the draw for `fitted_share` is independent of `moving_photos`."""
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


def test_footage_is_also_reversed_in_time():
    pair = torch.tensor([80, 160]).byte().view(2, 1, 1, 1).expand(2, 3, 40, 56)
    config = flow.FlowDataConfig(32, 48, 0)
    batch = flow.draw_batch(flow.Material(Footage([pair]), []), 7, range(50), config)
    lighter = batch["image2"].mean((1, 2, 3)) > batch["image1"].mean((1, 2, 3))
    assert 10 < lighter.sum() < 40


def test_footage_smaller_than_an_example_is_scaled_up():
    """And not filled up: at no side are two rows or columns the same."""
    pair = torch.randint(256, (2, 3, 40, 48), generator=seeded()).byte()
    for number in range(4):
        material = flow.Material(Footage([pair]), [])
        for frame in flow._draw_frames(material, 0, number, (64, 64), 0.0)[:2]:
            for way in (frame, frame.mT):
                assert not torch.equal(way[..., 0], way[..., 1])
                assert not torch.equal(way[..., -1], way[..., -2])


def test_the_task_has_the_terms_of_its_step_and_inputs(monkeypatch):
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


def test_student_views_are_drawn_once_self_supervision_joins(photos):
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


def test_validation_examples_are_not_trained_on(photos, monkeypatch):
    drawn, synthesize = [], flow.synthesize_pair

    def spy(photos, seed, number, size):
        drawn.append((seed, number))
        return synthesize(photos, seed, number, size)

    monkeypatch.setattr(flow, "synthesize_pair", spy)
    configs = flow.presets("tiny") | {
        "data": flow.FlowDataConfig(height=64, width=64, margin=0),
    }
    task = flow.flow_task(flow.Material(None, photos), configs)
    validation = set(drawn)
    drawn.clear()
    task.batch(range(4))
    assert len(validation) == len(drawn) == 4
    assert validation.isdisjoint(drawn)


def test_validation_uses_the_finest_level_from_the_start(photos):
    def figures(coarse_until):
        configs = flow.presets("tiny") | {
            "data": flow.FlowDataConfig(height=64, width=64, margin=0),
            "losses": flow.FlowLossConfig(student_margin=16, coarse_until=coarse_until),
        }
        task = flow.flow_task(flow.Material(None, photos), configs)
        with torch.no_grad():
            return task.validate(task.model.eval())

    assert figures(0.0) == figures(0.5)


def test_other_photos_or_validation_pairs_change_the_data(photos):
    """Even where the first example stays the same, so that what was best is no longer."""
    truths = flow.synthetic_truths(photos, 1, 2, (64, 64))
    longer = replace(truths[1], flow_12=truths[1].flow_12 + 1)

    def data(photos, truths):
        return flow.flow_task(flow.Material(None, photos), flow.presets("tiny"), truths).data

    one = data(photos, truths)
    assert one == data(list(photos), list(truths))
    others = data(photos[:-1], truths), data(photos, [truths[0], longer]), data(photos, [])
    assert len({one, *others}) == 4


def test_epe_counts_only_valid_pixels(photos):
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


def test_a_validation_pair_without_valid_flow_is_refused(tmp_path, capsys):
    """Before anything is written: its mean error would be NaN, and no weights the best."""
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
    message = f"{void}: has no pixel with valid flow; leave the pair out of --val"
    assert capsys.readouterr().err == f"flowwarp: {message}\n"
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


# ------------------------------------------------------------------ presets


@pytest.mark.parametrize("name", ["small", "base"])
def test_presets_are_the_recipes_of_the_shipped_weights(name):
    """Their command has no other setting, and the preset the network and steps of their card."""
    net = load_flownet(name)
    _, card = load_weights(bundled("weights") / f"flownet_{name}.safetensors")
    configs = flow.presets(name)
    assert f"--preset {name}" in card.notes["command"]
    assert "--set" not in card.notes["command"]
    assert configs["model"] == net.config
    assert configs["loop"].steps == card.step
    assert configs["losses"].self_supervision == 0


@pytest.mark.parametrize("preset", ["tiny", "small", "base"])
def test_going_on_from_trained_weights_is_short_and_gentle(preset):
    net = FlowNet(TINY)
    new, more = flow.presets(preset), flow.presets(preset, net)
    assert more["model"] == TINY
    assert (more["loop"].steps, more["loop"].validate_every) == (500, 100)
    assert more["loop"].learning_rate < new["loop"].learning_rate
    assert more["data"].fitted_pairs == min(500, new["data"].fitted_pairs)
    assert more["losses"] == replace(new["losses"], coarse_until=0.0)  # all levels from the start
