"""What a call computed, as labelled data: quantities, their names, dims and labels."""
