"""How the renderer is chosen, and what is said where there is none."""

import os

import pytest

from dreamer.envs import opengl
from dreamer.envs.opengl import NoRenderer, choose_renderer


@pytest.fixture
def machine(monkeypatch):
    """A machine on which only some renderers work; returns what was tried, in order."""
    choose_renderer.cache_clear()
    monkeypatch.setenv("MUJOCO_GL", "")  # restores what was set, after the test
    monkeypatch.delenv("MUJOCO_GL")

    def set_up(*working):
        tried = []

        def attempt(name):
            tried.append(name)
            return None if name in working else f"no {name} here"

        monkeypatch.setattr(opengl, "_try", attempt)
        return tried

    yield set_up
    choose_renderer.cache_clear()


def test_egl_comes_first(machine):
    tried = machine("egl", "osmesa")
    assert choose_renderer() == os.environ["MUJOCO_GL"] == "egl"
    assert tried == ["egl"]


def test_osmesa_stands_in(machine):
    tried = machine("osmesa")
    assert choose_renderer() == os.environ["MUJOCO_GL"] == "osmesa"
    assert choose_renderer() == "osmesa"
    assert tried == ["egl", "osmesa"]  # once


def test_what_the_user_has_set_is_respected(machine, monkeypatch):
    tried = machine("egl", "osmesa", "glfw")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert choose_renderer() == "glfw"
    assert tried == ["glfw"]


def test_without_a_renderer_both_are_named_and_what_to_install(machine):
    machine()
    with pytest.raises(NoRenderer) as error:
        choose_renderer()
    for part in (
        "MUJOCO_GL=egl fails: no egl here",
        "MUJOCO_GL=osmesa fails: no osmesa here",
        "apt-get install libegl1 libgl1",
        "apt-get install libosmesa6",
    ):
        assert part in str(error.value)


def test_a_wish_that_fails_is_not_overruled(machine, monkeypatch):
    tried = machine("osmesa")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(NoRenderer, match="MUJOCO_GL is best left unset"):
        choose_renderer()
    assert tried == ["egl"]


def test_a_real_trial_says_what_is_wrong():
    pytest.importorskip("mujoco")
    assert "invalid value" in (opengl._try("crayon") or "")
