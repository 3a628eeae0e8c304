from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from strop.errors import NotApplicable
from strop.training import TrainSettings as Settings
from strop.training import schedule, train
from strop.training.checkpoint import load
from strop.training.course import Course, Pace
from strop.training.judge import Judge
from strop.training.losses import IGNORED
from strop.training.stepper import Stepper

from .conftest import CLASSES, FORM, Net, accuracy, arrays, dataset

# One thread: two wait for each other on a busy machine.
TrainSettings = functools.partial(Settings, threads=1)
SHORT = TrainSettings(epochs=8, batch=32, lr=1e-2, patience=None)


def student(width: int = 8) -> Net:
    torch.manual_seed(1)
    return Net(width)


def run(net, teacher, given, workdir, settings=SHORT, **more):
    return train(
        net,
        form=FORM,
        teacher=teacher,
        data=dataset(given),
        settings=settings,
        workdir=workdir,
        **more,
    )


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in net.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("labels", [True, False])
def test_a_student_learns_from_its_teacher(teacher, tmp_path, labels) -> None:
    net, test = student(), arrays(500, 5)
    report = run(net, teacher, arrays(2000, 1, labels=labels), tmp_path)
    assert report.quality == ("accuracy" if labels else "agreement")
    assert report.before < 0.6 < 0.9 < report.best
    assert accuracy(net, test) > accuracy(teacher, test) - 0.03
    assert (report.stopped, report.resumed) == ("done", 0)
    assert report.steps == 8 * (1800 // 32)
    assert not net.training and all(p.grad is None for p in net.parameters())


@pytest.mark.gpu
def test_a_student_learns_on_a_gpu_as_well_and_comes_back(teacher, tmp_path) -> None:
    net, settings = student(), TrainSettings(epochs=8, batch=32, lr=1e-2, device="cuda")
    report = run(net, copy.deepcopy(teacher), arrays(2000, 1), tmp_path, settings)
    assert report.device.startswith("cuda") and report.best > 0.9
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}


def test_labels_alone_are_learnt_without_a_teacher(tmp_path) -> None:
    net = student()
    assert run(net, None, arrays(2000, 1), tmp_path).best > 0.9


def test_the_rate_is_found_by_trials_that_leave_no_trace(teacher, tmp_path) -> None:
    net = student()
    report = run(
        net, teacher, arrays(2000, 1), tmp_path, TrainSettings(epochs=8, batch=64, patience=None)
    )
    assert report.lr in (3e-4, 1e-3, 3e-3, 1e-2)
    again = student()
    fixed = TrainSettings(epochs=8, batch=64, patience=None, lr=report.lr)
    run(again, teacher, arrays(2000, 1), tmp_path / "fixed", fixed)
    assert same(state_of(net), state_of(again))


def test_equal_seeds_give_equal_weights_and_others_do_not(teacher, tmp_path) -> None:
    nets = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)  # whoever draws from the global generator is found out
        net = student()
        run(net, teacher, arrays(600, 1), tmp_path / f"{number}", seed=seed)
        nets.append(state_of(net))
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_the_global_generator_is_left_as_it_was(teacher, tmp_path) -> None:
    net = student()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(net, teacher, arrays(600, 1), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dropout", [False, True])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    teacher, tmp_path, monkeypatch, dropout
) -> None:
    monkeypatch.setattr("strop.training.trainer._SAVE_EVERY", 0.0)

    def made() -> nn.Module:
        net = student()
        if dropout:
            net.second = nn.Sequential(net.second, nn.Dropout(0.3))
        return net

    # Every step is kept on the disk, which takes time: 51 of them are enough.
    few = TrainSettings(epochs=3, batch=32, lr=1e-2, patience=None)
    whole = made()
    report = run(whole, teacher, arrays(600, 1), tmp_path / "whole", few)
    steps = 0

    def kill(net: nn.Module) -> None:
        nonlocal steps
        steps += 1
        if steps == 20:
            raise Killed

    with pytest.raises(Killed):
        run(made(), teacher, arrays(600, 1), tmp_path / "cut", few, after_step=kill)
    second = made()
    resumed = run(second, teacher, arrays(600, 1), tmp_path / "cut", few)
    assert resumed.resumed == 19
    assert same(state_of(whole), state_of(second))
    assert (resumed.best, resumed.steps) == (report.best, report.steps)
    # Losses since the last judgement too: early stopping goes by them.
    assert [entry[1:] for entry in resumed.history] == [entry[1:] for entry in report.history]


