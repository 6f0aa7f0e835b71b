"""Scripts that train the weights that ship, one file per trained model."""
