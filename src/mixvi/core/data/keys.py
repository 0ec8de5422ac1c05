"""Registry keys of mixvi beside scvi-tools' own."""

CONDITION_KEY = "condition"
SOFT_LABELS_KEY = "soft_labels"
COMPONENTS_KEY = "components"

PREDICTION_KEY = "mixvi_prediction"
"""``uns`` key of predicted cells: the model, the layer it reads and the scale of the values."""

UNLABELLED = -1
"""Code of a pixel nobody labelled: it may be given a pseudo-label."""
VOID = -2
"""Code of a pixel that is not to be evaluated: never a target, never scored."""