def test_a_checkpoint_of_another_run_is_left_alone(teacher, tmp_path) -> None:
    run(student(), teacher, arrays(600, 1), tmp_path)
    assert run(student(), teacher, arrays(600, 1), tmp_path, seed=1).resumed == 0
    assert run(student(), teacher, arrays(600, 2), tmp_path, seed=1).resumed == 0


def test_a_damaged_checkpoint_is_left_alone(teacher, tmp_path) -> None:
    run(student(), teacher, arrays(600, 1), tmp_path)
    (tmp_path / "checkpoint" / "tensors.safetensors").write_bytes(b"damaged")
    assert run(student(), teacher, arrays(600, 1), tmp_path).resumed == 0


@pytest.fixture
def ticking(monkeypatch) -> None:
    """A clock that goes on by 10 ms whenever it is read, however busy the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr("strop.training.clock.time.monotonic", lambda: next(ticks) / 100)


def test_time_is_kept_and_the_schedule_ends_within_it(teacher, tmp_path, ticking) -> None:
    settings = TrainSettings(seconds=2.0, epochs=1e6, batch=64, lr=1e-3, patience=None)
    report = run(student(), teacher, arrays(2000, 1), tmp_path, settings)  # or it never ends
    assert report.steps > 20
    progress, _ = load(tmp_path, _identity(tmp_path))
    assert progress.step == report.steps and progress.total <= report.steps + 40


def test_a_teacher_that_is_waited_for_once_leaves_no_time_unused(
    teacher, tmp_path, monkeypatch
) -> None:
    """A clock that goes on by 3 s at each batch of the teacher's, and by 1 s at each step."""
    now, rates = 0.0, []
    backward, factor = Stepper._backward, schedule.factor

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    def step(self: Stepper, *given) -> float:
        advance(1.0)
        return backward(self, *given)

    def watched(progress: float) -> float:
        rates.append(factor(progress))
        return rates[-1]

    slow = copy.deepcopy(teacher)
    slow.register_forward_hook(lambda *_: advance(3.0))
    monkeypatch.setattr("strop.training.clock.time.monotonic", lambda: now)
    monkeypatch.setattr(Stepper, "_backward", step)
    monkeypatch.setattr(schedule, "factor", watched)
    settings = TrainSettings(
        seconds=600, epochs=1e6, batch=64, least_batch=64, lr=1e-3, patience=None
    )
    report = run(student(), slow, arrays(2000, 1), tmp_path, settings)
    assert report.stopped == "time"
    assert 0.95 * 600 <= report.seconds <= 600
    assert report.steps > 400, "of these, 28 waited for the teacher"
    warm = rates.index(max(rates))
    assert rates[warm:] == sorted(rates[warm:], reverse=True), "once it falls, it never rises"
    assert rates[-1] < 0.01


def test_steps_that_wait_for_the_teacher_are_reckoned_as_such() -> None:
    course = SimpleNamespace(
        clock=SimpleNamespace(left=100.0), epochs=SimpleNamespace(steps=10), most=1000
    )
    pace = Pace(first=4.0, later=1.0)
    assert Course.affordable(course, pace) == 10 + 60
    assert Course.affordable(course, pace, 9) == 9 + 1 + 96
    assert Course.affordable(course, pace, 50) == 150
    course.clock.left = 20.0
    assert Course.affordable(course, pace) == 5
    course.clock.left = None
    assert Course.affordable(course, pace) == 1000


def _identity(folder):
    return json.loads((folder / "checkpoint" / "progress.json").read_text())["identity"]


