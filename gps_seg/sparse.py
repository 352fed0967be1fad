"""The engine: a layer whose backward computes only the selected entries of its weight gradient. Torch only.

:func:`attach` binds a :class:`~gps_seg.selection.Selection` to a model in place. Each touched weight stays where it is,
frozen; a small fp32 vector ``selected_values`` beside it is the parameter. The forward pass is the stock one. The backward
pass computes the input gradient and, for each selected entry (o, i), g = sum over tokens of dY[:, o] * X[:, i]. After each
optimizer step :meth:`Attached.write_back` copies the values into the weight, so merging is nothing more than letting go.

Unselected weights are never an argument of any optimizer: no weight decay, momentum or rounding can reach them.
Source for compact values: Zhang et al., NeuroAda, EMNLP 2025, arXiv 2510.18940; we store absolute values instead of
differences, so that merge, unmerge and swap are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from gps_seg.errors import CheckpointError
from gps_seg.selection import Selection, counts

VALUES = "selected_values"
# Rows worked on at once, so that a gathered chunk stays in the processor's cache (measured 4x faster than one piece).
CHUNK = 256
# Keeping only the used input columns pays when it drops at least a tenth of them.
KEEP_COLUMNS_BELOW = 0.9
# A matrix product on u used columns costs u x out multiply-adds a token, gathering costs one step an entry. This is the
# measured price of such a step in multiply-adds, on a 2-core AVX-512 CPU (25 ps a multiply-add in fp32, 12 in bf16, 1.1 ns a
# step); entries that are not row-regular must gather dY too, which triples it.
GATHER_PRICE = {torch.float32: 40, torch.float64: 40, torch.bfloat16: 90, torch.float16: 90}
IRREGULAR = 3


class _Positions(nn.Module):
    """Where a layer's selected entries are: buffers that follow the layer across devices and are never saved.

    Attributes:
        rows: int64 (n,) output row or channel of each entry.
        columns: int64 (n,) index of each entry's input column (or channel) into ``used``.
        used: int64 (u,) ascending input columns or channels that any entry reads.
        taps: int64 (n,) kernel position of each entry; zeros for linear layers.
    """

    rows: Tensor
    columns: Tensor
    used: Tensor
    taps: Tensor

    def __init__(self, rows: Tensor, inputs: Tensor, taps: Tensor) -> None:
        super().__init__()
        used, columns = torch.unique(inputs, return_inverse=True)
        for name, tensor in {"rows": rows, "columns": columns, "used": used, "taps": taps}.items():
            self.register_buffer(name, tensor, persistent=False)


def prefers_product(used: int, out: int, entries: int, dtype: torch.dtype) -> bool:
    """The measured rule: whether a product on the used columns is cheaper than gathering the entries."""
    price = GATHER_PRICE[dtype] * (1 if entries % out == 0 else IRREGULAR)
    return used * out < price * entries


def selected_products(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    """g[e] = sum over n of dy[n, rows[e]] * x[n, columns[e]], fp32 (e,), or fp64 for fp64.

    Args:
        rows, columns: int64 (e,), in ascending order of rows.
        dy: (n, out); x: (n, u), the used input columns only.
    """
    exact = torch.promote_types(dy.dtype, torch.float32)
    if torch.compiler.is_compiling():  # the compiler fuses this into one pass without the large intermediate
        return (dy[:, rows].to(exact) * x[:, columns].to(exact)).sum(0)
    if dy.device.type != "cpu" or prefers_product(x.shape[1], dy.shape[1], len(rows), dy.dtype):
        return (x.T @ dy)[columns, rows].to(exact)
    return _gather(rows, columns, dy, x)


def _gather(rows: Tensor, columns: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    """The same by gathering, a chunk of tokens at a time. Sums are products with a row of ones: 3x faster than sum(0)."""
    exact = torch.promote_types(dy.dtype, torch.float32)
    out, entries = dy.shape[1], len(rows)
    per_row = entries // out
    regular = entries == per_row * out and torch.equal(rows, torch.arange(out).repeat_interleave(per_row))
    parts = columns.view(out, per_row).unbind(1) if regular else (columns,)
    sums = [torch.zeros(1, len(part), dtype=exact) for part in parts]
    gathered = torch.empty(CHUNK, len(parts[0]), dtype=exact)
    ones = torch.ones(1, CHUNK, dtype=exact)
    for start in range(0, len(dy), CHUNK):
        right = x[start : start + CHUNK].to(exact)
        left = dy[start : start + CHUNK] if regular else dy[start : start + CHUNK].index_select(1, rows)
        chunk = gathered[: len(right)]
        for part, total in zip(parts, sums, strict=True):
            torch.index_select(right, 1, part, out=chunk)
            total.addmm_(ones[:, : len(right)], chunk.mul_(left))
    return torch.stack([total[0] for total in sums], 1).flatten()


class _LinearFunction(torch.autograd.Function):
    """y = x W^T + b with a backward that skips dW. x (..., in), dy (..., out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor,  # noqa: ARG004 - values only receive a gradient
        rows: Tensor, columns: Tensor, used: Tensor,
    ) -> Tensor:
        keeps_columns = len(used) < KEEP_COLUMNS_BELOW * x.shape[-1]
        kept = x.index_select(-1, used) if keeps_columns else x  # a copy: a view would keep the whole input alive
        ctx.save_for_backward(kept, weight, rows, columns if keeps_columns else used[columns])
        ctx.bias_dtype = None if bias is None else bias.dtype
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, rows, columns = ctx.saved_tensors
        flat = dy.reshape(-1, dy.shape[-1])
        dx = dy @ weight.to(dy.dtype) if ctx.needs_input_grad[0] else None
        db = flat.sum(0, dtype=ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        dv = selected_products(rows, columns, flat, kept.reshape(-1, kept.shape[-1])) if ctx.needs_input_grad[3] else None
        return dx, None, db, dv, None, None, None


class _Conv2dFunction(torch.autograd.Function):
    """A 2-D convolution, any stride, padding, dilation and groups. x (b, in, h, w), dy (b, out, h', w').

    The selected entries come from the weight gradient of the used input channels alone; with groups, whose weights are
    small, from the whole weight gradient. A 1x1 convolution is a linear layer over pixels, several times faster so in bf16.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, values: Tensor,  # noqa: ARG004 - values only receive a gradient
        rows: Tensor, columns: Tensor, used: Tensor, taps: Tensor, geometry: tuple[Any, ...],
    ) -> Tensor:
        groups = geometry[3]
        keeps_channels = groups == 1 and len(used) < KEEP_COLUMNS_BELOW * x.shape[1]
        kept = x.index_select(1, used) if keeps_channels else x
        ctx.save_for_backward(kept, weight, rows, columns if keeps_channels else used[columns], taps)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.geometry, ctx.input_shape = geometry, x.shape
        return F.conv2d(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *geometry)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, rows, columns, taps = ctx.saved_tensors
        pointwise = weight.shape[2:] == (1, 1) and ctx.geometry == ((1, 1), (0, 0), (1, 1), 1)
        dx = None
        if ctx.needs_input_grad[0]:
            cast = weight.to(dy.dtype)
            dx = _pointwise_input(dy, cast) if pointwise else _conv_input(ctx.input_shape, dy, cast, ctx.geometry)
        db = dy.sum((0, 2, 3), dtype=ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        dv = None
        if ctx.needs_input_grad[3]:
            if _is_patchwise(weight.shape[2:], ctx.geometry):
                dv = _patch_products(kept, dy, (rows, columns, taps), weight.shape[2:])
            else:
                dv = _conv_products(kept, dy, (rows, columns, taps), weight.shape, ctx.geometry)
        return dx, None, db, dv, None, None, None, None, None


def _pointwise_input(dy: Tensor, weight: Tensor) -> Tensor:
    """Input gradient of a 1x1 convolution as one matrix product; keeps the memory format of dy."""
    flat = weight.flatten(1)
    if dy.is_contiguous(memory_format=torch.channels_last):
        return (dy.permute(0, 2, 3, 1) @ flat).permute(0, 3, 1, 2)
    return (flat.T @ dy.flatten(2)).unflatten(2, dy.shape[2:])


def _conv_input(shape: torch.Size, dy: Tensor, weight: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    """Input gradient of any convolution, in the memory format of dy.

    torch.nn.grad.conv2d_input always answers in NCHW, which makes everything before a channels-last layer crawl.
    """
    stride, padding, dilation, groups = geometry
    is_last = dy.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    unread = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=layout)  # only its shape and strides count
    wanted = [True, False, False]
    return torch.ops.aten.convolution_backward(
        dy, unread, weight, None, stride, padding, dilation, False, (0, 0), groups, wanted
    )[0]


def _is_patchwise(kernel: torch.Size, geometry: tuple[Any, ...]) -> bool:
    stride, padding, dilation, groups = geometry
    return tuple(kernel) == tuple(stride) and not any(padding) and tuple(dilation) == (1, 1) and groups == 1


def _conv_products(
    x: Tensor, dy: Tensor, where: tuple[Tensor, Tensor, Tensor], weight_shape: torch.Size, geometry: tuple[Any, ...]
) -> Tensor:
    """Selected entries, fp32 (e,), from the weight gradient of the kept channels.

    Args:
        x: (b, channels, h, w), the kept input channels; dy: (b, out, h', w').
        where: rows, columns (into the channels of x) and taps, each int64 (e,).
        geometry: stride, padding, dilation, groups.
    """
    rows, columns, taps = where
    groups = geometry[3]
    per_group = x.shape[1] // groups
    shape = (weight_shape[0], per_group, *weight_shape[2:])
    gradient = conv2d_weight(x, shape, dy, *geometry)
    return gradient.flatten(2)[rows, columns % per_group, taps].to(torch.promote_types(dy.dtype, torch.float32))


def _patch_products(x: Tensor, dy: Tensor, where: tuple[Tensor, Tensor, Tensor], kernel: torch.Size) -> Tensor:
    """Non-overlapping patches (1x1 convolutions and patch embeddings): a linear layer over (channel, tap)."""
    rows, columns, taps = where
    (batch, channels), (height, width) = x.shape[:2], dy.shape[2:]
    area = kernel[0] * kernel[1]
    if area == 1 and not dy.is_contiguous(memory_format=torch.channels_last):
        products = (x.flatten(2) @ dy.flatten(2).mT).sum(0)
        return products[columns, rows].to(torch.promote_types(dy.dtype, torch.float32))
    x = x[..., : height * kernel[0], : width * kernel[1]]
    patches = x.reshape(batch, channels, height, kernel[0], width, kernel[1]).permute(0, 2, 4, 1, 3, 5)
    flat_x = patches.reshape(batch * height * width, channels * area)
    flat_dy = dy.permute(0, 2, 3, 1).reshape(-1, dy.shape[1])
    return selected_products(rows, columns * area + taps, flat_dy, flat_x)


def _compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """The type the stock layer would compute in: autocast's if it is on, else the weight's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class SparseLinear(nn.Linear):
    """An ``nn.Linear`` in place: same weight, same forward, sparse backward. Made by :func:`attach`."""

    selected_values: nn.Parameter
    selected_positions: _Positions

    def forward(self, input: Tensor) -> Tensor:
        """The stock forward."""
        where = self.selected_positions
        x = input.to(_compute_dtype(input, self.weight))
        with torch.autocast(x.device.type, enabled=False):
            return _LinearFunction.apply(
                x, self.weight, self.bias, self.selected_values, where.rows, where.columns, where.used
            )


class SparseConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` in place: same weight, same forward, sparse backward. Made by :func:`attach`."""

    selected_values: nn.Parameter
    selected_positions: _Positions

    def forward(self, input: Tensor) -> Tensor:
        """The stock forward."""
        where, geometry = self.selected_positions, (self.stride, self.padding, self.dilation, self.groups)
        x = input.to(_compute_dtype(input, self.weight))
        with torch.autocast(x.device.type, enabled=False):
            return _Conv2dFunction.apply(
                x, self.weight, self.bias, self.selected_values, where.rows, where.columns, where.used, where.taps, geometry
            )


def _linear_positions(_: nn.Module, shape: torch.Size, flat: Tensor) -> _Positions:
    return _Positions(flat // shape[1], flat % shape[1], torch.zeros_like(flat))


def _conv_positions(layer: nn.Module, shape: torch.Size, flat: Tensor) -> _Positions:
    out, per_group, height, width = shape
    area = height * width
    rows = flat // (per_group * area)
    group = rows // (out // int(layer.groups))  # type: ignore[arg-type]
    channels = group * per_group + flat // area % per_group
    return _Positions(rows, channels, flat % area)


def _has_sparse_form(layer: nn.Module) -> bool:
    """Whether the layer computes exactly what the stock class does; a subclass with its own forward does not."""
    if type(layer).forward is nn.Linear.forward:
        return True
    return type(layer).forward is nn.Conv2d.forward and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class _Site:
    """One weight with selected entries: where it is, what it was, and its small vector."""

    def __init__(self, layer: nn.Module, attribute: str, indices: Tensor) -> None:
        self.layer, self.attribute, self.indices = layer, attribute, indices
        self.stock_class = type(layer)
        self.handle: Any = None
        weight = self.weight
        self.coordinates = torch.unravel_index(indices.to(weight.device), weight.shape)
        self.base = weight.detach()[self.coordinates].clone()
        self.values = nn.Parameter(self.base.float().clone())
        weight.requires_grad_(False)
        if attribute == "weight" and _has_sparse_form(layer):
            self._become_sparse()
        else:
            self._pick_from_dense()

    @property
    def weight(self) -> nn.Parameter:
        return getattr(self.layer, self.attribute)

    def _become_sparse(self) -> None:
        linear = isinstance(self.layer, nn.Linear)
        locate = _linear_positions if linear else _conv_positions
        self.layer.selected_positions = locate(self.layer, self.weight.shape, self.indices).to(self.weight.device)
        self.layer.register_parameter(VALUES, self.values)
        self.layer.__class__ = SparseLinear if linear else SparseConv2d

    def _pick_from_dense(self) -> None:
        """For layers without a sparse form: let autograd make the dense gradient, keep the picked entries, free it."""
        self.layer.register_parameter(f"{self.attribute}_{VALUES}", self.values)
        self.weight.requires_grad_(True)

        def pick(weight: Tensor) -> None:
            if weight.grad is not None:
                picked = weight.grad[self._where()].to(self.values.dtype)
                weight.grad = None
                self.values.grad = picked if self.values.grad is None else self.values.grad + picked

        self.handle = self.weight.register_post_accumulate_grad_hook(pick)

    def _where(self) -> tuple[Tensor, ...]:
        if self.coordinates[0].device != self.weight.device:
            self.coordinates = tuple(part.to(self.weight.device) for part in self.coordinates)
        return self.coordinates

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        self.weight.index_put_(self._where(), values.to(self.weight.device, self.weight.dtype))

    def let_go(self) -> None:
        if self.handle is not None:
            self.handle.remove()
            del self.layer._parameters[f"{self.attribute}_{VALUES}"]
        else:
            self.layer.__class__ = self.stock_class
            del self.layer._parameters[VALUES]
            del self.layer.selected_positions


class Attached:
    """A selection bound to a model. One owner of everything that trains.

    The model's other parameters have ``requires_grad`` False until :meth:`merge` or :meth:`unmerge`, which give each its
    former setting back.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self.model, self.selection = model, selection
        parameters = dict(model.named_parameters())
        missing = sorted({*selection.sparse, *selection.dense} - set(parameters))
        if missing:
            raise CheckpointError(f"the selection names {len(missing)} parameters the model lacks: {', '.join(missing[:5])}")
        self._required = {name: parameter.requires_grad for name, parameter in parameters.items()}
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in selection.dense)
        # In the model's order, whatever the selection's: a resumed run must sum gradient norms in the same order.
        self._dense = {name: parameter for name, parameter in parameters.items() if name in selection.dense}
        self._dense_base = {name: parameter.detach().cpu().clone() for name, parameter in self._dense.items()}
        self._sites: dict[str, _Site] = {}
        for name in parameters:
            if name not in selection.sparse:
                continue
            indices = selection.sparse[name]
            _check_indices(name, parameters[name], indices)
            layer, _, attribute = name.rpartition(".")
            self._sites[name] = _Site(model.get_submodule(layer), attribute, indices)
        self._stock_parameters = parameters
        # A weight whose dense gradient is only picked from must not be reduced between processes; torch has no public
        # name for this.
        model._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
            name for name, site in self._sites.items() if site.handle is not None
        ]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter for the optimizer: fp32 vectors under their weight's name, dense tensors under their own."""
        return {**{name: site.values for name, site in self._sites.items()}, **self._dense}

    def counts(self) -> dict[str, int]:
        """Trainable scalars by role, over the stock parameters; see :func:`gps_seg.selection.counts`."""
        return counts(self.selection, self._stock_parameters)

    def write_back(self) -> None:
        """Copy the values into the weights. Call after every optimizer step, never between a forward and its backward."""
        for site in self._sites.values():
            site.write(site.values.detach())

    def follow(self, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Write back by itself after each of the optimizer's steps; returns a function that stops this."""
        handle = optimizer.register_step_post_hook(lambda *_: self.write_back())
        return handle.remove

    def state(self) -> dict[str, Tensor]:
        """Current values, detached copies on the CPU, keyed like :meth:`trainable`."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.trainable().items()}

    def base_state(self) -> dict[str, Tensor]:
        """The pretrained values of everything that trains, keyed like :meth:`trainable`."""
        return {**{name: site.base.float().cpu().clone() for name, site in self._sites.items()}, **self._dense_base}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set all values and write them back.

        Raises:
            CheckpointError: a name is missing, unexpected, or has another shape.
        """
        trainable = self.trainable()
        missing, unexpected = sorted(set(trainable) - set(state)), sorted(set(state) - set(trainable))
        if missing or unexpected:
            raise CheckpointError(f"the delta does not fit: missing {missing[:5]}, unexpected {unexpected[:5]}")
        for name, parameter in trainable.items():
            if parameter.shape != state[name].shape:
                raise CheckpointError(f"{name}: expected shape {tuple(parameter.shape)}, got {tuple(state[name].shape)}")
            parameter.copy_(state[name])
        self.write_back()
        self._refresh()

    @contextmanager
    def base_restored(self) -> Iterator[None]:
        """Within the block the model is the base, bit for bit; afterwards the trained values are back."""
        state = self.state()
        self._restore_base()
        try:
            yield
        finally:
            self.load(state)

    def merge(self) -> nn.Module:
        """Let go of the model: trained values stay in its weights; names, classes and flags are the stock ones."""
        self.write_back()
        self._let_go()
        return self.model

    def unmerge(self) -> nn.Module:
        """Let go of the model and restore the pretrained values bit for bit."""
        self._restore_base()
        self._let_go()
        return self.model

    @torch.no_grad()
    def _restore_base(self) -> None:
        for site in self._sites.values():
            site.write(site.base)
        for name, parameter in self._dense.items():
            parameter.copy_(self._dense_base[name])
        self._refresh()

    def _refresh(self) -> None:
        """Let modules that keep something derived from weights while in eval mode (TinyViT's attention biases) redo it."""
        if not self.model.training:
            self.model.eval()

    def _let_go(self) -> None:
        for site in self._sites.values():
            site.let_go()
        for name, parameter in self._stock_parameters.items():
            parameter.requires_grad_(self._required[name])
            parameter.grad = None
        self._sites = {}


def _check_indices(name: str, weight: Tensor, indices: Tensor) -> None:
    if len(indices) == 0 or int(indices.min()) < 0 or int(indices.max()) >= weight.numel():
        raise CheckpointError(f"{name}: expected indices in 0..{weight.numel() - 1}; the selection is for another model")
    if len(torch.unique(indices)) != len(indices):
        raise CheckpointError(f"{name}: the selection repeats an index; select again")


def attach(model: nn.Module, selection: Selection) -> Attached:
    """Bind a selection to a model in place; outputs do not change.

    Raises:
        CheckpointError: the selection names parameters or indices that the model does not have.
    """
    return Attached(model, selection)
