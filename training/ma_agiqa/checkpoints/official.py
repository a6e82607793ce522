"""The authors' scorer checkpoints: their tensor names, and which of them feed nothing."""

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ma_agiqa.errors import CheckpointError
from ma_agiqa.networks.exact_loading import load_exactly, name_some
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

_RENAMES = (
    (r"vit\.(cls_token|pos_embed|patch_embed\..+|blocks\..+)", r"maniqa.backbone.vit.\1"),
    (r"tablock([12])\.(\d+)\.c_q\.(.+)", r"maniqa.stage\1.attention.\2.query.\3"),
    (r"tablock([12])\.(\d+)\.c_k\.(.+)", r"maniqa.stage\1.attention.\2.key.\3"),
    (r"tablock([12])\.(\d+)\.c_v\.(.+)", r"maniqa.stage\1.attention.\2.value.\3"),
    (r"conv([12])\.(weight|bias)", r"maniqa.stage\1.reduce.\2"),
    (r"swintransformer([12])\.layers\.(.+)", r"maniqa.stage\1.swin.\2"),
    (r"fc_score\.(.+)", r"maniqa.score_head.\1"),
    (r"fc_weight\.(.+)", r"maniqa.weight_head.\1"),
    (r"fc784_784\.(.+)", r"fusion.quality.\1"),
    (r"fc4096_784_a2\.(.+)", r"fusion.semantic.\1"),
    (r"fc4096_784_b2\.(.+)", r"fusion.coherence.\1"),
    (r"gating\.(.+)", r"fusion.gate.\1"),
    (r"output_fc\.(.+)", r"fusion.regression.\1"),
)

_DEAD = re.compile(
    # layers that their forward pass never reaches
    r"(fc39_784|encoder_layer|fc_output|fc4096_784_[ab]|quality|fc784x3_1|fc4096_1024_[ab])\..+"
    r"|swintransformer[12]\.downsample\..+"
    r"|vit\.(norm|head|fc_norm)\..+"
    # tables that follow from the sizes alone
    r"|.+\.(relative_position_index|attn_mask)"
)
_VIT_BLOCK = re.compile(r"vit\.blocks\.(\d+)\..+")


def read_official(path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Read a `.pt` file without running code from it.

    Raises:
        CheckpointError: missing, damaged, or not a dictionary of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no checkpoint at {path}.") from error
    except Exception as error:  # torch.load raises errors of every kind on a damaged file
        raise CheckpointError(
            f"{path} is not a checkpoint of the authors' code, or is damaged. "
            "Download it again; a file of a few KB is a web page, not the checkpoint. Of a pickled "
            "module save its state_dict()."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, not a dictionary of tensors by name."
        )
    return state


def rename_official(state: Mapping[str, Tensor], num_blocks: int) -> dict[str, Tensor]:
    """Give the tensors that are used their names in `MAAGIQA`.

    Args:
        state: tensors by the authors' names.
        num_blocks: number of ViT blocks that are used; later ones feed nothing.

    Raises:
        CheckpointError: a name that is neither used nor known to feed nothing.
    """
    renamed, unknown = {}, []
    for name, value in state.items():
        block = _VIT_BLOCK.fullmatch(name)
        if _DEAD.fullmatch(name) or (block and int(block[1]) >= num_blocks):
            continue
        for pattern, replacement in _RENAMES:
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, replacement, name)] = value
                break
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"The checkpoint has tensors that the authors' model does not: {name_some(unknown)}."
        )
    return renamed


def load_official(
    source: str | os.PathLike[str] | Mapping[str, Tensor], config: MAAGIQAConfig | None = None
) -> MAAGIQA:
    """Build the scorer from a checkpoint of the authors' code.

    Args:
        source: their `.pt` file, or its tensors by their names.
        config: sizes, if they are not the published ones.

    Returns:
        The scorer in evaluation mode, on the CPU.

    Raises:
        CheckpointError: the file cannot be read, or names or shapes differ; the message lists them.
    """
    state = source if isinstance(source, Mapping) else read_official(source)
    if "fc4096_784_a.weight" in state and "fc4096_784_a2.0.weight" not in state:
        raise CheckpointError(
            "The checkpoint has fc4096_784_a but no fc4096_784_a2: it is from before 2024-09-28, "
            "when both prompts shared one projection. Use the authors' newer checkpoint."
        )
    config = config or MAAGIQAConfig()
    model = MAAGIQA(config)
    load_exactly(model, rename_official(state, num_blocks=max(config.feature_blocks) + 1))
    return model.eval()
