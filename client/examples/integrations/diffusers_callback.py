"""Scores what a diffusers pipeline draws, while it draws.

    watch = ScoreSteps(Scorer("localhost:8001"), every=5)
    image = pipe(prompt, callback_on_step_end=watch).images[0]
    print(watch.scores)  # [(5, 1.93), (10, 2.71), ...]: step and MOS of the first image

Each look costs a decoding of the latents and a score. With `stop_below`, a picture that is still
worse than that in the second half is given up: the pipeline ends early, and returns what it has.
"""

from ma_agiqa_client import Scorer


class ScoreSteps:
    """A `callback_on_step_end` of pipelines with a VAE, such as Stable Diffusion.

    Attributes:
        scores: step, counted from 1, and MOS, of every look.
    """

    def __init__(self, scorer: Scorer, *, every: int = 5, stop_below: float | None = None) -> None:
        self._scorer = scorer
        self._every = every
        self._stop_below = stop_below
        self.scores: list[tuple[int, float]] = []

    def __call__(self, pipe, step, timestep, callback_kwargs):
        if (step + 1) % self._every == 0:
            mos = self._scorer.score(self._picture(pipe, callback_kwargs["latents"])).mos
            self.scores.append((step + 1, mos))
            late = step + 1 >= pipe.num_timesteps / 2
            if self._stop_below is not None and late and mos < self._stop_below:
                pipe._interrupt = True  # as diffusers documents it for callbacks
        return callback_kwargs

    def _picture(self, pipe, latents):
        """Decode the first image: a tensor (3, height, width) in 0-1."""
        config = pipe.vae.config
        scaled = latents[:1] / config.scaling_factor + (getattr(config, "shift_factor", None) or 0)
        decoded = pipe.vae.decode(scaled.to(pipe.vae.dtype), return_dict=False)[0]
        return pipe.image_processor.postprocess(decoded.detach(), output_type="pt")[0]
