"""The native engine: runs one frozen network over ragged token sequences on the CPU."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

import numpy as np

from shortlist import _native
from shortlist.errors import BadInput, ModelError
from shortlist.models.network import HEADS, TABLE, Network
from shortlist.models.weights import Array, leave_mapped, mapped_place
from shortlist.types import ByteArray, FloatArray, IntArray, Tokens

PRECISIONS = ("int8", "float32")
POOLINGS = ("cls", "mean", "none", "score")
_MOST_THREADS = 4096


class NativeEngine:
    """One network, packed for this processor.

    precision "int8" quantises weights once per output channel (symmetric) and activations per token; sums are exact
    int32, everything between the linear layers is float32. "float32" is for comparison.

    Thread-safe; the interpreter is free while it computes. The result of a sequence is the same to the last bit
    whatever else is in the batch, in whatever order, and with any number of threads.

    Raises ModelError when a weight is NaN or infinite; BadInput for an unknown precision or instruction set.
    """

    def __init__(self, network: Network, *, precision: str = "int8", threads: int | None = None) -> None:
        if precision not in PRECISIONS:
            raise BadInput(f"precision={precision!r}; expected one of {', '.join(PRECISIONS)}.")
        if threads is not None and not 1 <= threads <= _MOST_THREADS:
            raise BadInput(f"threads={threads}; expected 1 to {_MOST_THREADS}, or None for as many as this process may use.")
        self._threads = threads or available_cpus()
        self._network = network
        self._instruction_set = chosen_instruction_set()
        file, place = mapped_place(network.table)
        try:
            self._native = _native.Network(
                hidden=network.hidden_size,
                layers=network.layers,
                heads=network.heads,
                intermediate=network.intermediate_size,
                vocabulary=network.vocab_size,
                positions=network.first_position + network.max_positions,
                first_position=network.first_position,
                token_types=network.type_vocab_size,
                labels=network.labels,
                eps=network.layer_norm_eps,
                tanh_gelu=network.activation == "gelu_tanh",
                int8=precision == "int8",
                maxsim=network.maxsim,
                instruction_set=self._instruction_set,
                tensors=_arrays(network),
                table_file=file,
                table_place=place,
            )
        except ValueError as error:
            raise ModelError(f"the network cannot be used: {error}.") from error
        for array in (network.table, *network.tensors.values()):
            leave_mapped(array)

    @property
    def hidden_size(self) -> int:
        """Numbers in a state."""
        return self._network.hidden_size

    @property
    def layers(self) -> int:
        """Layers of the network."""
        return self._network.layers

    @property
    def labels(self) -> int:
        """Outputs of the score head; 0 without one."""
        return self._network.labels

    @property
    def max_tokens(self) -> int:
        """Tokens that a sequence may have."""
        return self._network.max_positions

    @property
    def threads(self) -> int:
        """Threads that a run may use; each takes whole sequences."""
        return self._threads

    @property
    def instruction_set(self) -> str:
        """The instruction set that the kernels use: one of `available_instruction_sets()`."""
        return self._instruction_set

    def run(self, tokens: Tokens, pooling: str) -> FloatArray:
        """The network's output; vectors are not normalised.

        pooling "cls" (state of the first token) or "mean" -> float32[n, hidden_size]; "none" -> float32[total,
        hidden_size], the state of every token; "score" -> float32[n, labels], raw logits of the score head, to which a
        network with a MaxSim part adds it: segments 0 and 1 say there which tokens are the query's and which the passage's.

        Where a network has one token type only, its states ignore segments.

        Raises BadInput for ids outside the vocabulary, empty or too long sequences, arrays of another type, and "score"
        without a score head; ModelError when a row of the token table is NaN or infinite, or when the result is. Ctrl-C ends
        a run after a block of about a thousand tokens; the engine is as good as before.
        """
        if pooling not in POOLINGS:
            raise BadInput(f"pooling={pooling!r}; expected one of {', '.join(POOLINGS)}.")
        if pooling == "score" and not self.labels:
            raise BadInput('pooling="score", but this network has no score head. Use cls, mean or none.')
        ids, segments, offsets = self._checked(tokens)
        rows = len(ids) if pooling == "none" else len(offsets) - 1
        out = np.empty((rows, self.labels if pooling == "score" else self.hidden_size), np.float32)
        try:
            self._native.run(ids, segments, offsets, pooling, self._threads, out)
        except ValueError as error:
            raise ModelError(f"the network cannot be used: {error}.") from error
        if not np.isfinite(out).all():
            raise ModelError("the network gives NaN or infinity: some weights are far too large. Fetch or save it again.")
        return out

    def _checked(self, tokens: Tokens) -> tuple[IntArray, ByteArray, IntArray]:
        """The batch's arrays, contiguous, after every value that the native code relies on has been checked."""
        for name, array, kind in (
            ("ids", tokens.ids, np.int32),
            ("segments", tokens.segments, np.uint8),
            ("offsets", tokens.offsets, np.int32),
        ):
            if not isinstance(array, np.ndarray) or array.dtype != kind or array.ndim != 1:
                found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                raise BadInput(f"tokens.{name} is {found}; expected a one-dimensional array of {np.dtype(kind).name}.")
        ids, segments, offsets = map(np.ascontiguousarray, (tokens.ids, tokens.segments, tokens.offsets))
        self._check_offsets(offsets, len(ids), len(segments))
        if len(ids):
            self._check_values(ids, segments)
        return ids, segments, offsets

    def _check_offsets(self, offsets: IntArray, ids: int, segments: int) -> None:
        if segments != ids:
            raise BadInput(f"tokens has {ids} ids but {segments} segments; expected one segment for each id.")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != ids:
            raise BadInput(f"tokens.offsets must begin with 0 and end with {ids}, the number of ids.")
        lengths = np.diff(offsets.astype(np.int64))
        if (lengths < 1).any():
            at = int(np.argmax(lengths < 1))
            raise BadInput(f"sequence {at} has {lengths[at]} tokens; expected at least 1.")
        if (lengths > self.max_tokens).any():
            at = int(np.argmax(lengths > self.max_tokens))
            raise BadInput(
                f"sequence {at} has {lengths[at]} tokens; this network takes at most {self.max_tokens}. Truncate it."
            )

    def _check_values(self, ids: IntArray, segments: ByteArray) -> None:
        low, high, vocabulary = int(ids.min()), int(ids.max()), self._network.vocab_size
        if low < 0 or high >= vocabulary:
            raise BadInput(
                f"token id {low if low < 0 else high} is outside the vocabulary of {vocabulary} tokens. "
                "Encode the text with this model's own tokenizer."
            )
        types = self._network.type_vocab_size
        if types > 1 and int(segments.max()) >= types:
            raise BadInput(f"segment {int(segments.max())} is given, but this network knows segments 0 to {types - 1}.")


