"""Generative-inference models of images."""

from mixvi.core.training.steps import Step
from mixvi.images.aim_mpcc import AIMMPCC
from mixvi.images.backbones import Backbone
from mixvi.images.burgess_backbone import BurgessBackbone
from mixvi.images.conditional_mpcc import ConditionalMPCC
from mixvi.images.disentangling_recipes import DisentanglingRecipe, disentangling_recipe
from mixvi.images.generative_inference import GenerativeInference
from mixvi.images.mixmatch_classifier import MixMatchClassifier
from mixvi.images.mpcc import MPCC
from mixvi.images.mpcc_recipes import MPCCRecipe, mpcc_recipe
from mixvi.images.objective import Objective
from mixvi.images.vade import VaDE

__all__ = [
    "AIMMPCC",
    "Backbone",
    "BurgessBackbone",
    "ConditionalMPCC",
    "DisentanglingRecipe",
    "GenerativeInference",
    "MPCC",
    "MPCCRecipe",
    "MixMatchClassifier",
    "Objective",
    "Step",
    "VaDE",
    "disentangling_recipe",
    "mpcc_recipe",
]
