"""Declarations read from the source are those of the imported class or function."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from dreamer.schema.sources import keys_in_source
from dreamer.schema.types import Node
from dreamer.schema.validation import imported, in_source, validate_value
from dreamer.schema.words import describe


def targets(node):
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for child in node.values():
            yield from targets(child)


def said(keys):
    """What help and messages say of the keys, in their order."""
    return [
        (name, describe(key.annotation), key.text, key.unit, key.source)
        for name, key in keys.named.items()
    ]


def test_every_target_of_the_configuration_is_read_as_it_is_imported(repository):
    names = {"dreamer.envs.user.make_suite"}
    for path in (repository / "conf").rglob("*.yaml"):
        names |= set(targets(OmegaConf.to_container(OmegaConf.load(path))))
    own = sorted(name for name in names if name.startswith("dreamer."))
    assert len(own) >= 60
    for name in own:
        read = keys_in_source(name)
        assert read is not None, name
        found = imported(name, "node._target_")
        assert (said(read), read.others) == (said(found), found.others), name
        for key, declared in read.named.items():
            made = declared.default is ...  # an object, which is not made
            assert made or declared.default == found.named[key].default, f"{name}: {key}"


@pytest.mark.parametrize(
    "name",
    ["pytorch_lightning.Trainer", "dreamer.agent.Nobody", "dreamer.nowhere.Agent", "dreamer", ""],
)
def test_what_is_elsewhere_is_not_read_and_may_have_any_keys(name):
    assert keys_in_source(name) is None
    assert in_source(name, "x").others
    node = {"_target_": name, "speed": 3}
    assert validate_value(node, Node, "ship", in_source) == node


def test_an_annotation_with_an_object_of_another_package_allows_everything(tmp_path, monkeypatch):
    (tmp_path / "ship.py").write_text(
        "import numpy as np\nfrom dreamer.schema.types import PositiveCount\n\n\n"
        "def launch(cargo: np.ndarray, crew: PositiveCount, kind: type = np.float32): ...\n"
    )
    monkeypatch.setattr("dreamer.schema.sources.PACKAGE", tmp_path)
    root = tmp_path.name
    keys = keys_in_source(f"{root}.ship.launch")
    assert [*keys.named] == ["cargo", "crew", "kind"]
    assert keys.named["cargo"].annotation is Any
    assert describe(keys.named["crew"].annotation) == "a whole number of at least 1"
