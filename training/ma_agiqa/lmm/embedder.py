"""Prompt embeddings of the frozen LMM (paper §3.2, Eq. 3), the efficient way.

The image comes after the question, so the tokens before it never see the image: their keys,
values and last hidden states are constants of the prompt and are computed once. Per image there
is one vision pass, and the image's tokens and the prompt's end run for all prompts as one batch.
"""

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ma_agiqa.lmm.cuda_graphs import BatchGraphs
from ma_agiqa.lmm.mplug_owl2 import MPlugOwl2Model
from ma_agiqa.lmm.mplug_owl2.decoder import KeyValues, Segment
from ma_agiqa.networks.precision import exact_float32

logger = logging.getLogger(__name__)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# "USER: {question}\n<|image|> ASSISTANT:" under the LLaMA-2 tokenizer; -200 marks the image.
_USER = (1, 3148, 1001, 29901, 382, 4387, 403)
_ASSISTANT = (29889, 13, -200, 29871, 319, 1799, 9047, 13566, 29901)
PROMPTS: Mapping[str, tuple[int, ...]] = {
    # Evaluate the input image to determine if its quality is compromised due to a lack of
    # meaningful semantic content.
    "semantic": (
        *_USER, 278, 1881, 1967, 304, 8161, 565, 967, 11029, 338, 19632, 3368, 2861, 304, 263,
        10225, 310, 6593, 1319, 28837, 2793, *_ASSISTANT,
    ),
    # Evaluate if the image quality is compromised due to violations of coherence.
    "coherence": (
        *_USER, 565, 278, 1967, 11029, 338, 19632, 3368, 2861, 304, 5537, 800, 310, 16165, 261,
        663, *_ASSISTANT,
    ),
}  # fmt: skip
"""The paper's two prompts, as token ids of `MAGAer13/mplug-owl2-llama2-7b`."""


