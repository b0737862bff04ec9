"""Every key of the configuration is declared, and what it cannot be is refused by its name.

The cases are made from the declarations, so that a new key has its own.
"""

import copy
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import hydra
import pytest

from dreamer.run.config import to_plain
from dreamer.run.paths import CONF
from dreamer.run.settings import TrainSettings
from dreamer.schema.keys import bare_type, is_union, notes_of
from dreamer.schema.validation import keys_of_node, validate

WORLDS = ("atari", "crafter", "dmc_vision", "dummy", "gym", "minigrid", "own")
NUMBERS = (int, float)
WITH_NO_BOUND = {"init_std", "entropy_scale", "gradient_mix"}  # the last two may be schedules
OF_LIGHTNING = "trainer."


class Leaf(NamedTuple):
    """A key with a value of its own, below all nodes."""

    key: str
    value: Any
    annotation: Any
    text: str


@cache
def plain(world: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [f"env={world}", "task=any", "latents=gaussian"]
        cfg = hydra.compose("train", words if world == "dummy" else words[:2])
    return to_plain(cfg)


def leaves(node: Mapping[str, Any], annotation: Any, at: str = "") -> Iterator[Leaf]:
    """All of a node, with what is declared of each."""
    declared = keys_of_node(node, annotation, at)
    for name, value in node.items():
        if name.startswith("_"):
            continue
        key = f"{at}.{name}" if at else name
        if declared:
            inner, text = declared.named[name].annotation, declared.named[name].text
        else:  # of a mapping
            inner, text = typing.get_args(bare_type(annotation))[-1], "an entry"
        if isinstance(value, dict) and value:
            assert text, key
            yield from leaves(value, inner, key)
        else:
            yield Leaf(key, value, inner, text)


ALL = {leaf.key: (world, leaf) for world in WORLDS for leaf in leaves(plain(world), TrainSettings)}


def options(annotation: Any) -> list[Any]:
    """The annotated types that a value may have."""
    bare = bare_type(annotation)
    if is_union(typing.get_origin(bare)):
        return [one for part in typing.get_args(bare) for one in options(part)]
    if typing.get_origin(bare) in (list, Sequence):
        return options(typing.get_args(bare)[0])
    return [annotation]


NUMERIC = {
    key: (world, leaf)
    for key, (world, leaf) in ALL.items()
    if any(bare_type(one) in NUMBERS for one in options(leaf.annotation))
    and key != "data.holdout"  # may be an address, so text is allowed
}


def impossible(annotation: Any) -> Iterator[Any]:
    """Values that a number cannot have."""
    yield from ("abc", math.nan, math.inf, [{}])
    if not any(typing.get_origin(bare_type(one)) is Mapping for one in options(annotation)):
        yield {"a": 1}
    for one in options(annotation):
        bounds = {
            sign: getattr(note, sign)
            for note in notes_of(one)
            for sign in ("ge", "gt", "le", "lt")
            if hasattr(note, sign)
        }
        if bare_type(one) is int:
            yield 1.5
        step = 1 if bare_type(one) is int else 1e-3
        yield from (bounds[sign] - step for sign in ("ge",) if sign in bounds)
        yield from (bounds[sign] + step for sign in ("le",) if sign in bounds)
        yield from (bounds[sign] for sign in ("gt", "lt") if sign in bounds)


def with_value(node: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(node)
    *path, last = key.split(".")
    inner = changed
    for name in path:
        inner = inner[name]
    inner[last] = [value] if isinstance(inner[last], list) else value
    return changed


def test_there_are_keys_to_be_tested():
    assert {
        "seed",
        "batch.size",
        "exploration_noise",
        "kl_balance",
        "sizes.depth",
    } <= NUMERIC.keys()
    assert {"env.sticky_action_prob", "env.speed", "env.hang_seconds"} <= NUMERIC.keys()
    assert {"model.horizon", "model.actor_optimizer.clip", "latents.min_std"} <= NUMERIC.keys()
    assert {"callbacks.evaluate.video_fps", "replay.capacity_policy_steps"} <= NUMERIC.keys()
    assert "model.world_model.encoder.image.kernels" in NUMERIC  # a list of numbers
    assert len(NUMERIC) > 80


@pytest.mark.parametrize("key", sorted(ALL))
def test_every_key_has_a_sentence(key):
    text = ALL[key][1].text
    assert text and text[0].isalnum() and text.endswith((".", "an entry")), key


@pytest.mark.parametrize("key", sorted(NUMERIC))
def test_a_number_that_cannot_be_is_refused_by_the_name_of_its_key(key):
    world, leaf = NUMERIC[key]
    good = plain(world)
    assert validate(good, TrainSettings)
    for value in impossible(leaf.annotation):
        with pytest.raises(ValueError) as error:
            validate(with_value(good, key, value), TrainSettings)
        place = f"`{key}[0]`" if isinstance(leaf.value, list) else f"`{key}`"
        message = str(error.value)
        assert message.startswith((f"{place} must be ", f"`{key}` must be ")), message
        assert ", got " in message


@pytest.mark.parametrize("key", sorted(NUMERIC))
def test_a_number_has_bounds_or_a_reason_to_have_none(key):
    if key.startswith(OF_LIGHTNING) or key.rpartition(".")[2] in WITH_NO_BOUND:
        return
    annotation = NUMERIC[key][1].annotation
    for one in (one for one in options(annotation) if bare_type(one) in NUMBERS):
        assert any(hasattr(note, sign) for note in notes_of(one) for sign in ("ge", "gt")), key
