from dataclasses import dataclass
from typing import Literal

import pytest

from flowwarp.errors import InputError
from flowwarp.train.settings import check_least, check_shares, override, read_toml, to_toml


@dataclass(frozen=True)
class Loop:
    steps: int = 10
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    name: str = "x"
    flag: bool = False
    sizes: tuple[int, ...] = (1, 2)
    limit: int | None = None
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True)
class Model:
    width: int = 3
    seed: int = 1


CONFIGS = {"loop": Loop(), "model": Model()}


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("steps=20", "steps", 20),
        ("loop.steps = 1_000", "steps", 1000),
        ("rate=1", "rate", 1.0),
        ("rate=3e-4", "rate", 3e-4),
        ("kind=b", "kind", "b"),
        ("name=hello world = 3", "name", "hello world = 3"),
        ("flag=true", "flag", True),
        ("sizes=3,4,5", "sizes", (3, 4, 5)),
        ("sizes=[7]", "sizes", (7,)),
        ("limit=5", "limit", 5),
        ("limit=none", "limit", None),
    ],
)
def test_set(setting, name, value):
    result = override(CONFIGS, [setting])
    assert getattr(result["loop"], name) == value
    assert type(getattr(result["loop"], name)) is type(value)
    assert result["model"] == Model()


@dataclass(frozen=True)
class Levels:
    widths: tuple[int, ...] = (1, 2)
    blocks: tuple[int, ...] = (1, 1)

    def __post_init__(self):
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must be as many")


def test_settings_that_are_valid_only_together():
    configs = {"levels": Levels()}
    wanted = {"levels": Levels((1, 2, 3), (4, 5, 6))}
    assert override(configs, ["widths=1,2,3", "blocks=4,5,6"]) == wanted
    assert override(configs, ["blocks=4,5,6", "widths=7,8,9", "widths=1,2,3"]) == wanted
    with pytest.raises(InputError, match="--set widths: widths and blocks must be as many"):
        override(configs, ["widths=1,2,3"])


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("step=20", "unknown key 'step'; did you mean"),
        ("loop.width=20", "unknown key 'loop.width'"),
        ("zzz=1", "the keys are loop.steps"),
        ("seed=1", "write loop.seed or model.seed"),
        ("steps", "write key=value"),
        ("steps=1.5", "must be a whole number"),
        ("steps=true", "must be a whole number"),
        ("steps=", "must be a whole number"),
        ("steps=0", "steps must be at least 1"),
        ("rate=fast", "must be a number"),
        ("rate=nan", "must be a number"),
        (f"rate={'9' * 400}", "must be a number"),
        (f"steps={'9' * 5000}", "must be a whole number"),
        (f"sizes={'[' * 3000}", "must be a list"),
        ("flag=1", "must be true or false"),
        ("kind=c", "must be one of a, b"),
        ("sizes=a", "must be a list"),
        ("steps=none", "must be a whole number"),
    ],
)
def test_wrong_setting_is_named(setting, problem):
    with pytest.raises(InputError) as fault:
        override(CONFIGS, [setting])
    assert problem in str(fault.value)
    assert setting.split("=")[0] in str(fault.value)
    assert len(str(fault.value)) < 300


def test_toml_round_trip(tmp_path):
    configs = {
        "loop": Loop(3, 1e-5, "b", 'q"\\\n\x7fé', True, (4,), 5),
        "model": Model(7),
    }
    path = tmp_path / "config.toml"
    path.write_text(to_toml(configs), encoding="utf-8")
    assert read_toml(path, CONFIGS) == configs
    path.write_text("[model]\nwidth = 9\n")
    assert read_toml(path, CONFIGS) == {"loop": Loop(), "model": Model(9)}


@dataclass(frozen=True)
class Labels:
    pairs: tuple[tuple[str, tuple[str, ...]], ...] = ()


def test_nested_lists_round_trip(tmp_path):
    configs = {"labels": Labels((("hair", ("red", "blue")), ("hat", ())))}
    path = tmp_path / "config.toml"
    path.write_text(to_toml(configs))
    assert read_toml(path, {"labels": Labels()}) == configs
    for text in ("3", '["hair"]', '[["hair"]]', '[["hair", ["red"], 3]]', '[["hair", "red"]]'):
        path.write_text(f"[labels]\npairs = {text}\n")
        with pytest.raises(InputError, match=r"labels\.pairs: is .*, must be a list"):
            read_toml(path, {"labels": Labels()})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[loop", "is not TOML"),
        (f"[loop]\nsteps = {'9' * 5000}", "is not TOML"),
        (f"[loop]\nsizes = {'[' * 3000}", "is not TOML"),
        ("[lop]\nsteps = 1", "unknown section or key 'lop'"),
        ("loop = 3", "unknown section or key 'loop'"),
        ("[loop]\nstep = 1", "unknown key 'loop.step'"),
        ("[loop]\nsteps = '1'", "must be a whole number"),
        ("[loop]\nsteps = -1", "steps must be at least 1"),
        ("[loop]\nsizes = 3", "must be a list"),
    ],
)
def test_wrong_toml_is_named(tmp_path, text, problem):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InputError) as fault:
        read_toml(path, CONFIGS)
    assert problem in str(fault.value)
    assert str(path) in str(fault.value)


@pytest.mark.parametrize("value", [-1e-9, 1.1, float("nan"), float("inf")])
def test_a_share_outside_0_to_1_is_refused(value):
    check_shares(Loop(rate=1.0), "rate")
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got"):
        check_shares(Loop(rate=value), "rate")


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_setting_below_its_minimum_is_refused(value):
    check_least(Loop(rate=1.0), 1, "rate")
    with pytest.raises(ValueError, match="rate must be at least 1, got"):
        check_least(Loop(rate=value), 1, "rate")
