"""What all rooms share; knows no room."""
