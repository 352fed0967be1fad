"""Deltas in half the bytes: what rounding costs, and that nothing else is lost."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gps_seg.config import GPSConfig
from gps_seg.core.attach import Attached, attach
from gps_seg.core.selection import Selection, fingerprint
from gps_seg.errors import CheckpointError
from gps_seg.files.tensors import read_tensors, write_tensors
from gps_seg.methods import METHODS
from gps_seg.models.sam_zoo import build_sam
from gps_seg.runs.compact import COLUMNS, INDICES, VALUES, columns_of, half, rounding
from gps_seg.runs.delta import load_delta, save_delta
from gps_seg.runs.folder import DELTA_CONFIG, DELTA_FILE

KINDS = [GPSConfig(k=1), GPSConfig(k=4, head="select"), GPSConfig(k=2000, head="freeze"), GPSConfig(level="layer", head="select"),
         GPSConfig(level="network", head="select")]


def tuned(config: GPSConfig, name: str = "tiny_lite") -> tuple[nn.Module, Attached]:
    """A model with values that are nowhere those of the base."""
    model = build_sam(name).eval()

    def magnitude(names: Sequence[str]) -> dict[str, Tensor]:
        return {name: model.get_parameter(name).detach().abs() for name in names}

    attached = attach(model, METHODS["gps"](model, config, magnitude, 0))
    random = torch.Generator().manual_seed(3)
    attached.load({name: value + 0.1 * torch.randn(value.shape, generator=random) for name, value in attached.state().items()})
    return model, attached


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["tiny", "tiny_lite"])
@pytest.mark.parametrize("config", KINDS, ids=["k1", "k4 in the head", "rows shorter than k", "layer", "network"])
def test_a_compact_delta_gives_back_the_rounded_values_and_no_other_place(config: GPSConfig, name: str, tmp_path: Path) -> None:
    _, attached = tuned(config, name)
    save_delta(tmp_path, attached, {}, compact=True)
    again = load_delta(tmp_path, build_sam(name).eval())
    assert again.selection.dense == attached.selection.dense and set(again.selection.sparse) == set(attached.selection.sparse)
    assert all(torch.equal(places, attached.selection.sparse[key]) for key, places in again.selection.sparse.items())
    assert all(torch.equal(value, attached.state()[key].half().float()) for key, value in again.state().items())


def test_merged_equals_attached_and_what_is_written_again_is_the_same_file(tmp_path: Path) -> None:
    _, attached = tuned(GPSConfig(k=4, head="select"))
    save_delta(tmp_path / "one", attached, {}, compact=True)
    fresh = build_sam("tiny_lite").eval()
    again = load_delta(tmp_path / "one", fresh)
    expected = answer(fresh)
    save_delta(tmp_path / "two", again, {}, compact=True)
    again.merge()
    assert torch.equal(answer(fresh), expected)
    assert (tmp_path / "one" / DELTA_FILE).read_bytes() == (tmp_path / "two" / DELTA_FILE).read_bytes()


def test_taken_off_again_the_base_is_as_it_was(tmp_path: Path) -> None:
    _, attached = tuned(GPSConfig())
    save_delta(tmp_path, attached, {}, compact=True)
    fresh = build_sam("tiny_lite").eval()
    load_delta(tmp_path, fresh).unmerge()
    assert fingerprint(fresh) == attached.selection.base


def test_the_file_holds_two_bytes_a_value_and_two_a_place(tmp_path: Path) -> None:
    model, attached = tuned(GPSConfig(k=4, head="select"))
    save_delta(tmp_path, attached, {}, compact=True)
    file = tmp_path / DELTA_FILE
    tensors, metadata = read_tensors(file, "a delta")
    regular = [name for name in attached.selection.sparse if name + COLUMNS in tensors]
    transposed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.ConvTranspose2d)}
    assert set(attached.selection.sparse) - set(regular) == transposed and len(transposed) == 2
    places = {name: len(indices) for name, indices in attached.selection.sparse.items()}
    expected = (2 * sum(value.numel() for value in attached.state().values())
                + sum((4 if name in transposed else 2) * number for name, number in places.items()))
    header = struct.unpack("<Q", file.read_bytes()[:8])[0]
    assert file.stat().st_size == 8 + header + expected
    assert metadata["format"] == "gps-seg delta 2" and json.loads((tmp_path / DELTA_CONFIG).read_text())["format"] == 2
    assert {tensor.dtype for name, tensor in tensors.items() if not name.endswith((COLUMNS, INDICES))} == {torch.float16}


def test_training_keeps_writing_exact_deltas(tmp_path: Path) -> None:
    _, attached = tuned(GPSConfig())
    save_delta(tmp_path, attached, {})
    tensors, metadata = read_tensors(tmp_path / DELTA_FILE, "a delta")
    assert metadata["format"] == "gps-seg delta 1" and not any(name.endswith(COLUMNS) for name in tensors)
    again = load_delta(tmp_path, build_sam("tiny_lite"))
    assert all(torch.equal(value, attached.state()[name]) for name, value in again.state().items())


@pytest.mark.parametrize(("shape", "places"), [
    ((2, 4), [0, 1, 2]), ((2, 4), [0, 1]), ((2, 4), [1, 2, 3, 4]), ((1, 40_000), [39_999]), ((3, 4), [0, 8]),
])
def test_rows_that_differ_or_are_too_wide_keep_flat_places(shape: tuple[int, ...], places: list[int]) -> None:
    assert columns_of(torch.tensor(places), torch.Size(shape)) is None


def test_the_last_column_that_16_bits_can_name_is_named() -> None:
    found = columns_of(torch.tensor([32_767, 32_768 + 5]), torch.Size([2, 32_768]))
    assert found is not None and found.tolist() == [[32_767], [5]]


def test_rounding_says_the_largest_relative_and_absolute_difference() -> None:
    found = rounding({"a": torch.tensor([1.0, 1 + 2**-12, 0.0]), "b": torch.tensor([[1000.3], [1e-7]])})
    assert found.absolute == pytest.approx(abs(float(torch.tensor(1000.3).half()) - 1000.3), rel=1e-3)
    assert found.relative == pytest.approx(2**-12, rel=1e-3) and (found.small, found.values) == (1, 5)
    assert rounding({"a": torch.tensor([0.5, 0.0])}) == rounding({"b": torch.tensor([2.0, 4.0])})


@pytest.mark.parametrize("value", [1e5, float("nan"), float("-inf")])
def test_a_value_that_16_bits_cannot_hold_is_an_error_and_nothing_is_written(value: float, tmp_path: Path) -> None:
    _, attached = tuned(GPSConfig())
    state = attached.state()
    name = next(iter(state))
    state[name].flatten()[0] = value
    with pytest.raises(CheckpointError, match=r"expected values that 16 bits can hold \(up to 65504\), got"):
        save_delta(tmp_path, attached, {}, state, compact=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        half(name, state[name])


def test_columns_of_another_model_and_a_format_of_later_are_refused(tmp_path: Path) -> None:
    _, attached = tuned(GPSConfig())
    save_delta(tmp_path, attached, {}, compact=True)
    tensors, metadata = read_tensors(tmp_path / DELTA_FILE, "a delta")
    name = next(name for name in tensors if name.endswith(COLUMNS))
    write_tensors(tmp_path / DELTA_FILE, {**tensors, name: tensors[name] + 30_000}, metadata)
    with pytest.raises(CheckpointError, match="expected columns of .* the delta is for another model"):
        load_delta(tmp_path, build_sam("tiny_lite"))
    foreign = {"none.weight" + COLUMNS: tensors[name], "none.weight" + VALUES: tensors[name].clone()}
    write_tensors(tmp_path / DELTA_FILE, foreign, metadata)
    with pytest.raises(CheckpointError, match=r"the delta names none.weight, which the model lacks"):
        load_delta(tmp_path, build_sam("tiny_lite"))
    write_tensors(tmp_path / DELTA_FILE, tensors, metadata | {"format": "gps-seg delta 9"})
    with pytest.raises(CheckpointError, match="expected gps-seg delta 1 or gps-seg delta 2, got 'gps-seg delta 9': a newer"):
        load_delta(tmp_path, build_sam("tiny_lite"))


def test_a_selection_of_single_connections_is_written_flat(tmp_path: Path) -> None:
    model = build_sam("tiny")
    name = next(name for name, parameter in model.named_parameters() if parameter.ndim == 2 and name.startswith("image_encoder."))
    attached = attach(model, Selection({name: torch.tensor([3, 7])}, {}, fingerprint(model)))
    save_delta(tmp_path, attached, {}, compact=True)
    assert set(read_tensors(tmp_path / DELTA_FILE, "a delta")[0]) == {name + INDICES, name + VALUES}
    assert load_delta(tmp_path, build_sam("tiny")).selection.sparse[name].tolist() == [3, 7]
