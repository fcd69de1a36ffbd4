"""Names of weights in the package, and files of such names."""

from pathlib import Path

import pytest

from flowwarp.bundled import bundled
from flowwarp.errors import InputError
from flowwarp.io import checkpoints
from flowwarp.io.shipped import find_weights
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.pipelines.captions import load_captioner
from flowwarp.legacy.pipelines.load import load_reviser, load_upsampler
from flowwarp.legacy.pipelines.sequences import load_gpt
from flowwarp.legacy.pipelines.tokens import load_dvae
from flowwarp.pipelines.flow.estimate import load_flownet

LOADERS = {
    "flownet": load_flownet,
    "dvae": load_dvae,
    "gpt": load_gpt,
    "captioner": load_captioner,
    "reviser": load_reviser,
    "upsampler": load_upsampler,
}


@pytest.mark.parametrize("network", [*LOADERS, "sketcher"])
def test_base_is_in_the_package(network):
    assert find_weights("base", network) == bundled("weights") / f"{network}_base.safetensors"


def test_any_other_name_is_a_file():
    for name in ("small", "base.safetensors", Path("base"), "runs/base"):
        assert find_weights(name, "dvae") == name
    assert find_weights("small", "flownet") == bundled("weights") / "flownet_small.safetensors"


def test_loaders_take_names():
    assert isinstance(load_dvae("base"), DVAE)
    assert load_gpt("base").known
    assert not load_captioner("base").net.config.kinds
    assert load_captioner("base", network="sketcher").net.config.kinds


@pytest.mark.parametrize("network", LOADERS)
def test_a_package_without_weights_says_what_to_do(monkeypatch, tmp_path, network):
    monkeypatch.setattr(checkpoints, "bundled", lambda folder: tmp_path)
    trainer = "flow" if network == "flownet" else network
    with pytest.raises(InputError, match=f"^{network}_base: .*no weights.*train-{trainer},"):
        LOADERS[network]()  # "base" is what they take by themselves
