"""A run that was interrupted goes on as if it had not been: same losses, same weights, to the last bit on a CPU."""

from __future__ import annotations

import json
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
from tiny_training import PLAN, Setup, Witness, make_setup, new_classifier, same, weights
from torch import Tensor

from daemon.core.errors import BadFile, ConfigError, FileTrouble
from trainer.learning import checkpoint
from trainer.learning.train import never, train
from trainer.plan import Averaging, Plan
from trainer.progress import Outcome, Step, Stopped

FACTS: dict[str, Any] = {"plan": {"rate": 0.5, "seed": 1}, "labels": ["a", "b"], "tracks": "0f", "processes": 1}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Five tracks of each of three kinds."""
    return make_setup(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The number of threads decides how sums are rounded: the runs that are compared must have the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plan_with(averaging: Averaging) -> Plan:
    """Three epochs of four steps of two batches; everything that draws by chance is on."""
    return PLAN.with_changes({"averaging": averaging, "epochs": 3, "batch": 2, "accumulate": 2, "swa_share": 0.7})


@dataclass
class Told:
    """What can be seen of a run from outside."""

    outcome: Outcome
    losses: dict[int, float]
    weights: dict[str, Tensor]
    best: dict[str, Tensor]


def learn(
    setup: Setup,
    run: Path,
    plan: Plan,
    *,
    resume: bool = False,
    deadline: Callable[[], bool] = never,
    validated: bool = True,
    witness: Witness | None = None,
    checkpoint_s: float = 1e9,
) -> Told:
    """A run, or the rest of one; a classifier that goes on starts from other weights, which must not matter."""
    classifier = new_classifier(seed=99 if resume else 3)
    heard = witness or Witness()
    outcome = train(
        classifier,
        setup.crops(),
        setup.validation() if validated else None,
        plan,
        run,
        observers=[heard],
        resume=resume,
        deadline=deadline,
        checkpoint_s=checkpoint_s,
    )
    return Told(outcome, heard.losses, weights(classifier), checkpoint.load_best(run))


def after(steps: int) -> Callable[[], bool]:
    """A deadline that is asked after every step and comes after so many."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= steps


def alike(one: Told, other: Told) -> bool:
    """Whether two runs ended alike, to the last bit."""
    measures = [(repr(told.outcome.train_losses), repr(told.outcome.valid_losses)) for told in (one, other)]
    ends = [(told.outcome.stopped, told.outcome.best_epoch, told.outcome.steps) for told in (one, other)]
    return (
        measures[0] == measures[1]
        and ends[0] == ends[1]
        and same(one.weights, other.weights)
        and same(one.best, other.best)
    )


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("averaging", list(Averaging))
def test_run_that_is_stopped_by_its_deadline_goes_on_exactly(
    setup: Setup, tmp_path: Path, averaging: Averaging, validated: bool
) -> None:
    plan = plan_with(averaging)
    whole = learn(setup, tmp_path / "whole", plan, validated=validated)
    assert len(whole.losses) == 12
    # In the middle of an epoch, at the end of one, and after the first step of the next.
    losses: dict[int, float] = {}
    for steps in (2, 6, 1):
        part = learn(setup, tmp_path / "parts", plan, resume=bool(losses), deadline=after(steps), validated=validated)
        assert part.outcome.stopped is Stopped.DEADLINE
        assert len(part.losses) == steps
        losses |= part.losses
    rest = learn(setup, tmp_path / "parts", plan, resume=True, validated=validated)
    assert list(rest.losses) == [10, 11, 12]
    assert losses | rest.losses == whole.losses
    assert alike(rest, whole)


class Crash(Exception):
    """Something went wrong outside."""


class Crashing(Witness):
    """An observer that brings the run down after a step."""

    def stepped(self, step: Step) -> None:
        super().stepped(step)
        if step.step == 6:
            raise Crash


@pytest.mark.parametrize("averaging", list(Averaging))
def test_crashed_run_goes_on_from_its_last_checkpoint(setup: Setup, tmp_path: Path, averaging: Averaging) -> None:
    plan = plan_with(averaging)
    whole = learn(setup, tmp_path / "whole", plan)
    crashing = Crashing()
    with pytest.raises(Crash):
        learn(setup, tmp_path / "parts", plan, witness=crashing)
    # Step 4 ended an epoch, so that steps 5 and 6 are done again.
    rest = learn(setup, tmp_path / "parts", plan, resume=True)
    assert list(rest.losses) == list(range(5, 13))
    assert {step: loss for step, loss in rest.losses.items() if step <= 6} == {5: whole.losses[5], 6: whole.losses[6]}
    assert crashing.losses | rest.losses == whole.losses
    assert alike(rest, whole)