def available_instruction_sets() -> list[str]:
    """Names of the instruction sets that this processor can run, best first; the last is always "portable"."""
    return _native.instruction_sets()


def chosen_instruction_set() -> str:
    """The best instruction set, or the one that the environment variable SHORTLIST_ISA names."""
    available = available_instruction_sets()
    wanted = os.environ.get("SHORTLIST_ISA", "") or available[0]
    if wanted not in available:
        raise BadInput(f"SHORTLIST_ISA={wanted!r} cannot run here; available are {', '.join(available)}.")
    return wanted


def available_cpus() -> int:
    """Processors that this process may use: its affinity, limited by the container's CPU quota (1.5 are 2); at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        membership = Path("/proc/self/cgroup").read_text()
    except OSError:
        membership = ""
    quota = _cgroup_quota(Path("/sys/fs/cgroup"), membership)
    return count if quota is None else max(1, min(count, int(quota + 0.5)))


def _cgroup_quota(root: Path, membership: str = "") -> float | None:
    """Processors' worth of time that this process's control group and all groups above it allow; None without a limit.

    `membership` is what /proc/self/cgroup says: "0::/group" in version 2, "4:cpu,cpuacct:/group" in version 1. In a container
    the group is often one that only the host can see; then the limit stands at the root.
    """
    folders = [root, root / "cpu"]
    for line in membership.splitlines():
        controllers, _, group = line.partition(":")[2].partition(":")
        parts = PurePosixPath(group).parts[1:]
        if ".." not in parts and (not controllers or "cpu" in controllers.split(",")):
            base = root / "cpu" if controllers else root
            folders += [base.joinpath(*parts[: i + 1]) for i in range(len(parts))]
    return min(filter(None, map(_cgroup_limit, folders)), default=None)


def _cgroup_limit(folder: Path) -> float | None:
    """The limit of one control group, version 2 or 1; None if there is none or no such group."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()[:2]
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        limit = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # no control groups here, or "max": no limit
        return None
    return limit if 0 < limit < math.inf else None


def _arrays(network: Network) -> dict[str, Array]:
    """All tensors by the names that the native code knows; the score head's layers get one name for both families."""
    arrays = {TABLE: network.table, **network.tensors}
    if network.table_scale is not None:
        arrays[f"{TABLE}_scale"] = network.table_scale
    if not network.head:
        return arrays
    for theirs, ours in zip(HEADS[network.head], ("head.dense", "head.output"), strict=True):
        for part in ("weight", "weight_scale", "bias", "bias_scale"):
            if f"{theirs}.{part}" in arrays:
                arrays[f"{ours}.{part}"] = arrays.pop(f"{theirs}.{part}")
    return arrays
