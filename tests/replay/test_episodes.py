from collections import deque

import numpy as np

from dreamer.replay.episodes import EpisodeIndex


def test_index_agrees_with_plain_lists_over_a_long_random_run():
    generator = np.random.default_rng(0)
    index, plain = EpisodeIndex(3), [deque() for _ in range(3)]
    starts = [0, 0, 0]
    for now in range(1, 3000):
        for env in range(3):
            if generator.random() < (0.02, 0.3, 0.9)[env]:
                index.append(env, starts[env], now)
                plain[env].append((starts[env], now))
                starts[env] = now
        index.drop_before(now - 150)
        for episodes in plain:
            while episodes and episodes[0][0] < now - 150:
                episodes.popleft()
        held = [(env, *bounds) for env in range(3) for bounds in plain[env]]
        assert len(index) == len(held)
        assert index.longest == max((stop - start for _, start, stop in held), default=0)
        if held and now % 100 == 0:
            drawn = np.stack(index.draw(generator, 4000), 1).tolist()
            assert {tuple(episode) for episode in drawn} == set(held)


def test_every_episode_is_drawn_alike():
    index = EpisodeIndex(2)
    for n in range(40):
        index.append(int(n >= 5), n, n + 1 + n % 7)
    index.drop_before(2)  # of each environment the oldest: 38 are left
    draws = 80_000
    _, start, _ = index.draw(np.random.default_rng(0), draws)
    found, counts = np.unique(start, return_counts=True)
    assert found.tolist() == list(range(2, 40))
    share = 1 / 38
    assert np.abs(counts / draws - share).max() < 5 * np.sqrt(share * (1 - share) / draws)


def test_clear_drops_everything():
    index = EpisodeIndex(2)
    index.append(1, 0, 9)
    index.clear()
    assert len(index) == index.longest == 0
