"""Array types of a block of log lines: its bytes, places in it, and the padding behind it."""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

# Bytes that every buffer carries after its last line: the compiled hash reads whole words at the end of a text.
PADDING = 64
