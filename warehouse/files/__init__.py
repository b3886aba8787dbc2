"""Files in the lake: locations, recognition, decompression, and the checkpoint of each."""
