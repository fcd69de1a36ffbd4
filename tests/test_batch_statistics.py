"""Reads networks and losses: no batch norm, and nothing that is taken over the batch."""

import ast
import re
from pathlib import Path

import pytest
from torch import nn

import flowwarp
from flowwarp.train import exactness

ROOT = Path(flowwarp.__file__).parent
SOURCES = sorted(path for room in ("models", "losses") for path in (ROOT / room).glob("*.py"))
TORCH = {"torch", "F", "linalg"}
REDUCTIONS = re.compile(
    "(nan|log_|gumbel_)?(mean|sum|std|var|prod|norm|median|mode|quantile|max|min|softmax)|a(max|min)"
    "|(std|var)_mean|vector_norm|normalize|aminmax|arg(max|min|sort)|any|all|logsumexp"
    "|cum(sum|prod|max|min)|sort|topk|kthvalue|diff|renorm|cosine_similarity"
)
# These take the last axis (or the second) unless told otherwise.
SAFE = re.compile("(arg)?sort|topk|kthvalue|mode|diff|gumbel_softmax|normalize|cosine_similarity")
REDUCED = {"cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
BATCH_NORM = re.compile(r"(Lazy|Sync)?BatchNorm\w*|batch_norm|running_(mean|var|stats)")

# What is taken over all of a tensor, or its first axis, and still not over the batch.
ALLOWED = {
    "dvae.initialise_latent": "before training, on clips chosen once",
    "dvae.DVAE.decode_stream": "whether there is a code that does not exist: raises, changes none",
    "gpt.Decoder._listen": "whether any patch is a word: nothing changes where none is",
    "gpt.sample": "whether all rows have ended",
}


def dimensions(call, name):
    """Return the node that says over what is reduced; None if nothing does."""
    named = {word.arg: word.value for word in call.keywords}
    for word in ("dim", "axis", "dims"):
        if word in named:
            return named[word]
    function = call.func
    owner = function.value if isinstance(function, ast.Attribute) else None
    owner = getattr(owner, "attr", getattr(owner, "id", None))
    values = call.args[owner in TORCH :]
    return values[{"quantile": 1, "topk": 1, "norm": owner not in TORCH}.get(name, 0) :][:1] or None


def numbers(node):
    """Return the axes that are written out; of what is computed, none."""
    if isinstance(node, list):
        node = node[0]
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return []
    return list(value) if isinstance(value, tuple | list) else [value]


def faults(tree):
    """Yield the function and line of all that may see the batch as a whole."""

    def visit(node, place):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            place = [*place, node.name]
        name = getattr(node, "attr", getattr(node, "id", getattr(node, "arg", None)))
        if isinstance(name, str) and BATCH_NORM.fullmatch(name):
            yield ".".join(place), node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            over = dimensions(node, node.func.attr)
            own = getattr(node.func.value, "id", None) == "self"  # a layer named norm
            named = {word.arg: ast.unparse(word.value) for word in node.keywords}
            safe = own or SAFE.fullmatch(node.func.attr)
            whole = not safe if over is None else 0 in numbers(over)
            summed = node.func.attr in REDUCED and named.get("reduction") != "'none'"
            if (REDUCTIONS.fullmatch(node.func.attr) and whole) or summed:
                yield ".".join(place), node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, place)

    yield from visit(tree, [])


@pytest.mark.parametrize(
    "code",
    [
        "nn.BatchNorm2d(8)",
        "F.batch_norm(x, a, b)",
        "InstanceNorm2d(8, track_running_stats=True, running_stats=1)",
        "x.mean()",
        "x.sum(0)",
        "x.var((0, 2, 3))",
        "x.std(dim=0)",
        "x.mean(axis=[0, 1])",
        "torch.mean(x)",
        "torch.amax(x, 0)",
        "torch.linalg.vector_norm(x, dim=0)",
        "torch.linalg.vector_norm(x)",
        "x.softmax(0)",
        "x.norm()",
        "x.norm(2, 0)",
        "x.quantile(0.5)",
        "x.topk(3, 0)",
        "x.sort(dim=0)",
        "F.cross_entropy(a, b)",
        "F.mse_loss(a, b, reduction='mean')",
    ],
)
def test_faults_are_seen(code):
    assert next(faults(ast.parse(f"def f(x):\n    return {code}"))) == ("f", 2)


@pytest.mark.parametrize(
    "code",
    [
        "x.mean(1)",
        "x.sum((1, 2, 3))",
        "x.var(dim=-1)",
        "torch.amax(x, 1)",
        "torch.linalg.vector_norm(x, dim=-1)",
        "x.norm(dim=1)",
        "x.quantile(0.5, 1)",
        "x.topk(3)",
        "self.norm(x)",
        "max(x)",
        "F.cross_entropy(a, b, reduction='none')",
        "nn.GroupNorm(8, 16)",
        "x.roll(1, 0)",
    ],
)
def test_what_is_right_passes(code):
    assert not list(faults(ast.parse(code)))


def test_nothing_is_taken_over_the_batch():
    found = {}
    for path in SOURCES:
        for place, line in faults(ast.parse(path.read_text())):
            found.setdefault(f"{path.stem}.{place}", []).append(line)
    assert {place: found[place] for place in found if place not in ALLOWED} == {}
    assert sorted(ALLOWED) == sorted(found)  # none that is no longer needed


def test_no_network_holds_a_batch_norm():
    """Neither by a library's block: the modules themselves are looked at."""
    for network, _ in exactness.networks().values():
        for module in network.modules():
            assert not isinstance(module, nn.modules.batchnorm._NormBase), module
        names = [name for name, _ in network.named_buffers()]
        assert not [name for name in names if "running" in name or "tracked" in name]


def test_every_network_and_loss_was_read():
    assert {"classifier", "dvae", "flownet", "gpt", "upsampler", "photometric", "smoothness"} <= {
        path.stem for path in SOURCES
    }
