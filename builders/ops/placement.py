"""INT8 placement: which tensors are quantised, decided once from the wiring.

Every backend follows the same placement. A convolution runs in INT8 if its input
passes a Q/DQ pair and its kernel is quantised per output channel. Pairs are placed on
the inputs of convolutions, one for each tensor, and never between a convolution and
its ReLU. Of the two operands of a residual addition, the output of the INT8
convolution stays float and the other operand is quantised, so that convolution,
addition and ReLU become one kernel. These stay float: convolutions that are `precise`,
grouped, too narrow or excluded by name; instance norm, average pooling, gates and
linear layers.

Sources of the rules: NVIDIA's TensorRT documentation on explicit quantisation, and the
defaults of NVIDIA's ModelOpt (github.com/NVIDIA/TensorRT-Model-Optimizer).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Generic, cast

from builders.ops import Conv, InstanceBatchNorm, InstanceNorm, V
from builders.ops.shape import Shape, ShapeOps, WiredNetwork

WIDE = 16
"""Least number of input and output channels of an INT8 convolution (ModelOpt's rule).

On one of the two sides a multiple of 8 is enough, and the first layer is exempt.
"""


@dataclass(frozen=True)
class Pair:
    """A Q/DQ pair on one tensor.

    Attributes:
        key: Name of its scale; the two inputs of a shared layer have the same.
        number: Number of the tensor in the wiring.
        nonnegative: Whether the tensor is the output of a ReLU.
    """

    key: str
    number: int
    nonnegative: bool


@dataclass
class ConvPlacement:
    """The pairs of one convolution call.

    Attributes:
        name: Checkpoint name of the convolution.
        input: Pair on its input if it runs in INT8, else None.
        output: Pair on its output that only ONNX Runtime needs, see `Placement`.
    """

    name: str
    input: Pair | None = None
    output: Pair | None = None


@dataclass(frozen=True)
class Placement:
    """The pairs at every call of the wiring, in wiring order.

    ONNX Runtime's integer convolutions can only write integers. Where no other pair
    follows such a convolution, one more is placed on its output or behind its ReLU.

    Attributes:
        convolutions: Pairs of each convolution.
        additions: Pairs on the (first, second) operand of each addition.
        pools: Pair on the input of each max pool, which commutes with quantisation.
        relus: Pair on the output of each ReLU.
    """

    convolutions: tuple[ConvPlacement, ...]
    additions: tuple[tuple[Pair | None, Pair | None], ...]
    pools: tuple[Pair | None, ...]
    relus: tuple[Pair | None, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions in INT8, each once."""
        names = [c.name for c in self.convolutions if c.input is not None]
        return tuple(dict.fromkeys(names))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair, each once."""
        pairs: list[Pair | None] = [*self.pools, *self.relus]
        for convolution in self.convolutions:
            pairs += [convolution.input, convolution.output]
        for operands in self.additions:
            pairs += operands
        return tuple(dict.fromkeys(pair for pair in pairs if pair is not None))

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the scales, each once."""
        return tuple(dict.fromkeys(pair.key for pair in self.pairs))


@dataclass(frozen=True)
class Int8:
    """A placement and its scales.

    Attributes:
        placement: Which tensors are quantised.
        scales: A tensor's largest magnitude over 127, by scale name.
    """

    placement: Placement
    scales: Mapping[str, float]


def placement_from_model(model: WiredNetwork, exclude: Iterable[str] = ()) -> Placement:
    """Place Q/DQ pairs by a dry run of the wiring.

    Args:
        model: The network.
        exclude: Patterns (fnmatch) of convolutions that stay float.
    """
    ops = _PlacingOps(tuple(exclude))
    model.wire(cast("Any", ops))
    return ops.placement()


class PlacementCursor(Generic[V]):
    """Position in a placement while a backend runs the same wiring.

    Each method is called once at the corresponding operation. Without a placement
    (everything float) values pass through unchanged.

    Args:
        placement: The placement to follow, or None.
        insert: Puts a value through a Q/DQ pair; called once for each tensor.
    """

    def __init__(
        self, placement: Placement | None, insert: Callable[[V, Pair], V]
    ) -> None:
        self._convolutions = iter(placement.convolutions if placement else ())
        self._additions = iter(placement.additions if placement else ())
        self._pools = iter(placement.pools if placement else ())
        self._relus = iter(placement.relus if placement else ())
        self._insert = insert
        self._inserted: dict[int, V] = {}
        self._active = placement is not None

    def next_convolution(self) -> ConvPlacement | None:
        """Return the pairs of the next convolution, or None if everything is float."""
        return next(self._convolutions) if self._active else None

    def addition_operands(self, a: V, b: V) -> tuple[V, V]:
        """Return the operands of the next addition, quantised where placed.

        Args:
            a: First operand.
            b: Second operand.
        """
        if not self._active:
            return a, b
        first, second = next(self._additions)
        return self.apply(a, first), self.apply(b, second)

    def pool_input(self, x: V) -> V:
        """Return the input of the next max pool, quantised where placed.

        Args:
            x: The input.
        """
        return self.apply(x, next(self._pools)) if self._active else x

    def relu_output(self, x: V) -> V:
        """Return the output of the next ReLU, quantised where placed.

        Args:
            x: The output.
        """
        return self.apply(x, next(self._relus)) if self._active else x

    def apply(self, x: V, pair: Pair | None) -> V:
        """Put a value through a pair; the result for a tensor is reused.

        Args:
            x: The value.
            pair: The pair, or None for no quantisation.
        """
        if pair is None:
            return x
        if pair.number not in self._inserted:
            self._inserted[pair.number] = self._insert(x, pair)
        return self._inserted[pair.number]


@dataclass(eq=False)
class _Value:
    """A value of the dry run.

    `producer` is the INT8 convolution that computed it. `key` names its scale, after
    the first convolution that could read it or the one that computed it, excluded or
    not, so that one calibration table serves every choice of exclusions.
    """

    shape: Shape
    number: int
    nonnegative: bool = False
    producer: ConvPlacement | None = None
    pair: Pair | None = None
    key: str | None = None
    source: _Value | None = None
    consumers: list[str] = field(default_factory=list)


KEEP_SIGN = frozenset(("max_pool", "average_pool", "global_average", "flatten"))
NONNEGATIVE = frozenset(("relu", "sigmoid", "softmax"))


class _PlacingOps:
    """`Ops` over _Value: shapes from ShapeOps, pairs by the rules of this module."""

    def __init__(self, exclude: tuple[str, ...]) -> None:
        self._shapes = ShapeOps()
        self._exclude = exclude
        self._values: list[_Value] = []
        self._convolutions: list[tuple[ConvPlacement, _Value]] = []
        self._additions: list[tuple[Pair | None, Pair | None]] = []
        self._pools: list[_Value] = []
        self._pooled: dict[_Value, _Value] = {}
        self._relus: list[_Value] = []

    def placement(self) -> Placement:
        relu_of = {relu.source: relu for relu in self._relus}
        integer_relus: list[_Value] = []
        for call, value in self._convolutions:
            if call.input is None:
                continue
            if value.consumers == ["relu"]:
                relu = relu_of[value]
                integer_relus.append(relu)
                relu.key = relu.key or f"{call.name}.output"
                self._pair(relu)
            else:
                call.output = self._pair(value)
        return Placement(
            tuple(call for call, _ in self._convolutions),
            tuple(self._additions),
            tuple(value.pair for value in self._pools),
            tuple(v.pair if v in integer_relus else None for v in self._relus),
        )

    def convolution(self, x: _Value, conv: Conv) -> _Value:
        x.consumers.append("convolution")
        shape = self._shapes.convolution(x.shape, conv)
        call = ConvPlacement(conv.name)
        raw = self._new(shape)
        if self._suits(x.shape[0], conv):
            x.key = x.key or f"{conv.name}.input"
            if x in self._pooled:
                self._pooled[x].key = x.key
            raw.key = f"{conv.name}.output"
            if not any(fnmatchcase(conv.name, pattern) for pattern in self._exclude):
                call.input = self._pair(x)
        self._convolutions.append((call, raw))
        if isinstance(conv.norm, (InstanceNorm, InstanceBatchNorm)):
            # instance norm reads the convolution's output and is no integer kernel
            raw.consumers.append("instance_norm")
            return self._new(shape)
        raw.producer = call if call.input is not None else None
        return raw

    def add(self, a: _Value, b: _Value) -> _Value:
        a.consumers.append("add")
        b.consumers.append("add")
        pairs: list[Pair | None] = [None, None]
        if a.producer is not None:
            b.key = b.key or f"{a.producer.name}.other"
            pairs[1] = self._pair(b)
        elif b.producer is not None:
            a.key = a.key or f"{b.producer.name}.other"
            pairs[0] = self._pair(a)
        else:
            # where a tensor is quantised for another reader, read its smaller form
            pairs = [a.pair, b.pair]
        self._additions.append((pairs[0], pairs[1]))
        nonnegative = a.nonnegative and b.nonnegative
        return self._new(self._shapes.add(a.shape, b.shape), nonnegative=nonnegative)

    def _suits(self, inputs: int, conv: Conv) -> bool:
        """Return whether a convolution with `inputs` channels may run in INT8."""
        if conv.precise or conv.groups != 1:
            return False
        first = not self._convolutions
        narrow, wide = sorted((inputs, conv.channels))
        return wide >= WIDE and (narrow >= WIDE or narrow % 8 == 0 or first)

    def _pair(self, value: _Value) -> Pair:
        if value.pair is None:
            value.pair = Pair(value.key or "", value.number, value.nonnegative)
            if value in self._pooled:
                self._pair(self._pooled[value])
        return value.pair

    def _new(self, shape: Shape, *, nonnegative: bool = False) -> _Value:
        value = _Value(shape, len(self._values), nonnegative)
        self._values.append(value)
        return value

    def __getattr__(self, name: str) -> Callable[..., _Value]:
        """Return any other operation: its shape, and whether it is non-negative."""
        shape_of = getattr(self._shapes, name)

        def run(*args: Any, **options: Any) -> _Value:
            operands = [each for each in args if isinstance(each, _Value)]
            plain = [each.shape if isinstance(each, _Value) else each for each in args]
            keeps_sign = name in KEEP_SIGN and all(x.nonnegative for x in operands)
            result = self._new(
                shape_of(*plain, **options),
                nonnegative=name in NONNEGATIVE or (keeps_sign and bool(operands)),
            )
            for operand in operands:
                operand.consumers.append(name)
                if name == "relu":
                    result.source = operand
                    self._relus.append(result)
                elif name == "max_pool":
                    self._pools.append(operand)
                    self._pooled[result] = operand
            return result

        return run


def missing_scales(placement: Placement, scales: Mapping[str, float]) -> list[str]:
    """Return the names of scales that a placement needs and `scales` lacks.

    Args:
        placement: The placement.
        scales: Scales by name.
    """
    return [key for key in placement.keys if key not in scales]
