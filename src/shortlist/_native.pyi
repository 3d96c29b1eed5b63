from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# networks (bind_network.cpp)

def instruction_sets() -> list[str]: ...

class Network:
    def __init__(
        self,
        *,
        hidden: int,
        layers: int,
        heads: int,
        intermediate: int,
        vocabulary: int,
        positions: int,
        first_position: int,
        token_types: int,
        labels: int,
        eps: float,
        tanh_gelu: bool,
        int8: bool,
        instruction_set: str,
        tensors: Mapping[str, npt.NDArray[Any]],
    ) -> None: ...
    def run(
        self,
        ids: npt.NDArray[np.int32],
        segments: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int32],
        pooling: str,
        threads: int,
        out: npt.NDArray[np.float32],
    ) -> None: ...
