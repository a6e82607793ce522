"""Rewards for the training of image generators, by a served MA-AGIQA.

| trainer | what it takes |
| --- | --- |
| ddpo-pytorch, flow_grpo | `ma_agiqa_score`: `factory(device) -> fn(images, prompts, metadata)` |
| TRL's former DDPOTrainer | `ddpo_trainer_reward()`: `fn(images, prompts, metadata)` |
| verl-omni | `compute_score`, asynchronous, one image a call |
| any that asks a reward server | `python -m ma_agiqa_client.rewards` |

A reward is `Score.normalized`: the predicted MOS on 0-1, higher is better. Prompts and metadata are
not looked at, because MA-AGIQA does not: whether an image shows what it should is for another
reward to say.

An image without a score is an error, unless a `fallback` reward is given; it is never silently 0.
The fallback stands for images that cannot be scored and for a server that is gone, and each use is
logged. A wrong address, a refused token, another model or latents instead of pixels stay errors.

Importing this loads no torch.
"""

from ma_agiqa_client.rewards._batch import default_urls
from ma_agiqa_client.rewards._callables import ddpo_trainer_reward, ma_agiqa_score
from ma_agiqa_client.rewards._verl_omni import compute_score

__all__ = ["compute_score", "ddpo_trainer_reward", "default_urls", "ma_agiqa_score"]
