"""Generative-inference models of images."""

from mixvi.images.backbones import Backbone
from mixvi.images.generative_inference import GenerativeInference
from mixvi.images.objective import Objective, Step

__all__ = ["Backbone", "GenerativeInference", "Objective", "Step"]
