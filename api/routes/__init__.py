"""HTTP: what is asked, what is answered, and how errors are told."""