class PromptEmbedder:
    """Images to one embedding per prompt: the mean of the last hidden states over all positions.

    Args:
        model: mPLUG-Owl2, on its device and in its dtype; it is used frozen.
        prompts: token ids by name, each with the image (-200) once.

    Raises:
        ConfigError: a prompt without the image, or with several.
    """

    @torch.no_grad()  # not inference_mode: gradients with respect to pixels need the constants
    @exact_float32()  # also what is recorded
    def __init__(
        self, model: MPlugOwl2Model, prompts: Mapping[str, Sequence[int]] = PROMPTS
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        device = model.device
        self._ids = {name: tuple(ids) for name, ids in prompts.items()}
        before, after = zip(*map(model.split_prompt, self._ids.values()), strict=True)
        self._prefix_lengths = [len(ids) for ids in before]
        self._suffix_lengths = [len(ids) for ids in after]
        lengths = [len(ids) - 1 + model.config.num_image_tokens for ids in self._ids.values()]
        self._lengths = torch.tensor(lengths).to(device)[:, None, None]
        self._mean, self._std = (torch.tensor(one).to(device) for one in (CLIP_MEAN, CLIP_STD))
        self._past, self._prefix_sum = self._run_prefixes(before)
        self._suffix = self._embed_suffixes(after)  # (P, longest suffix, hidden)
        self._positions, self._mask, self._counted = self._lay_out()
        self._graphs = None
        if device.type == "cuda":
            # PyTorch would use cuDNN's attention for some batch sizes and not for others.
            torch.backends.cuda.enable_cudnn_sdp(False)
            self._graphs = BatchGraphs(self._embed, self.image_size, device)

    @property
    def image_size(self) -> int:
        """Side of the semantic view in pixels."""
        return self.model.config.vision.image_size

    @property
    def hidden_size(self) -> int:
        """Width of an embedding."""
        return self.model.config.hidden_size

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Embed a batch of images.

        Args:
            images: uint8 views (B, S, S, 3), RGB; or pixel values normalized with CLIP's mean and
                standard deviation (B, 3, S, S). On any device.

        Returns:
            For every prompt, float32 (B, hidden) on the model's device. An image's embeddings do
            not depend on the others in its batch except for rounding: the batch size sets the
            order of sums.
        """
        if self._graphs is not None and images.dtype == torch.uint8:
            embeddings = self._graphs(images)
        else:
            embeddings = self._embed(images)
        return dict(zip(self._ids, embeddings, strict=True))

    @torch.inference_mode()
    def with_tokens(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Embed a batch as `__call__` does, without CUDA graphs; keep the images' tokens.

        Returns:
            The embeddings, and the language model's tokens of the images, (B, queries + 1, hidden),
            as `MPlugOwl2Model.encode_images` gives them.
        """
        tokens = self.model.encode_images(self.pixels(images))
        return dict(zip(self._ids, self._embed_tokens(tokens), strict=True)), tokens

    def embed_pixels(self, pixels: Tensor) -> dict[str, Tensor]:
        """Embed a batch of images, differentiably with respect to their pixels.

        Args:
            pixels: RGB in 0-1, float (B, 3, S, S), on the model's device. With fp8 weights there
                is no gradient.

        Returns:
            As `__call__`, but in float64 if the model is.
        """
        mean, std = self._mean[:, None, None], self._std[:, None, None]
        normalized = ((pixels - mean) / std).to(self.model.dtype)
        return dict(zip(self._ids, self._embed_normalized(normalized), strict=True))

    def _embed(self, images: Tensor) -> Tensor:
        """Embed images as `__call__` takes them: float32 (P, B, hidden)."""
        return self._embed_normalized(self.pixels(images))

    def _embed_normalized(self, pixels: Tensor) -> Tensor:
        """Embed the model's input (B, 3, S, S): float32 (P, B, hidden)."""
        return self._embed_tokens(self.model.encode_images(pixels))

    def _embed_tokens(self, tokens: Tensor) -> Tensor:
        """Embed images by their tokens (B, I, hidden): float32 (P, B, hidden)."""
        prompts, batch = len(self._ids), len(tokens)
        sequence = torch.cat(
            [
                tokens.expand(prompts, -1, -1, -1),
                self._suffix[:, None].expand(-1, batch, -1, -1),
            ],
            dim=2,
        ).flatten(0, 1)  # (P * B, I + suffix, hidden), prompt by prompt
        hidden = self.model.decode(
            sequence,
            Segment(0, tokens.shape[1]),
            self._positions.repeat_interleave(batch, dim=0),
            self._mask.repeat_interleave(batch, dim=0),
            self._past,
        )
        counted = self._counted[:, None, :, None]  # (P, 1, I + suffix, 1)
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        sums = (hidden.unflatten(0, (prompts, batch)) * counted).sum(dim=2)
        return (self._prefix_sum[:, None] + sums) / self._lengths

    @torch.inference_mode()
    def full_sequence(self, images: Tensor) -> dict[str, Tensor]:
        """Embed as `__call__` does, by one plain pass over each prompt's whole sequence."""
        pixels = self.pixels(images)
        return {
            name: self.model(pixels, ids).float().mean(dim=1) for name, ids in self._ids.items()
        }

    def pixels(self, images: Tensor) -> Tensor:
        """Normalize images, as `__call__` takes them, to the model's input: (B, 3, S, S)."""
        images = images.to(self.model.device)
        if images.dtype == torch.uint8:
            images = (images.float() / 255 - self._mean) / self._std
            images = images.permute(0, 3, 1, 2)
        return images.to(self.model.dtype)

    def _run_prefixes(self, prefixes: Sequence[Tensor]) -> tuple[KeyValues, Tensor]:
        """Run each prompt's beginning; pad keys and values on the left to one length."""
        longest = max(self._prefix_lengths)
        padded: list[KeyValues] = []
        sums = []
        for ids in prefixes:
            positions = torch.arange(len(ids), device=ids.device)[None, None]
            embeddings = self.model.embed_tokens(ids)[None]
            past: KeyValues = []
            end = Segment(len(ids), len(ids))
            hidden = self.model.decode(embeddings, end, positions, presents=past)
            sums.append(hidden[0].float().sum(dim=0))
            pad = (0, 0, longest - len(ids), 0)
            padded.append([(F.pad(keys, pad), F.pad(values, pad)) for keys, values in past])
        past = []
        for layer in zip(*padded, strict=True):
            keys, values = zip(*layer, strict=True)
            past.append((torch.cat(keys), torch.cat(values)))  # (P, kv_heads, longest, head_dim)
        return past, torch.stack(sums)  # (P, hidden)

    def _embed_suffixes(self, suffixes: Sequence[Tensor]) -> Tensor:
        """Embed each prompt's end, padded on the right, where causality hides the padding."""
        embedded = [self.model.embed_tokens(ids) for ids in suffixes]
        return torch.nn.utils.rnn.pad_sequence(embedded, batch_first=True)

    def _lay_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """Make positions (P, 1, T), visible keys (P, 1, T, past + T) and counted ones (P, T)."""
        device = self._prefix_sum.device
        image_tokens, longest = self.model.config.num_image_tokens, max(self._prefix_lengths)
        steps = torch.arange(image_tokens + self._suffix.shape[1], device=device)
        prefix = torch.tensor(self._prefix_lengths).to(device)
        suffix = torch.tensor(self._suffix_lengths).to(device)
        real_past = torch.arange(longest, device=device) >= longest - prefix[:, None]  # (P, past)
        causal = steps[:, None] >= steps
        mask = torch.cat(
            [
                real_past[:, None, :].expand(-1, len(steps), -1),
                causal.expand(len(prefix), -1, -1),
            ],
            dim=2,
        )
        counted = steps < image_tokens + suffix[:, None]
        return (prefix[:, None] + steps)[:, None], mask[:, None], counted