def test_a_deadline_counts_like_the_budget(teacher, tmp_path, ticking) -> None:
    settings = TrainSettings(epochs=1e6, batch=64, lr=1e-3, patience=None)
    soon = time.monotonic() + 1.5
    report = run(student(), teacher, arrays(2000, 1), tmp_path, settings, deadline=soon)
    assert 0 < report.steps < 1e6


def test_short_time_is_for_smaller_batches_and_fewer_judged(teacher, tmp_path, ticking) -> None:
    lines: list[str] = []
    settings = TrainSettings(seconds=4.0, epochs=1e6, batch=64, lr=1e-3, patience=None)
    net, training = student(), arrays(2000, 1)
    report = run(
        net, teacher, training, tmp_path, settings, judge=dataset(arrays(900, 2)), emit=lines.append
    )
    # A reading of the clock is 10 ms, whatever lies between two, and a step takes some of them.
    assert report.batch == 32
    assert 200 <= report.judged < 900
    assert any("32 examples a step: of 64" in line for line in lines)
    told = TrainSettings(seconds=4.0, epochs=1e6, batch=64, least_batch=64, lr=1e-3, patience=None)
    assert run(net, teacher, training, tmp_path / "told", told).batch == 64


def test_a_budget_below_one_epoch_says_what_was_skipped(teacher, tmp_path) -> None:
    lines: list[str] = []
    settings = TrainSettings(epochs=0.5, batch=16, lr=1e-3)
    report = run(student(), teacher, arrays(2000, 1), tmp_path, settings, emit=lines.append)
    assert any("short of one epoch: 896 of 1,800" in line for line in report.warnings)
    assert set(report.warnings) <= set(lines)


def test_a_budget_of_no_use_is_refused_with_numbers(teacher, tmp_path) -> None:
    settings = TrainSettings(seconds=1e-4, batch=64)
    with pytest.raises(NotApplicable, match=r"too short to train: a step of 32 examples takes"):
        run(student(), teacher, arrays(2000, 1), tmp_path, settings)


def test_a_budget_that_the_plan_used_up_is_refused_too(teacher, tmp_path, monkeypatch) -> None:
    now = 0.0

    def slow(*_: object) -> float:
        nonlocal now
        now += 100
        return 1e-3

    monkeypatch.setattr("strop.training.clock.time.monotonic", lambda: now)
    monkeypatch.setattr("strop.training.plan._find_rate", slow)
    monkeypatch.setattr("strop.training.plan._pace", lambda course: Pace(0.1, 0.1))
    settings = TrainSettings(seconds=100, batch=64)
    with pytest.raises(NotApplicable, match="100 s are too short to train"):
        run(student(), teacher, arrays(2000, 1), tmp_path, settings)


def test_divergence_is_a_reason(teacher, tmp_path) -> None:
    net = student()

    def spoil(module: nn.Module) -> None:
        with torch.no_grad():
            module.head.weight.fill_(math.nan)

    with pytest.raises(NotApplicable, match="diverged at step 1: the loss is nan"):
        run(net, teacher, arrays(600, 1), tmp_path, after_step=spoil)


def test_labels_out_of_range_are_named(teacher, tmp_path) -> None:
    given = arrays(600, 1)
    given["target"][7] = 9
    with pytest.raises(
        NotApplicable, match=r"label 9 of training example 7 .* outside 0…3; .*-100 says"
    ):
        run(student(), teacher, given, tmp_path)


def test_labels_at_odds_with_the_teacher_are_left_out(teacher, tmp_path) -> None:
    given = arrays(2000, 1)
    test = arrays(500, 5)
    given["target"] = (given["target"] + 1) % 4
    net = student()
    report = run(net, teacher, given, tmp_path)
    assert any("leaves the labels out" in line for line in report.warnings)
    assert accuracy(net, test) > 0.85


def test_labels_in_the_order_of_their_classes_are_labels(teacher, tmp_path) -> None:
    given = arrays(3000, 1)
    given["target"] = np.where(np.arange(3000) % 20, given["target"], (given["target"] + 1) % 4)
    order = np.argsort(given["target"], kind="stable")
    given = {name: array[order] for name, array in given.items()}
    settings = TrainSettings(epochs=0.1, batch=32, lr=1e-3, examples="all", held_out=0.5)
    report = run(student(), teacher, given, tmp_path, settings)
    assert report.quality == "accuracy"
    assert not any("labels" in line for line in report.warnings)


