"""What an evaluation films, and that no `render` ends it."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import dreamer
from dreamer import evaluation
from dreamer.callbacks.interrupt import Interrupted
from dreamer.captions import GAP, LINE
from dreamer.envs.gym import GymEnv
from dreamer.envs.processes import make_group
from dreamer.evaluation import MAX_EDGE, VideoRecorder, play
from dreamer.run.evaluate import evaluate


class Toy(gymnasium.Env):
    """Ends after four steps; `picture` says what it renders at a step."""

    observation_space, action_space = Box(-1, 1, (2,), np.float32), Discrete(2)
    render_mode = "rgb_array"

    def __init__(self, picture=lambda time: None):
        self.picture, self.rendered = picture, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(2, np.float32), 1.0, self.time == 4, False, {}

    def render(self):
        self.rendered += 1
        return self.picture(self.time)


MARGIN = 2 * LINE + GAP  # below the pictures


def group(picture, count=1):
    return make_group(
        lambda: GymEnv(Toy(picture)),
        count=count,
        seed=0,
        action_repeat=1,
        processes=False,
        hang_seconds=30,
        max_restarts=0,
    )


def stay(step, state):
    return np.eye(2, dtype=np.float32)[np.zeros(len(step.reward), int)], None


def grey(height, width, shade):
    return np.full((height, width, 3), shade, np.uint8)


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("picture", "wrong"),
    [
        (lambda time: None, "got None"),
        (lambda time: grey(3, 64, 64).transpose(2, 0, 1), r"got an array \(3, 3, 64\)"),
        (lambda time: [grey(4, 6, 0)] * time, "got a list"),
        (lambda time: raise_(NotImplementedError()), "raised NotImplementedError"),
        (lambda time: raise_(ImportError("pip install pygame")), "pip install pygame"),
    ],
    ids=["none", "shape", "list", "not implemented", "import"],
)
def test_what_cannot_be_rendered_costs_one_warning_and_is_drawn(picture, wrong):
    envs = group(picture, count=2)
    recorder = VideoRecorder(envs, 50)
    with pytest.warns(UserWarning, match=f"^Toy: `render` .*{wrong}") as warned:
        results = [play(envs, stay, 3, recorder=recorder) for _ in range(2)]
    assert len(warned) == 1
    assert str(warned[0].message).endswith(". Videos show observations instead.")
    for result in results:
        assert len(result.episodes) == 3
        assert result.images.shape[1:] == (256 + MARGIN, 256, 3)


def test_it_is_not_asked_again():
    envs = group(lambda time: None)
    with pytest.warns(UserWarning, match="got None"):
        play(envs, stay, 3, recorder=VideoRecorder(envs, 50))
    assert envs.members[0].env.rendered == 1


def test_a_film_has_the_size_of_its_first_picture():
    sizes = [(4, 6), (8, 6), (2, 3), (1, 1), (5, 7)]
    envs = group(lambda time: grey(*sizes[time], shade=time))
    with warnings.catch_warnings(action="error"):
        images = play(envs, stay, 1, recorder=VideoRecorder(envs, 50)).images
    assert images.shape == (5, 4 * 43 + MARGIN, 6 * 43, 3)  # 258 pixels wide
    assert images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_film_that_cannot_be_rendered_to_its_end_is_drawn_to_its_end():
    envs = group(lambda time: grey(4, 6, shade=time) if time < 2 else None)
    with pytest.warns(UserWarning, match="Videos show observations instead"):
        images = play(envs, stay, 1, recorder=VideoRecorder(envs, 50)).images
    assert images.shape == (5, 4 * 43 + MARGIN, 6 * 43, 3)


def test_large_pictures_are_shrunk():
    envs = group(lambda time: np.broadcast_to(np.uint8(7), (4, 3000, 3)))
    images = play(envs, stay, 1, recorder=VideoRecorder(envs, 2)).images
    assert images.shape == (2, 1 + MARGIN, MAX_EDGE, 3)


def test_the_margin_counts_steps_and_rewards_of_each_episode(monkeypatch):
    said = []
    monkeypatch.setattr(evaluation, "episode_lines", lambda **words: said.append(words) or ["a"])
    envs = group(lambda time: grey(4, 6, 0))
    recorder = VideoRecorder(envs, 7)
    for _ in range(2):
        said.clear()
        play(envs, stay, 2, recorder=recorder)
        assert [(x["episode"], x["step"], x["reward"], x["total"]) for x in said] == [
            *((1, 0, 0, 0), (1, 1, 1, 1), (1, 2, 1, 2), (1, 3, 1, 3), (1, 4, 1, 4)),
            *((2, 0, 0, 0), (2, 1, 1, 1)),
        ]


def test_at_most_so_many_steps_are_filmed():
    envs = group(lambda time: grey(4, 6, 0))
    assert len(play(envs, stay, 2, recorder=VideoRecorder(envs, 3)).images) == 3
    assert play(envs, stay, 2, recorder=VideoRecorder(envs, 0)).images is None
    assert envs.members[0].env.rendered == 3


def test_where_nothing_can_be_drawn_there_is_no_film():
    envs = group(lambda time: None)
    step = envs.step

    def step_without_sight(action):
        return step(action)._replace(obs={"cube": np.zeros((1, 2, 2, 2, 2))})

    envs.step = step_without_sight
    with pytest.warns(UserWarning, match="no videos, .* cannot be drawn either") as warned:
        result = play(envs, stay, 3, recorder=VideoRecorder(envs, 50))
    assert (len(warned), len(result.episodes), result.images) == (1, 3, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted(2)])
def test_what_stops_a_run_stops_it_while_it_renders(error):
    envs = group(lambda time: raise_(error))
    with pytest.raises(type(error)):
        play(envs, stay, 1, recorder=VideoRecorder(envs, 50))


def test_a_group_of_a_users_own_may_have_no_render():
    class Own:
        def __init__(self, envs):
            self._envs = envs
            for name in ("count", "obs_shapes", "action_space", "reset", "step"):
                setattr(self, name, getattr(envs, name))

    envs = Own(group(None))
    with pytest.warns(UserWarning, match="^Own: `render` raised AttributeError"):
        images = play(envs, stay, 1, recorder=VideoRecorder(envs, 2)).images
    assert images.shape == (2, 256 + MARGIN, 256, 3)


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_and_its_evaluations_go_on_without_render(tmp_path, processes):
    options = {
        "debug": "fast",
        "logger": "jsonl",
        "total_frames": 100,
        "prefill_policy_steps": 48,
        "train_every_policy_steps": 8,
        "batch.length": 4,
        "env.processes": processes,
        "callbacks.video": None,
        "callbacks.evaluate": {"every_frames": 20, "episodes": 2, "video_policy_steps": 3},
    }
    with pytest.warns(UserWarning, match="^Toy: `render` must .*, got None") as warned:
        run = dreamer.train(Toy, options, run_dir=tmp_path / "run")
    assert sum("render" in str(w.message) for w in warned) == 1
    assert run.summary.frames == 100
    videos = sorted(path.name for path in (run.run_dir / "videos").iterdir())
    assert len(videos) >= 2
    with pytest.warns(UserWarning, match="^Toy: `render` must .*, got None") as warned:
        scores = evaluate(
            run.run_dir,
            episodes=2,
            checkpoint="last",
            seed=0,
            sample_actions=False,
            video_policy_steps=3,
            video_fps=5,
            allow=["test_evaluation"],
        )
    assert sum("render" in str(w.message) for w in warned) == 1
    assert scores["video"].endswith("evaluation_0000000100.mp4")
