"""How many cells of each kind the data sets of cells have; loaders check them."""

from __future__ import annotations

PBMC3K_TYPES = {
    "CD4 T cells": 1144,
    "CD14+ Monocytes": 480,
    "B cells": 342,
    "CD8 T cells": 316,
    "NK cells": 154,
    "FCGR3A+ Monocytes": 150,
    "Dendritic cells": 37,
    "Megakaryocytes": 15,
}
KANG_SHAPES = {
    "both_1556": (1556, 1267),
    "both_2000": (2000, 9015),
    "control_12261": (12261, 1287),
}
KANG_COUNTS = {
    "both_1556": {
        "condition": {"ctrl": 750, "stim": 806},
        "cell_type": {
            "CD14+ Monocytes": 400,
            "CD4 T cells": 400,
            "B cells": 298,
            "FCGR3A+ Monocytes": 249,
            "CD8 T cells": 209,
        },
    },
    "both_2000": {
        "condition": {"ctrl": 1000, "stim": 1000},
        "cell_type": {
            "unknown": 987,
            "CD4 T cells": 437,
            "CD14+ Monocytes": 223,
            "B cells": 119,
            "CD8 T cells": 79,
            "FCGR3A+ Monocytes": 65,
            "NK cells": 58,
            "Dendritic cells": 25,
            "Megakaryocytes": 7,
        },
    },
    "control_12261": {
        "condition": {"ctrl": 12261},
        "cell_type": {
            "CD4 T cells": 5154,
            "CD14+ Monocytes": 2770,
            "B cells": 1306,
            "CD8 T cells": 1082,
            "NK cells": 915,
            "FCGR3A+ Monocytes": 736,
            "Dendritic cells": 203,
            "Megakaryocytes": 95,
        },
    },
}
PBMC68K_TYPES = {
    "Dendritic": 240,
    "CD14+ Monocyte": 129,
    "CD19+ B": 95,
    "CD4+/CD25 T Reg": 68,
    "CD8+ Cytotoxic T": 54,
    "CD8+/CD45RA+ Naive Cytotoxic": 43,
    "CD56+ NK": 31,
    "CD4+/CD45RO+ Memory": 19,
    "CD34+": 13,
    "CD4+/CD45RA+/CD25- Naive T": 8,
}
SORTED_POPULATIONS = {
    "nk": 769,
    "bcells": 330,
    "memoryt": 252,
    "regulatoryt": 226,
    "thelper": 191,
    "cytotoxict": 148,
    "monocytes": 129,
    "naivet": 52,
    "naivecytotoxic": 43,
}
TARGETS = {
    "non-targeting": 2386,
    "IFNGR1": 1341,
    "IFNGR2": 1213,
    "CD86": 1197,
    "ATF2": 1102,
    "IRF1": 1073,
    "JAK2": 1024,
    "MARCH8": 1003,
    "TNFRSF14": 964,
    "CAV1": 882,
    "ETV7": 841,
    "CMTM6": 817,
    "NFKBIA": 787,
    "POU2F2": 662,
    "STAT2": 661,
    "SMAD4": 659,
    "STAT5A": 659,
    "PDCD1LG2": 617,
    "IRF7": 614,
    "UBE2L6": 518,
    "STAT3": 493,
    "STAT1": 444,
    "BRD4": 341,
    "CUL3": 274,
    "MYC": 109,
    "SPI1": 48,
}
STIMULI = {"LPS": 405, "PIC": 264, "PAM": 250, "none": 140}
