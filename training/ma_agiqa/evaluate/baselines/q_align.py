"""Q-Align (https://arxiv.org/abs/2312.17090): a rating by the words of a language model.

Q-Align is mPLUG-Owl2 with its language head, trained to end "The quality of the image is" with one
of five words. The score is the mean of 5..1, weighted by the probabilities of the words. pyiqa's
copy of mPLUG-Owl2 does not run with the transformers that we need, so ours is used.
"""

from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor, nn

from ma_agiqa.errors import CheckpointError, DownloadError, MAAGIQAError
from ma_agiqa.images.views import RGB, semantic_view
from ma_agiqa.lmm.embedder import CLIP_MEAN, CLIP_STD
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Config, MPlugOwl2Model

QALIGN_REPO = "q-future/one-align"
"""The published weights on the Hugging Face hub (16 GB)."""

# Under the LLaMA-2 tokenizer; -200 marks the image.
# USER: How would you rate the quality of this image?\n<|image|>
# \nASSISTANT: The quality of the image is
_PROMPT = (
    1, 3148, 1001, 29901, 1128, 723, 366, 6554, 278, 11029, 310, 445, 1967, 29973, 13, -200,
    29871, 13, 22933, 9047, 13566, 29901, 450, 11029, 310, 278, 1967, 338,
)  # fmt: skip
# excellent, good, fair, poor, bad
_LEVELS = (15129, 1781, 6534, 6460, 4319)
_VALUES = (5.0, 4.0, 3.0, 2.0, 1.0)


class QAlign(MPlugOwl2Model):
    """mPLUG-Owl2 with its language head."""

    _keys_to_ignore_on_load_unexpected = [r".*rotary_emb\..*"]  # noqa: RUF012 (as in the base)

    def __init__(self, config: MPlugOwl2Config) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.inference_mode()
    def rate(self, pixel_values: Tensor) -> Tensor:
        """Map images (B, 3, S, S), normalized with CLIP's mean and deviation, to scores (B,)."""
        ids = torch.tensor(_PROMPT, device=self.device)
        last = self(pixel_values.to(self.device, self.dtype), ids)[:, -1]  # (B, hidden)
        words = self.lm_head(last)[:, list(_LEVELS)].float()
        return words.softmax(dim=1) @ torch.tensor(_VALUES, device=self.device)


class QAlignScorer:
    """Q-Align with its published weights, 1 (bad) to 5 (excellent).

    Args:
        device: where it runs; in float16 on a GPU, as published, else in bfloat16.
        download: fetch the weights if they are not in the hub's cache.

    Raises:
        DownloadError: the weights are not there, or could not be fetched.
        CheckpointError: they do not fit.
    """

    def __init__(self, device: str, download: bool) -> None:
        dtype = torch.bfloat16 if device == "cpu" else torch.float16
        folder = _weights(download)
        try:
            model: Any = QAlign.from_pretrained(folder, dtype=dtype)
            self._model = model.to(device)
        except MAAGIQAError:
            raise
        except Exception as error:  # the disk and the parsers raise errors of every kind
            raise CheckpointError(f"Q-Align could not be loaded from {folder}: {error}") from error
        self._mean, self._std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        self.origin = f"{QALIGN_REPO} on our mPLUG-Owl2"

    def score(self, rgb: RGB) -> float:
        """Rate an image, uint8 (H, W, 3)."""
        view = semantic_view(rgb, self._model.config.vision.image_size)
        pixels = torch.from_numpy(view).permute(2, 0, 1).float() / 255
        return float(self._model.rate(((pixels - self._mean) / self._std)[None])[0])


def _weights(download: bool) -> str:
    by_hand = f"fetch them where there is a network, with `hf download {QALIGN_REPO}`"
    try:
        return snapshot_download(QALIGN_REPO, local_files_only=not download)
    except LocalEntryNotFoundError as error:
        raise DownloadError(
            f"Q-Align needs the weights {QALIGN_REPO} (16 GB), which are not in the cache of the "
            f"Hugging Face hub: {by_hand}, or give --download."
        ) from error
    except (OSError, HfHubHTTPError) as error:
        raise DownloadError(
            f"Q-Align's weights could not be fetched ({error}): {by_hand}."
        ) from error
