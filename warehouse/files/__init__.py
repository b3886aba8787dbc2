"""Files in the lake: locations, gzip, and what is loaded of each."""
