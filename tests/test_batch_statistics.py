"""Source code of networks, losses and trainers: no batch norm, no reduction over the batch."""

import ast
import re
from pathlib import Path

import pytest
from torch import nn

import flowwarp
from flowwarp.selftest import exactness

ROOT = Path(flowwarp.__file__).parent
SOURCES = sorted(
    [
        *(path for room in ("models", "losses", "train") for path in (ROOT / room).glob("*.py")),
        ROOT / "metrics" / "perceptual.py",
    ]
)
TORCH = {"torch", "F", "nn", "linalg", "functional"}
OURS = {"self", "net", "block", "math"}  # such as a layer self.norm; none reduces a tensor
REDUCTIONS = re.compile(
    "(nan|log_|gumbel_)?(mean|sum|std|var|prod|norm|median|mode|quantile|max|min|softmax)|a(max|min)"
    "|(std|var)_mean|vector_norm|normalize|aminmax|arg(max|min|sort)|any|all|logsumexp"
    "|cum(sum|prod|max|min)|sort|topk|kthvalue|diff|renorm|cosine_similarity"
)
# The default axis of these is the last or the second.
SAFE = re.compile("(arg)?sort|topk|kthvalue|mode|diff|gumbel_softmax|normalize|cosine_similarity")
BUILT_IN = {"sum", "max", "min", "any", "all"}  # Python's functions, not methods of tensors
# Losses of torch, functions and modules: over all elements without ``reduction="none"``.
REDUCED = re.compile(r"(binary_)?cross_entropy(_with_logits)?|kl_div|\w+_loss|\w+Loss")
FIRST = (0, -4, -5)  # axes that are the batch axis of images or videos
BATCH_NORM = re.compile(r"(Lazy|Sync)?BatchNorm\w*|batch_norm|running_(mean|var|stats)")

# Reductions over a whole tensor or its first axis that are not over the batch, and why.
ALLOWED = {
    "losses/reconstruction.gradient_error": "differences along y and x, which it counts itself",
    "losses/smoothness._directions": "differences along y and x, which it counts itself",
    "train/classifier.classifier_losses": "over attributes, which are stacked",
    "train/classifier.classifier_task.validate": "the figures of a validation",
    "train/dvae.dvae_task.validate": "the figures of a validation",
    "losses/unsupervised.level_census": "over levels, which are stacked",
    "train/flow._held_out_losses": "the figures of a validation",
    "train/step.compute_gradients": "sums of examples, over a number that is fixed",
    "train/checkpoint.save": "whether weights are finite",
    "train/optimizers._orthogonalise": "the norm of a matrix of weights",
    "train/upsampler.upsampler_task.validate": "the figures of a validation",
    "models/gpt.first_rows": "over the digits of a patch, none of an example",
    "train/gpt.code_weights": "over the codes of clips chosen once: before training",
    "train/gpt.gpt_task.validate": "the figures of a validation",
    "train/video_check.check_clips": "a figure that is printed",
    "train/video_check.overfit": "over a batch that never changes, to see the clips come out",
    "train/video_report._describe_samples": "the usual distance to the nearest clip, a figure",
    "train/video_plan.seconds_per_step": "a gradient that is measured, not used",
}


def dimensions(call, name):
    """Return the node of the axes that are reduced; None if there is none."""
    named = {word.arg: word.value for word in call.keywords}
    for word in ("dim", "axis", "dims"):
        if word in named:
            return named[word]
    free = owner_of(call.func) in TORCH or isinstance(call.func, ast.Name)  # a function of x
    values = call.args[free:]
    first = {"quantile": 1, "topk": 1, "kthvalue": 1, "gumbel_softmax": 3, "norm": not free}
    found = values[first.get(name, 0) :][:1]
    return found[0] if found else None


def owner_of(function):
    """Return the last name before a function's own; None if there is none."""
    owner = function.value if isinstance(function, ast.Attribute) else None
    return getattr(owner, "attr", getattr(owner, "id", None))


