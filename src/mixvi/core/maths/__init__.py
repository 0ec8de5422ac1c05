"""Pure functions and networks on tensors and arrays: no AnnData, no optimiser."""
