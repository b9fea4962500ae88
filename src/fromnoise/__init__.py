"""fromnoise: denoising diffusion probabilistic models, from a folder of pictures to a trained generator.

>>> import fromnoise
>>> run = fromnoise.open("runs/demo")            # doctest: +SKIP
>>> images = run.sample(16, seed=0)              # doctest: +SKIP
>>> images.shape, images.dtype                   # doctest: +SKIP
((16, 8, 8, 1), dtype('uint8'))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fromnoise.run import Run as Run
    from fromnoise.run import open_run as open

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "open"]


def __getattr__(name: str) -> Any:
    """``open`` and ``Run`` are looked up when first used, so that importing the package does not import torch."""
    if name in {"open", "Run"}:
        from fromnoise import run

        return run.open_run if name == "open" else run.Run
    raise AttributeError(f"module 'fromnoise' has no attribute {name!r}")