def may_hold_the_batch(node):
    """Return whether axes may hold the batch axis; computed ones may."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return True
    axes = value if isinstance(value, tuple | list) else [value]
    return any(
        axis in FIRST for axis in axes
    )  # also if the argument is not an axis, such as a dictionary


def contracts_the_batch(call):
    """Return whether an einsum sums over the first axis of its first operand."""
    named = ast.literal_eval(call.args[0]) if call.args and is_text(call.args[0]) else ""
    inputs, arrow, result = named.replace(" ", "").partition("->")
    return bool(arrow) and inputs[:1] not in result


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def faults(tree):
    """Yield the function and line of everything that may reduce over the batch."""

    def visit(node, place):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            place = [*place, node.name]
        name = getattr(node, "attr", getattr(node, "id", getattr(node, "arg", None)))
        if isinstance(name, str) and BATCH_NORM.fullmatch(name):
            yield ".".join(place), node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            over = dimensions(node, called)
            own = owner_of(node.func) in OURS
            bare = isinstance(node.func, ast.Name) and called in BUILT_IN
            named = {word.arg: ast.unparse(word.value) for word in node.keywords}
            whole = may_hold_the_batch(over) if over else not SAFE.fullmatch(called)
            reduces = REDUCTIONS.fullmatch(called) and not (bare or own) and whole
            torchs = owner_of(node.func) in TORCH and REDUCED.fullmatch(called)
            summed = torchs and named.get("reduction") != "'none'"
            if reduces or summed or (called == "einsum" and contracts_the_batch(node)):
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
        "F.binary_cross_entropy_with_logits(a, b)",
        "F.kl_div(a, b, reduction='batchmean')",
        "F.gaussian_nll_loss(a, b, c)",
        "torch.nn.functional.nll_loss(a, b)",
        "nn.CrossEntropyLoss()(a, b)",
        "nn.BCEWithLogitsLoss(reduction='sum')",
        "x.mean(-4)",
        "x.mean((-5, -1))",
        "x.mean(dim=axes)",
        "x.sum(first)",
        "mean(x)",
        "softmax(x, 0)",
        "torch.einsum('bchw->chw', x)",
        "einsum('bi, bj -> ij', x, y)",
    ],
)
def test_reductions_over_the_batch_are_found(code):
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
        "nn.CrossEntropyLoss(reduction='none')(a, b)",
        "mean(x, 1)",
        "mirror(x, {})",
        "sum(parts)",
        "census_loss(a, b)",
        "torch.einsum('bchw->bc', x)",
        "torch.einsum('bij, bjk -> bik', x, y)",
    ],
)
def test_other_code_passes(code):
    assert not list(faults(ast.parse(code)))


def test_nothing_reduces_over_the_batch():
    found = {}
    for path in SOURCES:
        for place, line in faults(ast.parse(path.read_text())):
            name = f"{path.parent.name}/{path.stem}.{place}"
            found.setdefault(name, []).append(line)
    assert {place: found[place] for place in found if place not in ALLOWED} == {}
    assert sorted(ALLOWED) == sorted(found)  # none that is no longer needed


def test_no_network_holds_a_batch_norm():
    """The modules themselves are checked, so those of libraries are, too."""
    for model, _ in exactness.networks().values():
        network = getattr(model, "__self__", model)  # of a method
        for module in network.modules():
            assert not isinstance(module, nn.modules.batchnorm._NormBase), module
        names = [name for name, _ in network.named_buffers()]
        assert not [name for name in names if "running" in name or "tracked" in name]


def test_all_networks_and_losses_are_checked():
    names = {f"{path.parent.name}/{path.stem}" for path in SOURCES}
    networks = {"classifier", "dvae", "gpt", "upsampler"}
    assert {f"{room}/{name}" for room in ("models", "train") for name in networks} <= names
    losses = {"photometric", "reconstruction", "smoothness"}
    assert {"models/flownet", "train/flow", *(f"losses/{name}" for name in losses)} <= names
