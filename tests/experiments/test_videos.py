"""The latest videos of a run, with captions in words."""

from experiments.videos import latest_videos


def test_the_latest_video_of_each_kind_has_a_caption_in_words(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in (
        *("policy_0000000100", "policy_0000002000", "policy_explore_0000000300"),
        *("open_loop_0000000900", "open_loop_camera_0000000900", "mine_0000000007", "no_number"),
    ):
        (tmp_path / "videos" / f"{name}.mp4").touch()
    found = latest_videos(tmp_path, "dummy, memory, tiny, seed 0")
    assert [video.path.stem for video in found] == [
        *("open_loop_0000000900", "open_loop_camera_0000000900"),
        *("policy_explore_0000000300", "policy_0000002000", "mine_0000000007"),
    ]
    dream = "A dream. Truth, the model's prediction and the error"
    end = "dummy, memory, tiny, seed 0, after"
    assert [video.caption for video in found] == [
        f"{dream}. {end} 900 frames.",
        f"{dream} of `camera`. {end} 900 frames.",
        f"An evaluation episode of the explorer. {end} 300 frames.",
        f"An evaluation episode. {end} 2,000 frames.",
        f"Mine. {end} 7 frames.",
    ]


def test_the_videos_of_a_run_that_collects_nothing_count_updates(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "policy_0000000040.mp4").touch()
    (video,) = latest_videos(tmp_path, "seed 0", "updates")
    assert video.caption == "An evaluation episode. seed 0, after 40 updates."


def test_a_run_without_videos_has_none(tmp_path):
    assert latest_videos(tmp_path, "") == []
