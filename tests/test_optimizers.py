from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline import optimizers, schedules
from pipeline.errors import SettingsError
from pipeline.schedules import Schedule, learning_rate_factor


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


def make(network: nn.Module | None = None, **changed: Any) -> torch.optim.Optimizer:
    given: dict[str, Any] = {
        "optimizer": "AdamW", "options": {}, "learning_rate": 0.2, "weight_decay": 0.3,
        "encoder_rate": 0.1,
    }  # fmt: skip
    return optimizers.make_optimizer(network or Network(), **(given | changed))


def test_only_weights_of_convolutions_decay_and_the_encoder_learns_at_its_own_rate() -> None:
    made = make()
    told = [(g["lr"], g["weight_decay"], [p.ndim for p in g["params"]]) for g in made.param_groups]
    assert told == [
        (pytest.approx(0.02), 0.3, [4]),
        (pytest.approx(0.02), 0.0, [1, 1, 1]),
        (0.2, 0.3, [4]),
        (0.2, 0.0, [1]),
    ]
    optimizers.set_rate(made, 1.0)
    assert [g["lr"] for g in made.param_groups] == [0.1, 0.1, 1.0, 1.0]


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimiser_makes_a_step(name: str) -> None:
    network = Network()
    decay = 0.0 if name == "Rprop" else 0.01
    made = make(network, optimizer=name.lower(), weight_decay=decay)
    assert type(made).__name__ == name
    before = network.head.weight.detach().clone()
    for _ in range(2):
        network.head(network.encoder(torch.ones(2, 3, 5, 5))).sum().backward()
        made.step()
    assert torch.isfinite(network.head.weight).all()
    assert not torch.equal(network.head.weight, before)


def test_options_reach_the_optimiser() -> None:
    made = make(optimizer="sgd", options={"momentum": 0.9, "nesterov": True})
    assert [(g["momentum"], g["nesterov"]) for g in made.param_groups] == [(0.9, True)] * 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": "RAdamm"}, "training.optimizer: torch has no optimiser 'RAdamm'; did you "
         "mean 'radam'?"),
        ({"optimizer": "LBFGS"}, "training.optimizer: LBFGS asks for the loss several times"),
        ({"options": {"momentun": 0.9, "lr": 1}},
         "training.optimizer_options: AdamW has no 'momentun'"),
        ({"options": {"lr": 1}}, "training.optimizer_options: lr is set by training.learning_rate"),
        ({"optimizer": "Rprop"}, "training.weight_decay: Rprop has none; write 0"),
        ({"options": {"betas": [2.0, 0.9]}}, "training.optimizer: AdamW refuses its options"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        make(**changed)
    assert message in str(error.value)


def test_a_network_without_an_encoder_has_no_rate_for_it() -> None:
    with pytest.raises(SettingsError, match="encoder_rate"):
        make(nn.Conv2d(1, 1, 1))
    assert len(make(nn.Conv2d(1, 1, 1), encoder_rate=1.0).param_groups) == 2


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "one_cycle", "constant"])
def test_learning_rate_rises_then_falls(schedule: Schedule) -> None:
    factors = [learning_rate_factor(p / 1000, schedule, 0.05) for p in range(1001)]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert 0 < factors[0] < 0.05
    assert 0.9 < max(factors) <= 1.0
    assert learning_rate_factor(1.3, schedule, 0.05) == factors[-1]


def test_schedules_by_hand() -> None:
    assert learning_rate_factor(0.5, "cosine", 0.0) == pytest.approx(0.5)
    assert learning_rate_factor(0.0, "cosine", 0.0) == 1.0
    assert learning_rate_factor(1.0, "cosine", 0.05) == 0.0
    assert learning_rate_factor(0.05, "constant", 0.1) == pytest.approx(0.51)
    assert learning_rate_factor(0.6, "constant", 0.1) == 1.0
    assert learning_rate_factor(0.75, "polynomial", 0.0) == pytest.approx(0.25**0.9)
    assert learning_rate_factor(0.0, "one_cycle", 0.05) == pytest.approx(1 / 25)
    assert learning_rate_factor(0.3, "one_cycle", 0.05) == pytest.approx(1.0)
    assert learning_rate_factor(1.0, "one_cycle", 0.05) == pytest.approx(4e-6)


def test_one_cycle_is_the_one_of_torch() -> None:
    steps = 101
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=0.3)
    for step in range(steps):
        # torch's rise ends a step before: pct_start * total_steps - 1.
        done = step / (steps - 1)
        rise = (0.3 * steps - 1) / (steps - 1)
        mine = done * schedules.RISE / rise if done < rise else (
            schedules.RISE + (done - rise) / (1 - rise) * (1 - schedules.RISE)
        )  # fmt: skip
        rate = theirs.get_last_lr()[0]
        assert learning_rate_factor(mine, "one_cycle", 0.0) == pytest.approx(rate, rel=1e-6)
        optimizer.step()
        theirs.step()
