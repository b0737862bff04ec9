"""The numbers of known players, against those that the reports normalise with."""

from ale_py import roms

from dreamer.envs.atari_scores import _RANDOM_GAMER_RECORD, reference_returns
from experiments import published


def test_known_players_are_those_of_the_published_baselines():
    columns = ["random", "human_gamer", "human_record"]
    baselines = published.baselines()[columns].dropna()
    ours = {published.game(game): returns for game, returns in _RANDOM_GAMER_RECORD.items()}
    assert ours == {game: tuple(row) for game, *row in baselines.itertuples()}
    assert set(published.games()) <= ours.keys()


def test_games_go_by_the_names_of_the_emulator():
    assert _RANDOM_GAMER_RECORD.keys() <= set(roms.get_all_rom_ids())


def test_returns_are_named_and_empty_for_a_game_that_nobody_is_known_to_have_played():
    assert reference_returns("pong") == {"random": -20.7, "gamer": 14.6, "record": 21.0}
    assert reference_returns("tetris") == {}
