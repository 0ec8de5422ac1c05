"""Series of satellite images: land cover, and what clouds hide."""
