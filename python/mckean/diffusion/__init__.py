"""Samplers driven by a denoiser."""

__all__: list[str] = []