def test_targets_that_are_no_classes_are_told_as_they_are(teacher, tmp_path) -> None:
    given = arrays(600, 1)
    given["target"] = given["target"].astype(np.float32)
    report = run(student(), teacher, given, tmp_path)
    assert any("the targets, float32[600], are no class numbers" in w for w in report.warnings)


@pytest.mark.parametrize("lr", [1e-3, None])
def test_an_example_that_is_not_finite_is_named(teacher, tmp_path, lr) -> None:
    given = arrays(600, 1)
    given["x"][7:] = np.where(np.arange(593)[:, None] % 2, given["x"][7:], np.inf)
    settings = TrainSettings(epochs=30, batch=32, lr=lr)
    with pytest.raises(NotApplicable, match=r"training example \d+ holds NaN .* in 'x'; leave"):
        run(student(), teacher, given, tmp_path, settings)


def test_so_is_one_that_the_original_makes_nothing_of(teacher, tmp_path) -> None:
    class Odd(nn.Module):
        def forward(self, x):
            return torch.where(x[:, :1] > 0, teacher(x), torch.nan)

    with pytest.raises(NotApplicable, match=r"example \d+ the original gives NaN .* in 'y'"):
        run(student(), Odd(), arrays(600, 1, labels=False), tmp_path)


def test_frozen_parameters_stay_and_tied_ones_stay_tied(teacher, tmp_path) -> None:
    net = student(8)
    net.third = net.second  # one module under two names
    net.first.weight.requires_grad_(False)
    before = net.first.weight.clone()
    lines: list[str] = []
    report = run(net, teacher, arrays(600, 1), tmp_path, emit=lines.append)
    assert torch.equal(before, net.first.weight)
    assert net.third.weight is net.second.weight
    assert report.warnings == ("1 of 8 parameters are frozen and stay so",)
    assert report.warnings[0] in lines


def test_a_module_made_for_inference_is_trained_all_the_same(teacher, tmp_path) -> None:
    net = student().requires_grad_(False)
    assert run(net, teacher, arrays(2000, 1), tmp_path).best > 0.9


def test_a_teacher_left_in_training_mode_teaches_like_any_other(teacher, tmp_path) -> None:
    left, net, other = copy.deepcopy(teacher).train(), student(), student()
    before = state_of(left)
    run(net, left, arrays(600, 1), tmp_path / "left")
    run(other.train(), teacher, arrays(600, 1), tmp_path / "other")
    assert same(state_of(left), before)  # the statistics of its normalisation too
    assert same(state_of(net), state_of(other))


class Stepped(Net):
    """Rounds half way: what lies before gets no gradient."""

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x))).detach().round()
        return self.head(torch.relu(self.second(x)))


class Rounded(Net):
    """Rounds as PyTorch does, which gives a gradient of zeros."""

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x))).round()
        return self.head(torch.relu(self.second(x)))


@pytest.mark.parametrize(("kind", "unreached"), [(Stepped, 4), (Rounded, 1)])
def test_parameters_behind_an_operation_without_gradient_are_told(
    teacher, tmp_path, kind, unreached
) -> None:
    torch.manual_seed(1)
    net, lines = kind(8), []
    before = state_of(net)
    settings = TrainSettings(epochs=8, batch=32, lr=1e-2, patience=None, weight_decay=0.0)
    report = run(net, teacher, arrays(600, 1), tmp_path, settings, emit=lines.append)
    assert torch.equal(net.first.weight, before["first.weight"])
    assert not torch.equal(net.head.weight, before["head.weight"])
    told = [line for line in lines if "no gradient reaches" in line]
    assert report.warnings == tuple(told)
    assert len(told) == 1 and f"{unreached} of 8 parameters, 'first.weight' first" in told[0]


class Decided(Net):
    """Gives decisions as numbers, and no gradient at all."""

    def forward(self, x):
        return nn.functional.one_hot(super().forward(x).argmax(1), CLASSES).float()


