"""What the tests of whole runs share."""

from contextlib import contextmanager

import pytest

from dreamer.agent import DreamerAgent


@pytest.fixture
def after_update(monkeypatch):
    """Do something once the agent has made so many updates."""

    @contextmanager
    def after(number, action):
        step = DreamerAgent.training_step

        def step_and_act(agent, batch, batch_idx):
            result = step(agent, batch, batch_idx)
            if agent.updates == number:
                action()
            return result

        with monkeypatch.context() as patch:
            patch.setattr(DreamerAgent, "training_step", step_and_act)
            yield

    return after
