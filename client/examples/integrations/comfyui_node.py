"""A ComfyUI node: scores a batch, passes on the best picture, and shows the scores.

Copy this file to ComfyUI's folder custom_nodes, install the client into its Python
(pip install ./client), and start a server (make serve). Its category is "image/quality".
"""

from functools import cache

from ma_agiqa_client import Scorer

connect = cache(Scorer)  # one connection for each address


class ScoreImages:
    """Pictures in; the best picture, its MOS, and a line for each picture out."""

    CATEGORY = "image/quality"
    FUNCTION = "score"
    RETURN_TYPES = ("IMAGE", "FLOAT", "STRING")
    RETURN_NAMES = ("best", "mos", "scores")

    @classmethod
    def INPUT_TYPES(cls):
        """Say what the node takes, as ComfyUI asks it."""
        return {
            "required": {
                "images": ("IMAGE",),
                "url": ("STRING", {"default": "localhost:8001"}),
            }
        }

    def score(self, images, url):
        """Score a tensor (n, height, width, 3) in 0-1. An image without a score is an error."""
        scores = []
        for outcome in connect(url).score_many(images.cpu().numpy()):
            if outcome.error:
                raise outcome.error
            scores.append(outcome.mos)
        best = max(range(len(scores)), key=scores.__getitem__)
        lines = "\n".join(f"{number}: {mos:.2f}" for number, mos in enumerate(scores))
        return images[best : best + 1], scores[best], lines


NODE_CLASS_MAPPINGS = {"MaAgiqaScore": ScoreImages}
NODE_DISPLAY_NAME_MAPPINGS = {"MaAgiqaScore": "Image quality (MA-AGIQA)"}
