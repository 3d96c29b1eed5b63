"""Engines: what runs a network over tokens, without knowing any text. `native` is the one that ships."""

from __future__ import annotations

from typing import Protocol

from shortlist.types import FloatArray, Tokens


class Engine(Protocol):
    """What an encoder and a reranker need of the engine that runs their network; `NativeEngine` says what each means."""

    @property
    def hidden_size(self) -> int:
        """Numbers in a state."""

    @property
    def max_tokens(self) -> int:
        """Tokens that a sequence may have."""

    @property
    def threads(self) -> int:
        """Threads that a run may use."""

    @property
    def instruction_set(self) -> str:
        """The instruction set that the kernels use."""

    def run(self, tokens: Tokens, pooling: str) -> FloatArray:
        """float32[n, hidden_size], or float32[n, labels] with pooling "score". Safe to call from several threads."""
