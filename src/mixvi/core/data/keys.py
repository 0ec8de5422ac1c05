"""Registry keys of mixvi beside scvi-tools' own."""

CONDITION_KEY = "condition"
SOFT_LABELS_KEY = "soft_labels"
COMPONENTS_KEY = "components"
