"""A training step without memory or arithmetic: what it would allocate and compute, at any size.

Tensors of numbers are PyTorch's fake ones, which have a shape, a number format and a device, and no content.
Whole numbers and truth values (token ids, masks, positions) are real: a step may look at them, as when it
counts the places where there is something to learn. A fake number that is looked at is zero.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

aten = torch.ops.aten
OUTSIDE = "loss and the rest"
"""The part of what runs in no child of the model."""
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


@dataclass(frozen=True)
class TensorSpec:
    """What is needed to make a tensor like one that an operation was called with."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    content: Any = field(compare=False, default=None)
    """The tensor itself if it is real: indices have to lie within a table."""

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """Describe a tensor."""
        content = None if isinstance(tensor, FakeTensor) else tensor
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, content)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements; those of a dimension that is only expanded count once."""
        sizes = [size if stride else 1 for size, stride in zip(self.shape, self.stride, strict=True)]
        return torch.Size(sizes).numel() * self.dtype.itemsize


@dataclass(frozen=True)
class Call:
    """An operation with its arguments, tensors as `TensorSpec`; equal calls take the same time."""

    function: Any
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]
    flop: int
    """Operations of a matrix product, a convolution or an attention; 0 for anything else."""
    nbytes: int
    """Bytes read and written, at least."""

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its last operand, the weight of a layer."""
        leaves = tree_leaves((self.arguments, self.named))
        floats = [
            leaf.dtype for leaf in leaves if isinstance(leaf, TensorSpec) and leaf.dtype.is_floating_point
        ]
        return floats[-1]


@dataclass
class Step:
    """What a step consists of."""

    calls: Counter[tuple[str, Call]] = field(default_factory=Counter)
    """(part of the model, call) -> how often."""
    peak_bytes: int = 0
    """Most bytes of tensors that lived at once, weights and all."""

    @property
    def flop(self) -> dict[str, int]:
        """Operations of each part."""
        found: Counter[str] = Counter()
        for (part, call), times in self.calls.items():
            found[part] += call.flop * times
        return dict(found)


class DryRun(TorchDispatchMode):
    """A context in which models are built and run without memory or arithmetic.

    Args:
        device: where the tensors pretend to be.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self._fake = FakeTensorMode()
        self.live_bytes = 0
        """Bytes of the tensors that live now."""
        self._known: set[int] = set()
        self._step: Step | None = None
        self._stage = ""
        self._parents: Callable[[], set[str]] = set
        self._prefixes: dict[str, str] = {}
        self._entered: list[str] = []
        """Keys of `_prefixes` of the parts that are running, the last one on top."""

    def __enter__(self) -> DryRun:
        self._fake.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._fake.__exit__(*error)

    def count(self, model: nn.Module) -> None:
        """Count the memory of a model that was built outside, too."""
        for tensor in (*model.parameters(), *model.buffers()):
            self._count(tensor)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Record what runs inside as a part of this name."""
        self._stage = name
        try:
            yield
        finally:
            self._stage = ""

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[Step]:
        """Record what runs inside, by the children of `model`."""
        root = type(model).__name__
        self._prefixes = {f"{root}.{name}": name for name, _ in model.named_children()}
        step = self._step = Step(peak_bytes=self.live_bytes)
        try:
            with ModuleTracker() as tracker:
                self._parents = lambda: tracker.parents
                yield step
        finally:
            self._step = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, for real if it is about whole numbers alone."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is aten._to_copy.default and self._stays_real(args[0], kwargs.get("dtype")):
            kwargs = kwargs | {"device": torch.device("cpu")}
        real = tensors and not any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if real and not self._leaves_cpu(func, kwargs):
            with unset_fake_temporarily():
                return self._note(func, args, kwargs, func(*args, **kwargs))
        if func is aten._local_scalar_dense.default:
            return 0.0 if args[0].dtype.is_floating_point else 0
        fake_args, fake_kwargs = _with_positions(args) if func in INDEXING else args, kwargs
        if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
            fake_args, fake_kwargs = tree_map_only(Tensor, self._as_fake, (fake_args, fake_kwargs))
        output = func(*fake_args, **fake_kwargs)
        if not tensors and isinstance(output, Tensor) and not output.dtype.is_floating_point:
            with unset_fake_temporarily():
                output = func(*args, **kwargs | {"device": torch.device("cpu")})
        return self._note(func, args, kwargs, output)

    def _stays_real(self, tensor: Tensor, dtype: torch.dtype | None) -> bool:
        return not isinstance(tensor, FakeTensor) and not (dtype or tensor.dtype).is_floating_point

    def _leaves_cpu(self, func: Any, kwargs: dict[str, Any]) -> bool:
        """Whether an operation puts real numbers onto the device, where they are fake."""
        device = kwargs.get("device")
        return func is aten._to_copy.default and device is not None and device.type != "cpu"

    def _as_fake(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor.dim() == 0 and self.device.type != "cpu":  # a number; it may stay on the CPU
            return torch.empty_strided((), (), dtype=tensor.dtype, device="cpu")
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.device)

    def _note(self, func: Any, args: Any, kwargs: Any, output: Any) -> Any:
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        for tensor in outputs:
            self._count(tensor)
        if self._step is not None:
            self._step.peak_bytes = max(self._step.peak_bytes, self.live_bytes)
            call = _call(func, args, kwargs, output, outputs)
            if call is not None:
                self._step.calls[self._part(), call] += 1
        return output

    def _count(self, tensor: Tensor) -> None:
        """Count the memory of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        number = id(storage)  # an object that lives as long as the memory
        if number in self._known:
            return
        self._known.add(number)
        size = storage.nbytes()
        self.live_bytes += size
        weakref.finalize(storage, self._free, number, size).atexit = False

    def _free(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.live_bytes -= size

    def _part(self) -> str:
        if self._stage:
            return self._stage
        inside = {".".join(parent.split(".", 2)[:2]) for parent in self._parents()}
        # The tracker leaves a part without gradients of its inputs only when the backward pass is over.
        stayed = [name for name in self._entered if name in inside]
        self._entered = stayed + [name for name in self._prefixes if name in inside and name not in stayed]
        return self._prefixes[self._entered[-1]] if self._entered else OUTSIDE


def _with_positions(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace real masks among indices by the positions that they choose, whose number is known then."""
    first, indices, *others = args
    found: list[Any] = []
    with unset_fake_temporarily():
        for index in indices:
            real = isinstance(index, Tensor) and not isinstance(index, FakeTensor)
            if real and index.dtype == torch.bool:
                found += index.nonzero().unbind(1)
            else:
                found.append(index)
    return (first, found, *others)


def _call(func: Any, args: Any, kwargs: Any, output: Any, outputs: list[Tensor]) -> Call | None:
    """Describe an operation; None for one that only looks at its input in another way."""
    if func.is_view or not outputs:
        return None
    arguments = _hashable((args, sorted(kwargs.items())))
    specs, named = tree_map_only(Tensor, TensorSpec.of, arguments)
    formula = flop_registry.get(func.overloadpacket)
    flop = int(formula(*args, **kwargs, out_val=output)) if formula is not None else 0
    inputs = [leaf for leaf in tree_leaves((specs, named)) if isinstance(leaf, TensorSpec)]
    written = sum(TensorSpec.of(tensor).nbytes for tensor in outputs)
    if func is aten.embedding.default:
        inputs = []  # reads a few rows of its table
    return Call(func, specs, named, flop, written + sum(spec.nbytes for spec in inputs))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
