"""Raw returns of random play, a gamer and the record holder in Atari games.

`make_atari` attaches a game's numbers to its environments, for logs. To normalise scores over
games, use `experiments/scores.py`.
"""

# Game, by ale-py's name: mean return of uniformly random actions, mean return of a gamer, highest
# score on record. The paper's 55 games and Defender.
# Source: scores/baselines.json of https://github.com/danijar/dreamerv2 (MIT); DreamerV2, Table K1.
_RANDOM_GAMER_RECORD = {
    "alien": (228.8, 7_127.7, 251_916),
    "amidar": (5.8, 1_719.5, 104_159),
    "assault": (222.4, 742, 8_647),
    "asterix": (210, 8_503.3, 1_000_000),
    "asteroids": (719.1, 47_388.7, 10_506_650),
    "atlantis": (12_850, 29_028.1, 10_604_840),
    "bank_heist": (14.2, 753.1, 82_058),
    "battle_zone": (2_360, 37_187.5, 801_000),
    "beam_rider": (363.9, 16_926.5, 999_999),
    "berzerk": (123.7, 2_630.4, 1_057_940),
    "bowling": (23.1, 160.7, 300),
    "boxing": (0.1, 12.1, 100),
    "breakout": (1.7, 30.5, 864),
    "centipede": (2_090.9, 12_017, 1_301_709),
    "chopper_command": (811, 7_387.8, 999_999),
    "crazy_climber": (10_780.5, 35_829.4, 219_900),
    "defender": (2_874.5, 18_688.9, 6_010_500),
    "demon_attack": (152.1, 1_971, 1_556_345),
    "double_dunk": (-18.6, -16.4, 22),
    "enduro": (0, 860.5, 9_500),
    "fishing_derby": (-91.7, -38.7, 71),
    "freeway": (0, 29.6, 38),
    "frostbite": (65.2, 4_334.7, 454_830),
    "gopher": (257.6, 2_412.5, 355_040),
    "gravitar": (173, 3_351.4, 162_850),
    "hero": (1_027, 30_826.4, 1_000_000),
    "ice_hockey": (-11.2, 0.9, 36),
    "jamesbond": (7, 29, 45_550),
    "kangaroo": (52, 3_035, 1_424_600),
    "krull": (1_598, 2_665.5, 104_100),
    "kung_fu_master": (258.5, 22_736.3, 1_000_000),
    "montezuma_revenge": (0, 4_753.3, 1_219_200),
    "ms_pacman": (307.3, 6_951.6, 290_090),
    "name_this_game": (2_292.3, 8_049, 25_220),
    "phoenix": (761.4, 7_242.6, 4_014_440),
    "pitfall": (-229.4, 6_463.7, 114_000),
    "pong": (-20.7, 14.6, 21),
    "private_eye": (24.9, 69_571.3, 101_800),
    "qbert": (163.9, 13_455, 2_400_000),
    "riverraid": (1_338.5, 17_118, 1_000_000),
    "road_runner": (11.5, 7_845, 2_038_100),
    "robotank": (2.2, 11.9, 76),
    "seaquest": (68.4, 42_054.7, 999_999),
    "skiing": (-17_098.1, -4_336.9, -3_272),
    "solaris": (1_236.3, 12_326.7, 111_420),
    "space_invaders": (148, 1_668.7, 621_535),
    "star_gunner": (664, 10_250, 77_400),
    "tennis": (-23.8, -8.3, 21),
    "time_pilot": (3_568, 5_229.2, 65_300),
    "tutankham": (11.4, 167.6, 5_384),
    "up_n_down": (533.4, 11_693.2, 82_840),
    "venture": (0, 1_187.5, 38_900),
    "video_pinball": (16_256.9, 17_667.9, 89_218_328),
    "wizard_of_wor": (563.5, 4_756.5, 395_300),
    "yars_revenge": (3_092.9, 54_576.9, 15_000_105),
    "zaxxon": (32.5, 9_173.3, 83_700),
}


def reference_returns(game: str) -> dict[str, float]:
    """Return the scores of "random", "gamer" and "record"; empty if the game is unknown."""
    returns = _RANDOM_GAMER_RECORD.get(game, ())
    return dict(zip(("random", "gamer", "record"), returns, strict=False))