class Coarse(Net):
    """Rounds its outputs, whose gradients are zeros."""

    def forward(self, x):
        return super().forward(x).round()


class Evaluating(Net):
    """Cannot be run but in evaluation mode."""

    def forward(self, x):
        return super().forward(x) if not self.training else self.missing(x)


class OneWay(torch.autograd.Function):
    """An operator of the user's own that nobody has written a derivative for."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()


class Signed(Net):
    def forward(self, x):
        return super().forward(OneWay.apply(self.first(x)) @ self.first.weight)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Decided, "no gradient reaches its parameters"),
        (Coarse, "no gradient reaches its parameters"),
        (Signed, r"cannot be trained: .*backward"),
        (Evaluating, r"cannot be trained: .*missing.*\(test_trainer\.py:\d+\); what trains"),
    ],
)
def test_an_operator_without_a_derivative_is_a_reason(teacher, tmp_path, kind, message) -> None:
    with pytest.raises(NotApplicable, match=message):
        run(kind(8), teacher, arrays(600, 1), tmp_path)


def test_a_module_without_parameters_is_refused(teacher, tmp_path) -> None:
    with pytest.raises(NotApplicable, match="no parameters"):
        run(nn.Identity(), teacher, arrays(600, 1), tmp_path)


def test_when_nothing_improves_it_stops_early_and_keeps_the_best(teacher, tmp_path) -> None:
    net = copy.deepcopy(teacher)
    settings = TrainSettings(epochs=200, batch=64, lr=3e-4, patience=2)
    report = run(net, teacher, arrays(600, 1, labels=False), tmp_path, settings)
    assert report.stopped == "early"
    assert report.steps < 200 * (540 // 64)
    assert report.best >= report.before == 1.0
    assert all(
        torch.equal(a, b) for a, b in zip(net.parameters(), teacher.parameters(), strict=True)
    )
    # Killed after its last step, it has nothing left to do.
    again = run(copy.deepcopy(teacher), teacher, arrays(600, 1, labels=False), tmp_path, settings)
    assert (again.steps, again.history, again.stopped) == (report.steps, report.history, "early")


def test_a_student_that_cannot_be_judged_at_first_is_bettered_by_any_that_can(
    teacher, tmp_path, monkeypatch
) -> None:
    judge = Judge.__call__
    untrained = state_of(student())

    def undefined_at_first(self, net: nn.Module) -> float:
        return math.nan if same(state_of(net), untrained) else judge(self, net)

    monkeypatch.setattr(Judge, "__call__", undefined_at_first)
    report = run(student(), teacher, arrays(2000, 1), tmp_path)
    assert math.isnan(report.before) and report.best > 0.9


def test_few_labels_do_their_share_and_the_teacher_the_rest(teacher, tmp_path) -> None:
    given, test = arrays(2000, 1), arrays(500, 5)
    given["target"][np.arange(2000) % 20 != 7] = IGNORED
    report = run(net := student(), teacher, given, tmp_path)
    assert report.quality == "accuracy" and report.best > 0.7
    assert accuracy(net, test) > 0.8


class Whole(Net):
    """Decides in the graph, as exported classifiers do."""

    def forward(self, x):
        return super().forward(x).argmax(1)


def test_decisions_alone_teach_nobody(tmp_path) -> None:
    with pytest.raises(NotApplicable, match="whole numbers"):
        run(Whole(8), Whole().eval(), arrays(600, 1, labels=False), tmp_path)


class Fixed(Net):
    """Takes a hundred examples at a time and nothing else; a channel of pixels to match inside."""

    def forward(self, x):
        assert len(x) == 100, "the module insists on its batch"
        return super().forward(x)


def test_a_module_that_insists_on_its_batch_is_never_given_another(teacher, tmp_path) -> None:
    torch.manual_seed(1)
    net, insists = Fixed(8), Fixed()
    insists.load_state_dict(teacher.state_dict())
    settings = TrainSettings(
        epochs=8, batch=100, least_batch=100, lr=1e-2, patience=None, transfer="features"
    )
    judge = dataset(arrays(130, 3))
    report = run(net, insists.eval(), arrays(730, 1), tmp_path, settings, judge=judge)
    assert report.batch == 100 and report.best > report.before


def test_what_is_matched_inside_counts_when_time_is_planned(tmp_path, monkeypatch) -> None:
    def net(width: int) -> nn.Module:
        body = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(16 * width, CLASSES))

    hooked = []
    seconds = Stepper.seconds

    def timed(self, rows, number):
        hooked.append(any(part._forward_hooks for part in pupil.modules()))
        return seconds(self, rows, number)

    monkeypatch.setattr(Stepper, "seconds", timed)
    given = {"x": np.random.default_rng(0).normal(size=(64, 1, 4, 4)).astype(np.float32)}
    settings = TrainSettings(epochs=1, batch=16, lr=1e-3, transfer="features")
    pupil = net(2)
    run(pupil, net(4).eval(), given, tmp_path, settings)
    assert hooked and all(hooked)
    assert not any(part._forward_hooks for part in pupil.modules())


def test_short_memory_is_met_with_smaller_parts(teacher, tmp_path) -> None:
    net = student()
    forward = net.forward

    def greedy(x):
        if len(x) > 16 and torch.is_grad_enabled():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")
        return forward(x)

    net.forward = greedy
    lines: list[str] = []
    report = run(net, teacher, arrays(600, 1), tmp_path, emit=lines.append)
    assert any("goes in 2 parts" in line for line in lines)
    assert report.best > report.before + 0.3


def test_memory_that_never_suffices_is_a_reason(teacher, tmp_path) -> None:
    net = student()

    def greedy(x):
        if torch.is_grad_enabled():
            raise MemoryError
        return torch.zeros(len(x), 4)

    net.forward = greedy
    with pytest.raises(NotApplicable, match="out of memory at 32 examples a step, on cpu"):
        run(net, teacher, arrays(600, 1), tmp_path)


def test_own_loss_takes_the_place_of_the_others(teacher, tmp_path) -> None:
    seen = []

    def loss(outputs, wanted, targets):
        seen.append((set(outputs), set(wanted), targets.shape))
        return (outputs["y"] - wanted["y"]).square().mean()

    run(student(), teacher, arrays(600, 1), tmp_path, loss=loss)
    assert seen[0] == ({"y"}, {"y"}, torch.Size([32]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_both_precisions_learn(teacher, tmp_path, precision) -> None:
    settings = TrainSettings(epochs=8, batch=32, lr=1e-2, patience=None, precision=precision)
    report = run(student(), teacher, arrays(2000, 1), tmp_path, settings)
    assert report.precision == precision
    assert report.best > 0.9


def test_unlabelled_embeddings_are_learnt_by_direction(tmp_path) -> None:
    class Embed(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 6))

        def forward(self, x):
            return nn.functional.normalize(self.body(x), dim=-1)

    torch.manual_seed(0)
    net = Embed(8)
    report = run(net, Embed(32).eval(), arrays(2000, 1, labels=False), tmp_path)
    assert report.quality == "closeness"
    assert report.best > 0.95 > report.before


@pytest.mark.parametrize("transfer", ["attention", "features"])
def test_transfer_inside_images_helps_to_learn(tmp_path, transfer) -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 3),
        )

    torch.manual_seed(0)
    images = np.random.default_rng(0).normal(size=(300, 1, 8, 8)).astype(np.float32)
    form = FORM.__class__(None, True, ("input",), ("y",), ("output",), "")
    from strop import data
    from strop.records import Signature, TensorSpec

    spec = TensorSpec(name="input", dtype="float32", shape=("batch", 1, 8, 8))
    settings = TrainSettings(
        epochs=4, batch=32, lr=3e-3, transfer=transfer, augment=("flip", "crop"), patience=None
    )
    report = train(
        net(4),
        form=form,
        teacher=net(16),
        data=data.read({"input": images}, Signature(inputs=(spec,), outputs=())),
        settings=settings,
        workdir=tmp_path,
    )
    losses = [loss for _, _, loss, _ in report.history]
    assert not report.warnings
    assert losses[-1] < losses[0]
