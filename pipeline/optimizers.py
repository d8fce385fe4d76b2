"""Optimisers by their names in torch.optim, with learning rates and weight decay by parameter."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipeline.errors import SettingsError
from pipeline.setting_types import UNFIT_OPTIMIZERS, did_you_mean

_RATE = "rate_factor"
"""Key of a parameter group: its learning rate as a share of the highest."""


def names() -> list[str]:
    """Optimisers of this torch that ``training.optimizer`` takes."""
    return [
        name
        for name, kind in sorted(vars(torch.optim).items())
        if inspect.isclass(kind)
        and issubclass(kind, torch.optim.Optimizer)
        and name not in UNFIT_OPTIMIZERS
    ]


def make_optimizer(
    network: nn.Module,
    *,
    optimizer: str,
    options: Mapping[str, Any],
    learning_rate: float,
    weight_decay: float,
    encoder_rate: float,
    fused: bool = True,
) -> torch.optim.Optimizer:
    """Make the optimiser of a network.

    Biases and the scales of normalisation layers do not decay.

    Args:
        network: With an ``encoder`` if ``encoder_rate`` is below 1.
        optimizer: Name in torch.optim, capitals or not.
        options: More of its arguments.
        learning_rate: Highest learning rate.
        weight_decay: Of the weights of convolutions and linear layers.
        encoder_rate: Learning rate of the encoder, as a share of ``learning_rate``.
        fused: Whether one kernel may update all parameters; fp16 cannot clip gradients then.

    Returns:
        With up to four groups; :func:`set_rate` sets the learning rates of all.

    Raises:
        SettingsError: If there is no such optimiser, or it does not take the arguments.
    """
    kind = _kind(optimizer)
    accepted = inspect.signature(kind.__init__).parameters
    wrong = [
        f"training.optimizer_options: {kind.__name__} has no {name!r}{did_you_mean(name, accepted)}"
        for name in options
        if name not in accepted or name in ("self", "params")
    ]
    wrong += [
        f"training.optimizer_options: {name} is set by training.{key}"
        for name, key in (("lr", "learning_rate"), ("weight_decay", "weight_decay"))
        if name in options
    ]
    if weight_decay and "weight_decay" not in accepted:
        wrong.append(f"training.weight_decay: {kind.__name__} has none; write 0")
    if wrong:
        taken = [name for name in accepted if name not in ("self", "params", "lr", "weight_decay")]
        raise SettingsError(
            f"training.optimizer: {kind.__name__} cannot be used like this.",
            wrong,
            f"Its options: {', '.join(taken)}.",
        )
    groups = _groups(network, encoder_rate)
    for group in groups:
        group["lr"] = learning_rate * group[_RATE]
        if "weight_decay" in accepted:
            group["weight_decay"] = weight_decay if group.pop("decays") else 0.0
        else:
            del group["decays"]
    arguments = dict(options)
    if (
        fused
        and "fused" in accepted
        and not {"fused", "foreach", "differentiable"} & arguments.keys()
    ):
        arguments["fused"] = True
    try:
        return kind(groups, lr=learning_rate, **arguments)  # type: ignore[call-arg]
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"training.optimizer: {kind.__name__} refuses its options: {error}.",
            [f"training.optimizer_options: {dict(options)}"],
        ) from error


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rates of all groups, the encoder's as its share."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[_RATE]


def _kind(name: str) -> type[torch.optim.Optimizer]:
    known = {known.lower(): known for known in names()}
    unfit = {unfit.lower(): why for unfit, why in UNFIT_OPTIMIZERS.items()}
    if name.lower() in known:
        kind: type[torch.optim.Optimizer] = getattr(torch.optim, known[name.lower()])
        return kind
    why = (
        f"{name} {unfit[name.lower()]}"
        if name.lower() in unfit
        else f"torch has no optimiser {name!r}{did_you_mean(name, known)}"
    )
    raise SettingsError(
        f"training.optimizer: {why}.", remedy=f"Optimisers: {', '.join(known.values())}."
    )


def _groups(network: nn.Module, encoder_rate: float) -> list[dict[str, Any]]:
    """Parameters by learning rate and by whether they decay; no empty group."""
    encoder = getattr(network, "encoder", None)
    if encoder is None and encoder_rate != 1.0:
        raise SettingsError(
            "training.encoder_rate: this network has no encoder with a rate of its own; write 1."
        )
    slow = set(map(id, encoder.parameters())) if encoder is not None else set()
    groups: list[dict[str, Any]] = []
    for in_encoder in (True, False):
        for decays in (True, False):
            chosen = [
                parameter
                for parameter in network.parameters()
                if parameter.requires_grad
                and (id(parameter) in slow) == in_encoder
                and (parameter.ndim > 1) == decays
            ]
            rate = encoder_rate if in_encoder else 1.0
            if chosen:
                groups.append({"params": chosen, _RATE: rate, "decays": decays})
    return groups
