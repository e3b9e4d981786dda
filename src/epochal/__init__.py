"""Epochal: which learns more from the same unique tokens, autoregression or diffusion?"""

__version__ = "0.1.0"
