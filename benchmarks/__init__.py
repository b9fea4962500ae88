"""How fast the network is: our training step and our network call against diffusers' UNet2DModel, on the same work.

``python -m benchmarks [--json] [--quick] [--channels 64 128]``; what is measured is told in ``work``, by whom and in
which order in ``measure``.
"""
