"""The numbers that codes are made of.

A code is a whole number from 0 to LARGEST. Its high half is the level that is nearest to it, its low half how
far it is above that level, plus SHIFT. After the rotation most dimensions of a row are small, as if drawn
from a normal distribution; so the levels are dense about the middle, as those of the quantizer of least error
are (Max 1960, Lloyd 1982): the high half alone then leaves out an eighth less than with evenly spaced levels.
"""

import numpy as np

GAPS = (9, 9, 9, 10, 11, 12, 14, 15)  # from level to level, from the middle outwards; at most 16
SHIFT = 7
LEVELS = SHIFT + np.cumsum((0, *GAPS[:0:-1], *GAPS))
LARGEST = int(LEVELS[-1]) + SHIFT
TWICE_MIDDLE = int(LEVELS[0] + LEVELS[-1])  # code c stands for `scale * (c - TWICE_MIDDLE / 2)`
REACH = (LARGEST + 1) / 2  # a row's largest value divided by its scale
NEAREST = np.abs(np.arange(LARGEST + 1)[:, None] - LEVELS).argmin(
    axis=1
)  # (LARGEST + 1,) number of its level
