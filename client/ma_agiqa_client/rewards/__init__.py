"""Rewards for the training of image generators, from a served MA-AGIQA.

| trainer | what it uses |
| --- | --- |
| ddpo-pytorch, flow_grpo | `ma_agiqa_score`: `factory(device) -> fn(images, prompts, metadata)` |
| TRL's former DDPOTrainer | `ddpo_trainer_reward()`: `fn(images, prompts, metadata)` |
| verl-omni | `compute_score`, asynchronous, one image per call |
| any trainer that asks a reward server | `python -m ma_agiqa_client.rewards` |

A reward is `Score.normalized`: the predicted MOS on 0-1, higher is better. Prompts and metadata are
ignored, because MA-AGIQA does not use them: combine it with a reward that compares the image with
its prompt, such as `alignment` of the reward server.

An image without a score is an error, unless a `fallback` reward is given; it is never silently 0.
The fallback is used for images that cannot be scored and for a server that is not available, and
each use is logged. A refused token, another model or latents instead of pixels remain errors.

Importing this package does not import torch.
"""

from ma_agiqa_client.rewards._batch import default_urls
from ma_agiqa_client.rewards._callables import ddpo_trainer_reward, ma_agiqa_score
from ma_agiqa_client.rewards._guard import Guard
from ma_agiqa_client.rewards._verl_omni import compute_score

__all__ = ["Guard", "compute_score", "ddpo_trainer_reward", "default_urls", "ma_agiqa_score"]
