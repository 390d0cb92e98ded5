"""Where INT8 goes: decided once from the wiring, followed by every backend.

A convolution runs in INT8 when its input passes a Q/DQ pair and its kernel is quantised
per output channel. Pairs stand on the inputs of convolutions, one for each tensor, and
not between a convolution and its ReLU; of the two branches of a residual addition, the
convolution's own stays float and the other one is quantised, so that convolution,
addition and ReLU become one kernel. What stays float: convolutions that are `precise`,
grouped, too narrow or excluded by name; instance norm, pooling, gates, linear layers.

Rules: NVIDIA's guidance for explicit quantisation and ModelOpt's defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Generic, cast

from builders.ops import InstanceBatchNorm, V
from builders.ops.shape import Shape, ShapeOps

if TYPE_CHECKING:
    from builders.spec import Model

WIDE = 16
"""Channels that an integer kernel needs on a side; on one of them a multiple of 8 does
(ModelOpt's rule), and the first layer's three are few anyway."""


@dataclass(frozen=True)
class Pair:
    """A Q/DQ pair on one tensor. `key` names its scale, which two inputs of a shared
    layer have in common; `number` tells tensors apart. `nonnegative` ones come from a
    ReLU.
    """

    key: str
    number: int
    nonnegative: bool


@dataclass
class Convolution:
    """One call of a convolution: its `input` pair if it runs in INT8, and its `output`
    pair, see Placement.written.
    """

    name: str
    input: Pair | None = None
    output: Pair | None = None


@dataclass(frozen=True)
class Placement:
    """What happens at each call, in wiring order: at convolutions, at the (first,
    second) operands of additions, and at the inputs of max pools, which commute with
    quantisation.

    ONNX Runtime's integer convolutions can only write integers. Where no other pair
    follows one, it needs one more: on the convolution's own output, or behind its ReLU
    (`relus`).
    """

    convolutions: tuple[Convolution, ...]
    additions: tuple[tuple[Pair | None, Pair | None], ...]
    pools: tuple[Pair | None, ...]
    relus: tuple[Pair | None, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the convolutions in INT8, each once."""
        found = [c.name for c in self.convolutions if c.input is not None]
        return tuple(dict.fromkeys(found))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair, each once."""
        found: list[Pair | None] = [*self.pools, *self.relus]
        for convolution in self.convolutions:
            found += [convolution.input, convolution.output]
        for operands in self.additions:
            found += operands
        return tuple(dict.fromkeys(pair for pair in found if pair is not None))

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the scales, each once."""
        return tuple(dict.fromkeys(pair.key for pair in self.pairs))


@dataclass(frozen=True)
class Int8:
    """A placement, and the step of every scale that it names: a tensor's largest
    magnitude over 127.
    """

    placement: Placement
    scales: Mapping[str, float]


def placement_of(model: Model, exclude: Iterable[str] = ()) -> Placement:
    """The placement for `model`; layers that match `exclude` (fnmatch) stay float."""
    ops = _PlacingOps(tuple(exclude))
    model.wire(cast("Any", ops))
    return ops.placement()


class Pairs(Generic[V]):
    """Follows a placement through a backend's own run of the same wiring. `make` puts
    a value through a pair; each tensor's is made once.
    """

    def __init__(
        self, placement: Placement | None, make: Callable[[V, Pair], V]
    ) -> None:
        self._convolutions = iter(placement.convolutions if placement else ())
        self._additions = iter(placement.additions if placement else ())
        self._pools = iter(placement.pools if placement else ())
        self._relus = iter(placement.relus if placement else ())
        self._make = make
        self._made: dict[int, V] = {}
        self._active = placement is not None

    def convolution(self) -> Convolution | None:
        """What happens at the next convolution; None if everything is float."""
        return next(self._convolutions) if self._active else None

    def addition(self, a: V, b: V) -> tuple[V, V]:
        """The operands of the next addition."""
        if not self._active:
            return a, b
        first, second = next(self._additions)
        return self.through(a, first), self.through(b, second)

    def pool(self, x: V) -> V:
        """The input of the next max pool."""
        return self.through(x, next(self._pools)) if self._active else x

    def relu(self, x: V) -> V:
        """The output of the next ReLU."""
        return self.through(x, next(self._relus)) if self._active else x

    def through(self, x: V, pair: Pair | None) -> V:
        """`x` behind `pair`, if there is one."""
        if pair is None:
            return x
        if pair.number not in self._made:
            self._made[pair.number] = self._make(x, pair)
        return self._made[pair.number]


@dataclass(eq=False)
class _Value:
    """A value of the dry run. `producer` is the INT8 convolution that made it, `key`
    what its step is called: by the first convolution that could take it, or the one
    that made it, excluded or not, so that a table serves every choice of exclusions.
    """

    shape: Shape
    number: int
    nonnegative: bool = False
    producer: Convolution | None = None
    pair: Pair | None = None
    key: str | None = None
    source: _Value | None = None
    consumers: list[str] = field(default_factory=list)


KEEP_SIGN = frozenset(("max_pool", "average_pool", "global_average", "flatten"))
NONNEGATIVE = frozenset(("relu", "sigmoid", "softmax"))


class _PlacingOps:
    """`Ops` over _Value: shapes from ShapeOps, and pairs by the rules above."""

    def __init__(self, exclude: tuple[str, ...]) -> None:
        self._shapes = ShapeOps()
        self._exclude = exclude
        self._values: list[_Value] = []
        self._convolutions: list[tuple[Convolution, _Value]] = []
        self._additions: list[tuple[Pair | None, Pair | None]] = []
        self._pools: list[_Value] = []
        self._pooled: dict[_Value, _Value] = {}
        self._relus: list[_Value] = []

    def placement(self) -> Placement:
        rectified = {relu.source: relu for relu in self._relus}
        written: list[_Value] = []
        for call, value in self._convolutions:
            if call.input is None:
                continue
            if value.consumers == ["relu"]:
                written.append(rectified[value])
                rectified[value].key = rectified[value].key or f"{call.name}.output"
                self._pair(rectified[value])
            else:
                call.output = self._pair(value)
        return Placement(
            tuple(call for call, _ in self._convolutions),
            tuple(self._additions),
            tuple(value.pair for value in self._pools),
            tuple(v.pair if v in written else None for v in self._relus),
        )

    def convolution(self, x: _Value, name: str, channels: int, **how: Any) -> _Value:
        x.consumers.append("convolution")
        shape = self._shapes.convolution(x.shape, name, channels, **how)
        call = Convolution(name)
        raw = self._new(shape)
        if self._suits(x.shape[0], channels, **how):
            x.key = x.key or f"{name}.input"
            if x in self._pooled:
                self._pooled[x].key = x.key
            raw.key = f"{name}.output"
            if not any(fnmatchcase(name, pattern) for pattern in self._exclude):
                call.input = self._pair(x)
        self._convolutions.append((call, raw))
        if isinstance(how.get("norm"), InstanceBatchNorm):
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
            # a tensor that is quantised anyway is read in its smaller form
            pairs = [a.pair, b.pair]
        self._additions.append((pairs[0], pairs[1]))
        nonnegative = a.nonnegative and b.nonnegative
        return self._new(self._shapes.add(a.shape, b.shape), nonnegative=nonnegative)

    def _suits(
        self,
        inputs: int,
        outputs: int,
        *,
        groups: int = 1,
        precise: bool = False,
        **_how: Any,
    ) -> bool:
        if precise or groups != 1:
            return False
        first = not self._convolutions
        narrow, wide = sorted((inputs, outputs))
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
        """Every other operation: its shape, and whether its result can be negative."""
        shape_of = getattr(self._shapes, name)

        def run(*args: Any, **how: Any) -> _Value:
            taken = [each for each in args if isinstance(each, _Value)]
            plain = [each.shape if isinstance(each, _Value) else each for each in args]
            kept = name in KEEP_SIGN and all(each.nonnegative for each in taken)
            result = self._new(
                shape_of(*plain, **how),
                nonnegative=name in NONNEGATIVE or (kept and bool(taken)),
            )
            for each in taken:
                each.consumers.append(name)
                if name == "relu":
                    result.source = each
                    self._relus.append(result)
                elif name == "max_pool":
                    self._pools.append(each)
                    self._pooled[result] = each
            return result

        return run


def missing(placement: Placement, scales: Mapping[str, float]) -> list[str]:
    """Names of scales that `placement` needs and `scales` has not."""
    return [key for key in placement.keys if key not in scales]
