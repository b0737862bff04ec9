"""Open-loop films: when, of what, and without a trace in the run."""

import imageio.v2 as imageio
import pytest
import torch

from dreamer.callbacks.metrics import Metrics
from dreamer.callbacks.video import OpenLoopVideo
from dreamer.captions import GAP
from dreamer.types import Batch

T, B = 7, 4


@pytest.fixture
def batch():
    flags = torch.zeros(T, B, dtype=torch.bool)
    image = torch.randint(256, (T, B, 1, 64, 64), dtype=torch.uint8)
    return Batch({"image": image}, torch.eye(2)[[0] * B].repeat(T, 1, 1), flags * 1.0, flags, flags)


@pytest.fixture
def make_video(tmp_path, replay):
    options = {"every_frames": 100, "first_updates": 0, "sequences": 3, "context": 5, "fps": 5}
    return lambda **changes: OpenLoopVideo(
        tmp_path, Metrics(replay, every_frames=1), **options | changes
    )


@pytest.fixture
def films(tmp_path):
    return lambda: sorted(path.name for path in tmp_path.glob("videos/*.mp4"))


def test_it_films_every_so_many_frames_and_at_the_end(make_video, trainer, agent, batch, films):
    video = make_video()
    video.on_train_start(trainer, agent)
    for agent.frames in (50, 120, 160):
        video.on_train_batch_end(trainer, agent, {}, batch, 0)
    assert films() == ["open_loop_0000000120.mp4"]
    agent.frames = 170
    video.on_train_end(trainer, agent)
    assert films() == ["open_loop_0000000120.mp4", "open_loop_0000000170.mp4"]


def test_a_first_film_comes_after_a_few_updates(make_video, trainer, agent, batch, films):
    video = make_video(first_updates=3)
    video.on_train_start(trainer, agent)
    for agent.updates in range(1, 6):
        agent.frames = 10 * agent.updates
        video.on_train_batch_end(trainer, agent, {}, batch, 0)
    assert films() == ["open_loop_0000000030.mp4"]


def test_a_resumed_run_does_not_begin_with_a_film(make_video, trainer, agent, batch, films):
    video = make_video(first_updates=3)
    agent.updates, agent.frames = 7, 60
    video.on_train_start(trainer, agent)
    for agent.updates in (8, 9):
        video.on_train_batch_end(trainer, agent, {}, batch, 0)
    assert films() == []


@pytest.mark.slow
def test_the_film_is_as_long_as_the_batch_and_shows_sequences_side_by_side(
    make_video, trainer, agent, batch, films, tmp_path
):
    agent.frames = 100
    make_video().on_train_batch_end(trainer, agent, {}, batch, 0)
    pictures = imageio.mimread(tmp_path / "videos" / films()[0], memtest=False)
    assert len(pictures) == T
    height, width = pictures[0].shape[:2]
    assert width - 3 * (2 * 64 + GAP) in range(20, 80)  # beside the labels; enlarged twice
    assert height - 3 * (2 * 64 + GAP) in range(20, 60)


def test_it_leaves_the_random_state_alone(make_video, trainer, agent, batch):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    agent.frames = 100
    make_video().on_train_batch_end(trainer, agent, {}, batch, 0)
    assert torch.rand(2).equal(expected)


def test_a_context_as_long_as_the_batch_leaves_nothing_to_predict(
    make_video, trainer, agent, batch, films
):
    agent.frames = 100
    make_video(context=T).on_train_batch_end(trainer, agent, {}, batch, 0)
    assert films() == []


def test_a_run_without_an_update_has_nothing_to_film(make_video, trainer, agent, films):
    make_video().on_train_end(trainer, agent)
    assert films() == []


def test_no_context_is_refused(make_video):
    with pytest.raises(ValueError, match="`context` must be at least 1, got 0"):
        make_video(context=0)


def test_a_video_that_cannot_be_written_is_counted_and_nothing_else(
    make_video, trainer, agent, batch, tmp_path
):
    (tmp_path / "videos").write_text("a file in the way")
    agent.frames, video = 100, make_video()
    with pytest.warns(UserWarning, match="the video failed, and the run continues: FileExists"):
        video.on_train_batch_end(trainer, agent, {}, batch, 0)
    agent.frames = 200
    video.on_train_batch_end(trainer, agent, {}, batch, 0)
    assert video._metrics.latest == {"video/failures": 2}
