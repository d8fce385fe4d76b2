"""A network tried on one image: whether it works, and which of its parameters do anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def complaint_of(network: nn.Module, images: Tensor) -> str:
    """What a network complains about when given these images; empty where it takes them.

    Args:
        network: Runs in evaluation mode here, and is left as it was.
        images: Shape ``(N, bands, H, W)``.
    """
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            logits: Tensor = network(images)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    finally:
        network.train(training)
    if logits.shape[-2:] != images.shape[-2:]:
        return f"logits of {tuple(images.shape[-2:])} pixels are {tuple(logits.shape[-2:])}"
    return ""


def drop_idle(network: nn.Module, images: Tensor) -> None:
    """Take out what the logits do not depend on: stages never run, heads of a classifier.

    Each trainable parameter then gets a gradient in each step, as distributed training wants. A
    part goes where the logits stay the same bit for bit without it; single parameters that their
    module cannot do without stay and no longer require a gradient.

    Args:
        network: Changed in place.
        images: What it is tried on, shape ``(N, bands, H, W)``.
    """
    training = network.training
    network.eval()
    logits: Tensor = network(images)
    idle = {id(parameter) for parameter in network.parameters()} - _reached(logits)
    if idle:
        _take_out(network, list(_parts_of(network, idle)), images, logits.detach())
    for parameter in network.parameters():
        if id(parameter) in idle:
            parameter.requires_grad_(False)
    network.train(training)


def _reached(logits: Tensor) -> set[int]:
    """The ids of the parameters that a gradient of the logits comes to, read off the graph."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found


def _parts_of(module: nn.Module, idle: set[int]) -> Iterator[tuple[nn.Module, str]]:
    """The largest modules, by parent and name, whose parameters are all idle."""
    for name, child in module.named_children():
        parameters = [id(parameter) for parameter in child.parameters()]
        if parameters and idle.issuperset(parameters):
            yield module, name
        elif not idle.isdisjoint(parameters):
            yield from _parts_of(child, idle)


def _take_out(
    network: nn.Module, parts: list[tuple[nn.Module, str]], images: Tensor, expected: Tensor
) -> None:
    """Put identities in the place of parts; of several that cannot all go, those that can."""
    kept = [getattr(parent, name) for parent, name in parts]
    for parent, name in parts:
        setattr(parent, name, nn.Identity())
    if _gives(network, images, expected):
        return
    for (parent, name), part in zip(parts, kept, strict=True):
        setattr(parent, name, part)
    if len(parts) > 1:
        middle = len(parts) // 2
        _take_out(network, parts[:middle], images, expected)
        _take_out(network, parts[middle:], images, expected)


def _gives(network: nn.Module, images: Tensor, expected: Tensor) -> bool:
    with torch.no_grad():
        try:
            return torch.equal(network(images), expected)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False  # its forward looks into the part