def test_checkpoints_are_also_written_within_an_epoch(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        learn(setup, tmp_path, plan_with(Averaging.EMA), witness=Crashing(), checkpoint_s=0.0)
    rest = learn(setup, tmp_path, plan_with(Averaging.EMA), resume=True)
    assert list(rest.losses) == list(range(6, 13))


@pytest.mark.slow
@pytest.mark.parametrize("averaging", [Averaging.EMA, Averaging.SWA])
def test_killed_process_is_resumed_exactly(
    setup: Setup, tmp_path: Path, averaging: Averaging, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_with(averaging)
    whole = learn(setup, tmp_path / "whole", plan)
    told = {
        "plan": {name: value for name, value in plan.as_dict().items() if value is not None},
        "kill_after": 7,
    }
    sounds = setup.tracks[0].path.parent
    command = [sys.executable, tiny_training.__file__, str(sounds), str(tmp_path / "killed"), json.dumps(told)]
    monkeypatch.setenv("PYTHONPATH", str(Path(tiny_training.__file__).parent.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killed = subprocess.run(command, check=False, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    rest = learn(setup, tmp_path / "killed", plan, resume=True)
    assert list(rest.losses) == list(range(7, 13))
    assert {step: whole.losses[step] for step in rest.losses} == rest.losses
    assert alike(rest, whole)


def test_finished_run_is_not_trained_again(setup: Setup, tmp_path: Path) -> None:
    first = learn(setup, tmp_path, plan_with(Averaging.EMA))
    again = learn(setup, tmp_path, plan_with(Averaging.EMA), resume=True)
    assert again.losses == {}
    assert alike(again, first)


def test_run_that_stopped_early_stays_stopped(setup: Setup, tmp_path: Path) -> None:
    plan = plan_with(Averaging.NONE).with_changes({"patience": 1, "epochs": 9, "rate": 0.3, "warmup": 0.0})
    first = learn(setup, tmp_path, plan)
    assert first.outcome.stopped is Stopped.EARLY
    again = learn(setup, tmp_path, plan, resume=True)
    assert again.losses == {}
    assert alike(again, first)


def test_nothing_to_resume_is_a_beginning(setup: Setup, tmp_path: Path) -> None:
    told = learn(setup, tmp_path / "new", plan_with(Averaging.NONE), resume=True)
    assert told.outcome.stopped is Stopped.COMPLETE
    assert len(told.losses) == 12


def test_new_run_in_the_same_folder_forgets_the_old_one(setup: Setup, tmp_path: Path) -> None:
    learn(setup, tmp_path, plan_with(Averaging.NONE), deadline=after(9))
    crashing = Crashing()
    with pytest.raises(Crash):
        learn(setup, tmp_path, plan_with(Averaging.NONE).with_changes({"epochs": 1, "batch": 1}), witness=crashing)
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_of_another_plan_is_refused_with_the_differences(setup: Setup, tmp_path: Path) -> None:
    plan = plan_with(Averaging.NONE)
    learn(setup, tmp_path, plan, deadline=after(1))
    with pytest.raises(ConfigError) as refused:
        learn(setup, tmp_path, plan.with_changes({"rate": 0.125, "epochs": 4}), resume=True)
    epochs, rate = refused.value.problems
    assert epochs == "plan.epochs: the checkpoint has 3, this run 4"
    assert rate == "plan.rate: the checkpoint has 0.002, this run 0.125"
    assert str(tmp_path / "last.pt") in str(refused.value)


def test_checkpoint_does_not_hang_on_the_number_of_workers(setup: Setup, tmp_path: Path) -> None:
    plan = plan_with(Averaging.NONE)
    first = learn(setup, tmp_path, plan)
    again = learn(setup, tmp_path, plan.with_changes({"workers": 3}), resume=True)
    assert alike(again, first)


def test_checkpoint_of_other_tracks_is_refused(setup: Setup, tmp_path: Path) -> None:
    plan = plan_with(Averaging.NONE)
    learn(setup, tmp_path, plan, deadline=after(1))
    relabelled = setup.crops([1, 0, 2] * 5)
    with pytest.raises(ConfigError, match="tracks: the checkpoint has"):
        train(new_classifier(), relabelled, None, plan, tmp_path, resume=True)


# The files


def a_state(value: float) -> dict[str, Any]:
    """Something to keep."""
    return {"weights": {"w": torch.full((300,), value)}, "counters": {"step": 3, "losses": [1.5, float("inf")]}}


def step_of(run: Path) -> float:
    """What was kept."""
    state = checkpoint.load(run, FACTS)
    assert state is not None
    return float(state["weights"]["w"][0])


def test_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, FACTS) is None
    checkpoint.save(tmp_path, FACTS, a_state(1.0))
    state = checkpoint.load(tmp_path, FACTS)
    assert state is not None
    assert state["counters"] == {"step": 3, "losses": [1.5, float("inf")]}
    checkpoint.save(tmp_path, FACTS, a_state(2.0))
    assert step_of(tmp_path) == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "previous.pt"]


def flip_a_bit(path: Path) -> None:
    """One of the tensor's."""
    content = path.read_bytes()
    number = torch.full((1,), 2.0).numpy().tobytes() * 8
    assert number in content
    path.write_bytes(content.replace(number, bytes([number[0] ^ 1]) + number[1:], 1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:500]),
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(b"no archive at all" * 50),
        flip_a_bit,
    ],
    ids=["empty", "cut", "cut at its end", "another file", "one bit"],
)
def test_damaged_checkpoint_is_told_and_the_one_before_it_taken(
    tmp_path: Path, damage: Callable[[Path], None], events: list[Any]
) -> None:
    checkpoint.save(tmp_path, FACTS, a_state(1.0))
    checkpoint.save(tmp_path, FACTS, a_state(2.0))
    damage(tmp_path / "last.pt")
    assert step_of(tmp_path) == 1.0
    (event,) = events
    assert (event["event"], event["log_level"]) == ("checkpoint_damaged", "warning")
    assert event["path"] == str(tmp_path / "last.pt")
    (tmp_path / "previous.pt").write_bytes(b"no archive either")
    with pytest.raises(BadFile, match=r"last\.pt: damaged"):
        checkpoint.load(tmp_path, FACTS)


def test_checkpoint_that_was_just_moved_aside_is_found(tmp_path: Path) -> None:
    # Killed between the two renames.
    checkpoint.save(tmp_path, FACTS, a_state(1.0))
    (tmp_path / "last.pt").rename(tmp_path / "previous.pt")
    assert step_of(tmp_path) == 1.0


def test_run_goes_on_exactly_from_the_checkpoint_before_the_damaged_one(setup: Setup, tmp_path: Path) -> None:
    plan = plan_with(Averaging.EMA)
    whole = learn(setup, tmp_path / "whole", plan)
    learn(setup, tmp_path / "parts", plan, deadline=after(10))
    with open(tmp_path / "parts" / "last.pt", "r+b") as file:
        file.truncate(3000)
    rest = learn(setup, tmp_path / "parts", plan, resume=True)
    # The one before it is that of the second epoch's end.
    assert list(rest.losses) == [9, 10, 11, 12]
    assert alike(rest, whole)


class Hostile:
    """Would run code where a pickle is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


def test_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"format_version": 1, "facts": FACTS, "weights": Hostile()}, tmp_path / "last.pt")
    with pytest.raises(BadFile, match=r"last\.pt: damaged"):
        checkpoint.load(tmp_path, FACTS)
    (tmp_path / "last.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(BadFile, match=r"last\.pt: damaged"):
        checkpoint.load(tmp_path, FACTS)


def test_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    torch.save({"format_version": 9, "facts": FACTS}, tmp_path / "last.pt")
    with pytest.raises(BadFile, match="format version 9, this program reads 1"):
        checkpoint.load(tmp_path, FACTS)


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: what a full disk looks like from inside."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_leaves_the_last_checkpoint_and_best_weights_as_they_were(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, FACTS, a_state(1.0))
    checkpoint.save_best(tmp_path, {"w": torch.ones(300)}, ("a", "b"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with no_room_beyond(1000):
        with pytest.raises(FileTrouble, match=r"last\.pt: "):
            checkpoint.save(tmp_path, FACTS, a_state(2.0))
        with pytest.raises(FileTrouble, match=r"best\.safetensors: "):
            checkpoint.save_best(tmp_path, {"w": torch.zeros(300)}, ("a", "b"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_run_that_met_a_full_disk_goes_on_when_there_is_room(setup: Setup, tmp_path: Path) -> None:
    plan = plan_with(Averaging.EMA)
    whole = learn(setup, tmp_path / "whole", plan)

    class Filling(Witness):
        def stepped(self, step: Step) -> None:
            if step.step == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with no_room_beyond(resource.RLIM_INFINITY), pytest.raises(FileTrouble):
        learn(setup, tmp_path / "parts", plan, witness=Filling())
    rest = learn(setup, tmp_path / "parts", plan, resume=True)
    assert list(rest.losses) == list(range(5, 13))
    assert alike(rest, whole)


def test_best_weights_come_back_and_damage_is_noticed(tmp_path: Path) -> None:
    given = {"w": torch.arange(12.0).reshape(3, 4).t(), "n": torch.tensor(7)}
    checkpoint.save_best(tmp_path, given, ("ä", "b"))
    assert same(checkpoint.load_best(tmp_path), given)
    path = tmp_path / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadFile, match=r"best\.safetensors: damaged"):
        checkpoint.load_best(tmp_path)
    path.unlink()
    with pytest.raises(BadFile, match=r"best\.safetensors: "):
        checkpoint.load_best(tmp_path)
