"""The learning rate of each step, and where a training ends early, by recorded curves."""

from dataclasses import replace

import pytest

import tiny
from flowwarp.train.schedule import learning_rate, planned_end
from flowwarp.train.task import LoopConfig
from tiny import metrics


def test_cosine():
    config = LoopConfig(steps=110, warmup=10, learning_rate=1.0, floor=0.1)
    assert learning_rate(config, 0, 110) == pytest.approx(0.1)
    assert learning_rate(config, 9, 110) == 1.0
    assert learning_rate(config, 60, 110) == pytest.approx(0.55)
    assert learning_rate(config, 110, 110) == pytest.approx(0.1)
    assert learning_rate(replace(config, decay="constant"), 109, 110) == 1.0


def test_constant_then_linear():
    config = LoopConfig(warmup=10, learning_rate=2.0, floor=0.1, flat=0.4, decay="linear")
    rates = [learning_rate(config, step, 100) for step in (9, 40, 70, 100)]
    assert rates == pytest.approx([2.0, 2.0, 2 * 0.55, 0.2])
    # A warm-up that is longer is not cut short.
    assert learning_rate(replace(config, warmup=60), 59, 100) == 2.0
    assert learning_rate(replace(config, warmup=60), 80, 100) == pytest.approx(2 * 0.55)


# ------------------------------------------------------------------ an early end

EARLY = LoopConfig(
    steps=1000, flat=0.4, decay="linear", validate_every=100, patience=2, least_gain=0.01
)


def follow(curve, config=EARLY):
    """Return where a training ends whose validations find a curve, by step, and where it falls."""
    steps, step = config.steps, 0
    best = gained = None
    while step < steps:
        step = min(step + config.validate_every, steps)
        value = curve(step)
        if gained is None or value < gained[0] * (1 - config.least_gain):
            gained = value, step
        if best is None or value < best[0]:
            best = value, step
        steps = planned_end(config, steps, step, best[1], gained[1])
    return steps, best[1]


def test_a_training_that_gains_has_all_its_steps():
    assert follow(lambda step: 1 / step) == (1000, 1000)


def test_patience_0_never_ends_early():
    assert follow(lambda step: step, replace(EARLY, patience=0)) == (1000, 100)


def test_a_plateau_begins_the_decay_at_once():
    """From step 100 on it gains under 1 %: at 300 the rate falls, and the end is at 300 / 0.4."""
    assert follow(lambda step: 1 - step * 1e-5) == (750, 750)


def test_a_curve_that_rises_ends():
    """Best at 300 of 2000: the rate falls at 500, the end is two validations later."""
    config = replace(EARLY, steps=2000)
    assert follow(lambda step: abs(step - 300) + 100, config) == (700, 300)
    # While the rate falls it may fall once more.
    fallen = {600: 50.0, 700: 40.0}
    assert follow(lambda step: fallen.get(step, abs(step - 300) + 100), config) == (900, 700)


def test_recorded_curve_of_a_network_too_large_for_its_clips():
    """512 x 12 on 400 clips, held-out nats by quarters: not one step after it has doubled."""
    recorded = {1: 0.645, 2: 0.604, 3: 0.716, 4: 0.879}
    config = replace(EARLY, steps=1105, validate_every=1105 // 12)

    def between(step):
        place = max(1.0, min(4.0, 4 * step / 1105))
        low = min(3, int(place))
        return recorded[low] + (place - low) * (recorded[low + 1] - recorded[low])

    end, best = follow(between, config)
    assert between(best) < 1.01 * 0.604
    assert end < 0.8 * 1105


def test_a_run_ends_early_and_stays_ended(tmp_path):
    """Validation of the tiny task never gains: the loop stops, and a resumed one does likewise."""
    task = replace(tiny.make(), validate=lambda net: {"loss": 1.0}, metric="loss")
    config = tiny.config(
        steps=100, validate_every=4, patience=2, flat=0.5, decay="linear", save_every=5
    )
    result = tiny.run(task, config, tmp_path / "whole")
    # Best at 4, nothing gained by 12: the end is at 24, but 20 is two validations after 12.
    assert (result.step, result.best) == (20, (1.0, 4))
    lines = (line for line in metrics(tmp_path / "whole") if "learning_rate" in line)
    rates = {line["step"]: line["learning_rate"] for line in lines}
    assert rates[12] > rates[15] > rates[18]
    resumed = tiny.run(task, config, tmp_path / "whole", resume="auto")
    assert (resumed.step, resumed.best) == (20, (1.0, 4))
