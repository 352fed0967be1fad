"""A SAM in transformers' classes, at the input size that it is used at; and the description of what it expects of a picture.

Sources of the configurations' meaning: huggingface/transformers, models/sam and sam2, configuration_*.py, image_processing_*.py.
"""

from __future__ import annotations

import copy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from gps_seg.errors import ConfigError
from gps_seg.models.names import COPY, SAM, SAM2, SHARED, to_transformers
from gps_seg.models.sam import SamModel
from gps_seg.models.sam2 import Sam2
from gps_seg.models.sam_zoo import MODELS
from gps_seg.models.spec import SamSpec
from gps_seg.packages import import_transformers

BILINEAR = 2  # Pillow's number


def check_class(name: str) -> None:
    """Raises ConfigError: transformers has no SamModel or Sam2Model of this model."""
    if name not in MODELS or MODELS[name].names not in (SAM, SAM2):
        known = [one for one, entry in MODELS.items() if entry.names in (SAM, SAM2) and not one.startswith("tiny")]
        raise ConfigError(f"--transformers: neither SamModel nor Sam2Model of transformers holds {name}, but {', '.join(known)}; "
                          "--merged FILE and --onnx DIR write it for other programs")


def transformers_model(model: SamModel) -> Any:
    """transformers' model with the same weights in eval mode; its first mask is ours, with ``multimask_output=False``.

    Positions are resized once to the model's input size, as they are here in every pass.

    Raises:
        ConfigError: transformers has no such model.
    """
    check_class(model.spec.name)
    return _sam2(model) if isinstance(model, Sam2) else _sam(model)


def _sam(model: SamModel) -> Any:
    transformers = import_transformers()
    encoder: Any = model.image_encoder
    decoder, prompts, block = model.mask_decoder, model.prompt_encoder, encoder.blocks[0]
    width, windows = encoder.neck[0].out_channels, [block.window_size for block in encoder.blocks]
    sizes = {"image_size": model.spec.input_size, "patch_size": model.spec.stride}
    vision = transformers.SamVisionConfig(
        hidden_size=encoder.patch_embed.proj.out_channels, output_channels=width, num_hidden_layers=len(windows),
        num_attention_heads=block.attn.num_heads, window_size=max(windows), num_pos_feats=width // 2,
        global_attn_indexes=[number for number, window in enumerate(windows) if window == 0],
        mlp_dim=block.mlp.lin1.out_features, layer_norm_eps=block.norm1.eps, **sizes,
    )
    prompt = transformers.SamPromptEncoderConfig(
        hidden_size=width, mask_input_channels=prompts.mask_downscaling[3].out_channels, **sizes
    )
    head = decoder.iou_prediction_head.layers
    mask = transformers.SamMaskDecoderConfig(
        hidden_size=width, mlp_dim=decoder.transformer.layers[0].mlp.lin1.out_features,
        num_hidden_layers=len(decoder.transformer.layers), num_attention_heads=decoder.transformer.num_heads,
        num_multimask_outputs=decoder.num_mask_tokens - 1, iou_head_depth=len(head), iou_head_hidden_dim=head[0].out_features,
        layer_norm_eps=decoder.transformer.layers[0].norm1.eps,
    )
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask)
    state = to_transformers(_resized(model), SAM)
    return _filled(transformers.SamModel(config), state | {COPY: state[SHARED]})


def _resized(model: SamModel) -> dict[str, Tensor]:
    """The state with the encoder's places at the model's input size, see ``encode_vit`` and segment-anything's get_rel_pos."""
    state, grid = dict(model.state_dict()), model.spec.input_size // model.spec.stride
    place = "image_encoder.pos_embed"
    if state[place].shape[1] != grid:
        resized = F.interpolate(state[place].permute(0, 3, 1, 2), (grid, grid), mode="bilinear", align_corners=False)
        state[place] = resized.permute(0, 2, 3, 1).contiguous()
    blocks: Any = model.image_encoder.blocks
    for number, block in enumerate(blocks):
        for side in ("h", "w"):
            name = f"image_encoder.blocks.{number}.attn.rel_pos_{side}"
            if block.window_size == 0 and len(state[name]) != 2 * grid - 1:
                state[name] = F.interpolate(state[name].T[None], 2 * grid - 1, mode="linear")[0].T.contiguous()
    return state


def _sam2(model: Sam2) -> Any:
    size, config = model.spec.input_size, copy.deepcopy(model.config)
    config.vision_config.backbone_config.image_size = [size, size]
    config.vision_config.backbone_feature_sizes = [[size // stride] * 2 for stride in (4, 8, 16)]
    config.prompt_encoder_config.image_size = size
    config.mask_decoder_config.dynamic_multimask_via_stability = False  # the first mask always, as it was tuned
    return _filled(import_transformers().Sam2Model(config), to_transformers(model.state_dict(), SAM2))


def _filled(stock: Any, state: dict[str, Tensor]) -> nn.Module:
    stock.load_state_dict(state, strict=True)
    return stock.eval()


def preprocessor(spec: SamSpec) -> dict[str, Any]:
    """preprocessor_config.json: Sam2Processor squashes, SamProcessor pads; neither stretches."""
    size, low = spec.input_size, 4 * spec.input_size // spec.stride
    shared = {"do_convert_rgb": True, "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
              "image_mean": [value / 255 for value in spec.mean], "image_std": [value / 255 for value in spec.std],
              "resample": BILINEAR}
    if spec.resize == "squash":
        return shared | {"image_processor_type": "Sam2ImageProcessor", "processor_class": "Sam2Processor",
                         "size": {"height": size, "width": size}, "mask_size": {"height": low, "width": low}}
    return shared | {"image_processor_type": "SamImageProcessor", "processor_class": "SamProcessor", "do_pad": True,
                     "size": {"longest_edge": size}, "pad_size": {"height": size, "width": size},
                     "mask_size": {"longest_edge": low}, "mask_pad_size": {"height": low, "width": low}}
